"""A rule's conditions, compiled: functions from a field's value to the profile's text that met it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from ebpfaudit.events import Identity
from ebpfaudit.policy.globs import ANY_FOLDER, WILD, Glob, glob_regex
from ebpfaudit.process import Process
from ebpfaudit.profiles.addresses import Network, parse_networks
from ebpfaudit.profiles.quantities import size_over
from ebpfaudit.profiles.schema import FIELDS, IDENTITIES, Values
from ebpfaudit.text import show

Matcher = Callable[[Any], str | None]
"""Given a field's value: the value of the profile that it matches, or None."""

Item = TypeVar("Item")
Folded = TypeVar("Folded")

_MANY = 16
"""Words; so many are looked at one by one."""


@lru_cache(maxsize=512)
def compile_matcher(kind: str, name: str, values: Values) -> Matcher:
    """The matcher of `values` for a field of an event kind. It never raises on what events hold."""
    field_type = FIELDS[kind][name]
    if field_type in ("number", "flag"):
        return _match_number(values)
    if field_type == "size":
        return _match_size(values)
    if field_type == "dst":
        return _match_destination(values)
    texts = tuple(map(str, values))
    if field_type not in ("words", "program"):
        return match_texts(texts)
    match_any = match_words(texts)

    def match(words: tuple[str, ...]) -> str | None:
        met = match_any(words)
        return met[1] if met is not None else None

    return match


def match_paths(patterns: tuple[str, ...]) -> Matcher:
    """For file globs as a shell reads them: "*" stays within a folder."""
    literals = {show(pattern.encode()): pattern for pattern in patterns if not WILD.search(pattern)}
    globs = [pattern for pattern in patterns if WILD.search(pattern)]
    if not globs:
        return literals.get
    fullmatch = re.compile(
        "|".join(f"({glob_regex(pattern, '[^/]')})" for pattern in globs), re.DOTALL
    ).fullmatch

    def match(text: str) -> str | None:
        if (met := literals.get(text)) is not None:
            return met
        found = fullmatch(text)
        return globs[found.lastindex - 1] if found is not None and found.lastindex else None

    return match


def match_texts(patterns: tuple[str, ...]) -> Matcher:
    """Exact texts and "*/name" by look-up, all other globs in their order."""
    literals = {show(pattern.encode()): pattern for pattern in patterns if not WILD.search(pattern)}
    names = {show(pattern[2:].encode()): pattern for pattern in patterns if ANY_FOLDER.fullmatch(pattern)}
    globs = [Glob(pattern) for pattern in patterns if WILD.search(pattern) and pattern not in names.values()]
    if not names and not globs:
        return literals.get
    by_literal = [(glob.literal, glob) for glob in globs]

    def match(text: str) -> str | None:
        if (met := literals.get(text)) is not None:
            return met
        if names:
            _, slash, name = text.rpartition("/")
            if slash and name in names:
                return names[name]
        for literal, glob in by_literal:
            if literal in text and glob.matches(text):
                return glob.pattern
        return None

    return match


WordMatcher = Callable[[Sequence[str]], tuple[int, str] | None]


@lru_cache(maxsize=512)
def match_words(patterns: tuple[str, ...]) -> WordMatcher:
    """The place of the first word that one of `patterns` matches, and which."""
    match_text = match_texts(patterns)
    place_of = _place_among_many(patterns)

    def match(words: Sequence[str]) -> tuple[int, str] | None:
        if len(words) > _MANY:
            text = "\n".join(("", *words, ""))
            if text.count("\n") == len(words) + 1:  # as events show them: no word holds a line's end
                place = place_of(words, text)
                return None if place is None else (place, match_text(words[place]) or "")
        for place, word in enumerate(words):
            if (met := match_text(word)) is not None:
                return place, met
        return None

    return match


def _place_among_many(patterns: tuple[str, ...]) -> Callable[[Sequence[str], str], int | None]:
    """The first of thousands of words that matches, without a look at each: they are given as lines of a text too."""
    exact = {show(pattern.encode()) for pattern in patterns if not WILD.search(pattern)}
    globs = [Glob(pattern) for pattern in patterns if WILD.search(pattern)]

    def place_of(words: Sequence[str], text: str) -> int | None:
        met = [] if exact.isdisjoint(words) else [next(word for word in words if word in exact)]
        met += [line for glob in globs if (line := glob.first_line(text)) is not None]
        return min(map(words.index, met), default=None)

    return place_of


def _match_number(values: Values) -> Matcher:
    exact: dict[int, str] = {}
    ranges: list[tuple[int, int, str]] = []
    for value in values:
        if isinstance(value, int):
            exact[value] = str(value).lower() if isinstance(value, bool) else str(value)
        else:
            low, high = value.split("-")
            ranges.append((int(low), int(high), value))

    def match(number: int) -> str | None:
        if (met := exact.get(number)) is not None:
            return met
        return next((text for low, high, text in ranges if low <= number <= high), None)

    return match


def _match_size(values: Values) -> Matcher:
    limit, text = min((size_over(str(value)), str(value)) for value in values)
    return lambda size: text if size > limit else None


def _match_destination(values: Values) -> Matcher:
    """For "unix:PATH" or an address as a number."""
    texts = [str(value) for value in values]
    match_unix = match_texts(tuple(text for text in texts if text.startswith("unix:")))
    spans = [(low, high, rank) for rank, text in enumerate(texts) for low, high in spans_of(text)]
    bounds, firsts = fold_spans(spans, lambda ranks: texts[min(ranks)] if ranks else None)

    def match(destination: int | str) -> str | None:
        if isinstance(destination, str):
            return match_unix(destination)
        return firsts[bisect_right(bounds, destination)]

    return match


Span = tuple[int, int]
"""The first and the last number."""


def spans_of(text: str) -> list[Span]:
    """The addresses of a set, an address or a CIDR, as spans that do not touch; none of a Unix path."""
    if text.startswith("unix:"):
        return []
    networks, holes = parse_networks(text)
    spans = []
    removed = _joined(holes)
    for low, high in _joined(networks):
        for first, last in removed:
            if last < low or first > high:
                continue
            if first > low:
                spans.append((low, first - 1))
            low = last + 1
        if low <= high:
            spans.append((low, high))
    return spans


def _joined(networks: Iterable[Network]) -> list[Span]:
    spans: list[Span] = []
    for low, high in sorted((first, first | (1 << 128 - bits) - 1) for first, bits in networks):
        if spans and low <= spans[-1][1] + 1:
            spans[-1] = spans[-1][0], max(high, spans[-1][1])
        else:
            spans.append((low, high))
    return spans


def fold_spans(
    spans: Collection[tuple[int, int, Item]], fold: Callable[[Collection[Item]], Folded]
) -> tuple[list[int], list[Folded]]:
    """(bounds, folds): `folds[bisect_right(bounds, n)]` is the `fold` of the items of all spans that hold `n`."""
    begins: dict[int, list[Item]] = {}
    ends: dict[int, list[Item]] = {}
    for low, high, item in spans:
        begins.setdefault(low, []).append(item)
        ends.setdefault(high + 1, []).append(item)
    bounds = sorted({*begins, *ends})
    active: Counter[Item] = Counter()
    folds = [fold(())]
    for bound in bounds:
        active.update(begins.get(bound, ()))
        active.subtract(ends.get(bound, ()))
        folds.append(fold([item for item, times in active.items() if times]))
    return bounds, folds


def match_identities(texts: tuple[str, ...]) -> Callable[[Process, str], str | None]:
    """Whether what was found out about a process's program at this path is what one of `texts` names."""
    known = {identity_key(text): text for text in texts}

    def match(process: Process, path: str) -> str | None:
        for identity in process.identities:
            if identity.path == path:
                for key in identity_keys(identity):
                    if key in known:
                        return known[key]
        return None

    return match


def identity_key(text: str) -> str:
    """Equal for two texts that name the same content in the same way."""
    return text.lower() if text.startswith("sha256:") else text


def identity_keys(identity: Identity) -> Iterator[str]:
    """Every way to name what was found out."""
    yield f"sha256:{identity.sha256}"
    for path in identity.same_as:
        yield f"same-as:{path}"


def split_identities(values: Values) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(identities, the others)."""
    texts = [str(value) for value in values]
    identities = tuple(text for text in texts if text.startswith(IDENTITIES))
    return identities, tuple(text for text in texts if not text.startswith(IDENTITIES))
