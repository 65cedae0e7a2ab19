"""Where would one policy be milder than another? Exact: every prefix, port and path where either changes its mind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ebpfaudit.profiles.addresses import IpEntry, UnixEntry, show_address
from ebpfaudit.profiles.devices import GpuEntry, GpuPolicy
from ebpfaudit.profiles.network import NetworkPolicy, PortRule
from ebpfaudit.profiles.schema import Profile
from ebpfaudit.text import show
from ebpfaudit.verdicts import ACTIONS, Action

_PROTOCOLS = ("tcp", "udp", "icmp")
_STRICTNESS = {action: rank for rank, action in enumerate(ACTIONS)}


def stricter(action: Action, other: Action) -> Action:
    """The stricter of the two."""
    return max(action, other, key=_STRICTNESS.__getitem__)


def looser(profile: Profile, base: Profile) -> Iterator[str]:
    """Everything, in words, that `profile` judges more mildly than `base`; nothing if it extends it narrowly."""
    if base.network is not None:
        policy = profile.network or NetworkPolicy("allow", ())
        yield from looser_addresses(policy, base.network)
        yield from looser_paths(policy, base.network)
    if base.gpu is not None:
        yield from looser_devices(profile.gpu or GpuPolicy("allow", ()), base.gpu)
    yield from (f"exec {path}" for path in base.exec_deny if path not in profile.exec_deny)
    yield from (f"rule {rule.id}" for rule in base.rules if rule not in profile.rules)


def loosens(network: NetworkPolicy | None, *entries: IpEntry | UnixEntry) -> bool:
    """Whether adding `entries` would make the policy milder anywhere."""
    if network is None:
        return False
    together = NetworkPolicy(network.default, (*network.entries, *entries))
    if isinstance(entries[0], UnixEntry):
        return next(looser_paths(together, network), None) is not None
    return next(looser_addresses(together, network), None) is not None


def loosens_devices(gpu: GpuPolicy | None, entry: GpuEntry) -> bool:
    if gpu is None:
        return False
    return next(looser_devices(GpuPolicy(gpu.default, (*gpu.entries, entry)), gpu), None) is not None


def looser_addresses(policy: NetworkPolicy, base: NetworkPolicy) -> Iterator[str]:
    mine, theirs = _Tables(policy), _Tables(base)
    for bits, first in sorted({*mine.prefixes, *theirs.prefixes}):
        own, other = mine.rules(first, bits), theirs.rules(first, bits)
        if own is other:
            continue
        ports = {port for rule in (*own, *other) for port in (rule.port_low, rule.port_high + 1)}
        for port in sorted(port for port in ports if port <= 65535):
            for protocol in _PROTOCOLS:
                if _milder(_decide(own, port, protocol), _decide(other, port, protocol)):
                    yield f"{show_address(first)} (prefix of {bits}), {protocol} port {port}"


class _Tables:
    """The rules of a policy, by prefix."""

    def __init__(self, policy: NetworkPolicy) -> None:
        self._nodes: dict[int, dict[int, tuple[PortRule, ...]]] = {}
        for node in policy.ip_nodes():
            first = int.from_bytes(node.address16)
            bits = node.prefix_bits
            self._nodes.setdefault(bits, {})[first >> (128 - bits)] = node.rules
        self._lengths = sorted(self._nodes, reverse=True)

    @property
    def prefixes(self) -> Iterator[tuple[int, int]]:
        for bits, nodes in self._nodes.items():
            yield from ((bits, prefix << (128 - bits)) for prefix in nodes)

    def rules(self, first: int, bits: int) -> tuple[PortRule, ...]:
        """What decides at this prefix, where no longer one does."""
        for length in self._lengths:
            if length <= bits and (found := self._nodes[length].get(first >> (128 - length))) is not None:
                return found
        raise AssertionError("every policy has rules for the prefix of length 0")


def _decide(rules: tuple[PortRule, ...], port: int, protocol: str) -> Action:
    return next(
        rule.action
        for rule in rules
        if rule.port_low <= port <= rule.port_high and rule.protocol in ("", protocol)
    )


def _milder(action: Action, other: Action) -> bool:
    return _STRICTNESS[action] < _STRICTNESS[other]


def looser_paths(policy: NetworkPolicy, base: NetworkPolicy) -> Iterator[str]:
    """Unix sockets: at each path that either names, and at one more below it that neither does."""
    nodes = (*policy.unix_nodes(), *base.unix_nodes())
    stems = {"", *(_shown(node.path) for node in nodes)}
    for path in sorted({path for stem in stems for path in (stem, f"{stem}\\x01", f"{stem}/\\x01")}):
        if _milder(policy.decide_unix(path)[0], base.decide_unix(path)[0]):
            yield f"unix:{path}"


def _shown(path: bytes) -> str:
    return f"@{show(path[1:])}" if path.startswith(b"\0") else show(path)


def looser_devices(policy: GpuPolicy, base: GpuPolicy) -> Iterator[str]:
    """At each device and UUID that either names, at another of the same vendor, and at what vendors share."""
    texts = [entry.text for each in (policy, base) for entry in each.entries]
    uuids = ["", "GPU-other", *(text for text in texts if text.startswith(("GPU-", "MIG-")))]
    devices = {"kfd", "other:0", *_devices({text.partition(":")[0] for text in texts} | {"nvidia", "amd"})}
    devices |= {text for text in texts if ":" in text and not text.endswith("*")}
    for device in sorted(devices):
        for uuid in uuids:
            if _milder(policy.decide(device, uuid)[0], base.decide(device, uuid)[0]):
                yield f"gpu {device} {uuid}".rstrip()


def _devices(vendors: Iterable[str]) -> Iterator[str]:
    for vendor in vendors:
        yield from (f"{vendor}:0", f"{vendor}:9999", f"{vendor}:ctl", f"{vendor}:uvm")
