"""Every NAME.jsonl here, judged by NAME.toml, gives the verdicts of NAME.verdicts.jsonl; `make golden` rewrites those.

incident.jsonl is a recorded run of examples/incident with its profile as it was then. format-1.jsonl.zst is the same
run as the first released format keeps it: every later version must read it.
"""

import os
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from recorded import HEADER, write_trail

from ebpfaudit.events import Event
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import parse_profile
from ebpfaudit.trail.reader import read_trail
from ebpfaudit.trail.replay import Replay
from ebpfaudit.trail.verification import verify_trail
from ebpfaudit.verdicts import Verdict

FOLDER = Path(__file__).parent
TRAILS = sorted(path for path in FOLDER.glob("*.jsonl") if not path.name.endswith(".verdicts.jsonl"))
FORMAT_1 = FOLDER / "format-1.jsonl.zst"
FORMAT_1_HEAD = "796f03cdca8194d9aaf52fbbae9e9a0777b0a9ccff0c26458dae536295842f31"

decode_events = msgspec.json.Decoder(Event).decode_lines
encode_lines = msgspec.json.Encoder().encode_lines


def judged(source):
    """The events of a trail, each followed by its verdicts."""
    evaluator = Evaluator(parse_profile(source.with_suffix(".toml").read_text(), source.stem))
    return [
        item for event in decode_events(source.read_bytes()) for item in (event, *evaluator.evaluate(event))
    ]


@pytest.mark.parametrize("source", TRAILS, ids=lambda path: path.stem)
def test_the_verdicts_are_the_expected_ones(source):
    golden = source.with_suffix(".verdicts.jsonl")
    verdicts = [item for item in judged(source) if isinstance(item, Verdict)]
    if os.environ.get("WRITE_GOLDEN") == "1":
        golden.write_bytes(encode_lines(verdicts))
    assert verdicts == msgspec.json.Decoder(Verdict).decode_lines(golden.read_bytes())


@pytest.mark.parametrize("source", TRAILS, ids=lambda path: path.stem)
def test_recorded_and_replayed_they_are_the_same(source, tmp_path):
    text = source.with_suffix(".toml").read_text()
    digest = sha256(text.encode()).hexdigest()
    header = msgspec.structs.replace(HEADER, profile_text=text, profile_hash=digest)
    items = judged(source)
    write_trail(tmp_path / "t", items[: len(items) // 2], items[len(items) // 2 :], header=header)
    with read_trail(tmp_path / "t") as trail:
        replay = Replay(trail)
        replayed = [each.verdict for each in replay]
    found = replay.compare()
    assert found.identical
    assert replayed == [item for item in items if isinstance(item, Verdict)]
    assert found.events == len(items) - len(replayed)
    assert verify_trail(tmp_path / "t").state == "intact"


def test_format_1_is_read():
    found = verify_trail(FORMAT_1, FORMAT_1_HEAD)
    assert found.state == "intact", found.problems
    assert (found.events, found.verdicts, found.enforcements, found.frames) == (310, 89, 5, 11)
    assert (found.unknown, found.complete, found.reason) == (0, True, "exited")
    with read_trail(FORMAT_1) as trail:
        events = [item for item in trail if not isinstance(item, Verdict) and hasattr(item, "ts_ns")]
    assert events == decode_events((FOLDER / "incident.jsonl").read_bytes())


def test_a_trail_of_format_1_can_be_judged():
    with read_trail(FORMAT_1) as trail:
        replay = Replay(trail)
        assert {each.verdict.rule for each in replay} >= {"internal-scan", "ssh-tunnel", "network"}
    assert replay.compare().recorded == 89
