"""ebpfaudit trace: watch, live."""

from __future__ import annotations

import io
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from ebpfaudit.errors import UsageError

if TYPE_CHECKING:
    from ebpfaudit.output.describe import Item
    from ebpfaudit.output.live import Live

Take = Callable[[str, Iterable["Item"]], None]
"""Is told the ID of an episode ("" for what belongs to none), and a batch of its items."""

_WAIT_MS = 100
_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Source(Protocol):
    """What `pipeline.watch` gives, while it is entered: the host's stream, handed to `take` as it comes."""

    def turn(self, timeout_ms: int) -> int:
        """Wait for events, at most that long, and hand over what came. Returns how many records it was."""

    @property
    def lost(self) -> int:
        """Records lost so far, of any episode and of none."""


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
def trace(
    episodes: tuple[str, ...], pids: tuple[int, ...], cgroup: str | None, kinds: tuple[str, ...],
    as_json: bool, duration: float, count: int | None, wide: bool, gpu_devices: tuple[str, ...],
) -> int:  # fmt: skip
    """Show what is happening on this host, live: programs started, destinations, GPU use, verdicts.

    It only watches. Ctrl-C ends it and says on stderr how much was seen and lost.

    \b
    ebpfaudit trace                                    the whole host
    ebpfaudit trace --kind connect,gpu -e ep-1         one episode's connections and GPU use
    ebpfaudit trace --pid 4120 --duration 30s          one process and its descendants
    ebpfaudit trace --json | jq 'select(.kind == "exec") | .argv'
    """
    from ebpfaudit.output.live import Live
    from ebpfaudit.output.selection import Selection

    _check(pids, cgroup)
    selection = Selection(kinds=kinds, episodes=episodes, pids=pids)
    sink, clock = _sink(as_json, wide, show_episode=len(episodes) != 1)
    live = Live(selection, sink, clock, count=count or 0)
    began, lost = time.monotonic(), 0
    with _stopped_by_signals(), _open(live.take, episodes, cgroup, gpu_devices) as source:
        if pids:
            selection.follow(_descendants(pids))
        try:
            _show(live, source, began + duration if duration else float("inf"))
        except KeyboardInterrupt:
            live.flush()
        lost = source.lost
    took = time.monotonic() - began
    _say(f"{live.shown:,} of {live.seen:,} events shown, {lost:,} lost, {took:.1f} s")
    return 0


def _show(live: Live, source: Source, until: float) -> None:
    while not live.done and time.monotonic() < until:
        source.turn(_WAIT_MS)
        live.flush()


def _open(
    take: Take, episodes: tuple[str, ...], cgroup: str | None, gpu_devices: tuple[str, ...]
) -> AbstractContextManager[Source]:
    from ebpfaudit import pipeline

    return pipeline.watch(take, episodes=episodes, cgroup=cgroup, gpu_devices=gpu_devices)


def _descendants(pids: tuple[int, ...]) -> set[int]:
    """The processes below `pids` at this moment, by /proc."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:  # "pid (comm, which may hold anything) state ppid ..."
            ppid = int(status.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(ppid, []).append(int(status.parent.name))
    found: set[int] = set()
    todo = list(pids)
    while todo:
        below = children.get(todo.pop(), [])
        found.update(below)
        todo += below
    return found


def _check(pids: tuple[int, ...], cgroup: str | None) -> None:
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
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a locale without our characters is no reason to stop
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
