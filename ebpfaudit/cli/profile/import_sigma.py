"""`ebpfaudit profile import-sigma`: Sigma rules as rules of a profile."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, cast

import click

from ebpfaudit.cli.profile.progress import counting_bar

if TYPE_CHECKING:
    from ebpfaudit.profiles.sigma import Imported
    from ebpfaudit.profiles.sigma.fields import Case

_MANY_FILES = 50


@click.command("import-sigma")
@click.argument("files", metavar="FILE|FOLDER...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--output", "-o", metavar="FILE", type=click.Path(), help="Write the profile here instead of to stdout."
)
@click.option(
    "--name", metavar="NAME", default="imported-sigma", show_default=True, help="The profile's name."
)
@click.option("--extends", metavar="NAME|FILE", default="", help="What the profile extends, such as base.")
@click.option(
    "--action",
    type=click.Choice(["log", "alert", "freeze", "kill"]),
    default="alert",
    show_default=True,
    help="What the rules do. Only those of level high and critical freeze or kill; the others then alert.",
)
@click.option(
    "--case",
    type=click.Choice(["paths", "any", "written"]),
    default="paths",
    show_default=True,
    help="Where upper and lower case differ: in paths; nowhere, as Sigma means it; everywhere, as written.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="On stdout what became of each Sigma rule, not the profile."
)
def import_sigma(
    files: tuple[str, ...], output: str | None, name: str, extends: str, action: str, case: str, as_json: bool
) -> int:
    """Turn Sigma rules for Linux (process_creation, network_connection) into a profile, on stdout.

    What cannot be said exactly is not imported, but named on stderr with the reason; where an imported rule is wider
    or narrower by design, a comment above it says so. Folders are walked. Exits with 0 if any rule was
    imported, with 1 if none was. Needs pySigma: pip install 'ebpfaudit[sigma]'.

    \b
    ebpfaudit profile import-sigma rules/linux/ --name sigma --extends base > sigma.toml
    ebpfaudit profile import-sigma rules/linux/ --json | jq -r 'select(.reason) | [.file, .reason] | @tsv'
    ebpfaudit profile check ./sigma.toml
    """
    from ebpfaudit.profiles import sigma
    from ebpfaudit.profiles.load import load_profile

    sigma.require_pysigma()
    taken = [rule.id for rule in load_profile(extends).rules] if extends else []
    paths = list(sigma.rule_files(files))
    with counting_bar("import", len(paths), _MANY_FILES) as on_file:
        imported = sigma.import_sigma(
            paths,
            name=name,
            extends=extends,
            action=action,
            case=cast("Case", case),
            taken=taken,
            on_file=on_file,
        )
    any_good = any(outcome.rules for outcome in imported.outcomes)
    if output and any_good:
        with open(output, "w", encoding="utf-8") as file:
            file.write(imported.text)
    _report(imported, as_json)
    if any_good and not output and not as_json:
        click.echo(imported.text, nl=False)
    return 0 if any_good else 1


def _report(imported: Imported, as_json: bool) -> None:
    from msgspec import to_builtins

    from ebpfaudit.profiles.sigma import summary

    for outcome in imported.outcomes:
        if as_json:
            click.echo(json.dumps(to_builtins(outcome)))
        elif not outcome.rules:
            title = f" {outcome.title}:" if outcome.title else ""
            print(f"{outcome.file}:{title} {outcome.reason}", file=sys.stderr)
    print(f"ebpfaudit: {summary(imported.outcomes)}", file=sys.stderr)
