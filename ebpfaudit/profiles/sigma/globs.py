"""Texts with wildcards, and what two of them have in common: again a list of texts with wildcards.

`when` can ask only once about a field, and any of its values will do. "Holds both -e and /bin/sh" is
therefore written as all the orders in which a text can hold both, overlaps included. That is exact.
"""

from __future__ import annotations

from collections.abc import Iterable

Glob = tuple[str, ...]
"""ANY, STAR, and for each other place the characters that may stand there ("aA")."""

ANY = "\0?"
STAR = "\0*"

MAX_GLOBS = 64
"""All orders of four texts, or of a few times a dozen. More is neither readable nor cheap to match."""

_MAX_CELLS = 60_000
"""A second or two of work, at most."""


class TooManyOrders(ValueError):
    """What the texts have in common takes more globs than a rule should hold."""


def literal(text: str, *, any_case: bool) -> Glob:
    return tuple(_variants(char) if any_case else char for char in text)


def _variants(char: str) -> str:
    return "".join(dict.fromkeys(each for each in (char.lower(), char.upper()) if len(each) == 1)) or char


def is_plain_middle(glob: Glob) -> bool:
    """ "*text*" where text has no wildcard and no space: a command line holds it where one argument does."""
    middle = glob[1:-1]
    return (
        len(glob) > 2
        and glob[0] == glob[-1] == STAR
        and not any(token in (STAR, ANY) or " " in token for token in middle)
    )


def intersect(ones: Iterable[Glob], others: Iterable[Glob]) -> tuple[Glob, ...]:
    """Globs that together match what both one of `ones` and one of `others` match; raises TooManyOrders."""
    ones, others = tuple(ones), tuple(others)
    if sum(map(len, ones)) * sum(map(len, others)) > _MAX_CELLS:
        raise TooManyOrders
    found: dict[Glob, None] = {}
    for one in ones:
        for other in others:
            found.update(dict.fromkeys(_common(one, other)))
            if len(found) > 4 * MAX_GLOBS:
                raise TooManyOrders
    kept = _without_covered(tuple(found))
    if len(kept) > MAX_GLOBS:
        raise TooManyOrders
    return kept


def _common(one: Glob, other: Glob) -> tuple[Glob, ...]:
    """What is in both, from the ends of the two to their beginnings. None in a cell: too many."""
    if covers(one, other):
        return (other,)
    if covers(other, one):
        return (one,)
    below: list[tuple[Glob, ...] | None] = []
    for i in range(len(one), -1, -1):
        row: list[tuple[Glob, ...] | None] = [()] * (len(other) + 1)
        for j in range(len(other), -1, -1):
            row[j] = _cell(one[i : i + 1], other[j : j + 1], row, below, j)
        below = row
    if below[0] is None:
        raise TooManyOrders
    return below[0]


def _cell(
    one: Glob, other: Glob, row: list[tuple[Glob, ...] | None], below: list[tuple[Glob, ...] | None], j: int
) -> tuple[Glob, ...] | None:
    if not one and not other:
        return ((),)
    if one == (STAR,) == other:
        # Both stars begin here and one ends first.
        return _prefixed(STAR, below[j], row[j + 1])
    if one == (STAR,):
        return _union(below[j], _prefixed(other[0], row[j + 1]) if other else ())
    if other == (STAR,):
        return _union(row[j + 1], _prefixed(one[0], below[j]) if one else ())
    if not one or not other:
        return ()
    both = _both(one[0], other[0])
    return _prefixed(both, below[j + 1]) if both else ()


def _both(one: str, other: str) -> str:
    if ANY in (one, other):
        return other if one == ANY else one
    return "".join(char for char in one if char in other)


def _prefixed(token: str, *cells: tuple[Glob, ...] | None) -> tuple[Glob, ...] | None:
    rests = _union(*cells)
    if rests is None:
        return None
    return tuple(rest if rest[:1] == (STAR,) == (token,) else (token, *rest) for rest in rests)


def _union(*cells: tuple[Glob, ...] | None) -> tuple[Glob, ...] | None:
    both: dict[Glob, None] = {}
    for cell in cells:
        if cell is None:
            return None
        both.update(dict.fromkeys(cell))
    kept = tuple(both) if len(both) < 2 else _without_covered(tuple(both))
    return kept if len(kept) <= MAX_GLOBS else None


def _without_covered(globs: tuple[Glob, ...]) -> tuple[Glob, ...]:
    kept: list[Glob] = []
    for glob in sorted(globs, key=len):
        if not any(covers(other, glob) for other in kept):
            kept.append(glob)
    return tuple(glob for glob in globs if glob in kept)


def covers(wide: Glob, narrow: Glob) -> bool:
    """True only if `wide` matches all that `narrow` does (a star of `narrow` needs one of `wide`)."""
    i = j = 0
    star, resume = -1, 0
    while j < len(narrow):
        if i < len(wide) and wide[i] == STAR:
            star, resume = i, j
            i += 1
        elif i < len(wide) and _covers_token(wide[i], narrow[j]):
            i, j = i + 1, j + 1
        elif star >= 0:
            resume += 1
            i, j = star + 1, resume
        else:
            return False
    return all(token == STAR for token in wide[i:])


def _covers_token(wide: str, narrow: str) -> bool:
    if STAR in (wide, narrow):
        return False
    return wide == ANY or (narrow != ANY and set(narrow) <= set(wide))


def text_of(glob: Glob) -> str:
    """The glob as a profile writes it."""
    text = "".join(_written(token) for token in glob)
    # A list's name and an identity begin like this, too.
    return f"[{text[0]}]{text[1:]}" if text.startswith(("@", "same-as:", "sha256:")) else text


def _written(token: str) -> str:
    if token in (STAR, ANY):
        return token[1]
    return f"[{token}]" if len(token) > 1 or token in "*?[" else token
