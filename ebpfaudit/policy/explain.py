"""Why events are judged as they are: for each the section's decision, and every rule that was considered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from ebpfaudit.events import Event
from ebpfaudit.policy.decision import Decision, explain_section
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.policy.examine import Examined, examine
from ebpfaudit.profiles.schema import Profile
from ebpfaudit.verdicts import Verdict

Numbered = tuple[int, Event]


class Explained(Struct, frozen=True):
    """One event, what was said of it, and why."""

    seq: int
    event: Event
    command: str
    """What its process ran when it happened."""
    verdicts: tuple[Verdict, ...]
    section: Decision | None
    rules: tuple[Examined, ...]
    """Every part that is about this kind of event: those that match first, then from the nearest miss."""
    others: dict[str, int]
    """How many rules there are about each other kind."""

    @property
    def fired(self) -> frozenset[str]:
        return frozenset(verdict.rule for verdict in self.verdicts)


def misses(examined: Examined) -> int:
    """How many things would have to be otherwise for this part to match; 0 if it does."""
    if examined.matches:
        return 0
    unmet = sum(test.met is None for test in examined.when)
    vetoed = bool(examined.unless) and all(test.met is not None for test in examined.unless)
    return max(unmet + vetoed + bool(examined.beside), 1)


def _distance(examined: Examined) -> tuple[bool, int, int]:
    met = sum(test.met is not None for test in examined.when)
    return bool(examined.beside), misses(examined), -met


def explain(
    profile: Profile,
    events: Iterable[Numbered],
    wanted: Callable[[int, tuple[Verdict, ...]], bool],
    rule: str = "",
) -> Iterator[Explained]:
    """Judge from the beginning, and explain the events that are `wanted` (by number and verdicts).

    With `rule`, only by that rule.
    """
    ahead, evaluator = Evaluator(profile), Evaluator(profile)
    about = Counter(kind for each in profile.rules for kind in {part.on for part in each.parts})
    for number, event in events:
        ahead.events = evaluator.events = number
        verdicts = ahead.evaluate(event)
        if wanted(number, verdicts):
            yield _explain(evaluator, number, event, verdicts, rule, about)
        evaluator.evaluate(event)


def closest(profile: Profile, events: Iterable[Numbered], rule: str) -> list[Explained]:
    """The events on which the rule fired, or else the last of those where it came nearest to matching."""
    evaluator = Evaluator(profile)
    kinds = {part.on for each in profile.rules if each.id == rule for part in each.parts}
    best: tuple[bool, int, int] | None = None
    found: list[Explained] = []
    has_fired = False
    for number, event in events:
        evaluator.events = number
        examined: tuple[Examined, ...] = ()
        if event.__struct_config__.tag in (*kinds, "identity"):
            examined = examine(evaluator, event, rule)
        distance = min(map(_distance, examined), default=None)
        explained = None
        if distance is not None and not has_fired and (best is None or distance <= best):
            best, explained = distance, _explain(evaluator, number, event, (), rule, Counter())
        elif distance is not None and distance[:2] == (False, 0):
            explained = _explain(evaluator, number, event, (), rule, Counter())
        verdicts = evaluator.evaluate(event)
        fires = any(verdict.rule == rule for verdict in verdicts)
        if explained is None or (has_fired and not fires):
            continue
        told = Explained(
            number, event, explained.command, verdicts, explained.section, explained.rules, explained.others
        )
        found = [*found, told] if has_fired else [told]
        has_fired = has_fired or fires
    return found


def _explain(
    evaluator: Evaluator,
    number: int,
    event: Event,
    verdicts: tuple[Verdict, ...],
    rule: str,
    about: Counter[str],
) -> Explained:
    kind = str(event.__struct_config__.tag)
    asked = "exec" if kind == "identity" else kind
    return Explained(
        seq=number,
        event=event,
        command=_command(evaluator, event),
        verdicts=verdicts,
        section=explain_section(evaluator.profile, event),
        rules=tuple(sorted(examine(evaluator, event, rule), key=_distance)),
        others={other: count for other, count in sorted(about.items()) if other != asked},
    )


def _command(evaluator: Evaluator, event: Event) -> str:
    pid, start = getattr(event, "pid", 0), getattr(event, "start", 0)
    process = evaluator.processes.find(pid, start) if pid else None
    if process is None:
        return ""
    return f"{process.exe} {' '.join(process.argv[1:])}".strip()
