"""Options of a command line, in every spelling that option parsers take: `--name=value`, `--name value`, `-Rvalue`,
`-R value`, `-NfR value`, `-name value`.

The time is linear in the length of the arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ebpfaudit.policy.matching import Matcher, match_texts
from ebpfaudit.profiles.schema import Values
from ebpfaudit.text import show

_MAX_PLACES = 32
"""Of one letter in one cluster that are tried: the first, and those among the first so many letters."""

Met = tuple[str, str]
"""What the profile says, and the option as it was given."""


def option_name(text: str) -> str:
    """NAME of "NAME" or "NAME VALUEGLOB", as events show it."""
    return show(text.partition(" ")[0].encode())


def compile_options(values: Values) -> Callable[[tuple[str, ...]], Met | None]:
    """The first option among the arguments (the whole argv) that one of `values` describes."""
    plain: dict[str, str] = {}
    globs: dict[str, list[tuple[str, Matcher]]] = {}
    for text in map(str, values):
        _, space, glob = text.partition(" ")
        if space:
            globs.setdefault(option_name(text), []).append((text, match_texts((glob,))))
        else:
            plain[option_name(text)] = text
    names = {*plain, *globs}
    letters = [name[1] for name in names if re.fullmatch(r"-[^-]", name)]

    def match(argv: tuple[str, ...]) -> Met | None:
        for position, word in enumerate(argv):
            if position == 0 or not word.startswith("-"):
                continue
            if word == "--":
                return None
            following = argv[position + 1] if position + 1 < len(argv) else None
            for name, value, shown in _readings(word, following, names, letters):
                if name in plain:
                    return plain[name], shown
                if value is not None:
                    for text, match_value in globs[name]:
                        if match_value(value) is not None:
                            return text, shown
        return None

    return match


def _readings(
    word: str, following: str | None, names: set[str], letters: list[str]
) -> Iterator[tuple[str, str | None, str]]:
    """(name, its value or None, both as given) for every way to read one of `names` in an element."""
    name, equals, value = word.partition("=")
    if name in names:
        if equals:
            yield name, value, word
        else:
            yield name, following, word if following is None else f"{word} {following}"
    if word[1:2] == "-":
        return
    for letter in letters:
        for place in _places(word, letter):
            if not word[1:place].isalnum() and place > 1:
                break
            rest = word[place + 1 :]
            if rest:
                yield f"-{letter}", rest, word
            else:
                yield f"-{letter}", following, word if following is None else f"{word} {following}"


def _places(word: str, letter: str) -> Iterator[int]:
    first = word.find(letter, 1)
    if first > 0:
        yield first
        for place in range(first + 1, min(len(word), _MAX_PLACES)):
            if word[place] == letter:
                yield place
