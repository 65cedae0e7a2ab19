"""`ebpfaudit profile diff` as it is typed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from audited import until
from recorded import write_trail

from ebpfaudit.events import Connect, EpisodeStart

MAIN = "from ebpfaudit.cli import main; main()"
START = EpisodeStart(5_000_000_000, "ep-1", "quiet", 100, 40)


def connect(dst, port=443):
    return Connect(6_000_000_000, 100, 40, "curl", "ipv4", "tcp", dst, port)


def diff(*arguments, **options):
    command = [sys.executable, "-c", MAIN, "profile", "diff", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def profiles(tmp_path):
    folder = tmp_path / "profiles"
    folder.mkdir(mode=0o755)
    texts = {"mild": 'default = "allow"', "strict": 'default = "deny"\nkill = ["203.0.113.9"]'}
    for name, network in texts.items():
        (folder / f"{name}.toml").write_text(f'name = "{name}"\ndescription = ""\n[network]\n{network}\n')
    return folder / "mild.toml", folder / "strict.toml"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "trails" / "deep"
    folder.mkdir(parents=True)
    write_trail(folder / "a.jsonl.zst", [START, connect("10.0.0.1"), connect("10.0.0.1")])
    write_trail(folder / "b.jsonl.zst", [START, connect("203.0.113.9"), connect("10.0.0.2")])
    write_trail(folder / "c.jsonl.zst", [START])
    return folder.parent


def test_texts_are_compared_without_trails(profiles):
    result = diff(*profiles)
    assert result.returncode == 1
    assert "@@ [network] @@" in result.stdout
    assert '-default: "allow"\n+default: "deny"\n+kill: "203.0.113.9"' in result.stdout
    assert diff(profiles[0], profiles[0]).returncode == 0
    assert json.loads(diff(*profiles, "--json").stdout.splitlines()[1])["section"] == "[network]"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_folder_of_trails_is_judged_by_both(profiles, folder, jobs):
    result = diff(*profiles, "--trails", folder, "--jobs", jobs)
    assert result.returncode == 1, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("7 events of 3 trails: 0 verdicts under ")
    assert lines[1] == (
        "2 of 3 trails judged otherwise: 4 appeared (+), 0 vanished (-), 0 changed (~); 2 of them after the first difference"
    )
    assert lines[3:5] == ["Newly killed:", "  b.jsonl.zst, episode ep-1: network at event 1"]
    total = lines[lines.index("In all:") + 1 :]
    assert total[0] == "  + KILL network: 1"
    assert total[1] == '      dst "203.0.113.9:443/tcp"; b.jsonl.zst event 1: connect tcp 203.0.113.9:443'
    assert total[3] == '      2x dst "10.0.0.1:443/tcp"; a.jsonl.zst event 1: connect tcp 10.0.0.1:443'
    assert "A trail shows what happened under the profile then in force" in result.stderr


def test_json_has_one_line_a_trail_and_one_for_all(profiles, folder):
    result = diff(*profiles, "--trails", folder, "--json")
    *trails, total = map(json.loads, result.stdout.splitlines())
    assert [os.path.basename(each["trail"]) for each in trails] == [
        "a.jsonl.zst",
        "b.jsonl.zst",
        "c.jsonl.zst",
    ]
    assert [each["newly_killed"] for each in trails] == [False, True, False]
    assert trails[1]["kills"] == [None, {"seq": 1, "rule": "network"}]
    assert total["newly_killed"] == [trails[1]["trail"]]
    assert (total["trails"], total["trails_changed"], total["appeared"]) == (3, 2, 4)
    assert total["changes"][0]["values"][0]["example"]["what"] == "connect tcp 203.0.113.9:443"


def test_summary_is_by_rule(profiles, folder):
    result = diff(*profiles, "--trails", folder, "--summary")
    assert result.returncode == 1
    assert "  + DENY network: 3" in result.stdout
    assert "dst" not in result.stdout
    assert "a.jsonl.zst" not in result.stdout


def test_nothing_changes(profiles, folder):
    result = diff(profiles[1], profiles[1], "--trails", folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("; nothing changes\n")


def test_the_recorded_profile_may_be_one_of_the_two(profiles, folder):
    result = diff(
        "recorded", profiles[0], "--trails", folder / "deep" / "a.jsonl.zst", folder / "deep" / "c.jsonl.zst"
    )
    assert result.returncode == 1, result.stderr
    assert "- DENY network: 2" in result.stdout


def test_bad_trails_are_named_and_stop_no_other(profiles, folder):
    (folder / "deep" / "bad.jsonl.zst").write_bytes(b"\x1b[2Jnothing")
    damaged = folder / "deep" / "a.jsonl.zst"
    data = bytearray(damaged.read_bytes())
    data[-50] ^= 1
    damaged.write_bytes(data)
    result = diff(*profiles, "--trails", folder, "--trails", folder / "none")
    assert result.returncode == 125
    assert "b.jsonl.zst, episode ep-1: network at event 1" in result.stdout
    assert "bad.jsonl.zst is no trail" in result.stderr
    assert "2 of 5 trails could not be read" in result.stderr
    assert "1 of 5 trails damaged" in result.stderr
    assert "\x1b" not in result.stderr


def test_what_cannot_be_meant_is_said(profiles, tmp_path):
    assert "name trails behind --trails" in diff(*profiles, "x").stderr
    assert diff(*profiles, "x").returncode == 2
    assert "name trails behind --trails" in diff("recorded", profiles[0]).stderr
    (tmp_path / "empty").mkdir()
    result = diff(*profiles, "--trails", tmp_path / "empty")
    assert (result.returncode, "no trail" in result.stderr) == (2, True)
    assert diff("no-such-profile", profiles[0]).returncode == 125


def test_ctrl_c_leaves_no_process_and_no_traceback(profiles, tmp_path):
    paths = [tmp_path / f"{number}.jsonl.zst" for number in range(2)]
    for path in paths:
        write_trail(path, [START, *(connect("10.0.0.1", port % 65535 + 1) for port in range(400_000))])
    command = [sys.executable, "-c", MAIN, "profile", "diff", *profiles, "--jobs", "2", "--trails", *paths]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert "Traceback" not in err
    until(lambda: not _is_there(process.pid), "all its processes are gone")


def _is_there(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
