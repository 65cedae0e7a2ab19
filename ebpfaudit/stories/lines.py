"""A story's line taken apart: `[+TIME] [NAME[<PARENT]:] KIND WORDS [key=value ...] [xN] [every=TIME]`."""

from __future__ import annotations

import re

from msgspec import Struct

from ebpfaudit.profiles.source import nearest
from ebpfaudit.stories.words import Word, split

ROOT = "root"
ADVANCE_NS = 1_000_000
"""How much later than the one before a line is, unless it says otherwise."""
MAX_EVENTS = 100_000

OPTIONS: dict[str, tuple[str, ...]] = {
    "start": ("source", "step", "pid", "episode"),
    "seen": ("argv0", "noargv", "cwd", "uid", "comm", "ppid"),
    "exec": (
        "argv0", "noargv", "cwd", "uid", "comm", "ppid", "filename", "script", "memfd", "deleted", "truncated",
        "error", "stdio", "decision", "dev", "ino",
    ),
    "identity": ("same-as", "sha256", "error"),
    "connect": ("result", "decision", "comm", "type"),
    "gpu": ("uuid", "bytes", "command", "result", "decision", "comm"),
    "fork": ("pid",),
    "exit": ("signal",),
    "move": ("by", "inside"),
    "step": (),
    "lost": ("what",),
    "end": ("code",),
}  # fmt: skip
"""The kinds of line, and the keys that may end each."""
FLAGS = frozenset({"memfd", "deleted", "truncated", "inside", "noargv"})
"""Keys that stand alone."""
PLACELESS = frozenset({"start", "step", "lost", "end"})
"""Kinds that are of no process."""

UNITS_NS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

_TIME = re.compile(r"\+([0-9]{1,15})(ns|us|ms|s|m|h)")
_NAME = re.compile(r"([\w.-]+)(?:<([\w.-]+|\?))?:")
REPEAT = re.compile(r"x(\d+)")
KEY = re.compile(r"([a-z0-9-]+)=")


class Line(Struct, frozen=True):
    """A line taken apart. `keys` are those it ends with."""

    after_ns: int
    name: str
    parent: str
    kind: str
    words: tuple[Word, ...]
    keys: dict[str, str]
    times: int
    every_ns: int


def take_apart(line: str) -> Line | None:
    """None if nothing stands there. Raises ValueError."""
    words = split(line)
    after_ns = ADVANCE_NS
    if words and words[0].plain and words[0].shown.startswith("+"):
        after_ns = _time_ns(words.pop(0).shown)
        if not words:
            return Line(after_ns, "", "", "", (), {}, 1, ADVANCE_NS)
    if not words:
        return None
    name, parent = ROOT, ""
    if words[0].plain and words[0].shown.endswith(":"):
        found = _NAME.fullmatch(words.pop(0).shown)
        if found is None:
            raise ValueError(
                "a process is named in letters, digits, '_', '.' and '-': write 'ssh:' or 'ssh<make:'"
            )
        name, parent = found[1], found[2] or ""
        if not words:
            raise ValueError(f"what does '{name}' do? After the name comes one of {', '.join(OPTIONS)}")
    kind = words.pop(0).shown
    if kind not in OPTIONS:
        raise ValueError(
            f"'{kind}' is no kind of event{nearest(kind, OPTIONS) or '; write ' + ', '.join(OPTIONS)}"
        )
    if kind in PLACELESS and (name, parent) != (ROOT, ""):
        raise ValueError(f"'{kind}' is of no process: leave out '{name}:'")
    times, every_ns = _take_repetition(words)
    keys = _take_keys(kind, words)
    return Line(after_ns, name, parent, kind, tuple(words), keys, times, every_ns)


def _time_ns(text: str) -> int:
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"'{text}' is no time: write '+5s' or '+100ms'")
    return int(found[1]) * UNITS_NS[found[2]]


def _take_repetition(words: list[Word]) -> tuple[int, int]:
    """The xN and every=TIME at the end of a line, in any order."""
    times, every_ns = 1, ADVANCE_NS
    while words and words[-1].bare:
        text = words[-1].shown
        if words[-1].plain and (found := REPEAT.fullmatch(text)):
            times = int(found[1])
            if not 1 <= times <= MAX_EVENTS:
                raise ValueError(f"'{text}': a line is repeated 1 to {MAX_EVENTS:,} times")
        elif text.startswith("every="):
            every_ns = _time_ns("+" + text.removeprefix("every="))
        else:
            break
        words.pop()
    return times, every_ns


def _take_keys(kind: str, words: list[Word]) -> dict[str, str]:
    """The key=value words and flags at the end of a line. (What else an exec ends with is its arguments.)"""
    keys: dict[str, str] = {}
    while len(words) > (kind not in ("start", "end", "exit", "fork")):
        word = words[-1]
        found = KEY.match(word.shown, 0, word.bare)
        if found is not None:
            key, value = found[1], word.shown[found.end() :]
        elif word.plain and word.shown in OPTIONS[kind] and word.shown in FLAGS:
            key, value = word.shown, ""
        else:
            break
        if key not in OPTIONS[kind]:
            if kind in ("exec", "seen"):
                break
            hint = nearest(key, OPTIONS[kind]) or f"; it may have {', '.join(OPTIONS[kind]) or 'none'}"
            raise ValueError(f"'{kind}' has no key '{key}'{hint}")
        if key in keys:
            raise ValueError(f"'{key}' is given twice")
        keys[key] = value
        words.pop()
    return keys
