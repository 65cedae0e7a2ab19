"""`ebpfaudit profile learn`: the tightest profile for what was observed."""

from __future__ import annotations

import click


@click.command("learn")
def learn() -> int:
    """The tightest profile for what was observed."""
    raise click.ClickException("not built yet")
