"""A resolved profile as TOML: what a trail keeps, what the hash is of, and what `profile show` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ebpfaudit.profiles.schema import SECTION_ACTIONS, Count, Limit, Mark, Part, Profile, Rule

Origins = Mapping[tuple[str, ...], str]
"""Where things come from, by ("network", "default"), ("network", action, entry), ("exec", "deny", entry) or ("rule", id)."""

_WIDEST = 76
"""Comments are aligned, but for lines longer than this."""


def resolved_text(profile: Profile) -> str:
    """TOML that `parse_profile` reads back as an equal profile; the same for equal profiles."""
    lines = _heading(profile)
    for title, entries in _sections(profile):
        lines += ["", f"[{title}]"]
        lines += [f"{key} = {toml_text(value)}" for key, value in entries.items()]
    for rule in profile.rules:
        lines += ["", "[[rule]]"]
        lines += [f"{key} = {toml_text(value)}" for key, value in rule_table(rule).items()]
    return "\n".join(lines) + "\n"


def annotated_text(profile: Profile, origins: Origins) -> str:
    """The same, an entry a line, each with a comment that says where it comes from."""
    blocks: list[list[tuple[str, str]]] = [[(line, "") for line in _heading(profile)]]
    for title, entries in _sections(profile):
        blocks.append([(f"[{title}]", ""), *_entry_lines(title, entries, origins)])
    for rule in profile.rules:
        lines = [f"{key} = {toml_text(value)}" for key, value in rule_table(rule).items()]
        blocks.append([("[[rule]]", origins.get(("rule", rule.id), "")), *((line, "") for line in lines)])
    return "\n".join("".join(_aligned(block)) for block in blocks)


def profile_tables(profile: Profile, origins: Origins) -> dict[str, Any]:
    """The same for programs: entries and rules as objects with their "origin"."""
    tables: dict[str, Any] = {"name": profile.name, "description": profile.description}
    for title, section in _sections(profile):
        table: dict[str, Any] = {}
        if "default" in section:
            table["default"] = {"action": section["default"], "origin": origins.get((title, "default"), "")}
        table["entries"] = [
            {"action": action, "entry": text, "origin": origins.get((title, action, text), "")}
            for action, texts in section.items()
            if action != "default"
            for text in texts
        ]
        tables[title] = table
    tables["rules"] = [
        {**rule_table(rule), "origin": origins.get(("rule", rule.id), "")} for rule in profile.rules
    ]
    return tables


def rule_table(rule: Rule) -> dict[str, Any]:
    """The rule as its `[[rule]]` says it, in the order of the reference; defaults of its form written out."""
    if rule.form == "single":
        form = _part_table(rule.parts[0], with_per=True)
    else:
        parts = [_part_table(part, with_per=False) for part in rule.parts]
        form = {rule.form: parts, "within": rule.within, "per": rule.per}
    table = {
        "id": rule.id, "description": rule.description, "technique": rule.technique,
        "severity": rule.severity, **form,
        "action": rule.action if rule.action != "allow" else "", "scope": rule.scope,
        "mark": _mark_table(rule.mark), "limit": _limit_table(rule.limit), "message": rule.message,
    }  # fmt: skip
    return {key: value for key, value in table.items() if value}


def _heading(profile: Profile) -> list[str]:
    return [f"name = {toml_text(profile.name)}", f"description = {toml_text(profile.description)}"]


def _sections(profile: Profile) -> Iterator[tuple[str, dict[str, Any]]]:
    for title, section in (("network", profile.network), ("gpu", profile.gpu)):
        if section is not None:
            entries: dict[str, Any] = {"default": section.default}
            for action in SECTION_ACTIONS:
                if texts := [entry.text for entry in section.entries if entry.action == action]:
                    entries[action] = texts
            yield title, entries
    if profile.exec_deny:
        yield "exec", {"deny": list(profile.exec_deny)}


def _entry_lines(title: str, entries: dict[str, Any], origins: Origins) -> Iterator[tuple[str, str]]:
    for key, value in entries.items():
        if key == "default":
            yield f"default = {toml_text(value)}", origins.get((title, key), "")
            continue
        yield f"{key} = [", ""
        for text in value:
            yield f"    {toml_text(text)},", origins.get((title, key, text), "")
        yield "]", ""


def _aligned(lines: list[tuple[str, str]]) -> Iterator[str]:
    width = max((len(line) for line, origin in lines if origin and len(line) <= _WIDEST), default=0)
    for line, origin in lines:
        yield f"{line:<{width}}  # {origin}\n" if origin else f"{line}\n"


def _part_table(part: Part, with_per: bool) -> dict[str, Any]:
    count = _count_table(part.count, with_per)
    table = {"on": part.on, "when": part.when, "unless": part.unless, "count": count}
    return {key: value for key, value in table.items() if value}


def _count_table(count: Count | None, with_per: bool) -> dict[str, Any]:
    if count is None:
        return {}
    per = count.per if with_per else ""
    table = {"distinct": count.distinct, "over": count.over, "within": count.within, "per": per}
    return {key: value for key, value in table.items() if value}


def _mark_table(mark: Mark | None) -> dict[str, Any]:
    return {} if mark is None else {"name": mark.name, "for": mark.duration, "scope": mark.scope}


def _limit_table(limit: Limit | None) -> dict[str, Any]:
    return {} if limit is None else {"to": limit.to, "within": limit.within, "per": limit.per}


def toml_text(value: object) -> str:
    """`value` as TOML, of printable characters only, on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_text(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_text(each) for each in value) + "]"
    # JSON's strings are TOML's, but for characters beyond \uffff.
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(char: str) -> str:
    """`char`, escaped if a terminal could act on it."""
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"
