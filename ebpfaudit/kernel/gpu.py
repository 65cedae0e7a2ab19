"""The GPU probe's tables: which devices it watches, what their commands mean, who may use them; and its answers.

Layouts are those of probes/gpu.bpf.c and struct gpu_record; the layout test checks the sizes.
"""

from __future__ import annotations

import errno
import struct
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from ebpfaudit.errors import KernelError
from ebpfaudit.events import Event, Gpu, GpuCount
from ebpfaudit.gpu import KINDS, MATCHES
from ebpfaudit.gpu.arguments import ARGUMENTS, Argument
from ebpfaudit.gpu.counts import KEY, VALUE, GpuCounts
from ebpfaudit.gpu.devices import (
    UNKNOWN_GPU,
    GpuDevice,
    discover,
    parse_declaration,
    read_config,
    uuid_bytes,
    uuid_text,
)
from ebpfaudit.gpu.drivers import BY_NAME, DRIVERS, Driver
from ebpfaudit.gpu.records import GPU_RECORD
from ebpfaudit.gpu.table import Command, commands_of, name_of
from ebpfaudit.kernel import layout
from ebpfaudit.kernel.compile import possible_cpus
from ebpfaudit.kernel.decode import Decoder
from ebpfaudit.kernel.loader import Probes
from ebpfaudit.process import TICK_NS
from ebpfaudit.profiles.devices import GpuPolicy
from ebpfaudit.profiles.load import Profile
from ebpfaudit.text import show
from ebpfaudit.verdicts import ACTIONS

_MAJOR = struct.Struct("=HH")
_DEVICE = struct.Struct("=HBB")
_COMMAND_KEY = struct.Struct("=BBHI")
_COMMAND = struct.Struct("=BBBBIHHHHHH")
_POLICY_KEY = struct.Struct("=II")
_U32 = struct.Struct("=I")
_TAG = struct.Struct("=IIQ")

_MINORS_MAX = 16384
_ANY_DEVICE = 0xFFFF
_NOWHERE = 0xFFFF
_ENVELOPE, _INNER, _LIMIT, _LISTED = 1, 2, 4, 8
_UNLISTED_UUID = uuid_text(bytes(16))

_COUNT_EVERY_NS = 1_000_000_000
_DISCOVER_EVERY_NS = 10_000_000_000
_record = GPU_RECORD.layout.unpack_from


class Judge(Protocol):
    """An episode, as far as counts go."""

    @property
    def number(self) -> int: ...
    def judge(self, events: list[Event]) -> None: ...


class GpuTables:
    """Tells a set of probes what to watch. Raises UsageError for a device that cannot be declared."""

    def __init__(self, probes: Probes, declared: Iterable[str] = ()) -> None:
        self._majors = probes.map("gpu_majors", 4, _MAJOR.size)
        self._minors = probes.map("gpu_minors", 4, _DEVICE.size)
        self._uuids = probes.map("gpu_uuids", 16, 4)
        self._commands = probes.map("gpu_commands", _COMMAND_KEY.size, _COMMAND.size)
        self._short_commands = probes.map("gpu_short_commands", 4, _COMMAND.size)
        self._policy = probes.map("gpu_policy", _POLICY_KEY.size, 4)
        self._counters = probes.map("gpu_counts", KEY.size, VALUE.size * possible_cpus())
        self._tags = probes.map("tags", 4, _TAG.size)
        self._declared = [*read_config(), *(parse_declaration(text) for text in declared)]
        self.devices: list[GpuDevice] = []
        """By index, which is what records and counters hold."""
        self._index: dict[tuple[int, int | None], int] = {}
        self._blocks: dict[int, bytes] = {}
        self._next_entry = 1
        self._known_drivers: set[Driver] = set()
        self._policies: dict[int, GpuPolicy] = {}
        self._counts = GpuCounts(
            self._counters.keys, self._counters.get, self._counters.discard, self._alive, self._label
        )
        self._next_count_ns = self._next_discovery_ns = 0
        self._install(discover(self._declared))

    # ---- what to watch

    def refresh(self) -> None:
        """Take up devices that appeared since, and UUIDs that became known. Indices of others stay."""
        self._install(discover(self._declared))

    def _install(self, found: list[GpuDevice]) -> None:
        changed = set()
        for device in found:
            key = (device.major, device.minor)
            index = self._index.setdefault(key, len(self.devices))
            if index == len(self.devices):
                self.devices.append(device)
            elif self.devices[index] == device:
                continue
            else:
                self.devices[index] = device
            changed.add(device.major)
            self._add_uuid(device.uuid, index)
            self._add_driver(device.driver)
        for major in sorted(changed - {0}):
            self._write_major(major)
        if changed:
            for number in self._policies:
                self._write_policy(number)

    def _write_major(self, major: int) -> None:
        """A fresh block of entries, switched to at once when it is complete."""
        minors = {minor: index for (its, minor), index in self._index.items() if its == major}
        count = max((minor for minor in minors if minor is not None), default=-1) + 1
        first, last = self._next_entry, self._next_entry + count
        if last >= _MINORS_MAX:
            raise KernelError(f"the GPU probe has no room for minor {count - 1} of major {major}")
        rest = minors.get(None)
        for minor in range(count + 1):
            index = minors.get(minor, rest) if minor < count else rest
            if index is not None:
                driver = self.devices[index].driver
                entry = _DEVICE.pack(index, driver.number, MATCHES.index(driver.match))
                self._minors[_U32.pack(first + minor)] = entry
        self._next_entry = last + 1
        self._majors[_U32.pack(major)] = _MAJOR.pack(first, count)

    def _add_uuid(self, uuid: str, index: int) -> None:
        raw = uuid_bytes(uuid)
        if raw is not None:
            self._uuids[raw] = _U32.pack(index)

    def _add_driver(self, driver: Driver) -> None:
        if driver in self._known_drivers:
            return
        self._known_drivers.add(driver)
        for command in commands_of(driver).values():
            match, value = MATCHES.index(command.match), _command_value(command)
            if command.number < 256 and command.match == driver.match:
                self._short_commands[_U32.pack(driver.number << 8 | command.number)] = value
            else:
                self._commands[_COMMAND_KEY.pack(driver.number, match, 0, command.number)] = value

    # ---- who may use them

    def write_section(self, number: int, profile: Profile) -> None:
        """Compile [gpu] for an episode. Raises OSError if the map is full."""
        if profile.gpu is None:
            return
        known = {device.uuid for device in self.devices}
        for entry in profile.gpu.entries:
            if uuid_bytes(entry.text) is not None and entry.text not in known:
                # Not found here (a MIG slice, a GPU not yet used): known by the UUID that the driver is given.
                self._add_uuid(entry.text, len(self.devices))
                self.devices.append(GpuDevice(BY_NAME["nvidia-uvm"], "nvidia:uvm", uuid=entry.text))
        self._policies[number] = profile.gpu
        self._write_policy(number)

    def _write_policy(self, number: int) -> None:
        policy = self._policies[number]
        actions = [ACTIONS.index(policy.decide(device.label, device.uuid)[0]) for device in self.devices]
        actions[UNKNOWN_GPU] = ACTIONS.index(
            policy.decide(self.devices[UNKNOWN_GPU].label, _UNLISTED_UUID)[0]
        )
        usual = Counter(actions).most_common(1)[0][0]
        for index, action in enumerate(actions):
            key = _POLICY_KEY.pack(number, index)
            if action == usual:
                self._policy.discard(key)
            else:
                self._policy[key] = _U32.pack(action)
        self._policy[_POLICY_KEY.pack(number, _ANY_DEVICE)] = _U32.pack(usual)

    def forget_section(self, number: int) -> None:
        """Take an episode's entries away."""
        self._policies.pop(number, None)
        for index in (*range(len(self.devices)), _ANY_DEVICE):
            self._policy.discard(_POLICY_KEY.pack(number, index))

    # ---- what comes back

    def register(self, decoder: Decoder) -> None:
        """Let the decoder read GPU records by these tables."""
        decoder.register(layout.GPU, self._decode)

    def _decode(self, data: memoryview, offset: int) -> tuple[int, Event]:
        (_, number, ts_ns, start_ns, pid, _, comm, size, command, status, error, index, kind, match, uuid, has_uuid,
         driver, decision) = _record(data, offset)  # fmt: skip
        device = self.devices[index]
        event, done = KINDS[kind], layout.DECISIONS[decision]
        if event == "open":
            name, result = "", "denied" if error else ""
        else:
            name = name_of(DRIVERS[driver - 1], MATCHES[match], command)
            result = (
                errno.errorcode.get(error, str(error)) if error else f"status:{status:#x}" if status else ""
            )
        return number, Gpu(
            ts_ns, pid, start_ns // TICK_NS, show(comm.partition(b"\0")[0]), event, device.label, name,
            device.uuid or (uuid_text(uuid) if has_uuid else ""), size, result, done,
        )  # fmt: skip

    def count(self, episode: Judge, now_ns: int) -> None:
        """Hand over what was counted since the last time, about once a second; look for new devices now and then."""
        if now_ns >= self._next_discovery_ns:
            if self._next_discovery_ns:
                self.refresh()
            self._next_discovery_ns = now_ns + _DISCOVER_EVERY_NS
        if now_ns >= self._next_count_ns:
            self._next_count_ns = now_ns + _COUNT_EVERY_NS
            self._hand_over(episode, now_ns)

    def finish(self, episode: Judge) -> None:
        """Hand over all that was counted."""
        self._hand_over(episode, time.monotonic_ns())

    def collect(self, now_ns: int) -> list[tuple[int, GpuCount]]:
        """What was counted since the last time, for all episodes at once (0: untagged), by episode number.

        Whoever traces must call this or `count` now and then: counters of ended processes are removed here.
        """
        return self._counts.collect(now_ns)

    def _hand_over(self, episode: Judge, now_ns: int) -> None:
        events: list[Event] = [event for number, event in self.collect(now_ns) if number == episode.number]
        if events:
            episode.judge(events)

    def _label(self, index: int) -> str:
        return self.devices[index].label

    def _alive(self, pid: int, start: int) -> bool:
        """A tag ends with its process. One without a tag (a host-wide trace) is looked for in /proc; if its pid is
        taken again meanwhile, its counter, already read to the end, merely stays a little longer."""
        tag = self._tags.get(_U32.pack(pid))
        if tag is None:
            return Path(f"/proc/{pid}").exists()
        start_ns = _TAG.unpack(tag)[2]
        return not start_ns or (start_ns >> 20) & 0xFFFFFFFF == start


def _command_value(command: Command) -> bytes:
    """struct gpu_command."""
    argument = ARGUMENTS.get(command.name, Argument())
    flags = _LISTED | (argument.envelope and _ENVELOPE) | (argument.limit and _LIMIT)
    inner_match = inner_at = 0
    if argument.inner is not None:
        flags |= _INNER
        inner_at, inner_match = argument.inner[0], MATCHES.index(argument.inner[1])
    when_at, when_value = argument.when or (None, 0)
    long = argument.status_at if argument.status_at_long is None else argument.status_at_long
    places = (when_at, argument.bytes_at, argument.pointer_at, argument.uuid_at, argument.status_at, long)
    return _COMMAND.pack(
        KINDS.index(command.kind), flags, inner_match, inner_at, when_value,
        *(_NOWHERE if place is None else place for place in places),
    )  # fmt: skip
