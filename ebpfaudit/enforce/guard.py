"""If the auditor dies, so does the episode: nobody would judge what it does from then on."""

from __future__ import annotations

import contextlib
import os
import signal

from ebpfaudit.enforce.cgroup import EpisodeCgroup

_STAND_DOWN = b"d"


class Guard:
    """A small process that waits for our end. Holds copies of our descriptors, so the probes hold until it has acted.

    It kills the episode's cgroup when our end of a pipe closes without a word, as SIGKILL closes it. What has left
    the cgroup before is not reached.
    """

    def __init__(self, cgroup: EpisodeCgroup) -> None:
        read, self._write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._write)
            _keep_watch(read, cgroup)
        os.close(read)

    def stand_down(self) -> None:
        """We end in good order. May be called twice."""
        if self._write >= 0:
            with contextlib.suppress(OSError):
                os.write(self._write, _STAND_DOWN)
            os.close(self._write)
            self._write = -1
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)


def _keep_watch(descriptor: int, cgroup: EpisodeCgroup) -> None:
    """Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        while True:
            with contextlib.suppress(InterruptedError):
                if os.read(descriptor, 1) != _STAND_DOWN:
                    cgroup.kill_all()
                    cgroup.wait_empty(2.0)
                    cgroup.remove()
                break
    finally:
        os._exit(0)
