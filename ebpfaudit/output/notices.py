"""The few lines that `run` says on stderr while the audited command owns the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from ebpfaudit.events import Connect, Event, Exec, Gpu, Seen
from ebpfaudit.output.clock import WallClock
from ebpfaudit.output.describe import command_line, describe, destination, enforcement_text, verdict_text
from ebpfaudit.output.terminal import ALARM, GREEN, RED, RESET, YELLOW, printable
from ebpfaudit.verdicts import Enforcement, Verdict

_PREFIX = "ebpfaudit: "
_COLOURS = {"kill": ALARM, "freeze": ALARM, "deny": RED, "alert": YELLOW}


def start_lines(
    episode: str, profile: str, trail: str, gaps: Sequence[str], *, enforce: bool, step: str = ""
) -> list[str]:
    """What begins, under which profile, and what this kernel leaves open (`kernel.coverage.gaps`)."""
    parts = [f"episode {episode}"]
    if step:
        parts.append(f"step {step}")
    parts += [f"profile {profile}", "enforced" if enforce else "NOT enforced: only recorded"]
    if trail:
        parts.append(f"trail {trail}")
    lines = [_PREFIX + printable(", ".join(parts))]
    if gaps:
        lines.append(_PREFIX + "not covered on this kernel: " + printable("; ".join(gaps)))
    return lines


def verdict_line(
    verdict: Verdict, event: Event | None, clock: WallClock, *, name: str = "", colour: bool = False
) -> str:
    """One alert: when, how grave, who, by which rule, and what was being done.

    `name` is the process's comm where the event does not carry it.
    """
    when = clock.local(event.ts_ns) + " " if event is not None else ""
    who, act = _who(event, name), _act(event)
    text = f"{who}{verdict_text(verdict)}{act}"
    return (
        _PREFIX
        + when
        + _coloured(verdict.action.upper(), _COLOURS.get(verdict.action, ""), colour)
        + printable(f" {text}")
    )


def enforcement_line(done: Enforcement, *, colour: bool = False) -> str:
    """How a verdict was carried out, with its times."""
    clean = done.result in ("killed", "denied", "frozen", "already-exited") and not done.survivors
    first, _, rest = enforcement_text(done).partition(" ")
    return (
        _PREFIX
        + _coloured(printable(first), GREEN if clean else ALARM, colour)
        + printable(f" {rest} [{done.rule}]")
    )


def _coloured(text: str, style: str, colour: bool) -> str:
    return f"{style}{text}{RESET}" if colour and style else text


def _who(event: Event | None, name: str) -> str:
    pid = getattr(event, "pid", 0)
    name = getattr(event, "comm", "") or name
    return f"{name}[{pid}] " if pid else ""


def _act(event: Event | None) -> str:
    match event:
        case Exec():
            return f" | {command_line(event.argv, event.argv_truncated) or event.exe}"
        case Seen():
            return f" | {command_line(event.argv) or event.exe}"
        case Connect():
            return f" | {destination(event)}"
        case Gpu():
            return f" | {describe(event).what}"
    return ""
