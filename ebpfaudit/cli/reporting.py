"""What `run` says and keeps: start line, alerts as they happen, the summary, the trail, the result file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ebpfaudit.errors import EbpfAuditError, UsageError
from ebpfaudit.output.clock import WallClock
from ebpfaudit.output.ndjson import Ndjson
from ebpfaudit.output.notices import enforcement_line, start_lines, verdict_line
from ebpfaudit.output.summary import RunSummary, Tally, render, to_json
from ebpfaudit.output.terminal import wants_colour
from ebpfaudit.output.voice import Voice
from ebpfaudit.verdicts import ACTIONS, Enforcement, Verdict

if TYPE_CHECKING:
    from ebpfaudit.episodes import Episode, Item
    from ebpfaudit.session import Outcome, Plan, Session
    from ebpfaudit.trail.writer import TrailWriter

_ALERT = ACTIONS.index("alert")
_ALERTS_PER_RULE = 10
_WINDOW_S = 10.0


class Reporter:
    """Conducts a session and reports on it. Everything goes to stderr: stdout is the command's."""

    def __init__(self, plan: Plan, *, as_json: bool, quiet: bool, result: Path | None) -> None:
        self._plan = plan
        self._as_json = as_json
        self._quiet = quiet
        self._colour = wants_colour(sys.stderr)
        self._clock = WallClock.of_this_host()
        self._tally = Tally()
        self._voice = Voice(2)
        self._lines = Ndjson(self._voice, self._clock)
        self._throttle = _Throttle()
        self._result = _open_result(result) if result is not None else None

    def conduct(self, session: Session, trail: str | None, command: Sequence[str]) -> int:
        """Run the whole session. Returns the exit code."""
        try:
            return self._conduct(session, trail, command)
        finally:
            self._voice.close()

    def _conduct(self, session: Session, trail: str | None, command: Sequence[str]) -> int:
        session.open()
        writer = self._open_trail(session, trail, command)
        if not self._quiet and not self._as_json:
            gaps = session.gaps()
            where = str(writer.path) if writer is not None else ""
            for line in start_lines(
                self._plan.episode, self._plan.profile.name, where, gaps, enforce=self._plan.enforce,
                step=self._plan.step,
            ):  # fmt: skip
                self._say(line)
        try:
            outcome = session.play(writer)
        except BaseException:
            if writer is not None:
                writer.close_unfinished("ebpfaudit failed")
            raise
        head = self._close_trail(writer, outcome)
        self._conclude(session, outcome, writer, head)
        return outcome.exit_code

    def observe(self, episode: Episode, items: list[Item]) -> None:
        """Listen to the pipeline: count everything, show alerts and what was done about them."""
        self._tally.add(items)
        event = None
        for item in items:
            if isinstance(item, Verdict):
                if ACTIONS.index(item.action) >= _ALERT and self._throttle.passes(item.rule):
                    self._alert(episode, item, event)
            elif isinstance(item, Enforcement):
                if self._as_json:
                    self._lines.write(episode.id, item.seq, item)
                elif item.result != "already-exited":
                    self._say(enforcement_line(item, colour=self._colour))
            else:
                event = item
        self._lines.flush()

    def _alert(self, episode: Episode, verdict: Verdict, event: Item | None) -> None:
        if self._as_json:
            self._lines.write(episode.id, verdict.seq, verdict)
            return
        assert not isinstance(event, Verdict | Enforcement)
        self._say(verdict_line(verdict, event, self._clock, colour=self._colour))

    def _open_trail(self, session: Session, trail: str | None, command: Sequence[str]) -> TrailWriter | None:
        if trail == "none":
            return None
        from ebpfaudit.session import default_trail
        from ebpfaudit.trail.writer import TrailWriter

        path = Path(trail) if trail else default_trail(self._plan.episode)
        return TrailWriter(path, session.header(command))

    def _close_trail(self, writer: TrailWriter | None, outcome: Outcome) -> str:
        if writer is None:
            return ""
        return writer.close(outcome.reason, outcome.exit_code, complete=outcome.complete)

    def _conclude(self, session: Session, outcome: Outcome, writer: TrailWriter | None, head: str) -> None:
        unwritten = writer.unwritten if writer is not None else 0
        summary = self._tally.summary(
            self._plan.episode, self._plan.profile.name, step=self._plan.step, exit_code=outcome.exit_code,
            killed_by_policy=outcome.killed_by_policy, duration_s=round(outcome.duration_s, 3),
            complete=outcome.complete and not unwritten, trail=str(writer.path) if writer is not None else None,
            trail_head=head or None, coverage=session.coverage(), unidentified=outcome.unidentified,
        )  # fmt: skip
        if self._as_json:
            self._write(to_json(summary))
        elif not self._quiet:
            self._report(summary, writer)
        if self._result is not None:
            try:
                with self._result as stream:
                    stream.write(to_json(summary))
            except OSError as error:
                raise EbpfAuditError(
                    f"the command ended with code {outcome.exit_code}, but the result could not be written: "
                    f"{error.strerror}"
                ) from error

    def _report(self, summary: RunSummary, writer: TrailWriter | None) -> None:
        for rule, count in self._throttle.held_back.items():
            self._say(f"ebpfaudit: {count} more alerts of rule {rule} were not shown")
        if writer is not None and writer.error:
            self._say(f"ebpfaudit: the trail is not whole: {writer.error}")
        self._write(render(summary, colour=self._colour).encode("utf-8", "replace"))

    def _say(self, line: str) -> None:
        self._write(line.encode("utf-8", "replace") + b"\n")

    def _write(self, data: bytes) -> None:
        self._voice.write(data)


class _Throttle:
    """An agent that offends in a loop does not flood the terminal: ten alerts a rule in ten seconds."""

    def __init__(self) -> None:
        self.held_back: dict[str, int] = {}
        self._shown: dict[str, tuple[float, int]] = {}

    def passes(self, rule: str) -> bool:
        now = time.monotonic()
        since, count = self._shown.get(rule, (now, 0))
        if now - since > _WINDOW_S:
            since, count = now, 0
        self._shown[rule] = (since, count + 1)
        if count < _ALERTS_PER_RULE:
            return True
        self.held_back[rule] = self.held_back.get(rule, 0) + 1
        return False


def _open_result(path: Path) -> IO[bytes]:
    """Opened before anything runs, so that a wrong path is known at once. Never through a symbolic link."""
    try:
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644
        )
    except OSError as error:
        raise UsageError(f"cannot write the result to {path}: {error.strerror}") from error
    return os.fdopen(descriptor, "wb")
