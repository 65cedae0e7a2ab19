"""`ebpfaudit profile explain`: why a profile judges an event as it does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from ebpfaudit.cli.profile.subject import Subject
    from ebpfaudit.policy.explain import Explained
    from ebpfaudit.profiles.schema import Profile


@click.command("explain")
@click.argument("profile", metavar="PROFILE")
@click.argument("what", metavar="EVENT|FILE[:NUMBER]")
@click.option(
    "--rule", "-r", metavar="ID", default="", help="Only this rule; of a trail, where it came closest."
)
@click.option("--all", "everything", is_flag=True, help="Every rule about such events, not only the nearest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per event.")
def explain(profile: str, what: str, rule: str, everything: bool, as_json: bool) -> int:
    """Say why PROFILE judges an event as it does: which entry decides, which rules match, and what the others lack.

    The event is a line of a story (docs/profile-testing.md), or several, separated by ' ; ': the last one is
    explained, and those with a verdict. Or an event as JSON, '-' for standard input, a story's file with the
    number of a line, or a trail with the number of an event; without a number, all events with a verdict.
    PROFILE may be 'recorded': the one that a trail was recorded under.

    \b
    ebpfaudit profile explain coding-agent 'exec python3 x.py ; connect 10.0.0.5:22/tcp'
    ebpfaudit profile explain base 'exec ssh -R 9000:localhost:80 relay' --rule ssh-tunnel
    ebpfaudit profile explain base 'a: exec /tmp/x ; a: connect 198.51.100.7:4444 ; a: connect 10.0.0.5:22'
    ebpfaudit profile explain recorded ep-1.jsonl.zst:212
    ebpfaudit profile explain ./my-agent.toml tests/renamed-ssh.toml:6
    """
    from ebpfaudit.cli.profile.subject import RECORDED, find_subject
    from ebpfaudit.errors import UsageError
    from ebpfaudit.profiles.load import load_profile

    subject = find_subject(what)
    if profile == RECORDED:
        if subject.trail is None:
            raise UsageError("only a trail knows the profile that it was recorded under: name one")
        chosen = _recorded(subject.trail)
    else:
        chosen = load_profile(profile)
    _check_rule(chosen, rule)
    shown = 0
    for explained in _explanations(chosen, subject, rule):
        if shown and not as_json:
            click.echo()
        _print_json(explained) if as_json else _print(explained, subject, everything)
        shown += 1
    if not shown and subject.seq is not None:
        raise UsageError(f"there is no event {subject.seq}")
    if not shown:
        print(
            "ebpfaudit: no event has a verdict; name one by its number, or a rule with --rule",
            file=sys.stderr,
        )
    return 0


def _recorded(trail: Path) -> Profile:
    from ebpfaudit.trail.reader import read_trail
    from ebpfaudit.trail.replay import recorded_profile

    with read_trail(trail) as opened:
        return recorded_profile(opened)


def _check_rule(profile: Profile, rule: str) -> None:
    from ebpfaudit.errors import UsageError
    from ebpfaudit.profiles.source import nearest

    known = [each.id for each in profile.rules]
    if rule and rule not in known:
        hint = nearest(rule, known) or "; 'ebpfaudit profile show' prints all"
        raise UsageError(f"profile '{profile.name}' has no rule '{rule}'{hint}")


def _explanations(profile: Profile, subject: Subject, rule: str) -> Iterable[Explained]:
    from ebpfaudit.policy.explain import closest, explain

    if rule and subject.seq is None:
        return closest(profile, subject.events, rule)
    if subject.seq is not None:
        return explain(profile, subject.events, lambda number, _: number == subject.seq, rule)
    return explain(
        profile, subject.events, lambda number, verdicts: bool(verdicts) or number == subject.last, rule
    )


def _print(explained: Explained, subject: Subject, everything: bool) -> None:
    from ebpfaudit.output.explanation import explanation_lines
    from ebpfaudit.output.terminal import wants_colour

    colour = wants_colour(sys.stdout)
    place = subject.lines.get(explained.seq, "")
    click.echo("\n".join(explanation_lines(explained, place, everything, colour)), color=colour)


def _print_json(explained: Explained) -> None:
    import msgspec

    click.echo(json.dumps(msgspec.to_builtins(explained)))
