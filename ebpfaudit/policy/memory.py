"""What an episode makes its evaluator hold, counted, beside what it can come to at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ebpfaudit.policy.bounds import MAX_ENTRIES, MAX_KEYS, MAX_PROCESSES
from ebpfaudit.policy.keyed import Keyed
from ebpfaudit.policy.limits import Limits
from ebpfaudit.policy.sequences import Sequences
from ebpfaudit.policy.state import Marking, RuleState
from ebpfaudit.process import MAX_DEPARTED, ProcessTable


def measure(states: Iterable[RuleState], marking: Marking, processes: ProcessTable) -> dict[str, int]:
    """Entries held by the rules' tables, as marks, and as processes."""
    alive = processes.alive()
    held: Counter[str] = Counter(
        {
            "processes": len(alive),
            "departed": processes.departed,
            "marks": len(marking.episode)
            + sum(len(process.marks) for process in alive)
            + sum(len(tree.tree_marks) for tree in {id(each.tree): each.tree for each in alive}.values()),
        }
    )
    for state in states:
        for _, table in state.tables():
            name, entries = _names(table)
            held[name] += len(table)
            held[entries] += table.entries
    return dict(held)


def bounds_of(states: Iterable[RuleState]) -> dict[str, int]:
    """The most that `measure` can find, by the same names."""
    states = list(states)
    names = {state.rule.rule.mark.name for state in states if state.rule.rule.mark is not None}
    bounds: Counter[str] = Counter(
        {
            "processes": MAX_PROCESSES,
            "departed": MAX_DEPARTED,
            "marks": len(names) * (2 * MAX_PROCESSES + 1),
        }
    )
    for state in states:
        rule = state.rule.rule
        for part in rule.parts:
            if part.count is not None:
                bounds["windows"] += MAX_KEYS
                most = MAX_KEYS * (part.count.over + 1)
                bounds["window entries"] += min(most, max(MAX_ENTRIES, part.count.over + 1))
        if state.sequences is not None:
            bounds["sequences"] += MAX_KEYS
            parts = len(rule.parts)
            bounds["sequence events"] += MAX_KEYS * (
                parts if rule.form == "all" else parts * (parts - 1) // 2
            )
        if rule.limit is not None:
            bounds["limits"] += MAX_KEYS
            bounds["limit entries"] += MAX_KEYS * rule.limit.to
    return dict(bounds)


def _names(table: Keyed[Any]) -> tuple[str, str]:
    if isinstance(table, Sequences):
        return "sequences", "sequence events"
    if isinstance(table, Limits):
        return "limits", "limit entries"
    return "windows", "window entries"
