"""Who did it: a process is named by its pid and the moment it began, never by the pid alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ebpfaudit.events import Exec, Exit, Fork, Identity, Seen

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


Marks = tuple[tuple[str, int], ...]
"""Names, and until when (ns) each lasts."""

MAX_IDENTITIES = 8
"""Of one program: the executable, and what the dynamic linker and an interpreter were told to run."""

MAX_DEPARTED = 1024
"""Ended processes that are kept for what is found out late about what they ran."""


class Process:
    """What is known of one live process of an episode. `exe` and `argv` are the last exec's, or inherited."""

    __slots__ = (  # noqa: RUF023
        "argv", "comm", "cwd", "deleted", "executed", "exe", "identities", "image_lineage", "lineage", "marks",
        "memfd", "pid", "ppid", "programs", "script", "start", "touched", "tree", "tree_marks", "uid",
    )  # fmt: skip

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
        self.deleted = False
        self.tree = self
        """The topmost process below the episode's root that this one descends from (itself, if a child of
        the root); it may have exited long ago. The root's tree is the root."""
        self.executed: Exec | None = None
        """Its last successful exec; None if it runs what it inherited."""
        self.identities: list[Identity] = []
        """What was found out about what it runs. One list with the children that still run the same."""
        self.lineage = 0
        """Which of the programs that a profile asks for it descends from, as bits (see `ProcessTable`)."""
        self.image_lineage = -1
        """The bits of what it runs now; -1: not yet asked."""
        self.programs: tuple[str, ...] | None = None
        """What it runs, by every name (see `policy.programs`); None: not yet asked."""
        self.marks: Marks = ()
        self.tree_marks: Marks = ()
        """Of the head of a tree: the marks of the whole tree."""
        self.touched: set[Any] | None = None
        """The tables that hold something under this process's key, to be dropped with it."""

    @property
    def key(self) -> ProcessKey:
        return ProcessKey(self.pid, self.start)


class ProcessTable:
    """The live processes of one episode, built from its events alone.

    Holds no chain of dead ancestors: a daemon that forks and exits for ever costs no memory.
    """

    def __init__(
        self, lineage_of: Callable[[Process], int] | None = None, keep_departed: bool = False
    ) -> None:
        """`lineage_of`: the bits that stand for what a process runs; its children, and it itself after its next
        exec, descend from those. With `keep_departed`, `find` knows the latest ended processes too."""
        self._by_pid: dict[int, Process] = {}
        self._root: Process | None = None
        self._lineage_of = lineage_of
        self._keep_departed = keep_departed
        self._departed: dict[tuple[int, int], Process] = {}

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

    def find(self, pid: int, start: int) -> Process | None:
        """The process, if it is alive, or was lately and the table keeps such."""
        process = self._by_pid.get(pid)
        if process is not None and process.start == start:
            return process
        return self._departed.get((pid, start))

    @property
    def departed(self) -> int:
        """How many ended processes are kept."""
        return len(self._departed)

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
        child.deleted, child.identities, child.programs = parent.deleted, parent.identities, parent.programs
        child.marks = parent.marks
        if self._lineage_of is not None:
            child.lineage = parent.lineage | self._image_lineage(parent)
            child.image_lineage = parent.image_lineage
        if parent is not self._root:
            child.tree = parent.tree
        self._by_pid[event.child] = child

    def execute(self, event: Exec) -> Process:
        """Take over what an exec says of its process. A failed one says nothing."""
        process = self.get(event.pid, event.start)
        if not event.error:
            if self._lineage_of is not None:
                process.lineage |= self._image_lineage(process)
            take_over(process, event)
        return process

    def seen(self, event: Seen) -> Process:
        """Enter a process that was already running. Parents must be entered before their children."""
        process = self.get(event.pid, event.start)
        parent = self._by_pid.get(event.ppid)
        if parent is not None and parent is not process:
            if process is not self._root and parent is not self._root:
                process.tree = parent.tree
            if self._lineage_of is not None:
                process.lineage = parent.lineage | self._image_lineage(parent)
        _describe(process, event)
        return process

    def _image_lineage(self, process: Process) -> int:
        if process.image_lineage < 0:
            process.image_lineage = self._lineage_of(process) if self._lineage_of is not None else 0
        return process.image_lineage

    def lineage_after(self, process: Process) -> int:
        """What the process descends from once it has executed something else."""
        return process.lineage | self._image_lineage(process)

    def exit(self, event: Exit) -> Process | None:
        """Take out the process that ended, if it was known."""
        process = self._by_pid.get(event.pid)
        if process is None or process.start != event.start:
            return None
        del self._by_pid[event.pid]
        if self._keep_departed:
            if len(self._departed) >= MAX_DEPARTED:
                del self._departed[next(iter(self._departed))]
            self._departed[event.pid, event.start] = process
        return process


def take_over(process: Process, event: Exec) -> None:
    """From now on the process runs what `event` says."""
    process.script = event.filename if event.script else ""
    process.memfd = event.memfd
    process.deleted = event.deleted
    process.executed = event
    _describe(process, event)


def _describe(process: Process, event: Exec | Seen) -> None:
    process.exe, process.argv, process.comm = event.exe, event.argv, event.comm
    process.cwd, process.uid, process.ppid = event.cwd, event.uid, event.ppid
    process.image_lineage = -1
    process.programs = None
    process.identities = []
