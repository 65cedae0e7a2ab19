"""Judges a recorded episode once more, by its own profile or another, and compares the verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from ebpfaudit.errors import ProfileError, TrailError
from ebpfaudit.events import Event
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import Profile, parse_profile
from ebpfaudit.text import show
from ebpfaudit.trail.reader import Trail
from ebpfaudit.verdicts import Enforcement, Verdict

MAX_DIFFERENCES = 1000
"""More are counted, not kept."""


class Difference(Struct, frozen=True):
    """A verdict that one side has and the other has not."""

    side: Literal["appeared", "vanished"]
    """"appeared": given now, not recorded. "vanished": recorded, not given now."""
    verdict: Verdict


class Comparison(Struct, frozen=True):
    """The replayed verdicts beside the recorded ones."""

    identical: bool
    """Every field of every verdict, in the same order."""
    events: int
    recorded: int
    replayed: int
    appeared: int
    vanished: int
    differences: tuple[Difference, ...]
    """The first of them, in the order of their events."""


class Judged(Struct, frozen=True):
    """A verdict of the replay, and what it judges."""

    event: Event
    verdict: Verdict


class Replay:
    """One replay. Iterate it for the verdicts, as they are given; then `compare` says how they differ."""

    def __init__(self, trail: Trail, profile: Profile | None = None) -> None:
        """`profile`: another than the one in the trail's header. Raises ProfileError if that cannot be read."""
        self._trail = trail
        self.profile = profile or recorded_profile(trail)
        self._evaluator = Evaluator(self.profile)
        self._recorded, self._replayed = _Side(), _Side()

    def __iter__(self) -> Iterator[Judged]:
        evaluator = self._evaluator
        for number, item in self._trail.numbered():
            if isinstance(item, Verdict):
                self._recorded.add(_canonical(item), self._replayed)
            elif not isinstance(item, Enforcement | dict):
                # They differ only behind a gap, which the evaluator cannot know of.
                evaluator.events = number
                for verdict in evaluator.evaluate(item):
                    self._replayed.add(_canonical(verdict), self._recorded)
                    yield Judged(item, verdict)

    def compare(self) -> Comparison:
        """To be called when the iteration has ended."""
        appeared, vanished = self._replayed.unmatched(), self._recorded.unmatched()
        differences = [Difference("appeared", each) for each in self._replayed.first_unmatched()]
        differences += [Difference("vanished", each) for each in self._recorded.first_unmatched()]
        differences.sort(key=lambda each: (each.verdict.seq, each.side))
        return Comparison(
            identical=self._recorded.digest == self._replayed.digest,
            events=self._trail.events,
            recorded=self._recorded.count,
            replayed=self._replayed.count,
            appeared=appeared,
            vanished=vanished,
            differences=tuple(differences[:MAX_DIFFERENCES]),
        )


def _canonical(verdict: Verdict) -> bytes:
    """Every field of a verdict. In a trail, a field may or may not be written where it has its default."""
    return msgspec.json.encode(astuple(verdict))


class _Side:
    """The verdicts of one side, as bytes: their hash, and those that the other side has not given so far."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = sha256()
        self._unmatched: Counter[bytes] = Counter()

    def add(self, line: bytes, other: _Side) -> None:
        self.count += 1
        self._hash.update(line + b"\n")
        if other._unmatched[line]:
            other._unmatched[line] -= 1
            if not other._unmatched[line]:
                del other._unmatched[line]
        else:
            self._unmatched[line] += 1

    @property
    def digest(self) -> bytes:
        return self._hash.digest()

    def unmatched(self) -> int:
        return self._unmatched.total()

    def first_unmatched(self) -> list[Verdict]:
        lines = islice(self._unmatched.elements(), MAX_DIFFERENCES)
        return [Verdict(*msgspec.json.decode(line)) for line in lines]


def recorded_profile(trail: Trail) -> Profile:
    """The profile that the episode ran under, from the trail's header. Raises TrailError."""
    try:
        return parse_profile(trail.header.profile_text, f"{trail.path}: recorded profile")
    except ProfileError as error:
        # The message may quote the trail's text, and nobody vouches for that.
        lines = [show(line.encode()) for line in str(error).splitlines()]
        raise TrailError("\n".join(lines) + "\nTo judge by another profile, use --profile.") from None
