"""How processes of an episode are stopped and killed, with all that the host gives for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ebpfaudit.enforce.cgroup import EpisodeCgroup
from ebpfaudit.enforce.lineage import Everything, OneProcess, Target
from ebpfaudit.enforce.pidfd import kill_and_wait
from ebpfaudit.enforce.sweep import stop_all, sweep
from ebpfaudit.process import ProcessTable

_INTRUSION = "this process was moved into the episode's cgroup, so its members were killed one by one"

_KILL_REACH_S = 0.25
"""How long cgroup.kill may take before those left are killed by pidfd. It does not reach a process whose
leader thread has exited and that was moved afterwards (measured on 6.18): the tags, and `inside`, do."""


@dataclass(slots=True)
class Ending:
    """How it went. `survivors` is empty if everybody is gone, and then `gone_ns` says since when."""

    found: set[int] = field(default_factory=set)
    method: str = ""
    killed_ns: int = 0
    gone_ns: int = 0
    survivors: tuple[int, ...] = ()
    error: str = ""

    def add(self, pids: set[int], method: str, killed_ns: int) -> None:
        """Note a round of kills. The method is the first round's: a later one mops up."""
        self.found |= pids
        self.method = self.method or method
        self.killed_ns = killed_ns or self.killed_ns


class Means:
    """The episode's cgroup, where there is one, and the kernel's tags.

    Never touches pid 1 or this process, even if an agent moved them into the cgroup.
    """

    def __init__(
        self,
        cgroup: EpisodeCgroup | None,
        processes: ProcessTable,
        tagged_pids: Callable[[], set[int]],
        reap: Callable[[], None],
        freeze_timeout_s: float,
        gone_timeout_s: float,
    ) -> None:
        self._cgroup = cgroup
        self._processes = processes
        self._tagged_pids = tagged_pids
        self._reap = reap
        self._freeze_timeout_s = freeze_timeout_s
        self._gone_timeout_s = gone_timeout_s
        self._untouchable = {0, 1, os.getpid()}
        self._held = False
        """The whole episode was frozen by a verdict, and stays so."""

    def inside(self) -> set[int]:
        """Live processes in the episode's cgroup."""
        return self._cgroup.procs() - self._untouchable if self._cgroup else set()

    def outside(self) -> set[int]:
        """Tagged processes that left the cgroup. Without one: all that the kernel or the table knows of."""
        if self._cgroup:
            return self._tagged_pids() - self._cgroup.procs() - self._untouchable
        known = {process.pid for process in self._processes.alive()}
        return (self._tagged_pids() | known) - self._untouchable

    def _intruded(self) -> bool:
        return self._cgroup is not None and os.getpid() in self._cgroup.procs()

    def kill(self, target: Target) -> Ending:
        """Kill all of `target`, and look until there is nobody left of it, or `gone_timeout_s` is over."""
        ending = Ending()
        deadline = time.monotonic() + self._gone_timeout_s
        intruded = self._intruded()
        if intruded:
            ending.error = _INTRUSION
        at_once = self._can_kill_at_once(target) and not intruded
        frozen = False
        try:
            if self._cgroup and not at_once and not intruded and not isinstance(target, OneProcess):
                frozen = self._cgroup.freeze(self._freeze_timeout_s)
            while not self._round(target, at_once, frozen, deadline, ending) and time.monotonic() < deadline:
                pass
        finally:
            self._thaw()
        if not ending.gone_ns:
            ending.survivors = tuple(sorted(target.members(self.inside() | self.outside())))
            ending.gone_ns = 0 if ending.survivors else time.monotonic_ns()
        return ending

    def _can_kill_at_once(self, target: Target) -> bool:
        return isinstance(target, Everything) and self._cgroup is not None and self._cgroup.can_kill

    def _thaw(self) -> None:
        if self._cgroup and not self._held:
            self._cgroup.thaw()

    def _round(self, target: Target, at_once: bool, frozen: bool, deadline: float, ending: Ending) -> bool:
        """Kill who is inside, then who is outside; True when a look at both found nobody."""
        if at_once:
            empty = self._kill_at_once(deadline, ending)
        elif frozen or isinstance(target, OneProcess):
            empty = self._kill_each(target, frozen, deadline, ending)
        else:
            empty = self._kill_apart(target, deadline, ending)
        found, killed_ns = sweep(lambda: self._members_outside(target), deadline, self._reap)
        ending.add(set(found), "pidfd", killed_ns)
        if empty and not found:
            ending.gone_ns = time.monotonic_ns()
        return empty and not found

    def _members_outside(self, target: Target) -> dict[int, int]:
        outside = self.outside()
        if not outside:
            return {}
        # Judged together with the others, among whom their parents may be.
        members = target.members(outside | self.inside())
        return {pid: start for pid, start in members.items() if pid in outside}

    def _kill_at_once(self, deadline: float, ending: Ending) -> bool:
        assert self._cgroup
        pids = self.inside()
        if not pids:
            return True
        self._cgroup.kill_all()
        ending.add(pids, "cgroup.kill", time.monotonic_ns())
        if not self._cgroup.wait_empty(min(_KILL_REACH_S, deadline - time.monotonic()), self._reap):
            kill_and_wait(_members_of_all(self._processes, self.inside()), deadline, self._reap)
        return not self.inside()

    def _kill_each(self, target: Target, frozen: bool, deadline: float, ending: Ending) -> bool:
        """By pidfd, until nobody inside belongs. Exact where nobody can fork: frozen, or one process."""
        bystanders: set[int] = set()
        while not (pids := self.inside()) <= bystanders:
            members = target.members(pids)
            if not members:
                break
            if time.monotonic() > deadline:
                return False
            ending.add(set(members), "pidfd", kill_and_wait(members, deadline, self._reap))
            if frozen:  # they stay as they are until we thaw them, so they need no second look
                bystanders = pids - members.keys()
        return True

    def _kill_apart(self, target: Target, deadline: float, ending: Ending) -> bool:
        """By moving the members into a leaf until none is left behind, and killing that: exact even while
        they fork, since a child is born where its parent is."""
        members = set(target.members(self.inside()))
        if self._cgroup is None or not members:
            return True
        leaf = self._cgroup.split(members)
        while time.monotonic() < deadline:
            left_behind = target.members(self.inside()).keys() - leaf.procs()
            if left_behind <= members:  # nobody, or who cannot be listed elsewhere: see EpisodeCgroup.procs
                break
            members |= left_behind
            for pid in left_behind:
                leaf.add(pid)
        pids = members | leaf.procs()
        if leaf.can_kill:
            leaf.kill()
            ending.add(pids, "cgroup.kill", time.monotonic_ns())
            leaf.wait_empty(min(_KILL_REACH_S, deadline - time.monotonic()), self._reap)
        else:
            found, killed_ns = sweep(
                lambda: _members_of_all(self._processes, leaf.procs()), deadline, self._reap
            )
            ending.add(set(found), "pidfd", killed_ns)
        kill_and_wait(target.members(self.inside()), deadline, self._reap)
        self._cgroup.discard(leaf)
        return not target.members(self.inside())

    def hold(self, target: Target) -> Ending:
        """Freeze all of `target`, for good. Without a cgroup it is stopped, which its parents can see."""
        ending = Ending()
        deadline = time.monotonic() + self._gone_timeout_s
        if self._cgroup is None or self._intruded():
            found = stop_all(lambda: target.members(self.inside() | self.outside()), deadline)
            ending.add(set(found), "pidfd", 0)
        elif isinstance(target, Everything):
            self._held = True
            if not self._cgroup.freeze(self._freeze_timeout_s):
                ending.error = "some processes are in uninterruptible sleep: they freeze when they wake"
            ending.add(self.inside(), "cgroup.freeze", 0)
            ending.add(set(stop_all(lambda: self._members_outside(target), deadline)), "pidfd", 0)
        else:
            self._hold_apart(self._cgroup, target, deadline, ending)
        return ending

    def _hold_apart(self, cgroup: EpisodeCgroup, target: Target, deadline: float, ending: Ending) -> None:
        """Into a leaf that stays frozen when the others are thawed."""
        try:
            cgroup.freeze(self._freeze_timeout_s)
            leaf = cgroup.split((), "frozen")
            leaf.freeze(0)
            while time.monotonic() < deadline:
                fresh = target.members(self.inside() | self.outside()).keys() - leaf.procs()
                if not fresh:
                    break
                for pid in fresh:
                    leaf.add(pid)
            ending.add(leaf.procs(), "cgroup.freeze", 0)
            if not leaf.freeze(self._freeze_timeout_s):
                ending.error = "some processes are in uninterruptible sleep: they freeze when they wake"
        finally:
            self._thaw()


def _members_of_all(processes: ProcessTable, pids: set[int]) -> dict[int, int]:
    return Everything(processes).members(pids)
