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

from ebpfaudit.errors import TrailError
from ebpfaudit.events import Lost
from ebpfaudit.trail.format import (
    DISK_FULL,
    MAX_LINE_BYTES,
    READABLE_FORMATS,
    End,
    Frame,
    Header,
    Item,
    Line,
    Unknown,
)
from ebpfaudit.trail.frames import ZSTD_MAGIC, FrameCut, FrameDamage, RawFrame, Seal, expand, walk
from ebpfaudit.verdicts import Enforcement, Verdict

_NOT_EVENTS = ("verdict", "enforcement")
_DECODER = msgspec.json.Decoder(Line)
_ANY = msgspec.json.Decoder()
_BAD_LINE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Problem(Struct, frozen=True):
    """Something wrong with the file. `what` may quote it: hostile text."""

    frame: int
    offset: int
    """Where that frame begins in the file, in bytes."""
    what: str

    def __str__(self) -> str:
        return f"frame {self.frame}, at byte {self.offset}: {self.what}"


class Trail:
    """One trail, open for one reading. Iterate it for what was recorded; then the rest is known.

    Reading goes on behind a damaged frame as long as the next can be found. Text in it is not to be
    trusted, not even to be printable.
    """

    def __init__(self, path: Path | str) -> None:
        """Raises TrailError where there is no trail of a format that we know."""
        self.path = Path(path)
        self.end: End | None = None
        """The last line: None for a trail that was not closed, and until all has been read."""
        self.problems: list[Problem] = []
        self.head = ""
        """SHA-256 of the last whole frame so far."""
        self.frames = self.verdicts = self.enforcements = self.text_bytes = 0
        self.next_number = 0
        """The number that the next event will have."""
        self.lost = 0
        """Events that `lost` lines say the probes could not hand over."""
        self.unwritten = 0
        """Events that the trail itself could not take, as it says."""
        self.unknown = 0
        """Lines of kinds that this version does not know, or not in this form."""
        self.offset = 0
        """How far in the file we are, in bytes."""
        self._file = _open(self.path)
        self.file_bytes = os.fstat(self._file.fileno()).st_size
        self._walk = walk(self._file)
        self._damaged_before = self._sealed = False
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
        for _, item in self.numbered():
            yield item

    def numbered(self) -> Iterator[tuple[int, Item | Unknown]]:
        """Everything recorded, each event with its number; a verdict or enforcement with its event's."""
        while (frame := self._next()) is not None:
            lines = self._lines(frame)
            if not self._opens_well(frame, next(lines, None)):
                continue
            if self.end is not None:
                self._complain(frame.offset, "it follows the end of the trail")
            for line in lines:
                if isinstance(line, Verdict | Enforcement):
                    self._count(line)
                    yield line.seq, line
                elif isinstance(line, Header | Frame | End):
                    self._structural(frame, line)
                elif isinstance(line, dict) and line.get("kind") in _NOT_EVENTS:
                    yield self.next_number, line
                else:
                    if isinstance(line, Lost):
                        self._lose(line)
                    self.next_number += 1
                    yield self.next_number - 1, line
        self._conclude()

    def _next(self) -> RawFrame | None:
        """The next frame that can be found; what is wrong in between is noted."""
        while True:
            try:
                item = next(self._walk, None)
            except FrameDamage as damage:
                rest = "" if isinstance(damage, FrameCut) else ", and nothing behind it can be found"
                self.frames += 1
                self._complain(self.offset, f"{damage}{rest}")
                self._damaged_before = True
                return None
            if item is None:
                return None
            if self._sealed:
                self._complain(item.offset, "it follows the seal, which ends a trail")
            if isinstance(item, RawFrame):
                self.offset = item.offset + len(item.data)
                self.frames += 1
                return item
            self.offset = item.offset + 40
            self._sealed = True
            if item.digest != self.head and not self._damaged_before:
                self._complain(item.offset, "the seal is not that of the frame before: one of them was changed")
