"""Which part of a stream somebody asked to see."""

from __future__ import annotations

from collections.abc import Iterable

from ebpfaudit import events as e
from ebpfaudit.output.describe import Item
from ebpfaudit.verdicts import Enforcement, Verdict

KINDS: dict[str, tuple[type, ...]] = {
    "exec": (e.Exec, e.Identity),
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
    """Says of each item whether it is to be shown."""

    def __init__(self, *, kinds: Iterable[str] = USUAL, episodes: Iterable[str] = ()) -> None:
        """No episodes: all of them, and what belongs to none."""
        self._types = frozenset({type_ for kind in kinds for type_ in KINDS[kind]} | {e.Lost})
        self._episodes = frozenset(episodes)

    def admits(self, episode: str, item: Item) -> bool:
        return type(item) in self._types and (not self._episodes or episode in self._episodes)
