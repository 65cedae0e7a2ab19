"""Fixtures for tests that run the real `ebpfaudit run` on the running kernel."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from audited import Auditor

PROGRAMS = Path(__file__).parent / "kernel" / "programs"


# A runner that starts us in the background may leave SIGINT ignored, and every program of ours would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _insists() -> bool:
    """Where the kernel tests must run, lacking root or bcc is a failure and not an excuse."""
    return bool(os.environ.get("CI") or os.environ.get("EBPFAUDIT_REQUIRE_KERNEL") == "1")


@pytest.fixture(scope="session")
def kernel():
    """What this kernel permits (`support.Support`). Skips where nothing can be audited at all."""
    missing = "needs root" if os.geteuid() != 0 else ""
    if not missing:
        try:
            import bcc  # noqa: F401
        except ImportError as error:
            missing = f"needs the distribution's bcc ({error})"
    if missing:
        (pytest.fail if _insists() else pytest.skip)(missing)
    from ebpfaudit.kernel import support

    found = support.probe()
    for check in found.checks:
        if check.required and not check.ok:
            pytest.skip(f"this kernel refuses {check.name}: {check.reason}")
    return found


@pytest.fixture(scope="session")
def require(kernel):
    """`require("connect_unix")` skips the test where the kernel refuses that, saying why."""

    def demand(*names: str) -> None:
        for name in names:
            if not kernel.ok(name):
                pytest.skip(f"this kernel refuses {name}: {kernel[name].reason}")

    return demand


def _auditor(folder: Path):
    auditor = Auditor(folder)
    try:
        yield auditor
    finally:
        auditor.check_nothing_is_left()


@pytest.fixture
def auditor(kernel, tmp_path):
    """Starts audited commands; afterwards nothing of their episodes may be left on the host."""
    yield from _auditor(tmp_path)


@pytest.fixture
def audit(auditor):
    """`audit(profile_text, command, *options)` runs a command to its end and returns what became of it."""
    return auditor.run


@pytest.fixture(scope="module")
def module_auditor(kernel, tmp_path_factory):
    """The same for a run that many tests of a module look at."""
    yield from _auditor(tmp_path_factory.mktemp("audited"))


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """`program("name")` compiles tests/kernel/programs/name.c, once, where every user can run it."""
    folder = tmp_path_factory.mktemp("programs")

    def build(name: str, *flags: str) -> str:
        target = folder / name
        if not target.exists():
            command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", *flags, "-pthread", "-o", target]
            subprocess.run([*command, PROGRAMS / f"{name}.c"], check=True, timeout=60)
        return str(target)

    return build
