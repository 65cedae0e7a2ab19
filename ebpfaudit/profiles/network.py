"""The [network] section: which destinations an episode may name.

Most specific prefix wins; at equal length the stricter action. An entry whose port or protocol does
not match is no candidate. The tables that `kernel.tables` writes and the decisions that the evaluator
takes come from the same nodes, so the two cannot differ.
"""

from __future__ import annotations

from functools import cached_property

from msgspec import Struct

from ebpfaudit.errors import ProfileError
from ebpfaudit.profiles.addresses import IpEntry, Network, UnixEntry, covers
from ebpfaudit.text import show
from ebpfaudit.verdicts import ACTIONS, Action

MAX_RULES_PER_NODE = 16
"""What the probe walks for one destination: a bound its verifier can check."""

_STRICTNESS = {action: rank for rank, action in enumerate(ACTIONS)}


class PortRule(Struct, frozen=True):
    """What holds at some ports of a node. `protocol` "" is any; ports 0 to 65535 are all."""

    port_low: int
    port_high: int
    protocol: str
    action: Action
    entry: str

    def includes(self, other: PortRule) -> bool:
        return (
            self.port_low <= other.port_low
            and other.port_high <= self.port_high
            and self.protocol in ("", other.protocol)
        )


class IpNode(Struct, frozen=True):
    """A prefix, and in order all rules that can still hold below it; the last one always does."""

    address16: bytes
    prefix_bits: int
    rules: tuple[PortRule, ...]


class UnixNode(Struct, frozen=True):
    path: bytes
    exact: bool
    action: Action
    entry: str


class NetworkPolicy:
    """Decides about destinations. Equal where defaults and entries are."""

    def __init__(self, default: Action, entries: tuple[IpEntry | UnixEntry, ...]) -> None:
        self.default: Action = default
        self.entries = entries

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, NetworkPolicy)
            and self.default == other.default
            and self.entries == other.entries
        )

    __hash__ = None  # type: ignore[assignment]

    def decide_ip(self, address16: bytes, port: int, protocol: str) -> tuple[Action, str]:
        """The action and the entry that gives it ("default" if none does)."""
        address = int.from_bytes(address16)
        for bits, nodes in self._rules_by_length:
            rules = nodes.get(address >> (128 - bits))
            if rules is not None:
                for rule in rules:
                    if rule.port_low <= port <= rule.port_high and rule.protocol in ("", protocol):
                        return rule.action, rule.entry
        return self.default, "default"

    def decide_unix(self, path: str) -> tuple[Action, str]:
        """The same for a Unix socket; `path` as events show it, "@name" for an abstract one."""
        for shown, node in self._shown_unix_nodes:
            if path == shown if node.exact else path.startswith(shown):
                return node.action, node.entry
        return self.default, "default"

    def ip_nodes(self) -> list[IpNode]:
        """Longest-prefix lookup over these, then the first rule that matches, is the decision."""
        return [
            IpNode((prefix << (128 - bits)).to_bytes(16), bits, rules)
            for bits, nodes in self._rules_by_length
            for prefix, rules in nodes.items()
        ]

    def unix_nodes(self) -> list[UnixNode]:
        """The longest node that matches decides, an exact one before a prefix; none: the default."""
        strictest: dict[tuple[bytes, bool], UnixEntry] = {}
        for entry in self.entries:
            if isinstance(entry, UnixEntry):
                other = strictest.setdefault((entry.path, entry.exact), entry)
                if _STRICTNESS[entry.action] > _STRICTNESS[other.action]:
                    strictest[entry.path, entry.exact] = entry
        nodes = [UnixNode(entry.path, entry.exact, entry.action, entry.text) for entry in strictest.values()]
        return sorted(nodes, key=lambda node: (-len(node.path), not node.exact, node.path))

    @cached_property
    def _shown_unix_nodes(self) -> list[tuple[str, UnixNode]]:
        return [(_show_unix(node.path), node) for node in self.unix_nodes()]

    @cached_property
    def _rules_by_length(self) -> list[tuple[int, dict[int, tuple[PortRule, ...]]]]:
        """Rules by prefix, the longest prefixes first."""
        named: dict[Network, list[IpEntry]] = {}
        prefixes = {(0, 0)}
        for entry in self.entries:
            if isinstance(entry, IpEntry):
                prefixes.update(entry.networks, entry.holes)
                for network in entry.networks:
                    named.setdefault(network, []).append(entry)
        by_length: dict[int, dict[int, tuple[PortRule, ...]]] = {}
        lengths = sorted({bits for _, bits in named}, reverse=True)
        for first, bits in sorted(prefixes):
            shorter = [length for length in lengths if length <= bits]
            rules = self._flatten(named, (first, bits), shorter)
            by_length.setdefault(bits, {})[first >> (128 - bits)] = rules
        return sorted(by_length.items(), reverse=True)

    def _flatten(
        self, named: dict[Network, list[IpEntry]], prefix: Network, lengths: list[int]
    ) -> tuple[PortRule, ...]:
        """Every rule that could decide at `prefix`, the most specific first, then the stricter."""
        candidates: list[IpEntry] = []
        for bits in lengths:
            entries = named.get((prefix[0] >> (128 - bits) << (128 - bits), bits), ())
            kept = [entry for entry in entries if not any(covers(hole, prefix) for hole in entry.holes)]
            candidates += sorted(kept, key=lambda entry: -_STRICTNESS[entry.action])
        rules: list[PortRule] = []
        for rule in [*map(_port_rule, candidates), self._last_rule()]:
            if not any(earlier.includes(rule) for earlier in rules):
                rules.append(rule)
            if len(rules) > MAX_RULES_PER_NODE:
                raise ProfileError(
                    f"[network]: more than {MAX_RULES_PER_NODE} entries with different ports meet at one prefix "
                    f"(near '{rules[0].entry}'); the kernel decides among at most {MAX_RULES_PER_NODE}. "
                    "Join neighbouring ports to LOW-HIGH ranges."
                )
        return tuple(rules)

    def _last_rule(self) -> PortRule:
        return PortRule(0, 65535, "", self.default, "default")


def _port_rule(entry: IpEntry) -> PortRule:
    return PortRule(entry.port_low, entry.port_high, entry.protocol, entry.action, entry.text)


def _show_unix(path: bytes) -> str:
    return "@" + show(path[1:]) if path.startswith(b"\0") else show(path)


def shadowing(entry: IpEntry | UnixEntry, other: IpEntry | UnixEntry) -> bool:
    """`other` is as specific as `entry` wherever that applies, and stricter: `entry` never decides."""
    if _STRICTNESS[other.action] <= _STRICTNESS[entry.action]:
        return False
    return same_reach(entry, other)


def same_reach(entry: IpEntry | UnixEntry, other: IpEntry | UnixEntry) -> bool:
    """`other` applies, at the same prefix lengths, everywhere that `entry` does."""
    if isinstance(entry, IpEntry) and isinstance(other, IpEntry):
        if entry.port_low < other.port_low or other.port_high < entry.port_high:
            return False
        return (
            set(entry.networks) <= set(other.networks)
            and set(other.holes) <= set(entry.holes)
            and _port_rule(other).includes(_port_rule(entry))
        )
    if isinstance(entry, UnixEntry) and isinstance(other, UnixEntry):
        return (entry.path, entry.exact) == (other.path, other.exact)
    return False
