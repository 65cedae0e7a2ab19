"""Options of a command line, in every spelling that option parsers take: `--name=value`, `--name value`, `-Rvalue`,
`-R value`, `-NfR value`, `-name value`, `-name=value`.

The time is linear in the length of the arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import compress, repeat
from typing import NamedTuple

from ebpfaudit.policy.globs import longest_literal
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
    literals: tuple[str, ...]
    """One of them is in the command line of whoever gives such a value."""


def option_name(text: str) -> str:
    """NAME of "NAME" or "NAME VALUEGLOB", as events show it."""
    return show(text.partition(" ")[0].encode())


def is_letter(name: str) -> bool:
    """The option may stand in a cluster of letters."""
    return re.fullmatch(r"-[^-]", name) is not None


_Found = list[tuple[int, str | None]]
"""Places of words that name an option, and the value in each; None: the next word is it."""


class _Readings:
    """Every way to read one option in the words of a command line, in their order."""

    def __init__(self, argv: tuple[str, ...], found: _Found) -> None:
        self.found = found
        self.values = [value if value is not None else argv[place + 1] for place, value in found[:-1]]
        """As many, or one fewer: nothing may follow the last word."""
        for place, value in found[-1:]:
            self.values += argv[place + 1 : place + 2] if value is None else (value,)

    def shown(self, argv: tuple[str, ...], number: int) -> str:
        place, value = self.found[number]
        return " ".join(argv[place : place + 1 + (value is None)])


class Options:
    """The options of one command line (the whole argv). Each name is looked for once, when it is first asked for."""

    def __init__(self, argv: tuple[str, ...], line: str) -> None:
        """`line`: the same as one text."""
        self.argv = argv
        self.line = line
        end = argv.index("--", 1) if "--" in argv[1:] else len(argv)
        dashed = map(str.startswith, argv[1:end], repeat("-"))
        self._places = list(compress(range(1, end), dashed))
        self._by_head: dict[str, list[int]] | None = None
        self._known: dict[str, _Readings] = {}

    def readings(self, name: str) -> _Readings:
        readings = self._known.get(name)
        if readings is None:
            found = self._find_letter(name[1]) if is_letter(name) else self._find_name(name)
            readings = self._known[name] = _Readings(self.argv, found)
        return readings

    def _find_name(self, name: str) -> _Found:
        if self._by_head is None:
            self._by_head = {}
            for place in self._places:
                self._by_head.setdefault(self.argv[place].partition("=")[0], []).append(place)
        words = [(place, self.argv[place]) for place in self._by_head.get(name, ())]
        return [(place, None if word == name else word[len(name) + 1 :]) for place, word in words]

    def _find_letter(self, letter: str) -> _Found:
        argv = self.argv
        found: _Found = []
        for place in [place for place in self._places if letter in argv[place]]:
            word = argv[place]
            at = word.find(letter, 1)
            if word[1] == "-" or (at > 1 and not word[1:at].isalnum()):
                continue
            rest = word[at + 1 :]
            if at == 1 and rest[:1] == "=":
                found.append((place, rest[1:]))
            found.append((place, rest or None))
            if letter in rest:
                at = word.find(letter, at + 1, _MAX_PLACES)
                while at > 0 and word[1:at].isalnum():
                    found.append((place, word[at + 1 :] or None))
                    at = word.find(letter, at + 1, _MAX_PLACES)
        return found


@lru_cache(maxsize=512)
def compile_options(values: Values) -> Callable[[Options], Met | None]:
    """The first option that one of `values` describes."""
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
        name: _Wanted(
            plain.get(name, ""),
            texts,
            match_words(tuple(texts)),
            tuple({longest_literal(glob) for glob in texts}),
        )
        for name, texts in globs.items()
    }

    def match(options: Options) -> Met | None:
        argv = options.argv
        first = len(argv)
        met: Met | None = None
        for name, (alone, texts, match_value, literals) in wanted.items():
            if not alone and not any(literal in options.line for literal in literals):
                continue
            readings = options.readings(name)
            if alone and readings.found:
                number, text = 0, alone
            elif (matched := match_value(readings.values)) is not None:
                number, text = matched[0], texts[matched[1]]
            else:
                continue
            if (place := readings.found[number][0]) < first:
                first, met = place, (text, readings.shown(argv, number))
        return met

    return match
