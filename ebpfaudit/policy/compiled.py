"""Rules made ready: what to test, in which order, and what a verdict about it will say."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any

from ebpfaudit.events import Connect, Exec, ProcessEvent
from ebpfaudit.policy.matching import compile_matcher, longest_literal
from ebpfaudit.policy.windows import Windows
from ebpfaudit.process import Process
from ebpfaudit.profiles.addresses import AddressError, parse_address
from ebpfaudit.profiles.schema import FIELDS, Count, Part, Rule
from ebpfaudit.verdicts import Verdict

VALUE_CHARS = 256
"""A verdict shows at most this much of an offending value; the event has it all."""

_COST = {"flag": 0, "number": 0, "choice": 0, "size": 0, "text": 1, "path": 1, "dst": 2, "words": 3}
_MAIN_FIELD = {"connect": "dst", "gpu": "device", "cgroup-move": "path"}

Getter = Callable[[Any], Any]

_EXEC_GETTERS: dict[str, Getter] = {
    "script": lambda event: event.filename if event.script else "",
    "cmdline": lambda event: " ".join(event.argv),
}
_OTHER_GETTERS: dict[str, Getter] = {
    "cmdline": lambda facts: " ".join(facts.process.argv),
    "result": attrgetter("result"),
    "dst": attrgetter("destination"),
    **{name: attrgetter(f"process.{name}") for name in ("exe", "argv", "cwd", "script", "uid")},
}


class Facts:
    """What a rule may ask about an event and the process behind it. (An exec answers for itself.)"""

    __slots__ = ("destination", "event", "process", "result")

    def __init__(self, process: Process, event: ProcessEvent, result: str = "") -> None:
        self.process = process
        self.event = event
        self.result = result
        self.destination: int | str = destination_of(event) if isinstance(event, Connect) else ""


def destination_of(event: Connect) -> int | str:
    """The address as a number (see `profiles.addresses`), or "unix:PATH"; "" if it is no address."""
    if event.family == "unix":
        return f"unix:{event.dst}"
    try:
        return parse_address(event.dst)
    except AddressError:
        return ""


def endpoint(event: Connect) -> str:
    """A destination as a profile's entry would be written: what to paste into `allow`."""
    if event.family == "unix":
        return f"unix:{event.dst}"
    host = f"[{event.dst}]" if ":" in event.dst else event.dst
    suffix = f"/{event.protocol}" if event.protocol in ("tcp", "udp") else ""
    return f"{host}:{event.port}{suffix}" if event.port else f"{host}{suffix}"


class Finding:
    """A verdict but for its event's number; if `windows` is set, only one more entry to count."""

    __slots__ = ("distinct", "per", "rest", "windows")

    def __init__(
        self, rest: tuple[Any, ...], windows: Windows | None = None, per: str = "", distinct: Hashable = None
    ) -> None:
        self.rest = rest
        """The verdict's fields after `seq`, in their order."""
        self.windows = windows
        self.per = per
        self.distinct = distinct

    def verdict(self, seq: int) -> Verdict:
        return Verdict(seq, *self.rest)


class CompiledRule:
    """One rule. `find` never raises, whatever an event holds."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.part = part = rule.parts[0]
        self.windows = Windows(part.count) if part.count else None
        self.wants_result = part.on == "connect" and "result" in part.when
        self.wants_error = "error" in part.when
        self.needles = _needles(part)
        """One of these stands in the command line of whatever matches; empty: no such thing is known."""
        conditions = {name: compile_matcher(part.on, name, values) for name, values in part.when.items()}
        order = sorted(conditions, key=lambda name: _COST[FIELDS[part.on][name]])
        self._tests = [(name, _getter(part.on, name), conditions[name]) for name in order]
        self._vetoes = [
            (_getter(part.on, name), compile_matcher(part.on, name, values))
            for name, values in part.unless.items()
        ]
        self._shown = next((name for name in FIELDS[part.on] if name in conditions), "")
        self._field = self._shown or _MAIN_FIELD.get(part.on, "exe")
        self._about = (rule.scope, rule.severity, rule.technique, rule.message)
        self._counted = self._count_verdict(part.count) if part.count else ()
        self._distinct = _getter(part.on, part.count.distinct) if part.count and part.count.distinct else None

    @property
    def fields(self) -> set[str]:
        """Every field that the rule looks at."""
        part = self.part
        return {*part.when, *part.unless} | ({part.count.distinct} if part.count else set())

    def possible_for(self, event: Exec) -> bool:
        """False if no exec of this file, started in this way, can match whatever else it says."""
        when = self.part.when
        if self.wants_error or ("script" in when and not event.script):
            return False
        return all(
            match(get(event)) is not None
            for name, get, match in self._tests
            if name in ("exe", "memfd", "deleted")
        )

    def find(self, facts: Any) -> Finding | None:
        """What to say of an event, if its `facts` (an Exec, or Facts) match."""
        because = "any"
        for name, get, match in self._tests:
            met = match(get(facts))
            if met is None:
                return None
            if name == self._shown:
                because = met
        if self._vetoes and all(match(get(facts)) is not None for get, match in self._vetoes):
            return None
        return self._finding(facts, because)

    def _finding(self, facts: Any, because: str) -> Finding:
        if self.part.count is not None:
            counted = self._distinct(facts) if self._distinct else None
            return Finding(self._counted, self.windows, self.part.count.per, counted)
        value = self._value(facts, self._field)[:VALUE_CHARS]
        return Finding((self.rule.action, self.rule.id, self._field, value, because, *self._about))

    def _count_verdict(self, count: Count) -> tuple[Any, ...]:
        """What every verdict of a counting rule says: that there are now too many."""
        distinct = f"distinct {count.distinct} " if count.distinct else ""
        because = f"over {count.over} {distinct}in {count.within}"
        field = count.distinct or self._field
        return (self.rule.action, self.rule.id, field, str(count.over + 1), because, *self._about)

    def _value(self, facts: Any, field: str) -> str:
        if field == "dst":
            return endpoint(facts.event)
        value = _getter(self.part.on, field)(facts)
        if field == "argv":
            match = compile_matcher(self.part.on, "cmdline", self.part.when["argv"])
            return next((word for word in value if match(word) is not None), "")
        return str(value).lower() if isinstance(value, bool) else str(value)


def _getter(kind: str, name: str) -> Getter:
    if kind == "exec":
        return _EXEC_GETTERS.get(name) or attrgetter(name)
    if name == "comm":
        return attrgetter("event.comm" if kind in ("connect", "gpu") else "process.comm")
    return _OTHER_GETTERS.get(name) or attrgetter(f"event.{name}")


def _needles(part: Part) -> tuple[str, ...]:
    patterns = part.when.get("argv") or part.when.get("cmdline") or ()
    literals = {longest_literal(str(pattern)) for pattern in patterns}
    if "" in literals:
        return ()
    return tuple(sorted(one for one in literals if not any(two in one for two in literals - {one})))
