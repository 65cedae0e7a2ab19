"""What became of a workload."""

from __future__ import annotations

import msgspec

from .catalogue import Workload

_SHOWN = 1500


class Run(msgspec.Struct):
    """One run of a script."""

    exit_code: int
    seconds: float
    output: str


class Alarm(msgspec.Struct):
    """A verdict that wakes somebody up: alert, freeze or kill."""

    action: str
    rule: str
    why: str
    event: str
    """What the workload did, as `replay` words it."""


class Outcome(msgspec.Struct):
    """The run under audit, and the one without."""

    run: Run
    events: int
    denials: int
    alarms: list[Alarm]
    lost: int
    plain: Run | None = None

    def faults(self, workload: Workload) -> list[str]:
        """Why this shows nothing: the work was not done as the list says, alarm or not."""
        found = [] if self.plain is None else _faults(workload, self.plain, "without audit")
        if self.alarms:
            return found  # what came after an alarm is its consequence
        found += _faults(workload, self.run, "under audit")
        if workload.denied != bool(self.denials):
            found.append(f"{self.denials} denials, expected {'some' if workload.denied else 'none'}")
        if self.lost:
            found.append(f"{self.lost} events lost")
        return found

    def verdict(self, workload: Workload) -> str:
        """ "fine", "FALSE ALARM" or "failed"."""
        if self.alarms:
            return "FALSE ALARM"
        return "failed" if self.faults(workload) else "fine"


def _faults(workload: Workload, run: Run, how: str) -> list[str]:
    found = []
    if run.exit_code != workload.exit:
        found.append(f"{how}: exit code {run.exit_code}, expected {workload.exit}")
    found += [f"{how}: does not print {text!r}" for text in workload.prints if text not in run.output]
    return [*found, run.output[-_SHOWN:]] if found else []
