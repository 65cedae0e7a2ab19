"""`ebpfaudit verify` as it is typed."""

import json
import subprocess
import sys

import msgspec
import pytest
from recorded import EVERY_KIND, HEADER, exits, write_trail

MAIN = "from ebpfaudit.cli import main; main()"


def verify(*arguments):
    command = [sys.executable, "-c", MAIN, "verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ep-1.jsonl.zst"


def test_an_intact_trail(path):
    head = write_trail(path, EVERY_KIND, exits(1000))
    result = verify(path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{path}: intact",
        "  episode   ep-1, step build",
        "  recorded  2026-09-21T14:13:20.000000Z on box, profile quiet",
        "  ended     exited, code 0",
        f"  frames    4, {path.stat().st_size:,} bytes for 60,499 of text, {path.stat().st_size / 1013:.1f} an event",
        "  events    1,013",
        "  verdicts  1, enforcements 1",
        "  record    NOT complete; 3 events lost before they reached us",
        f"  head      {head}",
    ]


def test_json(path):
    head = write_trail(path, exits(5))
    found = json.loads(verify(path, "--json").stdout)
    assert found["state"] == "intact"
    assert found["head"] == head
    assert found["events"] == 5
    assert found["complete"] is True
    assert found["problems"] == []


def test_an_edited_trail(path):
    write_trail(path, exits(100), exits(100, first=100))
    data = bytearray(path.read_bytes())
    data[-150] ^= 4
    path.write_bytes(data)
    result = verify(path)
    assert result.returncode == 1
    assert result.stdout.startswith(f"{path}: damaged\n")
    assert "  problem   frame " in result.stdout
    assert json.loads(verify(path, "--json").stdout)["problems"][0]["offset"] > 0


def test_a_cut_trail(path):
    write_trail(path, exits(100))
    path.write_bytes(path.read_bytes()[:-60])
    result = verify(path)
    assert result.returncode == 1
    assert result.stdout.startswith(f"{path}: not closed\n")
    assert "the file ends inside" in result.stdout


def test_the_expected_head(path):
    head = write_trail(path, exits(100))
    assert verify(path, "--expect", head).returncode == 0
    assert verify(path, "--expect", head[:16]).returncode == 0
    other = verify(path, "--expect", "f" * 64)
    assert other.returncode == 1
    assert "this is another trail" in other.stdout
    for useless in ("abc", "x" * 16):
        wrong = verify(path, "--expect", useless)
        assert wrong.returncode == 2
        assert "at least its first 16 digits" in wrong.stderr


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), (b"hello", "is no trail: no frame begins here")]
)
def test_what_is_no_trail_is_one_line(path, content, why):
    if content:
        path.write_bytes(content)
    result = verify(path)
    assert result.returncode == 125
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert why in result.stderr
    assert result.stderr.count("\n") == 1


def test_nothing_in_a_trail_can_command_the_terminal(path):
    evil = "\x1b]0;owned\x07\x1b[2J[red]"
    header = msgspec.structs.replace(HEADER, episode=evil, host=evil, profile=evil, step=evil)
    write_trail(path, exits(1), header=header)
    result = verify(path)
    assert "\x1b" not in result.stdout
    assert "\\x1b[2J[red]" in result.stdout
