"""What this kernel and host permit, and why not: found by trying, never by a version number."""

from __future__ import annotations

import os

from msgspec import Struct

from ebpfaudit.kernel import bpf, trials
from ebpfaudit.kernel.plan import EVERYWHERE
from ebpfaudit.kernel.trials import Missing, Trial


class Check(Struct, frozen=True, omit_defaults=True):
    """One thing tried. `consequence` and `advice` are filled only where it is missing or unknown."""

    name: str
    ok: bool
    reason: str
    consequence: str = ""
    advice: str = ""
    required: bool = False
    """Without it `ebpfaudit run` cannot start at all."""
    unknown: bool = False
    """It could not be tried; `reason` says why."""


class Support(Struct, frozen=True):
    """The outcome of `probe`, in the order in which it is worth reading."""

    kernel: str
    machine: str
    checks: tuple[Check, ...]

    def ok(self, name: str) -> bool:
        """Whether the check `name` passed. An unknown name is the caller's mistake: KeyError."""
        return self[name].ok

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    @property
    def usable(self) -> bool:
        """Whether `ebpfaudit run` would start."""
        return all(check.ok for check in self.checks if check.required)


class _Question(Struct, frozen=True):
    name: str
    trial: Trial
    consequence: str
    advice: str
    required: bool = False
    privileged: bool = True
    """An ordinary user cannot try it."""


def probe(*, thorough: bool = False) -> Support:
    """Try everything: a few milliseconds. `thorough` also imports bcc (50 ms more)."""
    may_try = not {"CAP_BPF", "CAP_SYS_ADMIN"} & set(trials.missing_capabilities())
    bcc = trials.bcc_imports if thorough else trials.bcc_found
    questions = (*_here(bcc), *_kernel(), *_hooks(), *_enforcement(), *_circumstances())
    kernel = os.uname()
    return Support(kernel.release, kernel.machine, tuple(_ask(question, may_try) for question in questions))


def _ask(question: _Question, may_try: bool) -> Check:
    name, required = question.name, question.required
    unknown = question.privileged and not may_try
    reason = "not tried: needs root"
    if not unknown:
        try:
            return Check(name, True, question.trial(), required=required)
        except Missing as missing:
            reason = str(missing)
        except OSError as error:
            reason = trials.why(error)
    return Check(name, False, reason, question.consequence, question.advice, required, unknown)


_NOTHING = "nothing can be audited"


def _here(bcc: Trial) -> tuple[_Question, ...]:
    return (
        _Question(
            "architecture", trials.architecture, f"{_NOTHING}: the probes know x86_64",
            "use a supported machine; replay, verify and profile work here", required=True, privileged=False,
        ),
        _Question(
            "privileges", trials.privileges, f"{_NOTHING}; replay, verify and profile need no privileges",
            "run it with sudo: the audited command itself is still run as you",
            required=True, privileged=False,
        ),
        _Question(
            "namespaces", trials.initial_namespaces,
            f"{_NOTHING}: the probes report the host's pids and cgroups",
            "run ebpfaudit on the host, or give its container --pid=host --cgroupns=host",
            required=True, privileged=False,
        ),
        _Question(
            "bcc", bcc, f"{_NOTHING}: bcc compiles the probes",
            "apt install python3-bpfcc (Fedora, RHEL: dnf install python3-bcc), and make the virtual "
            "environment with --system-site-packages", required=True, privileged=False,
        ),
        _Question(
            "btf", trials.btf, f"{_NOTHING}: the probes do not know where this kernel keeps its fields",
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of current distributions are",
            required=True, privileged=False,
        ),
    )  # fmt: skip


def _kernel() -> tuple[_Question, ...]:
    return (
        _Question(
            "raw tracepoints", trials.raw_tracepoint, f"{_NOTHING}: exec, fork and exit are seen there",
            "allow bpf(2): check seccomp and the capabilities of the container; CONFIG_BPF_EVENTS=y",
            required=True,
        ),
        _Question(
            "ring buffer", trials.ring_buffer, f"{_NOTHING}: events cross to user space there",
            "use Linux 5.8 or newer", required=True,
        ),
        _Question(
            "kernel memory reads", trials.loads(bpf.PROG_RAW_TRACEPOINT, code=trials.READ_KERNEL),
            f"{_NOTHING}: probes may not read what they must report",
            "boot with lockdown=integrity or none", required=True,
        ),
        _Question(
            "lockdown", trials.lockdown, "probes may not read kernel memory",
            "boot with lockdown=integrity or none",
        ),
        _Question(
            "system call tracepoints", trials.syscall_tracepoints,
            "failed execs and GPU ioctls are not seen (opening a GPU still is)",
            "use a kernel with CONFIG_FTRACE_SYSCALLS=y, as those of distributions are",
            required=_planned("syscalls:sys_exit_execve"),
        ),
        _Question(
            "system call registers", trials.loads(bpf.PROG_TRACEPOINT, code=trials.TASK_PT_REGS),
            "failed execs and GPU ioctls cannot be read", "use Linux 5.15 or newer",
            required=_planned("syscalls:sys_exit_execve"),
        ),
    )  # fmt: skip


def _planned(target: str) -> bool:
    """The attach plan insists on the hook `target`."""
    return any(hook.required for hook in EVERYWHERE if hook.target == target)


def _hooks() -> tuple[_Question, ...]:
    mounted = trials.cgroup2_mounted()

    def cgroup(
        name: str, attach: int, lost: str, advice: str, kind: int = bpf.PROG_CGROUP_SOCK_ADDR
    ) -> _Question:
        # Where cgroup v2 is not mounted at all, the plan does without its hooks.
        required = mounted and _planned(name)
        return _Question(name, trials.attaches_to_cgroup(kind, attach), lost, advice, required)

    old = "mount cgroup v2 (systemd.unified_cgroup_hierarchy=1, or beside v1), CONFIG_CGROUP_BPF=y"
    return (
        cgroup("connect4", bpf.ATTACH_CONNECT4, "IPv4 destinations are neither judged nor denied", old),
        cgroup("connect6", bpf.ATTACH_CONNECT6, "IPv6 destinations are neither judged nor denied", old),
        cgroup("sendmsg4", bpf.ATTACH_SENDMSG4, "unconnected IPv4 UDP goes unseen", old),
        cgroup("sendmsg6", bpf.ATTACH_SENDMSG6, "unconnected IPv6 UDP goes unseen", old),
        cgroup(
            "connect_unix", bpf.ATTACH_CONNECT_UNIX,
            "connects to Unix sockets are seen at the system call: not denied, and not by way of io_uring",
            "use Linux 6.7 or newer",
        ),
        cgroup(
            "sendmsg_unix", bpf.ATTACH_SENDMSG_UNIX, "unconnected Unix datagrams go unseen",
            "use Linux 6.7 or newer",
        ),
        cgroup(
            "cgroup device", bpf.ATTACH_DEVICE,
            "opening a GPU cannot be denied, only killed at its first ioctl", old, bpf.PROG_CGROUP_DEVICE,
        ),
        _Question(
            "BPF LSM", trials.lsm_programs,
            "a denied exec is killed before its first instruction instead of failing with EPERM",
            "boot with lsm=...,bpf on a kernel with CONFIG_BPF_LSM=y",
        ),
        _Question(
            "fentry", trials.tracing_programs, "", "",  # no probe depends on it
        ),
    )  # fmt: skip


def _enforcement() -> tuple[_Question, ...]:
    later = "the probe denies at once, but the kill that goes with it comes from user space, a moment later"
    newer = "use a newer kernel (6.18 permits it, 6.12 does not)"
    return (
        _Question(
            "signal from exec", trials.loads(bpf.PROG_RAW_TRACEPOINT, code=trials.SEND_SIGNAL),
            "a denied exec runs until user space kills it", "use Linux 5.3 or newer",
        ),
        _Question(
            "signal from connect",
            trials.loads(bpf.PROG_CGROUP_SOCK_ADDR, bpf.ATTACH_CONNECT4, trials.SEND_SIGNAL), later, newer,
        ),
        _Question(
            "signal from device",
            trials.loads(bpf.PROG_CGROUP_DEVICE, bpf.ATTACH_DEVICE, trials.SEND_SIGNAL), later, newer,
        ),
        _Question(
            "cgroup v2", trials.cgroup2,
            "no destination is judged or denied; an episode is told by descent only; kills go pid by pid",
            "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified",
        ),
        _Question(
            "cgroup.kill", trials.cgroup_file("cgroup.kill"), "trees are killed process by process, by pidfd",
            "use Linux 5.14 or newer",
        ),
        _Question(
            "cgroup.freeze", trials.cgroup_file("cgroup.freeze"), "a tree runs on while its kill is prepared",
            "use Linux 5.2 or newer",
        ),
        _Question(
            "pidfd", trials.pidfd, "a kill could hit a recycled pid", "use Linux 5.3 or newer",
            privileged=False,
        ),
    )  # fmt: skip


def _circumstances() -> tuple[_Question, ...]:
    return (
        _Question(
            "64-bit only", trials.compat_32_bit,
            "GPU ioctls and failed execs of 32-bit callers (int 0x80) are not seen; opens and connects are",
            "boot with ia32_emulation=0 if nothing needs 32-bit programs", privileged=False,
        ),
        _Question(
            "BPF JIT", trials.bpf_jit, "probes cost several times as much",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        _Question(
            "memory lock", trials.memory_lock, "large ring buffers may be refused", "ulimit -l unlimited",
            privileged=False,
        ),
    )  # fmt: skip
