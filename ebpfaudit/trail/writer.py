"""Records an episode: lines into frames, frames into a file that survives whatever ends us.

Every frame reaches the file in one piece, and names its predecessor. A full disk never stops the
episode: what could not be written is counted, tried no second time, and leaves a `lost` line behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import zstandard

from ebpfaudit.errors import TrailError
from ebpfaudit.events import Lost
from ebpfaudit.trail.durability import DiskSync
from ebpfaudit.trail.format import (
    DISK_FULL,
    FRAME_AGE_NS,
    FRAME_TEXT_BYTES,
    SEAL_PREFIX,
    End,
    Frame,
    Header,
    Item,
)
from ebpfaudit.verdicts import Enforcement, Verdict

_MAX_PENDING = 1024
_SLICE = 128
"""Items encoded at once. Each may be 64 KiB of argv, five times as long when escaped: 40 MiB at worst."""

_WINDOW_LOG = 20
_BUSY_NS = FRAME_AGE_NS // 2
"""A frame that filled up faster (2 MiB/s, over 10,000 events/s) is followed by one of fast compression."""


def _fast() -> zstandard.ZstdCompressor:
    """Level 1: 0.3 us an event. Level 3 takes longer and makes more bytes of such text (benchmarks/trail.py)."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=_WINDOW_LOG, write_checksum=True, write_content_size=False
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def _small() -> zstandard.ZstdCompressor:
    """A quarter fewer bytes than `_fast`, for 2.2 us an event.

    Level 8 with smaller tables and a longer minimal match: the best match for a line is in a recent one, and
    short matches between digits cost more than they save. As fast, 3 % fewer bytes, 0.8 MB instead of 5.8.
    """
    parameters = zstandard.ZstdCompressionParameters(
        window_log=_WINDOW_LOG,
        chain_log=16,
        hash_log=16,
        search_log=5,
        min_match=6,
        target_length=0,
        strategy=zstandard.STRATEGY_LAZY2,
        write_checksum=True,
        write_content_size=False,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


class _OpenFrame:
    """A frame being filled, and what it will hold."""

    __slots__ = (
        "_compressor",
        "_parts",
        "enforcements",
        "events",
        "lost",
        "opened_ns",
        "text_bytes",
        "verdicts",
    )

    def __init__(self, compressor: zstandard.ZstdCompressor, opened_ns: int) -> None:
        self._compressor = compressor.compressobj()
        self._parts: list[bytes] = []
        self.opened_ns = opened_ns
        self.text_bytes = self.events = self.verdicts = self.enforcements = self.lost = 0

    def add(self, text: bytes) -> None:
        self.text_bytes += len(text)
        if part := self._compressor.compress(text):
            self._parts.append(part)

    def count(self, items: list[Item]) -> int:
        """Add to the balance what `items` are. Returns how many of them are events."""
        events = len(items)
        # Most batches hold events alone: one pass in C tells.
        if not {Verdict, Enforcement, Lost}.isdisjoint(map(type, items)):
            kinds = list(map(type, items))
            verdicts, enforcements = kinds.count(Verdict), kinds.count(Enforcement)
            self.verdicts += verdicts
            self.enforcements += enforcements
            self.lost += sum(item.count for item in items if isinstance(item, Lost))
            events -= verdicts + enforcements
        self.events += events
        return events

    def finish(self) -> bytes:
        self._parts.append(self._compressor.flush())
        return b"".join(self._parts)


class TrailWriter:
    """Writes one trail. Only opening it raises; afterwards trouble is counted, and told by `error`."""

    def __init__(
        self,
        path: Path | str,
        header: Header,
        *,
        owner: tuple[int, int] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Make the file, which must not exist yet, and write the header. Raises TrailError.

        Only its owner may read it: whoever runs this, or `owner` (uid, gid). `clock` is the one of `tick`.
        """
        self.path = Path(path)
        self.head = ""
        """SHA-256 of the last frame in the file: kept elsewhere, it proves the whole trail."""
        self.events = 0
        """How many there were, in the trail or not; those of the last moments are not counted yet."""
        self.verdicts = self.enforcements = self.lost = 0
        """How many of each are in the trail."""
        self.unwritten = 0
        """Events that are not in the trail because it could not be written."""
        self.error = ""
        """Why, the last time that it could not; "" if it always could."""
        self.file_bytes = 0
        self._frames = 0
        self._kept = 0
        """The number after that of the last event in the file."""
        self._clock = clock
        self._pending: list[Item] = []
        self._pending_since_ns = clock()
        self._encoder = msgspec.json.Encoder()
        self._fast, self._small = _fast(), _small()
        self._busy = False
        self._open: _OpenFrame | None = None
        self._closed = False
        self._fd = _create(self.path)
        self._disk = DiskSync(self._fd, self.path.absolute().parent)
        try:
            if owner is not None:
                os.fchown(self._fd, *owner)
            frame = _OpenFrame(self._small, 0)
            frame.add(self._encoder.encode(header) + b"\n")
            self._store(frame.finish())
        except OSError as error:
            os.close(self._fd)
            self.path.unlink()
            raise TrailError(f"cannot record to {self.path}: {error.strerror}; name another place") from None

    def append(self, item: Item) -> None:
        """Record one item. It is in the file within about a second."""
        self.extend((item,))

    def extend(self, items: Iterable[Item]) -> None:
        """Record items, in their order."""
        self._pending.extend(items)
        if len(self._pending) >= _MAX_PENDING:
            self._encode()

    def flush(self, sync: bool) -> None:
        """Put everything so far into the file, as a frame.

        With `sync` it is on the disk some milliseconds later, where a power cut finds it; nobody waits for that.
        """
        self._encode()
        if self._open is not None:
            self._close_frame()
        if sync:
            self._disk.request()

    def tick(self, now_ns: int) -> None:
        """Close a frame that is a second old. To be called about ten times a second (CLOCK_MONOTONIC)."""
        if self._open is not None or self._pending:
            if now_ns - self._pending_since_ns >= FRAME_AGE_NS:
                self.flush(sync=False)
        else:
            # Nothing has come up to now, so whatever comes next is younger.
            self._pending_since_ns = now_ns

    def close(self, reason: str, code: int, *, complete: bool) -> str:
        """End the trail; returns `head`. `complete`: as far as the caller knows, no event was missed."""
        if self._closed:
            return self.head
        self._closed = True
        self._encode()
        if not self._close_last(reason, code, complete):
            # A full disk: without what was still open, there may be room to say how it ended.
            self._close_last(reason, code, complete)
        self._disk.finish()
        if self._disk.error:
            self.error = f"{self.path} {self._disk.error}"
        elif not self.error and os.fstat(self._fd).st_nlink == 0:
            self.error = f"{self.path} was deleted while it was written"
        os.close(self._fd)
        return self.head

    def close_unfinished(self, reason: str) -> str:
        """End the trail of an episode that our own failure cut short."""
        return self.close(reason, -1, complete=False)

    def _encode(self) -> None:
        """Bring the pending items into the open frame."""
        pending = self._pending
        for start in range(0, len(pending), _SLICE):
            items = pending[start : start + _SLICE]
            frame = self._open or self._begin_frame()
            frame.add(self._encoder.encode_lines(items))
            self.events += frame.count(items)
            if frame.text_bytes >= FRAME_TEXT_BYTES:
                self._close_frame()
        pending.clear()

    def _begin_frame(self) -> _OpenFrame:
        """Open a frame. If events before it could not be written, a `lost` line bears the last one's number."""
        missing = self.events - self._kept
        first = self.events - 1 if missing else self.events
        compressor = self._fast if self._busy else self._small
        frame = self._open = _OpenFrame(compressor, self._pending_since_ns)
        frame.add(self._encoder.encode(Frame(self._frames, self.head, first)) + b"\n")
        if missing:
            frame.add(self._encoder.encode(Lost(self._clock(), missing, DISK_FULL)) + b"\n")
        return frame

    def _close_frame(self, *, sealed: bool = False) -> bool:
        """Write the open frame; False if that failed. The next one begins empty either way."""
        frame = self._open
        assert frame is not None
        self._open = None
        now_ns = self._clock()
        self._busy = frame.text_bytes >= FRAME_TEXT_BYTES and now_ns - frame.opened_ns < _BUSY_NS
        self._pending_since_ns = now_ns
        try:
            self._store(frame.finish(), sealed=sealed)
        except OSError as error:
            self.error = f"{self.path} could not be written: {error.strerror}"
            self.unwritten += frame.events
            return False
        self._kept = self.events
        self.verdicts += frame.verdicts
        self.enforcements += frame.enforcements
        self.lost += frame.lost
        return True

    def _close_last(self, reason: str, code: int, complete: bool) -> bool:
        """Write what is open with the `end` line, and the seal."""
        frame = self._open or self._begin_frame()
        lost = self.lost + frame.lost
        complete = complete and not lost and not self.unwritten
        verdicts, enforcements = self.verdicts + frame.verdicts, self.enforcements + frame.enforcements
        now_ns = self._clock()
        end = End(now_ns, reason, code, complete, self.events, verdicts, enforcements, lost, self.unwritten)
        frame.add(self._encoder.encode(end) + b"\n")
        return self._close_frame(sealed=True)

    def _store(self, frame: bytes, *, sealed: bool = False) -> None:
        """Append a whole frame to the file, or leave the file as it was and raise OSError."""
        digest = hashlib.sha256(frame)
        data = frame + SEAL_PREFIX + digest.digest() if sealed else frame
        try:
            _write(self._fd, data, self.file_bytes)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.file_bytes)
            raise
        self.file_bytes += len(data)
        self._frames += 1
        self.head = digest.hexdigest()


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        raise TrailError(
            f"cannot record to {path}: it exists, and a trail never replaces anything; name another file or remove it"
        ) from None
    except OSError as error:
        raise TrailError(f"cannot record to {path}: {error.strerror}; name another place") from None


def _write(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data`. write(2) may stop half-way, as at the end of a disk: the next call says why."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[count:], offset + count
