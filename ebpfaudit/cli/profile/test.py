"""`ebpfaudit profile test`: fixtures with expected verdicts."""

from __future__ import annotations

import click


@click.command("test")
def test() -> int:
    """Fixtures with expected verdicts."""
    raise click.ClickException("not built yet")
