"""No process sheds its tag, and what the probes hand over adds up."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections import Counter

import pytest
from audited import NO_POLICY, PYTHON, profile, until

from ebpfaudit.enforce.cgroup import cgroup2_mount

pytestmark = pytest.mark.kernel

WAYS = [
    "fork", "vfork", "thread", "daemon", "clone-parent", "spawn", "new-namespaces", "thread-exec",
    "leaderless-exec",
]  # fmt: skip


@pytest.fixture(scope="module")
def births(module_auditor, program):
    """One run of all ways to be born: {way: pid}, and the record."""
    births = program("births")
    script = "".join(f"echo {way} $({births} {way});" for way in WAYS)
    audited = module_auditor.run(NO_POLICY, ["/bin/sh", "-c", script])
    assert audited.exit_code == 0, audited.stderr
    return dict(line.split() for line in audited.stdout.decode().splitlines()), audited


@pytest.mark.parametrize("way", WAYS)
def test_every_child_belongs_to_the_episode(births, way):
    pids, audited = births
    pid = int(pids[way])
    (event,) = audited.execs(way)[-1:]
    assert event.pid == pid
    assert event.exe.endswith("/true")
    (born,) = audited.of("fork", child=pid)
    assert born.child_start == event.start
    (ended,) = audited.of("exit", pid=pid)
    assert (ended.start, ended.code, ended.signal) == (event.start, 0, 0)


def test_nothing_is_missing_from_the_family_tree(births):
    _, audited = births
    root = audited.of("episode-start")[0]
    born = Counter((fork.child, fork.child_start) for fork in audited.of("fork"))
    assert set(born.values()) == {1}
    assert {(fork.pid, fork.start) for fork in audited.of("fork")} <= {*born, (root.pid, root.start)}
    assert Counter((ended.pid, ended.start) for ended in audited.of("exit")) == born + Counter(
        [(root.pid, root.start)]
    )
    assert audited.result["processes"] == len(born) + 1
    assert audited.result["complete"] is True


def test_a_daemon_is_still_denied(audit, program):
    """Its parent is dead, its session its own, its cgroup left: the tag holds."""
    root = cgroup2_mount()
    if root is None:
        pytest.skip("no cgroup v2 on this host")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {listener.getsockname()[1]})))"
        leave = f'echo 0 >{root}/cgroup.procs; exec {" ".join(PYTHON)} -c "{code}"'
        script = 'setsid sh -c "$1" & wait $!; setsid sh -c "(sleep 0.05; $1) &"; sleep 0.5'
        audited = audit(profile('default = "deny"'), ["/bin/sh", "-c", script, "sh", leave])
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert audited.stdout == b"1\n1\n", audited.stderr
    assert len(audited.of("connect", decision="deny")) == 2
    moves = audited.of("cgroup-move")
    assert [(move.path, move.inside) for move in moves] == [("/", False)] * 2
    assert {move.by_pid for move in moves} == {move.pid for move in moves}


def test_a_move_inside_the_episode_is_told_from_one_out_of_it(auditor):
    if cgroup2_mount() is None:
        pytest.skip("no cgroup v2 on this host")
    script = (
        'here=$(cgroup=$(sed -n s/^0:://p /proc/self/cgroup); echo "$0$cgroup"); mkdir "$here/below";'
        'echo $$ >"$here/below/cgroup.procs"; echo $$ >"$here/cgroup.procs"; rmdir "$here/below"'
    )
    audited = auditor.run(NO_POLICY, ["/bin/sh", "-ec", script, str(cgroup2_mount())])
    assert audited.exit_code == 0, audited.stderr
    below, back = audited.of("cgroup-move")
    assert below.inside
    assert back.inside
    assert below.path == back.path + "/below"


def test_who_comes_in_belongs_to_the_episode(auditor, program):
    """By a move, and by clone3 into the cgroup."""
    run = auditor.start(NO_POLICY, ["/bin/cat"], stdin=subprocess.PIPE)
    registered = run.registration()
    if not registered.cgroup:
        pytest.skip("no cgroup v2 on this host")
    cgroup = registered.cgroup + "/run"
    inside = subprocess.run(
        [program("intrude"), cgroup, "/bin/true", "cloned"], capture_output=True, check=True
    )
    moved = subprocess.Popen(
        ["/bin/sh", "-c", f"echo $$ >{cgroup}/cgroup.procs; /bin/true moved; exec /bin/true again"]
    )
    moved.wait(30)
    audited = run.wait(b"")
    assert [event.pid for event in audited.execs("cloned")] == [int(inside.stdout)]
    (event,) = audited.of("cgroup-move")
    assert (event.pid, event.inside) == (moved.pid, True)
    assert [event.ppid for event in audited.execs("moved")] == [moved.pid]
    assert [event.pid for event in audited.execs("again")] == [moved.pid]
    assert len(audited.of("exit", pid=moved.pid)) == 1
    assert audited.result["complete"] is True


def test_a_tree_of_300_levels(audit, program):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {listener.getsockname()[1]})))"
        command = [program("forks"), "chain", "300", *PYTHON, "-c", code]
        audited = audit(profile('default = "deny"'), command)
    assert audited.exit_code == 0, audited.stderr
    assert audited.stdout == b"1\n"
    parents = {fork.child: fork.pid for fork in audited.of("fork")}
    (denied,) = audited.of("connect", decision="deny")
    pid, depth = denied.pid, 0
    while pid in parents:
        pid, depth = parents[pid], depth + 1
    assert depth == 300
    assert pid == audited.of("episode-start")[0].pid
    assert audited.result["processes"] == 301


def test_a_kill_reaches_300_levels_up(audit, program, require):
    """The tree is that of the root's child: it dies as a whole, and the root tells."""
    code = "import socket, time; socket.socket().connect_ex(('127.0.0.1', 9)); time.sleep(60)"
    chain = [program("forks"), "chain", "300", *PYTHON, "-c", code]
    audited = audit(profile('default = "kill"'), ["/bin/sh", "-c", '"$@"; echo $?', "sh", *chain])
    assert audited.exit_code == 0, audited.stderr
    assert audited.stdout == b"137\n"
    (done,) = audited.enforcements
    assert done.result == "killed"
    assert done.survivors == ()
    assert done.processes >= 300
    assert Counter(ended.signal for ended in audited.of("exit")) == {signal.SIGKILL: 301, 0: 1}


def records(audited):
    """How many records of processes were received."""
    return len(audited.of("fork", "exit", "exec"))


def test_a_storm_of_10_000_forks_is_all_tagged(audit, program):
    audited = audit(NO_POLICY, [program("forks"), "storm", "10000"])
    assert audited.exit_code == 0, audited.stderr
    result = audited.result
    assert result["complete"] is (result["lost"] == 0)
    lost = sum(event.count for event in audited.of("lost"))
    assert lost == result["lost"]
    forks, exits = audited.of("fork"), audited.of("exit")
    if not lost:
        assert len(forks) == 10000
        assert len(exits) == 10001
    root = audited.of("episode-start")[0]
    assert {(fork.pid, fork.start) for fork in forks} == {(root.pid, root.start)}
    assert records(audited) + lost == 1 + 10000 + 10001, "one exec; each is born once and ends once"
    assert len({(fork.child, fork.child_start) for fork in forks}) == len(forks)


def test_what_a_small_buffer_loses_is_counted_and_said(auditor, program, tmp_path):
    """An auditor that gets no CPU for the length of a storm, with a buffer of 4 KiB."""
    script = f"echo ready; read go; {program('forks')} storm 701; : >{tmp_path}/done; read end"
    run = auditor.start(NO_POLICY, ["/bin/sh", "-c", script], "--ring-size", "4", stdin=subprocess.PIPE)
    assert run.process.stdout.readline() == b"ready\n"
    run.process.send_signal(signal.SIGSTOP)
    try:
        run.process.stdin.write(b"go\n")
        run.process.stdin.flush()
        until((tmp_path / "done").exists, "the storm is over", timeout_s=60)
    finally:
        run.process.send_signal(signal.SIGCONT)
    audited = run.wait(b"end\n")
    assert audited.exit_code == 0, audited.stderr
    lost = sum(event.count for event in audited.of("lost"))
    assert lost > 1000, "4 KiB cannot hold as much"
    assert audited.result["lost"] == lost
    assert audited.result["complete"] is False
    assert audited.end.complete is False
    assert audited.end.lost == lost
    assert f"INCOMPLETE: {lost:,} records lost" in audited.stderr
    assert records(audited) + lost == 2 + 702 + 703, "every record is in one column or the other"
