"""ebpfaudit trace: watch, live."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebpfaudit.errors import UsageError

if TYPE_CHECKING:
    from ebpfaudit.output.live import Live
    from ebpfaudit.watch import Watch

_WAIT_MS = 100
_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float:
    """Seconds; 0 where nothing was asked."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", value or "0")
    if not match or (value and not float(match[1])):
        raise click.BadParameter(f"{value!r} is not a duration such as 5s, 2m or 1h")
    return float(match[1]) * _UNITS_S[match[2]]


def _kinds(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    from ebpfaudit.output.selection import KINDS, USUAL

    if value is None:
        return USUAL
    kinds = tuple(KINDS) if value == "all" else tuple(value.split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise click.BadParameter(f"{kind!r} is none of {', '.join(KINDS)}, all")
    return kinds


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--episode", "-e", "episodes", multiple=True, metavar="ID", help="Only this episode; repeatable."
)
@click.option(
    "--pid", "-p", "pids", multiple=True, type=click.IntRange(1), help="Only it and its descendants."
)
@click.option("--cgroup", metavar="PATH", help="Only this cgroup and those below it.")
@click.option(
    "--kind",
    "-k",
    "kinds",
    callback=_kinds,
    metavar="KIND,...",
    help="exec, connect, gpu, exit, cgroup, episode, verdict, fork, seen; or all. "
    "Default: all but fork and seen. Losses are always shown.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--duration", callback=_duration, metavar="TIME", help="Stop after 5s, 2m, 1h.")
@click.option("--count", "-n", type=click.IntRange(1), default=None, help="Stop after that many lines.")
@click.option("--wide", is_flag=True, help="Never cut a line.")
@click.option(
    "--gpu-device",
    "gpu_devices",
    multiple=True,
    metavar="PATH=DRIVER",
    help="Treat a device file as a GPU of this driver.",
)
@click.option(
    "--profile", metavar="NAME|FILE", help="Judge what is seen by this profile. Nothing is enforced."
)
def trace(
    episodes: tuple[str, ...], pids: tuple[int, ...], cgroup: str | None, kinds: tuple[str, ...],
    as_json: bool, duration: float, count: int | None, wide: bool, gpu_devices: tuple[str, ...],
    profile: str | None,
) -> int:  # fmt: skip
    """Show what is happening on this host, live: programs started, destinations, GPU use.

    It only watches: nothing is stopped, and the audit of an episode is not disturbed. With --profile, what is seen
    is judged too: each episode by itself, and all processes of no episode together (`untagged = true`).
    Ctrl-C ends it, and says on stderr how much was seen and lost.

    \b
    ebpfaudit trace                                    the whole host
    ebpfaudit trace --kind connect,gpu -e ep-1         one episode's connections and GPU use
    ebpfaudit trace --pid 4120 --duration 30s          one process and its descendants
    ebpfaudit trace --json | jq 'select(.kind == "exec") | .argv'
    ebpfaudit trace --profile base --kind verdict      what the profile would say of this host
    """
    from ebpfaudit.output.live import Live
    from ebpfaudit.output.selection import Selection
    from ebpfaudit.profiles.load import load_profile
    from ebpfaudit.watch import watch

    _check(episodes, pids, cgroup)
    judged_by = load_profile(profile) if profile else None
    selection = Selection(kinds=kinds, episodes=episodes)
    sink, clock = _sink(as_json, wide, show_episode=len(episodes) != 1)
    live = Live(selection, sink, clock, count=count or 0)
    began, lost = time.monotonic(), 0
    with (
        _stopped_by_signals(),
        watch(
            live.take, episodes=episodes, pids=pids, cgroup=cgroup, gpu_devices=gpu_devices, profile=judged_by
        ) as source,
    ):
        try:
            _say("watching; Ctrl-C ends it")
            if judged_by is not None:
                _say(f"judging by profile {judged_by.name}: verdicts are shown, and nothing is enforced")
            for gap in source.gaps:
                _say(f"not in force: {gap}")
            _show(live, source, began + duration if duration else float("inf"))
        except KeyboardInterrupt:
            live.flush()
        except BrokenPipeError:  # `| head` has what it wanted; click would make an error of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        lost = source.lost
    took = time.monotonic() - began
    _say(f"{live.shown:,} of {live.seen:,} events shown, {lost:,} lost, {took:.1f} s")
    return 0


def _show(live: Live, source: Watch, until: float) -> None:
    while not live.done and (left_s := until - time.monotonic()) > 0:
        source.turn(min(_WAIT_MS, int(left_s * 1000) + 1) if left_s < 1 else _WAIT_MS)
        live.flush()
    live.flush()  # what came while the probes were being attached may have been all


def _check(episodes: tuple[str, ...], pids: tuple[int, ...], cgroup: str | None) -> None:
    if episodes and (pids or cgroup):
        raise UsageError("--episode is one way to choose, --pid and --cgroup are another: give one of them")
    for pid in pids:
        if not Path(f"/proc/{pid}").exists():
            raise UsageError(f"there is no process {pid} to follow")
    if cgroup is not None and not Path(cgroup).is_dir():
        raise UsageError(f"there is no cgroup {cgroup}; give its path, such as /sys/fs/cgroup/system.slice")


def _sink(as_json: bool, wide: bool, show_episode: bool) -> Any:
    from ebpfaudit.output.clock import WallClock

    clock = WallClock.of_this_host()
    if as_json:
        from ebpfaudit.output.ndjson import Ndjson

        return Ndjson(sys.stdout.buffer, clock), clock
    from ebpfaudit.output.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A locale that lacks a character is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(sys.stdout, clock, wide=wide, show_episode=show_episode)
    console.heading()
    signal.signal(signal.SIGWINCH, lambda *_: console.resize())
    return console, clock


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a trace as Ctrl-C does: with everything detached, and the count said."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(f"ebpfaudit: {text}", file=sys.stderr)
