"""Events as columns, live: for a person at a terminal, or for grep behind a pipe.

rich is not used here: a host may start 2,000 programs a second, three lines each, and a line through rich
takes 124 us where it takes 8 us below (measured). Nothing but our own colours can reach the terminal, since
every text passes `terminal.printable`.
"""

from __future__ import annotations

from typing import IO

from ebpfaudit.events import Event, Exit
from ebpfaudit.output.clock import WallClock
from ebpfaudit.output.describe import Item, describe
from ebpfaudit.output.terminal import DIM, RESET, cells, columns, cut, fit, printable, wants_colour
from ebpfaudit.verdicts import Enforcement, Verdict

_WIDE_FROM = 100
_NAMES_KEPT = 65_536


class Console:
    """Writes each item as one line. Call `flush` after each batch: that is when lines leave."""

    def __init__(
        self, stream: IO[str], clock: WallClock, *, wide: bool = False, show_episode: bool = True
    ) -> None:
        """`wide` never cuts a line; else it fits the terminal (80 columns where there is none).

        `show_episode` gives the episode a column: leave it out where there is only one.
        """
        self._stream = stream
        self._clock = clock
        self._wide = wide
        self._show_episode = show_episode
        self._colour = wants_colour(stream)
        self._lines: list[str] = []
        self._names: dict[int, str] = {}
        self.resize()

    def resize(self) -> None:
        """Look again how wide the terminal is."""
        self._width = columns(self._stream)
        roomy = self._wide or self._width >= _WIDE_FROM
        self._time_width, self._episode_width, self._comm_width = (12, 12, 15) if roomy else (8, 8, 10)

    def heading(self) -> None:
        """The names of the columns, for a terminal only: behind a pipe they would be noise."""
        if self._stream.isatty():
            line = self._columns("TIME", "EPISODE", "PID", "COMM", "KIND") + "WHAT"
            self._lines.append(f"{DIM}{line}{RESET}" if self._colour else line)
            self.flush()

    def write(self, episode: str, seq: int, item: Item, about: Event | None = None) -> None:
        """`about` is the event that a verdict judges: it lends time, pid and name. `seq` is not shown."""
        kind, what, style = describe(item)
        source = about if about is not None and type(item) is Verdict else item
        when_ns, pid = _when(source), _pid(source)
        clock = self._clock.local(when_ns)[: self._time_width] if when_ns else ""
        left = self._columns(clock, episode, str(pid) if pid else "", self._name(source), kind)
        if not self._wide:
            what = cut(what, self._width - cells(left))
        if style and self._colour:
            what = f"{style}{what}{RESET}"
        self._lines.append(left + what)

    def flush(self) -> None:
        if self._lines:
            self._lines.append("")
            text = "\n".join(self._lines)
            self._lines.clear()
            self._stream.write(text)
            self._stream.flush()

    def _columns(self, clock: str, episode: str, pid: str, name: str, kind: str) -> str:
        shown = fit(printable(episode) or "-", self._episode_width) + " " if self._show_episode else ""
        comm = fit(printable(name), self._comm_width)
        return f"{clock:{self._time_width}} {shown}{pid:>7} {comm} {kind:7} "

    def _name(self, item: Item) -> str:
        """comm, for the events that do not carry it from those before."""
        name: str | None = getattr(item, "comm", None)
        pid = _pid(item)
        if name is None:
            name = self._names.pop(pid, "") if type(item) is Exit else self._names.get(pid, "")
        elif pid:
            if len(self._names) >= _NAMES_KEPT:
                self._names.clear()
            self._names[pid] = name
        return name


def _when(item: Item) -> int:
    if isinstance(item, Verdict):
        return 0
    if isinstance(item, Enforcement):
        return item.gone_ns or item.killed_ns or item.decided_ns or item.detected_ns
    return item.ts_ns


def _pid(item: Item) -> int:
    if isinstance(item, Enforcement):
        return item.root_pid
    pid: int = getattr(item, "pid", 0)
    return pid
