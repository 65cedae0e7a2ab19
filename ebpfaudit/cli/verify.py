"""`ebpfaudit verify`: is a trail as it was written, to its end?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ebpfaudit.trail.verification import Verification


@click.command()
@click.argument("trail", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of words.")
@click.option(
    "--expect", metavar="HASH", default="", help="The head that 'run' told: the trail must end with it."
)
def verify(trail: str, as_json: bool, expect: str) -> int:
    """Check TRAIL: the chain of its frames, their checksums, the numbers of its events, and its end.

    Exits with 0 if it is intact, with 1 if it is damaged, cut off or not closed. An intact trail can still lack
    events that the kernel or the disk could not take: that is said, and is no damage.

    Whoever can write the file can also forge all of it. Only a head that was kept elsewhere shows that:
    give it to --expect (its first 16 digits are enough).

    \b
    ebpfaudit verify ep-1.jsonl.zst
    ebpfaudit verify ep-1.jsonl.zst --expect 9f2c41d07ab35e68
    ebpfaudit verify ep-1.jsonl.zst --json | jq .problems
    """
    from ebpfaudit.trail.verification import verify_trail

    if expect and (len(expect) < 16 or expect.strip("0123456789abcdefABCDEF")):
        raise click.UsageError("--expect wants a SHA-256 in hexadecimal, or at least its first 16 digits.")
    found = verify_trail(trail, expect)
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    else:
        _print(trail, found)
    return 0 if found.state == "intact" else 1


def _print(path: str, found: Verification) -> None:
    from ebpfaudit.output.clock import WallClock
    from ebpfaudit.output.terminal import ALARM, GREEN, RESET, printable, wants_colour

    rows = [
        ("episode", f"{found.episode}{f', step {found.step}' if found.step else ''}"),
        ("recorded", f"{WallClock(0).utc(found.realtime_ns)} on {found.host}, profile {found.profile}"),
        ("ended", f"{found.reason}, code {found.code}" if found.reason else "not known"),
        ("frames", f"{found.frames:,}, {_bytes_per_event(found)}"),
        ("events", f"{found.events:,}"),
        ("verdicts", f"{found.verdicts:,}, enforcements {found.enforcements:,}"),
        ("record", _completeness(found)),
        ("head", found.head),
    ]
    colour = wants_colour(sys.stdout)
    style = (GREEN if found.state == "intact" else ALARM) if colour else ""
    print(f"{printable(path)}: {style}{found.state}{RESET if colour else ''}")
    for name, value in rows:
        print(f"  {name:9} {printable(value)}")
    for problem in found.problems:
        print(f"  problem   {printable(str(problem))}")


def _bytes_per_event(found: Verification) -> str:
    text = f"{found.file_bytes:,} bytes for {found.text_bytes:,} of text"
    return f"{text}, {found.file_bytes / found.events:.1f} an event" if found.events else text


def _completeness(found: Verification) -> str:
    if found.complete:
        return "complete"
    missing = []
    if found.lost:
        missing.append(f"{found.lost:,} events lost before they reached us")
    if found.unwritten:
        missing.append(f"{found.unwritten:,} events not written (disk full)")
    if found.unknown:
        missing.append(f"{found.unknown:,} lines of a kind that this version does not know")
    return "; ".join(["NOT complete", *missing])
