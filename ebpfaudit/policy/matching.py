"""A rule's conditions, compiled: functions from a field's value to the profile's text that met it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ebpfaudit.profiles.addresses import (
    NOT_PUBLIC,
    Network,
    covers,
    parse_networks,
)
from ebpfaudit.profiles.rules import size_over
from ebpfaudit.profiles.schema import FIELDS, Values
from ebpfaudit.text import show

Matcher = Callable[[Any], str | None]
"""Given a field's value: the value of the profile that it matches, or None."""

_WILD = re.compile(r"[*?\[]")
_ANY_FOLDER = re.compile(r"\*/[^*?\[/]+")


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
    match_text = _match_text(tuple(str(value) for value in values))
    if field_type != "words":
        return match_text
    return lambda words: next((met for word in words if (met := match_text(word)) is not None), None)


def glob_regex(pattern: str, any_char: str = ".") -> str:
    """A regular expression for the whole of a text; "*" also crosses "/", unless `any_char` does not.

    What lies between two stars is matched where it first occurs and never reconsidered (an atomic
    group), so the time is linear in a text of which a hostile process may choose 32 KiB.
    """
    first, *rest = (_plain_regex(part, any_char) for part in re.split(r"\*+", show(pattern.encode())))
    if not rest:
        return first
    *middle, last = rest
    return first + "".join(f"(?>{any_char}*?{piece})" for piece in middle) + f"{any_char}*{last}"


def _plain_regex(part: str, any_char: str) -> str:
    """A piece of a glob that has no star."""
    regex = ""
    position = 0
    while position < len(part):
        char = part[position]
        end = part.find("]", position + 2 + (part[position + 1 : position + 2] == "!"))
        if char == "?":
            regex += any_char
        elif char == "[" and end > 0:
            negated = part[position + 1] == "!"
            members = part[position + 1 + negated : end]
            members = re.sub(r"([\\\]\[^&~|])", r"\\\1", members)
            regex += f"[{'^' if negated else ''}{members}]"
            position = end
        else:
            regex += re.escape(char)
        position += 1
    return regex


def longest_literal(pattern: str) -> str:
    """The longest text that whatever matches `pattern` must hold; may be empty."""
    plain = re.sub(r"\[!?.[^\]]*\]", "*", show(pattern.encode()))
    return max(re.split(r"[*?\[]", plain), key=len)


def match_paths(patterns: tuple[str, ...]) -> Matcher:
    """For file globs as a shell reads them: "*" stays within a folder."""
    return _match_text(patterns, "[^/]")


def _match_text(patterns: tuple[str, ...], any_char: str = ".") -> Matcher:
    """Exact texts and "*/name" by look-up, all other globs by one expression."""
    literals = {show(pattern.encode()): pattern for pattern in patterns if not _WILD.search(pattern)}
    names: dict[str, str] = {}
    if any_char == ".":
        names = {
            show(pattern[2:].encode()): pattern for pattern in patterns if _ANY_FOLDER.fullmatch(pattern)
        }
    globs = [pattern for pattern in patterns if _WILD.search(pattern) and pattern not in names.values()]
    if not names and not globs:
        return literals.get
    merged = "|".join(f"({glob_regex(pattern, any_char)})" for pattern in globs)
    fullmatch = re.compile(merged, re.DOTALL).fullmatch if globs else None

    def match(text: str) -> str | None:
        if (met := literals.get(text)) is not None:
            return met
        if names:
            _, slash, name = text.rpartition("/")
            if slash and name in names:
                return names[name]
        found = fullmatch(text) if fullmatch is not None else None
        return globs[found.lastindex - 1] if found is not None and found.lastindex else None

    return match


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


_KNOWN_MAX = 1024
"""Addresses whose answer a matcher remembers."""


def _match_destination(values: Values) -> Matcher:
    """For "unix:PATH" or an address as a number. Sets and networks are looked up by prefix length."""
    texts = [str(value) for value in values]
    match_unix = _match_text(tuple(text for text in texts if text.startswith("unix:")))
    lookups = [(_lookup(*parse_networks(text)), text) for text in texts if not text.startswith("unix:")]
    # Several rules, and many ports, ask the same of one address (`compile_matcher` gives them one matcher).
    known: dict[int, str | None] = {}

    def match(destination: int | str) -> str | None:
        if isinstance(destination, str):
            return match_unix(destination)
        if destination not in known:
            if len(known) >= _KNOWN_MAX:
                known.clear()
            known[destination] = next((text for holds, text in lookups if holds(destination)), None)
        return known[destination]

    return match


def _lookup(networks: tuple[Network, ...], holes: tuple[Network, ...]) -> Callable[[int], bool]:
    outside = _prefixes(holes)
    inside = [(128, {0})] if holes == NOT_PUBLIC else _prefixes(networks)

    def holds(address: int) -> bool:
        for shift, firsts in outside:
            if address >> shift in firsts:
                return False
        return any(address >> shift in firsts for shift, firsts in inside)

    return holds


def _prefixes(networks: tuple[Network, ...]) -> list[tuple[int, set[int]]]:
    """Prefixes by the length of what follows them, without those that another covers."""
    by_shift: dict[int, set[int]] = {}
    for first, bits in networks:
        if not any(covers(other, (first, bits)) for other in networks if other != (first, bits)):
            by_shift.setdefault(128 - bits, set()).add(first >> (128 - bits))
    return list(by_shift.items())
