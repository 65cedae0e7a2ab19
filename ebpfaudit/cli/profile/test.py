"""`ebpfaudit profile test`: fixtures with expected verdicts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebpfaudit.cli.profile.progress import counting_bar

if TYPE_CHECKING:
    from ebpfaudit.stories.trial import Trial

_MANY = 300
"""Fixtures from which on a bar is shown to whoever waits."""


@click.command("test")
@click.argument("profiles", metavar="[PROFILE]...", nargs=-1)
@click.option(
    "--fixture", "fixtures", metavar="FILE", multiple=True, type=click.Path(path_type=Path),
    help="Only this fixture, wherever it is. Can be given more than once.",
)  # fmt: skip
@click.option(
    "-k", "text", metavar="TEXT", default="", help="Only fixtures with TEXT in file name, title or family."
)
@click.option(
    "--update",
    is_flag=True,
    help="Write what the profiles say now into the fixtures' files. Review the diff.",
)
@click.option("--junit", metavar="FILE", type=click.Path(path_type=Path), help="Write JUnit XML, too.")
@click.option(
    "--record", metavar="TRAIL", help="Judge nothing: print TRAIL as a story, with PROFILE's verdicts."
)
@click.option("--around", metavar="SEQ", type=int, help="With --record: only the process tree of this event.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per profile and fixture.")
@click.option("--verbose", "-v", is_flag=True, help="A line for each fixture.")
def test(
    profiles: tuple[str, ...], fixtures: tuple[Path, ...], text: str, update: bool, junit: Path | None,
    record: str | None, around: int | None, as_json: bool, verbose: bool,
) -> int:  # fmt: skip
    """Judge stories and recordings by each PROFILE (default: all shipped), and compare with what they expect.

    The fixtures of a profile are in the folder tests/ beside its file: tests/*.toml with an [expect] entry for it,
    and all in tests/PROFILE/. Exits with 1 if one fails, or if there are none.

    \b
    ebpfaudit profile test
    ebpfaudit profile test ./my-agent.toml -k tunnel -v
    ebpfaudit profile test coding-agent --junit report.xml
    ebpfaudit profile test --record ep-1.jsonl.zst --around 212 coding-agent > tests/incident.toml
    """
    if record:
        from ebpfaudit.cli.profile.record import print_story

        return print_story(record, profiles, around)
    from ebpfaudit.stories.trial import prepare
    from ebpfaudit.trail.recording import recorded_events

    trials = _run(prepare(profiles, fixtures, text.lower(), recorded_events))
    if update:
        changes = [change for trial in trials for change in trial.update()]
        failed = {trial.name: trial.problems for trial in trials}
        click.echo("".join(f"updated {change}\n" for change in changes), nl=False, err=as_json)
        trials = _run(prepare(profiles, fixtures, text.lower(), recorded_events))
        for trial in trials:
            trial.problems |= failed[trial.name]
    seen: set[str] = set()
    for trial in trials:
        _print_json(trial) if as_json else _print(trial, verbose, seen)
    if junit is not None:
        from ebpfaudit.output.junit import junit_xml

        outcomes = {trial.name: trial.outcomes for trial in trials}
        junit.write_bytes(junit_xml(outcomes, {trial.name: trial.problems for trial in trials}))
    return 0 if all(trial.passed for trial in trials) else 1


def _run(trials: list[Trial]) -> list[Trial]:
    with counting_bar("judging", sum(len(trial.fixtures) for trial in trials), _MANY) as advance:
        for trial in trials:
            trial.run(advance)
    return trials


def _print(trial: Trial, verbose: bool, seen: set[str]) -> None:
    """`seen`: the problems that were printed, for a file that several profiles share."""
    from ebpfaudit.output.judgement import failure_text
    from ebpfaudit.output.terminal import ALARM, GREEN, RESET, printable, wants_colour

    colour = wants_colour(sys.stdout)
    for outcome in trial.outcomes:
        if not outcome.passed:
            click.echo(failure_text(outcome, colour), color=colour)
        elif verbose:
            fixture = outcome.fixture
            click.echo(f"ok   {trial.name}: {fixture.name}: {printable(fixture.title)} {list(outcome.got)}")
    for problem in trial.problems.values():
        if problem not in seen:
            click.echo("\n".join(printable(line) for line in problem.split("\n")))
            seen.add(problem)
    failed = sum(not outcome.passed for outcome in trial.outcomes)
    counts = f"{len(trial.outcomes) - failed} passed" + (f", {failed} failed" if failed else "")
    if trial.problems:
        counts += f", {len(trial.problems)} could not be judged"
    before, after = (GREEN if trial.passed else ALARM, RESET) if colour else ("", "")
    click.echo(f"{trial.name:20} {before}{counts}{after} in {trial.seconds:.2f} s", color=colour)


def _print_json(trial: Trial) -> None:
    for outcome in trial.outcomes:
        fixture = outcome.fixture
        found: dict[str, Any] = {
            "profile": trial.name, "fixture": str(fixture.path), "title": fixture.title, "family": fixture.family,
            "passed": outcome.passed, "expected": outcome.expected, "got": outcome.got, "problems": outcome.problems,
            "seconds": round(outcome.seconds, 6),
        }  # fmt: skip
        click.echo(json.dumps(found))
    for file, problem in trial.problems.items():
        click.echo(
            json.dumps(
                {"profile": trial.name, "fixture": file, "passed": False, "problems": problem.split("\n")}
            )
        )
