"""`ebpfaudit profile list`: every profile that has a name."""

from __future__ import annotations

import json

import click


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per profile.")
def list_profiles(as_json: bool) -> int:
    """List every profile that can be named: the user's, the system's and the shipped ones.

    \b
    ebpfaudit profile list
    ebpfaudit profile list --json | jq -r 'select(.ok | not) | .path'
    """
    from ebpfaudit.errors import ProfileError
    from ebpfaudit.profiles.load import known_profiles, load_profile

    for name, path in sorted(known_profiles().items()):
        try:
            sound, description = True, load_profile(str(path)).description
        except ProfileError:
            sound, description = False, "(has errors: see 'ebpfaudit profile check')"
        if as_json:
            click.echo(
                json.dumps({"profile": name, "path": str(path), "ok": sound, "description": description})
            )
        else:
            click.echo(f"{name:20} {description}\n{'':20} {path}")
    return 0
