"""Where in a TOML text each key and each value stands.

tomllib gives no positions, so a text that it has accepted is walked once more here. The walk need not
judge the syntax; what it does not understand has the position of what it stands in.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from contextlib import suppress

Path = tuple[str | int, ...]
"""Way to a value from the top, such as ("rule", 2, "when", "dst", 0)."""

_BLANK = re.compile(r"(?:[ \t\n,]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'',
    re.DOTALL,
)
_PLAIN = re.compile(r"[^,\]}#\n]+")
_ESCAPED = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


class Positions:
    """Offsets of keys and values in `text`, by their path."""

    def __init__(self, text: str) -> None:
        walk = _Walk(text)
        with suppress(_LostError, RecursionError):  # what was found until there is right
            walk.document()
        self._lines = [0, *(found.end() for found in re.finditer("\n", text))]
        """Where each begins."""
        self._keys, self._values = walk.keys, walk.values

    def find(self, path: Path, key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the value at `path` (or of its key), or of what should hold it."""
        offsets = self._keys if key else self._values
        while path and path not in offsets:
            path = path[:-1]
            offsets = self._values
        offset = offsets.get(path, 0)
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1


class _LostError(Exception):
    """The walk does not understand what it sees."""


class _Walk:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.keys: dict[Path, int] = {}
        self.values: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        """Of each array of tables: the index of its latest."""

    def document(self) -> None:
        block: Path = ()
        while True:
            self._skip(_BLANK)
            if self.at >= len(self.text):
                return
            if self.text[self.at] == "[":
                block = self._header()
            else:
                self._pair(block)
            end = self.text.find("\n", self.at)
            self.at = len(self.text) if end < 0 else end

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise _LostError
        self.at = found.end()
        return found[0]

    def _header(self) -> Path:
        start = self.at
        is_array = self.text.startswith("[[", start)
        self.at += 1 + is_array
        names = [name for name, _ in self._dotted_key()]
        path: Path = ()
        for name in names[:-1]:
            path = (*path, name)
            if path in self._counts:
                path = (*path, self._counts[path])
        path = (*path, names[-1])
        if is_array:
            self.keys.setdefault(path, start)
            self.values.setdefault(path, start)
            self._counts[path] = self._counts.get(path, -1) + 1
            path = (*path, self._counts[path])
        self.keys[path] = self.values[path] = start
        return path

    def _dotted_key(self) -> list[tuple[str, int]]:
        names = []
        while True:
            self._skip(_SPACE)
            start = self.at
            if self.text[start : start + 1] in ('"', "'"):
                names.append((_unquoted(self._skip(_STRING)), start))
            else:
                names.append((self._skip(_BARE_KEY), start))
            self._skip(_SPACE)
            if self.text[self.at : self.at + 1] != ".":
                return names
            self.at += 1

    def _pair(self, block: Path) -> None:
        path = block
        for name, start in self._dotted_key():
            path = (*path, name)
            self.keys.setdefault(path, start)
            self.values.setdefault(path, start)
        self.at += 1  # the '='
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        self.values[path] = self.at
        first = self.text[self.at : self.at + 1]
        if first == "[":
            self._items(path)
        elif first == "{":
            self.at += 1
            while self._skip(_BLANK) is not None and self.text[self.at : self.at + 1] != "}":
                self._pair(path)
            self.at += 1
        else:
            self._skip(_STRING if first in ('"', "'") else _PLAIN)

    def _items(self, path: Path) -> None:
        self.at += 1
        index = 0
        while self._skip(_BLANK) is not None and self.text[self.at : self.at + 1] != "]":
            self._value((*path, index))
            index += 1
        self.at += 1


def _unquoted(key: str) -> str:
    if key.startswith("'"):
        return key[1:-1]
    return _ESCAPED.sub(_unescaped, key[1:-1])


def _unescaped(found: re.Match[str]) -> str:
    if code := found[1] or found[2]:
        return chr(int(code, 16))
    return _ESCAPES.get(found[3], found[3])
