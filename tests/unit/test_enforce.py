"""Enforcement without root: what is recorded, who is meant, and the way without a cgroup."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from ebpfaudit.enforce.cgroup import cgroup2_mount, directory_name
from ebpfaudit.enforce.disarmer import Disarmer
from ebpfaudit.enforce.enforcer import Enforcer
from ebpfaudit.enforce.lineage import Tree
from ebpfaudit.enforce.pidfd import open_pidfd, read_stat, send
from ebpfaudit.enforce.sweep import sweep
from ebpfaudit.events import Connect, Fork, Lost
from ebpfaudit.process import ProcessTable
from ebpfaudit.verdicts import Verdict

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
"""
UNIFIED = """\
20 1 0:5 / /proc rw - proc proc rw
35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate
"""
ELSEWHERE = "35 24 0:30 / /mnt/odd\\040cgroup2\\134x rw - cgroup2 none rw\n"


@pytest.mark.parametrize(
    ("mountinfo", "where"),
    [
        (HYBRID, "/sys/fs/cgroup/unified"),
        (UNIFIED, "/sys/fs/cgroup"),
        (ELSEWHERE, "/mnt/odd cgroup2\\x"),
        (ELSEWHERE + UNIFIED, "/sys/fs/cgroup"),
        ("31 23 0:28 / /cgroup2 rw - tmpfs cgroup2 rw\n", None),
        ("", None),
    ],
)
def test_where_cgroup2_is_mounted(mountinfo, where):
    found = cgroup2_mount(mountinfo)
    assert (str(found) if found else None) == where


@pytest.mark.parametrize(
    ("episode", "name"),
    [("ci-7_a.b", "ci-7_a.b"), ("../x", ".._x"), ("", "_"), ("a\nb c", "a_b_c"), ("ü" * 90, "_" * 64)],
)
def test_a_directory_name_is_safe_and_still_readable(episode, name):
    assert directory_name(episode) == name


def test_the_disarmer_allows_the_limit_in_any_window():
    disarmer = Disarmer(limit=3, window_s=60)
    assert [disarmer.judge(second * 10**9) for second in (0, 10, 20, 61, 71, 81)] == ["kill"] * 6


def test_the_disarmer_escalates_once_and_then_rations():
    disarmer = Disarmer(limit=2, window_s=60)
    answers = [disarmer.judge(second * 10**9) for second in (0, 1, 2, 3, 4, 5, 6, 62, 63, 64, 65)]
    first = ["kill", "kill", "escalate", "kill", "kill", "refuse", "refuse", "refuse"]
    assert answers == [*first, "kill", "kill", "refuse"]


def connect(pid: int, start: int, decision: str) -> Connect:
    return Connect(7, pid, start, "x", "ipv4", "tcp", "192.0.2.1", 22, decision=decision)


def strike(enforcer: Enforcer, event, action="kill", scope="tree"):
    return enforcer.carry_out(Verdict(5, action, "r", "dst", "x", scope=scope), event, 9)


@pytest.mark.parametrize(
    ("mode", "decision", "result", "method"),
    [
        ("on", "deny", "denied", "probe"),
        ("on", "kill", "denied", "probe"),
        ("on", "allow", "not-enforced", ""),
        ("on", "", "not-enforced", ""),
        ("off", "deny", "not-enforced", ""),
    ],
)
def test_a_denial_is_the_probes_doing_or_nobodys(mode, decision, result, method):
    enforcer = Enforcer(None, ProcessTable(), set, mode=mode)
    record = strike(enforcer, connect(4, 4, decision), "deny")
    assert (record.result, record.method, record.processes) == (result, method, 0)
    assert (record.seq, record.rule, record.detected_ns, record.decided_ns) == (5, "r", 7, 9)


def test_an_action_below_deny_is_not_for_the_enforcer():
    with pytest.raises(ValueError, match="'alert'"):
        strike(Enforcer(None, ProcessTable(), set), connect(4, 4, ""), "alert")


def test_an_event_without_a_process_kills_nobody():
    assert strike(Enforcer(None, ProcessTable(), set), Lost(1, 5)).result == "already-exited"


@pytest.fixture
def sleepers():
    """A root's two children, as a table knows them."""
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    table = ProcessTable()
    table.set_root(os.getpid(), read_stat(os.getpid()).start)
    for process in processes:
        table.fork(Fork(1, *table.root.key, process.pid, read_stat(process.pid).start))
    yield table, *processes
    for process in processes:
        process.kill()
        process.wait()


def event_of(table: ProcessTable, pid: int) -> Connect:
    (process,) = (process for process in table.alive() if process.pid == pid)
    return connect(process.pid, process.start, "")


def test_a_dry_run_touches_nobody(sleepers):
    table, first, second = sleepers
    for scope in ("process", "tree", "episode"):
        for action in ("kill", "freeze"):
            record = strike(Enforcer(None, table, set, mode="off"), event_of(table, first.pid), action, scope)
            assert (record.result, record.scope, record.processes) == ("not-enforced", scope, 0)
    assert first.poll() is None
    assert second.poll() is None


@pytest.mark.parametrize("scope", ["process", "tree"])
def test_without_a_cgroup_and_without_root_a_child_is_killed(sleepers, scope):
    table, first, second = sleepers
    record = strike(Enforcer(None, table, set), event_of(table, first.pid), scope=scope)
    assert (record.result, record.method, record.processes) == ("killed", "pidfd", 1)
    assert record.root_pid == first.pid
    assert 0 < record.killed_ns <= record.gone_ns
    assert first.wait() == -9
    assert second.poll() is None


def test_the_auditor_itself_is_spared(sleepers):
    """It is the root here, and tagged: everybody dies but us and pid 1."""
    table, first, second = sleepers
    enforcer = Enforcer(None, table, lambda: {1, os.getpid(), first.pid, second.pid})
    record = strike(enforcer, event_of(table, os.getpid()))
    assert (record.scope, record.result, record.processes) == ("episode", "killed", 2)
    assert (first.wait(), second.wait()) == (-9, -9)


def test_a_kill_beyond_the_limit_is_refused_and_says_why(sleepers):
    table, first, _ = sleepers
    disarmer = Disarmer(limit=0)
    assert disarmer.judge(8) == "escalate"
    record = strike(Enforcer(None, table, set, disarmer=disarmer), event_of(table, first.pid))
    assert record.result == "disarmed"
    assert "more than 0 kills within 60 s" in record.error
    assert first.poll() is None


def test_a_survivor_is_named(sleepers, monkeypatch):
    table, first, _ = sleepers
    monkeypatch.setattr("signal.pidfd_send_signal", lambda fd, signum: None)  # as to one in endless I/O
    begin = time.monotonic()
    enforcer = Enforcer(None, table, set, gone_timeout_s=0.1)
    record = strike(enforcer, event_of(table, first.pid))
    assert (record.result, record.survivors, record.gone_ns) == ("partial", (first.pid,), 0)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("pid", [0, 1, os.getpid(), -1, 4194305])
def test_no_pidfd_for_whom_we_must_not_touch(pid):
    stat = read_stat(pid) if pid > 0 else None
    assert open_pidfd(pid, stat.start if stat else 0) is None


def test_a_signal_reaches_one_life_of_a_pid_only(sleepers):
    _, first, second = sleepers
    start = read_stat(first.pid).start
    assert not send(first.pid, start + 1, 9)
    assert first.poll() is None
    assert send(first.pid, start, 9)
    first.wait()
    assert not send(first.pid, start, 9)
    assert second.poll() is None


def test_a_sweep_asks_until_nothing_new_turns_up(sleepers):
    """As if the second had been forked while the first was being stopped."""
    _, first, second = sleepers
    keys = [(process.pid, read_stat(process.pid).start) for process in (first, second)]
    looks = iter([keys[:1], keys, keys])
    found, killed_ns = sweep(lambda: dict(next(looks)), time.monotonic() + 5, lambda: None)
    assert found == dict(keys)
    assert killed_ns > 0
    assert next(looks, None) is None
    assert (first.wait(), second.wait()) == (-9, -9)


def test_stat_counts_fields_from_behind_the_name(sleepers, tmp_path):
    program = tmp_path / "a) S 1 2 ("
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "60"]) as process:
        try:
            stat = read_stat(process.pid)
            assert stat.ppid == os.getpid()
            assert stat.start >= read_stat(sleepers[1].pid).start
            assert (stat.threads, stat.alive) == (1, True)
        finally:
            process.kill()
    assert read_stat(process.pid) is None


def test_cgroups_of_killed_auditors_that_still_hold_processes_are_named(tmp_path):
    from ebpfaudit.enforce.cgroup import PARENT, remove_abandoned

    gone = 2**22 + 1  # above every pid_max
    for name, populated in ((f"old-{gone}", 0), (f"old-{gone}-2", 1), (f"mine-{os.getpid()}", 0)):
        (tmp_path / PARENT / name).mkdir(parents=True)
        (tmp_path / PARENT / name / "cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")
    assert [path.name for path in remove_abandoned(tmp_path)] == [f"old-{gone}-2"]
    assert (tmp_path / PARENT / f"mine-{os.getpid()}").exists()


def test_forks_that_the_table_knows_already_change_nothing():
    """The batch that is being judged holds the birth of the offender itself, a child of the root."""
    top = subprocess.Popen(["/bin/sh", "-c", "echo; sleep 60 & echo $!; wait"], stdout=subprocess.PIPE)
    assert top.stdout
    top.stdout.readline()
    child = int(top.stdout.readline())
    try:
        starts = {pid: stat.start for pid in (os.getpid(), top.pid, child) if (stat := read_stat(pid))}
        table = ProcessTable()
        table.set_root(os.getpid(), starts[os.getpid()])
        born = Fork(1, os.getpid(), starts[os.getpid()], top.pid, starts[top.pid])
        unheard_of = Fork(2, top.pid, starts[top.pid], child, starts[child])
        table.fork(born)
        tree = Tree(table, table.get(top.pid, starts[top.pid]), lambda: [born, unheard_of], orphans=True)
        assert tree.members(starts) == {top.pid: starts[top.pid], child: starts[child]}
    finally:
        os.kill(child, signal.SIGKILL)
        top.kill()
        top.wait()
        top.stdout.close()
