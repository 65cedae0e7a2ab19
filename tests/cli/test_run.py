"""`ebpfaudit run` as it is typed: what goes in, what comes out, and that nothing stays."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from audited import MAIN, NO_POLICY, PYTHON, clear, processes_of, profile, until

pytestmark = pytest.mark.kernel

DENY = profile('default = "deny"')
SHELL = ["/bin/sh", "-c"]


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("exit 125", 125), ("kill -TERM $$", 143), ("kill -SEGV $$", 139)],
)
def test_the_exit_code_is_the_commands(audit, script, code):
    audited = audit(NO_POLICY, [*SHELL, script])
    assert audited.exit_code == code
    assert audited.result["exit_code"] == code
    assert audited.result["killed_by_policy"] is False
    assert (audited.end.code, audited.end.complete) == (code, True)
    assert audited.problems == []


def test_a_command_that_does_not_exist(audit, tmp_path):
    audited = audit(NO_POLICY, [str(tmp_path / "none")])
    assert audited.exit_code == 127
    error = audited.stderr.splitlines()[-1]
    assert error.startswith(f"Error: cannot execute '{tmp_path}/none': No such file or directory")


def test_a_command_that_cannot_be_executed(audit, tmp_path):
    (tmp_path / "text").write_text("hello\n")
    audited = audit(NO_POLICY, [str(tmp_path / "text")])
    assert audited.exit_code == 126
    assert "Permission denied" in audited.stderr
    assert "Traceback" not in audited.stderr


def test_a_policy_kill_of_the_command(audit):
    rule = '[[rule]]\nid = "no-true"\non = "exec"\nwhen = { argv = ["forbidden"] }\naction = "kill"\n'
    audited = audit(profile(rest=rule), [*SHELL, 'exec sh -c "sleep 60" forbidden'])
    assert audited.exit_code == 120
    assert audited.result["killed_by_policy"] is True
    assert "KILLED BY POLICY" in audited.stderr
    (verdict,) = audited.verdicts
    assert (verdict.rule, verdict.action, verdict.value) == ("no-true", "kill", "forbidden")
    (done,) = audited.enforcements
    assert (done.result, done.survivors) == ("killed", ())
    assert done.detected_ns <= done.decided_ns <= done.killed_ns <= done.gone_ns
    (told,) = audited.result["enforcements"]
    assert 0 <= told["decided_ms"] <= told["killed_ms"] <= told["gone_ms"]


def test_sigkill_by_somebody_else_is_no_policy_kill(audit):
    audited = audit(NO_POLICY, [*SHELL, "kill -KILL $$"])
    assert audited.exit_code == 137
    assert audited.result["killed_by_policy"] is False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on(auditor, number):
    name = number.name.removeprefix("SIG")
    run = auditor.start(
        NO_POLICY, [*SHELL, f"trap 'echo caught; exit 7' {name}; echo ready; while :; do sleep 0.05; done"]
    )
    assert run.process.stdout.readline() == b"ready\n"
    run.process.send_signal(number)
    audited = run.wait()
    assert audited.exit_code == 7
    assert audited.stdout == b"caught\n"
    assert audited.result["complete"] is True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_is_not_caught_ends_all(auditor, number):
    # Not by a shell: dash catches SIGINT, and loses one that comes between fork and exec.
    code = f"import os, signal, time; signal.signal({int(number)}, signal.SIG_DFL); os.fork() and print('ready', flush=True)"
    run = auditor.start(NO_POLICY, [*PYTHON, "-c", f"{code}; time.sleep(60)"])
    assert run.process.stdout.readline() == b"ready\n"
    run.process.send_signal(number)
    audited = run.wait()
    assert audited.exit_code == 128 + number
    assert audited.end.code == 128 + number


def test_a_command_that_ignores_signals_is_killed_in_the_end(auditor):
    hurry = [sys.executable, "-c", f"import ebpfaudit.session as session; session._GRACE_S = 0.3; {MAIN[-1]}"]
    run = auditor.start(
        NO_POLICY, [*SHELL, "trap '' TERM; echo ready; while :; do sleep 1; done"], main=hurry
    )
    assert run.process.stdout.readline() == b"ready\n"
    run.process.terminate()
    audited = run.wait(timeout_s=20)
    assert audited.exit_code == 137
    assert audited.result["killed_by_policy"] is False


def test_what_the_command_leaves_behind_is_ended(auditor):
    started = (
        "sleep 1000 & setsid sleep 1001 & (setsid sh -c 'sleep 1002 & sleep 1003' &) ; sleep 0.2; exit 4"
    )
    run = auditor.start(NO_POLICY, [*SHELL, started], stdout=subprocess.DEVNULL)
    begun = time.monotonic()
    audited = run.wait()
    assert time.monotonic() - begun < 30
    assert audited.exit_code == 4
    killed = [event for event in audited.of("exit") if event.signal == signal.SIGKILL]
    assert len(killed) >= 4
    assert processes_of(run.episode) == []


def test_an_active_episode_cannot_be_started_again(auditor, tmp_path):
    first = auditor.start(NO_POLICY, ["/bin/cat"], stdin=subprocess.PIPE)
    pid = first.registration().auditor_pid
    assert pid == first.process.pid
    second = auditor.run(NO_POLICY, ["/bin/touch", f"{tmp_path}/ran"], episode=first.episode)
    assert second.exit_code == 125
    assert (
        f"episode '{first.episode}' is already being audited on this host by process {pid}" in second.stderr
    )
    assert not (tmp_path / "ran").exists()
    assert first.wait(b"").exit_code == 0
    assert auditor.run(NO_POLICY, ["/bin/true"], episode=first.episode).exit_code == 0


def test_three_at_once_make_up_ids_of_their_own(auditor):
    runs = [
        auditor.start(NO_POLICY, [*SHELL, f"echo $EBPFAUDIT_EPISODE; /bin/true mark-{n}"], episode=None)
        for n in range(3)
    ]  # fmt: skip
    done = [run.wait() for run in runs]
    ids = {audited.result["episode"] for audited in done}
    assert len(ids) == 3
    for number, audited in enumerate(done):
        assert audited.exit_code == 0, audited.stderr
        assert audited.stdout.decode().strip() == audited.result["episode"]
        assert [len(audited.execs(f"mark-{other}")) for other in range(3)] == [
            int(other == number) for other in range(3)
        ]
        assert audited.result["complete"] is True
        assert processes_of(audited.result["episode"]) == []


def test_what_the_command_reads_and_writes_is_not_touched(auditor):
    data = bytes(range(256)) * 4096
    run = auditor.start(NO_POLICY, ["/bin/cat"], stdin=subprocess.PIPE)
    assert run.wait(data).stdout == data


INSIDE = """
import json, os, signal
status = dict(line.rstrip().split(":\\t", 1) for line in open("/proc/self/status") if line.startswith("Sig"))
print(json.dumps({
    "descriptors": sorted(os.listdir("/proc/self/fd"), key=int), "environment": dict(os.environ),
    "ids": [os.getuid(), os.getgid(), os.geteuid(), os.getegid(), *os.getresuid(), *os.getresgid()],
    "groups": os.getgroups(), "ignored": status["SigIgn"], "blocked": status["SigBlk"],
    "cgroup": open("/proc/self/cgroup").read(),
}))
"""


ORDINARY_SIGNALS = (1 << 31) - 1
"""1 to 31. A signal beyond may have been ignored by whoever started the tests, and nobody can change it back."""


def inside(audit, *options, **start):
    """What the command finds around itself."""
    audited = audit(NO_POLICY, [*PYTHON, "-c", INSIDE], *options, **start)
    assert audited.exit_code == 0, audited.stderr
    return json.loads(audited.stdout), audited


def test_the_command_inherits_nothing_of_ours(audit):
    found, audited = inside(audit, "--step", "tool call 3", stdin=subprocess.PIPE)
    assert found["descriptors"] == ["0", "1", "2", "3"], "the fourth is the one that lists them"
    # Python itself ignores SIGPIPE and SIGXFSZ; that it is not inherited is the next test.
    assert int(found["ignored"], 16) & ORDINARY_SIGNALS & ~(1 << 12 | 1 << 24) == 0
    assert int(found["blocked"], 16) == 0
    assert found["environment"]["EBPFAUDIT_STEP"] == "tool call 3"
    assert found["environment"]["EBPFAUDIT_EPISODE"] == audited.result["episode"]
    assert re.search(
        rf"^0::/ebpfaudit/{audited.result['episode']}-\d+/run$", found["cgroup"], re.MULTILINE
    ) or ("0::" not in found["cgroup"])
    assert audited.of("episode-start")[0].step == audited.result["step"] == "tool call 3"


def test_a_broken_pipe_ends_a_command_as_usual(audit):
    audited = audit(
        NO_POLICY, ["/bin/bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}; grep SigIgn /proc/self/status"]
    )
    said = re.fullmatch(rb"y\n141\nSigIgn:\t([0-9a-f]{16})\n", audited.stdout)
    assert said is not None, audited.stdout
    assert int(said[1], 16) & ORDINARY_SIGNALS == 0


def test_user_drops_to_that_user_and_its_groups(audit):
    nobody = pwd.getpwnam("nobody")
    found, _ = inside(audit, "--user", "nobody")
    assert set(found["ids"]) == {nobody.pw_uid, nobody.pw_gid}
    assert set(found["groups"]) <= {nobody.pw_gid, *os.getgrouplist("nobody", nobody.pw_gid)}
    assert found["environment"]["USER"] == "nobody"
    assert found["environment"]["HOME"] == nobody.pw_dir


def test_sudo_goes_back_to_who_called_it(audit):
    nobody = pwd.getpwnam("nobody")
    environment = {**os.environ, "SUDO_UID": str(nobody.pw_uid), "SUDO_GID": str(nobody.pw_gid)}
    found, _ = inside(audit, env=environment)
    assert found["ids"][0] == nobody.pw_uid
    found, _ = inside(audit, "--user", "root", env=environment)
    assert found["ids"][0] == 0


def test_an_unknown_user_is_an_error(audit):
    audited = audit(NO_POLICY, ["/bin/true"], "--user", "no-such-user")
    assert audited.exit_code == 2
    assert "no-such-user" in audited.stderr
    assert "Traceback" not in audited.stderr


def test_the_result_tells_a_trainer_everything(audit, tmp_path):
    script = f"/bin/true; /no/such/program; {' '.join(PYTHON)} -c \"import socket; socket.socket().connect_ex(('127.0.0.1', 9))\""
    audited = audit(DENY, [*SHELL, script])
    result = audited.result
    assert (result["profile"], result["complete"], result["lost"]) == ("test", True, 0)
    assert result["exit_code"] == audited.exit_code
    assert result["execs"] == len(audited.of("exec", error=""))
    assert result["failed_execs"] == len(audited.of("exec")) - result["execs"] >= 1
    assert result["processes"] == len(audited.of("fork")) + 1
    assert result["connections"] == {"attempted": 1, "denied": 1}
    (verdict,) = result["verdicts"]
    assert (verdict["rule"], verdict["action"], verdict["count"]) == ("network", "deny", 1)
    assert audited.events[verdict["seq"]].dst == "127.0.0.1"
    assert 0 < result["duration_s"] < 60
    assert any(line.startswith("connect: cgroup connect4") for line in result["coverage"])
    assert Path(result["trail"]).exists()


def test_json_is_the_only_thing_said(audit):
    audited = audit(
        DENY, [*PYTHON, "-c", "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"], "--json"
    )
    verdict, summary = map(json.loads, audited.stderr.splitlines())
    assert (verdict["kind"], verdict["rule"]) == ("verdict", "network")
    assert summary == audited.result


def test_quiet_says_nothing_but_alerts(audit):
    assert audit(NO_POLICY, ["/bin/true"], "--quiet").stderr == ""
    code = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    (line,) = audit(DENY, [*PYTHON, "-c", code], "--quiet").stderr.splitlines()
    assert "127.0.0.1:9" in line


def test_no_trail_if_none_is_wanted(audit, tmp_path):
    audited = audit(NO_POLICY, ["/bin/true"], trail="none")
    assert audited.exit_code == 0
    assert audited.result["trail"] is None
    assert "not kept" in audited.stderr
    assert list(tmp_path.glob("*.zst")) == []


def test_without_enforcement_nothing_is_refused_and_all_is_recorded(audit):
    rest = '[[rule]]\nid = "mark"\non = "exec"\nwhen = { argv = ["marked"] }\naction = "kill"\n'
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {port})))"
        script = f'/bin/true marked && {" ".join(PYTHON)} -c "{code}"; exit 5'
        policy = profile('default = "allow"\nkill = ["127.0.0.1"]', rest)
        audited = audit(policy, [*SHELL, script], "--enforce", "off")
    assert audited.exit_code == 5
    assert audited.stdout == b"0\n"
    assert [(verdict.rule, verdict.action) for verdict in audited.verdicts][:2] == [
        ("mark", "kill"),
        ("network", "kill"),
    ]
    assert {done.result for done in audited.enforcements} == {"not-enforced"}
    assert audited.of("connect", phase="attempt")[0].decision == "allow"
    assert audited.result["killed_by_policy"] is False


HOSTILE = b"\x1b]0;pwned\x07\x1b[2J[/red][conceal]gone\r\xff"


def test_hostile_arguments_do_not_reach_the_terminal(audit):
    rest = '[[rule]]\nid = "mark"\non = "exec"\nwhen = { exe = "*/true" }\naction = "alert"\n'
    audited = audit(profile(rest=rest), [b"/bin/true", HOSTILE])
    assert audited.exit_code == 0
    alert = next(line for line in audited.stderr.splitlines() if "mark" in line)
    assert "\x1b" not in audited.stderr
    assert "\r" not in audited.stderr
    assert r"\x1b]0;pwned\x07\x1b[2J[/red][conceal]gone" in alert


WORK_ON = """
import sys, time
while True:
    with open(sys.argv[1], "a") as stream:
        stream.write("x")
    time.sleep(0.01)
"""


def test_an_episode_does_not_outlive_its_auditor(auditor, tmp_path):
    """Killed, it takes the episode with it, daemons included, and leaves nothing behind; the ID is free."""
    marker = tmp_path / "alive"
    daemon = ["setsid", *PYTHON, "-c", WORK_ON, str(marker)]
    run = auditor.start(
        NO_POLICY,
        [*SHELL, '"$@" & sleep 60', "sh", *daemon],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    root = run.registration().root_pid
    until(lambda: marker.exists() and marker.stat().st_size > 10, "the daemon works")
    run.process.kill()
    run.process.wait(30)
    until(lambda: state_of(root) in ("gone", "Z"), "the command died with its auditor")
    until(lambda: not processes_of(run.episode), "the guard has killed what was left")
    size = marker.stat().st_size
    time.sleep(0.2)
    assert marker.stat().st_size == size
    again = auditor.run(NO_POLICY, ["/bin/true"], episode=run.episode)
    assert again.exit_code == 0, again.stderr
    clear(run.episode)


def state_of(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "gone"
