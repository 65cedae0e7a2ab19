"""What `trace` stands on: probes that only look, on the whole host or on chosen processes. Judges nothing."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ebpfaudit.enforce.cgroup import Cgroup
from ebpfaudit.episodes import Recorder
from ebpfaudit.errors import UsageError
from ebpfaudit.events import Event
from ebpfaudit.kernel import bpf
from ebpfaudit.kernel.compile import EPISODES_MAX, Compiler
from ebpfaudit.kernel.gpu import GpuTables
from ebpfaudit.kernel.loader import load
from ebpfaudit.kernel.privilege import require_privilege
from ebpfaudit.kernel.procfs import descendants, seen_processes
from ebpfaudit.kernel.tables import Tables
from ebpfaudit.mounts import cgroup2_mount
from ebpfaudit.pipeline import Pipeline
from ebpfaudit.registry import Registration, active

Take = Callable[[str, Sequence[Event]], None]
"""Is given a batch of one episode's events; "" is the name of what belongs to none."""

_LOOK_FOR_EPISODES_NS = 500_000_000
_COUNT_EVERY_NS = 1_000_000_000
_TAG = struct.Struct("=IIQ")
_FOLLOWED = 1
"""Number of the processes that were asked for by pid or cgroup. Episodes are numbered from there on."""


class Watched:
    """One name in the stream: an episode, the followed processes, or all the rest."""

    recorder: Recorder | None = None

    def __init__(self, number: int, name: str, take: Take) -> None:
        self.number = number
        self.name = name
        self.received = 0
        self.lost = 0
        self._take = take

    def judge(self, events: list[Event]) -> None:
        """Pass the events on; a watcher has no opinion."""
        self._take(self.name, events)


class Watch:
    """A running trace. `turn` handles what has happened; `lost` counts what nobody will ever see."""

    def __init__(
        self, pipeline: Pipeline, tables: Tables, take: Take, wanted: tuple[str, ...] | None
    ) -> None:
        """`wanted`: episode IDs to look out for; empty for every one; None for none."""
        self._pipeline = pipeline
        self._tables = tables
        self._take = take
        self._wanted = wanted
        self._watched: dict[int, Watched] = {}
        self._known: dict[str, int] = {}
        self._next_number = _FOLLOWED + 1
        self._next_look_ns = self._next_count_ns = 0

    @property
    def lost(self) -> int:
        return sum(watched.lost for watched in self._watched.values())

    def turn(self, timeout_ms: int) -> None:
        """Wait for events, at most so long, and pass them on."""
        self._pipeline.turn(timeout_ms)
        now_ns = time.monotonic_ns()
        if self._wanted is not None and now_ns >= self._next_look_ns:
            self._next_look_ns = now_ns + _LOOK_FOR_EPISODES_NS
            self.look_for_episodes()

    def count_gpu(self, gpu: GpuTables, now_ns: int) -> None:
        """Pass on, about once a second, how many driver calls there were."""
        if now_ns >= self._next_count_ns:
            self._next_count_ns = now_ns + _COUNT_EVERY_NS
            for number, event in gpu.collect(now_ns):
                if number in self._watched:
                    self._watched[number].judge([event])

    def add(self, number: int, name: str) -> None:
        watched = self._watched[number] = Watched(number, name, self._take)
        self._pipeline.add(watched)

    def look_for_episodes(self) -> None:
        """Give the processes of episodes that other commands audit their names."""
        for registration in active():
            chosen = not self._wanted or registration.episode in self._wanted
            if (
                chosen
                and registration.root_pid
                and self._known.get(registration.episode) != registration.auditor_pid
            ):
                self._known[registration.episode] = registration.auditor_pid
                number = self._free_number()
                self.add(number, registration.episode)
                self._adopt(number, registration)

    def _free_number(self) -> int:
        """The number that was given out longest ago, among more than a thousand: its episode has long ended."""
        number = self._next_number
        self._next_number = number + 1 if number + 1 < EPISODES_MAX else _FOLLOWED + 1
        return number

    def _adopt(self, number: int, registration: Registration) -> None:
        """By cgroup for those to come, and by the auditor's own tags, which also know who left the cgroup."""
        pids = _tagged_elsewhere(registration)
        if registration.cgroup and Path(registration.cgroup).is_dir():
            self._tables.tag_cgroup(number, os.stat(registration.cgroup).st_ino)
        for pid in pids:
            self._tables.tag_process(number, pid)
        self._take(registration.episode, seen_processes(pids))


@contextmanager
def watch(
    take: Take,
    *,
    episodes: Sequence[str],
    pids: Sequence[int],
    cgroup: str | None,
    gpu_devices: tuple[str, ...],
) -> Iterator[Watch]:
    """Attach the probes and pass on what they see, until the block is left; then everything is detached.

    Without a filter the whole host is watched. Raises EbpfAuditError.
    """
    require_privilege()
    everything = not (episodes or pids or cgroup)
    with ExitStack() as stack:
        compiler = Compiler.start(trace_untagged=everything)
        stack.callback(compiler.stop)
        probes = load(compiler, cgroup2_mount())
        stack.callback(probes.close)
        compiler.stop()
        tables = Tables(probes)
        gpu = GpuTables(probes, gpu_devices)
        pipeline = Pipeline(probes, tables)
        stack.callback(pipeline.close)
        gpu.register(pipeline.decoder)
        watch_ = Watch(pipeline, tables, take, None if pids or cgroup else tuple(episodes))
        watch_.add(0, "")
        pipeline.every_look(lambda now_ns: watch_.count_gpu(gpu, now_ns))
        if everything:
            take("", seen_processes())
        if pids or cgroup:
            _follow(watch_, tables, take, pids, cgroup)
        watch_.turn(0)
        yield watch_


def _follow(watch_: Watch, tables: Tables, take: Take, pids: Sequence[int], cgroup: str | None) -> None:
    watch_.add(_FOLLOWED, "")
    chosen: set[int] = set()
    if cgroup is not None:
        folder = Path(cgroup)
        try:
            group = Cgroup(folder)
        except OSError as error:
            raise UsageError(f"{cgroup} is not a cgroup of version 2 ({error.strerror})") from error
        tables.tag_cgroup(_FOLLOWED, group.id)
        chosen |= group.procs()
        group.close()
    # Twice: a child that was born while we looked the first time is found, and tagged, the second time.
    for _ in range(2):
        for pid in pids:
            chosen |= descendants(pid)
        for pid in chosen:
            tables.tag_process(_FOLLOWED, pid)
    take("", seen_processes(chosen))


def _tagged_elsewhere(registration: Registration) -> set[int]:
    """Members of an episode, from the tag map of whoever audits it."""
    try:
        descriptor = bpf.map_fd_by_id(registration.tag_map)
    except OSError:
        return set()
    try:
        tags = bpf.Map(descriptor, 4, _TAG.size)
        members = set()
        for key in tags.keys():  # noqa: SIM118 - a BPF map, not a dict
            value = tags.get(key)
            if value is not None and _TAG.unpack(value)[0] == registration.number:
                members.add(int.from_bytes(key, "little"))
        return members
    finally:
        os.close(descriptor)
