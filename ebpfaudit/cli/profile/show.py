"""`ebpfaudit profile show`: a profile as it is in force."""

from __future__ import annotations

import click


@click.command()
@click.argument("name", metavar="PROFILE")
def show(name: str) -> int:
    """Print PROFILE as it is in force: what it extends merged in, lists written out.

    \b
    ebpfaudit profile show coding-agent > mine.toml
    """
    from ebpfaudit.profiles.load import load_profile, resolved_text

    click.echo(resolved_text(load_profile(name)), nl=False)
    return 0
