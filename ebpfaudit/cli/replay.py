"""`ebpfaudit replay`: judge a recorded episode once more, and compare."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import IO, TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress

    from ebpfaudit.output.live import Sink
    from ebpfaudit.trail.reader import Trail
    from ebpfaudit.trail.replay import Comparison, Replay

_LONG_BYTES = 1 << 20
_FLUSH_EVERY = 1000
_SHOWN_DIFFERENCES = 20
_SHOWN_PROBLEMS = 5


@click.command()
@click.argument("trail", type=click.Path())
@click.option(
    "--profile", "-p", metavar="NAME|FILE", help="Judge by this profile instead of the recorded one."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Verdicts as JSON lines; the comparison goes to stderr."
)
def replay(trail: str, profile: str | None, as_json: bool) -> int:
    """Judge the events of TRAIL once more, print the verdicts, and compare them with the recorded ones.

    Exits with 0 if they are identical, byte for byte; with 1 if they differ, also where --profile makes
    them differ; with 1, too, if the trail is damaged. Nothing is enforced, and nothing but the trail is looked at.

    \b
    ebpfaudit replay ep-1.jsonl.zst
    ebpfaudit replay ep-1.jsonl.zst --profile stricter.toml
    ebpfaudit replay ep-1.jsonl.zst --json | jq -r .rule | sort | uniq -c
    """
    from ebpfaudit.output.clock import WallClock
    from ebpfaudit.output.console import Console
    from ebpfaudit.output.ndjson import Ndjson
    from ebpfaudit.profiles.load import load_profile
    from ebpfaudit.trail.reader import read_trail
    from ebpfaudit.trail.replay import Replay

    other = load_profile(profile) if profile else None
    with read_trail(trail) as opened:
        run = Replay(opened, other)
        clock = WallClock(opened.header.realtime_ns - opened.header.monotonic_ns)
        sink: Sink
        if as_json:
            sink = Ndjson(sys.stdout.buffer, clock)
        else:
            sink = Console(sys.stdout, clock, wide=not sys.stdout.isatty(), show_episode=False)
        _print_verdicts(opened, run, sink)
        comparison = run.compare()
        _print_comparison(comparison, other is None, sys.stderr if as_json else sys.stdout)
        _print_doubts(opened)
        return 0 if comparison.identical and not opened.damaged else 1


def _print_verdicts(trail: Trail, run: Replay, sink: Sink) -> None:
    with _bar(trail) as bar:
        for number, judged in enumerate(run, 1):
            sink.write(trail.header.episode, judged.verdict.seq, judged.verdict, judged.event)
            if number % _FLUSH_EVERY == 0:
                if bar is not None:
                    bar.stop()  # or its line would be torn by ours
                sink.flush()
                if bar is not None:
                    bar.start()
    sink.flush()


def _print_comparison(found: Comparison, same_profile: bool, stream: IO[str]) -> None:
    from ebpfaudit.output.describe import describe
    from ebpfaudit.output.terminal import ALARM, GREEN, RESET, wants_colour

    colour = wants_colour(stream)
    word, style = ("identical", GREEN) if found.identical else ("differ", ALARM)
    recorded = f"the {found.recorded:,} recorded {'ones' if same_profile else 'under the original profile'}"
    print(
        f"{found.replayed:,} verdicts on {found.events:,} events; {style if colour else ''}{word}{RESET if colour else ''}"
        f" {'to' if found.identical else 'from'} {recorded}",
        file=stream,
    )
    if found.identical:
        return
    print(f"  {found.appeared:,} appeared (+), {found.vanished:,} vanished (-)", file=stream)
    if not found.appeared and not found.vanished:
        print("  the same verdicts, but in another order", file=stream)
    for each in found.differences[:_SHOWN_DIFFERENCES]:
        sign = "+" if each.side == "appeared" else "-"
        kind, what, _ = describe(each.verdict)
        print(f"  {sign} event {each.verdict.seq}: {kind} {what}", file=stream)
    more = found.appeared + found.vanished - _SHOWN_DIFFERENCES
    if more > 0:
        print(f"  and {more:,} more", file=stream)


def _print_doubts(trail: Trail) -> None:
    """What makes the replay less than the episode."""
    doubts = [str(problem) for problem in trail.problems[:_SHOWN_PROBLEMS]]
    if trail.unwritten:
        doubts.append(f"{trail.unwritten:,} events could not be written when it was recorded")
    if trail.unknown:
        doubts.append(
            f"{trail.unknown:,} lines are of a kind that this version does not know, and were not judged"
        )
    for doubt in doubts:
        print(f"ebpfaudit: the trail is not whole: {doubt}", file=sys.stderr)


def _bar(trail: Trail) -> AbstractContextManager[Progress | None]:
    """A progress bar on stderr, for a long trail and a person who waits."""
    if trail.file_bytes < _LONG_BYTES or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console, RenderableType
    from rich.progress import Progress

    class Bar(Progress):
        """Looks itself how far the reading is, whenever it is drawn."""

        def get_renderables(self) -> Iterable[RenderableType]:
            for task in self.tasks:
                task.completed = trail.offset
            return super().get_renderables()

    bar = Bar(console=Console(stderr=True), transient=True)
    bar.add_task("replay", total=trail.file_bytes)
    return bar
