"""What a `[[rule]]` means, and whether it can mean anything: one that can never match is an error."""

from __future__ import annotations

import re
from typing import Any, cast, get_args

from ebpfaudit.profiles.addresses import AddressError, parse_networks, parse_port
from ebpfaudit.profiles.draft import Item, check_keys
from ebpfaudit.profiles.schema import (
    CHOICES,
    CONNECT_RESULTS,
    COUNT_KEYS,
    FIELDS,
    IDENTITIES,
    LATER_KEYS,
    PERS,
    RULE_ACTIONS,
    SCOPES,
    SEVERITIES,
    Count,
    Kind,
    Part,
    Rule,
    Value,
    Values,
)
from ebpfaudit.profiles.source import nearest
from ebpfaudit.verdicts import Action, Scope

_UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d+)(ms|s|m|h)")
_SIZE = re.compile(r"(?:over +)?(\d+(?:\.\d+)?) *(B|KiB|MiB|GiB|TiB)?")
_SIZE_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_RANGE = re.compile(r"\d+-\d+")
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TECHNIQUE = re.compile(r"T\d{4}(\.\d{3})?")
_TEXT_KEYS = ("severity", "technique", "message", "description", "scope", "action", "on")
_COMM_BYTES = 15


def size_over(text: str) -> int:
    """Bytes of "over 1.5GiB"; raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"'{text}' is not a size: write \"over 1GiB\"")
    return int(float(found[1]) * _SIZE_UNITS[found[2] or ""])


def duration_ns(text: str) -> int:
    """Nanoseconds of "500ms", "10s", "5m" or "2h"; raises ValueError."""
    found = _DURATION.fullmatch(text)
    if found is None or not int(found[1]):
        raise ValueError(f'\'{text}\' is not a duration: write "500ms", "10s", "5m" or "2h"')
    return int(found[1]) * _UNITS_NS[found[2]]


def expand(item: Item, values: list[Any], lists: dict[str, Item], what: str) -> list[Any]:
    """`values` with each "@name" replaced by that list's."""
    expanded: list[Any] = []
    for value in values:
        if not (isinstance(value, str) and value.startswith("@")):
            expanded.append(value)
        elif value[1:] in lists:
            expanded += lists[value[1:]].value
        else:
            item.complain(f"{what}: unknown list '{value}'{nearest(value[1:], lists)}", value)
    return list(dict.fromkeys(expanded))


def build_rule(item: Item, lists: dict[str, Item]) -> Rule | None:
    """The rule, or None: then its source has at least one problem more."""
    return _RuleReader(item, lists).read()


class _RuleReader:
    """Reads one rule's table; complaints go to the rule's source."""

    def __init__(self, item: Item, lists: dict[str, Item]) -> None:
        self.item = item
        self.table: dict[str, Any] = item.value
        self.lists = lists
        self.sound = True

    def complain(self, problem: str, *path: str, token: object = None) -> None:
        self.sound = False
        name = self.table["id"]
        self.item.source.complain((*self.item.path, *path), f"rule '{name}': {problem}", token)

    def read(self) -> Rule | None:
        table = self.table
        if not _ID.fullmatch(table["id"]):
            self.complain("an id is lower-case words joined by '-'", "id")
        for key in _TEXT_KEYS:
            if not isinstance(table.get(key, ""), str):
                self.complain(f"'{key}' must be a string", key)
                return None
        kind = self._choice("on", get_args(Kind))
        action = self._choice("action", RULE_ACTIONS)
        scope = self._choice("scope", SCOPES, "tree")
        severity = self._choice("severity", SEVERITIES, "")
        technique = table.get("technique", "")
        if technique and not _TECHNIQUE.fullmatch(technique):
            self.complain(f"'{technique}' is not a technique like T1572 or T1021.004", "technique")
        if not kind:
            return None
        when, unless = self._conditions(kind, "when"), self._conditions(kind, "unless")
        count = self._count(kind, when)
        self._check_possible(kind, when, unless)
        if not self.sound or not action:
            return None
        return Rule(
            table["id"], cast("Action", action), (Part(kind, when, unless, count),), scope=cast("Scope", scope),
            severity=severity, technique=technique, message=table.get("message", ""),
            description=table.get("description", ""),
        )  # fmt: skip

    def _choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self.table.get(key, default)
        if value is None:
            self.complain(f"needs '{key}', one of {', '.join(choices)}")
            return ""
        if value in choices or value == default:
            return str(value)
        if key == "action" and value in ("deny", "allow"):
            reason = {
                "deny": "a rule judges what has happened and cannot deny; deny in a section, or kill",
                "allow": "a rule cannot allow; use 'unless', or allow in a section",
            }
            self.complain(reason[value], key)
        else:
            hint = nearest(value, choices) or f"; one of {', '.join(choices)}"
            self.complain(f"unknown {key} '{value}'{hint}", key, token=value)
        return ""

    def _conditions(self, kind: str, key: str) -> dict[str, Values]:
        table = self.table.get(key, {})
        if not isinstance(table, dict):
            self.complain(f"'{key}' is a table: {key} = {{ field = value }}", key)
            return {}
        conditions: dict[str, Values] = {}
        for name, value in table.items():
            if name in FIELDS[kind]:
                if values := self._values(kind, key, name, value):
                    conditions[name] = values
            elif name in LATER_KEYS:
                self.complain(f"'{name}' in '{key}' is not supported by this version", key, name)
            else:
                hint = nearest(name, FIELDS[kind]) or f"; it has {', '.join(FIELDS[kind])}"
                self.complain(f"'{kind}' events have no field '{name}'{hint}", key, name)
        return conditions

    def _values(self, kind: str, key: str, name: str, value: Any) -> Values:
        if FIELDS[kind][name] == "size" and isinstance(value, dict) and list(value) == ["over"]:
            value = f"over {value['over']}"
        values = value if isinstance(value, list) else [value]
        known = len(self.item.source.problems)
        expanded = expand(self.item, values, self.lists, f"rule '{self.table['id']}'")
        self.sound = self.sound and len(self.item.source.problems) == known
        if not values:
            self.complain(f"'{name}' has no values and can never match", key, name)
        for each in expanded:
            problem = _value_problem(kind, name, each, self.table)
            if problem:
                self.complain(problem, key, name, token=each)
        return tuple(expanded)

    def _count(self, kind: str, when: dict[str, Values]) -> Count | None:
        table = self.table.get("count")
        if table is None:
            return None
        if not isinstance(table, dict):
            self.complain(
                '\'count\' is a table: count = { over = 20, within = "10s", per = "tree" }', "count"
            )
            return None
        known = len(self.item.source.problems)
        check_keys(self.item.source, (*self.item.path, "count"), table, COUNT_KEYS)
        self.sound = self.sound and len(self.item.source.problems) == known
        over, within, per = table.get("over"), table.get("within"), table.get("per", "tree")
        distinct = table.get("distinct", "")
        if type(over) is not int or not 1 <= over <= 100_000:
            self.complain("count needs 'over', a number from 1 to 100000", "count")
        elif len(when.get(distinct, ())) <= over and all(map(_is_exact, when.get(distinct, ("*",)))):
            self.complain(f"can never count over {over}: 'when' permits fewer of '{distinct}'", "count")
        if per not in PERS:
            self.complain(f"unknown per '{per}'{nearest(str(per), PERS)}", "count")
        if distinct and (distinct not in FIELDS[kind] or distinct == "bytes"):
            self.complain(
                f"cannot count distinct '{distinct}'{nearest(str(distinct), FIELDS[kind])}", "count"
            )
        try:
            within_ns = duration_ns(str(within))
        except ValueError as error:
            self.complain(f"count within: {error}", "count")
            return None
        return Count(over, within_ns, str(within), per, distinct) if self.sound else None  # type: ignore[arg-type]

    def _check_possible(self, kind: str, when: dict[str, Values], unless: dict[str, Values]) -> None:
        if unless and all(set(when.get(name, ("",))) <= set(values) for name, values in unless.items()):
            self.complain("can never match: 'unless' takes back all that 'when' gives", "unless")
        if kind != "connect":
            return
        families, protocols = when.get("family", ()), when.get("protocol", ())
        if families == ("unix",) and "port" in when:
            self.complain("can never match: a Unix socket has no port", "when", "port")
        if when.get("result") == ("ok",) and protocols and "tcp" not in protocols:
            self.complain("can never match: only TCP tells that a connection came about", "when", "result")


def _is_exact(value: Value) -> bool:
    return isinstance(value, int) or not re.search(
        r"[*?\[/-]|^(private|public|any|loopback|multicast|metadata)$", value
    )


def _value_problem(kind: str, name: str, value: object, table: dict[str, Any]) -> str:
    """Why `value` cannot stand for field `name`, or ""."""
    field_type = FIELDS[kind][name]
    if field_type == "flag":
        return "" if isinstance(value, bool) else f"'{name}' is true or false"
    if field_type == "number":
        return _number_problem(name, value)
    if not isinstance(value, str) or not value:
        return f"'{name}' needs a string that is not empty"
    if value.startswith(IDENTITIES):
        return f"'{value}' is not supported by this version"
    if field_type == "size":
        return _size_problem(value)
    if field_type == "dst":
        return _destination_problem(value)
    if field_type == "choice" and value not in CHOICES[name]:
        hint = nearest(value, CHOICES[name]) or f"; one of {', '.join(CHOICES[name])}"
        return f"'{name}' is never '{value}'{hint}"
    if (
        field_type == "path"
        and value[0] not in "/*?["
        and not value.startswith("memfd:")
        and "error" not in table["when"]
    ):
        return f"'{name}' is a full path and can never be '{value}'; write '*/{value}'"
    if name == "comm" and not re.search(r"[*?\[]", value) and len(value.encode()) > _COMM_BYTES:
        return f"'comm' holds {_COMM_BYTES} bytes and can never be '{value}'; use 'exe'"
    if name == "result" and kind == "connect" and not re.fullmatch(r"[A-Z0-9*?\[\]]+", value):
        return (
            ""
            if value in CONNECT_RESULTS
            else f"'result' is never '{value}'{nearest(value, CONNECT_RESULTS)}"
        )
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
    return "" if 0 <= low <= high else f"'{name}' can never be '{value}'"


def _size_problem(value: str) -> str:
    try:
        size_over(value)
    except ValueError as error:
        return str(error)
    return ""


def _destination_problem(value: str) -> str:
    """A rule's dst: an address, a CIDR, a set, or a glob of Unix paths."""
    if value.startswith("unix:"):
        return "" if len(value) > len("unix:") else "'unix:' needs a path"
    try:
        parse_networks(value)
    except AddressError as error:
        return f"{error}{'; ports belong in the field port' if ':' in value else ''}"
    return ""
