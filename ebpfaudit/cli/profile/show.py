"""`ebpfaudit profile show`: a profile as it is in force."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("name", metavar="PROFILE")
@click.option(
    "--plain", is_flag=True, help="Without the comments: the text that a trail keeps, and that is hashed."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: entries and rules with their origin.")
def show(name: str, plain: bool, as_json: bool) -> int:
    """Print PROFILE as it is in force: what it extends merged in, lists written out.

    Every entry, default and rule is followed by the file and line it comes from, and by what it overrides.
    The text is a profile of its own, equal to PROFILE.

    \b
    ebpfaudit profile show coding-agent
    ebpfaudit profile show coding-agent --plain > mine.toml
    ebpfaudit profile show my-agent.toml --json | jq '.network.entries[]'
    """
    from ebpfaudit.profiles.load import InvalidProfile, check_profile, load_profile, profile_hash
    from ebpfaudit.profiles.resolved import annotated_text, profile_tables, resolved_text

    checked = check_profile(name)
    profile = checked.profile
    if profile is None:
        load_profile(name)  # raises what is wrong
        raise InvalidProfile(checked.problems)
    if as_json:
        click.echo(json.dumps({**profile_tables(profile, checked.origins), "hash": profile_hash(profile)}))
    elif plain:
        click.echo(resolved_text(profile), nl=False)
    else:
        click.echo(annotated_text(profile, checked.origins), nl=False)
    return 0
