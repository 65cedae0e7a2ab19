"""What a back-test found, trail by trail and in all, as text or as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from ebpfaudit.errors import EXIT_FAILURE
from ebpfaudit.output.describe import describe
from ebpfaudit.output.terminal import GREEN, RED, RESET, YELLOW, printable, wants_colour
from ebpfaudit.trail.backtest import PREVENTING, Change, Outcome, Sample, Tally

_SHOWN_RULES = 20
_SHOWN_VALUES = 5
_SHOWN_TEXT = 160
_SIGNS = {"appeared": "+", "vanished": "-", "changed": "~"}
_STYLES = {"appeared": RED, "vanished": GREEN, "changed": YELLOW}

_CAVEAT = (
    "A trail shows what happened under the profile then in force. Verdicts after an episode's first new or vanished "
    "deny, freeze or kill are counted apart: what would have happened from there on is not known."
)


class Reckoning:
    """Takes outcomes one by one; prints JSON at once, and text when all are there, the worst first."""

    def __init__(self, names: tuple[str, str], as_json: bool, summary: bool) -> None:
        self._names = names
        self._as_json, self._summary = as_json, summary
        self._colour = not as_json and wants_colour(sys.stdout)
        self._total = Outcome("")
        self._trails = self._judged = self._changed = self._unreadable = self._damaged = 0
        self._killed: dict[str, list[str]] = {"newly_killed": [], "no_longer_killed": []}
        self._kill_lines: dict[str, list[str]] = {"newly_killed": [], "no_longer_killed": []}
        self._blocks: list[str] = []

    def add(self, outcome: Outcome) -> None:
        self._trails += 1
        name = printable(os.path.basename(outcome.trail))
        if self._as_json and not self._summary:
            print(json.dumps({"kind": "trail", "trail": outcome.trail, **_as_dict(outcome)}), flush=True)
        if outcome.error:
            self._unreadable += 1
            _complain(outcome.error)
            return
        for doubt in outcome.doubts:
            _complain(f"{name} is not whole: {doubt}")
        self._judged += 1
        self._damaged += outcome.damaged
        self._changed += outcome.changed
        for kind, kill in (("newly_killed", outcome.kills[1]), ("no_longer_killed", outcome.kills[0])):
            if kill is not None and (outcome.newly_killed, outcome.spared)[kind == "no_longer_killed"]:
                self._killed[kind].append(outcome.trail)
                episode = printable(outcome.episode)
                self._kill_lines[kind].append(
                    f"  {name}, episode {episode}: {printable(kill.rule)} at event {kill.seq:,}"
                )
        self._total.merge(outcome)
        if outcome.changed and not (self._as_json or self._summary):
            self._blocks.append("\n".join([f"{name}: {_counts(outcome)}", *self._lines(outcome, "")]))

    def conclude(self) -> int:
        """Print the rest. Returns the exit code."""
        total = self._total
        if self._as_json:
            print(json.dumps({"kind": "total", **self._totals(), **_as_dict(total)}))
        else:
            print(self._headline())
            for kind, title in (("newly_killed", "Newly killed"), ("no_longer_killed", "No longer killed")):
                if self._kill_lines[kind]:
                    print("\n".join(["", f"{title}:", *self._kill_lines[kind]]))
            several = self._judged > 1
            if total.changed and (several or self._summary):
                print("\n".join(["", "In all:", *self._lines(total, "trail" if several else "")]))
            for block in self._blocks:
                print("\n" + block)
        if total.after or any(not PREVENTING.isdisjoint((each.action, each.was)) for each in total.changes):
            click.echo(_CAVEAT, err=True)
        for count, what in ((self._unreadable, "could not be read"), (self._damaged, "damaged")):
            if count:
                _complain(f"{count} of {self._trails} trails {what}")
        if self._unreadable or self._damaged:
            return EXIT_FAILURE
        return 1 if total.changed else 0

    def _headline(self) -> str:
        total = self._total
        first, second = map(printable, self._names)
        line = (
            f"{total.events:,} events of {_trails(self._judged)}: {total.verdicts[0]:,} verdicts under {first}, "
            f"{total.verdicts[1]:,} under {second}"
        )
        if not total.changed:
            return f"{line}; nothing changes"
        return f"{line}\n{self._changed:,} of {_trails(self._judged)} judged otherwise: {_counts(total)}"

    def _totals(self) -> dict[str, Any]:
        return {
            "trails": self._trails, "judged": self._judged, "trails_changed": self._changed,
            "unreadable": self._unreadable, "trails_damaged": self._damaged, **self._killed,
        }  # fmt: skip

    def _lines(self, outcome: Outcome, where: str) -> Iterator[str]:
        ordered = outcome.ordered()
        for change, tally in ordered[:_SHOWN_RULES]:
            style = _STYLES[change.side] if self._colour else ""
            yield f"  {style}{_rule_line(change, tally)}{RESET if style else ''}"
            if not self._summary:
                yield from _value_lines(tally, where)
        if len(ordered) > _SHOWN_RULES:
            yield f"  and {len(ordered) - _SHOWN_RULES} more rules and actions"


def _rule_line(change: Change, tally: Tally) -> str:
    action = f"{change.was.upper()} -> {change.action.upper()}" if change.was else change.action.upper()
    after = f" ({tally.after:,} after the first difference)" if tally.after else ""
    return f"{_SIGNS[change.side]} {action} {printable(change.rule)}: {tally.count:,}{after}"


def _value_lines(tally: Tally, where: str) -> Iterator[str]:
    samples = tally.ordered()
    for sample in samples[:_SHOWN_VALUES]:
        times = f"{sample.count:,}x " if sample.count > 1 else ""
        place = f"{printable(os.path.basename(sample.trail))} " if where else ""
        field, value = printable(sample.verdict.field), printable(sample.verdict.value)
        yield f'      {times}{field} "{_cut(value)}"; {place}event {sample.seq:,}: {_cut(_what(sample))}'
    rest = len(samples) - _SHOWN_VALUES
    if rest > 0 or tally.more:
        hidden = sum(sample.count for sample in samples[_SHOWN_VALUES:]) + tally.more
        yield f"      and {hidden:,} with other values"


def _what(sample: Sample) -> str:
    kind, what, _ = describe(sample.event)
    return f"{kind} {what}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_TEXT else f"{text[: _SHOWN_TEXT - 1]}…"


def _counts(outcome: Outcome) -> str:
    parts = [
        f"{outcome.count('appeared'):,} appeared (+)",
        f"{outcome.count('vanished'):,} vanished (-)",
        f"{outcome.count('changed'):,} changed (~)",
    ]
    after = f"; {outcome.after:,} of them after the first difference" if outcome.after else ""
    return ", ".join(parts) + after


def _trails(count: int) -> str:
    return f"{count:,} trail{'' if count == 1 else 's'}"


def _complain(what: str) -> None:
    click.echo(f"ebpfaudit: {printable(what)}", err=True)


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    if outcome.error:
        return {"error": outcome.error}
    about: dict[str, Any] = {
        "events": outcome.events,
        "verdicts": list(outcome.verdicts),
        "appeared": outcome.count("appeared"),
        "vanished": outcome.count("vanished"),
        "changed": outcome.count("changed"),
        "after_first_difference": outcome.after,
        "changes": [_change_dict(change, tally) for change, tally in outcome.ordered()],
    }
    if outcome.trail:
        kills = [kill and {"seq": kill.seq, "rule": kill.rule} for kill in outcome.kills]
        about = {
            "episode": outcome.episode, **about, "first_difference": outcome.first_difference, "kills": kills,
            "newly_killed": outcome.newly_killed, "no_longer_killed": outcome.spared,
            "damaged": outcome.damaged, "doubts": outcome.doubts,
        }  # fmt: skip
    return about


def _change_dict(change: Change, tally: Tally) -> dict[str, Any]:
    values = [
        {
            "field": each.verdict.field, "value": each.verdict.value, "count": each.count,
            "example": {"trail": each.trail, "seq": each.seq, "what": _what(each)},
        }
        for each in tally.ordered()
    ]  # fmt: skip
    about = {"side": change.side, "action": change.action, "was": change.was, "rule": change.rule}
    return {
        **about,
        "count": tally.count,
        "after_first_difference": tally.after,
        "values": values,
        "more": tally.more,
    }
