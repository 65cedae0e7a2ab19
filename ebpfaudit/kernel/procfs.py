"""Processes that were already running, from /proc: as `seen` events, parents before their children."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from ebpfaudit.events import Seen
from ebpfaudit.text import show

_PROC = Path("/proc")


def start_ticks(pid: int, proc: Path = _PROC) -> int:
    """When a process began: /proc/PID/stat field 22. Raises ProcessLookupError if there is none."""
    return _stat(proc / str(pid))[1]


def seen_processes(pids: Iterable[int] | None = None, proc: Path = _PROC) -> list[Seen]:
    """What is running (or which of `pids` still are), each parent before its children."""
    if pids is None:
        pids = (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
    found: dict[int, Seen] = {}
    for pid in pids:
        try:
            found[pid] = _look(pid, proc)
        except (OSError, ValueError, IndexError):
            continue  # it ended while we looked
    # A child never begins before its parent; within one clock tick the lower pid came first, unless they wrapped.
    return sorted(found.values(), key=lambda seen: (seen.start, seen.pid))


def processes_of(uid: int, proc: Path = _PROC) -> int:
    """How many processes a user has now."""
    count = 0
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                count += entry.stat().st_uid == uid
    return count


def descendants(root: int, proc: Path = _PROC) -> set[int]:
    """`root` and every process below it at this moment, by parent links."""
    children: dict[int, list[int]] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                parent = _stat(entry)[0]
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = set(), [root]
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting += children.get(pid, [])
    return found


def _stat(folder: Path) -> tuple[int, int]:
    """(parent, start in ticks). comm may hold anything, brackets and newlines too: the last ')' ends it."""
    try:
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    except FileNotFoundError as error:
        raise ProcessLookupError(3, f"no process {folder.name}") from error
    return int(fields[1]), int(fields[19])


def _look(pid: int, proc: Path) -> Seen:
    folder = proc / str(pid)
    parent, start = _stat(folder)
    argv = (folder / "cmdline").read_bytes().removesuffix(b"\0")
    return Seen(
        time.monotonic_ns(), pid, start, parent, _link(folder / "exe"),
        tuple(show(argument) for argument in argv.split(b"\0")) if argv else (),
        _link(folder / "cwd"), show((folder / "comm").read_bytes()[:-1]), folder.stat().st_uid,
    )  # fmt: skip


def _link(path: Path) -> str:
    """Where a link points; empty for a kernel thread, or without the right to know."""
    try:
        return show(os.fsencode(os.readlink(path)).removesuffix(b" (deleted)"))
    except OSError:
        return ""
