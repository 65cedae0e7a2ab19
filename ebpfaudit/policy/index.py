"""Which rules can an event concern at all? Found in a time that hardly grows with their number.

A set of rules' parts is an integer, one bit each. Each field has an index: from a value to the parts whose
test on that field may pass, or that have none. The conjunction over the fields leaves few candidates, and
these are tested in full (`CompiledPart.find`): an index may let too much pass, never too little.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

from ebpfaudit.policy.compiled import CompiledPart
from ebpfaudit.policy.facts import Facts, Getter, getter, is_of_event
from ebpfaudit.policy.globs import literals_of
from ebpfaudit.policy.matching import fold_spans, spans_of, split_identities
from ebpfaudit.policy.options import is_letter, option_name
from ebpfaudit.policy.remembered import Remembered, Room
from ebpfaudit.policy.texts import NeedleIndex, TextIndex
from ebpfaudit.profiles.quantities import size_over
from ebpfaudit.profiles.schema import FIELDS, Values

_COSTS = ("number", "flag", "choice", "ancestor", "size", "text", "path", "dst", "program", "words")
_WORDS = ("option", "argv", "cmdline")
"""Fields of the command line, the most telling first: of several in one part, only one is indexed."""
_EDGE = "\n\n\n"
"""Before and behind a command line: what begins or ends it is a needle that is long and rare."""
_OF_IMAGE = ("exe", "script", "memfd", "deleted", "temporary", "via_linker", "error")
"""Fields of an exec that are the same whenever the same file is executed in the same way."""
_NOT_INDEXED = ("mark", "inline_code")

Look = Callable[[Any], int]


class _Field(NamedTuple):
    tested: int
    """The parts that have a test on it."""
    get: Getter
    look: Look
    """From its value to the parts that remain."""


class Index:
    """The parts about one kind of event."""

    def __init__(self, kind: str, parts: Sequence[CompiledPart], room: Room) -> None:
        self.all = (1 << len(parts)) - 1
        self._kind = kind
        self._parts = parts
        self._room = room
        names = [name for name in FIELDS[kind] if any(name in part.part.when for part in parts)]
        names.sort(key=lambda name: _cost(kind, name))
        fields = [(name, field) for name in names if (field := self._field(name)) is not None]
        self._needles = self._words()
        self._worded = sum(
            1 << part.position for part in parts if any(name in part.part.when for name in _WORDS)
        )
        self._by_group = {
            "event": [field for name, field in fields if is_of_event(kind, name)],
            "process": [field for name, field in fields if not is_of_event(kind, name)],
            "image": [field for name, field in fields if name in _OF_IMAGE],
            "rest": [field for name, field in fields if name not in _OF_IMAGE],
        }

    def of_event(self, facts: Facts, candidates: int) -> int:
        """Those of `candidates` that the event's own fields leave."""
        return self._narrow("event", facts, candidates)

    def of_process(self, facts: Facts, candidates: int) -> int:
        """Those that the fields of the process, and of the episode's setting, leave."""
        return self._narrow_by_words(facts, self._narrow("process", facts, candidates))

    def of_image(self, facts: Facts, candidates: int) -> int:
        """Those that an exec's file, and how it was started, leave."""
        return self._narrow("image", facts, candidates)

    def of_rest(self, facts: Facts, candidates: int) -> int:
        """Those that all else about an exec leaves."""
        return self._narrow_by_words(facts, self._narrow("rest", facts, candidates))

    def members(self, candidates: int) -> Iterable[CompiledPart]:
        """The parts of a set, in their order."""
        while candidates:
            lowest = candidates & -candidates
            candidates ^= lowest
            yield self._parts[lowest.bit_length() - 1]

    def _narrow(self, group: str, facts: Facts, candidates: int) -> int:
        for tested, get, look in self._by_group[group]:
            if candidates & tested:
                candidates &= look(get(facts))
                if not candidates:
                    return 0
        return candidates

    def _narrow_by_words(self, facts: Facts, candidates: int) -> int:
        worded = candidates & self._worded
        if not worded:
            return candidates
        return candidates & ~worded | self._needles.find(f"{_EDGE} {facts.cmdline} {_EDGE}", worded)

    def _field(self, name: str) -> _Field | None:
        """The index of one field, but of those of the command line."""
        if name in _WORDS or name in _NOT_INDEXED:
            return None
        bits: dict[Any, int] = {}
        for part in self._parts:
            for value in part.part.when.get(name, ()):
                bits[value] = bits.get(value, 0) | 1 << part.position
        tested = reduce(or_, bits.values())
        others = self.all & ~tested
        get = getter(self._kind, name)
        field_type = FIELDS[self._kind][name]
        if field_type == "flag":
            passing = {flag: others | bits.get(flag, 0) for flag in (True, False)}
            return _Field(tested, get, lambda flag: passing[bool(flag)])
        if field_type in ("number", "size"):
            look_up = _number_index(bits, field_type)
            return _Field(tested, get, lambda number: others | look_up(number))
        if field_type == "dst":
            find = _destination_index(bits)
            return _Field(tested, get, lambda destination: others | find(destination))
        if field_type == "ancestor":
            return _Field(tested, get, self._lineage_index(name, tested, others))
        return self._paths(name, bits, tested, others)

    def _paths(self, name: str, bits: dict[Any, int], tested: int, others: int) -> _Field:
        """Of a text, or of the several texts that are a process's programs."""
        identities, _ = split_identities(tuple(bits))
        by_content = reduce(or_, (bits[text] for text in identities), 0)
        index = TextIndex({text: found for text, found in bits.items() if text not in identities})
        known: Remembered[str, int] = Remembered(lambda text: others | index.find(text), self._room)
        get = getter(self._kind, name)
        if not by_content and name != "program":
            return _Field(tested, get, known.__getitem__)

        def look(facts: Facts) -> int:
            value = get(facts)
            found = others if name == "program" else known[value]
            for path in value if name == "program" else ():
                found |= known[path]
            return found | by_content if facts.process.identities else found

        return _Field(tested, lambda facts: facts, look)

    def _lineage_index(self, name: str, tested: int, others: int) -> Look:
        parts = [part for part in self._parts if name in part.part.when]
        tests = [(1 << part.position, test) for part in parts for test in part.tests if test.name == name]

        def find(lineage: int) -> int:
            return others | sum(bit for bit, test in tests if test.match(lineage) is not None)

        return Remembered(find, self._room).__getitem__

    def _words(self) -> NeedleIndex:
        """What a command line must hold for a part's test on it to pass."""
        needles: dict[str, int] = {}
        for part in self._parts:
            name = next((name for name in _WORDS if name in part.part.when), "")
            for needle in _needles_of(name, part.part.when[name]) if name else ():
                needles[needle] = needles.get(needle, 0) | 1 << part.position
        return NeedleIndex(needles, self._room)


def _cost(kind: str, name: str) -> int:
    field_type = FIELDS[kind][name]
    return _COSTS.index(field_type) if field_type in _COSTS else len(_COSTS)


def _needles_of(name: str, values: Values) -> set[str]:
    """Texts of which a command line holds one wherever one of `values` is met, if each of its words stands between
    two spaces, and the whole between two edges."""
    needles = {_needle_of(name, str(value)) for value in values}
    return {each for each in needles if not any(other in each for other in needles if other != each)}


def _needle_of(name: str, value: str) -> str:
    if name == "argv":
        return _longest(literals_of(value, " ", " "))
    if name == "cmdline":
        return _longest(literals_of(value, f"{_EDGE} ", f" {_EDGE}"))
    option = option_name(value)
    # A letter may stand anywhere in a cluster, and its value right behind it.
    needle = option[1] if is_letter(option) else f" {option}"
    _, _, glob = value.partition(" ")
    return _longest([needle, *literals_of(glob, "", " ")])


def _longest(literals: list[str]) -> str:
    """The last of several: a command line's first words are the common ones."""
    return max(reversed(literals), key=len)


def _number_index(bits: dict[Any, int], field_type: str) -> Look:
    spans: list[tuple[int, int, int]] = []
    for value, found in bits.items():
        if field_type == "size":
            spans.append((size_over(str(value)) + 1, 1 << 64, found))
        elif isinstance(value, int):
            spans.append((value, value, found))
        else:
            low, high = value.split("-")
            spans.append((int(low), int(high), found))
    bounds, folds = fold_spans(spans, lambda items: reduce(or_, items, 0))
    return lambda number: folds[bisect_right(bounds, number)]


def _destination_index(bits: dict[Any, int]) -> Look:
    spans = [(low, high, found) for text, found in bits.items() for low, high in spans_of(str(text))]
    bounds, folds = fold_spans(spans, lambda items: reduce(or_, items, 0))
    sockets = TextIndex({text: found for text, found in bits.items() if str(text).startswith("unix:")})

    def find(destination: int | str) -> int:
        if isinstance(destination, str):
            return sockets.find(destination)
        return folds[bisect_right(bounds, destination)]

    return find
