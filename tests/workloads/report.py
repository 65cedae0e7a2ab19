"""The table of what was played: on the terminal line by line, and as the page docs/workloads.md."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from .player import Played

_COMMAND_WIDTH, _ALARM_WIDTH = 90, 220


def line(played: Played) -> str:
    """One line, and below it what went wrong."""
    outcome, workload = played.outcome, played.workload
    if outcome is None:
        return f"{played.verdict:<12} {workload.family}: {workload.name}: {played.reason}"
    assert outcome.plain is not None
    text = (
        f"{played.verdict:<12} {workload.family}: {workload.name}: {outcome.events} events, "
        f"{outcome.denials} denied, {outcome.plain.seconds:.1f} s, audited {outcome.run.seconds:.1f} s"
    )
    details = [f"{alarm.action} {alarm.why}\n      on: {alarm.event}" for alarm in outcome.alarms[:5]]
    return "\n".join([text, *(f"    {detail}" for detail in details + outcome.faults(workload))])


def summary(done: Sequence[Played], profile: str) -> str:
    """One sentence."""
    counts = Counter(played.verdict for played in done)
    alarms = sum(len(played.outcome.alarms) for played in done if played.outcome)
    return (
        f"Profile {profile}: {len(done) - counts['not run']} of {len(done)} workloads run, {counts['fine']} fine, "
        f"{counts['FALSE ALARM']} with a false alarm ({alarms} alarms), {counts['failed']} failed, "
        f"{counts['not run']} not run."
    )


def page(done: Sequence[Played], profile: str) -> str:
    """The whole page."""
    parts = [_HEAD, f"Linux {os.uname().release}. {summary(done, profile)}\n"]
    for family in dict.fromkeys(played.workload.family for played in done):
        parts.append(f"## {family}\n")
        parts.append(
            _COLUMNS + "\n".join(_row(played) for played in done if played.workload.family == family) + "\n"
        )
    if alarms := [_alarms(played) for played in done if played.outcome and played.outcome.alarms]:
        parts.append("## False alarms\n\n" + "\n".join(alarms) + "\n")
    return "\n".join(parts)


_HEAD = """# Ordinary workloads, and the false alarms they raise

Written by `make workloads`; do not edit. Each workload of `tests/workloads/list/` is done twice, by a user of its own
in an empty home folder: without audit, and under `ebpfaudit run` with real probes. It counts as fine if it did its
work both times (exit code and output as the list says), was denied what its list entry says and nothing else, and
raised no alarm. A **false alarm** is any verdict `alert`, `freeze` or `kill`; a plain `deny` is what the profile is
for. The network leads nowhere in both runs: what is denied under audit is unreachable without. Times are in seconds,
of one run each, two at a time, so they show no more than the order of magnitude.
"""
_COLUMNS = """| workload | command | events | denied | false alarms | plain | audited | |
| --- | --- | --: | --: | --: | --: | --: | --- |
"""


def _row(played: Played) -> str:
    outcome, workload = played.outcome, played.workload
    cells = [workload.name, f"`{_command(workload.run)}`"]
    if outcome is None:
        return _cells(
            [*cells, "", "", "", "", "", f"{played.verdict}: {_brief(played.reason.splitlines()[0])}"]
        )
    assert outcome.plain is not None
    times = [f"{outcome.plain.seconds:.1f}", f"{outcome.run.seconds:.1f}"]
    counts = [f"{outcome.events:,}", str(outcome.denials or ""), str(len(outcome.alarms) or "")]
    verdict = played.verdict if played.verdict != "FALSE ALARM" else "**FALSE ALARM**"
    return _cells([*cells, *counts, *times, verdict])


def _alarms(played: Played) -> str:
    assert played.outcome is not None
    first = played.outcome.alarms[0]
    more = f" (and {len(played.outcome.alarms) - 1} more)" if len(played.outcome.alarms) > 1 else ""
    return f"- {played.workload.name}: `{first.action} {_brief(first.why)}`{more}, on `{_brief(first.event)}`"


def _command(script: str) -> str:
    text = "; ".join(stripped for each in script.splitlines() if (stripped := each.strip()))
    return _brief(text, _COMMAND_WIDTH)


def _brief(text: str, width: int = _ALARM_WIDTH) -> str:
    return _escape(text if len(text) <= width else text[: width - 1] + "…")


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
