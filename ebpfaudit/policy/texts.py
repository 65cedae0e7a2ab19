"""Many globs or needles, one text: which of them match, or does it hold? Without trying each.

Linear in the length of the text, and nearly the same for ten and for thousands.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from struct import unpack_from
from typing import Generic, TypeVar

from ebpfaudit.policy.bounds import LONGEST_REMEMBERED
from ebpfaudit.policy.globs import ANY_FOLDER, WILD, Glob
from ebpfaudit.policy.remembered import Room
from ebpfaudit.text import show

_PIECE = 4
"""A text is cut into pieces of so many bytes; a needle is known by those that it can fall into."""

_LONG = 2 * _PIECE - 1
"""A needle of so many bytes holds a whole piece of a text, wherever in it the needle stands."""

_START = 3
"""Globs without a long literal are told apart by so many of their first characters."""

_FEW = 20
"""So many needles are looked for one by one in the time that it takes to cut the text up."""

_NEEDLE_CHARS = 32
"""About what one takes, in memory."""

Item = TypeVar("Item", bound=Hashable)


class Needles(Generic[Item]):
    """Things, each with a text. `perhaps` is quick."""

    def __init__(self) -> None:
        self._by_piece: dict[int, list[tuple[str, Item]]] = {}

    def add(self, needle: str, item: Item) -> bool:
        """False: the needle is too short to be looked for in this way."""
        data = _encoded(needle)
        if len(data) < _LONG:
            return False
        for start in range(_PIECE):
            (piece,) = unpack_from("I", data, start)
            self._by_piece.setdefault(piece, []).append((needle, item))
        return True

    def perhaps(self, text: str) -> set[tuple[str, Item]]:
        """Every needle that the text holds, with its thing; and a few others."""
        if not self._by_piece:
            return set()
        data = _encoded(text)
        pieces = self._by_piece.keys() & unpack_from(f"{len(data) // _PIECE}I", data)
        return {pair for piece in pieces for pair in self._by_piece[piece]} if pieces else set()


class TextIndex:
    """From a text to the bits of all `patterns` (globs as a profile writes them) that match it."""

    def __init__(self, patterns: Mapping[str, int]) -> None:
        self._exact: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._others: list[tuple[Glob, int]] = []
        self._long: Needles[tuple[Glob, int]] = Needles()
        starts: dict[int, dict[str, list[tuple[Glob, int]]]] = {}
        for pattern, bits in patterns.items():
            self._add(pattern, bits, starts)
        self._starts = list(starts.items())
        """Globs without a long literal, by how what they match begins."""

    def find(self, text: str) -> int:
        found = self._exact.get(text, 0)
        if self._names and "/" in text:
            found |= self._names.get(text.rpartition("/")[2], 0)
        for length, by_start in self._starts:
            if (start := text[:length]) in by_start:
                for glob, bits in by_start[start]:
                    if glob.matches(text):
                        found |= bits
        for glob, bits in self._others:
            if glob.matches(text):
                found |= bits
        for _, (glob, bits) in self._long.perhaps(text):
            if bits & ~found and glob.matches(text):
                found |= bits
        return found

    def _add(self, pattern: str, bits: int, starts: dict[int, dict[str, list[tuple[Glob, int]]]]) -> None:
        if not WILD.search(pattern):
            shown = show(pattern.encode())
            self._exact[shown] = self._exact.get(shown, 0) | bits
            return
        if ANY_FOLDER.fullmatch(pattern):
            name = show(pattern[2:].encode())
            self._names[name] = self._names.get(name, 0) | bits
            return
        glob = Glob(pattern)
        if self._long.add(glob.literal, (glob, bits)):
            return
        if start := show((WILD.split(pattern, maxsplit=1)[0]).encode())[:_START]:
            starts.setdefault(len(start), {}).setdefault(start, []).append((glob, bits))
        else:
            self._others.append((glob, bits))


_Plan = tuple[list[tuple[str, int]], bool]
"""What to look for one by one, and whether there is more."""


class NeedleIndex:
    """From a text to the bits of all `needles` that it holds."""

    def __init__(self, needles: Mapping[str, int], room: Room) -> None:
        self._needles = needles
        self._long: Needles[int] = Needles()
        self._short = {needle: bits for needle, bits in needles.items() if not self._long.add(needle, bits)}
        self._plans: dict[int, _Plan] = {}
        self._known: dict[tuple[int, str], int] = {}
        self._room = room
        room.share(self._plans)
        room.share(self._known)

    def find(self, text: str, wanted: int) -> int:
        """Of the bits in `wanted`."""
        found = self._known.get((wanted, text))
        if found is None:
            found = self._find(text, wanted)
            if len(text) <= LONGEST_REMEMBERED:
                self._room.take(len(text))
                self._known[wanted, text] = found
        return found

    def _find(self, text: str, wanted: int) -> int:
        one_by_one, others = self._plans.get(wanted) or self._plan(wanted)
        found = 0
        for needle, bits in one_by_one:
            if bits & ~found and needle in text:
                found |= bits
        if others:
            for needle, bits in self._long.perhaps(text):
                if bits & wanted & ~found and needle in text:
                    found |= bits
        return found & wanted

    def _plan(self, wanted: int) -> _Plan:
        few = [(needle, bits & wanted) for needle, bits in self._needles.items() if bits & wanted]
        others = len(few) > _FEW
        if others:
            few = [(needle, bits & wanted) for needle, bits in self._short.items() if bits & wanted]
        self._room.take(_NEEDLE_CHARS * len(few))
        self._plans[wanted] = plan = few, others
        return plan


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
