"""One profile file, read key by key: what it says and where it says it, not yet what that means.

Drafts of a profile and of those it extends are laid over each other; meaning (`profiles.load`,
`profiles.rules`) is made of the sum, because a rule may use a list that another file defines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ebpfaudit.profiles.schema import LATER_KEYS, RULE_KEYS, SECTION_ACTIONS, TOP_KEYS
from ebpfaudit.profiles.source import Path, Source, nearest

SECTION_KEYS = {
    "network": ("default", *SECTION_ACTIONS),
    "gpu": ("default", *SECTION_ACTIONS),
    "exec": ("deny",),
}
RESERVED_IDS = ("network", "gpu", "exec")


@dataclass(frozen=True)
class Item:
    """A value and its place. `action` is the list of the section that it stands in."""

    value: Any
    source: Source
    path: Path
    action: str = ""

    def complain(self, problem: str, token: object = None) -> None:
        self.source.complain(self.path, problem, token)

    @property
    def place(self) -> str:
        return f"{self.source.origin}:{self.source.line(self.path, self.value)}"


@dataclass
class Draft:
    """What one file, or several laid over each other, say."""

    name: str = ""
    description: str = ""
    extends: list[str] = field(default_factory=list)
    sections: dict[str, list[Item]] = field(default_factory=dict)
    defaults: dict[str, Item] = field(default_factory=dict)
    lists: dict[str, Item] = field(default_factory=dict)
    rules: dict[str, Item] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)

    def lay_over(self, base: Draft) -> Draft:
        """This draft where it speaks, `base` where it does not; section entries of both."""
        sections = {name: list(items) for name, items in base.sections.items()}
        for name, items in self.sections.items():
            known = {(item.action, item.value) for item in sections.get(name, ())}
            fresh = [item for item in items if (item.action, item.value) not in known]
            sections.setdefault(name, []).extend(fresh)
        return Draft(
            self.name or base.name,
            self.description or base.description,
            [],
            sections,
            base.defaults | self.defaults,
            base.lists | self.lists,
            base.rules | self.rules,
            [*base.sources, *(source for source in self.sources if source not in base.sources)],
        )


def read_draft(source: Source) -> Draft:
    """What `source` says. Anything that is not of the language becomes one of its problems."""
    draft = Draft(sources=[source])
    tree = source.tree
    check_keys(source, (), tree, TOP_KEYS)
    draft.name = _text(source, ("name",), tree.get("name", ""))
    draft.description = _text(source, ("description",), tree.get("description", ""))
    extends = tree.get("extends", [])
    draft.extends = _texts(source, ("extends",), [extends] if isinstance(extends, str) else extends)
    for name, keys in SECTION_KEYS.items():
        if name in tree:
            _read_section(source, draft, name, keys)
    lists = _table(source, ("lists",), tree.get("lists", {}))
    for name, values in lists.items():
        path = ("lists", name)
        draft.lists[name] = Item(_list_values(source, path, values), source, path)
    _read_rules(source, draft)
    return draft


def check_keys(source: Source, path: Path, table: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key in known:
            continue
        where = f" in [{_title(path)}]" if path else ""
        if key in LATER_KEYS:
            source.complain((*path, key), f"'{key}'{where} is not supported by this version", key)
        else:
            source.complain((*path, key), f"unknown key '{key}'{where}{nearest(key, known)}", key)


def _title(path: Path) -> str:
    return ".".join(part for part in path if isinstance(part, str))


def _read_section(source: Source, draft: Draft, name: str, keys: tuple[str, ...]) -> None:
    table = _table(source, (name,), source.tree[name])
    check_keys(source, (name,), table, keys)
    items = draft.sections.setdefault(name, [])
    for action in keys:
        if action not in table:
            continue
        path = (name, action)
        if action == "default":
            _read_default(source, draft, name, table["default"])
        else:
            items += [Item(text, source, path, action) for text in _texts(source, path, table[action])]


def _read_default(source: Source, draft: Draft, section: str, value: object) -> None:
    if value in SECTION_ACTIONS:
        draft.defaults[section] = Item(value, source, (section, "default"))
    else:
        hint = nearest(str(value), SECTION_ACTIONS) or f"; one of {', '.join(SECTION_ACTIONS)}"
        source.complain((section, "default"), f"unknown action '{value}'{hint}")


def _read_rules(source: Source, draft: Draft) -> None:
    rules = source.tree.get("rule", [])
    if not isinstance(rules, list):
        source.complain(("rule",), "a rule begins with [[rule]], in double brackets")
        return
    for index, table in enumerate(rules):
        path = ("rule", index)
        check_keys(source, path, table, RULE_KEYS)
        name = table.get("id")
        if not isinstance(name, str) or not name:
            source.complain(path, "a rule needs an id")
        elif name in RESERVED_IDS:
            source.complain((*path, "id"), f"the id '{name}' is taken by the section [{name}]")
        elif name in draft.rules:
            source.complain((*path, "id"), f"a second rule with the id '{name}'")
        else:
            draft.rules[name] = Item(table, source, path)


def _table(source: Source, path: Path, value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    source.complain(path, f"'{_title(path)}' is a table: write [{_title(path)}]")
    return {}


def _text(source: Source, path: Path, value: object) -> str:
    if isinstance(value, str):
        return value
    source.complain(path, f"'{path[-1]}' must be a string")
    return ""


def _texts(source: Source, path: Path, value: object) -> list[str]:
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    source.complain(path, f"'{path[-1]}' must be a list of strings")
    return []


def _list_values(source: Source, path: Path, values: object) -> list[str | int]:
    if not isinstance(values, list) or not all(type(value) in (str, int) for value in values):
        source.complain(path, f"list '{path[-1]}' must hold strings or numbers")
        return []
    if not values:
        source.complain(path, f"list '{path[-1]}' is empty: whatever uses it can never match")
    for value in values:
        if str(value).startswith("@"):
            source.complain(path, f"'{value}': lists do not hold other lists", value)
    return values
