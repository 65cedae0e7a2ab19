"""The command table, ioctls.tsv: what a driver's command is called and which kind it is of."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from ebpfaudit.gpu import MATCHES
from ebpfaudit.gpu.drivers import Driver

TABLE = Path(__file__).with_name("ioctls.tsv")

_KIND_OF_CLASS = {
    "open/init": "enumerate",
    "query": "enumerate",
    "alloc-context": "channel",
    "alloc-memory": "alloc",
    "submit": "submit",
    "admin": "admin",
    "map": "other",
    "event": "other",
    "free": "other",
}

_CONTEXTS = frozenset(
    (
        # Registers a GPU with a process's address space: once per (process, GPU), before the first channel.
        "UVM_REGISTER_GPU_VASPACE",
        # User-mode queues: what follows them needs no ioctl.
        "AMDKFD_IOC_CREATE_QUEUE",
        "DRM_IOCTL_AMDGPU_USERQ",
        "DRM_IOCTL_XE_EXEC_QUEUE_CREATE",
        "DRM_IOCTL_AMDGPU_CTX",
        "DRM_IOCTL_I915_GEM_CONTEXT_CREATE/DRM_IOCTL_I915_GEM_CONTEXT_CREATE_EXT",
        "DRM_IOCTL_NOUVEAU_CHANNEL_ALLOC",
        "DRM_IOCTL_VIRTGPU_CONTEXT_INIT",
        "DRM_IOCTL_AMDXDNA_CREATE_HWCTX",
        "LX_DXCREATECONTEXT",
        "LX_DXCREATECONTEXTVIRTUAL",
        "LX_DXCREATEHWCONTEXT",
        "DEVMM_SVM_SETUP_DEVICE",
        "NEURON_IOCTL_CRWL_NC_RANGE_MARK",
    )
)
"""Commands that make what compute runs in; the other "alloc-context" rows make parts of it."""

_UNDECIDED = frozenset(("NV_ESC_RM_ALLOC", "NV_ESC_RM_ALLOC_OBJECT", "NV_ESC_IOCTL_XFER_CMD"))
"""What they are is inside their argument; where that cannot be read, or is not listed, they are "unknown"."""


class Command(NamedTuple):
    section: str
    match: str
    number: int
    name: str
    kind: str


def parse_table(text: str) -> list[Command]:
    """Rows of a table. Raises ValueError naming the line that is not one."""
    commands = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        try:
            section, _nodes, rule, name, class_ = line.split("\t")
            match, _, value = rule.partition(":")
            MATCHES.index(match)
            commands.append(Command(section, match, int(value, 16), name, _kind_of(name, match, class_)))
        except (ValueError, KeyError) as error:
            raise ValueError(f"line {number} of the command table: {error}") from error
    return commands


def _kind_of(name: str, match: str, class_: str) -> str:
    kind = _KIND_OF_CLASS[class_]
    if name in _UNDECIDED:
        return "unknown"
    if name in _CONTEXTS or (match == "hclass" and "_COMPUTE_" in name and kind == "channel"):
        return "context"
    return kind


@cache
def all_commands() -> tuple[Command, ...]:
    return tuple(parse_table(TABLE.read_text(encoding="utf-8")))


@cache
def commands_of(driver: Driver) -> dict[tuple[str, int], Command]:
    """A driver's commands by (match, number), those of the DRM core included where it is a DRM driver."""
    found: dict[tuple[str, int], Command] = {}
    for section in driver.sections:
        for command in all_commands():
            if command.section == section:
                found.setdefault((command.match, command.number), command)
    return found


def name_of(driver: Driver, match: str, number: int) -> str:
    """The command's name, or its number in hexadecimal: as it is for display."""
    command = commands_of(driver).get((match, number))
    if command is not None:
        return command.name
    what = {"hclass": "class ", "ctrl": "control "}.get(match, "")
    return f"{what}{number:#x}"
