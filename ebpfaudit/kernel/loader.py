"""The probes, in place: loaded, attached, and gone when this object (or this process) is.

Everything is held by file descriptors of this process, so even SIGKILL leaves no program, link or map behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from ebpfaudit.errors import KernelError
from ebpfaudit.kernel import bpf
from ebpfaudit.kernel.compile import Compiler
from ebpfaudit.kernel.image import Image
from ebpfaudit.kernel.plan import EVERYWHERE, Hook
from ebpfaudit.kernel.trials import kernel_file


class Probes:
    """What is attached, by hook, and the maps by which the probes are told what to do."""

    def __init__(self, maps: dict[str, int], ring_bytes: int) -> None:
        self.missing: dict[str, str] = {}
        """Optional hook -> why it could not be attached."""
        self.lacks: tuple[str, ...] = ()
        """Optional kernel fields that the probes do without (see `plan.lacking_gaps`)."""
        self.maps = maps
        self.ring_bytes = ring_bytes
        self._links: list[int] = []

    def map(self, name: str, key_bytes: int, value_bytes: int) -> bpf.Map:
        return bpf.Map(self.maps[name], key_bytes, value_bytes)

    def attach(self, hook: Hook, image: Image, cgroup_root: Path | None) -> None:
        """Load the hook's program and put it in its place. Raises OSError."""
        program = image.load(hook.function, hook.prog_type, max(hook.attach_type, 0), self.maps)
        try:
            self._links += _attach(hook, program, cgroup_root)
        finally:
            os.close(program)  # the link keeps it

    def close(self) -> None:
        """Detach everything. May be called twice.

        Side by side: each detachment waits for the kernel's readers to move on, 16 of them in a row for 0.25 s.
        """
        threads = [
            Thread(target=_close, args=(descriptor,)) for descriptor in (*self._links, *self.maps.values())
        ]
        self._links, self.maps = [], {}
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


def load(compiler: Compiler, cgroup_root: Path | None, *, plan: Sequence[Hook] = EVERYWHERE) -> Probes:
    """Load and attach. Raises KernelError; then nothing stays attached.

    `cgroup_root`: where cgroup2 is mounted; None leaves the cgroup hooks out (no connect is seen then).
    """
    try:
        return _load(compiler.image(), compiler.ring_bytes, cgroup_root, plan)
    except KernelError:
        if not compiler.from_cache:
            raise
        compiler.forget()  # damaged, perhaps: a fresh one decides
        return _load(compiler.image(), compiler.ring_bytes, cgroup_root, plan)


def _load(image: Image, ring_bytes: int, cgroup_root: Path | None, plan: Sequence[Hook]) -> Probes:
    try:
        probes = Probes(image.create_maps(), ring_bytes)
    except OSError as error:
        raise KernelError(
            f"the kernel refuses the probes' maps: {error.strerror}.{_advice(error)}"
        ) from error
    probes.lacks = image.lacks
    try:
        for hook in plan:
            if hook.function not in image.programs:
                continue  # compiled only where the kernel has what it needs
            if hook.kind == "cgroup" and cgroup_root is None:
                probes.missing[hook.target] = "cgroup v2 is not mounted"
                continue
            try:
                probes.attach(hook, image, cgroup_root)
            except OSError as error:
                if hook.required:
                    raise KernelError(_refusal(hook, error)) from error
                probes.missing[hook.target] = error.strerror or str(error)
    except BaseException:
        probes.close()
        raise
    return probes


def _refusal(hook: Hook, error: OSError) -> str:
    notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
    return f"the kernel refuses probe '{hook.function}' at {hook.target}: {error.strerror}.{_advice(error)}{notes}"


def _advice(error: OSError) -> str:
    """EPERM is a matter of privilege or host policy; anything else is the kernel's judgement of the probe."""
    if error.errno == errno.EPERM:
        return (
            " Are you root, with CAP_BPF and CAP_PERFMON, outside a container that withholds bpf(2)? "
            "'ebpfaudit doctor' tells."
        )
    return " 'ebpfaudit doctor' says what this kernel permits; please report what it leaves unexplained."


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
