"""`ebpfaudit profile check`: is a profile sound?"""

from __future__ import annotations

import json
from typing import Any

import click


@click.command()
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
