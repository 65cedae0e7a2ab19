"""What a `[[rule]]` means. What it cannot mean is an error, at the word that makes it so."""

from __future__ import annotations

import re
from typing import Any, cast, get_args

from ebpfaudit.profiles.conditions import ID, expand, read_conditions
from ebpfaudit.profiles.draft import Item, check_keys
from ebpfaudit.profiles.message import MessageError, parse_message
from ebpfaudit.profiles.quantities import duration_ns, size_over
from ebpfaudit.profiles.schema import (
    COUNT_KEYS,
    FIELDS,
    LIMIT_KEYS,
    MARK_KEYS,
    MAX_PARTS,
    PART_KEYS,
    PERS,
    RULE_ACTIONS,
    SCOPES,
    SEVERITIES,
    Count,
    Form,
    Kind,
    Limit,
    Mark,
    Part,
    Rule,
    Value,
    Values,
)
from ebpfaudit.profiles.source import nearest
from ebpfaudit.verdicts import Action, Scope

__all__ = ["build_rule", "duration_ns", "expand", "size_over"]

_TECHNIQUE = re.compile(r"T\d{4}(\.\d{3})?")
_TEXT_KEYS = ("severity", "technique", "message", "description", "scope", "action", "on", "within", "per")
_MARK_LASTS = "10m"
_MOST = 100_000
_NO_SINGLE_VALUE = ("option", "mark", "ancestor", "size", "program")
_NO_ACTION = {
    "deny": "a rule judges what has happened and cannot deny; deny in a section, or kill",
    "allow": "a rule cannot allow; use 'unless', or allow in a section; a rule that only sets a mark has no action",
}


def build_rule(item: Item, lists: dict[str, Item]) -> Rule | None:
    """The rule, or None: then there is at least one problem more."""
    return _RuleReader(item, lists).read()


class _RuleReader:
    """Reads one rule's table; complaints go to where the wrong value stands."""

    def __init__(self, item: Item, lists: dict[str, Item]) -> None:
        self.item = item
        self.table: dict[str, Any] = item.value
        self.lists = lists
        self.sound = True

    def complain(self, item: Item, problem: str, key: bool = False) -> None:
        self.sound = False
        item.complain(f"rule '{self.table['id']}': {problem}", key)

    def read(self) -> Rule | None:
        table, item = self.table, self.item
        if not ID.fullmatch(table["id"]):
            self.complain(item.child("id"), "an id is lower-case words joined by '-'")
        for key in _TEXT_KEYS:
            if not isinstance(table.get(key, ""), str):
                self.complain(item.child(key), f"'{key}' must be a string")
        if not self.sound:
            return None
        mark = self._mark()
        action = self._action(has_mark=mark is not None)
        scope = self._choice(item, table, "scope", SCOPES, "tree")
        severity = self._choice(item, table, "severity", SEVERITIES, "")
        technique = table.get("technique", "")
        if technique and not _TECHNIQUE.fullmatch(technique):
            self.complain(
                item.child("technique"), f"'{technique}' is not a technique like T1572 or T1021.004"
            )
        limit = self._limit(action)
        form = self._form()
        parts, within_ns, per = self._parts(form)
        self._check_message(form, parts)
        if not self.sound or form is None:
            return None
        return Rule(
            table["id"], cast("Action", action), tuple(parts), form, within_ns, table.get("within", ""), per,
            cast("Scope", scope), mark, limit, severity, technique, table.get("message", ""),
            table.get("description", ""),
        )  # fmt: skip

    def _choice(
        self,
        item: Item,
        table: dict[str, Any],
        key: str,
        choices: tuple[str, ...],
        default: str | None = None,
    ) -> str:
        value = table.get(key, default)
        if value is None:
            self.complain(item, f"needs '{key}', one of {', '.join(choices)}")
            return ""
        if value in choices or value == default:
            return str(value)
        hint = nearest(str(value), choices) or f"; one of {', '.join(choices)}"
        self.complain(item.child(key), f"unknown {key} '{value}'{hint}")
        return ""

    def _action(self, has_mark: bool) -> str:
        action = self.table.get("action")
        if action is None and has_mark:
            return "allow"
        if action in _NO_ACTION:
            self.complain(self.item.child("action"), _NO_ACTION[action])
            return ""
        return self._choice(self.item, self.table, "action", RULE_ACTIONS)

    def _form(self) -> Form | None:
        """What kind of rule this is; complains about words of another."""
        table, item = self.table, self.item
        if "all" in table and "then" in table:
            self.complain(item.child("then"), "has 'all' and 'then': a rule is one or the other", key=True)
            return None
        form: Form = "all" if "all" in table else "then" if "then" in table else "single"
        misplaced = ("within", "per") if form == "single" else PART_KEYS
        for key in misplaced:
            if key in table and form == "single":
                self.complain(
                    item.child(key), f"'{key}' goes with 'all' or 'then', or into 'count'", key=True
                )
            elif key in table:
                self.complain(item.child(key), f"'{key}' belongs into the parts of '{form}'", key=True)
        return form

    def _parts(self, form: Form | None) -> tuple[list[Part], int, str]:
        """The parts that could be read, the time for all of them, and what they have in common."""
        if form is None:
            return [], 0, ""
        if form == "single":
            part = self._part(self.item, "")
            return [part] if part else [], 0, ""
        per = self._choice(self.item, self.table, "per", PERS, "tree")
        within_ns = self._duration(self.item, self.table, "within", f"'{form}' needs")
        item = self.item.child(form, self.table[form])
        if not isinstance(item.value, list) or not all(isinstance(table, dict) for table in item.value):
            self.complain(
                item, f'\'{form}\' is a list of parts: {form} = [{{ on = "exec" }}, {{ on = "connect" }}]'
            )
            return [], within_ns, per
        if not 2 <= len(item.value) <= MAX_PARTS:
            self.complain(item, f"'{form}' has 2 to {MAX_PARTS} parts, not {len(item.value)}")
        parts = []
        for each in item.children(item.value):
            if not check_keys(each, each.value, PART_KEYS):
                self.sound = False
            if part := self._part(each, per):
                parts.append(part)
        return parts, within_ns, per

    def _part(self, item: Item, per: str) -> Part | None:
        """One part, or the whole of a "single" rule; `per`: what the parts' events have in common."""
        table = item.value
        kind = self._choice(item, table, "on", get_args(Kind))
        if not kind:
            return None
        failed = isinstance(table.get("when"), dict) and "error" in table["when"]
        when, unless = (
            read_conditions(
                item.child(key, table.get(key, {})), kind, self.lists, self.complain, failed=failed
            )
            for key in ("when", "unless")
        )
        count = self._count(item, kind, when, per) if "count" in table else None
        self._check_possible(item, kind, when, unless)
        return Part(kind, when, unless, count)

    def _count(self, part: Item, kind: str, when: dict[str, Values], shared_per: str) -> Count | None:
        item = part.child("count", part.value["count"])
        table = item.value
        if not isinstance(table, dict):
            self.complain(item, "'count' is a table: count = { over = 20, within = \"10s\" }")
            return None
        if not check_keys(item, table, COUNT_KEYS):
            self.sound = False
        over, distinct = table.get("over"), table.get("distinct", "")
        if type(over) is not int or not 1 <= over <= _MOST:
            self.complain(item.child("over"), f"count needs 'over', a number from 1 to {_MOST}")
        elif len(when.get(str(distinct), ())) <= over and all(
            map(_is_exact, when.get(str(distinct), ("*",)))
        ):
            self.complain(item, f"can never count over {over}: 'when' permits fewer of '{distinct}'")
        if distinct != "" and FIELDS[kind].get(str(distinct), "size") in _NO_SINGLE_VALUE:
            known = [name for name, field_type in FIELDS[kind].items() if field_type not in _NO_SINGLE_VALUE]
            self.complain(
                item.child("distinct"), f"cannot count distinct '{distinct}'{nearest(str(distinct), known)}"
            )
        per = shared_per or self._choice(item, table, "per", PERS, "tree")
        if shared_per and "per" in table:
            self.complain(
                item.child("per"), "the count of a part has no 'per': it takes the rule's", key=True
            )
        within_ns = self._duration(item, table, "within", "count needs")
        if not self.sound or type(over) is not int:
            return None
        return Count(over, within_ns, table["within"], per, distinct)

    def _duration(self, item: Item, table: dict[str, Any], key: str, needs: str) -> int:
        """0 where there is none; then it has been complained about."""
        value = table.get(key)
        if value is None:
            self.complain(item, f"{needs} '{key}', such as {key} = \"5m\"")
            return 0
        try:
            return duration_ns(str(value))
        except ValueError as error:
            self.complain(item.child(key), f"{key}: {error}")
            return 0

    def _mark(self) -> Mark | None:
        if "mark" not in self.table:
            return None
        item = self.item.child("mark", self.table["mark"])
        table = {"name": item.value} if isinstance(item.value, str) else item.value
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            self.complain(item, '\'mark\' is a name, or { name = "fetched", for = "10m", scope = "process" }')
            return None
        if not check_keys(item, table, MARK_KEYS):
            self.sound = False
        if not ID.fullmatch(table["name"]):
            self.complain(item.child("name"), "the name of a mark is lower-case words joined by '-'")
        lasts = {"for": _MARK_LASTS} | table
        for_ns = self._duration(item, lasts, "for", "mark needs")
        scope = self._choice(item, table, "scope", SCOPES, "process")
        return Mark(table["name"], for_ns, str(lasts["for"]), cast("Scope", scope))

    def _limit(self, action: str) -> Limit | None:
        if "limit" not in self.table:
            return None
        item = self.item.child("limit", self.table["limit"])
        table = item.value
        if not isinstance(table, dict):
            self.complain(item, '\'limit\' is a table: limit = { to = 5, within = "1m", per = "episode" }')
            return None
        if action in ("freeze", "kill", "allow"):
            reason = "gives no verdicts" if action == "allow" else f"would let a '{action}' go undone"
            self.complain(item, f"'limit' is for 'log' and 'alert': here it {reason}", key=True)
        if not check_keys(item, table, LIMIT_KEYS):
            self.sound = False
        most = table.get("to")
        if type(most) is not int or not 1 <= most <= _MOST:
            self.complain(item.child("to"), f"limit needs 'to', a number from 1 to {_MOST}")
            return None
        within_ns = self._duration(item, table, "within", "limit needs")
        per = self._choice(item, table, "per", PERS, "episode")
        return Limit(most, within_ns, str(table.get("within")), per)

    def _check_message(self, form: Form | None, parts: list[Part]) -> None:
        """Every {field} is one of the event that the verdict is on: of "all", that may be any part's."""
        item = self.item.child("message", self.table.get("message", ""))
        try:
            pieces = parse_message(item.value)
        except MessageError as error:
            self.complain(item, str(error))
            return
        kinds = dict.fromkeys(part.on for part in (parts if form == "all" else parts[-1:]))
        for kind in kinds:
            for _, name in pieces:
                if name and name not in FIELDS[kind]:
                    why = ", which may complete the rule," if len(kinds) > 1 else ""
                    hint = nearest(name, FIELDS[kind])
                    self.complain(item, f"message: '{kind}' events{why} have no field '{{{name}}}'{hint}")

    def _check_possible(
        self, part: Item, kind: str, when: dict[str, Values], unless: dict[str, Values]
    ) -> None:
        if unless and all(set(when.get(name, ("",))) <= set(values) for name, values in unless.items()):
            self.complain(
                part.child("unless"), "can never match: 'unless' takes back all that 'when' gives", key=True
            )
        if kind != "connect":
            return
        families, protocols = when.get("family", ()), when.get("protocol", ())
        condition = part.child("when")
        if families == ("unix",) and "port" in when:
            self.complain(condition.child("port"), "can never match: a Unix socket has no port", key=True)
        if when.get("result") == ("ok",) and protocols and "tcp" not in protocols:
            problem = "can never match: only TCP tells that a connection came about"
            self.complain(condition.child("result"), problem, key=True)


def _is_exact(value: Value) -> bool:
    return isinstance(value, int) or not re.search(
        r"[*?\[/-]|^(private|public|any|loopback|multicast|metadata)$", value
    )
