"""Signals to one life of one pid: identity is checked on an open pidfd, never on the number alone."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

_WAITED_AT_ONCE = 512
"""Pidfds held open at a time: well below the usual limit of 1024 open files, whatever the tree's size."""

_POLL_MS = 20
"""How long one wait may last before the caller's `reap` gets its turn."""


class Stat(NamedTuple):
    """What /proc/PID/stat says of a process that matters here."""

    ppid: int
    start: int
    state: str
    threads: int

    @property
    def alive(self) -> bool:
        """Runs code still. A zombie does not, unless it is a leader whose other threads live on."""
        return self.state not in "ZX" or self.threads > 1

    @property
    def halted(self) -> bool:
        """Cannot fork: stopped, traced to a stop, or dead."""
        return self.state in "Tt" or not self.alive


def read_stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        raw = os.read(fd, 4096)
    except OSError:  # ESRCH: it went between open and read
        return None
    finally:
        os.close(fd)
    # comm, the second field, may hold blanks and parentheses: count from the last one.
    fields = raw[raw.rindex(b")") + 2 :].split(b" ", 20)
    return Stat(int(fields[1]), int(fields[19]), chr(fields[0][0]), int(fields[17]))


def open_pidfd(pid: int, start: int) -> int | None:
    """A pidfd of the process `(pid, start)`; None when that life has ended, or is one we must not touch.

    The pidfd is opened first: if the start time read afterwards is the right one, the pidfd names that life.
    """
    if pid <= 1 or pid == os.getpid():
        return None
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    stat = read_stat(pid)
    if stat is None or stat.start != start:
        os.close(fd)
        return None
    return fd


def send(pid: int, start: int, signum: int) -> bool:
    """Signal the process `(pid, start)`, and no other; False when it has ended or is not ours to touch."""
    fd = open_pidfd(pid, start)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def kill_and_wait(members: dict[int, int], deadline: float, reap: Callable[[], None]) -> int:
    """SIGKILL every `pid: start`, wait for their ends; returns when the last signal was sent (monotonic ns).

    Who outlives the deadline is simply left: the caller looks again, which is its verification.
    """
    todo = list(members.items())
    killed_ns = 0
    for first in range(0, len(todo), _WAITED_AT_ONCE):
        with contextlib.ExitStack() as stack:
            fds = []
            for pid, start in todo[first : first + _WAITED_AT_ONCE]:
                fd = open_pidfd(pid, start)
                if fd is not None:
                    stack.callback(os.close, fd)
                    fds.append(fd)
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
            killed_ns = time.monotonic_ns()
            _wait_for_ends(fds, deadline, reap)
    return killed_ns


def _wait_for_ends(fds: list[int], deadline: float, reap: Callable[[], None]) -> None:
    """A pidfd becomes readable when the last thread of its process has ended (zombie or reaped).

    One after the other, from the last one signalled: waiting for all at once would wake us at every end, each
    time taking a CPU from those that are still dying.
    """
    for fd in reversed(fds):
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not poll.poll(_POLL_MS):
            if time.monotonic() > deadline:
                return
            reap()
