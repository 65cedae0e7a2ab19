"""What `profile explain` is asked about: a line, events, a story's file or a trail."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from ebpfaudit.errors import UsageError

if TYPE_CHECKING:
    from ebpfaudit.events import Event

RECORDED = "recorded"
_SUFFIXES = (".toml", ".jsonl", ".zst")


class Subject(Struct, frozen=True):
    """Numbered events, and which of them are asked about."""

    events: Iterable[tuple[int, Event]]
    lines: dict[int, str] = {}
    """Of a story: "line 5" by event number."""
    seq: int | None = None
    """The event that is asked about, if one is."""
    last: int | None = None
    """The event to explain if none has a verdict."""
    trail: Path | None = None
    """Where the profile is that they were recorded under."""


def find_subject(text: str) -> Subject:
    """Raises UsageError, StoryError or TrailError where there is nothing to be asked about."""
    if text == "-":
        return _of_text(sys.stdin.read(), "stdin")
    found = re.fullmatch(r"(.+):([0-9]{1,18})", text, re.DOTALL)
    for name, number in ((text, None), (found[1], int(found[2])) if found else ("", None)):
        if name.endswith(_SUFFIXES) and "\n" not in name:
            if Path(name).is_file():
                return _of_file(Path(name), number)
            if " " not in name:
                raise UsageError(f"{name}: no such file")
    return _of_text(text, "event")


def _of_text(text: str, origin: str) -> Subject:
    from ebpfaudit.stories.story import parse_story

    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{origin}: not a UTF-8 text; a story writes any byte as $'\\xff'") from None
    if text.lstrip().startswith("{"):
        return _of_events(_decode(text, origin), None)
    story = parse_story(re.sub(r"\s;\s", "\n", text), origin)
    last = len(story.events) - 1
    return Subject(list(enumerate(story.events)), _places(story.lines), last=last)


def _of_file(path: Path, number: int | None) -> Subject:
    from ebpfaudit.stories.fixtures import load_fixture
    from ebpfaudit.trail.recording import numbered_events, recorded_events

    if path.suffix == ".zst":
        return Subject(numbered_events(path), seq=number, trail=path)
    fixture = load_fixture(path, recorded_events)
    if path.suffix == ".jsonl":
        return _of_events(list(fixture.events), number)
    events = list(enumerate(fixture.events))
    if number is None:
        return Subject(events, _places(fixture.lines), last=len(events) - 1)
    told = [seq for seq, line in enumerate(fixture.lines) if line == number]
    if not told:
        raise UsageError(f"{path}: nothing happens in line {number}")
    return Subject(events, _places(fixture.lines), seq=told[-1])


def _of_events(events: list[Event], number: int | None) -> Subject:
    if number is not None and number >= len(events):
        raise UsageError(f"there is no event {number}: the last is {len(events) - 1}")
    return Subject(list(enumerate(events)), seq=number, last=len(events) - 1)


def _decode(text: str, origin: str) -> list[Event]:
    import msgspec

    from ebpfaudit.events import Event

    try:
        return msgspec.json.Decoder(Event).decode_lines(text)
    except msgspec.DecodeError as error:
        raise UsageError(f"{origin}: not an event as JSON: {error}") from None


def _places(lines: tuple[int, ...]) -> dict[int, str]:
    return {seq: f"line {line}" for seq, line in enumerate(lines)}
