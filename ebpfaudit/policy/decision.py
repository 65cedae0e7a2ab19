"""Which entry of a section decided about an event, which others were in question, and why they lost."""

from __future__ import annotations

from msgspec import Struct

from ebpfaudit.events import Connect, Event, Exec, Gpu
from ebpfaudit.gpu import JUDGED_KINDS
from ebpfaudit.policy.matching import match_paths
from ebpfaudit.profiles.addresses import AddressError, IpEntry, UnixEntry, covers, parse_address
from ebpfaudit.profiles.schema import IDENTITIES, Profile
from ebpfaudit.verdicts import ACTIONS, Action


class Candidate(Struct, frozen=True):
    """An entry that holds the destination or device, whether or not it decides."""

    entry: str
    action: Action
    why: str
    """How specific it is, or why it does not apply."""
    decides: bool = False


class Decision(Struct, frozen=True):
    """What a section says of an event."""

    section: str
    action: Action
    entry: str
    """The entry that decides, "default", or "" where there is no such section."""
    why: str
    candidates: tuple[Candidate, ...] = ()
    """The deciding one first, then from the most specific."""


def explain_section(profile: Profile, event: Event) -> Decision | None:
    """The decision of the section that such an event concerns; None where none does."""
    if isinstance(event, Connect):
        return _explain_connect(profile, event) if event.phase == "attempt" else None
    if isinstance(event, Gpu):
        return _explain_gpu(profile, event)
    if isinstance(event, Exec) and not event.error:
        return _explain_exec(profile, event)
    return None


def _explain_connect(profile: Profile, event: Connect) -> Decision:
    network = profile.network
    if network is None:
        return Decision("network", "allow", "", "the profile has no [network] section")
    if event.family == "unix":
        action, entry = network.decide_unix(event.dst)
        candidates = _unix_candidates(network.entries, event.dst)
    else:
        try:
            address = parse_address(event.dst)
        except AddressError:
            return Decision("network", network.default, "default", f"'{event.dst}' is not an address")
        if event.protocol not in ("tcp", "udp", "icmp", "icmp6"):
            why = f"nobody can say where {event.protocol} leads, so it is refused"
            return Decision("network", "deny", "protocol", why)
        action, entry = network.decide_ip(address.to_bytes(16), event.port, event.protocol)
        candidates = _ip_candidates(network.entries, address, event)
    return _conclude("network", action, entry, candidates)


def _ip_candidates(entries: tuple[IpEntry | UnixEntry, ...], address: int, event: Connect) -> list[Candidate]:
    found = []
    for entry in entries:
        if not isinstance(entry, IpEntry):
            continue
        lengths = [bits for first, bits in entry.networks if covers((first, bits), (address, 128))]
        if not lengths:
            continue
        bits = max(lengths)
        if any(covers(hole, (address, 128)) for hole in entry.holes):
            if entry.text != "public":
                found.append((bits, entry, "this address is left out of it", False))
        elif not entry.port_low <= event.port <= entry.port_high:
            found.append((bits, entry, f"port {event.port} is not in it", False))
        elif entry.protocol not in ("", event.protocol):
            found.append((bits, entry, f"it is for {entry.protocol}, and this is {event.protocol}", False))
        else:
            found.append((bits, entry, f"a prefix of {_shown_bits(bits, address)}", True))
    found.sort(key=lambda each: (not each[3], -each[0], -ACTIONS.index(each[1].action)))
    return [Candidate(entry.text, entry.action, why) for _, entry, why, _ in found]


def _shown_bits(bits: int, address: int) -> str:
    ipv4 = address >> 32 == 0xFFFF and bits >= 96
    return f"{bits - 96} of 32 bits" if ipv4 else f"{bits} of 128 bits"


def _unix_candidates(entries: tuple[IpEntry | UnixEntry, ...], path: str) -> list[Candidate]:
    found = []
    for entry in entries:
        if isinstance(entry, UnixEntry):
            stem = entry.text.removeprefix("unix:").removesuffix("*" if not entry.exact else "")
            if path == stem if entry.exact else path.startswith(stem):
                found.append((len(stem), entry.exact, entry))
    found.sort(key=lambda each: (-each[0], not each[1], -ACTIONS.index(each[2].action)))
    return [Candidate(entry.text, entry.action, _unix_why(length, exact)) for length, exact, entry in found]


def _unix_why(length: int, exact: bool) -> str:
    if exact:
        return "the exact path"
    return f"the path's first {length} characters" if length else "any path"


def _explain_gpu(profile: Profile, event: Gpu) -> Decision | None:
    if event.event not in JUDGED_KINDS:
        return None
    if profile.gpu is None:
        return Decision("gpu", "allow", "", "the profile has no [gpu] section")
    action, entry = profile.gpu.decide(event.device, event.uuid)
    vendor = "amd" if event.device == "kfd" else event.device.partition(":")[0]
    ranks = {
        event.uuid: "the UUID",
        event.device: "the device",
        f"{vendor}:*": "the vendor",
        "any": "any device",
    }
    found = []
    for rank, (text, why) in enumerate(ranks.items()):
        found += [
            (rank, Candidate(each.text, each.action, why))
            for each in profile.gpu.entries
            if text == each.text
        ]
    candidates = [candidate for _, candidate in sorted(found, key=lambda each: each[0])]
    if entry not in (*(candidate.entry for candidate in candidates), "default"):
        why = "the mildest entry that this access may turn out to be about"
        candidates.append(Candidate(entry, action, why))
    return _conclude("gpu", action, entry, candidates)


def _explain_exec(profile: Profile, event: Exec) -> Decision | None:
    if not profile.exec_deny:
        return None
    by_path = [text for text in profile.exec_deny if not text.startswith(IDENTITIES)]
    met = match_paths(tuple(by_path))(event.exe) if by_path else None
    if met is not None:
        return _conclude("exec", "deny", met, [Candidate(met, "deny", "the path")])
    if event.decision == "kill":
        return Decision("exec", "deny", "the same file as a denied one", "the probe knows files by inode")
    identities = len(profile.exec_deny) - len(by_path)
    later = f"; {identities} by content are asked once its identity is known" if identities else ""
    return Decision("exec", "allow", "", f"none of {len(by_path)} denied paths is '{event.exe}'{later}")


def _conclude(section: str, action: Action, entry: str, candidates: list[Candidate]) -> Decision:
    """Mark the deciding candidate and put it first."""
    deciding = next((each for each in candidates if each.entry == entry and each.action == action), None)
    if deciding is None:
        return Decision(section, action, entry, "no entry applies", tuple(candidates))
    others = [each for each in candidates if each is not deciding]
    chosen = Candidate(deciding.entry, deciding.action, deciding.why, True)
    rivals = "; the most specific wins, then the stricter" if others else ""
    return Decision(section, action, entry, f"{deciding.why}{rivals}", (chosen, *others))
