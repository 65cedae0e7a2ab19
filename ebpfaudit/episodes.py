"""An episode under audit: who is watched, under which profile, and where what was seen goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from ebpfaudit.events import Event, Exec, Identity
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import Profile
from ebpfaudit.verdicts import ACTIONS, Enforcement, Verdict

Item = Event | Verdict | Enforcement


class Recorder(Protocol):
    """Keeps what happened, in order (`trail.writer.TrailWriter`)."""

    def extend(self, items: Iterable[Item]) -> None: ...
    def append(self, item: Item) -> None: ...
    def flush(self, sync: bool) -> None: ...
    def tick(self, now_ns: int) -> None: ...


class Executioner(Protocol):
    """Carries verdicts out (`enforce.enforcer.Enforcer`)."""

    def carry_out(self, verdict: Verdict, event: Event, decided_ns: int) -> Enforcement: ...


Listener = Callable[["Episode", list[Item]], None]
"""Is told every batch of items, in order, after it was judged and recorded."""

_SYNC_EVERY_NS = 100_000_000
"""Denials are made durable at most this often: an agent that retries in a loop must not stall the auditor.
A kill is made durable at once."""


class Episode:
    """One episode as the pipeline sees it. `judge` is the road every event of it takes."""

    def __init__(
        self,
        number: int,
        episode_id: str,
        profile: Profile,
        *,
        recorder: Recorder | None = None,
        executioner: Executioner | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.number = number
        self.id = episode_id
        self.profile = profile
        self.evaluator = Evaluator(profile)
        self.recorder = recorder
        self.executioner = executioner
        self.listener = listener
        self.received = 0
        """Records taken out of the ring buffer, readable or not."""
        self.lost = 0
        """Records that the probes could not hand over."""
        self._last_sync_ns = 0

    def judge(self, events: list[Event]) -> None:
        """Evaluate, carry out, record and show a batch, in that order for each event."""
        evaluate = self.evaluator.evaluate
        items: list[Item] | None = None
        done = 0
        sync = killed = False
        for index, event in enumerate(events):
            verdicts = evaluate(event)
            if verdicts:
                if items is None:
                    items = []
                items += events[done : index + 1]
                done = index + 1
                items += verdicts
                enforcement = self._act(event, verdicts)
                if enforcement is not None:
                    items.append(enforcement)
                    killed = True
                sync = sync or any(verdict.action == "deny" for verdict in verdicts)
        if items is None:
            whole: list[Item] = events  # type: ignore[assignment]
        else:
            items += events[done:]
            whole = items
        if self.recorder is not None:
            self.recorder.extend(whole)
            if killed or sync:
                self._make_durable(killed)
        if self.listener is not None:
            self.listener(self, whole)

    def _act(self, event: Event, verdicts: tuple[Verdict, ...]) -> Enforcement | None:
        """Carry out the strictest verdict. What the probe has already refused needs nothing more."""
        verdict = max(verdicts, key=lambda each: ACTIONS.index(each.action))
        late = isinstance(event, Identity) or (isinstance(event, Exec) and event.decision != "kill")
        if verdict.action == "deny" and late:
            # The file was not known when the probe's table was written (a glob, a new file, a copy): too late
            # to refuse, so the process that runs it is killed.
            verdict = msgspec.structs.replace(verdict, action="kill", scope="process")
        if verdict.action not in ("kill", "freeze") or self.executioner is None:
            return None
        return self.executioner.carry_out(verdict, event, time.monotonic_ns())

    def _make_durable(self, killed: bool) -> None:
        now_ns = time.monotonic_ns()
        if self.recorder is not None and (killed or now_ns - self._last_sync_ns > _SYNC_EVERY_NS):
            self._last_sync_ns = now_ns
            self.recorder.flush(sync=True)
