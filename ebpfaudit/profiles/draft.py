"""One profile file, read key by key: what it says and where it says it, not yet what that means.

Drafts of a profile and of those it extends are laid over each other; meaning (`profiles.sections`,
`profiles.rules`) is made of the sum, because a rule may use a list that another file defines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ebpfaudit.profiles.schema import LATER_KEYS, RULE_KEYS, SECTION_ACTIONS, TOP_KEYS
from ebpfaudit.profiles.source import Path, Source, nearest

SECTION_KEYS = {
    "network": ("default", *SECTION_ACTIONS, "remove"),
    "gpu": ("default", *SECTION_ACTIONS, "remove"),
    "exec": ("deny", "remove"),
}
RESERVED_IDS = ("network", "gpu", "exec")
_LIST_NAME = re.compile(r"[A-Za-z0-9_-]+")


class Item(Struct, frozen=True, eq=False):
    """A value and its place. `action` is the list of the section that it stands in."""

    value: Any
    source: Source
    path: Path
    action: str = ""
    via: str = ""
    """The "@name" by which the value was reached."""
    overrides: Item | None = None
    """What an extended profile says in its place."""
    without: frozenset[str] = frozenset()
    """Of an "@name" in a section: entries that an extending profile has removed."""

    def complain(self, problem: str, key: bool = False) -> None:
        self.source.complain(self.path, f"{problem} (in '{self.via}')" if self.via else problem, key)

    def note(self, remark: str) -> None:
        self.source.note(self.path, remark)

    def child(self, name: str | int, value: Any = None) -> Item:
        return Item(value, self.source, (*self.path, name), self.action)

    def children(self, value: Any) -> list[Item]:
        """The elements of a list; a single value is a list of itself."""
        if isinstance(value, list):
            return [self.child(index, each) for index, each in enumerate(value)]
        return [replace(self, value=value)]

    @property
    def place(self) -> str:
        return f"{self.source.origin}:{self.source.position(self.path)[0]}"


@dataclass
class Draft:
    """What one file, or several laid over each other, say."""

    name: str = ""
    description: str = ""
    extends: list[Item] = field(default_factory=list)
    sections: dict[str, list[Item]] = field(default_factory=dict)
    removals: list[Item] = field(default_factory=list)
    defaults: dict[str, Item] = field(default_factory=dict)
    lists: dict[str, Item] = field(default_factory=dict)
    """Each a tuple of Items."""
    rules: dict[str, Item] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)

    def lay_over(self, base: Draft) -> Draft:
        """This draft where it speaks, `base` where it does not; section entries of both."""
        lists = base.lists | {name: _extend_list(name, item, base) for name, item in self.lists.items()}
        sections = {name: list(items) for name, items in base.sections.items()}
        for removal in self.removals:
            _remove(removal, sections, lists)
        for name, items in self.sections.items():
            known = {(item.action, item.value) for item in sections.get(name, ())}
            fresh = [item for item in items if (item.action, item.value) not in known]
            sections.setdefault(name, []).extend(fresh)
        return Draft(
            self.name or base.name,
            self.description or base.description,
            [],
            sections,
            [],
            _override(base.defaults, self.defaults),
            lists,
            _override(base.rules, self.rules),
            [*base.sources, *self.sources],
        )


def is_reference(value: object) -> bool:
    """Whether `value` is "@name", which stands for a list: "@scope/package" is a text like any other."""
    return isinstance(value, str) and value[:1] == "@" and _LIST_NAME.fullmatch(value, 1) is not None


def _override(old: dict[str, Item], new: dict[str, Item]) -> dict[str, Item]:
    return old | {name: replace(item, overrides=old.get(name)) for name, item in new.items()}


def _extend_list(name: str, item: Item, base: Draft) -> Item:
    """The list, where "@" and its own name stand for the inherited one."""
    inherited = base.lists.get(name)
    values: list[Item] = []
    for each in item.value:
        if each.value != f"@{name}":
            values.append(each)
        elif inherited is not None:
            values += inherited.value
        else:
            each.complain(
                f"'{each.value}': no extended profile has a list '{name}'{nearest(name, base.lists)}"
            )
    return replace(item, value=tuple(values), overrides=inherited)


def _remove(removal: Item, sections: dict[str, list[Item]], lists: dict[str, Item]) -> None:
    """Take an entry out of an inherited section, also if it came there through a list."""
    section, text = str(removal.path[0]), removal.value
    items = sections.get(section, [])
    kept, known = [], []
    for item in items:
        listed = lists[item.value[1:]].value if is_reference(item.value) and item.value[1:] in lists else ()
        texts = {str(each.value) for each in listed} - item.without
        known += [item.value, *texts]
        if item.value != text:
            kept.append(replace(item, without=item.without | {text}) if text in texts else item)
    if text in known:
        sections[section] = kept
    else:
        removal.complain(f"[{section}] remove: no inherited entry '{text}'{nearest(text, known)}")


def read_draft(source: Source) -> Draft:
    """What `source` says. Anything that is not of the language becomes one of its problems."""
    draft = Draft(sources=[source])
    tree = source.tree
    check_keys(Item(tree, source, ()), tree, TOP_KEYS)
    draft.name = _text(source, "name")
    draft.description = _text(source, "description")
    extends = tree.get("extends", [])
    draft.extends = _texts(Item(extends, source, ("extends",)), one=True)
    for name, keys in SECTION_KEYS.items():
        if name in tree:
            _read_section(source, draft, name, keys)
    for name, values in _table(source, "lists").items():
        item = Item(values, source, ("lists", name))
        if not _LIST_NAME.fullmatch(name):
            item.complain(f"list '{name}': a name is letters, digits, '-' and '_'", key=True)
        draft.lists[name] = replace(item, value=tuple(_list_values(item)))
    _read_rules(source, draft)
    return draft


def check_keys(table_item: Item, table: dict[str, Any], known: tuple[str, ...]) -> bool:
    """Whether all keys of `table` are `known`; complains about each that is not."""
    sound = True
    for key in table:
        if key in known:
            continue
        sound = False
        path = table_item.path
        where = f" in [{'.'.join(part for part in path if isinstance(part, str))}]" if path else ""
        if key in LATER_KEYS:
            problem = f"'{key}'{where} is not supported by this version"
        else:
            problem = f"unknown key '{key}'{where}{nearest(key, known)}"
        table_item.child(key).complain(problem, key=True)
    return sound


def _read_section(source: Source, draft: Draft, name: str, keys: tuple[str, ...]) -> None:
    table = _table(source, name)
    section = Item(table, source, (name,))
    check_keys(section, table, keys)
    items = draft.sections.setdefault(name, [])
    for key in keys:
        if key not in table:
            continue
        item = section.child(key, table[key])
        if key == "default":
            _read_default(draft, name, item)
        elif key == "remove":
            draft.removals += _texts(item)
        else:
            items += _texts(replace(item, action=key))


def _read_default(draft: Draft, section: str, item: Item) -> None:
    if item.value in SECTION_ACTIONS:
        draft.defaults[section] = item
    else:
        hint = nearest(str(item.value), SECTION_ACTIONS) or f"; one of {', '.join(SECTION_ACTIONS)}"
        item.complain(f"unknown action '{item.value}'{hint}")


def _read_rules(source: Source, draft: Draft) -> None:
    rules = source.tree.get("rule", [])
    if not isinstance(rules, list) or not all(isinstance(table, dict) for table in rules):
        source.complain(("rule",), "a rule begins with [[rule]], in double brackets")
        return
    for index, table in enumerate(rules):
        item = Item(table, source, ("rule", index))
        check_keys(item, table, RULE_KEYS)
        name = table.get("id")
        if not isinstance(name, str) or not name:
            item.child("id").complain("a rule needs an id")
        elif name in RESERVED_IDS:
            item.child("id").complain(f"the id '{name}' is taken by the section [{name}]")
        elif name in draft.rules:
            item.child("id").complain(f"a second rule with the id '{name}'")
        else:
            draft.rules[name] = item


def _table(source: Source, name: str) -> dict[str, Any]:
    value = source.tree.get(name, {})
    if isinstance(value, dict):
        return value
    source.complain((name,), f"'{name}' is a table: write [{name}]")
    return {}


def _text(source: Source, name: str) -> str:
    value = source.tree.get(name, "")
    if isinstance(value, str):
        return value
    source.complain((name,), f"'{name}' must be a string")
    return ""


def _texts(item: Item, one: bool = False) -> list[Item]:
    """The strings of a list; `one`: a single string will do."""
    if isinstance(item.value, list) or (one and isinstance(item.value, str)):
        values = item.children(item.value)
        if all(isinstance(each.value, str) for each in values):
            return values
    item.complain(f"'{item.path[-1]}' must be a list of strings")
    return []


def _list_values(item: Item) -> list[Item]:
    name = item.path[-1]
    if not isinstance(item.value, list) or not all(type(value) in (str, int) for value in item.value):
        item.complain(f"list '{name}' must hold strings or numbers")
        return []
    if not item.value:
        item.complain(f"list '{name}' is empty: whatever uses it can never match")
    values = item.children(item.value)
    for each in values:
        if is_reference(each.value) and each.value != f"@{name}":
            each.complain(
                f"'{each.value}': a list holds no other lists, only the inherited one of its own name"
            )
    return values
