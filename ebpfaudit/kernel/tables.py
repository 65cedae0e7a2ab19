"""What the probes decide by: profile sections and episode tags, written into kernel maps.

Layouts are those of the key and value structs in probes/*.bpf.[ch]; the layout test checks the sizes.
"""

from __future__ import annotations

import os
import struct
from glob import glob

from msgspec import Struct

from ebpfaudit.kernel.compile import possible_cpus
from ebpfaudit.kernel.content import kernel_inode
from ebpfaudit.kernel.known import inactive
from ebpfaudit.kernel.layout import UNIX_PATH_MAX
from ebpfaudit.kernel.loader import Probes
from ebpfaudit.profiles.identity import SAME_AS, is_identity
from ebpfaudit.profiles.load import Profile
from ebpfaudit.verdicts import ACTIONS, Action

_TAG = struct.Struct("=IIQ")
_EPISODE_CONFIG = struct.Struct("=BBBBBBBB")
_COUNTERS = struct.Struct("=QQQ")
_NETWORK_KEY = struct.Struct("=II16s")
_PORT_RULE = struct.Struct("=HHBB2x")
_PORT_RULES_MAX = 16
_UNIX_KEY = struct.Struct(f"=II{UNIX_PATH_MAX}s")
_EXEC_KEY = struct.Struct("=QII")
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_PROTOCOL_NUMBERS = {"": 0, "tcp": 6, "udp": 17}


class Counters(Struct, frozen=True):
    """Records of one episode, as the probes counted them."""

    emitted: int
    lost: int
    untagged_children: int


class Tables:
    """Writes episodes into the maps of a set of probes. All methods raise OSError if a map is full."""

    def __init__(self, probes: Probes) -> None:
        self._cpus = possible_cpus()
        self._tags = probes.map("tags", 4, _TAG.size)
        self._cgroup_tags = probes.map("cgroup_tags", 8, 4)
        self._episodes = probes.map("episodes", 4, _EPISODE_CONFIG.size)
        self._counters = probes.map("counters", 4, _COUNTERS.size * self._cpus)
        self._network = probes.map("network", _NETWORK_KEY.size, 4 + _PORT_RULE.size * _PORT_RULES_MAX)
        self._unix = probes.map("unix_network", _UNIX_KEY.size, 4)
        self._exec = probes.map("exec_deny", _EXEC_KEY.size, 4)

    def tag_process(self, number: int, pid: int, start: int = 0) -> None:
        """From now on `pid` and all its descendants are the episode's. `start` in ticks, 0 if not known."""
        self._tags[_U32.pack(pid)] = _TAG.pack(number, 0, 0)

    def untag_process(self, pid: int) -> None:
        self._tags.discard(_U32.pack(pid))

    def tag_cgroup(self, number: int, cgroup_id: int) -> None:
        """Whatever is born in, or moved to, this cgroup or one below it is the episode's."""
        self._cgroup_tags[_U64.pack(cgroup_id)] = _U32.pack(number)

    def untag_cgroup(self, cgroup_id: int) -> None:
        self._cgroup_tags.discard(_U64.pack(cgroup_id))

    def tagged_pids(self, number: int) -> set[int]:
        """Process IDs that the kernel holds tagged with this episode, at this moment."""
        found = set()
        for key in self._tags.keys():  # noqa: SIM118 - a BPF map, not a dict
            value = self._tags.get(key)
            if value is not None and _TAG.unpack(value)[0] == number:
                found.add(_U32.unpack(key)[0])
        return found

    def set_episode(
        self, number: int, profile: Profile | None, *, enforce: bool, doomed: bool = False
    ) -> None:
        """Put an episode's switches into force (its tables must be written before: see `write_sections`)."""
        network = profile.network if profile else None
        unix_default: Action = network.decide_unix("")[0] if network else "allow"
        self._episodes[_U32.pack(number)] = _EPISODE_CONFIG.pack(
            enforce,
            network is not None,
            ACTIONS.index(unix_default),
            bool(profile and profile.gpu is not None),
            doomed,
            bool(profile and profile.exec_deny),
            network is not None and network.default in ("deny", "freeze", "kill"),
            network is not None and any(node.action == "kill" for node in network.unix_nodes()),
        )

    def write_sections(self, number: int, profile: Profile) -> None:
        """Compile [network] and [exec] into the maps. ([gpu] is written by `gpu.tables`.)"""
        if profile.network is not None:
            for node in profile.network.ip_nodes():
                rules = b"".join(
                    _PORT_RULE.pack(
                        rule.port_low,
                        rule.port_high,
                        _PROTOCOL_NUMBERS[rule.protocol],
                        ACTIONS.index(rule.action),
                    )
                    for rule in node.rules
                )
                key = _NETWORK_KEY.pack(32 + node.prefix_bits, number, node.address16)
                value = _U32.pack(len(node.rules)) + rules
                self._network[key] = value.ljust(self._network.value_size, b"\0")
            for unix in profile.network.unix_nodes():
                path = unix.path + b"\0" if unix.exact else unix.path
                bits = 32 + 8 * min(len(path), UNIX_PATH_MAX)
                self._unix[_UNIX_KEY.pack(bits, number, path[:UNIX_PATH_MAX])] = _U32.pack(
                    ACTIONS.index(unix.action) | (len(unix.path) << 8 if unix.exact else 0)
                )
        for device, inode in _executables(profile.exec_deny):
            self._exec[_EXEC_KEY.pack(inode, device, number)] = _U32.pack(1)

    def freeze_sections(self) -> None:
        """No user process, root included, can change the sections' tables any more. They were the last."""
        for table in (self._network, self._unix, self._exec):
            table.freeze()

    def forget_episode(self, number: int) -> None:
        """Take an episode's switches away; its number may be given out again once its processes are gone."""
        self._episodes[_U32.pack(number)] = _EPISODE_CONFIG.pack(*bytes(8))

    def counters(self, number: int) -> Counters:
        value = self._counters.get(_U32.pack(number))
        if value is None:
            return Counters(0, 0, 0)
        per_cpu = [_COUNTERS.unpack_from(value, cpu * _COUNTERS.size) for cpu in range(self._cpus)]
        return Counters(*(sum(column) for column in zip(*per_cpu, strict=True)))


def _executables(patterns: tuple[str, ...]) -> set[tuple[int, int]]:
    """(device in kernel form, inode) of every file that an [exec] path, glob or `same-as:` names now."""
    found = set()
    same_as = {pattern.removeprefix(SAME_AS) for pattern in patterns if pattern.startswith(SAME_AS)}
    paths = same_as - inactive(frozenset(same_as)).keys()
    paths.update(path for pattern in patterns if not is_identity(pattern) for path in glob(pattern))
    for path in paths:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            device, inode = kernel_inode(descriptor)
        finally:
            os.close(descriptor)
        major, minor = map(int, device.split(":"))
        found.add((major << 20 | minor, inode))
    return found
