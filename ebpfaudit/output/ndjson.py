"""One JSON object per line, for jq, log shippers and databases."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ebpfaudit.events import EpisodeStart, Event
from ebpfaudit.output.clock import WallClock
from ebpfaudit.output.describe import Item
from ebpfaudit.verdicts import Enforcement, Verdict

_FULL = 1 << 16


class Stream(Protocol):
    """A binary file, or a `voice.Voice`."""

    def write(self, data: bytes | bytearray, /) -> object: ...
    def flush(self) -> None: ...


class Ndjson:
    """Writes each item as its fields, after `time` (ISO 8601, UTC), `episode` and `seq`.

    Call `flush` after each batch. A quiet host has batches of one, so a reader behind a pipe sees each
    line at once; a busy one has batches of thousands, which leave in one write.
    """

    def __init__(self, stream: Stream, clock: WallClock) -> None:
        self._stream = stream
        self._clock = clock
        self._encode = msgspec.json.Encoder().encode
        self._buffer = bytearray()
        self._episode = ("", b'""')

    def write(self, episode: str, seq: int, item: Item, about: Event | None = None) -> None:
        """`seq` is an event's number in its episode; a verdict and an enforcement carry that of theirs.

        `about` is the event that a verdict judges: it lends its time.
        """
        if episode != self._episode[0]:
            self._episode = (episode, self._encode(episode))
        buffer = self._buffer
        head, body = self._head(seq, item, about), self._encode(item)
        buffer += head
        buffer += body[1:]
        buffer += b"\n"
        if len(buffer) >= _FULL:
            self.flush()

    def _head(self, seq: int, item: Item, about: Event | None) -> bytes:
        label = self._episode[1]
        if isinstance(item, Verdict):
            time = b'"time":"%b",' % self._clock.utc(about.ts_ns).encode() if about is not None else b""
            return b'{%b"episode":%b,' % (time, label)
        if isinstance(item, Enforcement):
            when_ns = item.gone_ns or item.killed_ns or item.decided_ns or item.detected_ns
            return b'{"time":"%b","episode":%b,' % (self._clock.utc(when_ns).encode(), label)
        time = self._clock.utc(item.ts_ns).encode()
        if isinstance(item, EpisodeStart):  # names its episode itself
            return b'{"time":"%b","seq":%d,' % (time, seq)
        return b'{"time":"%b","episode":%b,"seq":%d,' % (time, label, seq)

    def flush(self) -> None:
        if self._buffer:
            # Cleared first: after a broken pipe nothing must be written twice.
            data, self._buffer = self._buffer, bytearray()
            self._stream.write(data)
            self._stream.flush()
