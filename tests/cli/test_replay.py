"""`ebpfaudit replay` as it is typed."""

import json
import os
import pty
import subprocess
import sys

import msgspec
import pytest
from recorded import HEADER, exits, write_trail

from ebpfaudit.events import Connect, EpisodeStart, Fork
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import parse_profile
from ebpfaudit.verdicts import Verdict

MAIN = "from ebpfaudit.cli import main; main()"
STRICT = 'name = "strict"\ndescription = ""\n\n[network]\ndefault = "kill"\n'

EVENTS = [
    EpisodeStart(5_000_000_000, "ep-1", "quiet", 100, 40),
    Fork(5_000_001_000, 100, 40, 101, 41),
    Connect(5_000_002_000, 101, 41, "curl", "ipv4", "tcp", "127.0.0.1", 8080, decision="allow"),
    Connect(5_123_456_000, 101, 41, "curl", "ipv4", "tcp", "203.0.113.9", 443, decision="deny"),
    Connect(5_123_457_000, 101, 41, "curl", "ipv4", "tcp", "203.0.113.9", 443, "done", "denied"),
    Connect(5_200_000_000, 101, 41, "\\x1b[2J", "ipv4", "udp", "198.51.100.1", 53, decision="deny"),
]


def judged(events, profile=HEADER.profile_text):
    """What the pipeline would record: each event, then its verdicts."""
    evaluator = Evaluator(parse_profile(profile, "test"))
    return [item for event in events for item in (event, *evaluator.evaluate(event))]


def replay(*arguments, code=MAIN, **options):
    command = [sys.executable, "-c", code, "replay", *map(str, arguments)]
    environment = {**os.environ, "TZ": "UTC"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ep-1.jsonl.zst"


@pytest.fixture
def trail(path):
    write_trail(path, judged(EVENTS))
    return path


def test_the_same_profile_gives_the_same_verdicts(trail):
    result = replay(trail)
    assert result.stderr == ""
    assert result.returncode == 0
    *columns, conclusion = result.stdout.splitlines()
    assert conclusion == "2 verdicts on 6 events; identical to the 2 recorded ones"
    assert len(columns) == 2
    assert columns[0].split()[:4] == ["14:13:20.123", "101", "curl", "DENY"]
    assert "203.0.113.9" in columns[0]


def test_json_on_stdout_is_nothing_but_verdicts(trail):
    result = replay(trail, "--json")
    assert result.returncode == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["kind"], line["seq"], line["rule"]) for line in lines] == [
        ("verdict", 3, "network"),
        ("verdict", 5, "network"),
    ]
    assert lines[0]["time"] == "2026-09-21T14:13:20.123456Z"
    assert "identical" in result.stderr


def test_another_profile_says_what_it_would_have_done(trail, tmp_path):
    strict = tmp_path / "strict.toml"
    strict.write_text(STRICT)
    result = replay(trail, "--profile", strict)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert [line.split()[3] for line in lines[:3]] == ["KILL"] * 3
    assert lines[3] == "3 verdicts on 6 events; differ from the 2 recorded under the original profile"
    assert lines[4] == "  3 appeared (+), 2 vanished (-)"
    assert lines[5].startswith("  + event 2: KILL ")
    assert lines[7].startswith("  - event 3: DENY ")


def test_another_profile_with_the_same_verdicts_is_identical(trail, tmp_path):
    same = tmp_path / "same.toml"
    same.write_text(HEADER.profile_text.replace("quiet", "other"))
    assert replay(trail, "--profile", same).returncode == 0


def test_verdicts_that_were_not_given_are_found(path):
    items = judged(EVENTS)
    items[4] = msgspec.structs.replace(items[4], action="log")
    assert isinstance(items[4], Verdict)
    write_trail(path, items)
    result = replay(path)
    assert result.returncode == 1
    assert "1 appeared (+), 1 vanished (-)" in result.stdout
    assert "  + event 3: DENY" in result.stdout
    assert "  - event 3: LOG" in result.stdout


def test_the_order_of_verdicts_matters(path):
    items = judged(EVENTS)
    verdicts = [item for item in items if isinstance(item, Verdict)]
    write_trail(path, [item for item in items if not isinstance(item, Verdict)], verdicts[::-1])
    result = replay(path)
    assert result.returncode == 1
    assert "the same verdicts, but in another order" in result.stdout


def test_a_cut_trail_is_judged_up_to_the_cut(path):
    write_trail(path, judged(EVENTS), exits(1000))
    path.write_bytes(path.read_bytes()[:-400])
    result = replay(path)
    assert result.returncode == 0
    assert "2 verdicts on 6 events" in result.stdout
    assert "ebpfaudit: the trail is not whole: frame 2 at byte" in result.stderr


def test_a_damaged_trail_is_never_called_good(trail):
    data = bytearray(trail.read_bytes())
    data[-1] ^= 1
    trail.write_bytes(data)
    result = replay(trail)
    assert result.returncode == 1
    assert "not whole" in result.stderr


def test_hostile_text_of_a_forged_trail_stays_text(path):
    evil = "\x1b]0;owned\x07[red]"
    items = judged(EVENTS)
    items.append(Verdict(5, "kill", evil, evil, evil, evil, message=evil))
    items[3] = msgspec.structs.replace(items[3], comm=evil)
    write_trail(path, items)
    result = replay(path)
    assert result.returncode == 1
    assert "\x1b" not in result.stdout
    assert "\\x1b]0;owned\\x07[red]" in result.stdout


def test_a_hostile_profile_in_the_header_is_one_clear_message(path):
    write_trail(
        path, EVENTS, header=msgspec.structs.replace(HEADER, profile_text='"\\u001b[2J" = 1\nname = "x"\n')
    )
    result = replay(path)
    assert result.returncode == 125
    assert result.stdout == ""
    assert "\x1b" not in result.stderr
    assert "use --profile" in result.stderr


def test_a_missing_profile_and_a_missing_trail(trail, path):
    assert replay(trail, "--profile", "no-such").returncode == 125
    result = replay(f"{path}.none")
    assert (result.returncode, result.stdout) == (125, "")
    assert "No such file or directory" in result.stderr


def test_it_works_where_bcc_is_absent(trail):
    result = replay(trail, code=f"import sys; sys.modules['bcc'] = None; {MAIN}", cwd="/")
    assert result.returncode == 0, result.stderr


def test_a_long_trail_shows_how_far_it_is_to_a_person_only(path):
    import random

    noise = random.Random(3)
    long = [
        Connect(
            5_300_000_000 + n, 101, 41, f"{noise.getrandbits(64):x}", "ipv4", "tcp", "127.0.0.1", n % 65536
        )
        for n in range(200_000)
    ]
    write_trail(path, judged(EVENTS), long)
    assert path.stat().st_size > 1 << 20
    assert replay(path).stderr == ""
    master, slave = pty.openpty()
    command = [sys.executable, "-c", MAIN, "replay", path]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm"}
    ) as child:
        os.close(slave)
        shown = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # the child has closed its end
                break
            shown += data
        out, _ = child.communicate(timeout=60)
    os.close(master)
    assert child.returncode == 0
    assert b"replay" in shown
    assert b"%" in shown
    assert b"identical" in out
