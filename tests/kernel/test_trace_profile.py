"""`trace --profile`: what a profile says of a whole host, where nothing of it is enforced."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from audited import NO_POLICY, profile, until

pytestmark = pytest.mark.kernel

MAIN = [sys.executable, "-c", "from ebpfaudit.cli import main; main()"]
SLEEP = os.path.realpath("/bin/sleep")
RULES = f"""
[exec]
deny = ["same-as:{SLEEP}"]
[[rule]]
id = "outside"
on = "exec"
when = {{ argv = "judged-*", untagged = true }}
action = "kill"
[[rule]]
id = "inside"
on = "exec"
when = {{ argv = "judged-*", untagged = false }}
action = "alert"
"""


class Tracing:
    """A running `trace --json` under RULES. It writes to a file: a pipe that nobody reads would stop it."""

    def __init__(self, folder):
        (folder / "rules.toml").write_text(profile(rest=RULES))
        self.out = folder / "out"
        command = [*MAIN, "trace", "--json", "--profile", str(folder / "rules.toml")]
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True, cwd="/")
        self.said = [self.process.stderr.readline() for _ in range(2)]

    def lines(self):
        return [
            json.loads(line)
            for line in self.out.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")
        ]

    def until(self, condition):
        """Lines, once one of them meets the condition."""
        until(lambda: any(map(condition, self.lines())), "the trace says so")

    def end(self):
        self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, err
        return self.lines()


@pytest.fixture
def tracing(kernel, tmp_path):
    made = Tracing(tmp_path)
    yield made
    made.process.kill()
    made.process.communicate()


def shows(argument):
    return lambda item: argument in item.get("argv", ())


def verdicts(items, rule):
    return [item for item in items if item["kind"] == "verdict" and item["rule"] == rule]


def test_an_untagged_process_is_judged_and_left_alone(tracing):
    assert "watching" in tracing.said[0]
    assert "profile test: verdicts are shown, and nothing is enforced" in tracing.said[1]
    offender = subprocess.run(["/bin/echo", "judged-1"], capture_output=True, check=False)
    assert offender.returncode == 0
    tracing.until(shows("judged-1"))
    items = tracing.end()
    (verdict,) = verdicts(items, "outside")
    assert (verdict["episode"], verdict["action"], verdict["value"]) == ("", "kill", "judged-1")
    assert verdict["time"].endswith("Z")
    (event,) = filter(shows("judged-1"), items)
    assert event["seq"] == verdict["seq"]
    assert verdicts(items, "inside") == []
    assert not [item for item in items if item["kind"] == "enforcement"]


def test_the_column_view_shows_verdicts_too(kernel, tmp_path):
    source = tmp_path / "rules.toml"
    source.write_text(profile(rest=RULES))
    command = [*MAIN, "trace", "--wide", "--kind", "verdict", "--profile", str(source)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        process.stderr.readline()
        subprocess.run(["/bin/echo", "judged-2"], stdout=subprocess.DEVNULL, check=True)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert "KILL" in out
    assert 'outside: argv "judged-2"' in out


def test_an_episode_of_another_auditor_is_judged_by_itself(tracing, auditor, tmp_path):
    script = "while [ ! -e go ]; do /bin/sleep 0.05; done; /bin/echo judged-3"
    running = auditor.start(NO_POLICY, ["/bin/sh", "-c", script], "--user", "root", cwd=tmp_path)
    tracing.until(lambda item: item["kind"] == "episode-start" and item["episode"] == running.episode)
    (tmp_path / "go").touch()
    assert running.wait().exit_code == 0
    tracing.until(shows("judged-3"))
    items = tracing.end()
    (verdict,) = verdicts(items, "inside")
    assert (verdict["episode"], verdict["value"]) == (running.episode, "judged-3")
    assert verdicts(items, "outside") == []


def test_an_episodes_first_programs_are_not_taken_for_untagged(tracing, audit):
    audit(NO_POLICY, ["/bin/sh", "-c", "/bin/echo judged-4; sleep 0.1; /bin/echo judged-5"], "--user", "root")
    tracing.until(shows("judged-5"))
    items = tracing.end()
    assert {item["value"] for item in verdicts(items, "inside")} == {"judged-4", "judged-5"}
    assert verdicts(items, "outside") == []


def test_a_copy_is_recognised_and_left_alone(tracing, tmp_path):
    copy = str(shutil.copy(SLEEP, tmp_path / "notes"))
    assert subprocess.run([copy, "0.3"], check=False).returncode == 0
    tracing.until(lambda item: item["kind"] == "identity" and item["path"] == copy)
    assert copy in [item["value"] for item in verdicts(tracing.end(), "exec")]


def test_it_ends_with_all_that_it_started(tracing):
    process = tracing.process
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    tracing.end()
    assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]


def test_a_wrong_profile_is_named(kernel):
    done = subprocess.run(
        [*MAIN, "trace", "--profile", "no-such"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "no-such" in done.stderr
    assert "Traceback" not in done.stderr
