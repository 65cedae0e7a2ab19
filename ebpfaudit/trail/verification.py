"""Is a trail as it was written, to its end? What the chain, the checksums and the counts can prove."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct

from ebpfaudit.trail.reader import Problem, Trail

State = Literal["intact", "not closed", "damaged"]


class Verification(Struct, frozen=True):
    """What was found. `intact` proves the file unchanged only together with a `head` that was kept elsewhere."""

    state: State
    """"not closed": whole up to where it ends, but without an end line."""
    complete: bool
    """Intact, and nothing of the episode is missing from it."""
    episode: str
    step: str
    profile: str
    host: str
    version: str
    realtime_ns: int
    frames: int
    events: int
    verdicts: int
    enforcements: int
    lost: int
    unwritten: int
    unknown: int
    text_bytes: int
    file_bytes: int
    head: str
    """SHA-256 of the last frame."""
    reason: str
    """How the episode ended; "" if that is not known."""
    code: int
    problems: tuple[Problem, ...]


def verify_trail(path: Path | str, expected_head: str = "") -> Verification:
    """Read a whole trail and check all that it claims. Raises TrailError where there is no trail at all.

    `expected_head` is the head that the recorder told, or its first digits.
    """
    with Trail(path) as trail:
        for _ in trail:
            pass
        if expected_head and not trail.head.startswith(expected_head.lower()):
            trail.complain(
                trail.offset, f"it was expected to end with hash {expected_head}: this is another trail"
            )
        return _balance(trail)


def _balance(trail: Trail) -> Verification:
    header, end = trail.header, trail.end
    state: State = "damaged" if trail.damaged else "not closed" if trail.problems else "intact"
    return Verification(
        state=state,
        complete=state == "intact" and end is not None and end.complete,
        episode=header.episode,
        step=header.step,
        profile=header.profile,
        host=header.host,
        version=header.version,
        realtime_ns=header.realtime_ns,
        frames=trail.frames,
        events=trail.events,
        verdicts=trail.verdicts,
        enforcements=trail.enforcements,
        lost=trail.lost,
        unwritten=trail.unwritten,
        unknown=trail.unknown,
        text_bytes=trail.text_bytes,
        file_bytes=trail.file_bytes,
        head=trail.head,
        reason=end.reason if end else "",
        code=end.code if end else 0,
        problems=tuple(trail.problems),
    )
