"""Whether one condition holds wherever another does. "No" may also mean: not known."""

from __future__ import annotations

import re
from functools import lru_cache

from ebpfaudit.profiles.addresses import MAPPED_IPV4, covers, parse_networks
from ebpfaudit.profiles.identity import is_identity
from ebpfaudit.profiles.quantities import size_over
from ebpfaudit.profiles.schema import FIELDS, Part, Value, Values

_OUTCOMES = ("result", "error")
"""With one of these a rule sees other events than without: ends instead of attempts, failures instead of successes."""


def covers_part(wide: Part, narrow: Part) -> bool:
    """Every event that `narrow` matches is one that `wide` matches."""
    if wide.on != narrow.on or not covers_conditions(wide.on, wide.when, narrow.when):
        return False
    if any((name in wide.when) != (name in narrow.when) for name in _OUTCOMES):
        return False
    return not wide.unless or wide.unless == narrow.unless


def covers_conditions(kind: str, wide: dict[str, Values], narrow: dict[str, Values]) -> bool:
    """Whatever meets all of `narrow` meets all of `wide`."""
    return wide.keys() <= narrow.keys() and all(
        covers_values(kind, name, values, narrow[name]) for name, values in wide.items()
    )


def covers_values(kind: str, name: str, wide: Values, narrow: Values) -> bool:
    """Whatever meets one of `narrow` meets one of `wide`."""
    if set(narrow) <= set(wide) and name != "not-ancestor":
        return True
    if name == "not-ancestor":
        return set(wide) <= set(narrow) or covers_values(kind, "ancestor", narrow, wide)
    field_type = FIELDS[kind][name]
    if field_type == "number":
        return all(any(_holds(one, other) for one in wide) for other in narrow)
    if field_type == "size":
        return min(size_over(str(one)) for one in wide) <= min(size_over(str(other)) for other in narrow)
    if field_type in ("flag", "choice", "mark"):
        return False
    cover = {"dst": _covers_destination, "option": _covers_option}.get(field_type, covers_glob)
    return all(any(cover(str(one), str(other)) for one in wide) for other in narrow)


def covers_glob(wide: str, narrow: str) -> bool:
    """Whatever text matches `narrow` matches `wide`."""
    if wide == narrow:
        return True
    if "*" not in wide or not narrow.endswith(wide[wide.rindex("*") + 1 :]):
        return False
    if is_identity(wide) or is_identity(narrow) or re.search(r"[?\[]", wide) or "[" in narrow:
        return False
    return _star_regex(wide).fullmatch(narrow) is not None


@lru_cache(maxsize=1024)
def _star_regex(wide: str) -> re.Pattern[str]:
    """A wildcard of a narrower glob can only be met by a star of `wide`, which takes whatever stands for it."""
    first, *rest = (re.escape(part) for part in re.split(r"\*+", wide))
    if not rest:
        return re.compile(first)
    *middle, last = rest
    return re.compile(first + "".join(f"(?>.*?{piece})" for piece in middle) + f".*{last}", re.DOTALL)


def _span(value: Value) -> tuple[int, int]:
    low, _, high = str(value).partition("-")
    return int(low), int(high or low)


def _holds(wide: Value, narrow: Value) -> bool:
    (low, high), (first, last) = _span(wide), _span(narrow)
    return low <= first and last <= high


def _covers_option(wide: str, narrow: str) -> bool:
    name, _, value = wide.partition(" ")
    other, _, other_value = narrow.partition(" ")
    return name == other and (not value or (bool(other_value) and covers_glob(value, other_value)))


def _covers_destination(wide: str, narrow: str) -> bool:
    if wide.startswith("unix:") or narrow.startswith("unix:"):
        return covers_glob(wide, narrow)
    (networks, holes), (inner, inner_holes) = parse_networks(wide), parse_networks(narrow)
    touched = [hole for hole in holes if hole not in inner_holes]
    return all(
        any(covers(network, each) for network in networks)
        and not any(covers(hole, each) or covers(each, hole) for hole in touched)
        for each in inner
    )


def is_ipv6_only(destination: str) -> bool:
    """No IPv4 address is among those of a set, an address or a CIDR."""
    networks, holes = parse_networks(destination)
    return MAPPED_IPV4 in holes or not any(
        covers(network, MAPPED_IPV4) or covers(MAPPED_IPV4, network) for network in networks
    )
