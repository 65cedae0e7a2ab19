"""ebpfaudit doctor: what this host permits, and what follows from it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ebpfaudit.kernel.support import Support

_PASTE_WIDTH = 100


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def doctor(as_json: bool) -> int:
    """Try what an audit needs of this kernel and host: what is missing, what that leaves open, what to do.

    Nothing is changed or left behind. Without root, it says what it could not try.
    Exits with 0 if `ebpfaudit run` would work here, else with 1.

    \b
    sudo ebpfaudit doctor
    sudo ebpfaudit doctor --json | jq '.checks[] | select(.ok | not)'
    """
    from ebpfaudit.kernel.support import probe

    support = probe(thorough=True)
    if as_json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(_findings(support)), indent=2).decode())
    else:
        from ebpfaudit.kernel.coverage import promises
        from ebpfaudit.output.checkup import Checkup
        from ebpfaudit.output.terminal import columns, wants_colour

        width = columns(sys.stdout) if sys.stdout.isatty() else _PASTE_WIDTH
        checkup = Checkup(support, promises(support), width=width, colour=wants_colour(sys.stdout))
        print(checkup.render(), end="")
    return 0 if support.usable else 1


def _findings(support: Support) -> dict[str, Any]:
    from ebpfaudit.kernel.coverage import coverage

    return {
        "usable": support.usable,
        "kernel": support.kernel,
        "machine": support.machine,
        "checks": [
            {field: getattr(check, field) for field in check.__struct_fields__} for check in support.checks
        ],
        "coverage": coverage(support) if support.usable else [],
    }
