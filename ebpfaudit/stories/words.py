"""The words of a story's line: split as a shell splits them, quoted as a shell would read them again.

Words are in the escaped form of `text.show`, as events are. `$'\\x1b'` writes any byte, as in bash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

from msgspec import Struct

from ebpfaudit.text import hide, show

MAX_LINES = 20_000
"""What one line may become by its {LOW..HIGH}s."""
MAX_CHARS = 8 * 2**20
"""And how long in all."""

_PIECE = re.compile(
    r"\$'((?:\\.|[^'\\])*)'|'([^']*)'|\"((?:\\.|[^\"\\])*)\"|\\(.)|(\$|[^\s'\"\\$]+)", re.DOTALL
)
_RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")
_RANGE_DIGITS = 18
_ANSI = re.compile(rb"\\(?:x([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_ANSI_BYTES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"e": b"\x1b", b"0": b"\0"}
_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./^~-]+")


class Word(Struct, frozen=True):
    """One word. Of its `shown` text, the first `bare` characters were not quoted."""

    shown: str
    bare: int

    @property
    def plain(self) -> bool:
        """No part of it was quoted: it may be a key, a flag or a repetition."""
        return self.bare == len(self.shown)


def split(line: str) -> list[Word]:
    """The words of a line, up to an unquoted word that begins with `#`. Raises ValueError."""
    return [Word(show(raw), len(show(raw[:bare]))) for raw, bare, _ in _words(line)]


def without_comment(line: str) -> str:
    """Raises ValueError."""
    if "#" not in line:
        return line
    return line[: max((end for _, _, end in _words(line)), default=0)]


def _words(line: str) -> Iterator[tuple[bytes, int, int]]:
    position = 0
    while position < len(line):
        if line[position].isspace():
            position += 1
            continue
        if line[position] == "#":
            return
        word = _word(line, position)
        yield word
        position = word[2]


def _word(line: str, position: int) -> tuple[bytes, int, int]:
    """A word as it is, how much of it was not quoted, and where it ends."""
    raw = b""
    bare = -1
    while position < len(line) and not line[position].isspace():
        piece = _PIECE.match(line, position)
        if piece is None:
            raise ValueError(f"a quote is not closed: {line[position:]}")
        if piece[5] is None and bare < 0:
            bare = len(raw)
        raw += _unquote(piece)
        position = piece.end()
    return raw, len(raw) if bare < 0 else bare, position


def _unquote(piece: re.Match[str]) -> bytes:
    ansi, single, double, escaped, bare = piece.groups()
    if ansi is not None:
        return _ANSI.sub(_ansi_byte, ansi.encode())
    if double is not None:
        return re.sub(r'\\([\\"$`])', r"\1", double).encode()
    return str(next(text for text in (single, escaped, bare) if text is not None)).encode()


def _ansi_byte(found: re.Match[bytes]) -> bytes:
    if found[1] is not None:
        return bytes([int(found[1], 16)])
    return _ANSI_BYTES.get(found[2], found[2])


def quote(shown: str) -> str:
    """The escaped text `shown` as one word, which `split` reads back as the same."""
    return shown if _SAFE.fullmatch(shown) else quote_always(shown)


def quote_always(shown: str) -> str:
    """The same, so that no part of it can be taken for a key, a flag or a range of numbers."""
    try:
        raw = hide(shown)
    except (ValueError, IndexError):  # no escaped text: a forged trail
        raw = shown.encode("utf-8", "backslashreplace")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "$'" + "".join(f"\\x{byte:02x}" for byte in raw) + "'"
    if text.isprintable() and not _RANGE.search(text):
        if "'" not in text:
            return f"'{text}'"
        if not re.search(r'[\\"$`]', text):
            return f'"{text}"'
    return (
        "$'"
        + "".join(char if char.isprintable() and char not in "\\'{" else _ansi(char) for char in text)
        + "'"
    )


def _ansi(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode())


def expand(line: str) -> list[str]:
    """The line once for each number of its {LOW..HIGH}: equal ranges count together, others multiply.

    Raises ValueError.
    """
    ranges = list(dict.fromkeys(found[0] for found in _RANGE.finditer(line)))
    if not ranges:
        return [line]
    numbers = [_numbers(text) for text in ranges]
    total = 1
    for each in numbers:
        total *= len(each)
    if total > MAX_LINES:
        raise ValueError(f"that is {total:,} lines; at most {MAX_LINES:,} may come of one")
    if total * len(line) > MAX_CHARS:
        raise ValueError(f"that is {total:,} long lines; at most {MAX_CHARS // 2**20} MiB may come of one")
    lines = []
    for chosen in product(*numbers):
        text = line
        for spelled, number in zip(ranges, chosen, strict=True):
            text = text.replace(spelled, number)
        lines.append(text)
    return lines


def _numbers(text: str) -> list[str]:
    found = _RANGE.fullmatch(text)
    assert found is not None
    if len(text) > 2 * _RANGE_DIGITS:
        raise ValueError(f"a range of numbers of more than {_RANGE_DIGITS} digits")
    low, high = int(found[1]), int(found[2])
    if low > high:
        raise ValueError(f"{text} counts down; write {{{high}..{low}}}")
    if high - low >= MAX_LINES:
        raise ValueError(f"{text} is too long: at most {MAX_LINES:,} lines may come of one")
    width = len(found[1]) if found[1].startswith("0") else 0
    return [str(number).zfill(width) for number in range(low, high + 1)]
