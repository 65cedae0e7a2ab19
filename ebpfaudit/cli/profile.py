"""`ebpfaudit profile`: look at profiles without running anything."""

from __future__ import annotations

import json
from typing import Any

import click


@click.group()
def profile() -> None:
    """Check, show and list profiles. Needs neither root nor bcc.

    \b
    ebpfaudit profile check my-agent.toml
    ebpfaudit profile show coding-agent
    ebpfaudit profile list
    """


@profile.command()
@click.argument("profiles", metavar="PROFILE...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per profile.")
def check(profiles: tuple[str, ...], as_json: bool) -> int:
    """Say whether each PROFILE (a name or a path) is sound, and all that is wrong if not.

    \b
    ebpfaudit profile check coding-agent ./my-agent.toml
    """
    results = [_check(name) for name in profiles]
    for result in results:
        if as_json:
            click.echo(json.dumps(result))
        elif result["ok"]:
            click.echo(f"{result['profile']}: sound, {result['rules']} rules, {result['hash'][:12]}")
        else:
            click.echo("\n".join(result["problems"]))
    return 0 if all(result["ok"] for result in results) else 1


@profile.command()
@click.argument("name", metavar="PROFILE")
def show(name: str) -> int:
    """Print PROFILE as it is in force: what it extends merged in, lists written out.

    \b
    ebpfaudit profile show coding-agent > mine.toml
    """
    from ebpfaudit.profiles.load import load_profile, resolved_text

    click.echo(resolved_text(load_profile(name)), nl=False)
    return 0


@profile.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per profile.")
def list_profiles(as_json: bool) -> int:
    """List every profile that can be named: the user's, the system's and the shipped ones."""
    from ebpfaudit.errors import ProfileError
    from ebpfaudit.profiles.load import known_profiles, load_profile

    for name, path in sorted(known_profiles().items()):
        try:
            description = load_profile(str(path)).description
        except ProfileError:
            description = "(has errors: see 'ebpfaudit profile check')"
        if as_json:
            click.echo(json.dumps({"profile": name, "path": str(path), "description": description}))
        else:
            click.echo(f"{name:20} {description}\n{'':20} {path}")
    return 0


def _check(name: str) -> dict[str, Any]:
    from ebpfaudit.errors import ProfileError
    from ebpfaudit.profiles.load import InvalidProfile, load_profile, profile_hash

    try:
        sound = load_profile(name)
    except InvalidProfile as error:
        return {"profile": name, "ok": False, "problems": list(error.problems)}
    except ProfileError as error:
        return {"profile": name, "ok": False, "problems": [str(error)]}
    return {"profile": name, "ok": True, "rules": len(sound.rules), "hash": profile_hash(sound)}
