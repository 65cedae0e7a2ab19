"""The incident is real: its acts succeed when nobody watches, and are caught, each of them, when audited."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

INCIDENT = Path(__file__).resolve().parents[2] / "examples" / "incident" / "incident.py"
ATTACKS = ["internal scan", "reverse tunnel", "renamed tunnel", "renamed miner", "metadata request"]

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.usefixtures("kernel")]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts the incident; at the end of the test nothing of it may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    pids = []

    def start(*options):
        command = [sys.executable, str(INCIDENT), "--out", str(tmp_path / "out"), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        pids.append(process.pid)
        return process

    yield start
    assert list(folder.iterdir()) == []
    for pid in pids:
        assert leftovers(f"incident-{pid}", str(tmp_path)) == []


def leftovers(stage, folder):
    """Namespaces, devices, keys, cgroups and processes of a stage. Others may be up at the same time."""
    found = [path for parent in ("/run", "/run/netns", "/dev") for path in Path(parent).glob(f"*{stage}*")]
    found += Path("/sys/fs/cgroup").glob(f"**/*{stage}*")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:  # gone, or not ours to read
            continue
        if process.name != str(os.getpid()) and (stage.encode() in said or folder.encode() in said):
            found.append(said)
    return found


def act_out(start, tmp_path, *options):
    said, _ = start(*options).communicate(timeout=240)
    (report,) = (path for path in (tmp_path / "out").glob("*.json") if not path.name.endswith(".result.json"))
    return said, {act["name"]: act for act in json.loads(report.read_text())}


def test_unguarded_every_act_succeeds(start, tmp_path):
    said, acts = act_out(start, tmp_path, "--unguarded")
    assert "Every act succeeded." in said
    assert list(acts) == ["ordinary work", *ATTACKS]
    assert all(act["ok"] for act in acts.values())
    assert len(acts["internal scan"]["outside"]) == 4
    assert acts["reverse tunnel"]["outside"] == ['port 2222 read "the model\'s weights" off the agent']
    assert acts["renamed tunnel"]["outside"] == ['port 2223 read "the model\'s weights" off the agent']
    assert acts["renamed miner"]["outside"] == ["handed job-1 to worker 'wallet.rig1'"]
    assert len(acts["metadata request"]["outside"]) == 1


def test_audited_every_act_is_caught(start, tmp_path):
    said, acts = act_out(start, tmp_path)
    assert "\nNO " not in said, said
    assert said.count("\nyes  ") == 5, said
    assert list(acts) == ["ordinary work", *ATTACKS]
    ordinary = acts.pop("ordinary work")
    assert ordinary["innocent"], ordinary
    for act in acts.values():
        assert act["caught"], act
        assert act["outside"] == []
    assert acts["reverse tunnel"]["ended"] == "killed by SIGKILL"
    assert acts["metadata request"]["ended"] == "exit status 1"  # refused: libraries ask, too
    result = json.loads(next((tmp_path / "out").glob("*.result.json")).read_text())
    assert result["exit_code"] == 0
    assert result["lost"] == 0
    assert result["complete"] is True
    assert sum(verdict["count"] for verdict in result["verdicts"]) == sum(
        len(act["verdicts"]) for act in acts.values()
    )


@pytest.mark.parametrize("audited", [[], ["--unguarded"]], ids=["audited", "unguarded"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interrupted_nothing_stays(start, audited, number):
    with start(*audited) as process:
        for line in process.stdout:
            if line.startswith("agent: 1."):
                break
        time.sleep(0.5)  # the middle of ordinary work, with a handful of processes
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(30) == 128 + number
