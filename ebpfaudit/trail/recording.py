"""The events of a trail, without what was said about them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ebpfaudit.events import Event
from ebpfaudit.trail.reader import read_trail
from ebpfaudit.verdicts import Enforcement, Verdict


def numbered_events(path: Path | str) -> Iterator[tuple[int, Event]]:
    """Every event that the trail holds, with its number. Raises TrailError."""
    with read_trail(path) as trail:
        for number, item in trail.numbered():
            if not isinstance(item, Verdict | Enforcement | dict):
                yield number, item


def recorded_events(path: Path | str) -> list[Event]:
    """The same without numbers."""
    return [event for _, event in numbered_events(path)]
