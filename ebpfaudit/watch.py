"""What `trace` stands on: probes that only look, on the whole host or on chosen processes. Nothing is enforced."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ebpfaudit.enforce.cgroup import PARENT, Cgroup
from ebpfaudit.episodes import Item, Recorder
from ebpfaudit.errors import UsageError
from ebpfaudit.events import EpisodeEnd, EpisodeStart, Event, Exec, Exit, Fork, Lost, Step
from ebpfaudit.kernel import bpf, served
from ebpfaudit.kernel.compile import EPISODES_MAX, Compiler
from ebpfaudit.kernel.gpu import GpuTables
from ebpfaudit.kernel.identity import Identifier
from ebpfaudit.kernel.loader import Probes, load
from ebpfaudit.kernel.plan import lacking_gaps
from ebpfaudit.kernel.privilege import require_privilege
from ebpfaudit.kernel.procfs import descendants, seen_processes, start_ticks
from ebpfaudit.kernel.tables import Tables
from ebpfaudit.mounts import cgroup2_mount
from ebpfaudit.pipeline import Pipeline
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import Profile
from ebpfaudit.registry import Registration, active

Take = Callable[[str, Sequence[Item]], None]
"""Is given a batch of one episode's events, each followed by its verdicts; "" is the name of what belongs to none."""

_LOOK_FOR_EPISODES_NS = 500_000_000
_COUNT_EVERY_NS = 1_000_000_000
_TAG = struct.Struct("=IIQ")
_FOLLOWED = 1
"""Number of the processes that were asked for by pid or cgroup. Episodes are numbered from there on."""


class Watched:
    """One name in the stream: an episode, the followed processes, or all the rest."""

    recorder: Recorder | None = None

    def __init__(self, number: int, name: str, take: Take, evaluator: Evaluator | None) -> None:
        self.number = number
        self.name = name
        self.received = 0
        self.lost = 0
        self._take = take
        self._evaluator = evaluator

    def judge(self, events: Sequence[Event]) -> None:
        """Pass the events on, and what an evaluator, if there is one, says of them."""
        if self._evaluator is None:
            self._take(self.name, events)
            return
        items: list[Item] = []
        for event in events:
            items.append(event)
            items += self._evaluator.evaluate(event)
        self._take(self.name, items)


class Untagged(Watched):
    """What belongs to no episode, as far as the probes know: they learn of an episode a moment after it begins.

    Whoever executes a program inside an episode's cgroup is the episode's from then on, with all its descendants.
    """

    def __init__(self, take: Take, evaluator: Evaluator, owner_of: Callable[[int], Watched | None]) -> None:
        super().__init__(0, "", take, evaluator)
        self._owner_of = owner_of
        self._strays: dict[tuple[int, int], Watched] = {}

    def judge(self, events: Sequence[Event]) -> None:
        own: list[Event] = []
        for event in events:
            owner = self._owner(event)
            if owner is None:
                own.append(event)
                continue
            super().judge(own)
            own = []
            owner.judge([event])
        super().judge(own)

    def _owner(self, event: Event) -> Watched | None:
        if isinstance(event, Lost | EpisodeStart | EpisodeEnd | Step):
            return None
        owner = self._strays.get(event.process)
        if owner is None:
            owner = self._owner_of(event.pid) if isinstance(event, Exec) else None
            if owner is not None:
                self._strays[event.process] = owner
        elif isinstance(event, Fork):
            self._strays[event.child, event.child_start] = owner
        elif isinstance(event, Exit):
            del self._strays[event.process]
        return owner


class Watch:
    """A running trace. `turn` handles what has happened; `lost` counts what nobody will ever see."""

    def __init__(
        self, pipeline: Pipeline, tables: Tables, take: Take, wanted: tuple[str, ...] | None,
        profile: Profile | None,
    ) -> None:  # fmt: skip
        """`wanted`: episode IDs to look out for; empty for every one; None for none."""
        self.gaps: list[str] = []
        """What of the profile is not in force."""
        self._profile = profile
        self._evaluators: dict[str, Evaluator] = {}
        self._pipeline = pipeline
        self._tables = tables
        self._take = take
        self._wanted = wanted
        self._watched: dict[int, Watched] = {}
        self._known: dict[str, int] = {}
        self._by_cgroup: dict[str, Watched] = {}
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

    def add(self, number: int, name: str) -> Watched:
        """From now on, what has this number goes by this name, and is judged as one episode."""
        profile = self._profile
        evaluator = None if profile is None else self._evaluators.setdefault(name, Evaluator(profile))
        watched = Watched(number, name, self._take, evaluator)
        if not number and evaluator is not None:
            watched = Untagged(self._take, evaluator, self._owner_of)
        self._watched[number] = watched
        self._pipeline.add(watched)
        return watched

    def _owner_of(self, pid: int) -> Watched | None:
        """The episode in whose cgroup a process is; one that has only just begun is looked up."""
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except OSError:
            return None
        place = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
        if f"/{PARENT}/" not in place:
            return None
        for look_again in (True, False):
            for cgroup, watched in self._by_cgroup.items():
                if place.endswith(cgroup) or f"{cgroup}/" in place:
                    return watched
            if look_again:
                self.look_for_episodes()
        return None

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
                self._adopt(self.add(self._free_number(), registration.episode), registration)

    def _free_number(self) -> int:
        """The number that was given out longest ago, among more than a thousand: its episode has long ended."""
        number = self._next_number
        self._next_number = number + 1 if number + 1 < EPISODES_MAX else _FOLLOWED + 1
        return number

    def _adopt(self, watched: Watched, registration: Registration) -> None:
        """By cgroup for those to come, and by the auditor's own tags, which also know who left the cgroup."""
        number = watched.number
        if registration.cgroup:
            self._by_cgroup[f"/{PARENT}/{Path(registration.cgroup).name}"] = watched
        pids = _tagged_elsewhere(registration)
        if registration.cgroup and Path(registration.cgroup).is_dir():
            self._tables.tag_cgroup(number, os.stat(registration.cgroup).st_ino)
        for pid in pids:
            self._tables.tag_process(number, pid)
        if self._profile is not None:  # else it would be judged as untagged
            watched.judge([_start_of(registration)])
        watched.judge(seen_processes(pids))


@contextmanager
def watch(
    take: Take,
    *,
    episodes: Sequence[str],
    pids: Sequence[int],
    cgroup: str | None,
    gpu_devices: tuple[str, ...],
    profile: Profile | None = None,
) -> Iterator[Watch]:
    """Attach the probes and pass on what they see, until the block is left; then everything is detached.

    Without a filter the whole host is watched. With a profile, what is seen is judged: each episode by itself, and
    all that belongs to none as one more, whose `untagged` is true. Raises EbpfAuditError.
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
        watch_ = Watch(pipeline, tables, take, None if pids or cgroup else tuple(episodes), profile)
        if profile is not None:
            watch_.gaps = _serve(profile, probes, pipeline, stack)
        untagged = watch_.add(0, "")
        pipeline.every_look(lambda now_ns: watch_.count_gpu(gpu, now_ns))
        if everything:
            untagged.judge(seen_processes())
        if pids or cgroup:
            _follow(watch_.add(_FOLLOWED, ""), tables, pids, cgroup)
        watch_.turn(0)
        yield watch_


def _serve(profile: Profile, probes: Probes, pipeline: Pipeline, stack: ExitStack) -> list[str]:
    """Find out what the profile's identities need. Returns what of the profile is not in force."""
    gaps = lacking_gaps(probes.lacks) + served.unserved(profile, lacks=probes.lacks)
    same_as, sha256 = profile.identities
    if same_as or sha256:
        identifier = Identifier(same_as, sha256)
        stack.callback(identifier.close)
        pipeline.consult(identifier)
        gaps += identifier.inactive_here
    return gaps


def _start_of(registration: Registration) -> EpisodeStart:
    try:
        start = start_ticks(registration.root_pid)
    except ProcessLookupError:
        start = 0
    return EpisodeStart(
        time.monotonic_ns(), registration.episode, registration.profile, registration.root_pid, start,
        step=registration.step,
    )  # fmt: skip


def _follow(watched: Watched, tables: Tables, pids: Sequence[int], cgroup: str | None) -> None:
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
    watched.judge(seen_processes(chosen))


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
