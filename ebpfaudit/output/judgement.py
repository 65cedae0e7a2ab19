"""What a fixture was expected to give, and what it gave, under the lines of its story."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import groupby
from typing import NamedTuple

from ebpfaudit.output.describe import describe
from ebpfaudit.output.terminal import ALARM, GREEN, RED, RESET, printable
from ebpfaudit.stories.fixtures import Fixture, Outcome, unfold
from ebpfaudit.verdicts import Verdict

MAX_STORY_LINES = 40
"""Of a longer story only the lines that verdicts are on are shown."""
_VALUE_CHARS = 80


class Row(NamedTuple):
    """A line of the difference: `sign` is "+", "-", " " for a verdict, "" for a line of the story."""

    sign: str
    text: str
    why: str = ""


_Rows = list[Row]


def difference(outcome: Outcome) -> list[Row]:
    """The story with its verdicts: "-" expected and not given, "+" given and not expected."""
    below: dict[int, list[_Rows]] = {}
    """By line of the story what was said on it, one item for each event."""
    for line, _, rows in _said(outcome):
        below.setdefault(line, []).append(rows)
    shown = []
    for number, text in _story_lines(outcome.fixture, set(below)):
        shown.append(Row("", f"{number:5}  {text}"))
        for _, alike in groupby(below.get(number, []), key=lambda rows: [row[:2] for row in rows]):
            rows, *others = alike
            times = f" x{len(others) + 1}" if others else ""
            shown += [row._replace(text=row.text + times) for row in rows]
    return shown


def _said(outcome: Outcome) -> Iterator[tuple[int, int, _Rows]]:
    """(line, event, rows): what was said of each event, and what was expected at that place."""
    lines, verdicts = outcome.fixture.lines, outcome.verdicts
    expected, got = unfold(outcome.expected), unfold(outcome.got)
    place = (lines[0] if lines else 0, -1)
    signed: list[tuple[tuple[int, int], Row]] = []
    for tag, first, last, start, end in SequenceMatcher(None, expected, got, autojunk=False).get_opcodes():
        if start < end:
            place = lines[verdicts[start].seq], verdicts[start].seq
        if tag != "equal":
            signed += [(place, Row("-", text)) for text in expected[first:last]]
        for verdict, text in zip(verdicts[start:end], got[start:end], strict=True):
            place = lines[verdict.seq], verdict.seq
            signed.append((place, Row(" " if tag == "equal" else "+", text, because(verdict))))
    for (line, seq), rows in groupby(signed, key=lambda each: each[0]):
        yield line, seq, [row for _, row in rows]


def difference_text(outcome: Outcome, colour: bool = False) -> str:
    """`difference` as lines to print."""
    styles = {"-": RED, "+": GREEN} if colour else {}
    lines = []
    rows = difference(outcome)
    width = max((len(row.text) for row in rows if row.sign), default=0)
    for sign, text, why in rows:
        line = printable(f"         {sign} {text:{width}}  {why}" if sign else text).rstrip()
        style = styles.get(sign, "")
        lines.append(f"{style}{line}{RESET}" if style else line)
    return "\n".join(lines)


def failure_text(outcome: Outcome, colour: bool = False) -> str:
    """Why a fixture failed: what is wrong, the file, and the difference."""
    fixture = outcome.fixture
    mark = f"{ALARM}FAIL{RESET}" if colour else "FAIL"
    lines = [f"{mark} {outcome.profile}: {printable(fixture.title)}", f"     {fixture.path}"]
    lines += [f"     {problem}" for problem in outcome.problems]
    return "\n".join([*lines, difference_text(outcome, colour)])


def because(verdict: Verdict) -> str:
    """What a verdict is founded on, in one short line."""
    value = verdict.value if len(verdict.value) <= _VALUE_CHARS else verdict.value[: _VALUE_CHARS - 1] + "…"
    met = f' met "{verdict.because}"' if verdict.because else ""
    left_out = f", {verdict.suppressed} more left out" if verdict.suppressed else ""
    return f'{verdict.field} "{value}"{met}{left_out}'


def _story_lines(fixture: Fixture, needed: set[int]) -> Iterator[tuple[int, str]]:
    if not fixture.text:
        for number, event in zip(fixture.lines, fixture.events, strict=True):
            if len(fixture.events) <= MAX_STORY_LINES or number in needed:
                kind, what, _ = describe(event)
                yield number, f"{kind} {what}"
        return
    told = sorted(set(fixture.lines))
    first, last = told[0], told[-1]
    for number in range(first, last + 1):
        text = fixture.text[number - 1].strip()
        if number in needed or (text and len(told) <= MAX_STORY_LINES):
            yield number, text
