"""Programs are known by their content, whatever they are called and however their files behave."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ebpfaudit.events import Exec
from ebpfaudit.kernel import content
from ebpfaudit.kernel.content import Findings, Unreadable, hash_file, kernel_inode, open_operand, same_content
from ebpfaudit.kernel.identity import Identifier
from ebpfaudit.kernel.known import Known, inactive, inactive_text
from ebpfaudit.kernel.procfs import start_ticks
from ebpfaudit.text import show

SLEEP = os.path.realpath("/bin/sleep")
PYTHON = os.path.realpath(sys.executable)
LOADER = os.path.realpath("/lib64/ld-linux-x86-64.so.2")
SETTLED_S = content._SETTLED_NS / 1e9 + 0.02


@pytest.fixture
def identifier():
    """`identifier(same_as, sha256)` starts one that ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(same_as=(), sha256=()):
            made = Identifier(frozenset(map(str, same_as)), frozenset(sha256))
            stack.callback(made.close)
            return made

        yield start


@pytest.fixture
def running():
    """`running(argv, **popen)`: the Exec event of a live process with these arguments."""
    with contextlib.ExitStack() as stack:

        def start(argv, **popen):
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **popen
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            exe = f"/proc/{process.pid}/exe"
            wanted = os.path.realpath(popen.get("executable", argv[0]))
            while os.path.realpath(exe) != wanted:  # not executed yet
                assert process.poll() is None
                time.sleep(0.001)
            return executed(wanted, argv, process.pid, str(popen.get("cwd", "/")))

        yield start


def executed(path, argv, pid, cwd="/", start=None):
    status = os.stat(path)
    return Exec(
        time.monotonic_ns(), pid, start_ticks(pid) if start is None else start, 1, show(os.fsencode(path)),
        tuple(show(os.fsencode(each)) for each in argv), cwd, "x", 0,
        f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}", status.st_ino,
    )  # fmt: skip


def found(identifier, *events):
    for event in events:
        identifier.submit(1, event)
    answers = identifier.finish(10)
    assert {number for number, _ in answers} <= {1}
    return [identity for _, identity in answers]


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def copy(tmp_path):
    return str(shutil.copy(SLEEP, tmp_path / "notes"))


def test_a_renamed_copy_is_the_same(identifier, running, copy):
    event = running([copy, "60"])
    (identity,) = found(identifier([SLEEP]), event)
    assert (identity.pid, identity.start, identity.path) == (event.pid, event.start, copy)
    assert (identity.same_as, identity.sha256, identity.error) == ((SLEEP,), sha256(SLEEP), "")
    assert identity.ts_ns > event.ts_ns


def test_the_file_itself_is_the_same(identifier, running):
    (identity,) = found(identifier([SLEEP]), running([SLEEP, "60"]))
    assert identity.same_as == (SLEEP,)


def test_a_copy_that_is_gone_is_read_through_its_process(identifier, running, copy):
    event = running([copy, "60"])
    os.unlink(copy)
    (identity,) = found(identifier([SLEEP]), event)
    assert identity.same_as == (SLEEP,)


def test_every_name_of_the_content_is_told(identifier, running, copy, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(SLEEP)
    (identity,) = found(identifier([SLEEP, link, PYTHON]), running([copy, "60"]))
    assert identity.same_as == tuple(sorted((SLEEP, str(link))))


def test_another_file_of_the_same_size_is_not(identifier, running, copy):
    with open(copy, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    assert found(identifier([SLEEP]), running([copy, "60"])) == []


def test_a_hash_is_found_in_a_file_of_any_size(identifier, running, copy):
    with open(copy, "ab") as file:
        file.write(b"tail")
    event = running([copy, "60"])
    (identity,) = found(identifier(sha256=[sha256(copy)]), event)
    assert (identity.sha256, identity.same_as) == (sha256(copy), ())
    assert found(identifier(sha256=["0" * 64]), event) == []


@pytest.mark.parametrize(
    ("program", "argv"),
    [
        (PYTHON, ["python3", "-u", "tool.py"]),
        (PYTHON, ["python3", "./link.py"]),
        ("/bin/sh", ["sh", "-e", "tool.py"]),
    ],
)
def test_what_an_interpreter_runs_is_looked_at(identifier, running, tmp_path, program, argv):
    known = tmp_path / "known"
    known.write_text("read x\n" if program == "/bin/sh" else "input()\n")
    shutil.copy(known, tmp_path / "tool.py")
    (tmp_path / "link.py").symlink_to("tool.py")
    event = running(argv, executable=program, cwd=tmp_path)
    (identity,) = found(identifier([known]), event)
    assert (identity.path, identity.same_as) == (str(tmp_path / argv[-1]), (str(known),))


@pytest.mark.skipif(not os.path.exists(LOADER), reason="no glibc here")
def test_what_the_dynamic_linker_runs_is_looked_at(identifier, running, copy, tmp_path):
    (identity,) = found(identifier([SLEEP]), running([LOADER, "./notes", "60"], cwd=tmp_path))
    assert (identity.path, identity.same_as) == (copy, (SLEEP,))


def ended():
    """A pid that nobody has any more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_process_that_has_ended_is_known_by_its_file(identifier, copy):
    (identity,) = found(identifier([SLEEP]), executed(copy, [copy], ended(), start=1))
    assert identity.same_as == (SLEEP,)


def test_another_file_in_its_place_is_not_taken_for_it(identifier, copy, tmp_path):
    event = executed(copy, [copy], ended(), start=1)
    os.rename(shutil.copy(SLEEP, tmp_path / "other"), copy)
    identify = identifier([SLEEP])
    (identity,) = found(identify, event)
    assert (identity.same_as, identity.error) == ((), "ESTALE")
    assert identify.unidentified == 1


def test_what_cannot_be_known_is_told_once_and_counted(identifier, tmp_path):
    gone = str(shutil.copy(SLEEP, tmp_path / "gone"))
    event = executed(gone, [gone], ended(), start=1)
    os.unlink(gone)
    identify = identifier([SLEEP])
    (identity,) = found(identify, event, event, event)
    assert (identity.path, identity.error, identity.sha256) == (gone, "ENOENT", "")
    assert identify.unidentified == 3


@pytest.mark.parametrize("trick", ["fifo", "directory", "/dev/zero", "/dev/tty", "loop", "socket"])
def test_no_operand_blocks_or_harms(identifier, running, tmp_path, trick):
    path = tmp_path / "operand"
    if trick == "fifo":
        os.mkfifo(path)
    elif trick == "directory":
        path.mkdir()
    elif trick == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.symlink_to(path if trick == "loop" else trick)
    sleeping = running([SLEEP, "60"])
    event = executed("/bin/sh", ["sh", str(path)], sleeping.pid)
    began = time.monotonic()
    identities = found(identifier(sha256=["0" * 64]), event)
    assert time.monotonic() - began < 5
    # The process runs something else than the event says, hence the first of the two.
    assert {each.path: each.error for each in identities if each.path == str(path)} == {
        str(path): "ELOOP" if trick == "loop" else "not a regular file"
    }


def test_an_inherited_descriptor_is_looked_at_in_its_process(identifier, running, tmp_path):
    script = tmp_path / "script"
    script.write_text("input()\n")
    descriptor = os.open(script, os.O_RDONLY)
    event = running(["python3", f"/dev/fd/{descriptor}"], executable=PYTHON, pass_fds=(descriptor,))
    os.unlink(script)
    os.close(descriptor)
    (identity,) = found(identifier(sha256=[hashlib.sha256(b"input()\n").hexdigest()]), event)
    assert identity.path == f"/dev/fd/{descriptor}"


def test_absolute_links_of_another_root_end_in_it(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("inner")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "up").symlink_to("../../../../../etc/passwd")
    root = os.open(tmp_path, os.O_PATH)
    for name in (b"/link", b"/up", b"/../../etc/passwd"):
        descriptor = content._open_in(root, name)
        assert hash_file(descriptor) == hashlib.sha256(b"inner").hexdigest()
        os.close(descriptor)
    os.close(root)


def test_a_name_longer_than_any_path_is_no_error_of_ours():
    with pytest.raises(Unreadable, match="ENAMETOOLONG"):
        open_operand(os.getpid(), 0, "/" + "x" * 5000)


def test_old_and_new_content_of_a_known_file_are_recognised(tmp_path):
    known = tmp_path / "tool"
    known.write_bytes(b"first")
    findings = Findings()
    files = Known(frozenset([str(known)]), findings)
    while files.read_one():
        pass
    new = tmp_path / "new"
    new.write_bytes(b"later")
    os.rename(new, known)
    files.refresh()
    while files.read_one():
        pass
    for held in (b"first", b"later"):
        assert files.names(hashlib.sha256(held).hexdigest()) == (str(known),)
    other = tmp_path / "copy"
    other.write_bytes(b"first")
    descriptor = os.open(other, os.O_PATH)
    assert files.recognise(descriptor, 5) is None, "only the hash can tell"
    os.close(descriptor)


def test_a_known_file_that_appears_later_is_recognised(identifier, running, copy, tmp_path):
    identify = identifier([tmp_path / "tool"])
    assert "no such file here" in identify.inactive[0]
    event = running([copy, "60"])
    assert found(identify, event) == []
    shutil.copy(SLEEP, tmp_path / "tool")
    time.sleep(1.1)
    (identity,) = found(identify, event)
    assert identity.same_as == (str(tmp_path / "tool"),)


def test_a_forged_time_does_not_hide_a_change(identifier, running, copy):
    Path(copy).write_bytes(b"#" * os.path.getsize(SLEEP))
    os.utime(copy, ns=(1, 1))
    time.sleep(SETTLED_S)
    identify = identifier([SLEEP])
    pid = running([SLEEP, "60"]).pid
    assert found(identify, executed(copy, [copy], pid)) == []
    with open(copy, "r+b") as file:
        file.write(Path(SLEEP).read_bytes())
    os.utime(copy, ns=(1, 1))
    (identity,) = found(identify, executed(copy, [copy], pid))
    assert identity.same_as == (SLEEP,)


def test_findings_are_kept_only_of_settled_files_and_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "_REMEMBERED", 3)
    findings = Findings()
    paths = [tmp_path / str(number) for number in range(5)]
    for path in paths:
        path.touch()
    findings.keep(os.stat(paths[0]), "fresh")
    assert findings.recall(os.stat(paths[0])) is None
    time.sleep(SETTLED_S)
    for path in paths:
        findings.keep(os.stat(path), path.name)
    assert [findings.recall(os.stat(path)) for path in paths] == [None, None, "2", "3", "4"]


def test_files_of_other_sizes_differ_unread(tmp_path):
    for name, size in (("a", 10), ("b", 11)):
        (tmp_path / name).write_bytes(b"x" * size)
    one, two = (os.open(tmp_path / name, os.O_PATH) for name in "ab")
    assert not same_content(one, two)
    assert same_content(one, one)
    os.close(one)
    os.close(two)


def test_a_multi_call_program_recognises_nothing(tmp_path):
    busybox = tmp_path / "busybox"
    shutil.copy(SLEEP, busybox)
    (tmp_path / "nc").symlink_to("busybox")
    named = frozenset(map(str, (busybox, tmp_path / "nc", tmp_path / "absent", tmp_path, SLEEP)))
    assert inactive(named) == {
        str(tmp_path): "not a regular file",
        str(tmp_path / "absent"): "no such file here",
        str(tmp_path / "nc"): "it is busybox, which goes by many names",
    }
    assert len(inactive_text(named)) == 3
    assert Known(frozenset([str(tmp_path / "nc")]), Findings()).sizes == set()


def test_asking_never_waits(identifier, copy):
    identify = identifier([SLEEP])
    os.kill(identify._pid, signal.SIGSTOP)
    event = executed(copy, [copy], os.getpid())
    began = time.monotonic()
    for _ in range(20_000):
        identify.submit(1, event)
    assert time.monotonic() - began < 10
    assert identify.take() == []
    assert identify.unidentified + identify.waiting == 20_000
    assert identify.unidentified > 10_000
    assert identify.finish(0.05) == []
    assert identify.unidentified == 20_000
    os.kill(identify._pid, signal.SIGCONT)


def test_a_killed_helper_is_counted_and_not_waited_for(identifier, copy):
    identify = identifier([SLEEP])
    signal.pidfd_send_signal(identify._process, signal.SIGKILL)
    poll = select.poll()
    poll.register(identify.descriptor, select.POLLIN)
    assert poll.poll(5000)[0][1] & select.POLLHUP
    identify.submit(1, executed(copy, [copy], os.getpid()))
    began = time.monotonic()
    assert identify.finish(5) == []
    assert time.monotonic() - began < 1
    assert identify.unidentified == 1


def test_it_ends_with_its_owner(tmp_path):
    code = (
        "import os; from ebpfaudit.kernel.identity import Identifier;"
        "print(Identifier(frozenset(['/bin/sh']), frozenset())._pid, flush=True); os.kill(os.getpid(), 9)"
    )
    owner = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(owner.stdout)
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} outlived its owner")


def test_the_kernels_inode_of_an_ordinary_file(tmp_path):
    path = tmp_path / "file"
    path.touch()
    descriptor = os.open(path, os.O_PATH)
    device, inode = kernel_inode(descriptor)
    os.close(descriptor)
    assert inode == os.stat(path).st_ino
    assert device.count(":") == 1
