"""Shipped profiles against recorded stories: `profiles/tests/PROFILE/NAME.jsonl` and the verdicts expected.

`EBPFAUDIT_WRITE_GOLDEN=1` (`make golden`) rewrites the verdicts; the difference is to be reviewed. An
`innocent-` story must end without a kill or an alert, whatever its golden file says; an `offence-`
story with one kill at least.
"""

import os
from pathlib import Path

import msgspec
import pytest

from ebpfaudit.events import Event, Exit
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import load_profile, parse_profile, resolved_text
from ebpfaudit.verdicts import Verdict

_FOLDER = Path(__file__).parents[2] / "profiles"
_STORIES = sorted(
    path for path in _FOLDER.glob("tests/*/*.jsonl") if not path.name.endswith(".verdicts.jsonl")
)
_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def _verdicts_of(story: Path) -> list[Verdict]:
    evaluator = Evaluator(load_profile(str(_FOLDER / f"{story.parent.name}.toml")))
    return [
        verdict
        for event in _DECODER.decode_lines(story.read_bytes())
        for verdict in evaluator.evaluate(event)
    ]


@pytest.mark.parametrize("story", _STORIES, ids=lambda story: f"{story.parent.name}/{story.stem}")
def test_story_gives_the_expected_verdicts(story):
    verdicts = _verdicts_of(story)

    actions = {verdict.action for verdict in verdicts}
    if story.stem.startswith("innocent-"):
        assert actions <= {"log", "deny"}
    else:
        assert story.stem.startswith("offence-")
        assert "kill" in actions
    expected = story.with_suffix(".verdicts.jsonl")
    if os.environ.get("EBPFAUDIT_WRITE_GOLDEN"):
        expected.write_bytes(msgspec.json.Encoder().encode_lines(verdicts))
    assert msgspec.json.Decoder(Verdict).decode_lines(expected.read_bytes()) == verdicts


@pytest.mark.parametrize(
    "story", [path for path in _STORIES if path.stem.startswith("offence-")], ids=lambda p: p.stem
)
def test_offence_is_found_again_under_the_resolved_text(story):
    shipped = load_profile(str(_FOLDER / f"{story.parent.name}.toml"))
    evaluator = Evaluator(parse_profile(resolved_text(shipped), "trail header"))

    events = _DECODER.decode_lines(story.read_bytes())

    assert [verdict for event in events for verdict in evaluator.evaluate(event)] == _verdicts_of(story)


def test_every_killed_process_of_the_tunnel_stories_had_its_own_verdict():
    for name in (
        "offence-ssh-reverse-tunnel",
        "offence-renamed-ssh",
        "offence-reverse-shell",
        "offence-renamed-miner",
    ):
        story = _FOLDER / "tests" / "coding-agent" / f"{name}.jsonl"
        events = _DECODER.decode_lines(story.read_bytes())
        killed = {event.pid for event in events if isinstance(event, Exit) and event.signal == 9}
        alarmed = {
            events[verdict.seq].pid for verdict in _verdicts_of(story) if verdict.action in ("kill", "alert")
        }
        assert killed and killed <= alarmed, name
