"""Which program goes on which hook, as data. A better plan (BPF LSM, fentry) is another table, not another branch.

Each hook says which promise it serves and what is open without it, for the coverage statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from ebpfaudit.kernel import bpf

Kind = Literal["raw_tracepoint", "tracepoint", "cgroup"]

_PROGRAM_TYPES: dict[Kind, int] = {
    "raw_tracepoint": bpf.PROG_RAW_TRACEPOINT,
    "tracepoint": bpf.PROG_TRACEPOINT,
    "cgroup": bpf.PROG_CGROUP_SOCK_ADDR,
}


class Hook(Struct, frozen=True):
    function: str
    """C function in probes/; one may serve several hooks."""
    kind: Kind
    target: str
    """Tracepoint ("name", or "category:name"), or the cgroup hook's name."""
    promise: str
    attach_type: int = -1
    """enum bpf_attach_type, for cgroup programs."""
    program_type: int = 0
    """Overrides what `kind` implies."""
    required: bool = True
    without: str = ""
    """What remains open where an optional hook cannot attach."""

    @property
    def prog_type(self) -> int:
        return self.program_type or _PROGRAM_TYPES[self.kind]


EVERYWHERE = (
    Hook("on_fork", "raw_tracepoint", "sched_process_fork", "lineage"),
    Hook("on_exit", "raw_tracepoint", "sched_process_exit", "lineage"),
    Hook("on_cgroup_move", "raw_tracepoint", "cgroup_attach_task", "lineage"),
    Hook("on_exec", "raw_tracepoint", "sched_process_exec", "see and deny exec"),
    Hook(
        "on_execve_exit", "tracepoint", "syscalls:sys_exit_execve", "failed exec",
        required=False, without="failed execs are not seen (bpf_task_pt_regs needs Linux 5.15)",
    ),
    Hook(
        "on_execveat_exit", "tracepoint", "syscalls:sys_exit_execveat", "failed exec",
        required=False, without="failed execs by descriptor are not seen",
    ),
    Hook("on_destination4", "cgroup", "connect4", "see and deny connect", bpf.ATTACH_CONNECT4),
    Hook("on_destination6", "cgroup", "connect6", "see and deny connect", bpf.ATTACH_CONNECT6),
    Hook("on_destination4", "cgroup", "sendmsg4", "see and deny connect", bpf.ATTACH_SENDMSG4),
    Hook("on_destination6", "cgroup", "sendmsg6", "see and deny connect", bpf.ATTACH_SENDMSG6),
    Hook(
        "on_destination_unix", "cgroup", "connect_unix", "see and deny Unix sockets", bpf.ATTACH_CONNECT_UNIX,
        required=False, without="Unix sockets are only watched, at the system call: not refused, and not seen "
        "from io_uring (the cgroup hook needs Linux 6.7)",
    ),
    Hook(
        "on_destination_unix", "cgroup", "sendmsg_unix", "see and deny Unix sockets", bpf.ATTACH_SENDMSG_UNIX,
        required=False, without="datagrams sent to a Unix socket without connect are not seen",
    ),
    Hook(
        "on_connect_enter", "tracepoint", "syscalls:sys_enter_connect", "see Unix sockets",
        required=False, without="Unix sockets are not seen",
    ),
    Hook(
        "on_socket", "cgroup", "sock_create", "deny unjudged protocols", bpf.ATTACH_SOCK_CREATE,
        program_type=bpf.PROG_CGROUP_SOCK,
        required=False, without="UDP-Lite, SCTP, DCCP and raw sockets leave unseen",
    ),
    Hook(
        "on_socket_option", "cgroup", "setsockopt", "deny detours", bpf.ATTACH_SETSOCKOPT,
        program_type=bpf.PROG_CGROUP_SOCKOPT,
        required=False, without="an IPv6 routing header sends packets elsewhere than to the judged address",
    ),
    Hook("on_tcp_state", "raw_tracepoint", "inet_sock_set_state", "result of a connect"),
    Hook(
        "on_connect_exit", "tracepoint", "syscalls:sys_exit_connect", "result of a connect",
        required=False, without="a connect that fails before anything is sent has no result",
    ),
    Hook(
        "on_ioctl_exit", "tracepoint", "syscalls:sys_exit_ioctl", "see GPU ioctls",
        required=False, without="GPU driver calls are not seen",
    ),
    Hook(
        "on_device_open", "cgroup", "device", "deny GPU", bpf.ATTACH_DEVICE,
        program_type=bpf.PROG_CGROUP_DEVICE,
        required=False, without="opening a GPU is neither seen nor refused before its first driver call",
    ),
)  # fmt: skip
"""Cgroup hooks and raw tracepoints: all that a locked-down kernel grants, and enough on any since 5.8."""

# on_destination_unix is compiled where the kernel's BTF shows struct bpf_sock_addr_kern.uaddrlen; otherwise
# on_connect_enter is. A hook whose function was not compiled is passed over.

STDIO_FIELDS = frozenset(("file.private_data", "socket.sk"))
"""Kernel fields by which the exec probe finds a socket among a program's standard descriptors."""


def lacking_gaps(lacks: Sequence[str]) -> list[str]:
    """What remains open because the kernel does not show these fields."""
    if STDIO_FIELDS.isdisjoint(lacks):
        return []
    return [
        "a socket on a program's stdin, stdout or stderr is not seen (the kernel's type information lacks it)"
    ]
