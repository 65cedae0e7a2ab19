"""Bytes an event takes in the trail: the incident's ordinary work, recorded for real, repeated to 100,000 events.

Every repetition has its own processes and times. A frame is closed once a second, which starts the compressor afresh:
so the same work takes fewer bytes an event the faster it comes. "all at once" closes frames at 1 MiB only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from benchmarks.audit import audited
from ebpfaudit.events import Event, Exec, Fork
from ebpfaudit.process import TICK_NS
from ebpfaudit.trail.format import Header
from ebpfaudit.trail.reader import read_trail
from ebpfaudit.trail.writer import TrailWriter

LIMIT_BYTES = 12.0
_EVENTS = 100_000
_ORDINARY = Path(__file__).parent.parent / "examples" / "incident" / "ordinary.py"


def record(folder: Path) -> list[Event]:
    """One recorded run of the ordinary work: the events of its processes."""
    trail, place = folder / "ordinary.jsonl.zst", folder / "place"
    place.mkdir()
    audited(folder, "coding-agent", [sys.executable, str(_ORDINARY), str(place)], trail=str(trail))
    return [item for item in read_trail(trail) if hasattr(item, "start") and hasattr(item, "ts_ns")]


def shifted(event: Event, ts_ns: int, pids: int) -> Event:
    """The same act of other processes, later."""
    ticks = ts_ns // TICK_NS
    changes = {"ts_ns": event.ts_ns + ts_ns, "pid": event.pid + pids, "start": event.start + ticks}
    if isinstance(event, Fork):
        changes |= {"child": event.child + pids, "child_start": event.child_start + ticks}
    if isinstance(event, Exec) and event.ppid:
        changes["ppid"] = event.ppid + pids
    return msgspec.structs.replace(event, **changes)


def write(folder: Path, events: list[Event], speed: float) -> float:
    """Bytes per event of the repeated work, `speed` times as fast as it was recorded."""
    header = Header(
        version="0", host="bench", boot_id="0", kernel="0", realtime_ns=0, monotonic_ns=0, episode="size",
        profile="coding-agent", profile_text="", profile_hash="",
    )  # fmt: skip
    path = folder / f"size-{speed}.jsonl.zst"
    writer = TrailWriter(path, header)
    base, span = events[0].ts_ns, events[-1].ts_ns - events[0].ts_ns + 1_000_000
    pids = max(event.pid for event in events) - min(event.pid for event in events) + 7
    frame_ns, written, second = 1_000_000_000, 0, 0
    while written < _EVENTS:
        turn = written // len(events)
        for event in events:
            writer.append(shifted(event, turn * span, turn * pids))
            written += 1
            now = int((event.ts_ns - base + turn * span) / speed) // frame_ns
            if now != second:
                second = now
                writer.flush(sync=False)
    writer.close("benchmark", 0, complete=True)
    return path.stat().st_size / written


def report(folder: Path) -> None:
    events = record(folder)
    seconds = (events[-1].ts_ns - events[0].ts_ns) / 1e9
    print(f"\nTrail size: ordinary work, {len(events):,} events in {seconds:.1f} s, repeated to {_EVENTS:,}")
    print(f"  as recorded       {write(folder, events, 1):6.1f} bytes an event")
    print(f"  ten times as fast {write(folder, events, 10):6.1f} bytes an event")
    print(f"  all at once       {write(folder, events, 1e9):6.1f} bytes an event   (at most {LIMIT_BYTES:g})")
