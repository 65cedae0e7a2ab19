"""`ebpfaudit profile test --record`: an incident as a fixture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ebpfaudit.events import Event
    from ebpfaudit.profiles.schema import Profile

_GRAIN_NS = 1000


def print_story(trail: str, profiles: tuple[str, ...], around: int | None) -> int:
    """Print the trail as a story that expects what the profiles (none named: the recorded one) say of it."""
    from ebpfaudit.profiles.load import load_profile
    from ebpfaudit.profiles.resolved import toml_text
    from ebpfaudit.stories.expectation import expectation_text
    from ebpfaudit.stories.fixtures import evaluate, fold
    from ebpfaudit.stories.narration import story_of, tree_around
    from ebpfaudit.stories.story import parse_story

    name, recorded, events = _read(Path(trail), not profiles)
    if around is not None:
        events = tree_around(events, around)
    text = story_of(events, _GRAIN_NS)
    story = parse_story(text, trail).events
    chosen: dict[str, Profile] = {}
    for each in profiles:
        chosen[Path(each).stem if "/" in each or each.endswith(".toml") else each] = load_profile(each)
    if recorded is not None:
        chosen[recorded.name] = recorded
    click.echo(f"title = {toml_text(name)}")
    click.echo('# family = "..."     # for an attack: which kind\n# innocent = true    # for ordinary work')
    click.echo(_story_text(text))
    click.echo("\n[expect]")
    for profile_name, profile in chosen.items():
        click.echo(expectation_text(profile_name, fold(evaluate(profile, story))))
    return 0


def _read(path: Path, wants_profile: bool) -> tuple[str, Profile | None, Sequence[Event]]:
    """(what to call it, if asked for the recorded profile, the events) of a trail, or of events as JSON lines."""
    from ebpfaudit.stories.fixtures import load_fixture
    from ebpfaudit.trail.reader import read_trail
    from ebpfaudit.trail.recording import recorded_events
    from ebpfaudit.trail.replay import recorded_profile

    if path.suffix == ".jsonl":
        return path.stem, None, load_fixture(path, recorded_events).events
    with read_trail(path) as trail:
        profile = recorded_profile(trail) if wants_profile else None
        return f"Episode {trail.header.episode}", profile, recorded_events(path)


def _story_text(text: str) -> str:
    """`events = ...`, literal where possible: a backslash is then a backslash."""
    if "'''" not in text:
        return f"events = '''\n{text}'''"
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'events = """\n{escaped}"""'
