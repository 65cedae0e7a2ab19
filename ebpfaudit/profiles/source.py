"""A profile's text and what is wrong with it: every complaint names a file, a line and a column."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from msgspec import Struct

from ebpfaudit.errors import ProfileError
from ebpfaudit.profiles.positions import Path, Positions
from ebpfaudit.text import show

__all__ = ["InvalidProfile", "Path", "Problem", "Source", "nearest"]

_DEEPEST = 32
_BITS = 63
"""Of a number, as TOML has it."""
_MESSAGE_CHARS = 2000
_BOM = "\ufeff"


class Problem(Struct, frozen=True):
    """What is wrong, or worth a look, and where. Lines and columns count from 1; 0 is the file as a whole."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class InvalidProfile(ProfileError):
    """All that is wrong with a profile, one `file:line:column: what` each."""

    def __init__(self, found: Iterable[Problem]) -> None:
        self.found = tuple(dict.fromkeys(found))
        self.problems = tuple(str(problem) for problem in self.found)
        super().__init__("\n".join(self.problems))


class Source:
    """The tree of one profile text, and the problems found in it so far."""

    def __init__(self, text: str, origin: str) -> None:
        self.origin = printable(origin)
        self.below: set[Source] = set()
        """All that this text extends, and what those extend."""
        text = text.removeprefix(_BOM)
        self._text = text.replace("\r\n", "\n")
        self._problems: list[Problem] = []
        self._notes: list[Problem] = []
        try:
            self.tree: dict[str, Any] = tomllib.loads(text)
        except ValueError as error:
            raise InvalidProfile([_syntax_problem(text, origin, str(error))]) from None
        except RecursionError:
            raise InvalidProfile([Problem(self.origin, 1, 1, "not valid TOML: nested too deeply")]) from None
        self._judge_size()

    def complain(self, path: Path, problem: str, key: bool = False) -> None:
        """Note `problem` at the value at `path`, or at its key: the profile is not sound."""
        self._problems.append(self._placed(path, problem, key))

    def note(self, path: Path, remark: str, key: bool = False) -> None:
        """Note what is allowed but hardly meant."""
        self._notes.append(self._placed(path, remark, key))

    def position(self, path: Path, key: bool = False) -> tuple[int, int]:
        return self._positions.find(path, key)

    @property
    def problems(self) -> list[Problem]:
        """Everything complained about so far, in the order of the text."""
        return sorted(self._problems, key=_place)

    @property
    def notes(self) -> list[Problem]:
        return sorted(self._notes, key=_place)

    @cached_property
    def _positions(self) -> Positions:
        return Positions(self._text)

    def _placed(self, path: Path, problem: str, key: bool) -> Problem:
        if len(problem) > _MESSAGE_CHARS:
            problem = f"{problem[: _MESSAGE_CHARS // 2]} ... {problem[-_MESSAGE_CHARS // 2 :]}"
        return Problem(self.origin, *self.position(path, key), printable(problem))

    def _judge_size(self) -> None:
        """Whatever quotes or walks the tree may rely on what is checked here; raises InvalidProfile."""
        waiting: list[tuple[Path, Any]] = [((), self.tree)]
        while waiting:
            path, value = waiting.pop()
            if type(value) is int and value.bit_length() > _BITS:
                raise InvalidProfile([self._placed(path, "the number is too long", False)])
            if not isinstance(value, dict | list):
                continue
            if len(path) > _DEEPEST:
                raise InvalidProfile([self._placed(path[:1], "nested too deeply", True)])
            children = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [((*path, name), each) for name, each in children]


def _place(problem: Problem) -> tuple[int, int]:
    return problem.line, problem.column


def printable(text: str) -> str:
    """A message for a terminal, whatever of a profile (perhaps an agent's) it quotes."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else show(char.encode(errors="surrogateescape")) for char in text
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?`, or nothing where no known word is close."""
    import difflib

    close = difflib.get_close_matches(word[:200], list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _syntax_problem(text: str, origin: str, message: str) -> Problem:
    """tomllib's message, with its position in front like all others."""
    if digits := re.search(r"[0-9][0-9_]{4299,}", text) if "digits" in message else None:
        message = f"the number is too long (at line {text.count(chr(10), 0, digits.start()) + 1}, column 1)"
    reason, _, position = message.rpartition(" (at ")
    found = re.match(r"line (\d+), column (\d+)", position)
    end = text.count("\n") + 1, len(text) - text.rfind("\n")
    line, column = (int(found[1]), int(found[2])) if found else end
    what = printable(f"not valid TOML: {reason or message}")
    return Problem(printable(origin), line, column, what)
