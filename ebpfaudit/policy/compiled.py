"""Rules made ready: what to test, in which order, and what a verdict about it will say.

Nothing here changes with events: what a rule counts and remembers is in `policy.state`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from ebpfaudit.events import Identity
from ebpfaudit.policy.facts import Facts, Getter, getter, show_field
from ebpfaudit.policy.matching import (
    Matcher,
    compile_matcher,
    identity_key,
    identity_keys,
    match_identities,
    match_texts,
    match_words,
    split_identities,
)
from ebpfaudit.policy.options import Options, compile_options
from ebpfaudit.policy.programs import programs_of
from ebpfaudit.process import Process
from ebpfaudit.profiles.message import MessageError, parse_message
from ebpfaudit.profiles.schema import FIELDS, Part, Rule, Values

VALUE_CHARS = 256
"""A verdict shows at most this much of an offending value; the event has it all."""

_COST = {
    "flag": 0,
    "number": 0,
    "choice": 0,
    "size": 0,
    "ancestor": 0,
    "text": 1,
    "path": 1,
    "dst": 2,
    "program": 2,
}
_MAIN_FIELD = {"connect": "dst", "gpu": "device", "cgroup-move": "path"}


class Test(NamedTuple):
    """One field of a `when` or `unless`. `match(get(facts))` is the profile's text that it met, or None."""

    name: str
    values: Values
    get: Getter
    match: Matcher


class Match:
    """An event is what a part asks for, but for what depends on earlier events: marks, counts, other parts."""

    __slots__ = ("because", "distinct", "field", "message", "part", "value", "vetoed")

    def __init__(
        self, part: CompiledPart, told: tuple[str, str, str, str], distinct: Hashable, vetoed: bool
    ) -> None:
        self.part = part
        self.field, self.value, self.because, self.message = told
        self.distinct = distinct
        """What is counted, of a count of distinct values."""
        self.vetoed = vetoed
        """All of `unless` is met if one of its marks is held."""


class CompiledPart:
    """One part of a rule. `find` never raises, whatever an event holds."""

    def __init__(
        self, rule: CompiledRule, number: int, part: Part, bits: Mapping[str, int], position: int
    ) -> None:
        """`bits`: those of the programs asked for as ancestors. `position`: its place among all parts of its kind."""
        self.rule = rule
        self.number = number
        self.part = part
        self.position = position
        kind = part.on
        self.wants_result = kind == "connect" and "result" in part.when
        self.wants_error = "error" in part.when
        when = sorted(part.when, key=lambda name: _COST.get(FIELDS[kind][name], 3))
        self.tests = [_test(kind, name, part.when[name], bits) for name in when if name != "mark"]
        self.vetoes = [
            _test(kind, name, values, bits) for name, values in part.unless.items() if name != "mark"
        ]
        self.marks = tuple(map(str, part.when.get("mark", ())))
        """One of these must be held, if there are any."""
        self.unless_marks = tuple(map(str, part.unless.get("mark", ())))
        self._vetoed_at_once = bool(self.vetoes) and not self.unless_marks
        self.shown = next((name for name in FIELDS[kind] if name in part.when), "")
        self._field = self.shown or _MAIN_FIELD.get(kind, "exe")
        count = part.count
        self.count_because = ""
        self._distinct: Getter | None = None
        if count is not None:
            distinct = f"distinct {count.distinct} " if count.distinct else ""
            self.count_because = f"over {count.over} {distinct}in {count.within}"
            if count.distinct:
                self._distinct = getter(kind, "argv" if count.distinct == "option" else count.distinct)

    @property
    def identities(self) -> tuple[str, ...]:
        """What its `when` names by content."""
        return tuple(
            text for name in ("exe", "program") for text in split_identities(self.part.when.get(name, ()))[0]
        )

    @property
    def fields(self) -> set[str]:
        """Every field that the part, or its rule's message, looks at."""
        part = self.part
        counted = {part.count.distinct} - {""} if part.count else set()
        return {*part.when, *part.unless} | counted | (self.rule.message_fields & FIELDS[part.on].keys())

    def find(self, facts: Facts, shown: str = "") -> Match | None:
        """What to say of an event whose `facts` match; of the field `shown`, or else of the most telling one."""
        because = "any"
        shown = shown or self.shown
        for name, _, get, match in self.tests:
            met = match(get(facts))
            if met is None:
                return None
            if name == shown:
                because = met
        if self._vetoed_at_once and self.vetoed(facts):
            return None
        return self._match(facts, shown or self._field, because)

    def naming(self, identity: Identity, exe: str) -> str:
        """The field through which this identity makes the part match."""
        wanted = {identity_key(str(value)) for value in self.part.when.get("exe", ())}
        by_exe = identity.path == exe and not wanted.isdisjoint(identity_keys(identity))
        return "exe" if by_exe else "program"

    def vetoed(self, facts: Facts) -> bool:
        """All of `unless` but its marks is met."""
        return all(match(get(facts)) is not None for _, _, get, match in self.vetoes)

    def _match(self, facts: Facts, field: str, because: str) -> Match:
        message = self.rule.render(self.part.on, facts)
        vetoed = bool(self.unless_marks) and self.vetoed(facts)
        count = self.part.count
        if count is not None:
            counted = self._distinct(facts) if self._distinct else None
            told = (count.distinct or field, str(count.over + 1), self.count_because, message)
            return Match(self, told, counted, vetoed)
        value = self._value(facts, field)[:VALUE_CHARS]
        return Match(self, (field, value, because, message), None, vetoed)

    def _value(self, facts: Facts, field: str) -> str:
        if field in ("argv", "option", "program") and field in self.part.when:
            return met_value(field, self.part.when[field], facts)
        return show_field(self.part.on, field, facts)


class CompiledRule:
    """One rule: its parts, and what its verdicts say beyond the field that decided."""

    def __init__(self, rule: Rule, number: int) -> None:
        self.rule = rule
        self.number = number
        """Its place in the profile."""
        self.parts: list[CompiledPart] = []
        self.about = (rule.scope, rule.severity, rule.technique)
        self.per = rule.per
        single = rule.parts[0]
        if rule.form == "single":
            self.per = single.count.per if single.count is not None else "episode"
        self.simple = (
            rule.form == "single" and single.count is None and rule.mark is None and rule.limit is None
            and "mark" not in single.when and "mark" not in single.unless
        )  # fmt: skip
        """A match is a verdict: nothing depends on earlier events."""
        try:
            self._pieces = parse_message(rule.message)
        except MessageError:  # of an earlier version, for which a brace was a brace
            self._pieces = ((rule.message, ""),)
        self.message_fields = {field for _, field in self._pieces if field}
        self._plain = "".join(literal for literal, _ in self._pieces)

    def render(self, kind: str, facts: Facts) -> str:
        """The message, with what its {fields} are for this event."""
        if not self.message_fields:
            return self._plain
        texts = []
        for literal, field in self._pieces:
            texts.append(literal)
            if field in FIELDS[kind]:
                text = facts.event.dst if field == "dst" else show_field(kind, field, facts)  # type: ignore[union-attr]
                texts.append(text[:VALUE_CHARS])
        return "".join(texts)


def compile_rules(rules: Iterable[Rule], bits: Mapping[str, int]) -> dict[str, list[CompiledPart]]:
    """The parts of all rules by the kind of event they are about, in the profile's order."""
    by_kind: dict[str, list[CompiledPart]] = {kind: [] for kind in FIELDS}
    for number, rule in enumerate(rules):
        compiled = CompiledRule(rule, number)
        for part_number, part in enumerate(rule.parts):
            same_kind = by_kind[part.on]
            made = CompiledPart(compiled, part_number, part, bits, len(same_kind))
            same_kind.append(made)
            compiled.parts.append(made)
    return by_kind


def met_value(name: str, values: Values, facts: Facts) -> str:
    """Of a field with several values, the one that `values` meet."""
    if name == "option":
        met = compile_options(values)(facts.options)
        return met[1] if met else ""
    if name == "argv":
        first = match_words(tuple(map(str, values)))(facts.process.argv)
        return facts.process.argv[first[0]] if first is not None else ""
    match = _program_matcher(values)
    return next((path for path in programs_of(facts.process) if match(facts.process, path) is not None), "")


def _test(kind: str, name: str, values: Values, bits: Mapping[str, int]) -> Test:
    if name in ("exe", "program"):
        identities, _ = split_identities(values)
        if identities or name == "program":
            match_path = _program_matcher(values)
            paths_of: Callable[[Process], Iterable[str]] = programs_of if name == "program" else _only_exe

            def match(process: Process) -> str | None:
                met = (match_path(process, path) for path in paths_of(process))
                return next((text for text in met if text is not None), None)

            return Test(name, values, lambda facts: facts.process, match)
    if name == "option":
        matched = compile_options(values)

        def match_option(options: Options) -> str | None:
            met = matched(options)
            return met[0] if met is not None else None

        return Test(name, values, getter(kind, name), match_option)
    if name == "ancestor":
        return Test(name, values, getter(kind, name), _match_ancestor(values, bits))
    if name == "not-ancestor":
        is_one = _match_ancestor(values, bits)
        text = ", ".join(map(str, values))
        return Test(name, values, getter(kind, name), lambda lineage: None if is_one(lineage) else text)
    return Test(name, values, getter(kind, name), compile_matcher(kind, name, values))


def _only_exe(process: Process) -> tuple[str, ...]:
    return (process.exe,)


@lru_cache(maxsize=512)
def _program_matcher(values: Values) -> Callable[[Process, str], str | None]:
    identities, paths = split_identities(values)
    match_path = match_texts(paths)
    match_identity = match_identities(identities)

    def match(process: Process, path: str) -> str | None:
        met = match_path(path)
        return match_identity(process, path) if met is None and process.identities else met

    return match


def _match_ancestor(values: Values, bits: Mapping[str, int]) -> Callable[[int], str | None]:
    wanted = [(bits[str(value)], str(value)) for value in values]
    return lambda lineage: next((text for bit, text in wanted if lineage & bit), None)
