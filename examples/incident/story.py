"""What became of each act: the agent's own report, the trail and the outside's ledger, laid side by side.

An act owns what happened between its beginning and its end: acts follow one another, and all three sources
use CLOCK_MONOTONIC.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from agent import ACTS

from ebpfaudit.verdicts import ACTIONS, Enforcement, Verdict

ACT_COUNT = len(ACTS)
ORDINARY = next(iter(ACTS))
HARMLESS = ("allow", "log")
DONE = ("denied", "killed", "already-exited")
FOLDERS = re.compile(r"(?<![^\s=])/\S*/")
LATE_NS = 50_000_000
"""How late the outside may notice what an act did."""


@dataclass(frozen=True)
class Act:
    name: str
    command: str
    ended: str
    ok: bool
    begin_ns: int
    end_ns: int
    verdicts: list[Verdict] = field(default_factory=list)
    enforcements: list[Enforcement] = field(default_factory=list)
    in_kernel: Counter[str] = field(default_factory=Counter)
    """How often the probe itself decided what."""
    outside: list[str] = field(default_factory=list)

    @property
    def is_ordinary(self) -> bool:
        return self.name == ORDINARY

    @property
    def innocent(self) -> bool:
        """It did what it was meant to, and nothing stricter than a log line came of it."""
        return self.ok and all(verdict.action in HARMLESS for verdict in self.verdicts)

    @property
    def succeeded(self) -> bool:
        return self.ok and (self.is_ordinary or bool(self.outside))

    @property
    def caught(self) -> bool:
        """Denied or killed, the harm not done, and no survivor of a kill."""
        stopped = any(verdict.action in ("deny", "kill") for verdict in self.verdicts)
        carried_out = bool(self.enforcements) or self.in_kernel["deny"] > 0
        complete = all(enforcement.result in DONE for enforcement in self.enforcements)
        return stopped and carried_out and complete and not self.ok and not self.outside


def read_acts(report: Path, trail: Path | None, seen_outside: list[dict]) -> list[Act]:
    acts = []
    for line in report.read_text().splitlines():
        ending = json.loads(line)
        ending["name"], ending["command"] = ending.pop("act"), " ".join(ending["command"])
        acts.append(Act(**ending))
    for seen in seen_outside:
        for act in acts:
            if act.begin_ns <= seen["ts_ns"] <= act.end_ns + LATE_NS:
                act.outside.append(seen["what"])
                break
    if trail is not None:
        _assign_trail(acts, trail)
    return acts


def _assign_trail(acts: list[Act], trail: Path) -> None:
    from ebpfaudit.trail.reader import Trail

    owners: dict[int, Act] = {}
    with Trail(trail) as lines:
        for number, item in lines.numbered():
            if isinstance(item, Verdict | Enforcement):
                if owner := owners.get(item.seq):
                    (owner.verdicts if isinstance(item, Verdict) else owner.enforcements).append(item)
                continue
            for act in acts:
                if act.begin_ns <= item.ts_ns <= act.end_ns:
                    owners[number] = act
                    act.in_kernel[getattr(item, "decision", "")] += 1


def tell(act: Act, *, audited: bool) -> str:
    """An act as a paragraph."""
    number = list(ACTS).index(act.name) + 1
    duration_ms = (act.end_ns - act.begin_ns) / 1e6
    lines = [f"{number}. {act.name}", f"   agent    {FOLDERS.sub('', act.command)}"]
    lines.append(f"   ended    {act.ended}, after {duration_ms:,.0f} ms")
    if audited:
        lines += [f"   verdict  {line}" for line in _tell_verdicts(act.verdicts)]
        lines += [f"   {line}" for line in _tell_enforcement(act)]
    if not act.is_ordinary:
        lines += [f"   outside  {line}" for line in act.outside or ["saw nothing of it"]]
    return "\n".join([*lines, ""])


def _tell_verdicts(verdicts: list[Verdict]) -> list[str]:
    """The strictest first; those that differ only in the value that decided are counted."""
    first: dict[tuple[str, str, str], Verdict] = {}
    count: Counter[tuple[str, str, str]] = Counter()
    for verdict in verdicts:
        key = (verdict.action, verdict.rule, verdict.because)
        first.setdefault(key, verdict)
        count[key] += 1
    lines = []
    for key, verdict in sorted(first.items(), key=lambda entry: -ACTIONS.index(entry[1].action)):
        more = f" (and {count[key] - 1} more like it)" if count[key] > 1 else ""
        fact = f"{verdict.field} {verdict.value[:80]!r}"
        lines.append(f"{verdict.action}: {verdict.rule}: {fact} met {verdict.because!r}{more}")
    return lines or ["none"]


def _tell_enforcement(act: Act) -> list[str]:
    lines = []
    for decision, done in (("deny", "denied"), ("kill", "killed")):
        if act.in_kernel[decision]:
            lines.append(f"{done:8} in the kernel, before the act: {act.in_kernel[decision]}")
    lines += [
        _tell_kill(kill) for kill in act.enforcements if kill.result not in ("denied", "already-exited")
    ]
    return lines


def _tell_kill(kill: Enforcement) -> str:
    """Times count from the offending call."""
    times = (("decided", kill.decided_ns), ("killed", kill.killed_ns), ("gone", kill.gone_ns))
    after = ", ".join(f"{name} {(when - kill.detected_ns) / 1e6:.2f} ms" for name, when in times if when)
    survivors = f", survivors {list(kill.survivors)}" if kill.survivors else ""
    return (
        f"{kill.result:8} {kill.processes} process(es) by {kill.method}{survivors}; after the call: {after}"
    )


def save(acts: list[Act], path: Path) -> None:
    import msgspec

    judged = [
        {
            **msgspec.to_builtins(act),
            "caught": act.caught,
            "innocent": act.innocent,
            "succeeded": act.succeeded,
        }
        for act in acts
    ]
    path.write_text(json.dumps(judged, indent=1) + "\n")
