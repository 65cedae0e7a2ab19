"""What files hold: hashes of programs, read so that no file, however hostile, blocks or misleads its reader.

A file is first opened as a mere name (O_PATH), which neither waits for a FIFO's writer nor touches a device, and is
read only if it is a regular one. Nothing is executed, and no access time changes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import stat
import struct
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from ebpfaudit.kernel.procfs import start_ticks
from ebpfaudit.text import hide

MAX_BYTES = 256 << 20
"""Larger files are not hashed for an entry that names a hash."""

MAX_PATH = 4096
_CHUNK = 1 << 18
_REMEMBERED = 4096
_SETTLED_NS = 50_000_000
"""A file that changed less long ago may change again within one tick of its clock: it is not remembered."""

_SYS_OPENAT2 = 437
_RESOLVE_IN_ROOT = 0x10
_OWN_DESCRIPTOR = re.compile(rb"/(?:dev/fd|proc/self/fd)/(\d+)|/dev/std(in|out|err)")
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)

Key = tuple[int, int, int, int, int]


class Unreadable(Exception):
    """The content cannot be known; the message is a word that says why, such as "ENOENT"."""


class Findings:
    """What was found out about files, for as long as their (device, inode, times, size) stay as they were."""

    def __init__(self) -> None:
        self._found: dict[Key, str] = {}

    def recall(self, status: os.stat_result) -> str | None:
        found = self._found.pop(key := state_of(status), None)
        if found is not None:
            self._found[key] = found  # the last to be forgotten
        return found

    def keep(self, status: os.stat_result, found: str) -> None:
        if time.time_ns() - status.st_ctime_ns < _SETTLED_NS:
            return
        if len(self._found) >= _REMEMBERED:
            del self._found[next(iter(self._found))]
        self._found[state_of(status)] = found

    def forget(self) -> None:
        self._found.clear()


def hash_file(descriptor: int) -> str:
    """SHA-256 of the regular file that is open there (with O_PATH). Raises Unreadable."""
    digest = hashlib.sha256()
    for data in _read(descriptor):
        digest.update(data)
    return digest.hexdigest()


def same_content(descriptor: int, other: int) -> bool:
    """Whether two regular files, open with O_PATH, hold the same: much sooner known than a hash. Raises Unreadable."""
    if os.fstat(descriptor).st_size != os.fstat(other).st_size:
        return False
    return all(one == two for one, two in zip_longest(_read(descriptor), _read(other)))


def open_executable(pid: int, path: str, device: str, inode: int) -> int:
    """A descriptor (O_PATH) of what a process runs: through the process while it lives, else by its path.

    In either case it is the very file: `device` and `inode` are those of the exec. Raises Unreadable.
    """
    reason = "ENOENT"
    ways: list[bytes] = [b"/proc/%d/exe" % pid]
    if path.startswith("/"):
        ways.append(hide(path))
    for way in ways:
        follow = 0 if way is ways[0] else os.O_NOFOLLOW
        try:
            descriptor = os.open(way, os.O_PATH | os.O_CLOEXEC | follow)
        except OSError as error:
            reason = _name(error)
            continue
        if _is_inode(descriptor, pid, device, inode):
            return descriptor
        os.close(descriptor)
        reason = "ESTALE"
    raise Unreadable(reason)


def open_operand(pid: int, start: int, path: str) -> int:
    """A descriptor (O_PATH) of what an interpreter or the dynamic linker was told to run.

    It is looked up in the process's own root while it lives, links included; else in ours. Raises Unreadable.
    """
    raw = hide(path)
    reason = "ENOENT"
    if len(raw) > MAX_PATH:
        raise Unreadable("ENAMETOOLONG")
    if own := _OWN_DESCRIPTOR.fullmatch(raw):
        number = own[1] or {b"in": b"0", b"out": b"1", b"err": b"2"}[own[2]]
        try:
            return os.open(b"/proc/%d/fd/%b" % (pid, number), os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise Unreadable(_name(error)) from error
    for root in (f"/proc/{pid}/root", "/"):
        try:
            folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            reason = _name(error)
            continue
        try:
            if root == "/" or _lives(pid, start):
                return _open_in(folder, raw)
        except OSError as error:
            reason = _name(error)
        finally:
            os.close(folder)
    raise Unreadable(reason)


def kernel_inode(descriptor: int, pid: int | None = None) -> tuple[str, int]:
    """("major:minor", inode) of an open file as the kernel's own structures, and so the probes, have them.

    On overlayfs and btrfs stat(2) tells others. `pid`: whose mounts it may belong to, besides our own.
    """
    status = os.fstat(descriptor)
    device, inode = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}", status.st_ino
    with contextlib.suppress(OSError, ValueError):
        about = dict(
            line.split(b":", 1) for line in Path(f"/proc/self/fdinfo/{descriptor}").read_bytes().splitlines()
        )
        inode = int(about.get(b"ino", inode))  # since Linux 5.14
        mount = about[b"mnt_id"].strip()
        for owner in ("self", pid) if pid is not None else ("self",):
            for line in Path(f"/proc/{owner}/mountinfo").read_bytes().splitlines():
                fields = line.split(b" ", 3)
                if fields[0] == mount:
                    return fields[2].decode(), inode
    return device, inode


def _is_inode(descriptor: int, pid: int, device: str, inode: int) -> bool:
    status = os.fstat(descriptor)
    if (f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}", status.st_ino) == (device, inode):
        return True
    return kernel_inode(descriptor, pid) == (device, inode)


def _lives(pid: int, start: int) -> bool:
    """The process is the one that we mean. Asked after its folder was opened, so that folder is its own."""
    try:
        return start_ticks(pid) == start
    except (OSError, ValueError, IndexError):
        return False


def _open_in(folder: int, path: bytes) -> int:
    """Open a name as a process does whose root is `folder`: absolute links begin there too."""
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    descriptor: int = _libc.syscall(_SYS_OPENAT2, folder, path, how, len(how))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return descriptor


def _read(name: int) -> Iterator[bytes]:
    """The content, of as many bytes as the file had at first."""
    before = os.fstat(name)
    if not stat.S_ISREG(before.st_mode):
        raise Unreadable("not a regular file")
    try:
        descriptor = _open_for_reading(name)
        try:
            left = before.st_size
            while left > 0 and (data := os.read(descriptor, min(left, _CHUNK))):
                left -= len(data)
                yield data
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unreadable(_name(error)) from error
    if left or state_of(after) != state_of(before):
        raise Unreadable("changed while it was read")


def _open_for_reading(name: int) -> int:
    path = f"/proc/self/fd/{name}"
    try:
        return os.open(path, _READ | os.O_NOATIME)
    except PermissionError:
        return os.open(path, _READ)


def state_of(status: os.stat_result) -> Key:
    """What changes when a file's content does. (Its owner can set the other times, but not the time of change.)"""
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))
