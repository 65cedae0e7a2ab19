"""An episode's own cgroup (v2): where its processes live, are frozen, and are killed.

Layout: ``<cgroup2>/ebpfaudit/<episode>/run`` holds the agent's processes; `split` makes leaves beside `run`.
Every file that the kill path needs is opened at the start: later it looks no path up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ebpfaudit.errors import EpisodeError
from ebpfaudit.mounts import cgroup2_mount

PARENT = "ebpfaudit"
"""The directory that all concurrent runs on a host share."""

_LOOK_S = (0.00005, 0.001)
"""Shortest and longest pause between two looks at cgroup.events. Waiting for its notification by poll() would
cost more: the kernel sends at most one per 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV)."""


def directory_name(episode: str) -> str:
    """A file name that still looks like the episode's ID, whatever that is, and fits any file system."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", episode)[:64] or "_"


def _nothing() -> None:
    pass


class Cgroup:
    """One directory of the cgroup2 hierarchy, held open. `id` is what bpf_get_current_cgroup_id() returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._procs = os.open(path / "cgroup.procs", os.O_RDWR)
        self._events = os.open(path / "cgroup.events", os.O_RDONLY)
        self._freeze = os.open(path / "cgroup.freeze", os.O_RDWR)
        try:
            self._kill = os.open(path / "cgroup.kill", os.O_WRONLY)
        except FileNotFoundError:  # before Linux 5.14
            self._kill = -1
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.id = os.fstat(self._directory).st_ino

    @property
    def can_kill(self) -> bool:
        """The kernel has cgroup.kill, which spares nobody, forking or not."""
        return self._kill >= 0

    def add(self, pid: int) -> bool:
        """Move a process here, with all its threads; False if it has ended."""
        try:
            os.write(self._procs, b"%d" % pid)
        except ProcessLookupError:
            return False
        return True

    def procs(self) -> set[int]:
        """Pids of all processes here and below. A zombie is not among them."""
        pids = _read_pids(self._procs)
        if self._children():
            for folder, _, _ in os.walk(self.path):
                with contextlib.suppress(OSError):
                    fd = os.open(Path(folder) / "cgroup.procs", os.O_RDONLY)
                    try:
                        pids |= _read_pids(fd)
                    finally:
                        os.close(fd)
        return pids

    def _children(self) -> int:
        """A cgroup directory counts its subdirectories as links, plus two (kernfs_refresh_inode)."""
        return os.fstat(self._directory).st_nlink - 2

    def kill(self) -> None:
        """SIGKILL every process here and below, and every one that is being forked there."""
        os.write(self._kill, b"1")

    def freeze(self, timeout_s: float = 0.1) -> bool:
        """Stop everything here and below; False if something did not come to rest within `timeout_s`.

        A process in uninterruptible sleep does not; it will when it wakes. SIGKILL reaches the frozen.
        """
        os.write(self._freeze, b"1")
        return self._wait_for(b"frozen 1", timeout_s, _nothing)

    def thaw(self) -> None:
        """Undo `freeze`. A process below stays frozen if a cgroup on the way is frozen by itself."""
        os.write(self._freeze, b"0")

    def frozen(self) -> bool:
        """Everything here and below is at rest."""
        return b"frozen 1" in os.pread(self._events, 128, 0)

    def populated(self) -> bool:
        """Some process here or below is alive."""
        return b"populated 1" in os.pread(self._events, 128, 0)

    def wait_empty(self, timeout_s: float, reap: Callable[[], None] = _nothing) -> bool:
        """True as soon as no process is left here or below; calls `reap` while it waits."""
        return self._wait_for(b"populated 0", timeout_s, reap)

    def close(self) -> None:
        for fd in (self._procs, self._events, self._freeze, self._kill, self._directory):
            if fd >= 0:
                os.close(fd)
        self._procs = self._events = self._freeze = self._kill = self._directory = -1

    def _wait_for(self, state: bytes, timeout_s: float, reap: Callable[[], None]) -> bool:
        begin = time.monotonic()
        while state not in os.pread(self._events, 128, 0):
            waited = time.monotonic() - begin
            if waited > timeout_s:
                return False
            time.sleep(min(max(waited / 16, _LOOK_S[0]), _LOOK_S[1]))
            reap()
        return True


class EpisodeCgroup(Cgroup):
    """The cgroup of one episode. Its processes are put into `run` by `add`."""

    def __init__(self, episode: str) -> None:
        mount = cgroup2_mount()
        if mount is None:
            raise EpisodeError(
                "this host has no cgroup v2 mounted: mount it (mount -t cgroup2 none /sys/fs/cgroup/unified) "
                "or go without; 'ebpfaudit doctor' says what that costs"
            )
        super().__init__(_make_directory(mount / PARENT, directory_name(episode)))
        try:
            self.run = self._make_leaf("run")
        except BaseException:
            self.close()
            self.path.rmdir()
            raise
        self._leaves: list[Cgroup] = []
        self._split_count = 0

    def _make_leaf(self, name: str) -> Cgroup:
        path = self.path / name
        path.mkdir()
        return Cgroup(path)

    def add(self, pid: int) -> bool:
        """Put a process into the episode; its children follow. False if it has ended."""
        return self.run.add(pid)

    def procs(self) -> set[int]:
        """Pids of all live processes in the episode's cgroup, whatever the agent made of it below.

        A process whose leader thread has exited stays listed where the leader was, so moving it hides it from
        cgroup.procs and from cgroup.kill (measured on 6.18). It is found here only if it is alone; else its
        tag finds it.
        """
        if self._children() != 1 + len(self._leaves):
            pids = super().procs()
        else:
            # The directory itself lists all if the agent made `run` a threaded cgroup, which lists none.
            pids = _read_pids(self._procs) | self.run.procs()
            for leaf in self._leaves:
                pids |= leaf.procs()
        return pids or (self._processes_of_threads() if self.populated() else pids)

    def _processes_of_threads(self) -> set[int]:
        pids = set()
        for threads in self.path.rglob("cgroup.threads"):
            with contextlib.suppress(OSError):
                for tid in threads.read_text().split():
                    status = Path(f"/proc/{tid}/status").read_text(errors="surrogateescape")
                    pids |= {int(line.split()[1]) for line in status.splitlines() if line.startswith("Tgid:")}
        return pids

    def kill_all(self) -> None:
        """SIGKILL every process of the episode's cgroup, frozen and forking ones too. Needs `can_kill`."""
        self.kill()

    def split(self, pids: Iterable[int], name: str = "kill") -> Cgroup:
        """Move these processes into a fresh leaf ``NAME-N``; those that have ended are skipped.

        A frozen process stays frozen on the way, as long as the episode is. Costs an RCU grace period
        (6 to 20 ms, measured on 6.18), so it is not the usual way to kill: see `Enforcer`.
        """
        self._split_count += 1
        leaf = self._make_leaf(f"{name}-{self._split_count}")
        self._leaves.append(leaf)
        for pid in pids:
            leaf.add(pid)
        return leaf

    def discard(self, leaf: Cgroup, timeout_s: float = 0.2) -> None:
        """Remove an emptied leaf of `split`; one that is not empty is left for `remove`."""
        if _remove_tree(leaf.path, timeout_s):
            self._leaves.remove(leaf)
            leaf.close()

    def remove(self, timeout_s: float = 2.0) -> bool:
        """Remove the emptied cgroup, its leaves, what the agent made below, and the shared parent if unused.

        False if processes are still inside after `timeout_s`: nothing is forced. All files are closed.
        """
        if self._procs < 0:
            return True
        removed = _remove_tree(self.path, timeout_s)
        for cgroup in (self.run, *self._leaves):
            cgroup.close()
        self.close()
        # ENOTEMPTY or EBUSY: another run lives there; it, or the last one, removes it.
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()
        return removed


def remove_abandoned(mount: Path) -> list[Path]:
    """Remove the empty cgroups of auditors that were killed. Returns those where processes still run."""
    inhabited = []
    for path in mount.joinpath(PARENT).glob("*-*"):
        owner = re.search(r"-(\d+)(?:-\d+)?$", path.name)
        if owner is None or Path("/proc", owner[1]).exists():
            continue
        try:
            populated = "populated 1" in (path / "cgroup.events").read_text()
        except OSError:
            continue  # somebody else was quicker
        if populated:
            inhabited.append(path)
        else:
            _remove_tree(path, timeout_s=0)
    return inhabited


def _read_pids(fd: int) -> set[int]:
    """cgroup.procs comes in pieces of a page. A process outside our pid namespace reads as 0."""
    chunks = []
    position = 0
    try:
        while chunk := os.pread(fd, 65536, position):
            chunks.append(chunk)
            position += len(chunk)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENODEV):  # threaded (see its domain), or removed
            raise
    pids = {int(pid) for pid in b"".join(chunks).split()}
    pids.discard(0)
    return pids


def _make_directory(parent: Path, name: str) -> Path:
    """A new directory below `parent`. Another run may remove the empty parent at any moment: try again."""
    suffix = f"{name}-{os.getpid()}"
    for attempt in range(1, 1000):
        path = parent / (suffix if attempt == 1 else f"{suffix}-{attempt}")
        try:
            parent.mkdir(exist_ok=True)
            path.mkdir()
        except (FileExistsError, FileNotFoundError):
            continue
        except OSError as error:
            raise EpisodeError(
                f"cannot make the episode's cgroup {path}: {error.strerror}. "
                "It needs root and a writable cgroup v2 mount; run 'ebpfaudit doctor'"
            ) from error
        return path
    raise EpisodeError(f"cannot make the episode's cgroup: {parent} is full of {suffix}-N; remove stale ones")


def _remove_tree(top: Path, timeout_s: float) -> bool:
    """rmdir from the leaves up, again until `timeout_s` while the dying leave; True when `top` is gone."""
    end = time.monotonic() + timeout_s
    while True:
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
                    raise
        if not top.exists():
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
