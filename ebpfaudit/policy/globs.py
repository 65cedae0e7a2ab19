"""Globs as a profile writes them. What they are tried on may be 32 KiB that a hostile process chose, as one text or as
thousands: the time is linear in it, and spent in the C of `str` and `re`."""

from __future__ import annotations

import re

from ebpfaudit.text import show

WILD = re.compile(r"[*?\[]")
ANY_FOLDER = re.compile(r"\*/[^*?\[/]+")
_STARS = re.compile(r"\*+(?<!\[\*)|\*+(?!\])")  # "[*]" is the star itself
_CLASS = re.compile(r"\[!?.[^\]]*\]")

_FREQUENT = 40
"""What comes once in so many characters is not looked for one by one."""
_ANY_OF_LINE = r"[^\n]"


def glob_regex(pattern: str, any_char: str = ".") -> str:
    """A regular expression for the whole of a text; "*" also crosses "/", unless `any_char` does not.

    What lies between two stars is matched where it first occurs and never reconsidered (an atomic
    group), so the time is linear in the text.
    """
    first, *rest = ("".join(_elements(part, any_char)) for part in _STARS.split(show(pattern.encode())))
    if not rest:
        return first
    *middle, last = rest
    return first + "".join(f"(?>{any_char}*?{piece})" for piece in middle) + f"{any_char}*{last}"


def _elements(part: str, any_char: str) -> list[str]:
    """A piece of a glob that has no star, as expressions for one character each."""
    elements = []
    position = 0
    while position < len(part):
        char = part[position]
        end = part.find("]", position + 2 + (part[position + 1 : position + 2] == "!"))
        if char == "?":
            elements.append(any_char)
        elif char == "[" and end > 0:
            negated = part[position + 1] == "!"
            members = part[position + 1 + negated : end]
            members = re.sub(r"([\\\]\[^&~|])", r"\\\1", members)
            but = "^\n" if any_char == _ANY_OF_LINE else "^"
            elements.append(f"[{but if negated else ''}{members}]")
            position = end
        else:
            elements.append(re.escape(char))
        position += 1
    return elements


def literals_of(pattern: str, before: str = "", after: str = "") -> list[str]:
    """Texts that whatever matches `pattern` must hold, if what is matched has `before` before and `after` behind it."""
    literals = re.split(r"[*?\[]", _CLASS.sub("*", show(pattern.encode())))
    if literals[0]:
        literals[0] = before + literals[0]
    if literals[-1]:
        literals[-1] += after
    return literals


def longest_literal(pattern: str) -> str:
    """The longest text that whatever matches `pattern` must hold; may be empty."""
    return max(literals_of(pattern), key=len)


class Glob:
    """One glob, of which a star also crosses "/"."""

    __slots__ = (  # noqa: RUF023
        "pattern", "literal", "_first", "_middle", "_last", "_plain", "_in_lines", "_line_regex", "_regexes"
    )  # fmt: skip

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.literal = longest_literal(pattern)
        self._first, *rest = _STARS.split(show(pattern.encode()))
        self._last = rest.pop() if rest else None
        self._middle = [piece for piece in rest if piece]
        self._plain = self._last is not None and not re.search(r"[?\[]", pattern)
        """It consists of stars and literals alone."""
        pieces = [f"\n{self._first}"] if self._first else []
        pieces += [*self._middle, *([f"{self._last}\n"] if self._last else [])]
        self._in_lines = self.literal, False
        """What a line holds that matches, and whether every line that holds it does."""
        if self._plain and pieces:
            self._in_lines = max(pieces, key=len), len(pieces) == 1
        self._line_regex: re.Pattern[str] | None = None
        self._regexes: tuple[list[re.Pattern[str]], int] | None = None

    def matches(self, text: str) -> bool:
        """The whole of the text."""
        if self.literal not in text:
            return False
        if not self._plain or self._last is None:
            return self._matches_classes(text)
        if not text.startswith(self._first):
            return False
        position = len(self._first)
        for piece in self._middle:
            found = text.find(piece, position)
            if found < 0:
                return False
            position = found + len(piece)
        return len(text) - len(self._last) >= position and text.endswith(self._last)

    def first_line(self, text: str) -> str | None:
        """The first of the lines of `text` that matches; each stands between two line ends."""
        needle, decides = self._in_lines
        if not decides:
            if self.literal not in text:
                return None
            if text.count(needle) * _FREQUENT > len(text):
                return self._search_line(text)
        position = 0
        while (found := text.find(needle, position)) >= 0:
            start = text.rfind("\n", 0, found + 1) + 1
            position = text.find("\n", start)
            if self.matches(line := text[start:position]):
                return line
        return None

    def _search_line(self, text: str) -> str | None:
        if self._line_regex is None:
            self._line_regex = re.compile(f"\n(?:{glob_regex(self.pattern, _ANY_OF_LINE)})(?=\n)")
        met = self._line_regex.search(text)
        return None if met is None else met[0][1:]

    def _matches_classes(self, text: str) -> bool:
        if self._regexes is None:  # most are never needed
            pieces = [self._first, *self._middle, *([] if self._last is None else [self._last])]
            elements = [_elements(piece, ".") for piece in pieces]
            compiled = [re.compile("".join(each), re.DOTALL) for each in elements]
            self._regexes = compiled, len(elements[-1])
        (first, *rest), length = self._regexes
        if self._last is None:
            return first.fullmatch(text) is not None
        met = first.match(text)
        for piece in rest[:-1]:
            if met is None:
                return False
            met = piece.search(text, met.end())
        if met is None or met.end() > len(text) - length:
            return False
        return rest[-1].fullmatch(text, len(text) - length) is not None
