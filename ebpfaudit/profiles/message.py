"""A rule's message: plain text with `{field}`s of the event in it; `{{` and `}}` are braces."""

from __future__ import annotations

import re

_PIECE = re.compile(r"([^{}]*)(?:(\{\{|\}\})|\{([^{}]*)\}|\Z|(.))", re.DOTALL)


class MessageError(ValueError):
    """A brace that opens or closes nothing."""


def parse_message(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs of plain text and the name of the field that follows it ("" at the end); raises MessageError."""
    pairs: list[tuple[str, str]] = []
    plain = ""
    for found in _PIECE.finditer(text):
        plain += found[1] + (found[2] or "")[:1]
        if found[4]:
            raise MessageError(
                f"a single '{found[4]}' in the message: write '{found[4] * 2}', or '{{field}}'"
            )
        if found[3] == "":
            raise MessageError("'{}' in the message names no field")
        if found[3] is not None:
            pairs.append((plain, found[3]))
            plain = ""
    if plain:
        pairs.append((plain, ""))
    return tuple(pairs)
