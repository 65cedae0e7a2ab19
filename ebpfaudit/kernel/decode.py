"""Records to events. Distrusts its input: a record that makes no sense is counted, never a crash.

In the ring buffer a record is an 8-byte head (u32 length with two flags, u32 page offset: kernel/bpf/ringbuf.c) and
the record of probes/events.h, rounded up to 8 bytes.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Literal

from ebpfaudit.events import CgroupMove, Connect, Decision, Event, Exec, Exit, Fork
from ebpfaudit.kernel import layout
from ebpfaudit.process import TICK_NS
from ebpfaudit.text import show

_BUSY, _DISCARDED = 1 << 31, 1 << 30
_LENGTH = _DISCARDED - 1
_CACHE_MAX = 65536
_IPV4_MAPPED = b"\0" * 10 + b"\xff\xff"
_PROTOCOLS = {
    1: "icmp", 6: "tcp", 17: "udp", 43: "routing-header", 58: "icmp6", 132: "sctp", 136: "udplite",
    254: "bound-device", 255: "raw",
}  # fmt: skip
"""By IPPROTO number; the last two are names of our own (probes/socket.bpf.c)."""
_UNIX_TYPES = {0: "unix", 1: "stream", 2: "dgram", 5: "seqpacket"}
_RESULTS = {
    0: "ok",
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timeout",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECANCELED: "aborted",
    errno.EPERM: "denied",
    errno.EACCES: "denied",
}

_fork = layout.FORK_RECORD.layout.unpack_from
_exec = layout.EXEC_RECORD.layout
_failed = layout.EXEC_FAILED_RECORD.layout
_exit = layout.EXIT_RECORD.layout.unpack_from
_connect = layout.CONNECT_RECORD.layout.unpack_from
_connect_size = layout.CONNECT_RECORD.layout.size
# A whole ring buffer entry: head, page offset, kind, episode, time, and all that is the same when a process
# does the same again, which is looked up in one piece.
_connect_run = struct.Struct(f"=IIIIQ{_connect_size - 16}s")
# What follows the time in a connect record.
_connect_rest = struct.Struct("=" + layout.CONNECT_RECORD.layout.format.removeprefix("=IIQ"))
_unix = layout.CONNECT_UNIX_RECORD.layout.unpack_from
_move = layout.CGROUP_MOVE_RECORD.layout.unpack_from

Family = Literal["ipv4", "ipv6", "unix"]
Attempt = tuple[int, int, int, str, Family, str, str, int, str, Decision]
"""A connect but for its time: thread, pid, start, comm, family, protocol, dst, port, result, decision."""

Batch = dict[int, list[Event]]
"""Events in order, by episode number (0: untagged)."""
Decode = Callable[[memoryview, int], "tuple[int, Event] | None"]
"""Reads the record at an offset; None if it is no event by itself."""


class Decoder:
    """Turns records into events. Remembers what a failed connect was aimed at, and nothing else."""

    def __init__(self) -> None:
        self.damaged = 0
        """Records that could not be read, so far."""
        self.silent: dict[int, int] = {}
        """By episode, records so far that gave no event."""
        self._comms: dict[bytes, str] = {}
        self._addresses: dict[bytes, tuple[Family, str]] = {}
        self._attempts: dict[bytes, Attempt] = {}
        self._threads: dict[int, Attempt] = {}
        """By thread, its last attempt: what a failure that names no address was about."""
        self._by_kind: dict[int, Decode] = {
            layout.FORK: self._decode_fork,
            layout.EXEC: self._decode_exec,
            layout.EXEC_FAILED: self._decode_exec_failed,
            layout.EXIT: self._decode_exit,
            layout.CONNECT_DONE: self._decode_connect_done,
            layout.CONNECT_UNIX: self._decode_connect_unix,
            layout.CGROUP_MOVE: self._decode_cgroup_move,
        }

    def register(self, kind: int, decode: Decode) -> None:
        """Let another module read the records of one kind (see `gpu`)."""
        self._by_kind[kind] = decode

    def decode(self, data: memoryview, words: memoryview, begin: int, end: int) -> tuple[Batch, int]:
        """Read the finished records between two offsets of a ring buffer's `data`, of which `words` is a view.

        Returns the events, and how many bytes were read: it stops at a record that is still being written, or
        that `end` cuts. Records that gave no event are counted in `silent`, by episode.
        """
        batch: Batch = {}
        by_kind = self._by_kind
        position = begin
        while position < end:
            index = position >> 2
            head = words[index]
            if head & _BUSY:
                break
            length = head & _LENGTH
            following = position + ((length + 15) & ~7)
            if following > end:
                break
            kind = words[index + 2]
            if kind == layout.CONNECT and head == _connect_size:
                position = self._decode_connect_run(data, position, end, batch)
                continue
            position = following
            if head & _DISCARDED:
                continue
            try:
                decoded = by_kind[kind](data, following - ((length + 7) & ~7))
            except (KeyError, ValueError, IndexError, struct.error):
                self.damaged += 1
                decoded = None
            if decoded is None:
                number = words[index + 3]
                self.silent[number] = self.silent.get(number, 0) + 1
                continue
            number, event = decoded
            if number in batch:
                batch[number].append(event)
            else:
                batch[number] = [event]
        return batch, position - begin

    def _decode_connect_run(self, data: memoryview, begin: int, end: int, batch: Batch) -> int:
        """Read connect attempts, by far the most frequent record, for as long as they follow one another.

        Returns the offset of the first record that is not one.
        """
        size = _connect_run.size
        known, threads = self._attempts, self._threads
        position = begin
        number = -1
        append = None
        for head, _, kind, episode, ts_ns, rest in _connect_run.iter_unpack(
            data[begin : begin + (end - begin) // size * size]
        ):
            if head != _connect_size or kind != layout.CONNECT:
                break
            position += size
            attempt = known.get(rest)
            if attempt is None:
                try:
                    attempt = self._learn_attempt(rest)
                except (ValueError, IndexError):
                    self.damaged += 1
                    self.silent[episode] = self.silent.get(episode, 0) + 1
                    continue
            thread, pid, start, comm, family, protocol, dst, port, result, decision = attempt
            threads[thread] = attempt
            if episode != number or append is None:
                number = episode
                append = batch.setdefault(episode, []).append
            append(Connect(ts_ns, pid, start, comm, family, protocol, dst, port, "attempt", result, decision))
        if len(threads) > _CACHE_MAX:
            threads.clear()
        return position

    def _learn_attempt(self, rest: bytes) -> Attempt:
        """Read what a connect record holds besides its time."""
        start_ns, pid, _, comm, address, port, _, protocol, decision, _, thread = _connect_rest.unpack(rest)
        family, dst = self._address(address)
        if len(self._attempts) >= _CACHE_MAX:
            self._attempts.clear()
        attempt = self._attempts[rest] = (
            thread, pid, start_ns // TICK_NS, self._comm(comm), family, _PROTOCOLS.get(protocol) or str(protocol),
            dst, port, "denied" if decision > 1 else "", layout.DECISIONS[decision],
        )  # fmt: skip
        return attempt

    def _comm(self, raw: bytes) -> str:
        comm = self._comms.get(raw)
        if comm is None:
            if len(self._comms) >= _CACHE_MAX:
                self._comms.clear()
            comm = self._comms[raw] = show(raw.partition(b"\0")[0])
        return comm

    def _address(self, raw: bytes) -> tuple[Family, str]:
        """(family, text) of a 16-byte address."""
        if raw not in self._addresses:
            if len(self._addresses) >= _CACHE_MAX:
                self._addresses.clear()
            if raw.startswith(_IPV4_MAPPED):
                self._addresses[raw] = ("ipv4", socket.inet_ntop(socket.AF_INET, raw[12:]))
            else:
                self._addresses[raw] = ("ipv6", socket.inet_ntop(socket.AF_INET6, raw))
        return self._addresses[raw]

    def _decode_fork(self, data: memoryview, offset: int) -> tuple[int, Event]:
        _, number, ts_ns, start_ns, pid, _, _, child_start_ns, child = _fork(data, offset)
        return number, Fork(ts_ns, pid, start_ns // TICK_NS, child, child_start_ns // TICK_NS)

    def _decode_exit(self, data: memoryview, offset: int) -> tuple[int, Event]:
        _, number, ts_ns, start_ns, pid, _, _, status = _exit(data, offset)
        return number, Exit(ts_ns, pid, start_ns // TICK_NS, (status >> 8) & 0xFF, status & 0x7F)

    def _decode_connect_done(self, data: memoryview, offset: int) -> tuple[int, Event] | None:
        _, number, ts_ns, start_ns, pid, _, comm, address, port, family_number, protocol, _, error, thread = (
            _connect(data, offset)
        )
        if family_number:
            self._threads.pop(thread, None)  # answered: a failure of the call itself says nothing new
            family, dst = self._address(address)
            name = _PROTOCOLS.get(protocol) or str(protocol)
        else:
            aim = self._threads.pop(thread, None)
            if aim is None or aim[8]:
                return None  # answered already, or denied by ourselves, as the attempt said
            _, _, _, _, family, name, dst, port, _, _ = aim
        result = _RESULTS.get(error) or errno.errorcode.get(error, str(error))
        return number, Connect(
            ts_ns, pid, start_ns // TICK_NS, self._comm(comm), family, name, dst, port, "done", result
        )

    def _decode_connect_unix(self, data: memoryview, offset: int) -> tuple[int, Event]:
        _, number, ts_ns, start_ns, pid, _, comm, kind, decision, path_bytes, thread, path = _unix(
            data, offset
        )
        path = path[:path_bytes]
        dst = "@" + show(path[1:]) if path[:1] == b"\0" else show(path.partition(b"\0")[0])
        if path[:1] == b"@":  # a file of that name, not the abstract socket that is written so
            dst = "\\x40" + dst[1:]
        name = _UNIX_TYPES.get(kind) or str(kind)
        attempt = self._threads[thread] = (
            thread, pid, start_ns // TICK_NS, self._comm(comm), "unix", name, dst, 0,
            "denied" if decision > 1 else "", layout.DECISIONS[decision],
        )  # fmt: skip
        return number, Connect(ts_ns, *attempt[1:8], "attempt", *attempt[8:])

    def _decode_cgroup_move(self, data: memoryview, offset: int) -> tuple[int, Event]:
        _, number, ts_ns, start_ns, pid, _, _, _, by_pid, inside, _adopted, path_bytes, path = _move(
            data, offset
        )
        name = show(path[: max(0, path_bytes - 1)])
        return number, CgroupMove(ts_ns, pid, start_ns // TICK_NS, name, bool(inside), by_pid)

    def _decode_exec_failed(self, data: memoryview, offset: int) -> tuple[int, Event]:
        _, number, ts_ns, start_ns, pid, uid, comm, error, name_bytes = _failed.unpack_from(data, offset)
        begin = offset + _failed.size
        asked = show(bytes(data[begin : begin + max(0, name_bytes - 1)]))
        return number, Exec(
            ts_ns, pid, start_ns // TICK_NS, 0, asked, (), "", self._comm(comm), uid,
            error=errno.errorcode.get(error, str(error)),
        )  # fmt: skip

    def _decode_exec(self, data: memoryview, offset: int) -> tuple[int, Event]:
        (_, number, ts_ns, start_ns, pid, uid, comm, inode, device, parent, flags, decision, exe_bytes, cwd_bytes,
         filename_bytes, argv_bytes, argv_total, peer, peer_port, peer_family) = _exec.unpack_from(data, offset)  # fmt: skip
        begin = offset + _exec.size
        exe_raw, begin = bytes(data[begin : begin + exe_bytes]), begin + exe_bytes
        cwd_raw, begin = bytes(data[begin : begin + cwd_bytes]), begin + cwd_bytes
        filename_raw, begin = bytes(data[begin : begin + filename_bytes]), begin + filename_bytes
        argv_raw = bytes(data[begin : begin + argv_bytes])
        if len(argv_raw) != argv_bytes:
            raise ValueError("record is shorter than it says")
        exe = _path(exe_raw, flags & layout.EXEC_EXE_TRUNCATED)
        memfd = bool(flags & layout.EXEC_DETACHED) and exe.startswith("/memfd:")
        filename = show(filename_raw[:-1])
        truncated = argv_bytes < argv_total
        return number, Exec(
            ts_ns, pid, start_ns // TICK_NS, parent, exe[1:] if memfd else exe, _argv(argv_raw),
            _path(cwd_raw, flags & layout.EXEC_CWD_TRUNCATED), self._comm(comm), uid,
            f"{device >> 20}:{device & 0xFFFFF}", inode, "" if filename == exe else filename,
            bool(flags & layout.EXEC_SCRIPT), memfd, bool(flags & layout.EXEC_DELETED),
            argv_total if truncated else 0, truncated, "", layout.DECISIONS[decision],
            self._address(peer)[1] if peer_family else "", peer_port,
        )  # fmt: skip


def _path(components: bytes, truncated: int) -> str:
    """A path from its components, leaf first, each ended by a zero. "…/" begins one that was cut."""
    if components.endswith(b"/\0"):  # a file system that names its root: the walk's last step
        components = components[:-2]
    names = components[:-1].split(b"\0") if components else []
    names.reverse()
    return ("…/" if truncated else "/") + show(b"/".join(names))


def _argv(block: bytes) -> tuple[str, ...]:
    if not block:
        return ()
    if block.endswith(b"\0"):
        block = block[:-1]
    if block.isascii():
        text = block.decode("ascii")
        if "\\" not in text and text.replace("\0", "").isprintable():
            return tuple(text.split("\0"))
    return tuple(show(argument) for argument in block.split(b"\0"))
