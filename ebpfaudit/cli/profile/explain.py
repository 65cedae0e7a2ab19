"""`ebpfaudit profile explain`: why a profile judges an event as it does."""

from __future__ import annotations

import click


@click.command("explain")
def explain() -> int:
    """Why a profile judges an event as it does."""
    raise click.ClickException("not built yet")
