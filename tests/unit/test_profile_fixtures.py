"""Shipped profiles against their fixtures, by the code of `ebpfaudit profile test`: one implementation.

`ebpfaudit profile test --update` rewrites what is expected; the difference is to be reviewed.
"""

from pathlib import Path

import pytest

from ebpfaudit.events import Exit
from ebpfaudit.profiles.load import load_profile, parse_profile, resolved_text
from ebpfaudit.stories.fixtures import collect, evaluate, judge
from ebpfaudit.trail.recording import recorded_events

_FOLDER = Path(__file__).parents[2] / "profiles"
_PROFILES = sorted(_FOLDER.glob("*.toml"))
_FOUND = {path.stem: collect(path, recorded_events) for path in _PROFILES}
_CASES = [
    pytest.param(name, fixture, id=f"{name}/{fixture.name}")
    for name, found in _FOUND.items()
    for fixture in found.fixtures
]


@pytest.fixture(scope="module")
def profiles():
    return {path.stem: load_profile(str(path)) for path in _PROFILES}


@pytest.fixture(scope="module")
def resolved(profiles):
    """The profiles as a trail's header keeps them."""
    return {name: parse_profile(resolved_text(profile), "header") for name, profile in profiles.items()}


@pytest.mark.parametrize("name", _FOUND)
def test_every_fixture_can_be_read_and_every_profile_has_some(name):
    assert _FOUND[name].problems == {}
    assert _FOUND[name].fixtures


@pytest.mark.parametrize(("name", "fixture"), _CASES)
def test_a_fixture_gives_the_expected_verdicts(name, fixture, profiles):
    outcome = judge(fixture, name, profiles[name])
    assert outcome.problems == (), outcome.got


@pytest.mark.parametrize(("name", "fixture"), _CASES)
def test_the_resolved_text_judges_alike(name, fixture, profiles, resolved):
    assert evaluate(resolved[name], fixture.events) == evaluate(profiles[name], fixture.events)


def test_every_killed_process_of_the_tunnel_recordings_had_its_own_verdict(profiles):
    found = {fixture.path.stem: fixture for fixture in _FOUND["coding-agent"].fixtures}
    for name in (
        "offence-ssh-reverse-tunnel",
        "offence-renamed-ssh",
        "offence-reverse-shell",
        "offence-renamed-miner",
    ):
        events = found[name].events
        killed = {event.pid for event in events if isinstance(event, Exit) and event.signal == 9}
        verdicts = evaluate(profiles["coding-agent"], events)
        alarmed = {events[verdict.seq].pid for verdict in verdicts if verdict.action in ("kill", "alert")}
        assert killed and killed <= alarmed, name
