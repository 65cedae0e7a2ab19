"""Many globs, one text: which of them match? Without trying each.

Linear in the length of the text, and nearly the same for ten globs and for thousands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from struct import unpack_from

from ebpfaudit.policy.matching import ANY_FOLDER, WILD, glob_regex, longest_literal
from ebpfaudit.text import show

GRAM = 4
"""Literals of at least so many characters are looked for by one of their pieces of this length."""

_FEW = 8
"""So many are looked for one by one."""


class _Glob:
    """One glob, by the longest text that it asks for literally."""

    __slots__ = ("_fullmatch", "_pattern", "bits", "literal")

    def __init__(self, pattern: str, bits: int) -> None:
        self.literal = longest_literal(pattern)
        self.bits = bits
        self._pattern = pattern
        self._fullmatch: re.Pattern[str] | None = None

    def matches(self, text: str) -> bool:
        if self.literal not in text:
            return False
        if self._pattern == f"*{self.literal}*":
            return True
        if self._fullmatch is None:  # most are never needed
            self._fullmatch = re.compile(glob_regex(self._pattern), re.DOTALL)
        return self._fullmatch.fullmatch(text) is not None


_Found = tuple[list[_Glob], list[tuple[str, int]]]
"""Globs, and needles with their bits."""


class TextIndex:
    """From a text to the bits of all `patterns` (globs as a profile writes them) that match it, and of all
    `needles` that it holds."""

    def __init__(self, patterns: Mapping[str, int], needles: Mapping[str, int] | None = None) -> None:
        self._exact: dict[str, int] = {}
        self._names: dict[str, int] = {}
        starts: dict[int, dict[str, list[_Glob]]] = {}
        self._others: list[_Glob] = []
        self._long: list[_Glob] = []
        self._needles = [(needle, bits) for needle, bits in (needles or {}).items()]
        for pattern, bits in patterns.items():
            self._add(pattern, bits, starts)
        self._starts = list(starts.items())
        """Globs without a long literal, by how what they match begins."""
        self._by_gram = self._grams() if len(self._long) + len(self._needles) > _FEW else None

    def find(self, text: str) -> int:
        return self.find_all((text,))[0]

    def find_all(self, texts: Sequence[str]) -> list[int]:
        """The same of several texts, for little more than the price of one."""
        globs, needles = self._long, self._needles
        if self._by_gram is not None:
            globs, needles = self._perhaps(
                "\n".join(texts)
            )  # as events show them: no text holds a line's end
        found = [self._find(text) for text in texts]
        for glob in globs:
            for place, text in enumerate(texts):
                if glob.matches(text):
                    found[place] |= glob.bits
        for needle, bits in needles:
            for place, text in enumerate(texts):
                if needle in text:
                    found[place] |= bits
        return found

    def _find(self, text: str) -> int:
        """The bits of all but the long globs and the needles."""
        found = self._exact.get(text, 0)
        if self._names and "/" in text:
            found |= self._names.get(text.rpartition("/")[2], 0)
        for length, by_start in self._starts:
            if (start := text[:length]) in by_start:
                for glob in by_start[start]:
                    if glob.matches(text):
                        found |= glob.bits
        for glob in self._others:
            if glob.matches(text):
                found |= glob.bits
        return found

    def _perhaps(self, text: str) -> _Found:
        """The long globs and the needles that a piece of the text speaks for."""
        assert self._by_gram is not None
        pieces = self._by_gram.keys() & _pieces(text)
        if not pieces:
            return [], []
        found = [self._by_gram[piece] for piece in pieces]
        return [glob for globs, _ in found for glob in globs], [
            needle for _, needles in found for needle in needles
        ]

    def _add(self, pattern: str, bits: int, starts: dict[int, dict[str, list[_Glob]]]) -> None:
        if not WILD.search(pattern):
            shown = show(pattern.encode())
            self._exact[shown] = self._exact.get(shown, 0) | bits
        elif ANY_FOLDER.fullmatch(pattern):
            name = show(pattern[2:].encode())
            self._names[name] = self._names.get(name, 0) | bits
        else:
            glob = _Glob(pattern, bits)
            start = show((WILD.split(pattern, maxsplit=1)[0]).encode())[: GRAM - 1]
            if len(glob.literal) >= GRAM:
                self._long.append(glob)
            elif start:
                starts.setdefault(len(start), {}).setdefault(start, []).append(glob)
            else:
                self._others.append(glob)

    def _grams(self) -> dict[int, _Found]:
        """Each long literal under that piece of it which fewest others are under."""
        table: dict[int, _Found] = {}

        def place(literal: str) -> _Found:
            whole = [piece for piece in _pieces(literal) if 0 not in piece.to_bytes(GRAM)]
            gram = min(whole, key=lambda piece: sum(len(each) for each in table.get(piece, ())))
            return table.setdefault(gram, ([], []))

        for glob in self._long:
            place(glob.literal)[0].append(glob)
        for needle, bits in self._needles:
            place(needle)[1].append((needle, bits))
        return table


def _pieces(text: str) -> tuple[int, ...]:
    """Every `GRAM` bytes of it in a row, as a number: cut out and looked up without a line of Python for each. Those
    at the end are filled up with zeros, which no text holds."""
    data = text.encode("utf-8", "surrogatepass") + bytes(2 * GRAM - 1)
    numbers = f"{len(data) // GRAM - 1}I"
    return (
        unpack_from(numbers, data)
        + unpack_from(numbers, data, 1)
        + unpack_from(numbers, data, 2)
        + unpack_from(numbers, data, 3)
    )
