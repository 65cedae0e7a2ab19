"""`ebpfaudit profile check`: is a profile sound?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ebpfaudit.profiles.load import Problem, Profile


@click.command()
@click.argument("profiles", metavar="PROFILE...", nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Notes fail, too.")
@click.option(
    "--kernel", "ask_kernel", is_flag=True, help="Note also what this kernel cannot serve (root only)."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per profile.")
def check(profiles: tuple[str, ...], strict: bool, ask_kernel: bool, as_json: bool) -> int:
    """Say whether each PROFILE (a name or a path) is sound, and all that is wrong if not.

    Problems make it fail: whatever is not of the language, contradicts itself or can never apply. Notes do not:
    what is allowed but hardly meant, such as a mark that no rule tests or a rule that another makes superfluous.

    \b
    ebpfaudit profile check coding-agent ./my-agent.toml
    ebpfaudit profile check --strict --json my-agent.toml | jq '.notes[].message'
    sudo ebpfaudit profile check --kernel coding-agent

    Exit code 1: a profile is not sound (with --strict: or has notes).
    """
    if ask_kernel:
        _require_root()
    results = [_check(name, ask_kernel) for name in profiles]
    for result in results:
        click.echo(json.dumps(result) if as_json else _text(result))
    failed = any(not result["ok"] or (strict and result["notes"]) for result in results)
    return 1 if failed else 0


def _require_root() -> None:
    import os

    from ebpfaudit.errors import UsageError

    if os.geteuid() != 0:
        raise UsageError("--kernel loads trial programs into the kernel: run it as root, or leave it out")


def _check(name: str, ask_kernel: bool) -> dict[str, Any]:
    from ebpfaudit.profiles.load import check_profile, profile_hash

    checked = check_profile(name)
    result: dict[str, Any] = {
        "profile": name,
        "ok": checked.profile is not None,
        "problems": [_table(problem) for problem in checked.problems],
        "notes": [_table(note) for note in checked.notes],
    }
    if checked.profile is not None:
        if ask_kernel:
            result["notes"] += _kernel_notes(name, checked.profile)
        result |= {"rules": len(checked.profile.rules), "hash": profile_hash(checked.profile)}
    return result


def _kernel_notes(name: str, profile: Profile) -> list[dict[str, Any]]:
    from ebpfaudit.kernel.served import unserved
    from ebpfaudit.profiles.load import Problem

    return [_table(Problem(name, 0, 0, f"on this kernel: {line}")) for line in unserved(profile)]


def _table(problem: Problem) -> dict[str, Any]:
    from msgspec.structs import asdict

    return asdict(problem)


def _text(result: dict[str, Any]) -> str:
    from ebpfaudit.profiles.load import Problem

    lines = [str(Problem(**problem)) for problem in result["problems"]]
    if result["ok"]:
        lines.append(f"{result['profile']}: sound, {result['rules']} rules, {result['hash'][:12]}")
    for note in result["notes"]:
        placed = Problem(**note)
        lines.append(f"{placed.place}: note: {placed.message}")
    return "\n".join(lines)
