"""Which part of a stream somebody asked to see. Lineage is followed by the stream's own events: exactly."""

from __future__ import annotations

from collections.abc import Iterable

from ebpfaudit import events as e
from ebpfaudit.output.describe import Item
from ebpfaudit.verdicts import Enforcement, Verdict

KINDS: dict[str, tuple[type, ...]] = {
    "exec": (e.Exec,),
    "connect": (e.Connect,),
    "gpu": (e.Gpu, e.GpuCount),
    "exit": (e.Exit,),
    "cgroup": (e.CgroupMove,),
    "episode": (e.EpisodeStart, e.EpisodeEnd, e.Step),
    "verdict": (Verdict, Enforcement),
    "fork": (e.Fork,),
    "seen": (e.Seen,),
}
"""What `--kind` knows. A loss is always shown."""

USUAL = tuple(kind for kind in KINDS if kind not in ("fork", "seen"))
"""A fork says little that the exec after it does not, and a host has hundreds of processes to be seen."""


class Selection:
    """Says of each item, in order, whether it is to be shown. Must be asked about all of them."""

    def __init__(
        self, *, kinds: Iterable[str] = USUAL, episodes: Iterable[str] = (), pids: Iterable[int] = ()
    ) -> None:
        """No episodes: all of them, and what belongs to none. No pids: every process; else these and
        their descendants, whoever they are later reparented to."""
        self._types = frozenset({type_ for kind in kinds for type_ in KINDS[kind]} | {e.Lost})
        self._episodes = frozenset(episodes)
        self._pids = set(pids)
        self._follows = bool(self._pids)
        self._followed_episodes: set[str] = set()

    def follow(self, pids: Iterable[int]) -> None:
        """Follow these too: descendants that were there before the stream began."""
        self._pids.update(pids)

    def admits(self, episode: str, item: Item, about: e.Event | None = None) -> bool:
        """`about` is the event that a verdict judges."""
        if self._episodes and episode not in self._episodes:
            return False
        if self._follows and not self._followed(episode, item, about):
            return False
        return type(item) in self._types

    def _followed(self, episode: str, item: Item, about: e.Event | None) -> bool:
        if isinstance(item, Verdict):
            return about is not None and getattr(about, "pid", 0) in self._pids
        if not isinstance(item, e.ProcessEvent):
            return isinstance(item, e.Lost) or episode in self._followed_episodes
        if isinstance(item, e.Seen) and item.ppid in self._pids:
            self._pids.add(item.pid)
        if item.pid not in self._pids:
            return False
        self._followed_episodes.add(episode)
        if isinstance(item, e.Fork):
            self._pids.add(item.child)
        elif isinstance(item, e.Exit):
            self._pids.discard(item.pid)
        return True
