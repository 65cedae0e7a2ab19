"""Compiling the probes, in a child process that bcc's 100 MB of compiler live and die with.

The child is forked first thing, so that importing bcc overlaps with everything else that start-up does. It gets one
request and answers with an image. Where an image is kept from an earlier run, there is no child at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from ebpfaudit.errors import KernelError
from ebpfaudit.kernel import bpf
from ebpfaudit.kernel.image import (
    CACHE,
    SOURCES,
    Image,
    MapDefinition,
    image_name,
    keep_image,
    load_image,
    replace_maps,
)
from ebpfaudit.resources import folder

EPISODES_MAX = 1024
TAGS_MAX = 131072
DEFAULT_RING_BYTES = 8 << 20
_MESSAGE_MAX = 1 << 20
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_PRIVATE_REC = ctypes.c_ulong(0x1000), ctypes.c_ulong(0x44000)


class _Answer(msgspec.Struct):
    image: Image | None = None
    error: str = ""


def possible_cpus() -> int:
    """How many CPUs this kernel may ever have: per-CPU map values come for each."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().rpartition(",")[2].rpartition("-")[2]
    return int(last) + 1


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
        "TRACE_UNTAGGED": int(trace_untagged),
        "SIGNAL_FROM_CGROUP_HOOKS": int(may_signal(bpf.PROG_CGROUP_SOCK_ADDR, bpf.ATTACH_CONNECT4)),
        "SIGNAL_FROM_DEVICE_HOOK": int(may_signal(bpf.PROG_CGROUP_DEVICE, bpf.ATTACH_DEVICE)),
    }
    return [f"-D{name}={value}" for name, value in values.items()]


class Compiler:
    """Gets the image: kept from before, or from a child. `start` early, `image` once, `stop` on every way out."""

    def __init__(self, tunables: list[str], ring_bytes: int, cache: Path) -> None:
        self.ring_bytes = ring_bytes
        self._tunables = tunables
        self._cache = cache
        self._name = image_name(tunables)
        self._kept = load_image(self._name, cache) if self._name else None
        self._pid = 0
        self._channel: socket.socket | None = None

    @classmethod
    def start(
        cls, *, trace_untagged: bool = False, ring_bytes: int = DEFAULT_RING_BYTES, cache: Path = CACHE
    ) -> Compiler:
        """Look for a kept image; without one, fork the child. Raises KernelError for an impossible ring size."""
        if ring_bytes & (ring_bytes - 1) or ring_bytes < 4096:
            raise KernelError(
                f"the ring buffer's size must be a power of two of at least 4096 bytes, not {ring_bytes}"
            )
        compiler = cls(_tunables(trace_untagged, ring_bytes), ring_bytes, cache)
        if compiler._kept is None:
            compiler._fork()
        return compiler

    def _fork(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for side in (self._channel, theirs):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _MESSAGE_MAX)
        self._pid = os.fork()
        if self._pid == 0:
            self._channel.close()
            _serve(theirs)
        theirs.close()

    def image(self) -> Image:
        """The compiled probes. Raises KernelError with the compiler's last words."""
        if self._kept is not None:
            return self._kept
        from ebpfaudit.kernel.btf import Btf, offset_flags

        offsets, lacks = offset_flags(Btf())
        assert self._channel is not None
        try:
            self._channel.send(msgspec.msgpack.encode([*offsets, *self._tunables]))
            raw = self._channel.recv(_MESSAGE_MAX)
        except OSError as error:
            raise KernelError(f"the process that compiles the probes died ({error})") from error
        if not raw:
            raise KernelError("the process that compiles the probes died without a word; is memory short?")
        answer = msgspec.msgpack.decode(raw, type=_Answer)
        if answer.image is None:
            raise KernelError(answer.error)
        image = msgspec.structs.replace(answer.image, lacks=lacks)
        if self._name:
            keep_image(self._name, image, self._cache)
        return image

    def forget(self) -> None:
        """Throw away a kept image that the kernel would not take, and compile anew."""
        if self._kept is not None:
            self._kept = None
            self._fork()

    @property
    def from_cache(self) -> bool:
        return self._kept is not None

    def stop(self) -> None:
        """End the child if it still runs, and reap it. May be called twice."""
        if self._channel is not None:
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
        flags = msgspec.msgpack.decode(channel.recv(_MESSAGE_MAX), type=list[str])
        try:
            answer = _Answer(error=import_error) if import_error else _compile(flags)
        except Exception as error:  # a bcc that we do not know: say what it said, instead of dying
            answer = _Answer(error=f"cannot take the compiled probes out of bcc: {error!r}")
        if answer.image is None and not import_error:
            words.seek(0)
            answer.error += _last_words(words.read())
        channel.send(msgspec.msgpack.encode(answer))
        status = 0
    finally:
        os._exit(status)


def _shorten_kernel_symbols() -> None:
    """Show this process, and no other, a /proc/kallsyms of the names that bcc will ask for.

    bcc 0.26 reads the whole list (0.1 s) to learn whether the kernel has four helpers, which every kernel since 5.5
    has, and goes through it again for each call of two of them (0.05 s each). Where the addresses are hidden
    (kptr_restrict) it would even conclude that they are missing. Without the privilege, start-up is slower.
    """
    names = (
        "bpf_probe_read_kernel",
        "bpf_probe_read_kernel_str",
        "bpf_probe_read_user",
        "bpf_probe_read_user_str",
    )
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


def _compile(flags: list[str]) -> _Answer:
    import bcc
    from bcc.libbcc import lib

    probes = folder("probes")
    # Named by file and line, so that a compiler's complaint can be found.
    source = "".join(f'#line 1 "{name}"\n{(probes / name).read_text()}\n' for name in SOURCES)
    lib.bpf_table_name.restype = ctypes.c_char_p
    try:
        module = bcc.BPF(text=source.encode(), cflags=[f"-I{probes}", *flags])
    except Exception:  # bcc raises bare Exception
        return _Answer(error="the probes do not compile:")
    maps, places = [], {}
    for number in range(_declared(lib.bpf_num_tables, [])(module.module)):
        name, map_type, key_bytes, value_bytes, entries, map_flags, descriptor = (
            _declared(function, [ctypes.c_size_t])(module.module, number)
            for function in (
                lib.bpf_table_name, lib.bpf_table_type_id, lib.bpf_table_key_size_id, lib.bpf_table_leaf_size_id,
                lib.bpf_table_max_entries_id, lib.bpf_table_flags_id, lib.bpf_table_fd_id,
            )
        )  # fmt: skip
        places[descriptor] = number
        maps.append(MapDefinition(name.decode(), map_type, key_bytes, value_bytes, entries, map_flags))
    programs = {}
    for number in range(lib.bpf_num_functions(module.module)):
        function = lib.bpf_function_name(module.module, number)
        programs[function.decode()] = replace_maps(module.dump_func(function), places)
    return _Answer(Image(maps, programs))


def _declared(function: Any, arguments: list[Any]) -> Any:
    """A function of libbcc that bcc's own Python leaves undeclared: its module must be passed as a pointer."""
    function.argtypes = [ctypes.c_void_p, *arguments]
    return function


def _last_words(raw: bytes) -> str:
    lines = raw.decode("utf-8", "replace").strip().splitlines()
    return "".join(f"\n  {line}" for line in lines[-15:])
