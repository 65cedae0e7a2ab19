"""What ran is what the record says ran, whatever the program does to be misread."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest
from audited import NO_POLICY, PYTHON, profile

from ebpfaudit.text import hide, show

pytestmark = pytest.mark.kernel

PROGRAMS = Path(__file__).parent / "programs"
ARGV_MAX = 65536


@pytest.fixture(scope="module")
def execs(module_auditor, program, tmp_path_factory):
    """(record, what the workload says of itself, its folder) of one run of programs/execs.py."""
    folder = tmp_path_factory.mktemp("execs")
    command = [*PYTHON, str(PROGRAMS / "execs.py"), str(folder), program("coldname")]
    audited = module_auditor.run(NO_POLICY, command)
    assert audited.exit_code == 0, audited.stderr
    assert audited.result["complete"] is True
    return audited, json.loads(audited.stdout), folder


@pytest.fixture
def one(execs):
    """`one(name)`: the only exec of that child, after its exit status was what it should be."""
    audited, said, _ = execs

    def find(name, status=0):
        pid, ended = said[name]
        assert ended == status
        (event,) = audited.of("exec", pid=pid)
        return event

    return find


def block(argv):
    """The argument block that an event shows."""
    return b"".join(hide(argument) + b"\0" for argument in argv)


def test_hostile_argv_is_kept_exactly_and_harmless(execs, one):
    _, said, _ = execs
    event, real = one("hostile"), bytes.fromhex(said["hostile-argv"])
    assert len(real) == 102400
    assert block(event.argv)[:ARGV_MAX] == real[:ARGV_MAX]
    assert len(block(event.argv)) in (ARGV_MAX, ARGV_MAX + 1), "cut inside an argument, no more"
    assert event.argv_truncated
    assert event.argv_bytes == 102400
    assert all(argument.isprintable() for argument in event.argv)
    assert event.argv[4] == r"\xff\xfe\x85"


@pytest.mark.parametrize("size", [32768, 65536])
def test_argv_is_whole_up_to_64_kib(one, size):
    event = one(f"block-{size}")
    assert len(block(event.argv)) == size
    assert not event.argv_truncated
    assert event.argv_bytes == 0


def test_argv_of_one_byte_more_says_so(one):
    event = one("block-65537")
    assert event.argv_truncated
    assert event.argv_bytes == 65537
    assert (
        block(event.argv)[:ARGV_MAX]
        == (b"true\0block-65537\0" + b"x" * 39999 + b"\0" + b"x" * 65536)[:ARGV_MAX]
    )


def test_a_program_without_arguments(one):
    # Linux 5.18 and later put an empty argv[0] there.
    assert one("no-argv").argv in ((), ("",))


def test_a_script_names_itself_and_its_interpreter(one):
    event = one("script", status=5)
    assert event.script
    assert event.exe == os.path.realpath("/bin/sh")
    assert event.filename == "./script"
    assert event.argv == ("/bin/sh", "-e", "./script", "script-marker")


@pytest.mark.parametrize("name", ["memfd", "memfd-at"])
def test_a_program_in_memory_is_told(one, name):
    event = one(name)
    assert event.memfd
    assert event.deleted
    assert event.exe == "memfd:hidden name"
    assert event.argv == ("true", f"{name}-marker")


def test_a_deleted_program_is_told(execs, one):
    event = one("deleted")
    assert event.deleted
    assert not event.memfd
    assert event.exe == str(execs[2] / "gone")


@pytest.mark.parametrize("name", ["by-fd", "at"])
def test_execveat_shows_the_file_and_not_the_descriptor(execs, one, name):
    event = one(name)
    assert event.exe == str(execs[2] / "kept")
    assert event.filename.startswith("/dev/fd/")
    assert not (event.deleted or event.memfd or event.script)
    assert event.argv == ("true", f"{name}-marker")


def test_names_of_one_file_share_its_identity(execs, one):
    status = os.stat(execs[2] / "kept")
    for name in ("by-fd", "hard-link", "symlink"):
        event = one(name)
        assert (event.ino, event.dev) == (
            status.st_ino,
            f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}",
        )
    assert one("hard-link").exe == str(execs[2] / "second-name")


def test_a_symbolic_link_is_followed_and_named(execs, one):
    event = one("symlink")
    assert event.exe == str(execs[2] / "kept")
    assert event.filename == "./link"


def test_a_path_of_strange_bytes(execs, one):
    event = one("strange")
    assert hide(event.exe) == os.fsencode(execs[2]) + b"/\xff\x1b[31m\nstrange"
    assert event.exe.isprintable()


def test_argv0_cannot_rename_a_program(execs, one):
    event = one("renamed-argv0")
    assert event.argv[0] == "[kworker/0:1]"
    assert event.exe == execs[1]["path-of-true"]
    shell, disguised = execs[0].of("exec", pid=execs[1]["shell-exec-a"][0])
    assert shell.exe == os.path.realpath("/bin/bash")
    assert disguised.argv == ("[sshd]", "shell-marker")
    assert disguised.exe == execs[1]["path-of-true"]


def test_the_loader_shows_what_it_loads(execs, one):
    event = one("loader")
    assert event.exe == execs[1]["path-of-loader"]
    assert event.argv[1:] == ("./kept", "loader-marker")


@pytest.mark.parametrize(
    ("name", "asked", "error", "status"),
    [
        ("enoent", "/no/such/program", "ENOENT", 77),
        ("eacces", "./plain", "EACCES", 77),
        ("at-enoent", "/no/such/at", "ENOENT", 77),
        ("at-eacces", "plain", "EACCES", 77),
        ("enoexec", "./plain", "ENOEXEC", 77),
        ("failed-strange", r"/no/\x1b[31m\xff", "ENOENT", 77),
    ],
)
def test_a_failed_exec_says_what_and_why(one, name, asked, error, status):
    event = one(name, status)
    assert (event.exe, event.error) == (asked, error)


def test_a_failed_exec_is_named_even_from_a_page_that_was_never_read(execs):
    audited, said, _ = execs
    ran, failed = audited.of("exec", pid=said["cold"][0])
    assert not ran.error
    assert (failed.exe, failed.error) == ("/no/such/cold/name", "ENOENT")


def test_a_deep_directory_is_shown_whole(execs):
    (event,) = execs[0].execs("deep-marker")
    assert event.cwd == str(execs[2]) + ("/" + "d" * 77) * 10
    assert len(event.cwd) > 780


def test_more_components_than_are_read_are_marked(execs):
    (event,) = execs[0].execs("deeper-marker")
    assert event.cwd.startswith("…/")
    assert event.cwd.endswith("/n67/n68/n69")


def test_a_thread_that_executes_becomes_the_process(execs):
    audited, said, _ = execs
    pid, status = said["thread"]
    assert status == 0
    (event,) = audited.execs("thread-marker")
    assert event.pid == pid
    (ended,) = audited.of("exit", pid=pid)
    assert ended.start == event.start
    assert len(audited.of("fork", child=pid)) == 1, "its threads are no processes"


def test_23_execs_are_23_events(execs):
    events = execs[0].execs("many-marker")
    assert [event.argv[2] for event in events] == [str(number) for number in range(23)]
    assert len({event.pid for event in events}) == 23


def test_every_process_has_a_parent_a_start_and_an_end(execs):
    audited, _, _ = execs
    root = audited.of("episode-start")[0]
    born = {(root.pid, root.start)} | {(fork.child, fork.child_start) for fork in audited.of("fork")}
    acted = {(event.pid, event.start) for event in audited.of("exec", "exit", "fork")}
    assert acted == born
    assert sorted(born) == sorted((ended.pid, ended.start) for ended in audited.of("exit"))
    parents = {fork.child: fork.pid for fork in audited.of("fork")}
    ran = [event for event in audited.of("exec", error="") if event.pid != root.pid]
    assert [event.ppid for event in ran] == [parents[event.pid] for event in ran]


def test_the_user_is_the_one_it_runs_as(audit):
    nobody = pwd.getpwnam("nobody")
    audited = audit(NO_POLICY, ["/bin/sh", "-c", "/bin/true as-user; id -u"], "--user", "nobody")
    assert audited.stdout == b"%d\n" % nobody.pw_uid
    (event,) = audited.execs("as-user")
    assert event.uid == nobody.pw_uid


def test_a_denied_program_is_killed_before_it_does_anything(audit, require, tmp_path):
    require("signal from exec")
    denied = tmp_path / "denied"
    denied.write_bytes(Path("/usr/bin/touch").read_bytes())
    denied.chmod(0o755)
    (tmp_path / "link").symlink_to(denied)
    ways = [f"{denied} {tmp_path}/1", f"{tmp_path}/link {tmp_path}/2"]
    ways.append(f"ln {denied} {tmp_path}/other; {tmp_path}/other {tmp_path}/3")
    script = "".join(f"({way}); echo $?;" for way in ways)
    audited = audit(profile(rest=f'[exec]\ndeny = ["{denied}"]'), ["/bin/sh", "-c", script])
    assert audited.stdout == b"137\n" * 3
    assert not [path for path in tmp_path.iterdir() if path.name in "123"]
    stopped = audited.of("exec", decision="kill")
    assert [show(os.fsencode(event.exe)) for event in stopped] == [
        str(denied),
        str(denied),
        f"{tmp_path}/other",
    ]
    assert {verdict.rule for verdict in audited.verdicts} == {"exec"}


def test_without_enforcement_the_denied_program_runs_and_is_recorded(audit, tmp_path):
    denied = tmp_path / "denied"
    denied.write_bytes(Path("/usr/bin/touch").read_bytes())
    denied.chmod(0o755)
    rest = f'[exec]\ndeny = ["{denied}"]'
    audited = audit(profile(rest=rest), [str(denied), f"{tmp_path}/made"], "--enforce", "off")
    assert audited.exit_code == 0, audited.stderr
    assert (tmp_path / "made").exists()
    (verdict,) = audited.verdicts
    assert (verdict.rule, verdict.action) == ("exec", "deny")
    assert all(done.result == "not-enforced" for done in audited.enforcements)
