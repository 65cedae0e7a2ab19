"""bpf(2) and perf_event_open(2), the few commands that the auditor itself needs.

bcc compiles and loads the probes in a child that then exits; what remains is a set of file descriptors
(see `loader`), and these calls work on them without bcc, its compiler, or their 60 MB of memory.
Layouts are those of `union bpf_attr` in include/uapi/linux/bpf.h. All functions raise OSError.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
from collections.abc import Iterator

_SYSCALLS = {  # arch -> (bpf, perf_event_open)
    "x86_64": (321, 298),
    "aarch64": (280, 241),
}
_ATTR_SIZE = 128

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY, PROG_LOAD = range(6)
MAP_GET_FD_BY_ID, OBJ_GET_INFO = 14, 15
RAW_TRACEPOINT_OPEN = 17
MAP_FREEZE = 22
LINK_CREATE = 28

PROG_TRACEPOINT, PROG_CGROUP_DEVICE, PROG_RAW_TRACEPOINT, PROG_CGROUP_SOCK_ADDR = 5, 15, 17, 18
PROG_CGROUP_SOCK, PROG_CGROUP_SOCKOPT = 9, 25
PROG_TRACING, PROG_LSM = 26, 29
ATTACH_SOCK_CREATE, ATTACH_SETSOCKOPT = 2, 22
ATTACH_DEVICE, ATTACH_CONNECT4, ATTACH_CONNECT6, ATTACH_SENDMSG4, ATTACH_SENDMSG6 = 6, 10, 11, 14, 15
ATTACH_CONNECT_UNIX, ATTACH_SENDMSG_UNIX = 49, 50
ATTACH_PERF_EVENT = 41
MAP_RINGBUF = 27

_libc = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: object) -> int:
    """syscall(2) with ctypes arguments. Raises OSError."""
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _numbers() -> tuple[int, int]:
    machine = platform.machine()
    if machine not in _SYSCALLS:
        raise OSError(38, f"ebpfaudit does not know the system call numbers of {machine}")
    return _SYSCALLS[machine]


def bpf(command: int, attr: bytes) -> int:
    """One bpf(2) call; `attr` is padded with zeros to a whole `union bpf_attr`."""
    buffer = ctypes.create_string_buffer(attr, _ATTR_SIZE)
    return syscall(_numbers()[0], ctypes.c_int(command), buffer, ctypes.c_uint(_ATTR_SIZE))


def prog_load(prog_type: int, insns: bytes, attach_type: int = 0, name: str = "") -> int:
    """Load raw instructions (8 bytes each). Returns a program fd.

    An OSError of the verifier has its last words as notes.
    """
    code, license_ = ctypes.create_string_buffer(insns, len(insns)), ctypes.create_string_buffer(b"GPL")

    def load(log_level: int, log_bytes: int, log: int) -> int:
        return bpf(PROG_LOAD, struct.pack(
            "=IIQQIIQII16sII", prog_type, len(insns) // 8, ctypes.addressof(code), ctypes.addressof(license_),
            log_level, log_bytes, log, 0, 0, name.encode()[:15], 0, attach_type,
        ))  # fmt: skip

    try:
        return load(0, 0, 0)
    except OSError as error:
        log = ctypes.create_string_buffer(1 << 16)
        try:
            return load(1, len(log), ctypes.addressof(log))
        except OSError:
            for line in log.value.decode("utf-8", "replace").splitlines()[-6:]:
                error.add_note(line)
        raise


def map_create(
    map_type: int, key_size: int, value_size: int, max_entries: int, flags: int = 0, name: str = ""
) -> int:
    """Returns a map fd."""
    short = name.encode()[:15]
    return bpf(
        MAP_CREATE,
        struct.pack("=IIIIIII16s", map_type, key_size, value_size, max_entries, flags, 0, 0, short),
    )


def map_fd_by_id(map_id: int) -> int:
    """A descriptor of a map of any process (CAP_SYS_ADMIN)."""
    return bpf(MAP_GET_FD_BY_ID, struct.pack("=I", map_id))


def map_id(fd: int) -> int:
    """The kernel's number for a map, by which another process can open it."""
    info = ctypes.create_string_buffer(80)
    bpf(OBJ_GET_INFO, struct.pack("=IIQ", fd, 80, ctypes.addressof(info)))
    number: int = struct.unpack_from("=II", info.raw)[1]
    return number


def attach_raw_tracepoint(prog_fd: int, name: str) -> int:
    """Returns a link fd: the program is detached when the last copy of it is closed."""
    text = ctypes.create_string_buffer(name.encode())
    return bpf(RAW_TRACEPOINT_OPEN, struct.pack("=QI", ctypes.addressof(text), prog_fd))


def attach_cgroup(prog_fd: int, cgroup_fd: int, attach_type: int) -> int:
    """Attach beside other programs, by a link (Linux 5.7): it cannot outlive this process."""
    return bpf(LINK_CREATE, struct.pack("=IIII", prog_fd, cgroup_fd, attach_type, 0))


def attach_tracepoint(prog_fd: int, tracepoint_id: int) -> tuple[int, ...]:
    """Attach to a tracefs tracepoint through a perf event. Returns the fds that keep it attached."""
    perf_attr = ctypes.create_string_buffer(struct.pack("=IIQ", 2, 128, tracepoint_id), 128)
    close_on_exec = 8
    event = syscall(
        _numbers()[1],
        perf_attr,
        ctypes.c_int(-1),
        ctypes.c_int(0),
        ctypes.c_int(-1),
        ctypes.c_ulong(close_on_exec),
    )
    set_bpf, enable = 0x40042408, 0x2400  # include/uapi/linux/perf_event.h
    try:
        for request, argument in ((set_bpf, prog_fd), (enable, 0)):
            if _libc.ioctl(event, ctypes.c_ulong(request), ctypes.c_int(argument)) < 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))
    except OSError:
        os.close(event)
        raise
    return (event,)


class Map:
    """A BPF map by its descriptor: keys and values are bytes of the fixed sizes given."""

    def __init__(self, fd: int, key_size: int, value_size: int) -> None:
        self.fd = fd
        self.key_size = key_size
        self.value_size = value_size
        self._key = ctypes.create_string_buffer(key_size)
        self._value = ctypes.create_string_buffer(value_size)

    def _call(self, command: int, value_address: int, flags: int = 0) -> None:
        bpf(command, struct.pack("=IIQQQ", self.fd, 0, ctypes.addressof(self._key), value_address, flags))

    def __setitem__(self, key: bytes, value: bytes) -> None:
        if len(key) != self.key_size or len(value) != self.value_size:
            raise ValueError(
                f"map wants {self.key_size}+{self.value_size} bytes, got {len(key)}+{len(value)}"
            )
        self._key.raw, self._value.raw = key, value
        self._call(MAP_UPDATE, ctypes.addressof(self._value))

    def get(self, key: bytes) -> bytes | None:
        self._key.raw = key
        try:
            self._call(MAP_LOOKUP, ctypes.addressof(self._value))
        except FileNotFoundError:
            return None
        return self._value.raw

    def discard(self, key: bytes) -> None:
        self._key.raw = key
        with contextlib.suppress(FileNotFoundError):
            self._call(MAP_DELETE, 0)

    def freeze(self) -> None:
        """No process, however privileged, can change the map from user space any more (Linux 5.2)."""
        bpf(MAP_FREEZE, struct.pack("=I", self.fd))

    def keys(self) -> Iterator[bytes]:
        """The keys, which may change meanwhile: one that vanishes can make the walk start again."""
        following = ctypes.create_string_buffer(self.key_size)
        current: bytes | None = None
        while True:
            address = 0
            if current is not None:
                self._key.raw = current
                address = ctypes.addressof(self._key)
            try:
                bpf(MAP_NEXT_KEY, struct.pack("=IIQQ", self.fd, 0, address, ctypes.addressof(following)))
            except FileNotFoundError:
                return
            current = following.raw
            yield current
