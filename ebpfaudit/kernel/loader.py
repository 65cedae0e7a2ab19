"""The probes, in place: compiled, attached, and gone when this object (or this process) is.

Everything is held by file descriptors of this process, so even SIGKILL leaves no program, link or map behind.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from ebpfaudit.errors import KernelError
from ebpfaudit.kernel import bpf
from ebpfaudit.kernel.btf import Btf, offset_flags
from ebpfaudit.kernel.compile import Compiler, Program, Request
from ebpfaudit.kernel.plan import EVERYWHERE, UNIX_FUNCTION, Hook
from ebpfaudit.kernel.trials import kernel_file

MAPS = (
    "events", "reader", "tags", "cgroup_tags", "episodes", "counters", "exec_deny", "network", "unix_network",
    "pending_connects", "gpu_majors", "gpu_minors", "gpu_uuids", "gpu_commands", "gpu_short_commands", "gpu_policy",
    "gpu_counts",
)  # fmt: skip

EPISODES_MAX = 1024
TAGS_MAX = 131072
DEFAULT_RING_BYTES = 8 << 20


class Probes:
    """What is attached, by hook, and the maps by which the probes are told what to do."""

    def __init__(
        self,
        attached: list[Hook],
        missing: dict[str, str],
        maps: dict[str, int],
        links: list[int],
        ring_bytes: int,
    ) -> None:
        self.attached = attached
        self.missing = missing
        """Optional hook -> why it could not be attached."""
        self.maps = maps
        self.ring_bytes = ring_bytes
        self._links = links

    def map(self, name: str, key_bytes: int, value_bytes: int) -> bpf.Map:
        return bpf.Map(self.maps[name], key_bytes, value_bytes)

    def close(self) -> None:
        """Detach everything. May be called twice."""
        for descriptor in [*self._links, *self.maps.values()]:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._links, self.maps = [], {}


def possible_cpus() -> int:
    """How many CPUs this kernel may ever have: per-CPU map values come for each."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().rpartition(",")[2].rpartition("-")[2]
    return int(last) + 1


def load(
    compiler: Compiler,
    cgroup_root: Path | None,
    *,
    trace_untagged: bool = False,
    ring_bytes: int = DEFAULT_RING_BYTES,
    plan: Sequence[Hook] = EVERYWHERE,
) -> Probes:
    """Compile, load and attach. Raises KernelError; then nothing stays attached.

    `cgroup_root`: where cgroup2 is mounted; None leaves the cgroup hooks out (no connect is seen then).
    """
    if ring_bytes & (ring_bytes - 1) or ring_bytes < 4096:
        raise KernelError(
            f"the ring buffer's size must be a power of two of at least 4096 bytes, not {ring_bytes}"
        )
    btf = Btf()
    flags = offset_flags(btf)
    unix_hook = any("bpf_sock_addr_kern_uaddrlen" in flag for flag in flags)
    hooks = [
        hook
        for hook in plan
        if hook.function != ("on_connect_enter" if unix_hook else UNIX_FUNCTION)
        and (cgroup_root is not None or hook.kind != "cgroup")
    ]
    built = compiler.build(
        Request(
            [*flags, *_tunables(trace_untagged, ring_bytes)],
            [Program(hook.target, hook.function, hook.prog_type, hook.attach_type, hook.required) for hook in hooks],
            list(MAPS),
        )
    )
    attached, missing, links = [], dict(built.refused), []
    try:
        for hook in hooks:
            if hook.target in built.refused:
                continue
            try:
                links += _attach(hook, built.programs[hook.target], cgroup_root)
                attached.append(hook)
            except OSError as error:
                if hook.required:
                    raise KernelError(
                        f"cannot attach '{hook.function}' to {hook.kind} {hook.target}: {error.strerror}. "
                        "Run 'ebpfaudit doctor' to see what this kernel permits."
                    ) from error
                missing[hook.target] = error.strerror or str(error)
    except BaseException:
        Probes([], {}, built.maps, links, ring_bytes).close()
        raise
    finally:
        for descriptor in built.programs.values():
            os.close(descriptor)  # the links keep the programs
    return Probes(attached, missing, built.maps, links, ring_bytes)


def _tunables(trace_untagged: bool, ring_bytes: int) -> list[str]:
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    values = {
        "RING_PAGES": ring_bytes // 4096,
        "TAGS_MAX": min(max(pid_max, 32768), TAGS_MAX),
        "EPISODES_MAX": EPISODES_MAX,
        "CPUS_MAX": possible_cpus(),
        "NODES_MAX": 65536,
        "PENDING_MAX": 65536,
        "EXEC_DENY_MAX": 4096,
        "AUDITOR_PID": os.getpid(),
        "TRACE_UNTAGGED": int(trace_untagged),
        "SIGNAL_FROM_CGROUP_HOOKS": int(may_signal(bpf.PROG_CGROUP_SOCK_ADDR, bpf.ATTACH_CONNECT4)),
        "SIGNAL_FROM_DEVICE_HOOK": int(may_signal(bpf.PROG_CGROUP_DEVICE, bpf.ATTACH_DEVICE)),
    }
    return [f"-D{name}={value}" for name, value in values.items()]


def may_signal(prog_type: int, attach_type: int) -> bool:
    """Whether a program of this type may call bpf_send_signal, found by loading one that does.

    libbpf's own probe gives a wrong answer on 6.18; the verifier does not.
    """
    # r1 = 9; call bpf_send_signal (109); r0 = 1; exit
    insns = bytes.fromhex("b701000009000000850000006d000000b7000000010000009500000000000000")
    try:
        os.close(bpf.prog_load(prog_type, insns, attach_type))
    except OSError:
        return False
    return True


def _attach(hook: Hook, program: int, cgroup_root: Path | None) -> list[int]:
    if hook.kind == "raw_tracepoint":
        return [bpf.attach_raw_tracepoint(program, hook.target)]
    if hook.kind == "tracepoint":
        number = int(kernel_file("tracefs", f"events/{hook.target.replace(':', '/')}/id"))
        return [*bpf.attach_tracepoint(program, number)]
    assert cgroup_root is not None
    root = os.open(cgroup_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [bpf.attach_cgroup(program, root, hook.attach_type)]
    finally:
        os.close(root)
