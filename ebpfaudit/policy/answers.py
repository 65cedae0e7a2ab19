"""What is known of an event before its past is asked, and so can be remembered for all events like it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from ebpfaudit.policy.compiled import Match
from ebpfaudit.policy.state import RuleState
from ebpfaudit.process import Process

QUESTION_CHARS = 64
"""About what a question takes, in memory."""

FINDING_CHARS = 256
"""About what each finding of its answer takes."""


class Finding:
    """What is to be said of an event, but for what depends on earlier ones."""

    __slots__ = ("matches", "rest", "state")

    def __init__(
        self, rest: tuple[Any, ...], state: RuleState | None = None, matches: tuple[Match, ...] = ()
    ) -> None:
        self.rest = rest
        """A verdict's fields after `seq`, in their order: a section's, or a rule's that is always the same."""
        self.state = state
        """If set: of the rule that decides with these `matches`."""
        self.matches = matches


Findings = tuple[Finding, ...]


class Memory:
    """What holds for one process until it executes something else."""

    __slots__ = ("answers", "candidates", "process", "start")

    def __init__(
        self, process: Process, answers: dict[Hashable, Findings], candidates: dict[str, int]
    ) -> None:
        self.process = process
        self.start = process.start
        self.answers = answers
        self.candidates = candidates
        """Per kind of event, the rules' parts that such a process's events may concern."""


class ExecAnswer:
    """What holds for an executable whatever its arguments: denied or not, and the rules' parts that remain."""

    __slots__ = ("candidates", "denied")

    def __init__(self, denied: Finding | None, candidates: int) -> None:
        self.denied = denied
        self.candidates = candidates
