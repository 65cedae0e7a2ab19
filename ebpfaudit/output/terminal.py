"""Text that fits a terminal and cannot command it."""

from __future__ import annotations

import os
import shutil
import unicodedata
from typing import IO

RESET = "\x1b[0m"
DIM, RED, GREEN, YELLOW, CYAN, ALARM = "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m", "\x1b[1;31m"
"""The eight colours of every terminal: they follow its theme. `ALARM` is bold red."""


def wants_colour(stream: IO[str]) -> bool:
    """Whether `stream` is a terminal whose user has not declined colour (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns(stream: IO[str]) -> int:
    """Width of the terminal behind `stream`; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns if stream.isatty() else 80


def printable(text: str) -> str:
    """`text` without a character that a terminal could act on.

    Events hold escaped text already, and most calls end at the first line. But a trail may be forged,
    and a name may come from elsewhere.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))


def cells(text: str) -> int:
    """How many columns a terminal gives to printable `text`."""
    return len(text) if text.isascii() else sum(map(_cells_of, text))


def _cells_of(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """`text`, or as much of it as fits `width` columns, then an ellipsis."""
    if cells(text) <= width:
        return text
    if width < 1:
        return ""
    if text.isascii():
        return text[: width - 1] + "…"
    used = 0
    for position, char in enumerate(text):
        used += _cells_of(char)
        if used > width - 1:
            return text[:position] + "…"
    return text


def fit(text: str, width: int) -> str:
    """`text` cut or padded to exactly `width` columns."""
    text = cut(text, width)
    return text + " " * (width - cells(text))
