"""Field offsets of the running kernel, from /sys/kernel/btf/vmlinux: what spares us kernel headers.

Format: Documentation/bpf/btf.rst. Only what is needed to walk struct members is read.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

from ebpfaudit.errors import KernelError

VMLINUX = Path("/sys/kernel/btf/vmlinux")

OFFSETS = (
    "task_struct.tgid", "task_struct.group_leader", "task_struct.start_boottime", "task_struct.real_parent",
    "task_struct.mm", "task_struct.fs", "task_struct.files", "task_struct.signal", "task_struct.exit_code",
    "task_struct.cgroups", "signal_struct.live", "signal_struct.flags", "signal_struct.group_exit_code",
    "css_set.dfl_cgrp", "cgroup.kn", "cgroup.root", "cgroup.self.parent", "cgroup_root.hierarchy_id",
    "kernfs_node.id", "mm_struct.arg_start", "mm_struct.arg_end", "mm_struct.exe_file",
    "file.f_inode", "file.f_path.mnt", "file.f_path.dentry", "inode.i_ino", "inode.i_sb", "inode.i_rdev",
    "inode.i_mode", "inode.__i_nlink", "super_block.s_dev", "dentry.d_parent", "dentry.d_name.name", "vfsmount.mnt_root",
    "mount.mnt", "mount.mnt_parent", "mount.mnt_mountpoint", "fs_struct.pwd.mnt", "fs_struct.pwd.dentry",
    "linux_binprm.filename", "linux_binprm.interp", "files_struct.fdt", "fdtable.max_fds", "fdtable.fd",
    "files_struct.fdtab", "files_struct.fd_array",
    "sock.sk_err", "sock.sk_protocol", "sock_common.skc_family", "sock_common.skc_daddr", "sock_common.skc_dport",
    "sock_common.skc_v6_daddr",
)  # fmt: skip
"""Every offset that a probe uses, as OFF_ and the path with underscores for dots."""

OPTIONAL_OFFSETS = (
    "bpf_sock_addr_kern.uaddr", "bpf_sock_addr_kern.uaddrlen", "file.private_data", "socket.sk", "unix_sock.peer",
    "unix_sock.addr", "unix_address.len", "unix_address.name",
)  # fmt: skip
"""Offsets that older kernels lack; a probe tests for the macro."""

_STRUCT, _UNION = 4, 5
_ALIASES = frozenset((8, 9, 10, 11, 18))  # typedef, volatile, const, restrict, type tag
# Bytes that follow the 12-byte head of a type, fixed and per element (vlen), by kind.
_TAILS = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12),
          17: (4, 0), 19: (0, 12)}  # fmt: skip


class Btf:
    """Type information of one kernel.

    Raises KernelError if it is absent (a kernel built without CONFIG_DEBUG_INFO_BTF) or not BTF.
    """

    def __init__(self, path: Path = VMLINUX) -> None:
        try:
            self._raw = path.read_bytes()
            magic, _version, _flags, header, types, types_size, strings, strings_size = struct.unpack_from(
                "=HBBIIIII", self._raw
            )
        except (OSError, struct.error) as error:
            raise KernelError(
                f"cannot read the kernel's type information at {path}: {error}. A kernel with "
                "CONFIG_DEBUG_INFO_BTF (every distribution kernel since 5.8) is needed: see 'ebpfaudit doctor'."
            ) from error
        if magic != 0xEB9F:
            raise KernelError(f"{path} is not BTF type information (magic {magic:#x})")
        self._strings = header + strings
        self._strings_end = self._strings + strings_size
        self._starts = self._index(header + types, header + types + types_size)

    def _index(self, position: int, end: int) -> array[int]:
        """File position of every type, by its number."""
        starts = array("I", [0])
        append = starts.append
        words = memoryview(self._raw[: len(self._raw) & ~3]).cast("I")
        sizes = [(12 + _TAILS.get(kind, (0, 0))[0], _TAILS.get(kind, (0, 0))[1]) for kind in range(32)]
        while position < end:
            append(position)
            info = words[(position >> 2) + 1]
            fixed, each = sizes[(info >> 24) & 31]
            position += fixed + each * (info & 0xFFFF) if each else fixed
        return starts

    def _name(self, offset: int) -> bytes:
        start = self._strings + offset
        return self._raw[start : self._raw.index(b"\0", start)]

    def _resolve(self, number: int) -> int:
        """Number of the type behind typedefs and qualifiers."""
        while True:
            info, target = struct.unpack_from("=II", self._raw, self._starts[number] + 4)
            if (info >> 24) & 31 not in _ALIASES:
                return number
            number = target

    def _find_struct(self, name: str) -> int:
        wanted = self._raw.find(b"\0" + name.encode() + b"\0", self._strings, self._strings_end)
        if wanted < 0:
            raise KeyError(name)
        needle = struct.pack("=I", wanted + 1 - self._strings)
        position = self._starts[1]
        from bisect import bisect_left

        while (position := self._raw.find(needle, position, self._strings)) >= 0:
            number = bisect_left(self._starts, position)
            if number < len(self._starts) and self._starts[number] == position:
                info = struct.unpack_from("=I", self._raw, position + 4)[0]
                if (info >> 24) & 31 in (_STRUCT, _UNION):
                    return number
            position += 1
        raise KeyError(name)

    def _members(self, number: int) -> Iterator[tuple[bytes, int, int]]:
        position = self._starts[number]
        info = struct.unpack_from("=I", self._raw, position + 4)[0]
        bit_fields = info >> 31
        for index in range(info & 0xFFFF):
            name, kind, bits = struct.unpack_from("=III", self._raw, position + 12 + 12 * index)
            yield self._name(name), kind, (bits & 0xFFFFFF if bit_fields else bits) // 8

    def _find_member(self, number: int, name: bytes) -> tuple[int, int] | None:
        for member, kind, offset in self._members(number):
            if member == name:
                return kind, offset
            if not member:
                inner = self._find_member(self._resolve(kind), name)
                if inner is not None:
                    return inner[0], inner[1] + offset
        return None

    def offset(self, path: str) -> int:
        """Byte offset of "struct.member.member"; anonymous members are looked through. Raises KeyError."""
        first, *rest = path.split(".")
        number, total = self._find_struct(first), 0
        for name in rest:
            found = self._find_member(self._resolve(number), name.encode())
            if found is None:
                raise KeyError(path)
            number, total = found[0], total + found[1]
        return total


def offset_flags(btf: Btf) -> tuple[list[str], tuple[str, ...]]:
    """Compiler flags that tell the probes where the running kernel keeps each field, and the optional ones it lacks.

    Raises KernelError naming the fields that this kernel does not have.
    """
    flags, lacks = [], []
    for path in (*OFFSETS, *OPTIONAL_OFFSETS):
        try:
            flags.append(f"-DOFF_{path.replace('.', '_')}={btf.offset(path)}")
        except KeyError:
            lacks.append(path)
    missing = [path for path in lacks if path in OFFSETS]
    if missing:
        raise KernelError(
            f"this kernel has no field {', '.join(missing)}, which a probe reads. Please report it with the "
            "output of 'ebpfaudit doctor --json'."
        )
    return flags, tuple(lacks)
