"""Kill means gone: real trees, killed as a verdict asks, with the bystanders unharmed."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from enforce_stage import Stage

from ebpfaudit.enforce.cgroup import cgroup2_mount
from ebpfaudit.enforce.disarmer import Disarmer
from ebpfaudit.enforce.pidfd import read_stat
from ebpfaudit.events import Fork
from ebpfaudit.process import ProcessKey

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
WAYS = ["cgroup", "cgroup-restless", "no-cgroup"]
"""With the freezer; with a freezer that never comes to rest; on a host without cgroup v2."""


@pytest.fixture(params=WAYS)
def stage(request, monkeypatch):
    if request.param != "no-cgroup" and cgroup2_mount() is None:
        pytest.skip("no cgroup v2 on this host")
    stage = Stage(cgroup=request.param != "no-cgroup")
    try:
        if request.param == "cgroup-restless":
            monkeypatch.setattr(stage.cgroup, "freeze", lambda timeout_s: False)
        yield stage
    finally:
        stage.clear()


def gone(pids) -> bool:
    stats = [read_stat(pid) for pid in pids]
    return not any(stat and stat.alive for stat in stats)


@pytest.mark.parametrize("size", [1, 2, 50])
def test_a_tree_is_killed_and_its_siblings_run_on(stage, size):
    stage.play(f"""
def top():
    for _ in range({size} - 1):
        child(rest, "member")
    rest("member")
child(top)
child(answer, "sibling")
rest("root")
""")
    stage.expect(size + 2)
    stage.learn()
    top = next(pid for pid in stage.pids["member"] if read_stat(pid).ppid == stage.pid("root"))

    record = stage.strike(stage.key(stage.pids["member"][-1]))

    assert gone(stage.pids["member"])
    assert (record.result, record.processes, record.root_pid) == ("killed", size, top)
    assert record.survivors == ()
    assert record.detected_ns <= record.decided_ns < record.killed_ns <= record.gone_ns
    assert stage.awake(stage.pid("sibling"))
    assert not gone([stage.pid("root")])


def test_500_processes_with_setsid_daemons_among_them(stage):
    stage.play("""
def top():
    for number in range(499):
        def member():
            if number % 10 == 0:
                os.setsid()
            rest("member")
        child(member)
    rest("member")
child(top)
child(answer, "sibling")
rest()
""")
    stage.expect(501)
    stage.learn()
    record = stage.strike(stage.key(stage.pids["member"][250]))
    assert (record.result, record.processes) == ("killed", 500)
    assert gone(stage.pids["member"])
    assert stage.awake(stage.pid("sibling"))


def test_a_chain_300_levels_deep(stage):
    stage.play("""
def link(depth):
    if depth:
        child(link, depth - 1)
    rest("link")
child(link, 299)
child(answer, "sibling")
rest()
""")
    stage.expect(301)
    stage.learn()
    record = stage.strike(stage.key(stage.pids["link"][0]))
    assert (record.result, record.processes) == ("killed", 300)
    assert gone(stage.pids["link"])
    assert stage.awake(stage.pid("sibling"))


DAEMON = """
def leader():
    os.setsid()
    child(rest, "daemon")       # and its parent exits: the daemon is reparented to the launcher
def top():
    child(leader)
    os.wait()
    rest("top")
"""


def test_a_double_forked_daemon_that_the_table_knows(stage):
    stage.play(DAEMON + "child(top)\nchild(answer, 'sibling')\nrest()")
    stage.expect(3)
    assert read_stat(stage.pid("daemon")).ppid == os.getpid()
    stage.learn(lineage={stage.pid("daemon"): stage.pid("top")})
    record = stage.strike(stage.key(stage.pid("top")))
    assert (record.result, record.processes) == ("killed", 2)
    assert gone([stage.pid("daemon"), stage.pid("top")])
    assert stage.awake(stage.pid("sibling"))


def test_a_double_forked_daemon_whose_events_are_late_does_not_slip_away(stage):
    stage.play(DAEMON + "child(top)\nchild(answer, 'sibling')\nrest()")
    stage.expect(3)
    stage.learn()
    record = stage.strike(stage.key(stage.pid("top")))
    assert (record.result, record.processes) == ("killed", 2)
    assert gone([stage.pid("daemon")])
    assert stage.awake(stage.pid("sibling"))


def test_pending_forks_tell_whose_daemon_it_is(stage):
    stage.play(
        DAEMON
        + """
def other():
    child(lambda: child(answer, "innocent"))
    os.wait()
    rest("other")
child(top)
child(other)
rest()
"""
    )
    stage.expect(4)
    stage.learn()
    between = ProcessKey(stage.pid("other"), 1)  # the exited parent of the innocent
    innocent, top = stage.key(stage.pid("innocent")), stage.key(stage.pid("top"))
    other, daemon = stage.key(stage.pid("other")), stage.key(stage.pid("daemon"))
    pending = [
        Fork(1, *other, *between),
        Fork(2, *between, *innocent),
        Fork(3, *top, 4194304, 1),
        Fork(4, 4194304, 1, *daemon),
    ]
    record = stage.strike(top, enforcer=stage.enforcer(pending_forks=lambda: pending))
    assert (record.result, record.processes) == ("killed", 2)
    assert gone([daemon.pid, top.pid])
    assert stage.awake(innocent.pid)


def test_forks_the_table_has_not_heard_of_are_found_by_their_parents(stage):
    stage.play("""
def inner():
    child(rest, "late")
    rest("late")
def top():
    child(inner)
    rest("top")
def other():
    child(answer, "sibling")
    rest("other")
child(top)
child(other)
rest("root")
""")
    stage.expect(6)
    stage.learn(unknown={*stage.pids["late"], stage.pid("sibling")})
    record = stage.strike(stage.key(stage.pid("top")))
    assert (record.result, record.processes) == ("killed", 3)
    assert gone(stage.pids["late"])
    assert stage.awake(stage.pid("sibling"))


def test_a_process_whose_fork_event_was_lost_still_belongs_to_its_parents_tree(stage):
    stage.play("""
def inner():
    child(rest, "below")
    rest("stray")
def top():
    child(inner)
    rest("top")
child(top)
child(answer, "sibling")
rest("root")
""")
    stage.expect(5)
    stage.learn(unknown={stage.pid("stray"), stage.pid("below")})
    stage.table.get(*stage.key(stage.pid("stray")))  # an exec of it was seen: a tree of its own
    record = stage.strike(stage.key(stage.pid("top")))
    assert (record.result, record.processes) == ("killed", 3)
    assert gone([stage.pid("stray"), stage.pid("below")])
    assert stage.awake(stage.pid("sibling"))


def test_an_exited_offenders_tree_is_killed(stage):
    stage.play("""
def inner():
    child(rest, "member")
    os.write(1, b"offender %d\\n" % os.getpid())
    sys.stdin.readline()
def top():
    child(inner)
    rest("member")
child(top)
child(answer, "sibling")
rest()
""")
    stage.expect(4)
    stage.learn()
    offender = stage.key(stage.pid("offender"))
    stage.root.stdin.write(b"exit\n")
    while not gone([offender.pid]):
        time.sleep(0.001)
    record = stage.strike(offender)
    assert record.result == "killed"
    assert gone(stage.pids["member"])
    assert stage.awake(stage.pid("sibling"))


def test_a_leader_thread_that_exited_does_not_hide_its_process(stage):
    stage.play("""
import threading, ctypes
def top():
    threading.Thread(target=lambda: (say("top"), time.sleep(1000))).start()
    ctypes.CDLL(None).pthread_exit(None)
child(top)
child(answer, "sibling")
rest()
""")
    stage.expect(2)
    top = stage.pid("top")
    while read_stat(top).state != "Z":
        time.sleep(0.001)
    assert read_stat(top).alive
    stage.learn()
    record = stage.strike(stage.key(top))
    assert (record.result, record.processes) == ("killed", 1)
    assert gone([top])
    assert stage.awake(stage.pid("sibling"))


def test_scope_process_spares_the_children(stage):
    stage.play("""
def top():
    child(answer, "sibling")
    rest("top")
child(top)
rest("root")
""")
    stage.expect(3)
    stage.learn()
    record = stage.strike(stage.key(stage.pid("top")), scope="process")
    assert (record.result, record.processes, record.root_pid) == ("killed", 1, stage.pid("top"))
    assert (record.scope, record.method) == ("process", "pidfd")
    assert stage.awake(stage.pid("sibling"))


@pytest.mark.parametrize("offender", ["root", "top"])
def test_scope_episode_kills_all(stage, offender):
    """So does scope tree, when the offender is the root."""
    stage.play("child(rest, 'top')\nchild(rest, 'sibling')\nrest('root')")
    stage.expect(3)
    stage.learn()
    scope = "tree" if offender == "root" else "episode"
    record = stage.strike(stage.key(stage.pid(offender)), scope=scope)
    assert (record.scope, record.result, record.processes) == ("episode", "killed", 3)
    assert record.root_pid == stage.pid("root")
    assert record.method == ("cgroup.kill" if stage.cgroup else "pidfd")
    assert gone([pid for pids in stage.pids.values() for pid in pids])


def test_another_life_of_the_pid_is_not_killed(stage):
    stage.play("child(answer, 'sibling')\nchild(answer, 'sibling')\nrest('root')")
    stage.expect(3)
    stage.learn()
    first, second = stage.pids["sibling"]
    stale = ProcessKey(first, stage.key(first).start - 7)
    # The table still has the pid's former life, which was in the tree of nobody alive.
    stage.table.fork(Fork(1, *stage.table.root.key, *stale))
    for scope in ("process", "tree"):
        record = stage.strike(stale, scope=scope)
        assert (record.result, record.processes) == ("already-exited", 0)
    assert stage.awake(first)
    assert stage.awake(second)


def test_what_exited_before_is_said_so(stage):
    stage.play("child(rest, 'top')\nchild(answer, 'sibling')\nrest('root')")
    stage.expect(3)
    stage.learn()
    enforcer, top = stage.enforcer(), stage.key(stage.pid("top"))
    assert stage.strike(top, enforcer=enforcer).result == "killed"
    again = stage.strike(top, enforcer=enforcer)
    assert (again.result, again.processes, again.killed_ns, again.gone_ns) == ("already-exited", 0, 0, 0)
    assert stage.awake(stage.pid("sibling"))


def test_racing_forkers_leave_no_survivor(stage):
    """Every member forks all the time, and by double fork; the table knows but the top."""
    stage.play("""
def forker():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        child(lambda: child(time.sleep, 0.05))
def top():
    for _ in range(5):
        child(forker)
    rest("top")
child(top)
child(answer, "sibling")
rest("root")
""")
    stage.expect(3)
    time.sleep(0.3)
    top = stage.key(stage.pid("top"))
    stage.table.fork(Fork(1, *stage.table.root.key, *top))
    stage.table.fork(Fork(1, *stage.table.root.key, *stage.key(stage.pid("sibling"))))
    record = stage.strike(top)
    assert record.result == "killed"
    assert record.processes > 5
    assert stage.tagged() <= {stage.pid("root"), stage.pid("sibling")}
    assert stage.awake(stage.pid("sibling"))


@pytest.fixture
def pids_limit():
    """A v1 pids cgroup: with cgroup v2 alone, its pids controller would have to be delegated first."""
    folder = Path(f"/sys/fs/cgroup/pids/ebpfaudit-test-{os.getpid()}")
    if not folder.parent.joinpath("cgroup.procs").exists():
        pytest.skip("no v1 pids hierarchy to cap a fork bomb with")
    folder.mkdir()
    (folder / "pids.max").write_text("150")
    yield folder
    for _ in range(200):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.01)
    pytest.fail(f"{folder} is still busy")


def test_a_fork_bomb_leaves_no_survivor_in_bounded_time(pids_limit, stage):
    stage.play(
        """
def bomb():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if os.fork() and os.urandom(1)[0] < 64:
                os._exit(0)     # churn: pids come and go, and parents are lost
        except OSError:
            time.sleep(0.001)
def top():
    child(bomb)
    rest("top")
child(answer, "sibling")
child(top)
rest("root")
""",
        pids_limit,
    )
    stage.expect(3)
    time.sleep(0.5)
    top = stage.key(stage.pid("top"))
    stage.table.fork(Fork(1, *stage.table.root.key, *top))
    stage.table.fork(Fork(1, *stage.table.root.key, *stage.key(stage.pid("sibling"))))
    begin = time.monotonic()
    record = stage.strike(top, enforcer=stage.enforcer(gone_timeout_s=10))
    took_s = time.monotonic() - begin
    assert record.result == "killed", record
    assert record.processes > 50
    assert stage.tagged() <= {stage.pid("root"), stage.pid("sibling")}
    assert took_s < 10
    assert stage.awake(stage.pid("sibling"))


def test_a_kill_loop_ends_with_the_episode_and_then_is_rationed(stage):
    stage.play("""
for _ in range(6):
    child(rest, "offender")
rest("root")
""")
    stage.expect(7)
    stage.learn()
    enforcer = stage.enforcer(disarmer=Disarmer(limit=3))
    victims = [stage.key(pid) for pid in stage.pids["offender"]]
    records = [stage.strike(victim, enforcer=enforcer) for victim in victims]
    assert [record.result for record in records] == ["killed"] * 4 + ["already-exited"] * 2
    assert [record.scope for record in records[:4]] == ["tree"] * 3 + ["episode"]
    assert "more than 3 kills within 60 s" in records[3].error
    assert gone([stage.pid("root")])
