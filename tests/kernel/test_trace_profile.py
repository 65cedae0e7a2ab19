"""`trace --profile`: what a profile says of a whole host, where nothing of it is enforced."""

from __future__ import annotations

import contextlib
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


@pytest.fixture
def tracing(kernel, tmp_path):
    """`tracing(*options)`: a running trace under RULES, and its first words."""
    source = tmp_path / "rules.toml"
    source.write_text(profile(rest=RULES))
    with contextlib.ExitStack() as stack:

        def start(*options):
            command = [*MAIN, "trace", "--json", "--profile", str(source), *options]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            said = [process.stderr.readline() for _ in range(2)]
            return process, said

        yield start


def ended(process):
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def verdicts(items, rule):
    return [item for item in items if item["kind"] == "verdict" and item["rule"] == rule]


def test_an_untagged_process_is_judged_and_left_alone(tracing):
    process, said = tracing()
    assert "watching" in said[0]
    assert "profile test: verdicts are shown, and nothing is enforced" in said[1]
    offender = subprocess.run(["/bin/echo", "judged-1"], capture_output=True, check=False)
    assert offender.returncode == 0
    time.sleep(0.3)
    items = ended(process)
    (verdict,) = verdicts(items, "outside")
    assert (verdict["episode"], verdict["action"], verdict["value"]) == ("", "kill", "judged-1")
    assert verdict["time"].endswith("Z")
    (event,) = [item for item in items if item.get("argv") == ["/bin/echo", "judged-1"]]
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


def test_an_episode_of_another_auditor_is_judged_by_itself(tracing, auditor):
    script = "while [ ! -e go ]; do /bin/sleep 0.05; done; /bin/echo judged-3"
    folder = auditor._folder
    running = auditor.start(NO_POLICY, ["/bin/sh", "-c", script], "--user", "root", cwd=folder)
    running.registration()
    process, _ = tracing()
    time.sleep(1)
    (folder / "go").touch()
    assert running.wait().exit_code == 0
    time.sleep(0.3)
    items = ended(process)
    (verdict,) = verdicts(items, "inside")
    assert (verdict["episode"], verdict["value"]) == (running.episode, "judged-3")
    assert verdicts(items, "outside") == []
    (start,) = [item for item in items if item["kind"] == "episode-start"]
    assert start["episode"] == running.episode


def test_a_copy_is_recognised_and_left_alone(tracing, tmp_path):
    process, _ = tracing()
    copy = shutil.copy(SLEEP, tmp_path / "notes")
    assert subprocess.run([copy, "0.3"], check=False).returncode == 0
    items = ended(process)
    assert [item["value"] for item in verdicts(items, "exec")] == [str(copy)]


def test_it_ends_with_all_that_it_started(tracing):
    process, _ = tracing()
    children = until(
        lambda: Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split(),
        "the helper runs",
    )
    ended(process)
    assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]


def test_a_wrong_profile_is_named(kernel):
    done = subprocess.run(
        [*MAIN, "trace", "--profile", "no-such"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "no-such" in done.stderr
    assert "Traceback" not in done.stderr
