"""Options of a command line, in every spelling that option parsers take: `--name=value`, `--name value`, `-Rvalue`,
`-R value`, `-NfR value`, `-name value`, `-name=value`.

The time is linear in the length of the arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from ebpfaudit.policy.matching import WordMatcher, match_words
from ebpfaudit.profiles.schema import Values
from ebpfaudit.text import show

_MAX_PLACES = 32
"""Of one letter in one cluster that are tried: the first, and those among the first so many letters."""

Met = tuple[str, str]
"""What the profile says, and the option as it was given."""


class _Wanted(NamedTuple):
    """What a profile asks of one option."""

    plain: str
    """The profile's text, if the option alone suffices."""
    globs: dict[str, str]
    """Of values, with the profile's texts."""
    match: WordMatcher


def option_name(text: str) -> str:
    """NAME of "NAME" or "NAME VALUEGLOB", as events show it."""
    return show(text.partition(" ")[0].encode())


def is_letter(name: str) -> bool:
    """The option may stand in a cluster of letters."""
    return re.fullmatch(r"-[^-]", name) is not None


@lru_cache(maxsize=512)
def compile_options(values: Values) -> Callable[[tuple[str, ...]], Met | None]:
    """The first option among the arguments (the whole argv) that one of `values` describes."""
    plain: dict[str, str] = {}
    globs: dict[str, dict[str, str]] = {}
    for text in map(str, values):
        _, space, glob = text.partition(" ")
        name = option_name(text)
        globs.setdefault(name, {})
        if space:
            globs[name].setdefault(glob, text)
        else:
            plain[name] = text
    wanted = {
        name: _Wanted(plain.get(name, ""), texts, match_words(tuple(texts))) for name, texts in globs.items()
    }

    def match(argv: tuple[str, ...]) -> Met | None:
        given = _given(argv)
        if not given.places:
            return None
        first = len(argv)
        met: Met | None = None
        for name, (alone, texts, match_value) in wanted.items():
            readings = given.readings(name)
            if not readings.places or readings.places[0] >= first:
                continue
            if alone:
                first, met = readings.places[0], (alone, readings.shown(argv, 0))
            elif (found := match_value(readings.values)) is not None:
                number, glob = found
                if readings.places[number] < first:
                    first, met = readings.places[number], (texts[glob], readings.shown(argv, number))
        return met

    return match


class _Readings:
    """Every way to read one option in the words of a command line, in their order."""

    def __init__(self) -> None:
        self.places: list[int] = []
        """Of the word that names the option."""
        self.values: list[str] = []
        """As many, or one fewer: nothing may follow the last word."""
        self._apart: set[int] = set()
        """Those whose value is the next word, by their number."""

    def add(self, argv: tuple[str, ...], place: int, value: str | None) -> None:
        """`value`: None if the next word is it."""
        if value is None:
            self._apart.add(len(self.places))
            self.values += argv[place + 1 : place + 2]
        else:
            self.values.append(value)
        self.places.append(place)

    def shown(self, argv: tuple[str, ...], number: int) -> str:
        place = self.places[number]
        return " ".join(argv[place : place + 1 + (number in self._apart)])


class _Given:
    """The options of one command line. Each name is looked for once, when it is first asked for."""

    def __init__(self, argv: tuple[str, ...]) -> None:
        self._argv = argv
        end = argv.index("--", 1) if "--" in argv[1:] else len(argv)
        self.places = [place for place, word in enumerate(argv[:end]) if word[:1] == "-" and place]
        self._by_head: dict[str, list[int]] | None = None
        self._known: dict[str, _Readings] = {}

    def readings(self, name: str) -> _Readings:
        readings = self._known.get(name)
        if readings is None:
            readings = self._known[name] = _Readings()
            if is_letter(name):
                self._read_letter(name[1], readings)
            else:
                self._read_name(name, readings)
        return readings

    def _read_name(self, name: str, readings: _Readings) -> None:
        if self._by_head is None:
            self._by_head = {}
            for place in self.places:
                self._by_head.setdefault(self._argv[place].partition("=")[0], []).append(place)
        for place in self._by_head.get(name, ()):
            word = self._argv[place]
            readings.add(self._argv, place, None if word == name else word[len(name) + 1 :])

    def _read_letter(self, letter: str, readings: _Readings) -> None:
        argv = self._argv
        for place in self.places:
            word = argv[place]
            if letter not in word or word[1] == "-":
                continue
            at = word.find(letter, 1)
            if at == 1 and word[2:3] == "=":
                readings.add(argv, place, word[3:])
            while at > 0 and (at == 1 or word[1:at].isalnum()):
                readings.add(argv, place, word[at + 1 :] or None)
                at = word.find(letter, at + 1, _MAX_PLACES)


@lru_cache(maxsize=1)  # several rules ask about one exec
def _given(argv: tuple[str, ...]) -> _Given:
    return _Given(argv)
