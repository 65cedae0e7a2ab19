"""Reads a trail that may be cut, damaged, forged, or newer than we are: what is there, and what is wrong."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec
from msgspec import Struct

from ebpfaudit import __version__
from ebpfaudit.errors import TrailError
from ebpfaudit.events import Lost
from ebpfaudit.text import show
from ebpfaudit.trail.format import DISK_FULL, FORMAT, End, Frame, Header, Item, Line, Unknown
from ebpfaudit.trail.frames import FrameCut, FrameDamage, RawFrame, expand, walk
from ebpfaudit.trail.lines import BadLine, decode
from ebpfaudit.verdicts import Enforcement, Verdict

MAX_PROBLEMS = 100
"""More are not kept: a forged trail can have millions."""


class Problem(Struct, frozen=True):
    """Something wrong with the file."""

    frame: int
    offset: int
    """Where that frame begins in the file, in bytes."""
    what: str
    """Printable, whatever is in the file."""

    def __str__(self) -> str:
        return f"frame {self.frame} at byte {self.offset}: {self.what}"


class _Preamble(Struct):
    """What the header of every format has, older or newer."""

    kind: str
    format: int


class Trail:
    """One trail, open for one reading. Iterate it for what was recorded; then all else here is known.

    It closes itself when all has been read.

    Reading goes on behind damage as long as a next frame can be found. No text of a trail is to be trusted,
    not even to be printable.
    """

    def __init__(self, path: Path | str) -> None:
        """Raises TrailError where there is no trail, or none of a format that we know."""
        self.path = Path(path)
        self.end: End | None = None
        """The last line. None in a trail that was not closed, and until all has been read."""
        self.problems: list[Problem] = []
        self.head = ""
        """SHA-256 of the last whole frame so far."""
        self.frames = self.verdicts = self.enforcements = self.text_bytes = 0
        self.events = 0
        """The number of the next event: how many there were so far, in the trail or not."""
        self.lost = 0
        """Events that the probes could not hand over, as `lost` lines say."""
        self.unwritten = 0
        """Events that the trail itself could not take, as `lost` lines say."""
        self.unknown = 0
        """Lines of a kind or form that this version does not know."""
        self.offset = 0
        """How far in the file we are, in bytes."""
        self.damaged = False
        """Something is not as it was written; False for a trail that only stops early."""
        self._broken = self._sealed = self._cut = False
        self._gap = 0
        self._file = _open(self.path)
        self.file_bytes = os.fstat(self._file.fileno()).st_size
        self._source = self._raw_frames()
        try:
            self.header = self._read_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Trail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Item | Unknown]:
        """Everything recorded, in order; after this, `problems` says what is wrong."""
        for _, item in self.numbered():
            yield item

    def numbered(self) -> Iterator[tuple[int, Item | Unknown]]:
        """The same with numbers: an event's own; for other lines, that of the event to come."""
        for frame in self._source:
            previous, self.head = self.head, frame.digest
            try:
                lines = decode(self._expand(frame))
            except FrameDamage as damage:
                self._break(frame.offset, str(damage))
                continue
            self._check_start(frame, previous, next(lines, None))
            for line in lines:
                number = self.events
                if isinstance(line, Verdict):
                    self.verdicts += 1
                elif isinstance(line, Enforcement):
                    self.enforcements += 1
                elif isinstance(line, Header | Frame | End | BadLine):
                    self._take_note(frame, line)
                    continue
                elif isinstance(line, dict):
                    self.unknown += 1
                    self.events += line["kind"] not in ("verdict", "enforcement")
                else:
                    if isinstance(line, Lost):
                        self._lose(frame, line)
                    self.events += 1
                yield number, line
            if self._gap:
                self.complain(frame.offset, f"{self._gap} events before it are missing")
                self._gap = 0
        self._conclude()

    def _raw_frames(self) -> Iterator[RawFrame]:
        """Every frame that can be found. What lies between and behind them is noted."""
        try:
            for item in walk(self._file):
                if self._sealed:
                    self.complain(item.offset, "it follows the seal, which ends a trail")
                if isinstance(item, RawFrame):
                    self.offset = item.offset + len(item.data)
                    self.frames += 1
                    yield item
                else:
                    self._sealed = True
                    if item.digest != self.head:
                        self.complain(item.offset, "the seal is not that of the frame before it")
        except FrameCut as cut:
            self._cut = True
            self._note(self.offset, str(cut))
        except FrameDamage as damage:
            self._cut = True
            self.complain(self.offset, f"{damage}; nothing can be read from here on")
        finally:
            self.close()

    def _expand(self, frame: RawFrame) -> list[bytes]:
        pieces = expand(frame)
        self.text_bytes += sum(map(len, pieces))
        return pieces

    def _read_header(self) -> Header:
        """From the first frame, which holds nothing else."""
        frame = next(self._source, None)
        if frame is None:
            why = self.problems[0].what if self.problems else "it is empty"
            raise TrailError(f"{self.path} is no trail: {why}")
        try:
            line, _, rest = b"".join(self._expand(frame)).partition(b"\n")
            number = msgspec.json.decode(line, type=_Preamble).format
            if number > FORMAT:
                raise TrailError(
                    f"{self.path} is a trail of format {number}, and ebpfaudit {__version__} reads up to {FORMAT}: "
                    "use the version that wrote it, or a later one"
                )
            header = msgspec.json.decode(line, type=Header)
        except (FrameDamage, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise TrailError(
                f"{self.path} is no trail, or its first frame is damaged: {show(str(error).encode())}"
            ) from None
        self.head = frame.digest
        if rest:
            self.complain(frame.offset, "there is more in it than the header")
        if sha256(header.profile_text.encode()).hexdigest() != header.profile_hash:
            self.complain(frame.offset, "the profile in the header does not have the hash that it claims")
        return header

    def _check_start(self, frame: RawFrame, previous: str, line: Line | Unknown | BadLine | None) -> None:
        """Each frame says its number, its predecessor's hash and its first event's number: are they so?"""
        if self.end is not None:
            self.complain(frame.offset, "it follows the end line, which ends a trail")
        if not isinstance(line, Frame):
            why = f" ({line.why})" if isinstance(line, BadLine) else ""
            self._break(frame.offset, f"it does not begin with a frame line{why}")
            return
        if line.n != self.frames - 1:
            self.complain(
                frame.offset, f"it says that it is frame {line.n}: frames are missing, or in another order"
            )
        elif line.prev != previous and not self._broken:
            self.complain(frame.offset, "it does not follow from the frame before: one of them was changed")
        if line.first < self.events and not self._broken:
            self.complain(
                frame.offset, f"its first event is number {line.first}, after number {self.events - 1}"
            )
        elif not self._broken:
            self._gap = line.first - self.events
        self.events = line.first
        self._broken = False

    def _take_note(self, frame: RawFrame, line: Header | Frame | End | BadLine) -> None:
        if isinstance(line, BadLine):
            self.complain(frame.offset, line.why)
        elif isinstance(line, End) and self.end is None:
            self.end = line
        else:
            self.complain(frame.offset, "it has a line that belongs elsewhere: header, frame or end")

    def _lose(self, frame: RawFrame, line: Lost) -> None:
        """A `lost` line of a full disk takes the number of the last event that it stands for."""
        if line.what != DISK_FULL:
            self.lost += line.count
            return
        self.unwritten += line.count
        if line.count != self._gap + 1:
            self.complain(
                frame.offset, f"it says that {line.count} events are not in it, and skips {self._gap + 1}"
            )
        self._gap = 0

    def _conclude(self) -> None:
        if self._cut:
            return
        if self.end is None:
            why = "the recorder still writes, was stopped, or the rest was cut off"
            self._note(self.offset, f"the trail was not closed: {why}")
            return
        for name in ("events", "verdicts", "enforcements", "lost", "unwritten"):
            claim, count = getattr(self.end, name), getattr(self, name)
            if claim != count:
                self.complain(self.offset, f"the end line says {claim} {name}, but here are {count}")
        if not self._sealed:
            self._note(self.offset, "the seal is missing: cut off")

    def _break(self, offset: int, what: str) -> None:
        """Note damage that hides what follows: the next frame's claims about it cannot be checked."""
        self.complain(offset, what)
        self._broken = True

    def complain(self, offset: int, what: str) -> None:
        """Note that something in the file, in the frame read last, is not as it was written."""
        self.damaged = True
        self._note(offset, what)

    def _frame_at(self, offset: int) -> int:
        """The number of the frame that begins there: the one read last, or the one after it."""
        return self.frames if offset >= self.offset else self.frames - 1

    def _note(self, offset: int, what: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(self._frame_at(offset), offset, what))


def read_trail(path: Path | str) -> Trail:
    """Open a trail for reading. Raises TrailError where there is none of a format that we know."""
    return Trail(path)


def _open(path: Path) -> IO[bytes]:
    try:
        # Not to wait for whoever might write into a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise TrailError(f"cannot read the trail {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise TrailError(f"cannot read the trail {path}: it is not a regular file")
    return os.fdopen(descriptor, "rb")
