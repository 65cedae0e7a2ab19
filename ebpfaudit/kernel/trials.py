"""Single questions to the running kernel, each answered by trying. `support` asks them.

A trial returns a few words on what was found, or raises: `Missing` with the reason, or the kernel's own
OSError. It leaves nothing behind and takes about 0.1 ms. libbpf's own probing is not used: on 6.18 it
says yes to helpers that the verifier then refuses.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ebpfaudit.kernel import bpf
from ebpfaudit.mounts import cgroup2_mount

Trial = Callable[[], str]


class Missing(Exception):
    """Why the thing that was asked for is not there."""


# ---- programs of a few instructions


def _insn(code: int, dst: int = 0, src: int = 0, imm: int = 0) -> bytes:
    return struct.pack("=BBhi", code, dst | src << 4, 0, imm)


def _mov(register: int, value: int) -> bytes:
    return _insn(0xB7, register, imm=value)


def _copy(register: int, source: int) -> bytes:
    return _insn(0xBF, register, source)


def _call(helper: int) -> bytes:
    return _insn(0x85, imm=helper)


_STACK_8 = _copy(1, 10) + _insn(0x07, 1, imm=-8)  # r1 = eight bytes of stack
RETURN_1 = _mov(0, 1) + _insn(0x95)
SEND_SIGNAL = _mov(1, 9) + _call(109) + RETURN_1
READ_KERNEL = _STACK_8 + _mov(2, 8) + _mov(3, 0) + _call(113) + RETURN_1
TASK_PT_REGS = _call(158) + _copy(1, 0) + _call(175) + RETURN_1


def loads(prog_type: int, attach_type: int = 0, code: bytes = RETURN_1) -> Trial:
    """The verifier accepts `code` as such a program."""

    def attempt() -> str:
        os.close(bpf.prog_load(prog_type, code, attach_type))
        return "loads"

    return attempt


def attaches_to_cgroup(prog_type: int, attach_type: int) -> Trial:
    """A program that allows everything can be linked to the root cgroup (and is taken off again)."""

    def attempt() -> str:
        program = bpf.prog_load(prog_type, RETURN_1, attach_type)
        try:
            cgroup = os.open(cgroup2_root(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.close(bpf.attach_cgroup(program, cgroup, attach_type))
            finally:
                os.close(cgroup)
        finally:
            os.close(program)
        return "attaches"

    return attempt


def reaches_verifier(prog_type: int, attach_type: int) -> None:
    """For program types that need a BTF target: naming none must fail *in the verifier*, which then
    writes to its log. A refused or unknown type fails before that: OSError."""
    code, license_ = ctypes.create_string_buffer(RETURN_1), ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(256)
    attr = struct.pack(
        "=IIQQIIQII16sII", prog_type, len(RETURN_1) // 8, ctypes.addressof(code), ctypes.addressof(license_),
        1, len(log), ctypes.addressof(log), 0, 0, b"", 0, attach_type,
    )  # fmt: skip
    try:
        os.close(bpf.bpf(bpf.PROG_LOAD, attr))
    except OSError:
        if not log.value:
            raise


def tracing_programs() -> str:
    trace_fentry = 24
    reaches_verifier(bpf.PROG_TRACING, trace_fentry)
    return "permitted"


def lsm_programs() -> str:
    lsm_mac = 27
    reaches_verifier(bpf.PROG_LSM, lsm_mac)
    active = active_lsms()
    if "bpf" not in active:
        # Loads and attaches without an error, and never fires (measured on 6.1 and 6.12).
        raise Missing(f'permitted, but "bpf" is not an active security module ({", ".join(active)})')
    return "permitted and active"


def ring_buffer() -> str:
    os.close(bpf.map_create(bpf.MAP_RINGBUF, 0, 0, 4096))
    return "can be made"


def raw_tracepoint() -> str:
    program = bpf.prog_load(bpf.PROG_RAW_TRACEPOINT, RETURN_1)
    try:
        os.close(bpf.attach_raw_tracepoint(program, "sched_process_exec"))
    finally:
        os.close(program)
    return "attaches"


def syscall_tracepoints() -> str:
    loads(bpf.PROG_TRACEPOINT)()
    try:
        number = kernel_file("tracefs", "events/syscalls/sys_enter_ioctl/id")
    except FileNotFoundError:
        raise Missing("tracefs has no system call events (CONFIG_FTRACE_SYSCALLS)") from None
    return f"sys_enter_ioctl is event {number}"


# ---- file systems, mounted or not


def cgroup2_root() -> Path:
    """Where cgroup v2 is mounted. Raises Missing."""
    mount = cgroup2_mount()
    if mount is None:
        raise Missing("cgroup v2 is not mounted")
    return mount


def cgroup2_mounted() -> bool:
    return cgroup2_mount() is not None


def open_kernel_files(kind: str) -> int:
    """A directory descriptor of the root of "tracefs" or "securityfs"; the caller closes it.

    Where that is not mounted, it is a mount that no process can see and that ends with the descriptor
    (fsopen, fsmount: Linux 5.2), so that an audit changes nothing on the host. Raises OSError.
    """
    where = {"tracefs": "/sys/kernel/tracing", "securityfs": "/sys/kernel/security"}[kind]
    if os.path.ismount(where):
        return os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fsopen, fsconfig, fsmount, create, close_on_exec = 430, 431, 432, 6, 1  # same on every architecture
    context = bpf.syscall(fsopen, ctypes.c_char_p(kind.encode()), ctypes.c_uint(close_on_exec))
    try:
        nothing = ctypes.c_void_p()
        bpf.syscall(fsconfig, ctypes.c_int(context), ctypes.c_uint(create), nothing, nothing, ctypes.c_int(0))
        return bpf.syscall(fsmount, ctypes.c_int(context), ctypes.c_uint(close_on_exec), ctypes.c_uint(0))
    finally:
        os.close(context)


def kernel_file(kind: str, name: str) -> str:
    """The text of a file of "tracefs" or "securityfs", wherever those are mounted, or if they are not."""
    root = open_kernel_files(kind)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
    finally:
        os.close(root)
    with os.fdopen(fd) as file:
        return file.read().strip("\0\n ")


def active_lsms() -> tuple[str, ...]:
    """The active security modules, in their order. Empty where the kernel does not tell."""
    try:
        return tuple(kernel_file("securityfs", "lsm").split(","))
    except OSError:
        return ()


def lockdown() -> str:
    """Under "confidentiality" no probe may read kernel memory; "integrity" does not matter (measured)."""
    try:
        modes = kernel_file("securityfs", "lockdown")
    except OSError:
        return "none (not built in)"
    mode = modes[modes.find("[") + 1 : modes.find("]")]
    if mode == "confidentiality":
        raise Missing("lockdown=confidentiality")
    return mode


# ---- cgroups


@contextmanager
def _own_cgroup() -> Iterator[Path]:
    path = cgroup2_root() / f"ebpfaudit-trial-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()


def cgroup2() -> str:
    with _own_cgroup() as cgroup:
        return f"at {cgroup.parent}"


def cgroup_file(name: str) -> Trial:
    """Cgroups have the control file `name` (the root has none: one is made and removed)."""

    def attempt() -> str:
        with _own_cgroup() as cgroup:
            if not (cgroup / name).exists():
                raise Missing(f"cgroups have no {name}")
        return "present"

    return attempt


# ---- this process and its surroundings

_CAPABILITIES = {
    "CAP_SYS_ADMIN": 21, "CAP_BPF": 39, "CAP_PERFMON": 38, "CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19,
    "CAP_KILL": 5, "CAP_SETUID": 7, "CAP_SETGID": 6, "CAP_DAC_OVERRIDE": 1,
}  # fmt: skip


def missing_capabilities() -> list[str]:
    """Which of the capabilities that an audit needs this process lacks."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    return [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]


def privileges() -> str:
    missing = missing_capabilities()
    if len(missing) == len(_CAPABILITIES):
        raise Missing(f"user {os.geteuid()} without capabilities")
    if missing:
        raise Missing("without " + ", ".join(missing))
    return "root" if os.geteuid() == 0 else f"user {os.geteuid()} with the capabilities needed"


def initial_namespaces() -> str:
    """Probes see the host's pids and cgroups; in a container's own namespaces ours would not match."""
    # include/linux/proc_ns.h: PROC_PID_INIT_INO, PROC_CGROUP_INIT_INO
    for kind, initial in (("pid", 0xEFFFFFFC), ("cgroup", 0xEFFFFFFB)):
        if Path(f"/proc/self/ns/{kind}").stat().st_ino != initial:
            raise Missing(f"in a {kind} namespace of its own (a container)")
    return "the host's"


def architecture() -> str:
    machine = os.uname().machine
    if machine != "x86_64":
        raise Missing(f"{machine}: where it keeps the arguments of system calls is not mapped yet")
    return machine


def btf() -> str:
    path = Path("/sys/kernel/btf/vmlinux")
    try:
        with path.open("rb") as file:
            magic = file.read(2)
    except FileNotFoundError:
        raise Missing(f"no {path}") from None
    if magic not in (b"\x9f\xeb", b"\xeb\x9f"):
        raise Missing(f"{path} is not BTF")
    return str(path)


def pidfd() -> str:
    os.close(os.pidfd_open(os.getpid()))
    return "present"


def compat_32_bit() -> str:
    """No process can make 32-bit system calls, which the system call tracepoints do not report."""
    # arch/x86/entry/vdso/vdso32-setup.c registers it with CONFIG_IA32_EMULATION only.
    built_in = Path("/proc/sys/abi/vsyscall32").exists()
    if built_in and "ia32_emulation=0" not in Path("/proc/cmdline").read_text().split():
        raise Missing("32-bit system calls are enabled")
    return "no 32-bit system calls"


def bcc_found() -> str:
    """The distribution's bcc can be imported, judged without importing it (which takes 50 ms)."""
    from importlib.util import find_spec

    spec = find_spec("bcc")
    if spec is None or not spec.submodule_search_locations:
        raise Missing("Python cannot import bcc")
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not (folder / "libbcc.py").exists():
        raise Missing(f"{folder} is another project called bcc (PyPI has one), not the BPF compiler")
    version = (folder / "version.py").read_text() if (folder / "version.py").exists() else ""
    return f"{version.split('=')[-1].strip().strip(chr(39) + chr(34)) or 'version unknown'} in {folder}"


def bcc_imports() -> str:
    """The distribution's bcc, really imported: its library and compiler are there too."""
    found = bcc_found()
    try:
        import bcc  # noqa: F401
    except (ImportError, OSError, AttributeError) as error:
        raise Missing(f"import fails: {error}") from error
    return found


def bpf_jit() -> str:
    enabled = Path("/proc/sys/net/core/bpf_jit_enable")
    if enabled.exists() and enabled.read_text().strip() == "0":
        raise Missing("probes are interpreted (net.core.bpf_jit_enable=0)")
    return "on"


def memory_lock() -> str:
    """Before 5.11 maps count as locked memory; the limit is raised by whoever may (CAP_SYS_RESOURCE)."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    major, minor = (int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if (major, minor) >= (5, 11):
        return "maps are charged to memory cgroups"
    if soft != resource.RLIM_INFINITY and hard != resource.RLIM_INFINITY:
        raise Missing(f"limit is {soft} bytes")
    return "unlimited"


def why(error: OSError) -> str:
    """A kernel's refusal in words."""
    number = error.errno or 0
    texts = {
        errno.EPERM: "refused even to root: by the kernel's build, its lockdown mode or the host's policy",
        errno.EINVAL: "this kernel does not have it",
        errno.ENOSYS: "this kernel has no such system call, or it is filtered",
        errno.EACCES: "the verifier refused it",
    }
    return f"{texts.get(number, os.strerror(number))} ({errno.errorcode.get(number, number)})"
