"""Destinations as a profile writes them, and the named sets of addresses.

Addresses are integers of 128 bits, IPv4 as ::ffff:a.b.c.d, so that there is one address space and no
spelling of an IPv4 address (mapped, or NAT64 for the sets) escapes an entry.
"""

from __future__ import annotations

import re
import socket

from msgspec import Struct

from ebpfaudit.profiles.source import nearest
from ebpfaudit.verdicts import Action

Network = tuple[int, int]
"""(first address, prefix length in bits of 128)."""

MAPPED_IPV4: Network = (0xFFFF << 32, 96)
_NAT64 = (0x64FF9B << 96, 0x64FF9B0001 << 80)
"""64:ff9b::/96 (RFC 6052) and 64:ff9b:1::/96 (RFC 8215): a gateway turns them into the IPv4 address at their end."""

_LAST_PORT = 65535
_SUN_PATH_BYTES = 107
_PROTOCOL = re.compile(r"/(tcp|udp)$")
_BRACKETED = re.compile(r"\[([^\]]*)\](?::(.*))?")


class AddressError(ValueError):
    """An entry that names no destination; the message says why."""


class IpEntry(Struct, frozen=True):
    """Some networks, less the `holes` in them, at some ports."""

    text: str
    action: Action
    networks: tuple[Network, ...]
    holes: tuple[Network, ...] = ()
    port_low: int = 0
    port_high: int = _LAST_PORT
    protocol: str = ""


class UnixEntry(Struct, frozen=True):
    """A Unix socket's path (an abstract name begins with a zero byte), or what its path begins with."""

    text: str
    action: Action
    path: bytes
    exact: bool


def parse_address(text: str) -> int:
    """An IPv4 or IPv6 address as an integer; raises AddressError."""
    try:
        if ":" not in text:
            return MAPPED_IPV4[0] | int.from_bytes(socket.inet_pton(socket.AF_INET, text))
        return int.from_bytes(socket.inet_pton(socket.AF_INET6, text.partition("%")[0]))
    except (OSError, ValueError):
        raise AddressError(f"'{text}' is not an address") from None


def parse_network(text: str) -> Network:
    """An address or CIDR; raises AddressError, also where bits are set behind the prefix."""
    address_text, slash, bits_text = text.partition("/")
    address = parse_address(address_text)
    width = 128 if ":" in address_text else 32
    if slash and not (bits_text.isdecimal() and int(bits_text) <= width):
        raise AddressError(f"'/{bits_text}' is not a prefix length of 0 to {width}")
    bits = 128 - width + (int(bits_text) if slash else width)
    first = address >> (128 - bits) << (128 - bits)
    if first != address:
        right = f"{show_address(first)}/{bits_text}"
        raise AddressError(f"'{text}' has bits set behind its prefix; write '{right}' or the single address")
    return first, bits


def show_address(address: int) -> str:
    if address >> 32 == 0xFFFF:
        return socket.inet_ntop(socket.AF_INET, (address & 0xFFFFFFFF).to_bytes(4))
    return socket.inet_ntop(socket.AF_INET6, address.to_bytes(16))


def covers(network: Network, inner: Network) -> bool:
    return network[1] <= inner[1] and (network[0] ^ inner[0]) >> (128 - network[1]) == 0


def _set(*texts: str, nat64: bool = False) -> tuple[Network, ...]:
    networks = [parse_network(text) for text in texts]
    if nat64:
        mapped = [network for network in networks if covers(MAPPED_IPV4, network)]
        networks += [(nat64 | first & 0xFFFFFFFF, bits) for first, bits in mapped for nat64 in _NAT64]
    return tuple(networks)


SETS: dict[str, tuple[Network, ...]] = {
    # Linux sends a connect to the unspecified address to the host itself (ip_route_connect, RFC 1122).
    "loopback": _set("127.0.0.0/8", "0.0.0.0", "::1", "::"),
    "private": _set("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", nat64=True),
    "link-local": _set("169.254.0.0/16", "fe80::/10", nat64=True),
    "metadata": _set(
        "169.254.169.254",  # AWS, Azure, GCP, OCI, OpenStack, DigitalOcean, Hetzner
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",  # GCP over IPv6
        "fe80::a9fe:a9fe",  # OpenStack over IPv6
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure host agent
        "192.0.0.192",  # Oracle Cloud (classic)
        "169.254.0.23",  # Tencent Cloud
        nat64=True,
    ),
    "multicast": _set("224.0.0.0/4", "255.255.255.255", "ff00::/8"),
}
SET_NAMES = (*SETS, "public", "any")

NOT_PUBLIC = tuple(network for networks in SETS.values() for network in networks)
_PUBLIC = ((0, 1), (1 << 127, 1), (MAPPED_IPV4[0], 97), (MAPPED_IPV4[0] | 1 << 31, 97))
"""All there is, in halves: one bit more specific than "any", "0.0.0.0/0" and "::/0", so it wins over them."""


def parse_networks(text: str) -> tuple[tuple[Network, ...], tuple[Network, ...]]:
    """Networks and their holes of a set's name, an address or a CIDR; raises AddressError."""
    if text == "any":
        return ((0, 0),), ()
    if text == "public":
        return _PUBLIC, NOT_PUBLIC
    if text in SETS:
        return SETS[text], ()
    if re.search(r"[g-zG-Z]", text) or not re.search(r"[.:]", text):
        hint = nearest(text, SET_NAMES) or f"; the sets are {', '.join(SET_NAMES)}"
        if "." in text:
            hint = "; host names cannot be decided in the kernel, write the address"
        raise AddressError(f"'{text}' is neither an address nor a named set{hint}")
    network = parse_network(text)
    # An author of "::/0" means IPv6; only `any` and IPv4 spellings mean IPv4.
    hole = (MAPPED_IPV4,) if network != MAPPED_IPV4 and covers(network, MAPPED_IPV4) else ()
    return (network,), hole


def parse_entry(text: str, action: Action) -> IpEntry | UnixEntry:
    """ADDRESS|CIDR|SET[:PORT|:LOW-HIGH][/tcp|/udp], or unix:PATH; raises AddressError."""
    if text.startswith("unix:"):
        return _parse_unix(text, action)
    protocol = _PROTOCOL.search(text)
    rest = text[: protocol.start()] if protocol else text
    if bracketed := _BRACKETED.fullmatch(rest):
        host, port = bracketed[1], bracketed[2]
        if ":" not in host:
            raise AddressError(f"'{text}': brackets are for IPv6 addresses")
    elif rest.count(":") >= 2:
        host, port = rest, None
    else:
        host, colon, after = rest.partition(":")
        port = after if colon else None
    networks, holes = parse_networks(host)
    low, high = (0, _LAST_PORT) if port is None else parse_port(port)
    return IpEntry(text, action, networks, holes, low, high, protocol[1] if protocol else "")


def parse_port(text: str) -> tuple[int, int]:
    """A port or LOW-HIGH; raises AddressError."""
    low, dash, high = text.partition("-")
    if low.isdecimal() and (high.isdecimal() if dash else True):
        first, last = int(low), int(high or low)
        if 1 <= first <= last <= _LAST_PORT:
            return first, last
    raise AddressError(f"'{text}' is not a port (1 to {_LAST_PORT}) or LOW-HIGH")


def _parse_unix(text: str, action: Action) -> UnixEntry:
    path = text.removeprefix("unix:")
    exact = not path.endswith("*")
    stem = path.removesuffix("*")
    if re.search(r"[*?\[\]]", stem):
        raise AddressError(f"'{text}': a Unix entry may have one '*', at its end")
    if stem[:1] not in ("/", "@") and (stem or exact):
        raise AddressError(f"'{text}': write unix:/path, unix:/dir/*, unix:@abstract or unix:*")
    raw = b"\0" + stem[1:].encode() if stem.startswith("@") else stem.encode()
    if len(raw) > _SUN_PATH_BYTES:
        raise AddressError(f"'{text}': a Unix socket's path has at most {_SUN_PATH_BYTES} bytes")
    return UnixEntry(text, action, raw, exact)
