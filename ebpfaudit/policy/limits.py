"""At most so many verdicts of a rule within so long. What is left out is counted, never forgotten."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from ebpfaudit.policy.keyed import Keyed
from ebpfaudit.profiles.schema import Limit


class _Allowance:
    __slots__ = ("given_ns", "suppressed")

    def __init__(self) -> None:
        self.given_ns: deque[int] = deque()
        self.suppressed = 0


class Limits(Keyed[_Allowance]):
    """One rule's limit, per key (a process, a tree, a step, or the episode)."""

    def __init__(self, limit: Limit) -> None:
        super().__init__()
        self._to = limit.to
        self._within_ns = limit.within_ns
        self._of_dropped = 0

    def admit(self, key: Hashable, ts_ns: int) -> int | None:
        """None: this one is left out. Else how many have been since the last one that was given."""
        allowance = self._touch(key)
        given_ns = allowance.given_ns
        while given_ns and given_ns[0] < ts_ns - self._within_ns:
            given_ns.popleft()
        if len(given_ns) >= self._to:
            allowance.suppressed += 1
            return None
        given_ns.append(ts_ns)
        suppressed, allowance.suppressed = allowance.suppressed, 0
        return suppressed

    def given(self, key: Hashable, ts_ns: int) -> int:
        """How many were given in the window up to `ts_ns`."""
        allowance = self._by_key.get(key)
        return sum(given >= ts_ns - self._within_ns for given in allowance.given_ns) if allowance else 0

    @property
    def unsaid(self) -> int:
        """How many were left out that no later verdict has told of."""
        return self._of_dropped + sum(allowance.suppressed for allowance in self._by_key.values())

    def _make(self) -> _Allowance:
        return _Allowance()

    def _size(self, entry: _Allowance) -> int:
        return len(entry.given_ns)

    def _dropped(self, entry: _Allowance) -> None:
        self._of_dropped += entry.suppressed
