"""The one error tree. Every message names what failed, why, and the next step; none knows click."""

from __future__ import annotations

EXIT_POLICY_KILL = 120
"""`run`: the policy killed the command itself (not merely some process below it)."""

EXIT_FAILURE = 125
"""Our own failure, as for env(1), timeout(1) and nohup(1): nothing the audited command said."""

EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class EbpfAuditError(Exception):
    """Something an operator can act on. `str(error)` is shown as it is, without a traceback."""

    exit_code = EXIT_FAILURE


class UsageError(EbpfAuditError):
    """The command line asks for something impossible."""

    exit_code = 2


class ProfileError(EbpfAuditError):
    """A profile that cannot be found, read, or trusted to mean what its author wrote."""


class TrailError(EbpfAuditError):
    """A trail that cannot be read or written."""


class KernelError(EbpfAuditError):
    """The running kernel, or its configuration, refuses what was asked of it."""


class EpisodeError(EbpfAuditError):
    """An episode that cannot be started: its ID is taken, its cgroup cannot be made."""


class LaunchError(EbpfAuditError):
    """The audited command could not be started."""

    exit_code = EXIT_NOT_EXECUTABLE
