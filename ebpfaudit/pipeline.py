"""The only loop: read a batch, decode, tag, evaluate, hand over. Serves any number of episodes."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable

from ebpfaudit.episodes import Episode
from ebpfaudit.events import Event, Lost
from ebpfaudit.kernel.decode import Decoder
from ebpfaudit.kernel.loader import Probes
from ebpfaudit.kernel.ring import NAP_MS, Ring
from ebpfaudit.kernel.tables import Tables

WINDOW_BYTES = 256 << 10
"""How much is taken at once: bounds how long an offence waits behind a crowd of innocents. More than the longest
record (an exec with 64 KiB of arguments), or that one could never be read."""

_LOOK_EVERY_NS = 100_000_000
"""How often losses are looked up and trails reminded of the time."""


class Pipeline:
    """Takes what the probes hand over to the episodes it belongs to."""

    def __init__(self, probes: Probes, tables: Tables, *, untagged: Callable[[list[Event]], None] | None = None) -> None:
        self.decoder = Decoder()
        self._ring = Ring(probes.maps["events"], probes.maps["reader"], probes.ring_bytes)
        self._tables = tables
        self._untagged = untagged
        self._episodes: dict[int, Episode] = {}
        self._periodic: list[Callable[[int], None]] = []
        self._watched: list[int] = []
        self._awake = select.poll()
        """Everything that ends a nap, except the ring itself."""
        self._asleep = select.poll()
        self._asleep.register(probes.maps["events"], select.POLLIN)
        self._busy = False
        self._next_look_ns = 0

    def add(self, episode: Episode) -> None:
        """From now on, events with the episode's number are its own."""
        self._episodes[episode.number] = episode

    def remove(self, number: int) -> None:
        self._episodes.pop(number, None)

    def watch(self, descriptor: int) -> None:
        """Let `turn` return early when this non-blocking pipe has bytes, which it reads away."""
        self._awake.register(descriptor, select.POLLIN)
        self._asleep.register(descriptor, select.POLLIN)
        self._watched.append(descriptor)

    def every_look(self, action: Callable[[int], None]) -> None:
        """Call `action(now_ns)` about ten times a second."""
        self._periodic.append(action)

    def turn(self, timeout_ms: int) -> int:
        """Wait for events, at most `timeout_ms`, and handle a batch. Returns its size in bytes."""
        if self._busy:
            if self._ring.pending_bytes == 0:
                self._awake.poll(NAP_MS)
        else:
            self._ring.wait(self._asleep, timeout_ms)
        for descriptor in self._watched:
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, 4096)
        size = self._read()
        self._busy = size > 0
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_look_ns:
            self._next_look_ns = now_ns + _LOOK_EVERY_NS
            self.look(now_ns)
        return size

    def drain(self) -> None:
        """Handle all that was handed over so far, and account for what was not."""
        while self._read():
            pass
        self.look(time.monotonic_ns())

    def look(self, now_ns: int) -> None:
        """Account for losses, close old frames, and do whatever else is due."""
        for episode in list(self._episodes.values()):
            lost = self._tables.counters(episode.number).lost
            if lost > episode.lost:
                episode.judge([Lost(now_ns, lost - episode.lost)])
                episode.lost = lost
            if episode.recorder is not None:
                episode.recorder.tick(now_ns)
        for action in self._periodic:
            action(now_ns)

    def close(self) -> None:
        self._ring.close()

    def _read(self) -> int:
        """Handle one window of the ring buffer. Returns its size in bytes."""
        begin, end = self._ring.window(WINDOW_BYTES)
        if begin == end:
            return 0
        batch, size = self.decoder.decode(self._ring.data, begin, end)
        self._ring.release(size)
        for number, events in batch.items():
            episode = self._episodes.get(number)
            if episode is not None:
                episode.received += len(events)
                episode.judge(events)
            elif self._untagged is not None:
                self._untagged(events)
        return size
