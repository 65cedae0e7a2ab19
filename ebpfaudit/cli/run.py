"""`ebpfaudit run`: launch a command as an episode, audit it, judge it, stop it, record it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from ebpfaudit.kernel.compile import Compiler


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--profile", "-p", required=True, metavar="NAME|FILE", help="What the episode may do.")
@click.option("--episode", "-e", metavar="ID", help="The episode's ID; by default one is made up.")
@click.option("--step", metavar="LABEL", default="", help="A label inside the episode, such as a tool call.")
@click.option(
    "--trail", metavar="FILE", help="Where to record. Default: /var/log/ebpfaudit/; 'none' for no record."
)
@click.option("--result", metavar="FILE", help="Write the summary there as JSON, for a trainer to read.")
@click.option("--user", metavar="USER", help="Run the command as this user. Default: whoever called sudo.")
@click.option(
    "--enforce", type=click.Choice(["on", "off"]), default="on", show_default=True,
    help="off: nothing is refused or killed, but what would have been is recorded.",
)  # fmt: skip
@click.option("--gpu-device", "gpu_devices", multiple=True, metavar="PATH=DRIVER",
              help="Treat a character device as a GPU's, e.g. /dev/gpu0=nvidia. May be repeated.")  # fmt: skip
@click.option("--ring-size", type=int, default=8192, show_default=True, metavar="KIB",
              help="Size of the ring buffer: a power of two.")  # fmt: skip
@click.option("--realtime/--no-realtime", default=True, show_default=True,
              help="Real-time scheduling for the auditor (not for the command), where the host permits it.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Alerts and summary as JSON lines on stderr.")
@click.option("--quiet", "-q", is_flag=True, help="No start line and no summary; alerts are still shown.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    profile: str, episode: str | None, step: str, trail: str | None, result: str | None, user: str | None,
    enforce: str, gpu_devices: tuple[str, ...], ring_size: int, realtime: bool, as_json: bool, quiet: bool,
    command: tuple[str, ...],
) -> int:  # fmt: skip
    """Run COMMAND as an episode under audit.

    The command's exit code is ours; 120 if the policy killed it, 125 if ebpfaudit itself failed, 126 or 127 if the
    command could not be executed. Our own words go to stderr.

    \b
    ebpfaudit run --profile coding-agent --episode ep-1 -- python agent.py
    ebpfaudit run -p offline-sandbox --trail ep.jsonl.zst --result ep.json -- make test
    ebpfaudit run -p ./mine.toml --enforce off -- ./agent
    """
    from ebpfaudit.kernel.privilege import require_privilege

    require_privilege()
    compiler = Compiler.start(
        ring_bytes=ring_size << 10
    )  # first of all: it works while we read everything else
    try:
        from ebpfaudit.cli.reporting import Reporter
        from ebpfaudit.launch import choose_user
        from ebpfaudit.profiles.load import load_profile
        from ebpfaudit.session import Plan, Session

        plan = Plan(
            command, _label(episode) or f"run-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}", load_profile(profile),
            _label(step),
            choose_user(user), enforce == "on", gpu_devices, realtime,
        )  # fmt: skip
        reporter = Reporter(plan, as_json=as_json, quiet=quiet, result=Path(result) if result else None)
        session = Session(plan, compiler, reporter.observe)
        try:
            return reporter.conduct(session, trail, command)
        finally:
            session.close()
    finally:
        compiler.stop()


def _label(text: str | None) -> str:
    """An ID or label as it is shown, kept and compared everywhere, whatever bytes it was given in."""
    from ebpfaudit.text import show

    return show(os.fsencode(text or ""))
