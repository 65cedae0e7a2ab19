"""Internet destinations that were observed, as few entries of [network] that say as little more as possible.

Every step only widens with what is observed, so that more trails never take an entry's effect away. An entry is
taken only where the extended profile allows all of what it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property

from msgspec import Struct

from ebpfaudit.profiles.addresses import (
    MAPPED_IPV4,
    SETS,
    IpEntry,
    Network,
    covers,
    parse_entry,
    parse_networks,
    show_address,
)
from ebpfaudit.profiles.network import NetworkPolicy
from ebpfaudit.trail.learning.narrowness import loosens
from ebpfaudit.trail.learning.observation import Evidence, Spot

MANY_ADDRESSES = 8
"""So many addresses of a /24 (IPv6: /64), at one port, stand for all of it."""
MANY_PREFIXES = 32
"""So many of those, at one port, stand for the set they belong to."""
MANY_PORTS = 8
"""So many ports of one place and one band stand for all between the lowest and the highest."""
FEW_PORTS = 3
"""With more, a place that is also pinged is not fenced in: the kernel walks at most 16 entries for it."""

_BANDS = (1024, 32767)
"""The last port of a system's own services, and the last that Linux takes from nobody (ip_local_port_range)."""
_SPREADING = ("private", "link-local", "multicast", "public")

Service = tuple[str, int]
"""(protocol, port)"""


class Entry(Struct, frozen=True):
    """One entry of [network], and what speaks for it."""

    text: str
    evidence: Evidence
    remark: str = ""


class Place:
    """Where services were observed: an address, a prefix, or a set."""

    def __init__(self, text: str, several: bool = True) -> None:
        self.text = text
        self.several = several
        """It holds more than one address."""
        self.networks, self.holes = parse_networks(text)
        self.services: dict[Service, Evidence] = {}
        self.wider: list[Place] = []
        """Places that hold this one."""
        self.ranges: list[tuple[str, int, int, Evidence]] = []
        """(protocol, low, high): what is allowed here."""
        self.portless: set[str] = set()
        """Protocols of which an entry without ports was written."""

    def add(self, service: Service, evidence: Evidence) -> None:
        known = self.services.get(service)
        if known is None:
            self.services[service] = Evidence(evidence.count, evidence.programs, evidence.trail, evidence.seq)
        else:
            known.add(evidence)

    def entry(self, protocol: str, low: int = 0, high: int = 0) -> str:
        """As an entry is written."""
        ports = "" if not high else f":{low}" if low == high else f":{low}-{high}"
        host = f"[{self.text}]" if ports and ":" in self.text else self.text
        return f"{host}{ports}{f'/{protocol}' if protocol else ''}"

    def holds(self, other: Place) -> bool:
        return all(
            any(covers(network, inner) for network in self.networks)
            and not any(covers(inner, hole) or covers(hole, inner) for hole in self.holes)
            for inner in other.networks
        )

    def allows(self, protocol: str, low: int, high: int) -> bool:
        return any(mine == protocol and first <= low and high <= last for mine, first, last, _ in self.ranges)


def exact_entries(spots: Mapping[Spot, Evidence]) -> Iterator[Entry]:
    """Each destination by itself."""
    for spot, evidence in spots.items():
        text = Place(show_address(spot.address), several=False).entry(spot.protocol, spot.port, spot.port)
        yield Entry(text, evidence)


class Map:
    """All places of some observations."""

    def __init__(
        self, spots: Mapping[Spot, Evidence], base: NetworkPolicy | None, many_ports: int = MANY_PORTS
    ) -> None:
        self._base = base
        self._many_ports = many_ports
        self._addresses: dict[int, Place] = {}
        for spot, evidence in spots.items():
            place = self._addresses.get(spot.address)
            if place is None:
                place = self._addresses[spot.address] = Place(show_address(spot.address), several=False)
            place.add((spot.protocol, spot.port), evidence)
        self._wide = self._gather()

    def entries(self) -> tuple[list[Entry], list[Entry]]:
        """(allow, deny): the second keeps a place that was only pinged from being open at all ports."""
        places = [*self._wide, *self._addresses.values()]
        for place in places:
            self._fill(place)
        allowed: list[Entry] = []
        denied: list[Entry] = []
        for place in places:
            self._add_portless(place, allowed, denied)
            for protocol, low, high, evidence in place.ranges:
                if place.portless.isdisjoint(("", protocol)) and not any(
                    wider.allows(protocol, low, high) for wider in place.wider
                ):
                    allowed.append(Entry(place.entry(protocol, low, high), evidence))
        return allowed, denied

    # ---- places that hold several addresses

    def _gather(self) -> list[Place]:
        """Prefixes and sets with so many members that they stand for all."""
        prefixes: dict[tuple[str, Network], dict[Service, list[Place]]] = {}
        loopback = Place("loopback")
        for address, place in self._addresses.items():
            name = _set_of(address)
            if name == "loopback":
                self._join(loopback, place.services, [place])
            elif name != "metadata":
                services = prefixes.setdefault((name, _prefix_of(address)), {})
                for service in place.services:
                    services.setdefault(service, []).append(place)
        found = [loopback] if loopback.services else []
        sets = {name: self._gather_set(name, prefixes) for name in _SPREADING}
        found += [place for place in sets.values() if place is not None]
        for (name, network), services in prefixes.items():
            crowded = {
                service: places for service, places in services.items() if len(places) >= MANY_ADDRESSES
            }
            wider = [place for place in [sets[name]] if place is not None]
            members = {id(place): place for places in services.values() for place in places}
            if crowded:
                prefix = Place(_show_network(network))
                prefix.wider = [place for place in wider if place.holds(prefix)]
                for service, places in crowded.items():
                    for place in places:
                        prefix.add(service, place.services[service])
                found.append(prefix)
                wider = [*wider, prefix]
            for place in members.values():
                place.wider = list(wider)
        return found

    def _gather_set(
        self, name: str, prefixes: Mapping[tuple[str, Network], Mapping[Service, list[Place]]]
    ) -> Place | None:
        members: dict[Service, list[list[Place]]] = {}
        for (other, _), services in prefixes.items():
            if other == name:
                for service, places in services.items():
                    members.setdefault(service, []).append(places)
        found = Place(name)
        for service, groups in members.items():
            if len(groups) >= MANY_PREFIXES:
                for place in (place for group in groups for place in group):
                    found.add(service, place.services[service])
        return found if found.services else None

    @staticmethod
    def _join(wide: Place, services: Iterable[Service], places: list[Place]) -> None:
        for place in places:
            for service in services:
                wide.add(service, place.services[service])
            place.wider = [wide]

    # ---- ports

    def _fill(self, place: Place) -> None:
        """Give a place its ranges: neighbouring ports together; if there are many, all between them."""
        many = len(place.services) >= self._many_ports
        for protocol in sorted({protocol for protocol, port in place.services if port}):
            ports = sorted(port for mine, port in place.services if mine == protocol and port)
            counts = Counter(map(_band, ports))
            crowded = {band for band, count in counts.items() if count >= self._many_ports}
            for low, high in self._safe(place, protocol, exact=not (many or place.several)):
                for group in _groups([port for port in ports if low <= port <= high], crowded):
                    evidence = combine(place.services[protocol, port] for port in group)
                    place.ranges.append((protocol, group[0], group[-1], evidence))

    def _safe(self, place: Place, protocol: str, exact: bool) -> list[tuple[int, int]]:
        """Ranges of ports that the extended profile allows at this place, neighbours joined."""
        if exact or not self._loosens(place, protocol, 0, 65535):
            return [(0, 65535)]
        safe: list[tuple[int, int]] = []
        for low, high in zip(self._port_limits, [*self._port_limits[1:], 65536], strict=True):
            if not self._loosens(place, protocol, low, high - 1):
                joined = bool(safe) and safe[-1][1] == low - 1
                safe[-1:] = [(safe[-1][0], high - 1)] if joined else [*safe[-1:], (low, high - 1)]
        return safe

    @cached_property
    def _port_limits(self) -> list[int]:
        """Ports at which the extended profile may change its mind."""
        entries = self._base.entries if self._base is not None else ()
        ports = {limit for e in entries if isinstance(e, IpEntry) for limit in (e.port_low, e.port_high + 1)}
        return sorted({1, *(port for port in ports if 1 <= port <= 65535)})

    def _loosens(self, place: Place, protocol: str, low: int, high: int) -> bool:
        entry = IpEntry(place.text, "allow", place.networks, place.holes, low, high, protocol)
        return loosens(self._base, entry)

    # ---- ICMP, and port 0

    def _add_portless(self, place: Place, allowed: list[Entry], denied: list[Entry]) -> None:
        """An entry cannot name ICMP, nor port 0, alone: it opens all ports, and others close them again."""
        for protocol in sorted(protocol for protocol, port in place.services if not port):
            evidence = place.services[protocol, 0]
            if "" in place.portless or any(protocol in wider.portless for wider in place.wider):
                continue
            here = [place, *place.wider]
            known = {service for each in here for service in each.services if service[1]}
            texts = []
            if len(known) <= FEW_PORTS and not self._has_say(place):
                ranges = [each for other in here for each in other.ranges]
                texts = list(_fence(place, [protocol] if protocol else ["tcp", "udp"], ranges))
            fence = [parse_entry(text, "deny") for text in texts]
            if loosens(self._base, parse_entry(place.entry(protocol), "allow"), *fence):
                continue
            place.portless.add(protocol)
            what = f"{protocol} port 0" if protocol else "ICMP"
            remark = f"for {what}" + ("" if fence else ", which cannot be named alone: this opens all ports")
            allowed.append(Entry(place.entry(protocol), evidence, remark))
            denied += [Entry(text, evidence, f"lets the entry for {what} open no port") for text in texts]

    def _has_say(self, place: Place) -> bool:
        """An entry of the extended profile allows some ports here: a fence would close those."""
        entries = self._base.entries if self._base is not None else ()
        return any(
            covers(network, inner) or covers(inner, network)
            for entry in entries
            if isinstance(entry, IpEntry) and entry.action in ("allow", "log", "alert")
            for network in entry.networks
            for inner in place.networks
        )


def _fence(place: Place, protocols: list[str], ranges: list[tuple[str, int, int, Evidence]]) -> Iterator[str]:
    """Entries for all ports but those in `ranges`."""
    if not any(mine in protocols for mine, *_ in ranges) and len(protocols) > 1:
        yield place.entry("", 1, 65535)
        return
    for protocol in protocols:
        port = 1
        for low, high in sorted((low, high) for mine, low, high, _ in ranges if mine == protocol):
            if port < low:
                yield place.entry(protocol, port, low - 1)
            port = max(port, high + 1)
        if port <= 65535:
            yield place.entry(protocol, port, 65535)


def _band(port: int) -> int:
    return sum(port > last for last in _BANDS)


def _groups(ports: list[int], crowded: Collection[int]) -> list[list[int]]:
    """Neighbouring ports together, and all of a crowded band."""
    groups: list[list[int]] = []
    for port in ports:
        band = _band(port)
        same = bool(groups) and _band(groups[-1][-1]) == band
        if groups and (port == groups[-1][-1] + 1 or (same and band in crowded)):
            groups[-1].append(port)
        else:
            groups.append([port])
    return groups


def combine(evidences: Iterable[Evidence]) -> Evidence:
    """At least one of them, as one."""
    total: Evidence | None = None
    for each in evidences:
        if total is None:
            total = Evidence(each.count, each.programs, each.trail, each.seq)
        else:
            total.add(each)
    assert total is not None
    return total


def _set_of(address: int) -> str:
    """The named set that an address belongs to, "metadata" before all others."""
    for name in ("metadata", *SETS):
        if any(covers(network, (address, 128)) for network in SETS[name]):
            return name
    return "public"


def _prefix_of(address: int) -> Network:
    bits = 120 if covers(MAPPED_IPV4, (address, 128)) else 64
    return address >> (128 - bits) << (128 - bits), bits


def _show_network(network: Network) -> str:
    first, bits = network
    return f"{show_address(first)}/{bits - 96 if covers(MAPPED_IPV4, network) else bits}"
