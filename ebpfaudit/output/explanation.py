"""Why an event is judged as it is, in lines for a person."""

from __future__ import annotations

from collections.abc import Iterator

from ebpfaudit.events import Connect, Gpu
from ebpfaudit.output.describe import describe, verdict_text
from ebpfaudit.output.terminal import ALARM, DIM, GREEN, RED, RESET, YELLOW, printable
from ebpfaudit.policy.decision import Decision
from ebpfaudit.policy.examine import Examined, Tested
from ebpfaudit.policy.explain import Explained, misses

SHOWN_MISSES = 5
"""Nearest misses that are shown unless all are asked for."""
_SHOWN_CANDIDATES = 5
_WANTED = 4
_VALUE_CHARS = 160

_STYLES = {"kill": ALARM, "freeze": ALARM, "deny": RED, "alert": YELLOW}


def explanation_lines(
    explained: Explained, place: str = "", everything: bool = False, colour: bool = False
) -> list[str]:
    """`place`: where the event stands, if not by its number. `everything`: also rules that are far from matching."""
    lines = [(printable(line), style) for line, style in _lines(explained, place, everything)]
    return [f"{style}{line}{RESET}" if colour and style else line for line, style in lines]


def _lines(explained: Explained, place: str, everything: bool) -> Iterator[tuple[str, str]]:
    kind, what, _ = describe(explained.event)
    yield f"{place or f'event {explained.seq}'}: {kind} {what}", ""
    if explained.command and kind != "exec":
        yield f"  by {_cut(explained.command)}", DIM
    elif isinstance(explained.event, Connect | Gpu):
        yield "  by a program that is not known: an `unless` about programs does not spare it", DIM
    for verdict in explained.verdicts:
        yield f"  {verdict.action.upper():5} {verdict_text(verdict)}", _STYLES.get(verdict.action, "")
    if not explained.verdicts:
        yield "  no verdict", GREEN
    if explained.section is not None:
        yield from _section_lines(explained.section)
    yield from _rules_lines(explained, everything)


def _section_lines(decision: Decision) -> Iterator[tuple[str, str]]:
    by = f" by {_quoted(decision.entry)}" if decision.entry else ""
    yield "", ""
    yield f"  [{decision.section}] {decision.action}{by}: {decision.why}", ""
    shown = decision.candidates[:_SHOWN_CANDIDATES]
    for candidate in shown:
        mark = "->" if candidate.decides else "  "
        yield (
            f"    {mark} {candidate.action:5} {_quoted(candidate.entry)}: {candidate.why}",
            "" if candidate.decides else DIM,
        )
    if len(decision.candidates) > len(shown):
        yield f"       and {len(decision.candidates) - len(shown)} more", DIM


def _rules_lines(explained: Explained, everything: bool) -> Iterator[tuple[str, str]]:
    matching = [rule for rule in explained.rules if rule.matches]
    missing = [rule for rule in explained.rules if not rule.matches]
    shown = missing if everything else missing[:SHOWN_MISSES]
    yield "", ""
    others = ", ".join(f"{count} about {kind}" for kind, count in explained.others.items())
    count = len({rule.rule for rule in explained.rules})
    considered = f"rules: {count} considered" if count else "no rule is about such events"
    yield f"  {considered}{f'; not asked: {others}' if others else ''}", ""
    for rule in matching:
        yield from _rule_lines(rule, rule.rule in explained.fired)
    for rule in shown:
        yield from _rule_lines(rule, False)
    if len(missing) > len(shown):
        yield f"  and {len(missing) - len(shown)} further from matching: --all shows them", DIM


def _rule_lines(examined: Examined, fired: bool) -> Iterator[tuple[str, str]]:
    part = f" part {examined.part + 1} of {examined.parts} ({examined.form})" if examined.parts > 1 else ""
    if examined.matches:
        word, style = ("fired", YELLOW) if fired else ("matched, not fired", GREEN)
    else:
        word, style = f"missed by {misses(examined)}", DIM
    yield f"  {word}: {examined.rule}{part}", style
    if examined.beside:
        yield f"      x {examined.beside}", ""
    for test in sorted(examined.when, key=lambda each: each.met is not None):
        yield f"      {_test_text(test)}", "" if test.met is None else DIM
    vetoed = bool(examined.unless) and all(test.met is not None for test in examined.unless)
    for test in examined.unless:
        word = "x unless" if vetoed else "  unless"
        met = f"met {_quoted(test.met)}" if test.met is not None else f"is not {_wanted(test)}"
        yield f"      {word} {test.field} {_quoted(_cut(test.value))} {met}", "" if vetoed else DIM
    for state in examined.state:
        yield f"      before this event: {state}", ""


def _test_text(test: Tested) -> str:
    value = _quoted(_cut(test.value))
    if test.met is not None:
        return f"  {test.field} {value} met {_quoted(test.met)}"
    if test.field == "mark":
        return f"x mark {_wanted(test)} is missing; held: {test.value or 'none'}"
    return f"x {test.field} {value} is not {_wanted(test)}"


def _wanted(test: Tested) -> str:
    texts = [_quoted(_cut(text)) for text in test.wanted[:_WANTED]]
    more = len(test.wanted) - len(texts)
    return " or ".join(texts) + (f" or one of {more} more" if more > 0 else "")


def _cut(text: str) -> str:
    return text if len(text) <= _VALUE_CHARS else text[: _VALUE_CHARS - 1] + "…"


def _quoted(text: str) -> str:
    return f'"{text}"'
