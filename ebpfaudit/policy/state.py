"""What a rule remembers of an episode: its counts, how far its parts have come, its limit."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from ebpfaudit.policy.compiled import CompiledPart, CompiledRule, Match
from ebpfaudit.policy.keyed import Keyed
from ebpfaudit.policy.limits import Limits
from ebpfaudit.policy.sequences import Sequences
from ebpfaudit.policy.windows import Windows
from ebpfaudit.process import Marks, Process
from ebpfaudit.profiles.schema import Mark
from ebpfaudit.verdicts import Verdict

Told = tuple[str, str, str, str]
"""Field, value, because and message of a verdict."""


_KEYS: dict[str, Callable[[Process], Hashable]] = {
    "process": lambda process: (process.pid, process.start),
    "tree": lambda process: (process.tree.pid, process.tree.start),
    "episode": lambda process: None,
    "step": lambda process: None,
}


def key_of(per: str, process: Process) -> Hashable:
    """Under which a rule that is kept `per` so keeps what this process does. (What is kept per step is cleared.)"""
    return _KEYS[per](process)


class Marking:
    """The marks of an episode. Those of processes and trees are kept with them, and end with them."""

    def __init__(self) -> None:
        self.episode: Marks = ()

    def held(self, names: tuple[str, ...], process: Process, ts_ns: int) -> str:
        """The first of `names` that the process, its tree or the episode bears at `ts_ns`; "" if none."""
        for marks in (process.marks, process.tree.tree_marks, self.episode):
            for name, until_ns in marks:
                if until_ns >= ts_ns and name in names:
                    return name
        return ""

    def all_held(self, process: Process, ts_ns: int) -> tuple[str, ...]:
        """Every mark that the process, its tree or the episode bears at `ts_ns`."""
        marks = (*process.marks, *process.tree.tree_marks, *self.episode)
        return tuple(dict.fromkeys(name for name, until_ns in marks if until_ns >= ts_ns))

    def set(self, mark: Mark, process: Process, ts_ns: int) -> None:
        """From now on, and as long as the mark lasts, whoever it is for bears it."""
        until_ns = ts_ns + mark.for_ns
        if mark.scope == "process":
            process.marks = _with(process.marks, mark.name, until_ns, ts_ns)
        elif mark.scope == "tree":
            process.tree.tree_marks = _with(process.tree.tree_marks, mark.name, until_ns, ts_ns)
        else:
            self.episode = _with(self.episode, mark.name, until_ns, ts_ns)


def _with(marks: Marks, name: str, until_ns: int, ts_ns: int) -> Marks:
    until_ns = max([until_ns, *(until for other, until in marks if other == name)])
    kept = [mark for mark in marks if mark[0] != name and mark[1] >= ts_ns]
    return (*kept, (name, until_ns))


class RuleState:
    """One rule in one episode."""

    def __init__(self, rule: CompiledRule) -> None:
        self.rule = rule
        self.per = rule.per
        self._key = _KEYS[rule.per]
        counts = [part.part.count for part in rule.parts]
        self.windows = [Windows(count) if count is not None else None for count in counts]
        """Per part."""
        self.sequences = Sequences(rule.rule) if rule.rule.form != "single" else None
        self.limits = Limits(rule.rule.limit) if rule.rule.limit is not None else None
        self._begins_first = rule.rule.form == "then" and not any(counts)
        """Nothing can come of a later part, and no room is taken for it, where the first was not met."""

    def tables(self) -> list[tuple[str, Keyed[Any]]]:
        """Everything that is kept by key, and per what."""
        tables: list[tuple[str, Keyed[Any]]] = [(self.per, each) for each in self.windows if each is not None]
        if self.sequences is not None:
            tables.append((self.per, self.sequences))
        if self.limits is not None and self.rule.rule.limit is not None:
            tables.append((self.rule.rule.limit.per, self.limits))
        return tables

    def enter(
        self, matches: tuple[Match, ...], process: Process, ts_ns: int, seq: int, marking: Marking
    ) -> Told | None:
        """Take in that event number `seq` is what some parts ask for. What is to be said if the rule now fires."""
        if self.sequences is None:
            single = self._met(matches[0], process, ts_ns, marking)
            return None if single is None else single[1]
        key = self._key(process)
        if self._begins_first and matches[0].part.number and key not in self.sequences:
            return None
        met = [told for match in matches if (told := self._met(match, process, ts_ns, marking)) is not None]
        if not met:
            return None
        self._register(self.per, self.sequences, key, process)
        events = self.sequences.completed(key, [number for number, _ in met], ts_ns, seq)
        if events is None:
            return None
        rule = self.rule.rule
        how = f"all of {len(rule.parts)}" if rule.form == "all" else "then"
        field, value, _, message = met[-1 if rule.form == "then" else 0][1]
        numbers = ", ".join(map(str, events))
        return field, value, f"{how} in {rule.within}: events {numbers}", message

    def admit(self, process: Process, ts_ns: int) -> int | None:
        """By the rule's limit: None if this verdict is to be left out, else how many were since the last one."""
        limit = self.rule.rule.limit
        if self.limits is None or limit is None:
            return 0
        key = key_of(limit.per, process)
        self._register(limit.per, self.limits, key, process)
        return self.limits.admit(key, ts_ns)

    def _met(self, match: Match, process: Process, ts_ns: int, marking: Marking) -> tuple[int, Told] | None:
        """The part's number and what to say of it, if its marks and its count are met, too."""
        part: CompiledPart = match.part
        field, value, because = match.field, match.value, match.because
        if part.marks:
            name = marking.held(part.marks, process, ts_ns)
            if not name:
                return None
            if field == "mark":
                value = because = name
        if part.unless_marks and match.vetoed and marking.held(part.unless_marks, process, ts_ns):
            return None
        windows = self.windows[part.number]
        if windows is not None:
            key = self._key(process)
            if self.per == "process":
                self._register(self.per, windows, key, process)
            if self.sequences is None:
                if not windows.exceeded(key, ts_ns, match.distinct):
                    return None
            elif not windows.above(key, ts_ns, match.distinct):
                return None
        return part.number, (field, value, because, match.message)

    def _register(self, per: str, table: Keyed[Any], key: Hashable, process: Process) -> None:
        """What is kept per process is dropped when it ends."""
        if per == "process" and key not in table:
            if process.touched is None:
                process.touched = set()
            process.touched.add(table)

    def rest(self, seq: int) -> Verdict | None:
        """At the episode's end: what the limit left out and no verdict has told of."""
        rule = self.rule.rule
        if self.limits is None or rule.limit is None or not (unsaid := self.limits.unsaid):
            return None
        because = f"limit {rule.limit.to} in {rule.limit.within}"
        return Verdict(
            seq, "log", rule.id, "limit", str(unsaid), because, *self.rule.about, suppressed=unsaid
        )
