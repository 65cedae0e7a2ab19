"""The compiled probes: instructions and map definitions, kept between runs so that only the first one compiles.

An image fits one kernel build, one set of sources and one set of tunables; its name is the hash of all three. It
is kept where only root can write, and the kernel's verifier judges it again at every load.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

import msgspec
from msgspec import Struct

from ebpfaudit import __version__
from ebpfaudit.kernel import bpf
from ebpfaudit.resources import folder

CACHE = Path("/var/cache/ebpfaudit")
SOURCES = ("common.bpf.h", "lineage.bpf.c", "exec.bpf.c", "connect.bpf.c", "socket.bpf.c", "gpu.bpf.c")
_KEPT = 8
"""Images kept: for a few kernels, and for `run` and `trace` on each."""

_INSTRUCTION_BYTES = 8
_LOAD_64, _MAP_FD = 0x18, 1  # BPF_LD | BPF_IMM | BPF_DW with src_reg BPF_PSEUDO_MAP_FD


class MapDefinition(Struct, frozen=True):
    name: str
    map_type: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int


class Image(Struct, frozen=True):
    maps: list[MapDefinition]
    programs: dict[str, bytes]
    """Instructions by C function. Where they name a map, they hold its position in `maps`."""
    lacks: tuple[str, ...] = ()
    """Fields that this kernel does not have, of those that a probe can do without (`btf.OPTIONAL_OFFSETS`)."""

    def create_maps(self) -> dict[str, int]:
        """Make the maps, with nothing in them. Returns their descriptors. Raises OSError."""
        made: dict[str, int] = {}
        try:
            for each in self.maps:
                made[each.name] = bpf.map_create(
                    each.map_type, each.key_bytes, each.value_bytes, each.entries, each.flags, each.name
                )
        except OSError:
            for descriptor in made.values():
                os.close(descriptor)
            raise
        return made

    def load(self, function: str, prog_type: int, attach_type: int, maps: dict[str, int]) -> int:
        """Load one program. Returns its descriptor. Raises OSError, with the verifier's last words as a note."""
        descriptors = [maps[each.name] for each in self.maps]
        code = replace_maps(self.programs[function], dict(enumerate(descriptors)))
        return bpf.prog_load(prog_type, code, attach_type, function)


def replace_maps(code: bytes, numbers: dict[int, int]) -> bytes:
    """The same instructions with other numbers for the maps that they name."""
    result = bytearray(code)
    for place in range(0, len(result), _INSTRUCTION_BYTES):
        if result[place] == _LOAD_64 and result[place + 1] >> 4 == _MAP_FD:
            old = int.from_bytes(result[place + 4 : place + 8], "little")
            result[place + 4 : place + 8] = numbers[old].to_bytes(4, "little")
    return bytes(result)


def image_name(tunables: list[str]) -> str | None:
    """Name of the image for these tunables on the running kernel; None if the kernel does not say which build it is."""
    try:
        build = Path("/sys/kernel/notes").read_bytes()  # holds the build ID of vmlinux
    except OSError:
        return None
    digest = hashlib.sha256(build)
    for part in (
        __version__,
        *tunables,
        *((folder("probes") / name).read_text() for name in ("events.h", *SOURCES)),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def load_image(name: str, cache: Path = CACHE) -> Image | None:
    """A kept image; None if there is none, or none that can be trusted."""
    path = cache / f"{name}.probes"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not (_is_ours(os.fstat(descriptor)) and _is_ours(os.stat(cache))):
            return None
        try:
            return msgspec.msgpack.decode(file.read(), type=Image)
        except msgspec.MsgspecError:
            return None


def keep_image(name: str, image: Image, cache: Path = CACHE) -> None:
    """Keep an image for the next time; it does not matter if that fails."""
    with contextlib.suppress(OSError):
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(os.stat(cache)):
            return
        draft = cache / f".{name}.{os.getpid()}"
        draft.touch(mode=0o600, exist_ok=False)
        draft.write_bytes(msgspec.msgpack.encode(image))
        draft.rename(cache / f"{name}.probes")
        kept = sorted(cache.glob("*.probes"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in kept[_KEPT:]:
            old.unlink(missing_ok=True)


def _is_ours(status: os.stat_result) -> bool:
    """Only we, or root, can have written it."""
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
