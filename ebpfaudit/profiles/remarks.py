"""What a sound profile says that its author hardly meant: notes, which fail nothing unless `--strict` asks."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from typing import Any

from ebpfaudit.profiles.conditions import WILD
from ebpfaudit.profiles.covering import covers_part
from ebpfaudit.profiles.draft import Draft, Item, is_reference
from ebpfaudit.profiles.identity import SAME_AS, is_identity
from ebpfaudit.profiles.lint import Placed, placed_parts
from ebpfaudit.profiles.schema import FIELDS, Rule
from ebpfaudit.profiles.source import Path, nearest
from ebpfaudit.verdicts import ACTIONS

_MULTI_CALL = ("busybox", "toybox", "coreutils", "uutils")
_LITERAL = ("text", "words", "path", "program", "choice", "flag", "mark")
"""Types of fields whose values, without a wildcard, hold nothing but themselves."""
_UNLIMITED = ("exe", "program", "argv", "cmdline", "comm", "cwd")
"""Fields that every process has: "*" says nothing about them."""

_BREADTH = ("process", "tree", "episode")

_MOST_RULES = 2000
"""So many are compared with each other."""


def note_rules(rules: Placed, draft: Draft) -> None:
    """Remarks about the profile's own text; those about what it extends belong to the check of that."""
    own = draft.sources[-1]
    mine = [(rule, item) for rule, item in rules if item.source is own]
    _note_unused_marks(rules, mine)
    _note_covered_rules(rules, mine)
    for rule, item in mine:
        for part, table in placed_parts(rule, item):
            _note_conditions(rule, table)
            late = any(
                is_identity(str(value)) for name in ("exe", "program") for value in part.unless.get(name, ())
            )
            if part.on == "exec" and late:
                table.child("unless").note(
                    f"rule '{rule.id}': 'unless' comes too late: an exec is judged before the content of its program is known"
                )
    _note_unused_lists(draft)
    for text, path in {text: path for path, text in reversed(list(_texts(own.tree, ())))}.items():
        if text.startswith(SAME_AS) and (remark := _remark_on_file(text.removeprefix(SAME_AS))):
            own.note(path, f"'{text}': {remark}")


def note_conflicts(draft: Draft) -> None:
    """Where two extended profiles, neither of which knows the other, say different things and the later one wins."""
    kinds = (("default", draft.defaults), ("list", draft.lists), ("rule", draft.rules))
    for kind, items in kinds:
        for name, item in items.items():
            what = f"[{name}] default" if kind == "default" else f"{kind} '{name}'"
            other = item.overrides
            while other is not None:
                if other.source not in item.source.below and _content(other) != _content(item):
                    item.note(f"{what} replaces that of {other.place}, and neither profile extends the other")
                other = other.overrides


def _content(item: Item) -> Any:
    return [each.value for each in item.value] if isinstance(item.value, tuple) else item.value


def _note_unused_marks(rules: Placed, mine: Placed) -> None:
    tested = {
        str(name)
        for rule, _ in rules
        for part in rule.parts
        for conditions in (part.when, part.unless)
        for name in conditions.get("mark", ())
    }
    for rule, item in mine:
        if rule.mark and rule.mark.name not in tested:
            item.child("mark").note(f"rule '{rule.id}': no rule tests the mark '{rule.mark.name}'")


def _note_covered_rules(rules: Placed, mine: Placed) -> None:
    """Rules that add nothing, because another gives an at least as strict verdict on each of their events."""
    if len(rules) > _MOST_RULES:
        return
    alike: dict[Hashable, list[tuple[int, Rule, Item]]] = {}
    for number, (rule, item) in enumerate(rules):
        for key in _asked_keys(rule):
            alike.setdefault(key, []).append((number, rule, item))
    order = {rule.id: number for number, (rule, _) in enumerate(rules)}
    for rule, item in mine:
        for number, other, place in sorted(
            {each[0]: each for key in _met_keys(rule) for each in alike.get(key, ())}.values(),
            key=lambda each: each[0],
        ):
            if other is rule or not _covers_rule(other, rule):
                continue
            if not _covers_rule(rule, other):
                remark = (
                    f"every event it matches is already met by '{other.id}' ({place.place}): {other.action}"
                )
            elif number < order[rule.id]:
                remark = f"says the same as '{other.id}' ({place.place})"
            else:
                continue
            item.child("id").note(f"rule '{rule.id}': {remark}")
            break


def _asked_keys(rule: Rule) -> list[Hashable]:
    """Whatever rule `rule` covers has one of these among its `_met_keys`."""
    kind = rule.form, rule.parts[0].on
    for name, values in rule.parts[0].when.items():
        if FIELDS[kind[1]][name] in _LITERAL and not any(WILD.search(str(value)) for value in values):
            return [(kind, name, value) for value in values]
    return [kind]


def _met_keys(rule: Rule) -> list[Hashable]:
    kind = rule.form, rule.parts[0].on
    return [kind, *((kind, name, values[0]) for name, values in rule.parts[0].when.items())]


def _covers_rule(strong: Rule, weak: Rule) -> bool:
    """Wherever `weak` speaks `strong` does, and no less strictly."""
    first, second = strong.parts[0], weak.parts[0]
    if not first.when.keys() <= second.when.keys() or weak.mark is not None or strong.limit is not None:
        return False
    if _strictness(strong) < _strictness(weak):
        return False
    if strong.form != "single":
        return (strong.parts, strong.within_ns, strong.per) == (weak.parts, weak.within_ns, weak.per)
    if first.count is not None:
        return first == second
    return covers_part(first, second)


def _strictness(rule: Rule) -> tuple[int, int]:
    return ACTIONS.index(rule.action), _BREADTH.index(rule.scope)


def _note_conditions(rule: Rule, table: Item) -> None:
    conditions = table.value.get("when", {})
    for name in _UNLIMITED:
        for value in table.child("when").child(name).children(conditions.get(name, [])):
            if isinstance(value.value, str) and value.value and not value.value.strip("*"):
                value.note(
                    f"rule '{rule.id}': '{name}' is always something, so \"{value.value}\" says nothing"
                )


def _note_unused_lists(draft: Draft) -> None:
    """Of the profile's own lists; most likely a name is misspelt, and the list meant to be replaced is not."""
    own = draft.sources[-1]
    used = {text for source in draft.sources for _, text in _texts(source.tree, ()) if is_reference(text)}
    for name, item in draft.lists.items():
        if item.source is own and f"@{name}" not in used:
            others = [other for other in draft.lists if other != name]
            item.note(f"nothing uses the list '{name}'{nearest(name, others)}")


def _remark_on_file(path: str) -> str:
    if not os.path.exists(path):
        return "there is no such file on this host, so nothing matches here"
    real = os.path.realpath(path)
    if os.path.basename(real) in _MULTI_CALL:
        return f"that is {real}, one program with many names: every one of its tools would match"
    return ""


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Every text in a tree of TOML, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _texts(each, (*path, index))
