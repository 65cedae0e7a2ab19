"""May we load probes at all? Asked first, so that the answer is one clear sentence."""

from __future__ import annotations

import os

from ebpfaudit.errors import KernelError

_CAP_SYS_ADMIN = 21


def require_privilege() -> None:
    """Raises KernelError unless this process is root with CAP_SYS_ADMIN, as loading probes needs."""
    if os.geteuid() != 0:
        raise KernelError("ebpfaudit loads probes into the kernel, which needs root: run it with sudo.")
    if not _effective_capabilities() >> _CAP_SYS_ADMIN & 1:
        raise KernelError(
            "this root lacks CAP_SYS_ADMIN, as in a container: run ebpfaudit on the host, or give the container "
            "that capability (docker run --privileged --pid=host --cgroupns=host)."
        )


def _effective_capabilities() -> int:
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapEff:"):
                return int(line.split()[1], 16)
    return 0
