"""Carries out a verdict on an episode's processes, verifies the end, and says what was done.

How a tree dies, and why so:

1. The episode's cgroup is frozen: nobody forks from here on, and what is listed is complete.
2. Each member of the tree is killed by pidfd, its identity checked. SIGKILL reaches the frozen; the others
   stay frozen, so the set cannot grow meanwhile. Moving the tree into a cgroup of its own and writing
   cgroup.kill there is as exact but costs RCU grace periods (12 ms against 0.8 ms for one process, 21
   against 7 ms for 50, about equal for 500: benchmarks/enforce.py, 6.18); it is done where a process in
   uninterruptible sleep keeps the cgroup from coming to rest.
3. What left the cgroup is swept by its tag: stopped until nothing new turns up, then killed.
4. The list is read again until nobody of the tree is on it; then the others are thawed.

The whole episode dies by cgroup.kill alone, which needs no freezing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from ebpfaudit.enforce.cgroup import EpisodeCgroup
from ebpfaudit.enforce.disarmer import Disarmer
from ebpfaudit.enforce.lineage import Everything, OneProcess, Target, Tree
from ebpfaudit.enforce.means import Ending, Means
from ebpfaudit.enforce.pidfd import read_stat
from ebpfaudit.events import Event, Fork
from ebpfaudit.process import Process, ProcessKey, ProcessTable
from ebpfaudit.verdicts import Enforcement, Scope, Verdict


def _nothing() -> None:
    pass


def _no_forks() -> Iterable[Fork]:
    return ()


class Enforcer:
    """Enforcement for one episode.

    `cgroup` is None on a host without cgroup v2: then everything is done by pidfd. `tagged_pids` gives the
    pids that the kernel's tag map holds for this episode, now. `pending_forks` gives the fork events that
    have left the kernel but are not in `processes` yet, in order: with it, a tree is exact at any lag; see
    `lineage.Tree` for what happens without. `reap` is called while waiting for ends: the launcher, a
    subreaper, collects its dead there. `mode` "off" records what would have been done and does nothing.

    Never touches pid 1, this process, or a pid whose start time is another's.
    """

    def __init__(
        self,
        cgroup: EpisodeCgroup | None,
        processes: ProcessTable,
        tagged_pids: Callable[[], set[int]],
        *,
        mode: Literal["on", "off"] = "on",
        pending_forks: Callable[[], Iterable[Fork]] = _no_forks,
        reap: Callable[[], None] = _nothing,
        disarmer: Disarmer | None = None,
        freeze_timeout_s: float = 0.1,
        gone_timeout_s: float = 2.0,
    ) -> None:
        self._processes = processes
        self._mode = mode
        self._pending_forks = pending_forks
        self._reap = reap
        self._disarmer = disarmer or Disarmer()
        self._means = Means(cgroup, processes, tagged_pids, reap, freeze_timeout_s, gone_timeout_s)
        self._gone: set[ProcessKey] = set()
        """Tops of the trees that were verified to be gone: verdicts on their last events come late."""
        self._held: set[ProcessKey] = set()
        """Tops of the trees that are frozen by a verdict."""

    def carry_out(self, verdict: Verdict, event: Event, decided_ns: int) -> Enforcement:
        """Do what `verdict` (deny, freeze or kill) asks about `event`. Returns when it is done and verified,
        at the latest about `gone_timeout_s` later. Call it before later events reach the process table."""
        scope, result, ending = verdict.scope, "not-enforced", Ending()
        if verdict.action not in ("deny", "freeze", "kill"):
            raise ValueError(f"action {verdict.action!r} asks for no enforcement")
        if verdict.action == "deny":
            if self._mode == "on" and getattr(event, "decision", "") in ("deny", "kill"):
                result, ending = "denied", Ending(method="probe")
        elif self._mode == "on":
            with _urgency():
                scope, result, ending = self._act(verdict, event, decided_ns)
            self._reap()
        return Enforcement(
            seq=verdict.seq,
            action=verdict.action,
            scope=scope,
            rule=verdict.rule,
            result=result,
            method=ending.method,
            root_pid=self._topmost(event, ending.found),
            processes=len(ending.found),
            survivors=ending.survivors,
            detected_ns=event.ts_ns,
            decided_ns=decided_ns,
            killed_ns=ending.killed_ns,
            gone_ns=ending.gone_ns,
            error=ending.error,
        )

    def _act(self, verdict: Verdict, event: Event, decided_ns: int) -> tuple[Scope, str, Ending]:
        process = self._find(event)
        scope, target = self._target(process, verdict.scope)
        if target is None or not self._anyone(target, process):
            if verdict.action == "kill" and getattr(event, "decision", "") == "kill":
                return scope, "killed", _by_probe(event)
            return scope, "already-exited", Ending()
        if verdict.action == "freeze":
            return scope, "frozen", self._hold(target, process)
        judgement = self._disarmer.judge(decided_ns)
        if judgement == "refuse":
            error = (
                f"{self._often()}, even after the whole episode was killed: find what respawns the offender"
            )
            return scope, "disarmed", Ending(error=error)
        if judgement == "escalate":
            scope, target = "episode", Everything(self._processes)
        ending = self._means.kill(target)
        if judgement == "escalate":
            ending.error = (
                f"{self._often()}: something respawns the offender, so the whole episode was killed"
            )
        if process is not None and scope == "tree" and not ending.survivors:
            self._gone.add(process.tree.key)
        if getattr(event, "decision", "") == "kill":
            if not ending.found:
                return scope, "killed", _by_probe(event)
            ending.found.add(getattr(event, "pid", 0))  # the probe was quicker than we
        if not ending.found:
            return scope, "already-exited", ending
        return scope, "partial" if ending.survivors else "killed", ending

    def _hold(self, target: Target, process: Process | None) -> Ending:
        if process is not None and process.tree.key in self._held:
            return Ending(method="cgroup.freeze", error="was frozen before")
        if process is not None and isinstance(target, Tree):
            self._held.add(process.tree.key)
        return self._means.hold(target)

    def _often(self) -> str:
        return f"more than {self._disarmer.limit} kills within {self._disarmer.window_s:g} s"

    def _find(self, event: Event) -> Process | None:
        """The table's entry for the offender; if that has exited, its entry as the top of a living tree."""
        key = (getattr(event, "pid", 0), getattr(event, "start", 0))
        for process in self._processes.alive():
            for candidate in (process, process.tree):
                if (candidate.pid, candidate.start) == key:
                    return candidate
        return self._processes.find(*key)  # ended, and what it ran was found out late

    def _target(self, process: Process | None, scope: Scope) -> tuple[Scope, Target | None]:
        """Whom to act on. A tree that is the root's, or all that is left, is the episode."""
        if scope == "episode":
            return scope, Everything(self._processes)
        if process is None:
            return scope, None
        if scope == "process":
            return scope, OneProcess(process)
        top = process.tree
        if top is self._processes.root or all(other.tree is top for other in self._processes.alive()):
            return "episode", Everything(self._processes)
        return scope, Tree(self._processes, top, self._pending_forks, orphans=top.key not in self._gone)

    def _anyone(self, target: Target, process: Process | None) -> bool:
        """Somebody is alive to be acted on. Cheap for the many late verdicts on a tree that is gone."""
        for known in target.known():
            stat = read_stat(known.pid)
            if stat is not None and stat.start == known.start and stat.alive:
                return True
        if process is not None and isinstance(target, Tree) and process.tree.key in self._gone:
            return False
        return bool(target.members(self._means.inside() | self._means.outside()))

    def _topmost(self, event: Event, found: set[int]) -> int:
        """The root or the top of the offender's tree, if it was found; else the oldest that was."""
        process = self._find(event)
        root = self._processes.root
        for candidate in (root, process and process.tree, process):
            if candidate and candidate.pid in found:
                return candidate.pid
        starts = {process.pid: process.start for process in self._processes.alive()}
        return min(found, key=lambda pid: (starts.get(pid, sys.maxsize), pid), default=0)


def _by_probe(event: Event) -> Ending:
    """The probe's own signal ended the offender, who was the last of its tree."""
    return Ending({getattr(event, "pid", 0)}, "probe", event.ts_ns, time.monotonic_ns())


@contextlib.contextmanager
def _urgency() -> Iterator[None]:
    """Let no process of the host have our CPU while we kill. A fork bomb otherwise delays its own end."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    urgent = parameters.sched_priority > 0  # real-time already
    if not urgent:
        # Refused without privilege, and in a v1 cpu cgroup that has no real-time share.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    try:
        yield
    finally:
        if not urgent:
            os.sched_setscheduler(0, policy, parameters)
