"""What `trace` does with a stream: chosen lines out, until there are enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ebpfaudit.events import Event
from ebpfaudit.output.clock import WallClock
from ebpfaudit.output.describe import Item
from ebpfaudit.output.selection import Selection
from ebpfaudit.verdicts import Enforcement, Verdict


class Sink(Protocol):
    """Where chosen lines go: `console.Console` or `ndjson.Ndjson`."""

    def write(self, episode: str, seq: int, item: Item, about: Event | None = None) -> None: ...

    def flush(self) -> None: ...


class Live:
    """Shows what it is told of. `seen` and `shown` count items; `done` says that `count` lines are out."""

    def __init__(self, selection: Selection, sink: Sink, clock: WallClock, *, count: int = 0) -> None:
        """`count`: how many lines are enough; 0 if it is never enough."""
        self.seen = 0
        self.shown = 0
        self._selection = selection
        self._sink = sink
        self._clock = clock
        self._count = count
        self._seqs: dict[str, int] = {}
        self._last: dict[str, Event] = {}

    @property
    def done(self) -> bool:
        return 0 < self._count <= self.shown

    def take(self, episode: str, items: Iterable[Item]) -> None:
        """A batch of one episode ("" for what belongs to none), in its order: a verdict comes directly
        after the event it judges. Must be given all of them: events are counted here."""
        self._clock.adjust()
        for item in items:
            if self.done:
                break
            self._take(episode, item)

    def flush(self) -> None:
        """Let the lines out. To be called when there is nothing more to take just now."""
        self._sink.flush()

    def _take(self, episode: str, item: Item) -> None:
        self.seen += 1
        seq, about = -1, None
        if isinstance(item, Verdict | Enforcement):
            about = self._last.get(episode)
        else:
            seq = self._seqs.get(episode, -1) + 1
            self._seqs[episode] = seq
            self._last[episode] = item
        if self._selection.admits(episode, item):
            self._sink.write(episode, seq, item, about)
            self.shown += 1
