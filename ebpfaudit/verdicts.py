"""What was decided about an event, and what was then done about it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Action = Literal["allow", "log", "alert", "deny", "freeze", "kill"]
ACTIONS: tuple[Action, ...] = ("allow", "log", "alert", "deny", "freeze", "kill")
"""From the mildest to the strictest; where several apply, the strictest is carried out."""

Scope = Literal["process", "tree", "episode"]


class Verdict(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="verdict"):
    """The evaluator's answer to event number `seq` of an episode. Explains itself."""

    seq: int
    action: Action
    rule: str
    """The rule's id, or the section's: "network", "gpu"."""
    field: str
    """The field that decided, such as "argv" or "dst"."""
    value: str
    """Its value in the event; for a count, the count reached."""
    because: str = ""
    """The profile's text that it met: a pattern, an entry, "default", "over 20 in 10s"."""
    scope: Scope = "tree"
    severity: str = ""
    technique: str = ""
    message: str = ""
    suppressed: int = 0
    """How many verdicts of this rule its `limit` has left out since the last one that was given."""


class Enforcement(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="enforcement"):
    """What was done about the verdict on event `seq`, and how it ended. Times: CLOCK_MONOTONIC ns."""

    seq: int
    action: Action
    scope: Scope
    rule: str
    result: str
    """"killed", "denied" (by the probe), "frozen", "partial" (see `survivors`), "already-exited",
    "disarmed" (too many kills), or "not-enforced" (dry run: what would have been done)."""
    method: str = ""
    """"cgroup.kill", "pidfd", or "probe"."""
    root_pid: int = 0
    """The topmost process that was killed."""
    processes: int = 0
    """How many processes were found and killed."""
    survivors: tuple[int, ...] = ()
    detected_ns: int = 0
    """Time of the offending event, in the kernel."""
    decided_ns: int = 0
    killed_ns: int = 0
    """The kill was written."""
    gone_ns: int = 0
    """The tree was verified to be empty."""
    error: str = ""
