"""The command line: one module per command, listed here and imported only when called."""

from __future__ import annotations

import sys

import click

from ebpfaudit import __version__
from ebpfaudit.cli.lazy import LazyGroup, ReaderLeftError
from ebpfaudit.errors import EXIT_FAILURE, EbpfAuditError

_COMMANDS = {
    "run": "ebpfaudit.cli.run:run",
    "trace": "ebpfaudit.cli.trace:trace",
    "replay": "ebpfaudit.cli.replay:replay",
    "verify": "ebpfaudit.cli.verify:verify",
    "profile": "ebpfaudit.cli.profile:profile",
    "doctor": "ebpfaudit.cli.doctor:doctor",
}


@click.command(cls=LazyGroup, commands_at=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ebpfaudit")
def cli() -> None:
    """Audit, judge, stop and record what AI agents do on this host.

    \b
    ebpfaudit run --profile coding-agent --episode ep-1 -- python agent.py
    ebpfaudit trace --kind exec,connect
    ebpfaudit replay ep-1.jsonl.zst --profile stricter.toml
    ebpfaudit doctor
    """


def main() -> None:
    """Run the command line. A command returns its exit code; an error of ours is one message and a code."""
    _open_closed_streams()
    try:
        result = cli.main(standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.ClickException as usage:
        usage.show()
        sys.exit(usage.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except ReaderLeftError:
        _leave_quietly()
    except EbpfAuditError as error:
        _complain(error)
        sys.exit(error.exit_code)
    except OSError as error:
        _complain(error)
        sys.exit(EXIT_FAILURE)


def _complain(error: Exception) -> None:
    """It may quote what somebody else chose."""
    from ebpfaudit.output.terminal import printable

    print("Error:", "\n".join(map(printable, str(error).split("\n"))), file=sys.stderr)


def _open_closed_streams() -> None:
    """Started with `2>&-`: nothing of ours may get that number, and what is said goes nowhere."""
    import os

    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _leave_quietly() -> None:
    """Whoever read our output has gone (`| head`): say nothing, and keep Python from saying anything."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
