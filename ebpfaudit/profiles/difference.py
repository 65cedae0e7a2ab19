"""Two resolved profiles as texts, compared section by section and rule by rule."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from ebpfaudit.profiles.resolved import toml_text

_CONTEXT = 2


class SectionDifference(Struct, frozen=True):
    """What is different in one section or rule."""

    title: str
    """"[network]", "[[rule]] internal-scan"; "profile" for what stands above all sections."""
    lines: tuple[str, ...]
    """Each begins with "-" (only in the first profile), "+" (only in the second), or a space (both; "..." for lines left out)."""


def differences(first: str, second: str) -> list[SectionDifference]:
    """Of two texts by `resolved_text`. Every entry and every value is a line of its own; rules are paired by id."""
    old, new = _sections(first), _sections(second)
    found = []
    for title in [*old, *(title for title in new if title not in old)]:
        before, after = old.get(title, []), new.get(title, [])
        if before != after:
            lines = list(difflib.unified_diff(before, after, n=_CONTEXT, lineterm=""))[3:]
            found.append(
                SectionDifference(title, tuple("  ..." if line[:2] == "@@" else line for line in lines))
            )
    return found


def _sections(text: str) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {"profile": []}
    for key, value in tomllib.loads(text).items():
        if key == "rule":
            for rule in value:
                sections[f"[[rule]] {rule['id']}"] = list(_spread("", rule))
        elif isinstance(value, dict):
            sections[f"[{key}]"] = list(_spread("", value))
        else:
            sections["profile"] += _spread(key, value)
    return sections


def _spread(name: str, value: Any) -> Iterator[str]:
    """`value` in lines of one word each: "allow: loopback", "when.exe: */ssh", "all 1.on: gpu"."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _spread(f"{name}.{key}" if name else key, inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value, 1):
            yield from _spread(f"{name} {number}" if isinstance(inner, dict) else name, inner)
    else:
        yield f"{name}: {toml_text(value)}"
