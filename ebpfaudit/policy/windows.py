"""Sliding windows: has something happened more than so many times within so long?

Memory is bounded whatever an episode does (`policy.bounds`): a window keeps at most `over` + 1 entries, the
latest.
"""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import blake2b

from ebpfaudit.policy.bounds import LONGEST_COUNTED, MAX_ENTRIES
from ebpfaudit.policy.keyed import Keyed
from ebpfaudit.profiles.schema import Count


class _Window:
    __slots__ = ("fired_ns", "last_ns")

    def __init__(self) -> None:
        self.last_ns: dict[Hashable, int] = {}
        """When each value was last met, in that order, the oldest first."""
        self.fired_ns: int | None = None


class Windows(Keyed[_Window]):
    """The windows of one count, one per key (a process, a tree, a step, or the episode)."""

    def __init__(self, count: Count) -> None:
        super().__init__()
        self._over = count.over
        self._within_ns = count.within_ns
        self._distinct = bool(count.distinct)
        self._serial = 0
        self._held = 0
        self._most = max(MAX_ENTRIES, count.over + 1)

    @property
    def entries(self) -> int:
        return self._held

    def exceeded(self, key: Hashable, ts_ns: int, value: Hashable) -> bool:
        """Enter `value`. True if there are now more than `over`; then not again for a window's length."""
        window = self._enter(key, ts_ns, value)
        if len(window.last_ns) <= self._over:
            return False
        if window.fired_ns is not None and 0 <= ts_ns - window.fired_ns < self._within_ns:
            return False
        window.fired_ns = ts_ns
        return True

    def above(self, key: Hashable, ts_ns: int, value: Hashable) -> bool:
        """Enter `value`. True whenever there are now more than `over`."""
        return len(self._enter(key, ts_ns, value).last_ns) > self._over

    def reached(self, key: Hashable, ts_ns: int) -> int:
        """How many would count at `ts_ns`, without entering anything."""
        window = self._by_key.get(key)
        if window is None:
            return 0
        return sum(last >= ts_ns - self._within_ns for last in window.last_ns.values())

    def quiet(self, key: Hashable, ts_ns: int) -> bool:
        """It has fired within the last window's length."""
        window = self._by_key.get(key)
        fired_ns = window.fired_ns if window is not None else None
        return fired_ns is not None and 0 <= ts_ns - fired_ns < self._within_ns

    def _enter(self, key: Hashable, ts_ns: int, value: Hashable) -> _Window:
        window = self._touch(key)
        last_ns = window.last_ns
        before = len(last_ns)
        if self._distinct:
            if value.__class__ is not int:
                value = compact(value)
        else:
            self._serial += 1
            value = self._serial
        last_ns.pop(value, None)
        last_ns[value] = ts_ns
        horizon = ts_ns - self._within_ns
        while len(last_ns) > self._over + 1 or last_ns[next(iter(last_ns))] < horizon:
            del last_ns[next(iter(last_ns))]
        self._held += len(last_ns) - before
        while self._held > self._most:
            self.drop(next(iter(self._by_key)))
        return window

    def _make(self) -> _Window:
        return _Window()

    def _size(self, entry: _Window) -> int:
        return len(entry.last_ns)

    def _dropped(self, entry: _Window) -> None:
        self._held -= len(entry.last_ns)


def compact(value: Hashable) -> Hashable:
    """Stands for a value in a count of distinct ones; of few bytes, however long the value."""
    if isinstance(value, tuple):
        value = "\0".join(value)
    if isinstance(value, str) and len(value) > LONGEST_COUNTED:
        return blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return value
