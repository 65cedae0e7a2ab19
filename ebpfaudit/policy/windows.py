"""Sliding windows: has something happened more than so many times within so long?

Memory is bounded whatever an episode does: a window keeps at most `over` + 1 entries, the latest, and a
rule at most `MAX_KEYS` windows; the one longest untouched makes room.
"""

from __future__ import annotations

from collections.abc import Hashable

from ebpfaudit.profiles.schema import Count

MAX_KEYS = 1024


class _Window:
    __slots__ = ("fired_ns", "last_ns")

    def __init__(self) -> None:
        self.last_ns: dict[Hashable, int] = {}
        """When each value was last met, in that order, the oldest first."""
        self.fired_ns: int | None = None


class Windows:
    """The windows of one rule, one per key (a process, a tree, a step, or the episode)."""

    def __init__(self, count: Count) -> None:
        self._over = count.over
        self._within_ns = count.within_ns
        self._distinct = bool(count.distinct)
        self._serial = 0
        self._by_key: dict[Hashable, _Window] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def entries(self) -> int:
        """How many entries are held in all."""
        return sum(len(window.last_ns) for window in self._by_key.values())

    def exceeded(self, key: Hashable, ts_ns: int, value: Hashable) -> bool:
        """Enter `value`. True if there are now more than `over`; then not again for a window's length."""
        window = self._by_key.pop(key, None)
        if window is None:
            window = _Window()
            if len(self._by_key) >= MAX_KEYS:
                del self._by_key[next(iter(self._by_key))]
        self._by_key[key] = window
        last_ns = window.last_ns
        if not self._distinct:
            self._serial += 1
            value = self._serial
        last_ns.pop(value, None)
        last_ns[value] = ts_ns
        horizon = ts_ns - self._within_ns
        while len(last_ns) > self._over + 1 or last_ns[next(iter(last_ns))] < horizon:
            del last_ns[next(iter(last_ns))]
        if len(last_ns) <= self._over:
            return False
        if window.fired_ns is not None and 0 <= ts_ns - window.fired_ns < self._within_ns:
            return False
        window.fired_ns = ts_ns
        return True

    def drop(self, key: Hashable) -> None:
        self._by_key.pop(key, None)

    def clear(self) -> None:
        self._by_key.clear()
