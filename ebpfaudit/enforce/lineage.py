"""Whom a verdict is about: which of the processes that are there now belong to what is to be killed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from ebpfaudit.enforce.pidfd import Stat, read_stat
from ebpfaudit.events import Fork
from ebpfaudit.process import Process, ProcessKey, ProcessTable


class Target(Protocol):
    """What is to be killed or frozen."""

    def members(self, candidates: Iterable[int]) -> dict[int, int]:
        """The live ones of these pids that belong to it, as `pid: start`, by what /proc says now."""

    def known(self) -> Iterable[Process]:
        """Those that the process table knows of."""


class OneProcess:
    """Scope "process": this life of this pid; its children are spared."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def known(self) -> Iterable[Process]:
        return (self._process,)

    def members(self, candidates: Iterable[int]) -> dict[int, int]:
        pid, start = self._process.key
        stat = read_stat(pid) if pid in set(candidates) else None
        return {pid: start} if stat is not None and stat.alive and stat.start == start else {}


class Everything:
    """Scope "episode"."""

    def __init__(self, table: ProcessTable) -> None:
        self._table = table

    def known(self) -> Iterable[Process]:
        return self._table.alive()

    def members(self, candidates: Iterable[int]) -> dict[int, int]:
        stats = {pid: read_stat(pid) for pid in candidates}
        return {pid: stat.start for pid, stat in stats.items() if stat is not None and stat.alive}


class Tree:
    """Scope "tree": all that descends from `top`, known to the table or not.

    Events lag, so a process may be there that the table has not heard of. It belongs where its parent does:
    by `pending_forks`, the fork events that are read but not yet in the table, or else by /proc. One whose
    parent is gone as well, a double fork of the last milliseconds, belongs to nobody by /proc. It is taken
    for one of the tree's (`orphans`), because to spare it would let the offender slip away by forking twice.
    """

    def __init__(
        self, table: ProcessTable, top: Process, pending_forks: Callable[[], Iterable[Fork]], *, orphans: bool
    ) -> None:
        self._table = table
        self._top = top
        self._pending_forks = pending_forks
        self._orphans = orphans

    def known(self) -> Iterable[Process]:
        return self._table.tree_of(self._top)

    def members(self, candidates: Iterable[int]) -> dict[int, int]:
        known = {process.key: process.tree is self._top for process in self._table.alive()}
        stats = {pid: stat for pid in candidates if (stat := read_stat(pid)) is not None}
        if any((pid, stat.start) not in known for pid, stat in stats.items()):
            for fork in self._pending_forks():
                child = ProcessKey(fork.child, fork.child_start)
                # The batch being judged holds forks that the table has taken in, that of `top` among them.
                if child not in known and (parent := known.get(fork.process)) is not None:
                    known[child] = parent
        for process in self._strays(stats):
            del known[process]
        belongs: dict[int, bool] = {}
        for pid in stats:
            self._settle(pid, stats, known, belongs)
        return {pid: stat.start for pid, stat in stats.items() if belongs[pid] and stat.alive}

    def _strays(self, stats: dict[int, Stat]) -> list[ProcessKey]:
        """Processes whose fork event was lost: the table makes each a tree of its own, /proc knows better."""
        root = self._table.root
        return [
            process.key
            for process in self._table.alive()
            if process.tree is process
            and process not in (root, self._top)
            and (stat := stats.get(process.pid)) is not None
            and stat.ppid in stats
            and (root is None or stat.ppid != root.pid)
        ]

    def _settle(
        self, pid: int, stats: dict[int, Stat], known: dict[ProcessKey, bool], belongs: dict[int, bool]
    ) -> None:
        """Fill `belongs` for `pid`, and for its ancestors on the way to the first one that is known."""
        path = []
        while pid not in belongs:
            stat = stats.get(pid)
            # Not a candidate: outside the episode (init, a subreaper), so the one before is an orphan.
            answer = self._orphans if stat is None else known.get(ProcessKey(pid, stat.start))
            belongs[pid] = self._orphans if answer is None else answer  # provisional: ends a circle, too
            if stat is None or answer is not None:
                break
            path.append(pid)
            pid = stat.ppid
        for unknown in path:
            belongs[unknown] = belongs[pid]
