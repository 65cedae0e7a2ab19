"""What a finished `run` has to say: to a person on stderr, and to a trainer as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from ebpfaudit.events import Connect, Exec, Fork, Gpu, GpuCount, Lost
from ebpfaudit.output.describe import Item, byte_size, enforcement_text, times_ms
from ebpfaudit.output.terminal import ALARM, GREEN, RESET, YELLOW, printable
from ebpfaudit.verdicts import Enforcement, Verdict


class GpuUse(Struct):
    """What was asked of one device. `calls` counts driver requests, `bytes` those of allocations."""

    opens: int = 0
    contexts: int = 0
    calls: int = 0
    bytes: int = 0
    denied: int = 0


class VerdictCount(Struct, frozen=True):
    """How often a rule gave one answer, and the first value that it did so for."""

    rule: str
    action: str
    count: int
    field: str
    value: str
    seq: int
    """Number of the first such event in the episode."""


class RunSummary(Struct):
    """The whole run. The order of the fields is that of the JSON; names do not change."""

    episode: str
    profile: str
    step: str = ""
    exit_code: int = 0
    killed_by_policy: bool = False
    duration_s: float = 0.0
    processes: int = 0
    execs: int = 0
    failed_execs: int = 0
    connections: dict[str, int] = {}
    """"attempted", and how they ended: "ok", "refused", "denied", ..."""
    gpu: dict[str, GpuUse] = {}
    """By device."""
    verdicts: list[VerdictCount] = []
    enforcements: list[Enforcement] = []
    lost: int = 0
    complete: bool = True
    """Nothing was lost, neither on the way from the kernel nor on the way to the trail."""
    trail: str | None = None
    trail_head: str | None = None
    """SHA-256 of the trail's last frame: kept elsewhere, it shows that the trail was not replaced."""
    coverage: list[str] = []
    unidentified: int = 0
    """Programs whose content should have been known, for the profile's identities, and was not learnt."""


class Tally:
    """Counts what an episode did, batch by batch, for its summary."""

    def __init__(self) -> None:
        self.counts: Counter[type] = Counter()
        self._connects: Counter[tuple[str, str, str]] = Counter()
        self.gpu: dict[str, GpuUse] = {}
        self.failed_execs = 0
        self.lost = 0
        self.enforcements: list[Enforcement] = []
        self._verdicts: dict[tuple[str, str], list[Any]] = {}

    def add(self, items: Iterable[Item]) -> None:
        """Take a batch. Costs 0.1 us an item, 0.3 us a connect: it is on the way of every event."""
        items = list(items)
        types = Counter(map(type, items))
        self.counts.update(types)
        if Exec in types:
            self.failed_execs += sum([1 for item in items if type(item) is Exec and item.error])
        if Connect in types:
            self._connects.update(map(_outcome, [item for item in items if type(item) is Connect]))
        if types.keys() & _DETAILED:
            for item in items:
                if type(item) in _DETAILED:
                    self._detail(item)

    @property
    def connections(self) -> dict[str, int]:
        """How many were attempted, and how they ended."""
        ends: Counter[str] = Counter()
        for (phase, result, decision), count in self._connects.items():
            denied = decision in ("deny", "kill")
            if phase == "attempt":
                ends["attempted"] += count
                if denied:
                    ends["denied"] += count
            elif not denied:  # a denied attempt was counted when it was made
                ends[result] += count
        return dict(ends)

    def _detail(self, item: Item) -> None:
        match item:
            case Gpu():
                self._gpu(item)
            case GpuCount():
                use = self.gpu.setdefault(item.device, GpuUse())
                use.calls += item.count
                use.bytes += item.bytes if item.event == "alloc" else 0
            case Lost():
                self.lost += item.count
            case Verdict():
                self._verdicts.setdefault((item.rule, item.action), [0, item])[0] += 1
            case Enforcement():
                self.enforcements.append(item)

    def _gpu(self, event: Gpu) -> None:
        use = self.gpu.setdefault(event.device, GpuUse())
        use.calls += event.event != "open"
        use.bytes += event.bytes if event.event == "alloc" and not event.result else 0
        if event.decision in ("deny", "kill"):
            use.denied += 1
        elif not event.result:
            use.opens += event.event == "open"
            use.contexts += event.event == "context"

    def summary(self, episode: str, profile: str, **rest: Any) -> RunSummary:
        """What was counted, and `rest`: the fields that only the caller knows."""
        return RunSummary(
            episode,
            profile,
            processes=self.counts[Fork] + 1,
            execs=self.counts[Exec] - self.failed_execs,
            failed_execs=self.failed_execs,
            connections=self.connections,
            gpu=self.gpu,
            verdicts=[
                VerdictCount(rule, action, count, first.field, first.value, first.seq)
                for (rule, action), (count, first) in self._verdicts.items()
            ],
            enforcements=self.enforcements,
            lost=self.lost,
            **{"complete": self.lost == 0, **rest},
        )


_outcome = attrgetter("phase", "result", "decision")
_DETAILED = frozenset({Gpu, GpuCount, Lost, Verdict, Enforcement})


def to_json(summary: RunSummary) -> bytes:
    """One line of JSON, with every key present. Enforcements carry their times in milliseconds too."""
    result = msgspec.to_builtins(summary)
    result["enforcements"] = [_enforcement(done) for done in summary.enforcements]
    return msgspec.json.encode(result) + b"\n"


def _enforcement(done: Enforcement) -> dict[str, Any]:
    times = times_ms(done)
    return {
        "seq": done.seq,
        "rule": done.rule,
        "action": done.action,
        "scope": done.scope,
        "result": done.result,
        "method": done.method,
        "root_pid": done.root_pid,
        "processes": done.processes,
        "survivors": list(done.survivors),
        "decided_ms": times.get("decided"),
        "killed_ms": times.get("killed"),
        "gone_ms": times.get("gone"),
        "error": done.error,
    }


def render(summary: RunSummary, *, colour: bool = False) -> str:
    """A block of a few lines, for stderr."""
    lines = [f"ebpfaudit: {_ending(summary)}"]
    lines += [f"  {name:<12} {printable(text)}" for name, text in _rows(summary) if text]
    name, style, text = _record(summary)
    lines.append(f"  {name:<12} {style if colour else ''}{printable(text)}{RESET if colour else ''}")
    if colour and summary.killed_by_policy:
        lines[0] = f"{ALARM}{lines[0]}{RESET}"
    elif colour and summary.enforcements:
        lines[0] = f"{YELLOW}{lines[0]}{RESET}"
    return "\n".join(lines) + "\n"


def _ending(summary: RunSummary) -> str:
    step = f", step {summary.step}" if summary.step else ""
    how = "KILLED BY POLICY" if summary.killed_by_policy else f"exit code {summary.exit_code}"
    text = (
        f"episode {summary.episode}{step}, profile {summary.profile}: {how} after {summary.duration_s:.1f} s"
    )
    return printable(text)


def _rows(summary: RunSummary) -> Iterable[tuple[str, str]]:
    failed = f", {summary.failed_execs:,} failed to start" if summary.failed_execs else ""
    yield "processes", f"{summary.processes:,}; {summary.execs:,} programs run{failed}"
    yield "connections", _connections(summary.connections)
    for device, use in summary.gpu.items():
        yield "gpu", _gpu_use(device, use)
    for verdict in summary.verdicts:
        if verdict.action != "allow":
            times = f"{verdict.count:,} x " if verdict.count > 1 else ""
            yield "verdict", f'{times}{verdict.action} {verdict.rule}: {verdict.field} "{verdict.value}"'
    if summary.unidentified:
        yield (
            "content",
            f"not learnt of {summary.unidentified:,} programs: copies of known ones may be among them",
        )
    for done in summary.enforcements:
        yield "enforced", f"{done.rule}: {enforcement_text(done)}"


def _connections(counts: dict[str, int]) -> str:
    if not counts:
        return "none"
    ended = [f"{count:,} {result}" for result, count in sorted(counts.items()) if result != "attempted"]
    return f"{counts.get('attempted', 0):,} attempted" + (f": {', '.join(ended)}" if ended else "")


def _gpu_use(device: str, use: GpuUse) -> str:
    parts = [f"opened {use.opens:,}", f"contexts {use.contexts:,}", f"driver calls {use.calls:,}"]
    if use.bytes:
        parts.append(f"allocated {byte_size(use.bytes)}")
    if use.denied:
        parts.append(f"denied {use.denied:,}")
    return f"{device}: {', '.join(parts)}"


def _record(summary: RunSummary) -> tuple[str, str, str]:
    where = f"; {summary.trail}" if summary.trail else "; not kept (no trail)"
    if summary.trail_head:
        where += f" (head {summary.trail_head[:16]})"
    if summary.lost:
        return "record", ALARM, f"INCOMPLETE: {summary.lost:,} records lost{where}"
    if not summary.complete:
        return "record", ALARM, f"INCOMPLETE{where}"
    return "record", GREEN, f"complete{where}"
