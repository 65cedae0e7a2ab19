"""Who did it: a process is named by its pid and the moment it began, never by the pid alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ebpfaudit.events import Exec, Exit, Fork, Seen

TICK_NS = 10_000_000
"""Length of a clock tick as user space sees it: USER_HZ is 100 on every architecture we serve
(include/asm-generic/param.h). /proc/PID/stat field 22 counts these since boot."""


class ProcessKey(NamedTuple):
    """One life of one pid (the thread group's). `start` is /proc/PID/stat field 22: ticks since boot.

    The probes read the same value in nanoseconds (task_struct.start_boottime of the group leader);
    it is rounded down here so that a process found in /proc and one seen forking have one name.
    """

    pid: int
    start: int


class Process:
    """What is known of one live process of an episode. `exe` and `argv` are the last exec's, or inherited."""

    __slots__ = ("argv", "comm", "cwd", "exe", "memfd", "pid", "ppid", "script", "start", "tree", "uid")

    def __init__(self, pid: int, start: int, ppid: int = 0) -> None:
        self.pid = pid
        self.start = start
        self.ppid = ppid
        self.exe = ""
        self.argv: tuple[str, ...] = ()
        self.comm = ""
        self.cwd = ""
        self.script = ""
        self.uid = -1
        self.memfd = False
        self.tree = self
        """The topmost process below the episode's root that this one descends from (itself, if a child of
        the root); it may have exited long ago. The root's tree is the root."""

    @property
    def key(self) -> ProcessKey:
        return ProcessKey(self.pid, self.start)


class ProcessTable:
    """The live processes of one episode, built from its events alone.

    Holds no chain of dead ancestors: a daemon that forks and exits for ever costs no memory.
    """

    def __init__(self) -> None:
        self._by_pid: dict[int, Process] = {}
        self._root: Process | None = None

    def __len__(self) -> int:
        return len(self._by_pid)

    @property
    def root(self) -> Process | None:
        return self._root

    def alive(self) -> list[Process]:
        return list(self._by_pid.values())

    def get(self, pid: int, start: int) -> Process:
        """The process, entered as unknown if its fork was never seen (lost, or before the episode)."""
        process = self._by_pid.get(pid)
        if process is None or process.start != start:
            process = self._by_pid[pid] = Process(pid, start)
        return process

    def knows(self, pid: int, start: int) -> bool:
        process = self._by_pid.get(pid)
        return process is not None and process.start == start

    def tree_of(self, process: Process) -> list[Process]:
        """Every live process of the tree that `process` belongs to, in no order."""
        top = process.tree
        return [other for other in self._by_pid.values() if other.tree is top]

    def set_root(self, pid: int, start: int) -> Process:
        """Name the episode's root. Its children, from now on, each head a tree of their own."""
        self._root = self.get(pid, start)
        self._root.tree = self._root
        return self._root

    def fork(self, event: Fork) -> None:
        parent = self.get(event.pid, event.start)
        child = Process(event.child, event.child_start, event.pid)
        child.exe, child.argv, child.comm = parent.exe, parent.argv, parent.comm
        child.cwd, child.script, child.uid, child.memfd = parent.cwd, parent.script, parent.uid, parent.memfd
        if parent is not self._root:
            child.tree = parent.tree
        self._by_pid[event.child] = child

    def execute(self, event: Exec) -> Process:
        """Take over what an exec says of its process. A failed one says nothing."""
        process = self.get(event.pid, event.start)
        if not event.error:
            process.script = event.filename if event.script else ""
            process.memfd = event.memfd
            self._describe(process, event)
        return process

    def seen(self, event: Seen) -> Process:
        """Enter a process that was already running. Parents must be entered before their children."""
        process = self.get(event.pid, event.start)
        parent = self._by_pid.get(event.ppid)
        if process is not self._root and parent is not None and parent is not self._root:
            process.tree = parent.tree
        self._describe(process, event)
        return process

    @staticmethod
    def _describe(process: Process, event: Exec | Seen) -> None:
        process.exe, process.argv, process.comm = event.exe, event.argv, event.comm
        process.cwd, process.uid, process.ppid = event.cwd, event.uid, event.ppid

    def exit(self, event: Exit) -> None:
        process = self._by_pid.get(event.pid)
        if process is not None and process.start == event.start:
            del self._by_pid[event.pid]
