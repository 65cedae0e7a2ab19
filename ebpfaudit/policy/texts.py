"""Many globs, one text: which of them match? Without trying each.

Linear in the length of the text, and nearly the same for ten globs and for thousands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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


class TextIndex:
    """From a text to the bits of all `patterns` (globs as a profile writes them) that match it, and of all
    `needles` that it holds."""

    def __init__(self, patterns: Mapping[str, int], needles: Mapping[str, int] | None = None) -> None:
        self._exact: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._starts: dict[int, dict[str, list[_Glob]]] = {}
        """Globs without a long literal, by how what they match begins."""
        self._others: list[_Glob] = []
        self._long: list[_Glob] = []
        self._needles = [(needle, bits) for needle, bits in (needles or {}).items()]
        for pattern, bits in patterns.items():
            self._add(pattern, bits)
        self._by_gram = self._grams() if len(self._long) + len(self._needles) > _FEW else None

    def find(self, text: str) -> int:
        found = self._exact.get(text, 0)
        if self._names and "/" in text:
            found |= self._names.get(text.rpartition("/")[2], 0)
        for length, by_start in self._starts.items():
            for glob in by_start.get(text[:length], ()):
                if glob.matches(text):
                    found |= glob.bits
        for glob in self._others:
            if glob.matches(text):
                found |= glob.bits
        return found | self._holding(text)

    def _holding(self, text: str) -> int:
        """The bits of the long globs that match, and of the needles."""
        globs, needles = self._long, self._needles
        if self._by_gram is not None:
            globs, needles = [], []
            if len(text) < GRAM:
                return 0
            for gram in self._by_gram.keys() & {text[at : at + GRAM] for at in range(len(text) - GRAM + 1)}:
                more_globs, more_needles = self._by_gram[gram]
                globs += more_globs
                needles += more_needles
        found = 0
        for glob in globs:
            if glob.matches(text):
                found |= glob.bits
        for needle, bits in needles:
            if needle in text:
                found |= bits
        return found

    def _add(self, pattern: str, bits: int) -> None:
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
                self._starts.setdefault(len(start), {}).setdefault(start, []).append(glob)
            else:
                self._others.append(glob)

    def _grams(self) -> dict[str, tuple[list[_Glob], list[tuple[str, int]]]]:
        """Each long literal under that piece of it which fewest others are under."""
        table: dict[str, tuple[list[_Glob], list[tuple[str, int]]]] = {}

        def place(literal: str) -> tuple[list[_Glob], list[tuple[str, int]]]:
            pieces = [literal[at : at + GRAM] for at in range(len(literal) - GRAM + 1)]
            gram = min(pieces, key=lambda piece: sum(len(each) for each in table.get(piece, ())))
            return table.setdefault(gram, ([], []))

        for glob in self._long:
            place(glob.literal)[0].append(glob)
        for needle, bits in self._needles:
            place(needle)[1].append((needle, bits))
        return table
