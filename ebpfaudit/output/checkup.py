"""The findings of `doctor`, as text that fits its reader's screen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ebpfaudit.output.terminal import ALARM, DIM, GREEN, RESET, YELLOW

if TYPE_CHECKING:
    from ebpfaudit.kernel.coverage import Promise
    from ebpfaudit.kernel.support import Check, Support

_MARK_WIDTH = 9


class Checkup:
    """What was found; what follows from what is missing, and what to do; what an audit covers here."""

    def __init__(
        self, support: Support, promises: tuple[Promise, ...], *, width: int, colour: bool = False
    ) -> None:
        self._support = support
        self._promises = promises
        self._width = max(width, 60)
        self._colour = colour
        self._names = max(len(check.name) for check in support.checks) + 2

    def render(self) -> str:
        support = self._support
        lines = [f"Linux {support.kernel}, {support.machine}", ""]
        for check in support.checks:
            mark, style = _mark(check)
            left = self._paint(f"{mark:{_MARK_WIDTH}}", style) + f"{check.name:{self._names}}"
            lines += self._hang(left, _MARK_WIDTH + self._names, check.reason)
        missing = [
            check for check in support.checks if check.consequence and not check.ok and not check.unknown
        ]
        if missing:
            lines += ["", "What is missing, what that leaves open, and what to do"]
        for check in missing:
            lines += self._entry(check.name, check.consequence, [check.advice])
        if support.usable:
            lines += ["", "What an audit sees here, by which hooks, and what stays open"]
            for promise in self._promises:
                lines += self._entry(promise.name, ", ".join(promise.hooks), promise.gaps)
        return "\n".join([*lines, "", self._conclusion(), ""])

    def _entry(self, name: str, text: str, notes: Iterable[str]) -> list[str]:
        indent = self._names + 2
        lines = self._hang(f"  {name:{self._names}}", indent, text)
        for note in notes:
            lines += [
                self._paint(line, DIM) for line in self._hang(" " * self._names, self._names, f"- {note}")
            ]
        return lines

    def _hang(self, left: str, indent: int, text: str) -> list[str]:
        """`text` beside `left`, which takes `indent` columns, and below itself where it is long."""
        first, *rest = textwrap.wrap(text, self._width - indent) or [""]
        return [left + first, *(" " * indent + line for line in rest)]

    def _paint(self, text: str, style: str) -> str:
        return f"{style}{text}{RESET}" if self._colour else text

    def _conclusion(self) -> str:
        if self._support.usable:
            return self._paint("ebpfaudit run works here.", GREEN)
        lacking = [check for check in self._support.checks if check.required and not check.ok]
        missing = ", ".join(check.name for check in lacking if not check.unknown)
        text = f"ebpfaudit run does not work here: {missing}."
        if any(check.unknown for check in lacking):
            text += " What is marked with ? needs root to be tried: sudo ebpfaudit doctor."
        return self._paint(text, ALARM)


def _mark(check: Check) -> tuple[str, str]:
    if check.ok:
        return "ok", GREEN
    if check.unknown:
        return "?", YELLOW
    return ("MISSING", ALARM) if check.required else ("missing", YELLOW)
