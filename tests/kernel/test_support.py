"""The probing of the kernel, against what the kernel then really does."""

import contextlib
import os
import socket
import struct
import time
from pathlib import Path

import pytest

from ebpfaudit.kernel import bpf, trials
from ebpfaudit.kernel.coverage import coverage, gaps, promises
from ebpfaudit.kernel.support import Check, Support, probe

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

RETURN_0 = struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)


@pytest.fixture(scope="module")
def support():
    return probe()


def test_probing_is_quick():
    times = []
    for _ in range(7):
        began = time.perf_counter()
        probe()
        times.append(time.perf_counter() - began)
    assert sorted(times)[3] < 0.03, "3 to 6 ms on the machine it was written on"


def test_probing_leaves_nothing_behind():
    probe()
    descriptors = os.listdir("/proc/self/fd")
    mounts = Path("/proc/self/mounts").read_text()
    probe()
    assert os.listdir("/proc/self/fd") == descriptors
    assert Path("/proc/self/mounts").read_text() == mounts
    if trials.cgroup2_mounted():
        assert not list(trials.cgroup2_root().glob(f"ebpfaudit-trial-{os.getpid()}"))


def test_names_are_unique_and_a_wrong_one_is_an_error(support):
    names = [check.name for check in support.checks]
    assert len(names) == len(set(names))
    with pytest.raises(KeyError):
        support.ok("conect4")


def refused_inside(cgroup, attach_type, act):
    """The errno that `act` meets in a process in `cgroup`, where a program at `attach_type` says no, or 0."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))
            directory = os.open(cgroup, os.O_RDONLY)
            bpf.attach_cgroup(
                bpf.prog_load(bpf.PROG_CGROUP_SOCK_ADDR, RETURN_0, attach_type), directory, attach_type
            )
            number = 0
            try:
                act()
            except OSError as error:
                number = error.errno
            os.write(write, b"%d" % number)
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return int(answer)


@pytest.fixture
def cgroup():
    path = trials.cgroup2_root() / f"ebpfaudit-test-support-{os.getpid()}"
    path.mkdir()
    yield path
    for _ in range(100):
        with contextlib.suppress(OSError):
            path.rmdir()
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} is still in use")


def act_with(family, kind, name, address):
    def act():
        with socket.socket(family, kind) as made:
            made.sendto(b"x", address) if name.startswith("sendmsg") else made.connect(address)

    return act


@pytest.mark.parametrize(
    ("name", "attach_type", "family", "address"),
    [
        ("connect4", bpf.ATTACH_CONNECT4, socket.AF_INET, ("127.0.0.1", 9)),
        ("connect6", bpf.ATTACH_CONNECT6, socket.AF_INET6, ("::1", 9)),
        ("sendmsg4", bpf.ATTACH_SENDMSG4, socket.AF_INET, ("127.0.0.1", 9)),
        ("sendmsg6", bpf.ATTACH_SENDMSG6, socket.AF_INET6, ("::1", 9)),
        ("connect_unix", bpf.ATTACH_CONNECT_UNIX, socket.AF_UNIX, "\0ebpfaudit-test-support"),
        ("sendmsg_unix", bpf.ATTACH_SENDMSG_UNIX, socket.AF_UNIX, "\0ebpfaudit-test-support"),
    ],
)
def test_a_hook_reported_as_there_refuses_what_its_name_says(
    support, cgroup, name, attach_type, family, address
):
    if not support.ok(name):
        pytest.skip(f"{name}: {support[name].reason}")
    kind = socket.SOCK_DGRAM
    with contextlib.ExitStack() as stack:
        if family == socket.AF_UNIX:
            stack.enter_context(socket.socket(family, kind)).bind(address)
        assert refused_inside(cgroup, attach_type, act_with(family, kind, name, address)) == 1  # EPERM
        other = "connect" if name.startswith("sendmsg") else "sendmsg"
        assert refused_inside(cgroup, attach_type, act_with(family, kind, other, address)) == 0


def test_kernel_files_are_read_without_a_mount_of_ours(support):
    if not support.ok("system call tracepoints"):
        pytest.skip(support["system call tracepoints"].reason)
    assert int(trials.kernel_file("tracefs", "events/syscalls/sys_enter_ioctl/id")) > 0
    with pytest.raises(FileNotFoundError):
        trials.kernel_file("tracefs", "events/syscalls/sys_enter_nonsense/id")


def test_refusals_are_told_apart():
    with pytest.raises(OSError, match="Invalid argument") as unknown:
        trials.loads(250)()
    assert "does not have it (EINVAL)" in trials.why(unknown.value)
    exit_without_a_result = RETURN_0[8:]
    with pytest.raises(PermissionError) as bad:
        trials.loads(bpf.PROG_RAW_TRACEPOINT, code=exit_without_a_result)()
    assert "the verifier refused it (EACCES)" in trials.why(bad.value)


def with_missing(support, *names):
    """The same host without some things."""
    checks = [
        Check(c.name, False, "gone", c.consequence or "something is lost", "", c.required)
        if c.name in names
        else c
        for c in support.checks
    ]
    return Support(support.kernel, support.machine, tuple(checks))


def test_what_is_missing_is_said_in_the_coverage(support):
    if not support.usable:
        pytest.skip("an audit does not work here")
    assert [promise.name for promise in promises(support)] == ["exec", "connect", "gpu", "lineage", "kill"]
    assert not any("Unix" in gap for gap in gaps(support)) or not support.ok("connect_unix")
    for name in (
        "connect4",
        "connect_unix",
        "cgroup device",
        "system call tracepoints",
        "signal from connect",
    ):
        less = with_missing(support, name)
        assert len(gaps(less)) > len(gaps(support)) or not support.ok(name), name
        assert coverage(less) != coverage(support)


def test_raw_sockets_are_admitted_to_be_a_gap(support):
    assert any("AF_PACKET" in gap for gap in gaps(support))


def test_without_a_required_thing_no_run(support):
    if not support.usable:
        pytest.skip("an audit does not work here")
    required = [check.name for check in support.checks if check.required]
    assert {"btf", "bcc", "privileges", "raw tracepoints", "ring buffer"} <= set(required)
    for name in required:
        assert not with_missing(support, name).usable
