"""Compiling and loading the probes, in a child process that bcc's 100 MB of compiler live and die with.

The child is forked first thing, so that importing bcc overlaps with everything else that start-up does. It
gets one request (what to compile, what to load), and answers with file descriptors: programs and maps.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import tempfile

import msgspec

from ebpfaudit.errors import KernelError
from ebpfaudit.resources import folder

SOURCES = ("common.bpf.h", "lineage.bpf.c", "exec.bpf.c", "connect.bpf.c", "gpu.bpf.c")
_ANSWER_MAX = 1 << 20
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_PRIVATE_REC = ctypes.c_ulong(0x1000), ctypes.c_ulong(0x44000)


class Program(msgspec.Struct, frozen=True):
    name: str
    """Of this use of the function: the hook's."""
    function: str
    prog_type: int
    attach_type: int
    required: bool


class Request(msgspec.Struct, frozen=True):
    flags: list[str]
    programs: list[Program]
    maps: list[str]


class _Answer(msgspec.Struct):
    error: str = ""
    programs: list[str] = []
    """Names, in the order of the descriptors sent with this answer; the maps' follow them."""
    maps: list[str] = []
    refused: dict[str, str] = {}


class Built(msgspec.Struct):
    """What the compiler's child left us: descriptors that we own."""

    programs: dict[str, int]
    maps: dict[str, int]
    refused: dict[str, str]
    """Optional programs that the kernel would not load, and why."""


class Compiler:
    """The child. `start` early, `build` once, `stop` on every way out."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self._pid = pid
        self._channel = channel

    @classmethod
    def start(cls) -> Compiler:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for side in (ours, theirs):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _ANSWER_MAX)
        pid = os.fork()
        if pid == 0:
            ours.close()
            _serve(theirs)
        theirs.close()
        return cls(pid, ours)

    def build(self, request: Request) -> Built:
        """Compile and load. Raises KernelError with the compiler's or the verifier's last words."""
        try:
            self._channel.send(msgspec.json.encode(request))
            # Close-on-exec, or the audited command would inherit the maps that hold it.
            raw, descriptors, _, _ = socket.recv_fds(self._channel, _ANSWER_MAX, 250, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise KernelError(f"the process that compiles the probes died ({error})") from error
        if not raw:
            raise KernelError("the process that compiles the probes died without a word; is memory short?")
        answer = msgspec.json.decode(raw, type=_Answer)
        if answer.error:
            raise KernelError(answer.error)
        split = len(answer.programs)
        return Built(
            dict(zip(answer.programs, descriptors[:split], strict=True)),
            dict(zip(answer.maps, descriptors[split:], strict=True)),
            answer.refused,
        )

    def stop(self) -> None:
        """End the child if it still runs, and reap it. May be called twice."""
        self._channel.close()
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = 0


def _serve(channel: socket.socket) -> None:
    """The child's whole life. Never returns."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: do not outlive the auditor
        words = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this process
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
        os.environ["BCC_KERNEL_SOURCE"] = str(folder("probes"))
        _shorten_kernel_symbols()
        import_error = _import_bcc()
        request = msgspec.json.decode(channel.recv(_ANSWER_MAX), type=Request)
        descriptors: list[int] = []
        if import_error:
            answer = _Answer(error=import_error)
        else:
            answer, descriptors = _build(request)
            if answer.error:
                words.seek(0)
                answer.error += _last_words(words.read())
        socket.send_fds(channel, [msgspec.json.encode(answer)], descriptors)
        status = 0
    finally:
        os._exit(status)


def _shorten_kernel_symbols() -> None:
    """Show this process, and no other, a /proc/kallsyms of the names that bcc will ask for.

    bcc 0.26 reads the whole list (0.1 s) to learn whether the kernel has four helpers, which every kernel since 5.5
    has, and goes through it again for each call of two of them (0.05 s each). Where the addresses are hidden
    (kptr_restrict) it would even conclude that they are missing. Without the privilege, start-up is slower.
    """
    names = ("bpf_probe_read_kernel", "bpf_probe_read_kernel_str", "bpf_probe_read_user", "bpf_probe_read_user_str")
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.NamedTemporaryFile("w") as symbols:
        symbols.writelines(f"ffffffff8100000{place} T {name}\n" for place, name in enumerate(names))
        symbols.flush()
        if libc.unshare(_CLONE_NEWNS) == 0 and libc.mount(None, b"/", None, _MS_PRIVATE_REC, None) == 0:
            libc.mount(symbols.name.encode(), b"/proc/kallsyms", None, _MS_BIND, None)


def _import_bcc() -> str:
    """Why bcc cannot be used; empty if it can."""
    try:
        import bcc
    except ImportError as error:
        return (
            f"the BPF compiler collection for Python is missing ({error}). Install the distribution's package "
            "(Debian, Ubuntu: python3-bpfcc; Fedora, RHEL: python3-bcc) and run ebpfaudit with the "
            "distribution's Python (/usr/bin/python3, in a virtual environment made with --system-site-packages)."
        )
    if not hasattr(bcc, "BPF"):
        return (
            f"the module 'bcc' at {bcc.__file__} is not the BPF compiler collection but an unrelated package of "
            "that name from PyPI. Uninstall it, and install the distribution's python3-bpfcc (Fedora, RHEL: "
            "python3-bcc)."
        )
    return ""


def _build(request: Request) -> tuple[_Answer, list[int]]:
    import bcc

    probes = folder("probes")
    # Named by file and line, so that a compiler's complaint can be found.
    source = "".join(f'#line 1 "{name}"\n{(probes / name).read_text()}\n' for name in SOURCES)
    try:
        module = bcc.BPF(text=source.encode(), cflags=[f"-I{probes}", *request.flags])
    except Exception:  # bcc raises bare Exception
        return _Answer(error="the probes do not compile:"), []
    answer, descriptors = _Answer(), []
    for program in request.programs:
        try:
            loaded = module.load_func(program.function.encode(), program.prog_type, attach_type=program.attach_type)
        except Exception as error:
            reason = str(error).rpartition(": ")[2]
            if program.required:
                return _Answer(error=_refusal(program.name, reason)), []
            answer.refused[program.name] = reason
        else:
            module.funcs.clear()  # or the next hook of the same function would get this one's program
            answer.programs.append(program.name)
            descriptors.append(loaded.fd)
    for name in request.maps:
        answer.maps.append(name)
        descriptors.append(module[name.encode()].map_fd)
    return answer, descriptors


def _refusal(function: str, reason: str) -> str:
    """EPERM is a matter of privilege or host policy; anything else is the verifier's judgement."""
    if "Operation not permitted" in reason:
        return (
            f"the kernel does not permit probe '{function}' ({reason}): are you root, with CAP_BPF and CAP_PERFMON, "
            "outside a container that withholds bpf(2)? 'ebpfaudit doctor' tells."
        )
    return f"this kernel's verifier refuses probe '{function}' ({reason}). Please report it:"


def _last_words(raw: bytes) -> str:
    lines = raw.decode("utf-8", "replace").strip().splitlines()
    return "".join(f"\n  {line}" for line in lines[-15:])
