"""Text of a frame into lines, whoever wrote it: a later version of ours, or someone who means harm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from ebpfaudit.text import show
from ebpfaudit.trail.format import MAX_LINE_BYTES, Line, Unknown

_STRUCTURE = ("header", "frame", "end")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decoder = msgspec.json.Decoder(Line)
_any_decoder = msgspec.json.Decoder()


class BadLine(NamedTuple):
    """A line that is none. `why` is printable."""

    why: str


def decode(pieces: Iterable[bytes]) -> Iterator[Line | Unknown | BadLine]:
    """The lines of a frame. A line of a kind or form that we do not know is passed on as it is."""
    rest = b""
    for piece in pieces:
        text = rest + piece
        end = text.rfind(b"\n") + 1
        rest = text[end:]
        if len(rest) > MAX_LINE_BYTES:
            yield BadLine(f"a line is longer than {MAX_LINE_BYTES >> 20} MiB")
            return
        try:
            # A thousand lines at once, at a third of the cost.
            lines = _decoder.decode_lines(text[:end])
        except _UNREADABLE:
            for line in text[:end].split(b"\n"):
                if line:
                    yield _decode_line(line)
        else:
            yield from lines
    if rest:
        yield BadLine("its last line has no end")


def _decode_line(line: bytes) -> Line | Unknown | BadLine:
    try:
        known: Line = _decoder.decode(line)
        return known
    except _UNREADABLE as error:
        why = show(str(error).encode())
    try:
        anything = _any_decoder.decode(line)
    except _UNREADABLE:
        return BadLine(f"a line is not JSON: {why}")
    if not isinstance(anything, dict) or not isinstance(anything.get("kind"), str):
        return BadLine("a line is no object with a kind")
    if anything["kind"] in _STRUCTURE:
        return BadLine(f"its '{anything['kind']}' line is wrong: {why}")
    unknown: Unknown = anything
    return unknown
