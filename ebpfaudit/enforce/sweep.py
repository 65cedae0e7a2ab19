"""Killing without a cgroup: stop whatever belongs until nothing new turns up, then kill, then look again.

The way on hosts without cgroup v2, and for what left its episode's cgroup.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from ebpfaudit.enforce.pidfd import kill_and_wait, read_stat, send

Find = Callable[[], dict[int, int]]
"""The live processes to be swept, as `pid: start`, at this moment."""

_HALT_S = 0.05
"""How long a stopped process may take to come to rest; one in uninterruptible sleep cannot fork meanwhile."""


def stop_all(find: Find, deadline: float) -> dict[int, int]:
    """SIGSTOP what `find` finds, until a look at the halted processes finds no others; returns them all.

    A fork that was under way when its parent was stopped shows in the next look.
    """
    stopped: dict[int, int] = {}
    while time.monotonic() < deadline:
        fresh = {pid: start for pid, start in find().items() if stopped.get(pid) != start}
        if not fresh:
            break
        for pid, start in fresh.items():
            send(pid, start, signal.SIGSTOP)
        stopped |= fresh
        _wait_halted(fresh)
    return stopped


def sweep(find: Find, deadline: float, reap: Callable[[], None]) -> tuple[dict[int, int], int]:
    """Stop, then SIGKILL, all that `find` finds, and wait for their ends.

    Returns whom it found and when the last signal was sent (monotonic ns, 0 if to nobody). Who outlives
    the deadline is still found by `find` afterwards.
    """
    found = stop_all(find, deadline)
    return found, kill_and_wait(found, deadline, reap)


def _wait_halted(processes: dict[int, int]) -> None:
    end = time.monotonic() + _HALT_S
    for pid, start in processes.items():
        while (stat := read_stat(pid)) is not None and stat.start == start and not stat.halted:
            if time.monotonic() > end:
                return
            time.sleep(0.0001)
