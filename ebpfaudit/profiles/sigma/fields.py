"""What Sigma's fields are called here, and what its values say of them."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Literal

from ebpfaudit.profiles.sigma.conditions import (
    FALSE,
    TRUE,
    Claim,
    Inexpressible,
    IpNetwork,
    Terms,
    any_of,
    one,
)
from ebpfaudit.profiles.sigma.globs import ANY, STAR, Glob, literal

if TYPE_CHECKING:
    from sigma.types import SigmaString, SigmaType

Case = Literal["paths", "any", "written"]
CASES: tuple[Case, ...] = ("paths", "any", "written")
"""Where upper and lower case are alike: everywhere but in paths, everywhere (as Sigma means it), nowhere."""

_PROCESS = {
    "Image": "exe",
    "CommandLine": "cmdline",
    "ParentImage": "ancestor",
    "CurrentDirectory": "cwd",
    "User": "uid",
}
FIELDS = {
    "exec": _PROCESS,
    "connect": {
        **_PROCESS,
        "DestinationIp": "dst",
        "DestinationPort": "port",
        "Protocol": "protocol",
        "Initiated": "initiated",
        "DestinationIsIpv6": "family",
    },
}
"""Names of the Sigma taxonomy for process_creation and network_connection."""

PATHS = ("exe", "ancestor", "cwd")

_WHY_NOT = {
    "ParentCommandLine": "the command line of a parent is not kept",
    "DestinationHostname": "connections go to addresses, host names are not in the event",
    "SourceIp": "the own address of a connection is not recorded",
    "SourcePort": "the own port of a connection is not recorded",
    "SourceHostname": "host names are not in the event",
    "OriginalFileName": "Linux programs carry no such name",
    "Hashes": "write 'sha256:...' by hand where a hash is meant",
    "LogonId": "log-on sessions are not recorded",
}
_LAST_PORT = 65535


def condition(kind: str, field: str, value: SigmaType, case: Case) -> Terms:
    """What `field` = `value` says of an event of `kind`; raises Inexpressible."""
    from sigma.types import SigmaExists, SigmaExpansion, SigmaNull

    ours = FIELDS[kind].get(field)
    if ours is None:
        reason = _WHY_NOT.get(field, "no such field here")
        raise Inexpressible("field", f"field {field}: {reason}")
    if isinstance(value, SigmaExpansion):
        return any_of(condition(kind, field, each, case) for each in value.values)
    if isinstance(value, SigmaNull | SigmaExists):
        if ours == "ancestor":
            raise Inexpressible("value", f"{field}: whether there is a parent is not asked")
        # Our events always have these fields.
        return TRUE if isinstance(value, SigmaExists) and value.exists else FALSE
    if ours == "initiated":
        return _initiated(value)
    return one(Claim(ours, (_value(ours, field, value, case),)))


def _initiated(value: SigmaType) -> Terms:
    """All our connections are the process's own."""
    if _plain(value).lower() != "true":
        raise Inexpressible("value", "Initiated: incoming connections are not recorded")
    return TRUE


def _value(ours: str, field: str, value: SigmaType, case: Case) -> Any:
    from sigma.types import (
        SigmaCasedString,
        SigmaCIDRExpression,
        SigmaCompareExpression,
        SigmaFieldReference,
        SigmaRegularExpression,
        SigmaString,
    )

    if isinstance(value, SigmaRegularExpression):
        raise Inexpressible("regex", f"{field} is a regular expression")
    if isinstance(value, SigmaFieldReference):
        raise Inexpressible("value", f"{field} is compared with another field")
    if isinstance(value, SigmaCompareExpression) and ours == "port":
        return _compared(value)
    if isinstance(value, SigmaCIDRExpression) and ours == "dst":
        return _unmapped(value.network)
    if ours == "port":
        return _port(field, value)
    if not isinstance(value, SigmaString):
        value = SigmaString.from_str(_plain(value))
    if ours == "uid":
        return _user(value)
    if ours == "dst":
        return _network(value)
    if ours in ("protocol", "family"):
        return _word(ours, field, _plain(value).lower())
    any_case = case == "any" or (case == "paths" and ours not in PATHS)
    return _glob(field, value, any_case and not isinstance(value, SigmaCasedString))


def _plain(value: SigmaType) -> str:
    """The text of a value that has no wildcards."""
    from sigma.types import SigmaBool, SigmaNumber, SigmaString

    if isinstance(value, SigmaString) and all(isinstance(part, str) for part in value.s):
        return "".join(map(str, value.s))
    if isinstance(value, SigmaBool | SigmaNumber):
        return str(value.to_plain())
    raise Inexpressible("value", f"a value of this kind ({type(value).__name__}) has no equivalent")


def _glob(field: str, value: SigmaString, any_case: bool) -> Glob:
    from sigma.types import Placeholder, SpecialChars

    glob: Glob = ()
    for part in value.s:
        if isinstance(part, Placeholder):
            raise Inexpressible(
                "value", f"{field}: the placeholder %{part.name}% stands for what a site fills in"
            )
        if isinstance(part, str):
            if "\0" in part:
                raise Inexpressible("never", f"{field} never holds a NUL byte")
            glob += literal(part, any_case=any_case)
        elif part is SpecialChars.WILDCARD_SINGLE:
            glob += (ANY,)
        elif glob[-1:] != (STAR,):
            glob += (STAR,)
    if not glob:
        raise Inexpressible("value", f"{field} is compared with an empty text")
    return glob


def _port(field: str, value: SigmaType) -> tuple[int, int]:
    text = _plain(value)
    if not text.isdecimal() or not 0 < int(text) <= _LAST_PORT:
        raise Inexpressible("value", f"{field}: '{text}' is no port")
    return int(text), int(text)


def _compared(value: Any) -> tuple[int, int]:
    number, operator = value.number.number, value.op.name
    bounds = {
        "GT": (number + 1, _LAST_PORT), "GTE": (number, _LAST_PORT), "LT": (1, number - 1), "LTE": (1, number),
    }  # fmt: skip
    low, high = bounds.get(operator, (1, 0))
    if not isinstance(number, int) or not 1 <= low <= high <= _LAST_PORT:
        raise Inexpressible("value", f"no port is {operator} {number}")
    return low, high


def _user(value: SigmaString) -> tuple[int, int]:
    if value.contains_special() or _plain(value).lower() != "root":
        raise Inexpressible("value", "User: of users, only root has a number that is the same everywhere")
    return 0, 0


def _word(ours: str, field: str, text: str) -> str:
    words = {
        "family": {"true": "ipv6", "false": "ipv4"},
        "protocol": {"tcp": "tcp", "udp": "udp", "icmp": "icmp"},
    }
    if text not in words[ours]:
        raise Inexpressible("value", f"{field}: '{text}' has no equivalent")
    return words[ours][text]


def _network(value: SigmaString) -> IpNetwork:
    """One address, or the network of "10.20.*"."""
    from sigma.types import SpecialChars

    *front, last = value.s or [""]
    if last is SpecialChars.WILDCARD_MULTI and len(front) == 1 and isinstance(front[0], str):
        parts = front[0].split(".")
        octets = [part for part in parts[:-1] if part.isdecimal() and int(part) < 256]
        if len(octets) == len(parts) - 1 in (1, 2, 3) and not parts[-1]:
            return ip_network((".".join(octets + ["0"] * (4 - len(octets))), 8 * len(octets)))
        raise Inexpressible("value", f"DestinationIp: '{front[0]}*' is no whole network")
    try:
        return _unmapped(ip_network(ip_address(_plain(value))))
    except ValueError as error:
        if isinstance(error, Inexpressible):
            raise Inexpressible("value", "DestinationIp: a pattern that is no whole network") from None
        raise Inexpressible("value", f"DestinationIp: '{_plain(value)}' is no address") from None


def _unmapped(network: IpNetwork) -> IpNetwork:
    """IPv4-mapped IPv6 is IPv4 here."""
    if not isinstance(network, IPv4Network) and network.prefixlen >= 96 and network[0].ipv4_mapped:
        return ip_network((network[0].ipv4_mapped, network.prefixlen - 96))
    return network
