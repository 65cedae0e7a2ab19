"""A rule's conditions, compiled: each is a function from a field's value to the profile's text that met it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ebpfaudit.profiles.addresses import NOT_PUBLIC, AddressError, Network, covers, parse_address, parse_networks
from ebpfaudit.profiles.rules import size_over
from ebpfaudit.profiles.schema import FIELDS, Values
from ebpfaudit.text import show

Matcher = Callable[[Any], str | None]
"""Given a field's value: the value of the profile that it matches, or None."""

_WILD = re.compile(r"[*?\[]")


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


def glob_regex(pattern: str) -> str:
    """A regular expression for the whole of a text; "*" also crosses "/".

    What lies between two stars is matched where it first occurs and never reconsidered (an atomic
    group), so the time is linear in a text of which a hostile process may choose 32 KiB.
    """
    pieces: list[str] = []
    for index, part in enumerate(re.split(r"\*+", show(pattern.encode()))):
        regex = _plain_regex(part)
        pieces.append(regex if index == 0 else "\0" + regex)
    *inner, last = "".join(pieces).split("\0")
    if not inner:
        return last
    middle = "".join(f"(?>.*?{piece})" for piece in inner[1:] if piece)
    return f"{inner[0]}{middle}.*{last}"


def _plain_regex(part: str) -> str:
    """A piece of a glob that has no star."""
    regex = ""
    position = 0
    while position < len(part):
        char = part[position]
        end = part.find("]", position + 2 + (part[position + 1 : position + 2] == "!"))
        if char == "?":
            regex += "."
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


def _match_text(patterns: tuple[str, ...]) -> Matcher:
    """Exact texts by a set, all globs by one expression."""
    literals = {show(pattern.encode()): pattern for pattern in patterns if not _WILD.search(pattern)}
    globs = [pattern for pattern in patterns if _WILD.search(pattern)]
    if not globs:
        return literals.get
    merged = re.compile("|".join(f"({glob_regex(pattern)})" for pattern in globs), re.DOTALL)
    fullmatch = merged.fullmatch

    def match(text: str) -> str | None:
        if (met := literals.get(text)) is not None:
            return met
        found = fullmatch(text)
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


def _match_destination(values: Values) -> Matcher:
    """For "unix:PATH" or an address. Sets and networks are looked up by prefix length."""
    texts = [str(value) for value in values]
    match_unix = _match_text(tuple(text for text in texts if text.startswith("unix:")))
    lookups = [(_lookup(*parse_networks(text)), text) for text in texts if not text.startswith("unix:")]

    def match(destination: str) -> str | None:
        if destination.startswith("unix:"):
            return match_unix(destination)
        try:
            address = parse_address(destination)
        except AddressError:
            return None
        return next((text for holds, text in lookups if holds(address)), None)

    return match


def _lookup(networks: tuple[Network, ...], holes: tuple[Network, ...]) -> Callable[[int], bool]:
    outside = _prefixes(holes)
    if holes == NOT_PUBLIC:
        inside = {0: {0}}
    else:
        inside = _prefixes(networks)

    def holds(address: int) -> bool:
        return any(address >> (128 - bits) in firsts for bits, firsts in inside.items()) and not any(
            address >> (128 - bits) in firsts for bits, firsts in outside.items()
        )

    return holds


def _prefixes(networks: tuple[Network, ...]) -> dict[int, set[int]]:
    """Prefixes by their length, without those that another covers."""
    by_length: dict[int, set[int]] = {}
    for first, bits in networks:
        if not any(covers(other, (first, bits)) for other in networks if other != (first, bits)):
            by_length.setdefault(bits, set()).add(first >> (128 - bits))
    return by_length
