"""`ebpfaudit profile import-sigma`: Sigma rules as rules of a profile."""

from __future__ import annotations

import click


@click.command("import-sigma")
def import_sigma() -> int:
    """Sigma rules as rules of a profile."""
    raise click.ClickException("not built yet")
