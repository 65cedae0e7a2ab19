"""What happened, in the words of one short line. Pure; nothing here decides or looks anything up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ebpfaudit import events as e
from ebpfaudit.output.terminal import ALARM, CYAN, DIM, GREEN, RED, YELLOW, printable
from ebpfaudit.verdicts import Enforcement, Verdict

Item = e.Event | Verdict | Enforcement

_ACTION_STYLES = {"deny": RED, "kill": ALARM, "freeze": ALARM, "alert": YELLOW, "log": CYAN, "allow": ""}


class Description(NamedTuple):
    kind: str
    what: str
    style: str = ""


def describe(item: Item) -> Description:
    """`what` is one line of printable text; `style` is how a terminal should show it."""
    kind, what, style = _DESCRIBE[type(item)](item)
    return Description(kind, printable(what), style)


def command_line(argv: tuple[str, ...], truncated: bool = False) -> str:
    """argv as a person would have typed it, more or less: an argument with a space is quoted."""
    shown = " ".join([f"'{word}'" if " " in word or not word else word for word in argv])
    return f"{shown} [...]" if truncated else shown


def byte_size(count: int) -> str:
    """ "512 B", "1.5 GiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def destination(event: e.Connect) -> str:
    """ "tcp 198.51.100.7:22", "tcp [2001:db8::1]:443", "unix /run/docker.sock"."""
    if event.family == "unix":
        return f"unix {event.dst}"
    return f"{event.protocol} {_endpoint(event.dst, event.port)}"


def _endpoint(address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{port}" if port else host


def _decided(decision: str) -> tuple[str, str]:
    """What stands before an act that the probe did not let through, and its style."""
    return {"deny": ("DENIED ", RED), "kill": ("KILLED ", ALARM)}.get(decision, ("", ""))


def _exec(event: e.Exec) -> tuple[str, str, str]:
    if event.error:
        return "exec", f"{event.error} {command_line(event.argv) or event.exe}", RED
    marks = "memfd " if event.memfd else "deleted " if event.deleted else ""
    line = command_line(event.argv, event.argv_truncated) or event.exe
    # A name that argv[0] does not own up to: `exec -a sshd miner`, or a copy under another name.
    claimed = event.argv[0].rsplit("/", 1)[-1].lstrip("-") if event.argv else ""
    real = event.exe.rsplit("/", 1)[-1]
    if not event.script and claimed and claimed != real and not real.startswith(claimed):
        marks += f"({event.exe}) "
    peer = f" <> {_endpoint(event.stdio, event.stdio_port)}" if event.stdio else ""
    before, style = _decided(event.decision)
    striking = event.memfd or event.deleted or event.stdio
    return "exec", before + marks + line + peer, style or (YELLOW if striking else "")


def _identity(event: e.Identity) -> tuple[str, str, str]:
    if event.error:
        return "content", f"{event.path} not known: {event.error}", YELLOW
    if event.same_as:
        return "content", f"{event.path} is {' = '.join(event.same_as)}", CYAN
    return "content", f"{event.path} is sha256 {event.sha256}", CYAN


def _connect(event: e.Connect) -> tuple[str, str, str]:
    before, style = _decided(event.decision)
    if not event.result:
        return "connect", before + destination(event), style
    if not style:
        style = {"ok": GREEN, "denied": RED}.get(event.result, YELLOW)
    return "connect", f"{before}{destination(event)} -> {event.result}", style


def _gpu(event: e.Gpu) -> tuple[str, str, str]:
    before, style = _decided(event.decision)
    parts = [event.event, event.device, event.command, event.uuid]
    if event.bytes:
        parts.append(byte_size(event.bytes))
    if event.result:
        parts.append(f"-> {event.result}")
    return "gpu", before + " ".join(filter(None, parts)), style or (YELLOW if event.result else CYAN)


def _gpu_count(event: e.GpuCount) -> tuple[str, str, str]:
    size = f" {byte_size(event.bytes)}" if event.bytes else ""
    return "gpu", f"{event.event} {event.device} x{event.count:,}{size}", DIM


def _fork(event: e.Fork) -> tuple[str, str, str]:
    return "fork", f"-> {event.child}", DIM


def _exit(event: e.Exit) -> tuple[str, str, str]:
    if event.signal:
        return "exit", f"signal {event.signal}", YELLOW
    return "exit", f"code {event.code}", DIM if event.code == 0 else YELLOW


def _cgroup_move(event: e.CgroupMove) -> tuple[str, str, str]:
    by = "itself" if event.by_pid == event.pid else f"pid {event.by_pid}"
    if event.inside:
        return "cgroup", f"moved to {event.path} by {by}", ""
    return "cgroup", f"LEFT for {event.path}, moved by {by}", YELLOW


def _seen(event: e.Seen) -> tuple[str, str, str]:
    return "seen", command_line(event.argv) or event.exe or f"[{event.comm}]", DIM


def _lost(event: e.Lost) -> tuple[str, str, str]:
    return "LOST", f"{event.count:,} records lost: {event.what}", ALARM


def _start(event: e.EpisodeStart) -> tuple[str, str, str]:
    step = f", step {event.step}" if event.step else ""
    return "start", f"episode {event.episode}, profile {event.profile or 'none'}, {event.source}{step}", CYAN


def _end(event: e.EpisodeEnd) -> tuple[str, str, str]:
    return "end", f"episode {event.reason}, code {event.code}", CYAN


def _step(event: e.Step) -> tuple[str, str, str]:
    return "step", event.step, CYAN


def verdict_text(verdict: Verdict) -> str:
    """ "reverse-ssh-tunnel: argv "-NR" met "-*R*" (T1572, critical)": rule, field, value, and why."""
    met = f" met {_quoted(verdict.because)}" if verdict.because else ""
    about = ", ".join(filter(None, (verdict.technique, verdict.severity)))
    text = f"{verdict.rule}: {verdict.field} {_quoted(verdict.value)}{met}"
    if about:
        text += f" ({about})"
    if verdict.suppressed:
        text += f" ({verdict.suppressed:,} more left out)"
    return f"{text} {verdict.message}" if verdict.message else text


def _quoted(text: str) -> str:
    return f'"{text}"'


def enforcement_text(done: Enforcement) -> str:
    """What was done, to how many, by what means, and how long after the offending call."""
    if done.result not in ("killed", "partial", "frozen"):
        detail = f" ({done.error})" if done.error else ""
        return f"{done.result} {done.action} for {done.rule}{detail}"
    number = f"{done.processes} process{'' if done.processes == 1 else 'es'}"
    text = f"{done.result} {done.scope} of {done.root_pid}: {number}"
    if done.method:
        text += f" by {done.method}"
    text += _times_text(done)
    if done.survivors:
        text += f"; SURVIVORS {', '.join(map(str, done.survivors))}"
    return f"{text}; {done.error}" if done.error else text


def times_ms(done: Enforcement) -> dict[str, float]:
    """Milliseconds from the offending call to the decision, the kill, and the last process gone."""
    stages = (("decided", done.decided_ns), ("killed", done.killed_ns), ("gone", done.gone_ns))
    return {name: round((ns - done.detected_ns) / 1e6, 3) for name, ns in stages if ns and done.detected_ns}


def _times_text(done: Enforcement) -> str:
    times = times_ms(done)
    if not times:
        return ""
    return " (" + ", ".join(f"{name} {ms:.2f} ms" for name, ms in times.items()) + ")"


def _verdict(verdict: Verdict) -> tuple[str, str, str]:
    return verdict.action.upper(), verdict_text(verdict), _ACTION_STYLES.get(verdict.action, "")


def _enforcement(done: Enforcement) -> tuple[str, str, str]:
    clean = done.result in ("killed", "denied", "frozen", "already-exited")
    return "done", enforcement_text(done), GREEN if clean and not done.survivors else ALARM


_DESCRIBE: dict[type, Callable[[Any], tuple[str, str, str]]] = {
    e.Exec: _exec, e.Identity: _identity, e.Connect: _connect, e.Gpu: _gpu, e.GpuCount: _gpu_count, e.Fork: _fork, e.Exit: _exit,
    e.CgroupMove: _cgroup_move, e.Seen: _seen, e.Lost: _lost, e.EpisodeStart: _start, e.EpisodeEnd: _end,
    e.Step: _step, Verdict: _verdict, Enforcement: _enforcement,
}  # fmt: skip
