"""`ebpfaudit profile diff`: which verdicts another profile would change."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ebpfaudit.profiles.schema import Profile

_RECORDED = "recorded"


@click.command("diff")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.argument("more", metavar="", nargs=-1)
@click.option(
    "--trails", metavar="FILE|FOLDER...", multiple=True,
    help="Judge these trails by both; of a folder, all *.jsonl.zst below it.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object per trail, then one for all.")
@click.option("--summary", is_flag=True, help="Only what changes in all, by rule.")
@click.option("--jobs", type=click.IntRange(1), help="Processes at work. [default: one for each CPU]")
def diff(
    first: str, second: str, more: tuple[str, ...], trails: tuple[str, ...], as_json: bool, summary: bool,
    jobs: int | None,
) -> int:  # fmt: skip
    """Say what changes between the profiles A and B (names or paths).

    With --trails, each trail is judged by both ('recorded' stands for the profile it was recorded under), and the
    verdicts that would appear, vanish or change are shown: episodes that would newly be killed first. Without, the
    two profiles are compared as texts.

    A trail shows what happened under the profile then in force. What a stricter one would have prevented has
    consequences that cannot be judged: changes after the first such difference are counted apart.

    Exits with 0 if nothing changes, with 1 if something does, with 125 if a trail is damaged or cannot be read.

    \b
    ebpfaudit profile diff coding-agent ./stricter.toml
    ebpfaudit profile diff recorded ./stricter.toml --trails /var/lib/ebpfaudit/trails
    ebpfaudit profile diff base coding-agent --trails a.jsonl.zst b.jsonl.zst --json | jq .newly_killed
    """
    if more and not trails:
        raise click.UsageError(f"'{more[0]}' is a third profile; name trails behind --trails")
    if not trails:
        return _diff_texts(first, second, as_json)
    from ebpfaudit.cli.profile.judging import judge_all
    from ebpfaudit.cli.profile.reckoning import Reckoning
    from ebpfaudit.cli.profile.trails import find_trails

    profiles = (_load(first), _load(second))
    paths = find_trails([*trails, *more])
    reckoning = Reckoning((first, second), as_json, summary)
    for outcome in judge_all(paths, *profiles, jobs or os.cpu_count() or 1):
        reckoning.add(outcome)
    return reckoning.conclude()


def _load(name: str) -> Profile | None:
    from ebpfaudit.profiles.load import load_profile

    return None if name == _RECORDED else load_profile(name)


def _diff_texts(first: str, second: str, as_json: bool) -> int:
    from ebpfaudit.errors import UsageError
    from ebpfaudit.output.terminal import GREEN, RED, RESET, wants_colour
    from ebpfaudit.profiles.difference import differences
    from ebpfaudit.profiles.load import load_profile, resolved_text

    if _RECORDED in (first, second):
        raise UsageError("'recorded' is the profile in a trail's header: name trails behind --trails")
    found = differences(*(resolved_text(load_profile(name)) for name in (first, second)))
    if as_json:
        for each in found:
            click.echo(json.dumps({"section": each.title, "lines": each.lines}))
        return 1 if found else 0
    styles = {"-": RED, "+": GREEN} if wants_colour(sys.stdout) else {}

    def lines() -> Iterator[str]:
        if found:
            yield from (f"--- {first}", f"+++ {second}")
        for each in found:
            yield f"@@ {each.title} @@"
            yield from each.lines

    for line in lines():
        style = "" if line.startswith(("---", "+++")) else styles.get(line[:1], "")
        click.echo(f"{style}{line}{RESET if style else ''}")
    return 1 if found else 0
