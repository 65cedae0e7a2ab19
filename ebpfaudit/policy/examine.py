"""Why a rule matches an event or does not: the very tests that the evaluator makes, one by one.

Looks, and changes nothing: ask before the evaluator is given the event.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from ebpfaudit.events import Event, Exec, GpuCount, Identity, ProcessEvent, Seen
from ebpfaudit.policy.compiled import CompiledPart, Test
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.policy.facts import Facts, image_after, show_field
from ebpfaudit.policy.programs import programs_of
from ebpfaudit.policy.state import RuleState, key_of
from ebpfaudit.process import Process
from ebpfaudit.profiles.schema import FIELDS


class Tested(Struct, frozen=True):
    """One field of a `when` or `unless`."""

    field: str
    value: str
    """The event's."""
    wanted: tuple[str, ...]
    """The profile's."""
    met: str | None
    """That one of `wanted` which was met; None if none was."""


class Examined(Struct, frozen=True):
    """One part of a rule, and an event of the kind that it is about."""

    rule: str
    part: int
    """From 0; of `parts`."""
    parts: int
    form: str
    kind: str
    beside: str
    """Why the part is not about this event, whatever its fields say; "" if it is."""
    when: tuple[Tested, ...]
    unless: tuple[Tested, ...]
    """They take the match back if all are met (and there are any)."""
    matches: bool
    state: tuple[str, ...]
    """What the rule holds against earlier events, before this one: "count 3 of 20 in 10s per tree", "part 1 of 2 met",
    "quiet: has fired within 10s", "limit 5 of 5 in 1m"."""


class Decided(Struct, frozen=True):
    """What a section of the profile says to an event."""

    section: str
    field: str
    value: str
    action: str
    entry: str


def examine(evaluator: Evaluator, event: Event, rule: str = "") -> tuple[Examined, ...]:
    """Every part of every rule (or of this one) that is about this kind of event, in the profile's order. An Identity
    is examined as the process's last exec once more."""
    if not isinstance(event, ProcessEvent) or isinstance(event, GpuCount | Seen):
        return ()
    process = evaluator.processes.find(event.pid, event.start) or Process(event.pid, event.start)
    about: ProcessEvent = event
    image = process
    if isinstance(event, Identity):
        if process.executed is None:
            return ()
        about = process.executed
        image = image_after(process, about, process.lineage)
        image.identities = [*process.identities, event]
    elif isinstance(event, Exec):
        image = image_after(process, event, evaluator.processes.lineage_after(process))
    facts, _, judged = evaluator.facts_of(about, image)
    kind = about.__struct_config__.tag
    return tuple(
        _examined(evaluator, part, facts, process, bool(judged >> part.position & 1), event.ts_ns)
        for part in evaluator.ruleset.parts[kind]  # type: ignore[index]
        if rule in ("", part.rule.rule.id)
    )


def decide(evaluator: Evaluator, event: Event) -> Decided | None:
    """What the network or GPU section says to the event, where it does not just allow it."""
    if not isinstance(event, ProcessEvent):
        return None
    process = evaluator.processes.find(event.pid, event.start) or Process(event.pid, event.start)
    if event.__struct_config__.tag not in FIELDS:
        return None
    _, section, _ = evaluator.facts_of(event, process)
    if not section:
        return None
    action, name, field, value, entry = section[0].rest[:5]
    return Decided(name, field, value, action, entry)


def _examined(
    evaluator: Evaluator, part: CompiledPart, facts: Facts, process: Process, judged: bool, ts_ns: int
) -> Examined:
    marks = evaluator.marking.all_held(process, ts_ns)
    when = [*_tested(part.tests, facts, part.part.on), *_marked(part.marks, marks)]
    unless = [*_tested(part.vetoes, facts, part.part.on), *_marked(part.unless_marks, marks)]
    vetoed = bool(unless) and all(each.met is not None for each in unless)
    state = evaluator.states[part.rule.number]
    return Examined(
        rule=part.rule.rule.id,
        part=part.number,
        parts=len(part.rule.parts),
        form=part.rule.rule.form,
        kind=part.part.on,
        beside="" if judged else _beside(part),
        when=tuple(when),
        unless=tuple(unless),
        matches=judged and all(each.met is not None for each in when) and not vetoed,
        state=tuple(_state(state, part, process, ts_ns)),
    )


def _tested(tests: Iterable[Test], facts: Facts, kind: str) -> list[Tested]:
    return [
        Tested(name, _value(kind, name, facts), tuple(_written(value) for value in values), match(get(facts)))
        for name, values, get, match in tests
    ]


def _marked(wanted: tuple[str, ...], held: tuple[str, ...]) -> list[Tested]:
    if not wanted:
        return []
    return [Tested("mark", ", ".join(held), wanted, next((name for name in held if name in wanted), None))]


def _value(kind: str, name: str, facts: Facts) -> str:
    if name == "program":
        return ", ".join(programs_of(facts.process))
    if name == "option":
        return show_field(kind, "cmdline", facts)
    return show_field(kind, name, facts)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _beside(part: CompiledPart) -> str:
    if part.part.on == "exec":
        return "it is about execs that failed" if part.wants_error else "it is about execs that succeeded"
    if part.wants_result:
        return "it is about how connects end, or are denied"
    return "it is about attempts to connect"


def _state(state: RuleState, part: CompiledPart, process: Process, ts_ns: int) -> Iterable[str]:
    rule = state.rule.rule
    key = key_of(state.per, process)
    windows, count = state.windows[part.number], part.part.count
    if windows is not None and count is not None:
        distinct = f" distinct {count.distinct}" if count.distinct else ""
        yield f"count {windows.reached(key, ts_ns)} of {count.over}{distinct} in {count.within} per {state.per}"
        if state.sequences is None and windows.quiet(key, ts_ns):
            yield f"quiet: has fired within {count.within}"
    if state.sequences is not None:
        met, quiet = state.sequences.progress(key, ts_ns)
        parts = ", ".join(str(number + 1) for number in met) or "none"
        yield f"parts met in the last {rule.within} per {state.per}: {parts} of {len(rule.parts)}"
        if quiet:
            yield f"quiet: has fired within {rule.within}"
    if state.limits is not None and rule.limit is not None:
        given = state.limits.given(key_of(rule.limit.per, process), ts_ns)
        yield f"limit {given} of {rule.limit.to} in {rule.limit.within} per {rule.limit.per}"
