"""Writes what a profile says of a fixture into the fixture's file, and touches nothing else in it."""

from __future__ import annotations

import re
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ebpfaudit.profiles.resolved import toml_text
from ebpfaudit.profiles.source import Source
from ebpfaudit.stories.fixtures import Outcome, verdicts_path
from ebpfaudit.stories.story import StoryError

_LINE_CHARS = 110
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(r'"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[^"\'#]', re.DOTALL)


def write_expectation(outcome: Outcome) -> str:
    """Make the fixture expect what it got. Returns what changed, for a person. Raises StoryError."""
    path = outcome.fixture.path
    if outcome.fixture.verdicts is not None:
        golden = verdicts_path(path)
        golden.write_bytes(msgspec.json.Encoder().encode_lines(outcome.verdicts))
        return f"{golden}: {len(outcome.verdicts)} verdicts"
    text = path.read_bytes().decode()
    bare = text.removeprefix("\ufeff")
    updated = replace_expectation(bare, outcome.profile, outcome.got, path)
    path.write_bytes(f"{text[: len(text) - len(bare)]}{updated}".encode())
    return f"{path}: {expectation_text(outcome.profile, outcome.got)}"


def expectation_text(profile: str, verdicts: tuple[str, ...]) -> str:
    """The line (or lines) of [expect] for one profile."""
    key = profile if _BARE.fullmatch(profile) else toml_text(profile)
    return f"{key} = {_list_text(key, verdicts)}"


def replace_expectation(text: str, profile: str, verdicts: tuple[str, ...], path: Path) -> str:
    """`text` with one entry of its [expect] table replaced or added. Raises StoryError."""
    source = Source(text, str(path))
    expect = source.tree.get("expect")
    newline = "\r\n" if "\r\n" in text else "\n"
    entry = expectation_text(profile, verdicts).replace("\n", newline)
    if not isinstance(expect, dict):
        at = len(text)
        entry = f"{newline}[expect]{newline}{entry}"
    elif profile in expect:
        at = _offset(text, source.position(("expect", profile)))
    else:
        entries = (_offset(text, source.position(("expect", name))) for name in expect)
        at = max(map(partial(_list_end, text), entries), default=_offset(text, source.position(("expect",))))
    if isinstance(expect, dict) and profile in expect:
        _, _, new_list = entry.partition(" = ")
        updated = text[:at] + new_list + text[_list_end(text, at) :]
    else:
        line_end = text.find("\n", at) + 1 or len(text)
        gap = "" if text[:line_end].endswith("\n") else newline
        updated = text[:line_end] + gap + entry + newline + text[line_end:]
    _check(source.tree, updated, profile, verdicts, path)
    return updated


def _check(before: dict[str, Any], updated: str, profile: str, verdicts: tuple[str, ...], path: Path) -> None:
    wanted = {**before, "expect": {**before.get("expect", {}), profile: list(verdicts)}}
    try:
        as_wanted = tomllib.loads(updated) == wanted
    except tomllib.TOMLDecodeError:
        as_wanted = False
    if not as_wanted:
        raise StoryError([f"{path}: [expect] is not written as a table of its own; edit it by hand"])


def _offset(text: str, position: tuple[int, int]) -> int:
    line, column = position
    return sum(len(each) + 1 for each in text.split("\n")[: line - 1]) + column - 1


def _list_end(text: str, start: int) -> int:
    """Where the list that begins at `start` ends."""
    depth = 0
    for token in _STRING.finditer(text, start):
        depth += {"[": 1, "]": -1}.get(token[0], 0)
        if depth <= 0:
            return token.end()
    return start


def _list_text(key: str, verdicts: tuple[str, ...]) -> str:
    quoted = [toml_text(text) for text in verdicts]
    line = "[" + ", ".join(quoted) + "]"
    if len(key) + 3 + len(line) <= _LINE_CHARS:
        return line
    return "[\n" + "".join(f"    {text},\n" for text in quoted) + "]"
