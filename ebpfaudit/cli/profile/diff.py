"""`ebpfaudit profile diff`: what another profile would have judged."""

from __future__ import annotations

import click


@click.command("diff")
def diff() -> int:
    """What another profile would have judged."""
    raise click.ClickException("not built yet")
