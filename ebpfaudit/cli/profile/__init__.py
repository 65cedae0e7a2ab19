"""`ebpfaudit profile`: write, understand and test profiles without running anything."""

from __future__ import annotations

import click

from ebpfaudit.cli.lazy import LazyGroup

_COMMANDS = {
    "check": "ebpfaudit.cli.profile.check:check",
    "show": "ebpfaudit.cli.profile.show:show",
    "list": "ebpfaudit.cli.profile.list:list_profiles",
    "explain": "ebpfaudit.cli.profile.explain:explain",
    "test": "ebpfaudit.cli.profile.test:test",
    "diff": "ebpfaudit.cli.profile.diff:diff",
    "learn": "ebpfaudit.cli.profile.learn:learn",
    "import-sigma": "ebpfaudit.cli.profile.import_sigma:import_sigma",
}


@click.command(cls=LazyGroup, commands_at=_COMMANDS)
def profile() -> None:
    """Check, show, explain, test, compare, learn and import profiles. Needs neither root nor bcc.

    \b
    ebpfaudit profile check my-agent.toml
    ebpfaudit profile explain coding-agent 'exec python3 x.py ; connect 10.0.0.5:22/tcp'
    ebpfaudit profile test coding-agent
    """
