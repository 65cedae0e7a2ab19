"""What is covered on this kernel, by which hook, and which tricks therefore remain open.

Said in the start line of a run, by `doctor`, and in a trail's header: never silently less.
"""

from __future__ import annotations

from msgspec import Struct

from ebpfaudit.kernel.support import Support


class Promise(Struct, frozen=True):
    """One thing that an audit promises here: the hooks that keep it, and what they do not see or stop."""

    name: str
    hooks: tuple[str, ...]
    gaps: tuple[str, ...] = ()


def coverage(support: Support) -> list[str]:
    """One line per promise: "kill: cgroup.kill, pidfd (open: ...; ...)"."""
    lines = []
    for promise in promises(support):
        line = f"{promise.name}: {', '.join(promise.hooks) or 'no hook'}"
        lines.append(f"{line} (open: {'; '.join(promise.gaps)})" if promise.gaps else line)
    return lines


def gaps(support: Support) -> list[str]:
    """Only what stays open, for the start line of a run."""
    return [gap for promise in promises(support) for gap in promise.gaps]


def promises(support: Support) -> tuple[Promise, ...]:
    return (_exec(support), _connect(support), _gpu(support), _lineage(support), _kill(support))


def _exec(support: Support) -> Promise:
    hooks = ["sched_process_exec"] if support.ok("raw tracepoints") else []
    open_ = []
    if support.ok("system call tracepoints"):
        hooks.append("sys_exit_execve(at) (failures)")
    else:
        open_.append("failed execs are not seen")
    if support.ok("signal from exec"):
        open_.append("a denied exec is killed before its first instruction, instead of failing")
    else:
        open_.append("a denied exec runs until user space kills it")
    return Promise("exec", tuple(hooks), tuple(open_))


def _connect(support: Support) -> Promise:
    wanted = ("connect4", "connect6", "sendmsg4", "sendmsg6", "connect_unix", "sendmsg_unix")
    found = [name for name in wanted if support.ok(name)]
    hooks = [f"cgroup {' '.join(found)}"] if found else []
    if support.ok("raw tracepoints"):
        hooks.append("inet_sock_set_state (results)")
    open_ = [support[name].consequence for name in wanted if not support.ok(name)]
    open_.append("AF_PACKET and AF_VSOCK traffic, and connections from outside, are not judged")
    return Promise("connect", tuple(hooks), tuple(open_))


def _gpu(support: Support) -> Promise:
    hooks, open_ = [], []
    if support.ok("cgroup device"):
        hooks.append("cgroup device (open)")
    else:
        open_.append(support["cgroup device"].consequence)
    if support.ok("system call tracepoints"):
        hooks.append("sys_exit_ioctl")
        if not support.ok("64-bit only"):
            open_.append("GPU ioctls of 32-bit callers (int 0x80) are not seen")
    else:
        open_.append("GPU ioctls are not seen")
    return Promise("gpu", tuple(hooks), tuple(open_))


def _lineage(support: Support) -> Promise:
    if not support.ok("raw tracepoints"):
        return Promise("lineage", (), ("nobody knows who belongs to an episode",))
    hooks = ("sched_process_fork", "sched_process_exit", "cgroup_attach_task")
    passed = "devices and connected sockets passed in from outside the episode were opened unseen"
    return Promise("lineage", hooks, (passed,))


def _kill(support: Support) -> Promise:
    hooks = []
    if any(support.ok(name) for name in ("signal from exec", "signal from connect", "signal from device")):
        hooks.append("signal from the probe")
    hooks += [name for name in ("cgroup.freeze", "cgroup.kill", "pidfd") if support.ok(name)]
    slow = [name for name in ("connect", "device") if not support.ok(f"signal from {name}")]
    open_ = (
        [
            f"an offending {' or '.join(slow)} is denied at once, its process killed from user space a moment later"
        ]
        if slow
        else []
    )
    return Promise("kill", tuple(hooks), tuple(open_))
