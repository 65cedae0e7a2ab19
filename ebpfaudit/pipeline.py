"""The only loop: read a batch, decode, tag, evaluate, hand over. Serves any number of episodes."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ebpfaudit.episodes import Recorder
from ebpfaudit.events import Event, Exec, Fork, Lost
from ebpfaudit.kernel.decode import Batch, Decoder
from ebpfaudit.kernel.loader import Probes
from ebpfaudit.kernel.ring import NAP_MS, Ring
from ebpfaudit.kernel.tables import Tables

WINDOW_BYTES = 256 << 10
"""How much is taken at once: bounds how long an offence waits behind a crowd of innocents. More than the longest
record (an exec with 64 KiB of arguments), or that one could never be read."""

PEEK_BYTES = 4 << 20
"""How far a kill looks ahead for forks; beyond, it asks /proc."""

_LOOK_EVERY_NS = 100_000_000
"""How often losses are looked up and trails reminded of the time."""


class Audience(Protocol):
    """Takes the events of one episode number: an `Episode`, or somebody who merely watches."""

    number: int
    received: int
    lost: int
    recorder: Recorder | None

    def judge(self, events: list[Event]) -> None: ...


class Source(Protocol):
    """Finds out, beside the stream, what belongs into it (`kernel.identity.Identifier`)."""

    @property
    def descriptor(self) -> int: ...
    def submit(self, number: int, event: Exec) -> None: ...
    def take(self) -> Sequence[tuple[int, Event]]: ...


class Pipeline:
    """Takes what the probes hand over to the episodes it belongs to."""

    def __init__(self, probes: Probes, tables: Tables) -> None:
        self.decoder = Decoder()
        self._ring = Ring(probes.maps["events"], probes.maps["reader"], probes.ring_bytes)
        self._tables = tables
        self._episodes: dict[int, Audience] = {}
        self._periodic: list[Callable[[int], None]] = []
        self._watched: set[int] = set()
        self._source: Source | None = None
        self._awake = select.poll()
        """Everything that ends a nap, except the ring itself."""
        self._asleep = select.poll()
        self._asleep.register(probes.maps["events"], select.POLLIN)
        self._judging: Batch = {}
        self._busy = False
        self._next_look_ns = 0

    def add(self, episode: Audience) -> None:
        """From now on, events with the episode's number are its own. Number 0 is everything untagged."""
        self._episodes[episode.number] = episode

    def remove(self, number: int) -> None:
        self._episodes.pop(number, None)

    def watch(self, descriptor: int) -> None:
        """Let `turn` return early when this non-blocking pipe has bytes, which it reads away."""
        self._awake.register(descriptor, select.POLLIN)
        self._asleep.register(descriptor, select.POLLIN)
        self._watched.add(descriptor)

    def consult(self, source: Source) -> None:
        """Tell `source` of every exec, and take its answers into the streams that they belong to."""
        self._source = source
        self._awake.register(source.descriptor, select.POLLIN)
        self._asleep.register(source.descriptor, select.POLLIN)

    def every_look(self, action: Callable[[int], None]) -> None:
        """Call `action(now_ns)` about ten times a second."""
        self._periodic.append(action)

    def turn(self, timeout_ms: int) -> int:
        """Wait for events, at most `timeout_ms`, and handle a batch. Returns its size in bytes."""
        ready: list[tuple[int, int]] = []
        if not self._busy:
            ready = self._ring.wait(self._asleep, timeout_ms)
        elif self._ring.pending_bytes == 0:
            ready = self._awake.poll(NAP_MS)
        size = self._read()  # before anything else: an offender may be waiting for us
        self._busy = size > 0
        for descriptor, what in ready:
            if descriptor in self._watched:
                with contextlib.suppress(BlockingIOError):
                    os.read(descriptor, 4096)
            elif (
                what & select.POLLHUP and self._source is not None
            ):  # it is gone: its silence would keep us awake
                self._awake.unregister(descriptor)
                self._asleep.unregister(descriptor)
        if self._source is not None:
            self.deliver(self._source.take())
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_look_ns:
            self._next_look_ns = now_ns + _LOOK_EVERY_NS
            self.look(now_ns)
        return size

    def deliver(self, found: Sequence[tuple[int, Event]]) -> None:
        """Hand events that did not come through the ring buffer to those that they belong to."""
        for number, event in found:
            if number in self._episodes:
                self._episodes[number].judge([event])

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

    def pending_forks(self, number: int) -> list[Fork]:
        """Forks of an episode that have left the kernel and not been judged yet, in order: who must die with
        a tree is known exactly, however far behind we are."""
        forks = [event for event in self._judging.get(number, ()) if isinstance(event, Fork)]
        begin, end = self._ring.window(PEEK_BYTES)
        batch, _ = Decoder().decode(self._ring.data, self._ring.words, begin, end)
        return forks + [event for event in batch.get(number, ()) if isinstance(event, Fork)]

    def close(self) -> None:
        self._ring.close()

    def _read(self) -> int:
        """Handle one window of the ring buffer. Returns its size in bytes."""
        begin, end = self._ring.window(WINDOW_BYTES)
        if begin == end:
            return 0
        batch, size = self.decoder.decode(self._ring.data, self._ring.words, begin, end)
        self._ring.release(size)
        self._judging = batch
        for number, events in batch.items():
            episode = self._episodes.get(number)
            if episode is not None:
                episode.received += len(events)
                if self._source is not None:  # first: it works while we judge
                    self._submit(number, events)
                episode.judge(events)
        return size

    def _submit(self, number: int, events: list[Event]) -> None:
        assert self._source is not None
        for event in events:
            if type(event) is Exec:
                self._source.submit(number, event)
