"""`when` and `unless`: which values a field may be compared with."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ebpfaudit.profiles.addresses import AddressError, parse_networks, parse_port
from ebpfaudit.profiles.draft import Item, is_reference
from ebpfaudit.profiles.identity import IdentityError, is_identity, parse_identity
from ebpfaudit.profiles.quantities import size_over
from ebpfaudit.profiles.schema import CHOICES, CONNECT_RESULTS, FIELDS, LATER_KEYS, FieldType, Values
from ebpfaudit.profiles.source import nearest

Say = Callable[..., None]
"""say(item, problem, key=False): complain about an item of the rule being read."""

ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
WILD = re.compile(r"[*?\[]")

_RANGE = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_COMM_BYTES = 15
_PROTOCOLS = (
    "tcp", "udp", "icmp", "icmp6", "sctp", "udplite", "routing-header", "stream", "dgram", "seqpacket", "unix",
)  # fmt: skip
_HIGHEST = {"uid": 2**32 - 1, "ppid": 2**22, "by_pid": 2**22, "signal": 64, "code": 255}
_ROOTED: tuple[FieldType, ...] = ("path", "program", "ancestor")


def expand(values: list[Item], lists: dict[str, Item], what: str, say: Say | None = None) -> list[Item]:
    """`values` with each "@name" replaced by that list's, and each value once."""
    expanded: dict[tuple[type, object], Item] = {}
    for item in values:
        value = item.value
        if not is_reference(value):
            expanded.setdefault((type(value), repr(value)), item)
        elif value[1:] not in lists:
            (say or Item.complain)(
                item, f"{what}unknown list '{value}'{nearest(value, (f'@{name}' for name in lists))}"
            )
        else:
            for each in lists[value[1:]].value:
                placed = Item(each.value, each.source, each.path, item.action, value)
                expanded.setdefault((type(each.value), repr(each.value)), placed)
    return list(expanded.values())


def read_conditions(
    table: Item, kind: str, lists: dict[str, Item], say: Say, *, failed: bool
) -> dict[str, Values]:
    """The conditions of an item that holds a table; `failed`: they are about an exec that failed."""
    if not isinstance(table.value, dict):
        say(table, f"'{table.path[-1]}' is a table: {table.path[-1]} = {{ field = value }}")
        return {}
    conditions: dict[str, Values] = {}
    for name, value in table.value.items():
        item = table.child(name, value)
        if name in FIELDS[kind]:
            if values := _read_values(item, kind, name, lists, say, failed):
                conditions[name] = values
        elif name in LATER_KEYS:
            say(item, f"'{name}' in '{table.path[-1]}' is not supported by this version", key=True)
        else:
            hint = nearest(name, FIELDS[kind]) or f"; it has {', '.join(FIELDS[kind])}"
            say(item, f"'{kind}' events have no field '{name}'{hint}", key=True)
    return conditions


def _read_values(item: Item, kind: str, name: str, lists: dict[str, Item], say: Say, failed: bool) -> Values:
    value = item.value
    if FIELDS[kind][name] == "size" and isinstance(value, dict) and list(value) == ["over"]:
        value = f"over {value['over']}"
    values = item.children(value)
    if not values:
        say(item, f"'{name}' has no values and can never match", key=True)
    kept = []
    for each in expand(values, lists, "", say):
        if problem := _value_problem(kind, name, each.value, failed):
            say(each, problem)
        else:
            kept.append(_normal(each.value))
    return tuple(dict.fromkeys(kept))


def _normal(value: Any) -> Any:
    return value.lower() if isinstance(value, str) and value.startswith("sha256:") else value


def _value_problem(kind: str, name: str, value: object, failed: bool) -> str:
    """Why `value` cannot stand for field `name`, or ""."""
    field_type = FIELDS[kind][name]
    if field_type == "flag":
        return "" if isinstance(value, bool) else f"'{name}' is true or false, not '{value}'"
    if field_type == "number":
        return _number_problem(name, value)
    if not isinstance(value, str) or not value:
        return f"'{name}' needs a string that is not empty, not '{value}'"
    if is_identity(value):
        return _identity_problem(name, value)
    if field_type in _ROOTED and value[0] not in "/*?[" and not value.startswith("memfd:") and not failed:
        return f"'{name}' is a full path and can never be '{value}'; write '*/{value}'"
    if name == "result" and kind == "connect":
        return _result_problem(name, value)
    check = _CHECKS.get(name) or _CHECKS.get(field_type)
    return check(name, value) if check else ""


def _identity_problem(name: str, value: str) -> str:
    if name not in ("exe", "program"):
        return f"'{value}': a program's content is known of 'exe' and 'program' only, not of '{name}'"
    try:
        parse_identity(value)
    except IdentityError as error:
        return str(error)
    return ""


def _number_problem(name: str, value: object) -> str:
    if type(value) is int:
        low = high = value
    elif isinstance(value, str) and _RANGE.fullmatch(value):
        low, high = (int(part) for part in value.split("-"))
    else:
        return f"'{name}' needs a number or \"LOW-HIGH\", not '{value}'"
    if name == "port":
        try:
            parse_port(f"{low}-{high}")
        except AddressError as error:
            return str(error)
    highest = _HIGHEST.get(name, high)
    return "" if 0 <= low <= high <= highest else f"'{name}' can never be '{value}'"


def _size_problem(name: str, value: str) -> str:
    try:
        size_over(value)
    except ValueError as error:
        return str(error)
    return ""


def _destination_problem(name: str, value: str) -> str:
    """An address, a CIDR, a set, or (of a connect) a glob of Unix paths."""
    if value.startswith("unix:"):
        if name != "dst":
            return f"'{name}' is the address of an internet socket, never '{value}'"
        return "" if len(value) > len("unix:") else "'unix:' needs a path"
    try:
        parse_networks(value)
    except AddressError as error:
        return f"{error}{'; ports belong in the field port' if ':' in value and name == 'dst' else ''}"
    return ""


def _choice_problem(name: str, value: str) -> str:
    return _known_problem(name, value, CHOICES[name])


def _known_problem(name: str, value: str, known: tuple[str, ...]) -> str:
    if value in known:
        return ""
    hint = nearest(value, known) or f"; one of {', '.join(known)}"
    return f"'{name}' is never '{value}'{hint}"


def _comm_problem(name: str, value: str) -> str:
    if WILD.search(value):
        shortest = len(re.sub(r"\[.[^\]]*\]", "x", value).replace("*", "").encode())
        return (
            ""
            if shortest <= _COMM_BYTES
            else f"'comm' holds {_COMM_BYTES} bytes and can never match '{value}'"
        )
    if len(value.encode()) > _COMM_BYTES:
        return f"'comm' holds {_COMM_BYTES} bytes and can never be '{value}'; use 'exe'"
    return ""


def _result_problem(name: str, value: str) -> str:
    """A connect's result: a word, an errno's name, or a glob."""
    if re.fullmatch(r"[A-Z0-9*?\[\]]+", value):
        return ""
    return "" if WILD.search(value) else _known_problem(name, value, CONNECT_RESULTS)


def _protocol_problem(name: str, value: str) -> str:
    return "" if WILD.search(value) or value.isdecimal() else _known_problem(name, value, _PROTOCOLS)


def _option_problem(name: str, value: str) -> str:
    option, _, _ = value.partition(" ")
    if not option.startswith("-") or not option.strip("-"):
        return f"'{value}': an option begins with '-' or '--', such as '-R [0-9]*' or '--algo rx/*'"
    if "=" in option:
        return f"'{value}': write '{value.replace('=', ' ', 1)}'; both spellings of it match"
    if WILD.search(option):
        return f"'{value}': an option's name holds no '*', '?' or '['; its value comes after a space"
    return ""


def _mark_problem(name: str, value: str) -> str:
    return "" if ID.fullmatch(value) else f"'{value}' is no mark: its name is lower-case words joined by '-'"


_CHECKS: dict[str, Callable[[str, str], str]] = {
    "size": _size_problem,
    "dst": _destination_problem,
    "choice": _choice_problem,
    "option": _option_problem,
    "mark": _mark_problem,
    "comm": _comm_problem,
    "protocol": _protocol_problem,
}
"""By the field's name, or else by its type."""
