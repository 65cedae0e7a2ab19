"""Offsets from type information: a small hand-made BTF, and the running kernel's own."""

from __future__ import annotations

import struct

import pytest

from ebpfaudit.errors import KernelError
from ebpfaudit.kernel.btf import OFFSETS, OPTIONAL_OFFSETS, VMLINUX, Btf, offset_flags


def make_btf(path):
    """struct outer { int a; union { struct inner in; long l; }; alias_of_inner last; }; struct inner {char c; int d;}"""
    names = b"\0int\0inner\0c\0d\0outer\0a\0in\0last\0alias\0"

    def name(text):
        return names.index(b"\0" + text + b"\0") + 1

    types = struct.pack("=IIII", name(b"int"), 1 << 24, 4, 32)  # 1
    types += struct.pack("=III", name(b"inner"), (4 << 24) | 2, 8)  # 2
    types += struct.pack("=III", name(b"c"), 1, 0) + struct.pack("=III", name(b"d"), 1, 32)
    types += struct.pack("=III", 0, (5 << 24) | 1, 8) + struct.pack("=III", name(b"in"), 2, 0)  # 3
    types += struct.pack("=III", name(b"alias"), 8 << 24, 2)  # 4
    types += struct.pack("=III", name(b"outer"), (4 << 24) | 3, 24)  # 5
    types += struct.pack("=III", name(b"a"), 1, 0) + struct.pack("=III", 0, 3, 64)
    types += struct.pack("=III", name(b"last"), 4, 128)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names))
    path.write_bytes(header + types + names)


def test_nested_anonymous_and_aliased_members(tmp_path):
    make_btf(tmp_path / "btf")
    btf = Btf(tmp_path / "btf")
    assert btf.offset("outer.a") == 0
    assert btf.offset("outer.in") == 8
    assert btf.offset("outer.in.d") == 12
    assert btf.offset("outer.last.d") == 20
    for unknown in ("outer.zzz", "nobody.a"):
        with pytest.raises(KeyError):
            btf.offset(unknown)


def test_no_type_information_is_a_clear_error(tmp_path):
    with pytest.raises(KernelError, match="CONFIG_DEBUG_INFO_BTF"):
        Btf(tmp_path / "absent")
    (tmp_path / "junk").write_bytes(b"x" * 100)
    with pytest.raises(KernelError, match="not BTF"):
        Btf(tmp_path / "junk")


@pytest.mark.skipif(not VMLINUX.exists(), reason=f"this kernel has no {VMLINUX}")
def test_the_running_kernel_has_every_field():
    flags, lacks = offset_flags(Btf())
    assert len(flags) + len(lacks) == len(OFFSETS) + len(OPTIONAL_OFFSETS)
    assert not set(lacks) & set(OFFSETS)
    assert any(flag.startswith("-DOFF_task_struct_tgid=") for flag in flags)
