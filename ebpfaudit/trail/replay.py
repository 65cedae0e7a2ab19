"""Judges a recorded episode once more, by its own profile or another, and compares the verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from typing import Literal

import msgspec
from msgspec import Struct

from ebpfaudit.events import Event
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import Profile, parse_profile
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
    """Byte for byte, in the same order."""
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
        self._encode = msgspec.json.Encoder().encode
        self._recorded, self._replayed = _Side(), _Side()

    def __iter__(self) -> Iterator[Judged]:
        evaluator = self._evaluator
        for number, item in self._trail.numbered():
            if isinstance(item, Verdict):
                self._recorded.add(item, self._encode(item), self._replayed)
            elif not isinstance(item, Enforcement | dict):
                # They differ only behind a gap, which the evaluator cannot know of.
                evaluator.events = number
                for verdict in evaluator.evaluate(item):
                    self._replayed.add(verdict, self._encode(verdict), self._recorded)
                    yield Judged(item, verdict)

    def compare(self) -> Comparison:
        """To be called when the iteration has ended."""
        appeared, vanished = self._replayed.rest(), self._recorded.rest()
        differences = [Difference("appeared", each) for each in appeared]
        differences += [Difference("vanished", each) for each in vanished]
        differences.sort(key=lambda each: (each.verdict.seq, each.side))
        return Comparison(
            identical=self._recorded.digest == self._replayed.digest,
            events=self._trail.events,
            recorded=self._recorded.count,
            replayed=self._replayed.count,
            appeared=len(appeared),
            vanished=len(vanished),
            differences=tuple(differences[:MAX_DIFFERENCES]),
        )
