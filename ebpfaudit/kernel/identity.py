"""What the programs of an episode are by their content: found out beside the stream, by a process of its own.

A thread would do, were it not for the interpreter's lock: an ordinary thread that is kept from its CPU while it holds
the lock would hold up the auditor, which is not ordinary (`session._become_realtime`). A file system that hangs, too,
holds up nobody but this process. Hence: a socket to it, never waited for, and results that come back as events.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import signal
import socket
import time
from posixpath import normpath

import msgspec
from msgspec import Struct

from ebpfaudit.events import Exec, Identity
from ebpfaudit.kernel.content import (
    MAX_BYTES,
    MAX_PATH,
    Findings,
    Unreadable,
    hash_file,
    open_executable,
    open_operand,
)
from ebpfaudit.kernel.known import Known, inactive_text
from ebpfaudit.policy.programs import programs_of
from ebpfaudit.process import Process, take_over

_WAITING_BYTES = 2 << 20
"""About 1,500 programs may wait to be identified."""
_MESSAGE_MAX = 1 << 17
_LOOK_EVERY_S = 1.0
"""How often the named files are looked at for changes."""
_TOLD_MAX = 4096
"""Paths whose errors were told once are kept until there are so many."""

_END_MS = 1000
_NICE = -10
"""Sooner than what it identifies, and at most for as long as it takes to read that: what was read is remembered."""

_DONE, _FAILED = 0, 1


class _Job(Struct, array_like=True):
    number: int
    pid: int
    start: int
    device: str
    inode: int
    exe: str
    operands: tuple[str, ...]


class _Answer(Struct, array_like=True):
    number: int
    identity: Identity


class Identifier:
    """Identifies what is submitted. `submit`, `take` and `lost` never wait; all of it ends with this process."""

    def __init__(self, same_as: frozenset[str], sha256: frozenset[str]) -> None:
        """`same_as`: paths of known files; `sha256`: hashes in hexadecimal."""
        self.inactive = inactive_text(same_as)
        self.inactive_here = inactive_text(same_as, absent=False)
        """Lines about the known files that recognise nothing here."""
        self._submitted = self._dropped = 0
        self._counts_map = mmap.mmap(-1, mmap.PAGESIZE)
        self._counts = memoryview(self._counts_map).cast("Q")
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(_Answer).decode
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for side in (self._channel, theirs):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WAITING_BYTES)
        self._pid = os.fork()
        if self._pid == 0:
            _serve(theirs, same_as, sha256, self._counts)
        theirs.close()
        self._process = os.pidfd_open(self._pid)
        self._channel.setblocking(False)

    @property
    def descriptor(self) -> int:
        """Becomes readable when `take` has something."""
        return self._channel.fileno()

    @property
    def unidentified(self) -> int:
        """Programs whose content was not learnt: unreadable (an event says so once for each path), or too many."""
        return self._dropped + int(self._counts[_FAILED])

    @property
    def waiting(self) -> int:
        return self._submitted - int(self._counts[_DONE])

    def submit(self, number: int, event: Exec) -> None:
        """Ask what an exec's program is. If too many wait it is counted, not asked."""
        if event.error:
            return
        process = Process(event.pid, event.start)
        take_over(process, event)
        operands = tuple(
            normpath(f"{event.cwd}/{path}") if not path.startswith("/") else path
            for path in programs_of(process)
            if path != event.exe and len(path) <= MAX_PATH
        )
        job = _Job(number, event.pid, event.start, event.dev, event.ino, event.exe, operands)
        try:
            self._channel.send(self._encode(job))
            self._submitted += 1
        except OSError:  # full, or somebody has killed the process
            self._dropped += 1

    def take(self) -> list[tuple[int, Identity]]:
        """What has been found out: (episode number, event)."""
        found = []
        with contextlib.suppress(OSError):
            while raw := self._channel.recv(_MESSAGE_MAX):
                answer = self._decode(raw)
                found.append((answer.number, answer.identity))
        return found

    def finish(self, timeout_s: float) -> list[tuple[int, Identity]]:
        """What is found out until nothing waits any more, or the time is up; the rest is counted as unidentified."""
        found = self.take()
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while self.waiting > 0 and time.monotonic() < deadline:
            if any(events & select.POLLHUP for _, events in poll.poll(2)):
                break
            found += self.take()
        found += self.take()
        self._dropped += max(self.waiting, 0)
        return found

    def close(self) -> None:
        """May be called twice."""
        if self._process >= 0:
            self._channel.close()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            ended = select.poll()
            ended.register(self._process, select.POLLIN)
            if ended.poll(_END_MS):  # else a file system holds it; it ends when that lets go
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(self._pid, 0)
            os.close(self._process)
            self._process = -1


def _serve(
    channel: socket.socket, same_as: frozenset[str], sha256: frozenset[str], counts: memoryview
) -> None:
    """The process's whole life: answer until nobody asks any more. Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
            signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        with contextlib.suppress(OSError):
            os.nice(_NICE)
        kept = channel.detach()
        os.closerange(3, kept)  # the probes are not ours to hold
        os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
        asked = socket.socket(fileno=kept)
        registry = Registry(same_as, sha256)
        decode, encode = msgspec.msgpack.Decoder(_Job).decode, msgspec.msgpack.Encoder().encode
        idle = select.poll()
        idle.register(asked, select.POLLIN)
        while True:
            while not idle.poll(0) and registry.read_ahead():
                pass
            if not (raw := asked.recv(_MESSAGE_MAX)):
                break
            job = decode(raw)
            for identity in registry.identify(job):
                asked.send(encode(_Answer(job.number, identity)))
            counts[_FAILED] = registry.failed
            counts[_DONE] += 1
    finally:
        os._exit(0)


class Registry:
    """Knows the content of files that a profile names, and tells what of an exec has the same."""

    def __init__(self, same_as: frozenset[str], sha256: frozenset[str]) -> None:
        self.failed = 0
        self._wanted = sha256
        self._findings = Findings()
        self._known = Known(same_as, self._findings)
        self._told: set[str] = set()
        self._next_look_s = 0.0

    def read_ahead(self) -> bool:
        """Use an idle moment. False if there is nothing to be done."""
        return self._known.read_one()

    def identify(self, job: _Job) -> list[Identity]:
        """An event for each file of the job that is known or wanted, or that cannot be read."""
        now_s = time.monotonic()
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + _LOOK_EVERY_S
            self._known.refresh()
        found = []
        for path in dict.fromkeys((job.exe, *job.operands)):
            same_as: tuple[str, ...] = ()
            sha256 = error = ""
            try:
                sha256 = self._hash(job, path)
                same_as = self._known.names(sha256) if sha256 else ()
            except Unreadable as reason:
                error = str(reason)
                self.failed += 1
            if same_as or sha256 in self._wanted or (error and self._is_news(path)):
                now_ns = time.monotonic_ns() // 1000 * 1000
                found.append(Identity(now_ns, job.pid, job.start, path, sha256, same_as, error))
        return found

    def _hash(self, job: _Job, path: str) -> str:
        """Of a file of the job; empty if it is nothing that the profile asks for, as its size alone may tell."""
        if path == job.exe:
            descriptor = open_executable(job.pid, path, job.device, job.inode)
        else:
            descriptor = open_operand(job.pid, job.start, path)
        try:
            status = os.fstat(descriptor)
            wanted = bool(self._wanted) and status.st_size <= MAX_BYTES
            if status.st_size not in self._known.sizes and not wanted:
                return ""
            sha256 = self._findings.recall(status)
            if sha256 is None:
                sha256 = self._known.recognise(descriptor, status.st_size)
                if sha256 is None or (not sha256 and wanted):
                    sha256 = hash_file(descriptor)
                self._findings.keep(status, sha256)
            return sha256
        finally:
            os.close(descriptor)

    def _is_news(self, path: str) -> bool:
        if path in self._told:
            return False
        if len(self._told) >= _TOLD_MAX:
            self._told.clear()
        self._told.add(path)
        return True
