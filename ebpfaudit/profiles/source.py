"""A profile's text, and where in it a value stands: every complaint names a file and a line.

tomllib gives no positions, so the statements of the text are found once more here. The scan need not
judge the syntax (tomllib has), only remember on which line each key begins and ends.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from typing import Any

from ebpfaudit.errors import ProfileError

Path = tuple[str | int, ...]
"""Way to a value from the top, such as ("rule", 2, "when", "dst")."""

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}\n]|[^\[\]{}\n"\'#]+',
    re.DOTALL,
)
_HEADER = re.compile(r"(\[\[?)([^\[\]\n]+)\]\]?")
_KEY = re.compile(r"([^=\[\]{}\n#]+)=")


class InvalidProfile(ProfileError):
    """All that is wrong with a profile, one `file:line: what` each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


class Source:
    """The tree of one profile text, and the problems found in it so far."""

    def __init__(self, text: str, origin: str) -> None:
        self.origin = origin
        self._problems: list[tuple[int, str]] = []
        try:
            self.tree: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InvalidProfile([_syntax_problem(text, origin, str(error))]) from None
        self._lines = text.split("\n")
        self._spans: dict[Path, tuple[int, int]] | None = None
        self._text = text

    def complain(self, path: Path, problem: str, token: object = None) -> None:
        """Note `problem` at the line of `path`, or of `token` within it."""
        line = self.line(path, token)
        self._problems.append((line, f"{self.origin}:{line}: {problem}"))

    @property
    def problems(self) -> list[str]:
        """Everything noted so far, in the order of the text."""
        return [problem for _, problem in sorted(self._problems, key=lambda noted: noted[0])]

    def line(self, path: Path, token: object = None) -> int:
        """The line where the value at `path` begins; where `token` stands in it, if that is given."""
        if self._spans is None:
            self._spans = _statement_spans(self._text)
        wanted = path
        while wanted and wanted not in self._spans:
            wanted = wanted[:-1]
        first, last = self._spans.get(wanted, (1, len(self._lines)))
        tokens = [str(token)] if token is not None else [str(part) for part in path[len(wanted) :]]
        for number in range(first, last + 1):
            if tokens and all(part in self._lines[number - 1] for part in tokens):
                return number
        return first


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?`, or nothing where no known word is close."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _syntax_problem(text: str, origin: str, message: str) -> str:
    """tomllib's message, with its position in front like all others."""
    reason, _, position = message.rpartition(" (at ")
    found = re.match(r"line (\d+),", position)
    line = int(found[1]) if found else text.count("\n") + 1
    return f"{origin}:{line}: not valid TOML: {reason or message}"


def _statement_spans(text: str) -> dict[Path, tuple[int, int]]:
    """First and last line of every header's block and of every `key = value`."""
    spans: dict[Path, tuple[int, int]] = {}
    tables: dict[str, int] = {}
    block: Path = ()
    statement: Path = ()
    position, line, depth = 0, 1, 0
    at_start = True
    while position < len(text):
        if at_start and depth == 0:
            start = position + len(text[position:]) - len(text[position:].lstrip(" \t"))
            if header := _HEADER.match(text, start):
                block = statement = _block_path(header[2], header[1] == "[[", tables)
                position = header.end()
            elif key := _KEY.match(text, start):
                statement = block + _dotted(key[1])
                position = key.end()
            else:
                statement = ()
            for path in {block, statement} - {()}:
                spans[path] = (spans.get(path, (line, line))[0], line)
        token = _TOKEN.match(text, position)
        if token is None:
            break
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        line += token[0].count("\n")
        for path in {block, statement} - {()} if depth else ():
            spans[path] = (spans[path][0], line)
        at_start = token[0] == "\n"
        position = token.end()
    return spans


def _block_path(name: str, is_array: bool, tables: dict[str, int]) -> Path:
    parts = _dotted(name)
    first = str(parts[0])
    if is_array:
        tables[first] = tables.get(first, -1) + 1
    if first in tables:
        return (first, tables[first], *parts[1:])
    return parts


def _dotted(name: str) -> Path:
    return tuple(part.strip().strip("\"'") for part in name.split("."))
