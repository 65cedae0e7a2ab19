"""What episodes did, as far as their trails and the profile to be extended permit it to be repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from ebpfaudit.errors import TrailError
from ebpfaudit.events import Connect, Event, Exec, Gpu
from ebpfaudit.gpu import JUDGED_KINDS
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.policy.facts import destination_of, endpoint
from ebpfaudit.process import Process
from ebpfaudit.profiles.schema import Profile
from ebpfaudit.trail.backtest import PREVENTING, doubts_of
from ebpfaudit.trail.reader import Trail
from ebpfaudit.verdicts import Action, Enforcement, Verdict

MAX_DIFFERENT = 100_000
"""Different things of one kind that are kept. Whoever names more is not doing work that can be learned."""

_PROGRESS_EVERY = 1 << 12
_SHOWN_PROGRAMS = 3
_PORTLESS = ("icmp", "icmp6")


class Evidence(Struct):
    """How often something was observed, by which programs, and where first."""

    count: int
    programs: tuple[str, ...]
    """Names of the first of them."""
    trail: int
    """Index of the first trail that has it."""
    seq: int

    def add(self, other: Evidence) -> None:
        self.count += other.count
        fresh = tuple(name for name in other.programs if name not in self.programs)
        self.programs = (self.programs + fresh)[:_SHOWN_PROGRAMS]
        if (other.trail, other.seq) < (self.trail, self.seq):
            self.trail, self.seq = other.trail, other.seq


class Spot(Struct, frozen=True):
    """An internet destination: what an attempt named."""

    address: int
    protocol: str
    """"" for ICMP: what a profile's entry cannot tell apart from any protocol."""
    port: int


class UnixSpot(Struct, frozen=True):
    path: str


class Device(Struct, frozen=True):
    """A GPU device, as one trail knows it."""

    device: str
    uuid: str


class Judgement(Struct, frozen=True):
    """What the profile to be extended says against."""

    action: Action
    rule: str
    field: str
    value: str


class Recorded(Struct, frozen=True):
    """One of the trails."""

    name: str
    episode: str
    profile: str
    head: str
    realtime_ns: int
    events: int
    complete: bool
    damaged: bool
    doubts: tuple[str, ...]
    kills: int
    """Verdicts by which it was killed, or would have been."""
    enforced: bool


class Observations(Struct):
    """All that was seen, each with its evidence. `Action` is what the extended profile says to it: up to "alert"."""

    trails: list[Recorded] = field(default_factory=list)
    spots: dict[tuple[Spot, Action], Evidence] = field(default_factory=dict)
    unix: dict[tuple[UnixSpot, Action], Evidence] = field(default_factory=dict)
    devices: dict[tuple[Device, Action], Evidence] = field(default_factory=dict)
    programs: dict[str, Evidence] = field(default_factory=dict)
    judged: dict[Judgement, Evidence] = field(default_factory=dict)
    refused: dict[tuple[str, str], Evidence] = field(default_factory=dict)
    """What was denied when it was observed, though not by the extended profile: (kind, value)."""
    inherited: set[Spot | UnixSpot | Device] = field(default_factory=set)
    """What an entry of the extended profile lets pass: it need not be said again."""
    nameless: dict[tuple[str, str], Evidence] = field(default_factory=dict)
    """What no entry of a profile could name: (kind, value)."""


class Observer:
    """Adds one trail to what was observed."""

    def __init__(self, trail: Trail, base: Profile, into: Observations) -> None:
        self._trail = trail
        self._evaluator = Evaluator(base)
        self._base = base
        self._into = into
        self._index = len(into.trails)
        self._devices: dict[tuple[str, str, Action], Evidence] = {}

    def run(self, progress: Callable[[int], None] = lambda offset: None) -> None:
        """Read all of the trail. Raises TrailError where it holds more than can be learned."""
        trail, evaluator = self._trail, self._evaluator
        kills = 0
        for number, item in trail.numbered():
            if isinstance(item, Verdict):
                kills += item.action == "kill"
            elif not isinstance(item, Enforcement | dict):
                evaluator.events = number
                verdicts = evaluator.evaluate(item)
                if verdicts or isinstance(item, Connect | Exec | Gpu):
                    self._take(number, item, verdicts)
            if not number % _PROGRESS_EVERY:
                progress(trail.offset)
        self._conclude_devices()
        header, end = trail.header, trail.end
        complete = end is not None and end.complete and not trail.problems
        self._into.trails.append(
            Recorded(
                trail.path.name, header.episode, header.profile, trail.head, header.realtime_ns, trail.events,
                complete, trail.damaged, tuple(doubts_of(trail)), kills, header.enforce,
            )
        )  # fmt: skip

    def _take(self, number: int, event: Event, verdicts: tuple[Verdict, ...]) -> None:
        evidence = Evidence(1, self._program(event), self._index, number)
        against = [verdict for verdict in verdicts if verdict.action in PREVENTING]
        for verdict in against:
            key = Judgement(verdict.action, verdict.rule, verdict.field, verdict.value)
            self._enter(self._into.judged, key, evidence)
        if against:
            return
        if isinstance(event, Connect):
            if event.phase == "attempt":
                self._take_connect(event, _level(verdicts, "network"), evidence)
        elif isinstance(event, Exec):
            if event.decision in PREVENTING:
                self._enter(self._into.refused, ("exec", event.exe), evidence)
            elif not event.error:
                self._enter(self._into.programs, event.exe, evidence)
        elif isinstance(event, Gpu) and event.event in JUDGED_KINDS:
            self._take_gpu(event, _level(verdicts, "gpu"), evidence)

    def _take_connect(self, event: Connect, level: Action, evidence: Evidence) -> None:
        if event.decision in PREVENTING or event.result == "denied":
            self._enter(self._into.refused, ("connect", endpoint(event)), evidence)
        elif event.family == "unix":
            self._pass(self._into.unix, UnixSpot(event.dst), level, evidence)
        else:
            address = destination_of(event)
            if isinstance(address, int):
                protocol = "" if event.protocol in _PORTLESS else event.protocol
                port = 0 if not protocol else event.port
                self._pass(self._into.spots, Spot(address, protocol, port), level, evidence)
            else:
                self._enter(self._into.nameless, ("connect", endpoint(event)), evidence)

    def _take_gpu(self, event: Gpu, level: Action, evidence: Evidence) -> None:
        if event.decision in PREVENTING or event.result == "denied":
            self._enter(self._into.refused, ("gpu", event.uuid or event.device), evidence)
        elif self._base.gpu is not None and self._base.gpu.decide(event.device, event.uuid)[1] != "default":
            self._into.inherited.add(Device(event.device, event.uuid))
        else:
            self._enter(self._devices, (event.device, event.uuid, level), evidence)

    def _pass(
        self, table: dict[Any, Evidence], what: Spot | UnixSpot, level: Action, evidence: Evidence
    ) -> None:
        """Enter a destination, unless an entry of the extended profile speaks of it."""
        if what in self._into.inherited:
            return
        if (what, level) not in table and self._is_named(what):
            self._into.inherited.add(what)
        else:
            self._enter(table, (what, level), evidence)

    def _is_named(self, what: Spot | UnixSpot) -> bool:
        network = self._base.network
        if network is None:
            return False
        if isinstance(what, UnixSpot):
            return network.decide_unix(what.path)[1] != "default"
        address = what.address.to_bytes(16, "big")
        return network.decide_ip(address, what.port, what.protocol or "icmp")[1] != "default"

    def _conclude_devices(self) -> None:
        """A device goes by its UUID, if this trail knows that."""
        known = {device for device, uuid, _ in self._devices if uuid}
        for (device, uuid, level), evidence in self._devices.items():
            if uuid or device not in known:
                self._enter(self._into.devices, (Device("" if uuid else device, uuid), level), evidence)
        for (device, uuid, level), evidence in self._devices.items():
            if not uuid and device in known:
                named = next(key for key in self._devices if key[0] == device and key[1])
                self._enter(self._into.devices, (Device("", named[1]), level), evidence)

    def _program(self, event: Event) -> tuple[str, ...]:
        if isinstance(event, Exec):
            name = event.exe
        else:
            process = self._process(event)
            name = (process.exe if process else "") or getattr(event, "comm", "")
        name = name.rpartition("/")[2]
        return (name,) if name else ()

    def _process(self, event: Any) -> Process | None:
        pid, start = getattr(event, "pid", 0), getattr(event, "start", 0)
        processes = self._evaluator.processes
        return processes.get(pid, start) if processes.knows(pid, start) else None

    def _enter(self, table: dict[Any, Evidence], key: Any, evidence: Evidence) -> None:
        known = table.get(key)
        if known is not None:
            known.add(evidence)
        elif len(table) < MAX_DIFFERENT:
            table[key] = Evidence(evidence.count, evidence.programs, evidence.trail, evidence.seq)
        else:
            raise TrailError(
                f"{self._trail.path}: more than {MAX_DIFFERENT:,} different destinations or programs were observed; "
                "no profile can be learned from a scan, leave this trail out"
            )


def _level(verdicts: tuple[Verdict, ...], section: str) -> Action:
    """What the section of the extended profile says to an event that it lets pass."""
    return next((verdict.action for verdict in verdicts if verdict.rule == section), "allow")
