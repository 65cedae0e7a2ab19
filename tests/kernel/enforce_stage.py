"""A stage for enforcement tests: real process trees, with the table and tags that an audit would have."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from ebpfaudit.enforce.cgroup import EpisodeCgroup
from ebpfaudit.enforce.enforcer import Enforcer
from ebpfaudit.enforce.pidfd import read_stat, send
from ebpfaudit.events import Exec, Fork
from ebpfaudit.process import ProcessKey, ProcessTable
from ebpfaudit.verdicts import Enforcement, Verdict

PRELUDE = """
import os, signal, sys, time
sys.stdin.readline()            # the barrier: we are in the cgroup now
def child(work, *args):
    pid = os.fork()
    if pid:
        return pid
    try:
        work(*args)
    finally:
        os._exit(0)
def say(name):
    os.write(1, f"{name} {os.getpid()}\\n".encode())
def rest(name="", *args):
    if name:
        say(name)
    while True:
        signal.pause()
def answer(name):               # rests, and says so when asked by SIGUSR1: proof of life
    signal.signal(signal.SIGUSR1, lambda *_: say("awake"))
    rest(name)
"""

_PR_SET_CHILD_SUBREAPER = 36


def _live_tasks(process: str) -> list[Path]:
    tasks = list(Path(process, "task").iterdir())
    return tasks if len(tasks) == 1 else tasks[1:]


class Stage:
    """One episode. `play` runs a workload as its root; `strike` gives the enforcer a verdict on a process."""

    def __init__(self, *, cgroup: bool = True) -> None:
        self.mark = f"EBPFAUDIT_STAGE={uuid.uuid4().hex}"
        self.table = ProcessTable()
        self.pids: dict[str, list[int]] = {}
        self.root: subprocess.Popen[bytes] | None = None
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.cgroup = EpisodeCgroup("enforce test/é") if cgroup else None

    def play(self, workload: str, *also_join: Path) -> None:
        """Start the root; it begins when it is in the cgroup (and in the v1 cgroups given)."""
        key, _, value = self.mark.partition("=")
        self.root = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PRELUDE + workload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, key: value},
        )
        if self.cgroup:
            assert self.cgroup.add(self.root.pid)
        for folder in also_join:
            (folder / "cgroup.procs").write_text(str(self.root.pid))
        assert self.root.stdin and self.root.stdout
        self.root.stdin.write(b"go\n")
        stat = read_stat(self.root.pid)
        assert stat
        self.table.set_root(self.root.pid, stat.start)

    def expect(self, count: int, timeout_s: float = 20) -> None:
        """Read `count` lines "name pid" from the workload into `pids`."""
        assert self.root and self.root.stdout
        end = time.monotonic() + timeout_s
        while count:
            ready, _, _ = select.select([self.root.stdout], [], [], max(0, end - time.monotonic()))
            assert ready, f"the workload said too little; so far {self.pids}"
            line = bytearray()
            while not line.endswith(b"\n"):
                line += os.read(self.root.stdout.fileno(), 1) or b"\n"
            assert line.strip(), "the workload ended early"
            name, pid = line.split()
            self.pids.setdefault(name.decode(), []).append(int(pid))
            count -= 1

    def pid(self, name: str) -> int:
        (pid,) = self.pids[name]
        return pid

    def key(self, pid: int) -> ProcessKey:
        stat = read_stat(pid)
        assert stat, f"{pid} is gone"
        return ProcessKey(pid, stat.start)

    def learn(self, *, lineage: dict[int, int] | None = None, unknown: set[int] | None = None) -> None:
        """Tell the table of every fork, by /proc; `lineage` names the true parents of reparented processes.

        Not of the `unknown`: their events have not arrived yet.
        """
        assert self.table.root
        stats = {
            pid: stat for pid in self.tagged() if (stat := read_stat(pid)) and pid not in (unknown or ())
        }
        parents = {pid: (lineage or {}).get(pid, stat.ppid) for pid, stat in stats.items()}
        told = {self.table.root.pid}
        while True:
            fresh = [pid for pid, parent in parents.items() if parent in told and pid not in told]
            if not fresh:
                break
            for pid in fresh:
                start = stats[parents[pid]].start
                self.table.fork(Fork(time.monotonic_ns(), parents[pid], start, pid, stats[pid].start))
                told.add(pid)

    def tagged(self) -> set[int]:
        """What the kernel's tag map would hold: the live processes that inherited our mark."""
        found = set()
        mark = self.mark.encode()
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    # By its threads: a leader that has exited shows no environment.
                    if any(mark in (task / "environ").read_bytes() for task in _live_tasks(entry.path)):
                        found.add(int(entry.name))
        return found

    def enforcer(self, **options: object) -> Enforcer:
        return Enforcer(self.cgroup, self.table, self.tagged, reap=self.reap, **options)  # type: ignore[arg-type]

    def strike(
        self,
        process: ProcessKey,
        scope: str = "tree",
        action: str = "kill",
        enforcer: Enforcer | None = None,
    ) -> Enforcement:
        verdict = Verdict(3, action, "test", "exe", "/bin/x", scope=scope)  # type: ignore[arg-type]
        event = Exec(time.monotonic_ns(), process.pid, process.start, 0, "/bin/x", ("x",), "/", "x", 0)
        return (enforcer or self.enforcer()).carry_out(verdict, event, time.monotonic_ns())

    def awake(self, pid: int, timeout_s: float = 15) -> bool:
        """The process runs user code: it answers a signal."""
        before = len(self.pids.get("awake", []))
        os.kill(pid, signal.SIGUSR1)
        with contextlib.suppress(AssertionError):
            self.expect(1, timeout_s)
        return self.pids.get("awake", [])[before:] == [pid]

    def reap(self) -> None:
        """Collect the orphans that came to us; the root's own status stays for `root.wait`."""
        keep = self.root.pid if self.root else 0
        with contextlib.suppress(ChildProcessError):
            while True:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None or ended.si_pid == keep:
                    return
                os.waitpid(ended.si_pid, 0)

    def clear(self) -> None:
        """Kill and remove whatever is left, however the test ended."""
        end = time.monotonic() + 10
        if self.cgroup and self.cgroup.path.exists():
            (self.cgroup.path / "cgroup.freeze").write_text("0")
        while (left := self.tagged()) and time.monotonic() < end:
            for pid in left:
                stat = read_stat(pid)
                if stat is not None and pid in self.tagged():  # a fork bomb's pids are soon another's
                    send(pid, stat.start, signal.SIGKILL)
            self.reap()
        if self.root:
            self.root.wait(10)
            assert self.root.stdin and self.root.stdout
            self.root.stdin.close()
            self.root.stdout.close()
        self.reap()
        if self.cgroup:
            assert self.cgroup.remove(), f"{self.cgroup.path} could not be removed"
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        assert not left, f"processes left behind: {left}"
