"""Several things within so long: all of them in any order, or one after the other.

Exact with one entry per part and key. Of each part only its latest event matters for `all`; for `then`, of
all ways to have met the first k parts only the one that began last.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ebpfaudit.policy.keyed import Keyed
from ebpfaudit.profiles.schema import Rule


class _Progress:
    __slots__ = ("fired_ns", "reached")

    def __init__(self, parts: int) -> None:
        self.reached: list[tuple[int, tuple[int, ...]] | None] = [None] * parts
        """Per part, a time and event numbers. `all`: of its latest event. `then`: when the latest way to have come
        so far began, and all its events."""
        self.fired_ns: int | None = None


class Sequences(Keyed[_Progress]):
    """The progress of one rule, one per key (a process, a tree, a step, or the episode)."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self._parts = len(rule.parts)
        self._within_ns = rule.within_ns
        self._ordered = rule.form == "then"

    def completed(self, key: Hashable, parts: Sequence[int], ts_ns: int, seq: int) -> tuple[int, ...] | None:
        """Enter event number `seq`, which is what each of `parts` (in rising order) asks for. The numbers of the
        events that make the rule complete, in the order of its parts; then None for `within`."""
        progress = self._touch(key)
        enter = self._follow if self._ordered else self._gather
        events = enter(progress, parts, ts_ns, seq)
        if events is None or self._is_quiet(progress, ts_ns):
            return None
        progress.fired_ns = ts_ns
        return events

    def progress(self, key: Hashable, ts_ns: int) -> tuple[list[int], bool]:
        """The parts that are met at `ts_ns`, and whether the rule fired within the last `within`."""
        progress = self._by_key.get(key)
        if progress is None:
            return [], False
        met = [
            number for number, entry in enumerate(progress.reached)
            if entry is not None and ts_ns - entry[0] <= self._within_ns
        ]  # fmt: skip
        return met, self._is_quiet(progress, ts_ns)

    def _is_quiet(self, progress: _Progress, ts_ns: int) -> bool:
        return progress.fired_ns is not None and 0 <= ts_ns - progress.fired_ns < self._within_ns

    def _gather(
        self, progress: _Progress, parts: Sequence[int], ts_ns: int, seq: int
    ) -> tuple[int, ...] | None:
        reached = progress.reached
        for part in parts:
            entry = reached[part]
            if entry is None or entry[0] <= ts_ns:
                reached[part] = ts_ns, (seq,)
        entries = [entry for entry in reached if entry is not None]
        if len(entries) < self._parts:
            return None
        times = [time for time, _ in entries]
        if max(times) - min(times) > self._within_ns:
            return None
        return tuple([events[0] for _, events in entries])

    def _follow(
        self, progress: _Progress, parts: Sequence[int], ts_ns: int, seq: int
    ) -> tuple[int, ...] | None:
        reached = progress.reached
        alone: tuple[int, ...] = (seq,)
        for part in reversed(
            parts
        ):  # one event is one step: a later part is entered before the one it follows
            if part == 0:
                begun, events = ts_ns, alone
            else:
                before = reached[part - 1]
                if before is None or ts_ns - before[0] > self._within_ns:
                    continue
                begun, events = before[0], (*before[1], seq)
            if part == self._parts - 1:
                return self._ended(progress, parts, ts_ns, seq, events)
            entry = reached[part]
            if entry is None or entry[0] <= begun:
                reached[part] = begun, events
        return None

    def _ended(
        self, progress: _Progress, parts: Sequence[int], ts_ns: int, seq: int, events: tuple[int, ...]
    ) -> tuple[int, ...]:
        """The last part's event may be an earlier part's too, of the next time round."""
        self._follow(progress, [part for part in parts if part < self._parts - 1], ts_ns, seq)
        return events

    def _make(self) -> _Progress:
        return _Progress(self._parts)

    def _size(self, entry: _Progress) -> int:
        return sum(len(reached[1]) for reached in entry.reached if reached is not None)
