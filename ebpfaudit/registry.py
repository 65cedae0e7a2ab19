"""Which episodes are active on this host: one locked file each, so that an ID is used once at a time.

The lock dies with its holder, so a killed auditor leaves a stale file but never a blocked ID.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from ebpfaudit.errors import EpisodeError

RUN_FOLDER = Path("/run/ebpfaudit/episodes")


class Registration(Struct):
    """What another command (`trace`, `doctor`) needs to find an active episode."""

    episode: str
    profile: str
    auditor_pid: int
    step: str = ""
    root_pid: int = 0
    cgroup: str = ""
    """Path of the episode's cgroup directory."""
    tag_map: int = 0
    """Kernel number of the auditor's tag map: who belongs to the episode at this moment."""
    number: int = 0
    """The episode's number in that map."""


class Seat:
    """An episode ID, taken. `update` publishes, `release` gives it back."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def update(self, registration: Registration) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, msgspec.json.encode(registration) + b"\n", 0)

    def release(self) -> None:
        """May be called twice."""
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)  # while locked: nobody else can have taken it
            os.close(self._descriptor)
            self._descriptor = -1


def take(episode: str, folder: Path = RUN_FOLDER) -> Seat:
    """Reserve an episode ID. Raises EpisodeError if it is active."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for stale in folder.glob("*.json"):
        _remove_if_abandoned(stale)
    path = folder / (hashlib.sha256(episode.encode("utf-8", "surrogateescape")).hexdigest()[:32] + ".json")
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            holder = _read(path)
            who = f" by process {holder.auditor_pid}, under profile {holder.profile}" if holder else ""
            raise EpisodeError(
                f"episode {episode!r} is already being audited on this host{who}. Give this one another --episode, "
                "or wait until that one has ended."
            ) from None
        # Another holder may have unlinked the file between our open and our lock.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return Seat(path, descriptor)
        os.close(descriptor)


def active(folder: Path = RUN_FOLDER) -> Iterator[Registration]:
    """The episodes that some process is auditing now."""
    for path in sorted(folder.glob("*.json")):
        if _is_held(path) and (registration := _read(path)) is not None:
            yield registration


def _remove_if_abandoned(path: Path) -> None:
    """Clear away what a killed auditor left. `take` copes with a file that vanishes under its hands."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(descriptor).st_ino:  # nobody has made a new one meanwhile
            path.unlink()
    except (BlockingIOError, FileNotFoundError):
        pass
    finally:
        os.close(descriptor)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(path: Path) -> Registration | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Registration)
    except (OSError, msgspec.MsgspecError):
        return None
