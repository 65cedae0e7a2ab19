"""How many events a second go through everything (ring, decode, tag, judge by 50 rules, trail) without a loss.

One process names destinations at a set rate on one CPU; the auditor has the other. Then the same path is timed
stage by stage, from a recorded ring.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

from benchmarks.audit import audited, build, pinned, profile, rules
from ebpfaudit.episodes import Episode
from ebpfaudit.events import EpisodeStart, Event
from ebpfaudit.kernel import layout
from ebpfaudit.kernel.decode import Decoder
from ebpfaudit.output.summary import Tally
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import load_profile
from ebpfaudit.trail.format import Header
from ebpfaudit.trail.writer import TrailWriter

RATES = (100_000, 200_000, 300_000, 400_000, 500_000, 600_000)
TARGET = 400_000


def sustained(folder: Path, seconds: int) -> tuple[int, int]:
    """(events a second with zero loss, events a second that the next higher rate asked for)."""
    producer, strict = build("producer", folder), profile(folder, rules(50))
    best = 0
    for rate in RATES:
        trail = folder / f"rate-{rate}.jsonl.zst"
        result, out = audited(folder, strict, pinned([producer, str(rate), str(seconds)]), trail=str(trail))
        trail.unlink()
        made, lost = int(out), result["lost"]
        print(
            f"  {rate:9,} asked a second: {made:11,} events, {lost:9,} lost, record complete: {result['complete']}"
        )
        if lost or not result["complete"]:
            return best, rate
        best = rate
    return best, RATES[-1]


def _ring(count: int) -> memoryview:
    """What the ring buffer holds after so many connects of programs/producer.c: 61 addresses, 97 ports."""
    record = layout.CONNECT_RECORD.layout
    raw = bytearray()
    for n in range(count):
        address = b"\0" * 10 + b"\xff\xff\x7f\0\0" + bytes([1 + n % 61])
        entry = record.pack(
            layout.CONNECT, 1, 10**12 + n * 2500, 5 * 10**9, 4000, 0, b"producer", address, 1 + n % 97, 4, 17, 1, 0, 4000,
        )  # fmt: skip
        raw += struct.pack("=II", len(entry), 0) + entry
    return memoryview(raw)


def stages(folder: Path, count: int = 200_000) -> dict[str, float]:
    """Seconds for one event in each stage; "whole path" is the pipeline's own road, all stages together."""
    ring, strict = _ring(count), load_profile(profile(folder, rules(50)))
    words, took = ring.cast("I"), {}
    began = time.perf_counter()
    events: list[Event] = []
    decoder, position = Decoder(), 0
    while position < len(ring):
        batch, size = decoder.decode(ring, words, position, min(len(ring), position + (256 << 10)))
        position += size
        events += batch[1]
    took["decode"] = (time.perf_counter() - began) / count
    took["judge, 50 rules"] = _time_each(Evaluator(strict).evaluate, events)
    took["tally"] = _time_batches(Tally().add, events)
    with_header = Header(
        version="0", host="h", boot_id="b", kernel="k", realtime_ns=0, monotonic_ns=0, episode="bench",
        profile=strict.name, profile_text="", profile_hash="",
    )  # fmt: skip
    writer = TrailWriter(folder / "stage.jsonl.zst", with_header)
    took["trail"] = _time_batches(writer.extend, events)
    writer.close("benchmark", 0, complete=True)
    took["whole path"] = _whole(folder, ring, words, strict, with_header, count)
    return took


def _whole(folder, ring, words, strict, header, count) -> float:
    writer, tally, decoder = TrailWriter(folder / "whole.jsonl.zst", header), Tally(), Decoder()
    episode = Episode(1, "bench", strict, recorder=writer, listener=lambda _, items: tally.add(items))
    episode.judge([EpisodeStart(0, "bench", strict.name, 1, 1)])
    began, position = time.perf_counter(), 0
    while position < len(ring):
        batch, size = decoder.decode(ring, words, position, min(len(ring), position + (256 << 10)))
        position += size
        episode.judge(batch[1])
    writer.close("benchmark", 0, complete=True)
    return (time.perf_counter() - began) / count


def _time_each(act, events) -> float:
    began = time.perf_counter()
    for event in events:
        act(event)
    return (time.perf_counter() - began) / len(events)


def _time_batches(act, events) -> float:
    began = time.perf_counter()
    for start in range(0, len(events), 3000):
        act(events[start : start + 3000])
    return (time.perf_counter() - began) / len(events)


def report(folder: Path, seconds: int = 4) -> None:
    print(
        f"\nThroughput of the whole path, one core, 50 rules, trail on disk (target {TARGET:,}/s without loss)"
    )
    best, _ = sustained(folder, seconds)
    print(f"  sustained without loss: {best:,} events/s")
    for stage, cost in stages(folder).items():
        print(f"  {stage:18} {cost * 1e6:6.2f} us an event")
