"""Judges a recorded episode under two profiles at once: which verdicts would change?

One reading of the trail feeds two evaluators. What is kept of the differences is bounded, whatever the trail holds:
all are counted, by rule, and of each rule's the first `MAX_VALUES` (field, value) pairs are kept with an example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from msgspec import Struct

from ebpfaudit.errors import TrailError
from ebpfaudit.events import Event
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.schema import Profile
from ebpfaudit.trail.reader import Trail, read_trail
from ebpfaudit.trail.replay import recorded_profile
from ebpfaudit.verdicts import ACTIONS, Action, Enforcement, Verdict

MAX_VALUES = 64
"""Of each rule's differences, so many different values are kept; the others are counted."""

PREVENTING: frozenset[Action] = frozenset({"deny", "freeze", "kill"})
"""Actions that change what happens next."""

_PROGRESS_EVERY = 1 << 12

Side = Literal["appeared", "vanished", "changed"]
Verdicts = tuple[Verdict, ...]


class Change(NamedTuple):
    """What became of a rule's verdicts."""

    side: Side
    """"appeared": only the second profile gives it; "vanished": only the first; "changed": both, otherwise."""
    action: Action
    """Under the second profile; of a vanished one, under the first."""
    was: Action | Literal[""]
    """The first profile's action, where it changed."""
    rule: str

    @property
    def strength(self) -> int:
        """How much it matters: that of the strictest action it is about."""
        return max(ACTIONS.index(self.action), ACTIONS.index(self.was) if self.was else 0)


class Sample(Struct):
    """Equal changes: how many, and the first of them."""

    count: int
    trail: str
    seq: int
    event: Event
    verdict: Verdict


class Tally(Struct):
    """The changes of one kind, by field and value."""

    count: int = 0
    after: int = 0
    """How many of them come after their episode's first difference that would have changed its course."""
    samples: dict[tuple[str, str], Sample] = {}
    more: int = 0
    """How many are of values that are not in `samples`."""

    def add(self, sample: Sample, count: int = 1) -> None:
        key = (sample.verdict.field, sample.verdict.value)
        known = self.samples.get(key)
        if known is not None:
            known.count += count
        elif len(self.samples) < MAX_VALUES:
            self.samples[key] = sample
        else:
            self.more += count

    def ordered(self) -> list[Sample]:
        """The most frequent first."""
        return sorted(self.samples.values(), key=lambda each: (-each.count, each.seq))


class Kill(Struct, frozen=True):
    """The first verdict by which a profile would have killed."""

    seq: int
    rule: str


class Outcome(Struct):
    """One trail under two profiles, or (`merge`) many."""

    trail: str
    episode: str = ""
    events: int = 0
    verdicts: tuple[int, int] = (0, 0)
    changes: dict[Change, Tally] = {}
    kills: tuple[Kill | None, Kill | None] = (None, None)
    """The first under each profile, if any."""
    first_difference: int | None = None
    """The first event of which one profile prevents what the other does not, or stops who did it."""
    damaged: bool = False
    doubts: tuple[str, ...] = ()
    """What makes this trail less than the episode. Printable."""
    error: str = ""
    """Why it could not be judged; then all else is empty."""

    @property
    def newly_killed(self) -> bool:
        return self.kills[0] is None and self.kills[1] is not None

    @property
    def spared(self) -> bool:
        """It is no longer killed."""
        return self.kills[0] is not None and self.kills[1] is None

    @property
    def changed(self) -> bool:
        return bool(self.changes)

    def count(self, side: Side) -> int:
        return sum(tally.count for change, tally in self.changes.items() if change.side == side)

    @property
    def after(self) -> int:
        return sum(tally.after for tally in self.changes.values())

    def ordered(self) -> list[tuple[Change, Tally]]:
        """The changes, the strongest first."""
        return sorted(self.changes.items(), key=lambda each: (-each[0].strength, -each[1].count, each[0]))

    def merge(self, other: Outcome) -> None:
        """Add what was found in another trail. Its example stands where this one has none."""
        self.events += other.events
        self.verdicts = (self.verdicts[0] + other.verdicts[0], self.verdicts[1] + other.verdicts[1])
        for change, tally in other.changes.items():
            own = self.changes.setdefault(change, Tally())
            own.count += tally.count
            own.after += tally.after
            own.more += tally.more
            for sample in tally.samples.values():
                own.add(
                    Sample(sample.count, sample.trail, sample.seq, sample.event, sample.verdict), sample.count
                )


class Backtest:
    """Two evaluators over the events of one trail."""

    def __init__(self, trail: Trail, first: Profile | None = None, second: Profile | None = None) -> None:
        """A profile of None is the one in the trail's header. Raises TrailError if that cannot be read."""
        self._trail = trail
        self._first = Evaluator(first or recorded_profile(trail))
        self._second = Evaluator(second or recorded_profile(trail))
        self.outcome = Outcome(str(trail.path), trail.header.episode)

    def run(self, progress: Callable[[int], None] = lambda offset: None) -> Outcome:
        """Read all of the trail. `progress` is told, now and then, how far in the file it is."""
        first, second, outcome = self._first, self._second, self.outcome
        before = after = 0
        for number, item in self._trail.numbered():
            if isinstance(item, Verdict | Enforcement | dict):
                continue
            first.events = second.events = number  # they do not know of gaps
            old, new = first.evaluate(item), second.evaluate(item)
            if old or new:
                before += len(old)
                after += len(new)
                if old != new:
                    self._compare(number, item, old, new)
                self._note_kills(old, new)
            if not number % _PROGRESS_EVERY:
                progress(self._trail.offset)
        outcome.events = self._trail.events
        outcome.verdicts = (before, after)
        outcome.damaged = self._trail.damaged
        outcome.doubts = tuple(doubts_of(self._trail))
        progress(self._trail.file_bytes)
        return outcome

    def _compare(self, number: int, event: Event, old: Verdicts, new: Verdicts) -> None:
        """By rule. A verdict that differs only in its words (value, message, because) is not another one."""
        former = {verdict.rule: verdict for verdict in old}
        for verdict in new:
            was = former.pop(verdict.rule, None)
            if was is None:
                self._add(Change("appeared", verdict.action, "", verdict.rule), number, event, verdict)
            elif (was.action, was.scope) != (verdict.action, verdict.scope):
                self._add(Change("changed", verdict.action, was.action, verdict.rule), number, event, verdict)
        for verdict in former.values():
            self._add(Change("vanished", verdict.action, "", verdict.rule), number, event, verdict)

    def _add(self, change: Change, number: int, event: Event, verdict: Verdict) -> None:
        outcome = self.outcome
        tally = outcome.changes.setdefault(change, Tally())
        tally.count += 1
        tally.after += outcome.first_difference is not None and number > outcome.first_difference
        tally.add(Sample(1, outcome.trail, number, event, verdict))
        if outcome.first_difference is None and not PREVENTING.isdisjoint((change.action, change.was)):
            outcome.first_difference = number

    def _note_kills(self, old: Verdicts, new: Verdicts) -> None:
        before, after = self.outcome.kills
        if before is None or after is None:
            self.outcome.kills = (before or _first_kill(old), after or _first_kill(new))


def _first_kill(verdicts: Verdicts) -> Kill | None:
    return next((Kill(each.seq, each.rule) for each in verdicts if each.action == "kill"), None)


def backtest(
    path: str, first: Profile | None, second: Profile | None, progress: Callable[[int], None]
) -> Outcome:
    """Judge the trail at `path`. One that cannot be read gives an outcome with `error` set."""
    try:
        with read_trail(path) as trail:
            return Backtest(trail, first, second).run(progress)
    except (TrailError, OSError) as error:
        return Outcome(path, error=str(error).replace("\n", "; "))


def doubts_of(trail: Trail) -> list[str]:
    """What makes a trail, now read, less than its episode."""
    doubts = [str(problem) for problem in trail.problems[:5]]
    if len(trail.problems) > 5:
        doubts.append(f"and {len(trail.problems) - 5} problems more")
    if trail.lost:
        doubts.append(f"{trail.lost:,} events were lost when it was recorded")
    if trail.unwritten:
        doubts.append(f"{trail.unwritten:,} events could not be written when it was recorded")
    if trail.unknown:
        doubts.append(f"{trail.unknown:,} lines are of a kind that this version does not know")
    return doubts
