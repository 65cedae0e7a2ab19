"""The episode's cgroup: made, frozen, split, emptied and removed; and what an agent may do to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from enforce_stage import Stage

from ebpfaudit.enforce.cgroup import PARENT, Cgroup, EpisodeCgroup, cgroup2_mount
from ebpfaudit.enforce.pidfd import read_stat
from ebpfaudit.errors import EpisodeError

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(cgroup2_mount() is None, reason="no cgroup v2 on this host"),
]


@pytest.fixture
def stage():
    stage = Stage()
    try:
        yield stage
    finally:
        stage.clear()


def cgroup_of(pid: int) -> str:
    with open(f"/proc/{pid}/cgroup") as file:
        return next(line.strip() for line in file if line.startswith("0::"))


def ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def gone(pids) -> bool:
    return not any((stat := read_stat(pid)) and stat.alive for pid in pids)


@pytest.mark.parametrize("episode", ["run-7", "../../x", "a/b\0c", "", "é" * 300, "cgroup.procs", ".."])
def test_any_episode_id_makes_a_directory_and_leaves_none(episode):
    cgroup = EpisodeCgroup(episode)
    try:
        assert cgroup.path.parent == cgroup2_mount() / PARENT
        assert (cgroup.path / "run").is_dir()
        assert cgroup.id == os.stat(cgroup.path).st_ino
        assert cgroup.run.id == os.stat(cgroup.path / "run").st_ino
        assert not cgroup.populated()
    finally:
        assert cgroup.remove()
    assert not cgroup.path.exists()


def test_the_same_id_twice_makes_two_cgroups():
    first, second = EpisodeCgroup("same"), EpisodeCgroup("same")
    try:
        assert first.path != second.path
    finally:
        assert first.remove()
        assert second.path.exists()
        assert second.remove()


def test_concurrent_runs_share_the_parent_and_race_for_its_removal():
    code = """
from ebpfaudit.enforce.cgroup import EpisodeCgroup
for number in range(200):
    assert EpisodeCgroup(str(number)).remove()
"""
    runs = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    for run in runs:
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors.decode()


def test_without_cgroup2_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr("ebpfaudit.enforce.cgroup.cgroup2_mount", lambda: None)
    with pytest.raises(EpisodeError, match="no cgroup v2 mounted: mount it"):
        EpisodeCgroup("x")


def test_a_read_only_hierarchy_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr("ebpfaudit.enforce.cgroup.cgroup2_mount", lambda: tmp_path / "missing")
    with pytest.raises(EpisodeError, match="cannot make the episode's cgroup"):
        EpisodeCgroup("x")


def test_children_are_born_inside_and_an_ended_process_cannot_be_added(stage):
    stage.play("child(rest, 'child')\nrest('root')")
    stage.expect(2)
    assert stage.cgroup.procs() == stage.cgroup.run.procs() == {stage.pid("root"), stage.pid("child")}
    assert stage.cgroup.populated()
    assert not stage.cgroup.wait_empty(0.01)
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert not stage.cgroup.add(ended.pid)


def test_a_frozen_process_stays_frozen_when_it_is_split_off(stage):
    stage.play(
        "def spin():\n  say('busy')\n  while True: pass\nchild(spin)\nchild(answer, 'other')\nrest('root')"
    )
    stage.expect(3)
    assert stage.cgroup.freeze()
    busy = stage.pid("busy")
    before = ticks(busy)
    leaf = stage.cgroup.split([busy, 4194305])  # the second does not exist
    assert cgroup_of(busy).endswith("/kill-1")
    assert leaf.procs() == {busy}
    assert leaf.frozen()
    assert stage.cgroup.procs() == {busy, stage.pid("root"), stage.pid("other")}
    time.sleep(0.1)
    assert ticks(busy) == before
    leaf.kill()
    assert leaf.wait_empty(2)
    stage.cgroup.discard(leaf)
    assert not leaf.path.exists()
    assert stage.cgroup.frozen()
    stage.cgroup.thaw()
    assert stage.awake(stage.pid("other"))


def test_more_than_a_page_of_pids_is_read_whole(stage):
    stage.play("for _ in range(1200): child(rest)\nrest('root')")
    stage.expect(1)
    assert len(stage.cgroup.procs()) == 1201
    assert len(",".join(map(str, stage.cgroup.procs()))) > 4096
    stage.cgroup.kill_all()
    assert stage.cgroup.wait_empty(10, stage.reap)


def test_remove_waits_for_the_dying_and_does_not_force_the_living(stage):
    stage.play("rest('root')")
    stage.expect(1)
    extra = EpisodeCgroup("extra")
    extra.add(stage.pid("root"))
    begin = time.monotonic()
    path = extra.path
    assert not extra.remove(timeout_s=0.1)
    assert time.monotonic() - begin < 1
    assert path.exists()
    assert not gone([stage.pid("root")])
    stage.cgroup.add(stage.pid("root"))
    for folder in (path / "run", path):
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()


AGENT_CGROUPS = """
def top():
    here = next(l.strip()[3:] for l in open("/proc/self/cgroup") if l.startswith("0::"))
    base = CGROUP2 + here
    def hide():
        os.makedirs(base + "/deep/deeper")
        open(base + "/deep/deeper/cgroup.procs", "w").write("0")
        rest("hidden")
    child(hide)
    rest("top")
child(top)
child(answer, "sibling")
rest("root")
"""


@pytest.mark.parametrize("scope", ["tree", "episode"])
def test_cgroups_that_the_agent_made_below_hide_nothing(stage, scope):
    stage.play(f"CGROUP2 = {str(cgroup2_mount())!r}\n" + AGENT_CGROUPS)
    stage.expect(4)
    stage.learn()
    assert stage.cgroup.procs() >= {stage.pid("hidden"), stage.pid("top")}
    record = stage.strike(stage.key(stage.pid("top")), scope=scope)
    assert record.result == "killed"
    assert gone([stage.pid("hidden"), stage.pid("top")])
    assert gone([stage.pid("sibling")]) == (scope == "episode")


def test_a_threaded_cgroup_hides_nothing(stage):
    stage.play("child(rest, 'top')\nchild(answer, 'sibling')\nrest('root')")
    stage.expect(3)
    stage.learn()
    threaded = stage.cgroup.path / "run" / "threaded"
    threaded.mkdir()
    (threaded / "cgroup.type").write_text("threaded")
    (threaded / "cgroup.procs").write_text(str(stage.pid("top")))
    assert cgroup_of(stage.pid("top")).endswith("/run/threaded")
    record = stage.strike(stage.key(stage.pid("top")))
    assert (record.result, record.processes) == ("killed", 1)
    assert stage.awake(stage.pid("sibling"))
    assert stage.strike(stage.table.root.key).result == "killed"
    assert gone([stage.pid("root"), stage.pid("sibling")])


def escape(pid: int) -> None:
    (cgroup2_mount() / "cgroup.procs").write_text(str(pid))
    assert cgroup_of(pid) == "0::/"


@pytest.mark.parametrize("scope", ["tree", "episode"])
def test_members_that_moved_to_the_root_cgroup_are_swept_by_their_tag(stage, scope):
    stage.play(f"""
def escapee(work):
    open("{cgroup2_mount()}/cgroup.procs", "w").write("0")
    work("escaped")
def forker(name):
    say(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        child(time.sleep, 0.02)
def top():
    child(escapee, rest)
    child(escapee, forker)
    rest("top")
def other():
    child(escapee, answer)
    rest("other")
child(top)
child(other)
rest("root")
""")
    stage.expect(6)
    innocent = next(pid for pid in stage.pids["escaped"] if read_stat(pid).ppid == stage.pid("other"))
    guilty = [pid for pid in stage.pids["escaped"] if pid != innocent]
    assert {cgroup_of(pid) for pid in guilty} == {"0::/"}
    stage.learn()
    record = stage.strike(stage.key(stage.pid("top")), scope=scope)
    assert record.result == "killed"
    assert gone([*guilty, stage.pid("top")])
    if scope == "tree":
        assert stage.tagged() == {stage.pid("root"), stage.pid("other"), innocent}
        assert stage.awake(innocent)
    else:
        assert stage.tagged() == set()


def test_an_exited_leader_that_moved_is_found_by_its_tag(stage):
    """cgroup.procs and cgroup.kill do not know it any more."""
    stage.play("""
import threading, ctypes
def top():
    threading.Thread(target=lambda: (say("top"), time.sleep(1000))).start()
    ctypes.CDLL(None).pthread_exit(None)
child(top)
rest("root")
""")
    stage.expect(2)
    top = stage.pid("top")
    while read_stat(top).state != "Z":
        time.sleep(0.001)
    nested = stage.cgroup.path / "run" / "nested"
    nested.mkdir()
    (nested / "cgroup.procs").write_text(str(top))
    assert (nested / "cgroup.threads").read_text().split()
    stage.learn()
    record = stage.strike(stage.table.root.key)
    assert record.result == "killed"
    assert gone([top, stage.pid("root")])
    assert not stage.cgroup.populated()


@pytest.mark.parametrize("scope", ["tree", "episode"])
def test_an_auditor_that_was_moved_into_the_cgroup_survives_its_own_kill(stage, scope):
    home = cgroup_of(os.getpid()).removeprefix("0::")
    stage.play("child(rest, 'top')\nchild(answer, 'sibling')\nrest('root')")
    stage.expect(3)
    stage.learn()
    try:
        stage.cgroup.add(os.getpid())
        record = stage.strike(stage.key(stage.pid("top")), scope=scope)
    finally:
        (cgroup2_mount() / home.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
    assert record.result == "killed"
    assert "moved into the episode's cgroup" in record.error
    assert gone([stage.pid("top")])
    assert gone([stage.pid("sibling")]) == (scope == "episode")


def test_without_cgroup_kill_the_episode_dies_by_pidfd(stage, monkeypatch):
    """Linux before 5.14."""
    monkeypatch.setattr(Cgroup, "can_kill", property(lambda self: False))
    stage.play("child(rest, 'top')\nrest('root')")
    stage.expect(2)
    stage.learn()
    record = stage.strike(stage.table.root.key)
    assert (record.result, record.method, record.processes) == ("killed", "pidfd", 2)
    assert gone([stage.pid("top"), stage.pid("root")])


SPINNERS = """
def spin(name):
    say(name)
    while True: pass
def top():
    child(spin, "member")
    rest("top")
child(top)
child(answer, "sibling")
rest("root")
"""


@pytest.mark.parametrize("way", ["cgroup", "no-cgroup"])
def test_a_frozen_tree_stays_frozen_while_its_siblings_run(way):
    stage = Stage(cgroup=way == "cgroup")
    try:
        stage.play(SPINNERS)
        stage.expect(4)
        stage.learn()
        enforcer, member = stage.enforcer(), stage.key(stage.pid("member"))
        record = stage.strike(member, action="freeze", enforcer=enforcer)
        assert (record.result, record.processes, record.root_pid) == ("frozen", 2, stage.pid("top"))
        before = ticks(member.pid)
        again = stage.strike(member, action="freeze", enforcer=enforcer)
        assert (again.result, again.error) == ("frozen", "was frozen before")
        assert stage.awake(stage.pid("sibling"))
        time.sleep(0.1)
        assert ticks(member.pid) == before
        killed = stage.strike(member, enforcer=enforcer)
        assert (killed.result, killed.processes) == ("killed", 2)
        assert gone([member.pid, stage.pid("top")])
        assert stage.awake(stage.pid("sibling"))
    finally:
        stage.clear()


def test_a_frozen_episode_stays_frozen_through_a_kill(stage):
    stage.play(SPINNERS)
    stage.expect(4)
    stage.learn()
    escape(stage.pid("sibling"))
    enforcer = stage.enforcer()
    record = stage.strike(stage.table.root.key, action="freeze", enforcer=enforcer)
    assert (record.scope, record.result, record.method) == ("episode", "frozen", "cgroup.freeze")
    assert record.processes == 4
    assert stage.cgroup.frozen()
    assert not stage.awake(stage.pid("sibling"), timeout_s=1)  # stopped: it had left the cgroup
    killed = stage.strike(stage.key(stage.pid("top")), enforcer=enforcer)
    assert (killed.result, killed.processes) == ("killed", 2)
    assert stage.cgroup.frozen()
    os.kill(stage.pid("sibling"), signal.SIGCONT)
    assert stage.strike(stage.table.root.key, enforcer=enforcer).result == "killed"
    assert stage.tagged() == set()
