"""Fixtures: what a profile is expected to say of a story, or of recorded events.

Beside a profile's file, in `tests/`: stories (`*.toml`, each with an [expect] entry for the profiles
that it concerns), and in `tests/PROFILE/` stories, events (`*.jsonl`) and trails (`*.jsonl.zst`), the
latter two with NAME.verdicts.jsonl. docs/profile-testing.md says how to write one.
"""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

import msgspec
from msgspec import Struct

from ebpfaudit.events import Event
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.schema import Profile
from ebpfaudit.profiles.source import InvalidProfile, Source, nearest
from ebpfaudit.stories.story import StoryError, parse_story
from ebpfaudit.verdicts import ACTIONS, Verdict

KEYS = ("title", "family", "innocent", "missed", "events", "expect")
HARSH = ("alert", "freeze", "kill")
"""What innocent work must not meet. A denial it may: a look-up at a resolver elsewhere is denied, and work goes on."""
CATCHES = (*HARSH, "deny")
"""What counts as having caught an attack."""
SECTIONS = ("network", "gpu", "exec")

_VERDICTS = ".verdicts.jsonl"
_EXPECTED = re.compile(r"(\S+ \S+(?: \+ \S+ \S+)*?)(?: x([0-9]{1,6}))?")
_decode_events = msgspec.json.Decoder(Event).decode_lines
_decode_verdicts = msgspec.json.Decoder(Verdict).decode_lines

ReadTrail = Callable[[Path], Iterable[Event]]


class Fixture(Struct, frozen=True):
    """One story, or one recording, and what is expected of profiles."""

    path: Path
    title: str
    family: str
    """The kind of attack that it shows; "" for innocent work, and where nobody said."""
    innocent: bool
    missed: str
    """Why no profile catches this attack; "" where one must."""
    events: tuple[Event, ...]
    lines: tuple[int, ...]
    """For each event the number of the line of the file that it comes from."""
    expect: dict[str, tuple[str, ...]]
    """By profile, its verdicts as `fold` writes them, or spelled out."""
    text: tuple[str, ...] = ()
    """The lines of a story's file, the first at index 0; a recording has none to show."""
    verdicts: tuple[Verdict, ...] | None = None
    """Of a recording: every verdict that is expected, in full."""
    must_kill: bool = False

    @property
    def name(self) -> str:
        return self.path.name

    def breaches(self) -> list[str]:
        """What is wrong with an attack's expectations, whatever the profiles say."""
        if not self.family:
            return []
        expected = [text for texts in self.expect.values() for text in unfold(texts)]
        caught = any(text.partition(" ")[0] in CATCHES for text in expected)
        if self.missed and caught:
            return ["a profile catches this attack now: take out 'missed'"]
        if self.expect and not caught and not self.missed:
            return [
                "no profile in [expect] gives alert, deny, freeze or kill on this attack; "
                'where that is so, say why: missed = "..."'
            ]
        return []


class Outcome(Struct, frozen=True):
    """What a profile said of a fixture."""

    fixture: Fixture
    profile: str
    verdicts: tuple[Verdict, ...]
    expected: tuple[str, ...]
    got: tuple[str, ...]
    problems: tuple[str, ...]
    """Why it failed, in sentences; the difference of `expected` and `got` is the first."""
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def differs(self) -> bool:
        """The verdicts are not the expected ones."""
        recorded = self.fixture.verdicts
        if self.profile not in self.fixture.expect or unfold(self.expected) != unfold(self.got):
            return True
        return recorded is not None and recorded != self.verdicts


def fold(verdicts: Iterable[Verdict]) -> tuple[str, ...]:
    """ "ACTION RULE" of each; where neighbours are equal, one with xN. What several events in a row give
    alike is one, too: "deny network + kill my-rule x25"."""
    folded: list[tuple[str, int]] = []
    groups = groupby(verdicts, key=lambda verdict: verdict.seq)
    texts = (tuple(f"{verdict.action} {verdict.rule}" for verdict in group) for _, group in groups)
    for group, same in groupby(texts):
        times = sum(1 for _ in same)
        for text in [" + ".join(group)] if times > 1 else group:
            before = folded.pop()[1] if folded and folded[-1][0] == text else 0
            folded.append((text, before + times))
    return tuple(text if times == 1 else f"{text} x{times}" for text, times in folded)


def unfold(texts: Iterable[str]) -> list[str]:
    """The single verdicts that folded texts stand for."""
    single: list[str] = []
    for text in texts:
        found = _EXPECTED.fullmatch(text)
        if found is not None:
            single += found[1].split(" + ") * int(found[2] or 1)
    return single


def evaluate(profile: Profile, events: Iterable[Event]) -> tuple[Verdict, ...]:
    """Every verdict of a fresh evaluator."""
    judge = Evaluator(profile).evaluate
    return tuple(verdict for event in events for verdict in judge(event))


def judge(fixture: Fixture, name: str, profile: Profile) -> Outcome:
    """Judge the fixture by the profile called `name`, and compare."""
    began = time.perf_counter()
    verdicts = evaluate(profile, fixture.events)
    seconds = time.perf_counter() - began
    got = fold(verdicts)
    expected = fixture.expect.get(name)
    outcome = Outcome(fixture, name, verdicts, expected or (), got, (), seconds)
    problems = []
    if expected is None:
        problems.append(f"nothing is expected of '{name}'; --update writes what it says")
    elif outcome.differs:
        problems.append("the verdicts are not the expected ones")
    if fixture.innocent:
        harsh = [verdict for verdict in verdicts if verdict.action in HARSH]
        problems += [f"innocent work meets '{text}'" for text in dict.fromkeys(fold(harsh))]
    if fixture.must_kill and not any(verdict.action == "kill" for verdict in verdicts):
        problems.append("an offence must end in a kill")
    problems += fixture.breaches()
    return msgspec.structs.replace(outcome, problems=tuple(problems))


class Found(Struct, frozen=True):
    """The fixtures of a profile, and what is wrong with files that ought to be some."""

    fixtures: tuple[Fixture, ...]
    problems: dict[Path, tuple[str, ...]]


def collect(profile_path: Path, read_trail: ReadTrail) -> Found:
    """The fixtures of the profile in that file, in the order of their names."""
    folder = profile_path.parent / "tests"
    name = profile_path.stem
    own = [path for path in (folder / name).glob("*") if _is_fixture(path)]
    siblings = frozenset(path.stem for path in profile_path.parent.glob("*.toml"))
    fixtures, problems = [], {}
    for path in sorted([*folder.glob("*.toml"), *own]):
        try:
            fixture = load_fixture(path, read_trail, siblings)
        except StoryError as error:
            if path.parent != folder or _may_concern(path, name, siblings):
                problems[path] = error.problems
        else:
            if name in fixture.expect or path.parent != folder:
                fixtures.append(fixture)
    return Found(tuple(fixtures), problems)


def _may_concern(path: Path, name: str, profiles: frozenset[str]) -> bool:
    """Whether a story that cannot be read may be about that profile: all may, unless it names others."""
    if not path.is_file():
        return True
    try:
        expect = tomllib.loads(path.read_bytes().decode("utf-8-sig")).get("expect")
    except (OSError, ValueError):
        return True
    return not isinstance(expect, dict) or name in expect or profiles.isdisjoint(expect)


def _is_fixture(path: Path) -> bool:
    name = path.name
    return name.endswith((".toml", ".jsonl", ".jsonl.zst")) and not name.endswith(_VERDICTS)


_parsed: dict[tuple[Path, int, frozenset[str]], Fixture] = {}
"""Stories concern many profiles: each is read once, unless it changes."""


def load_fixture(path: Path, read_trail: ReadTrail, profiles: frozenset[str] = frozenset()) -> Fixture:
    """One fixture's file. `profiles`: whom it may name in [expect], if that is known. Raises StoryError."""
    try:
        if path.exists() and not path.is_file():
            raise StoryError([f"{path}: is not a file"])
        if not path.name.endswith(".toml"):
            return _load_recording(path, read_trail)
        key = path, path.stat().st_mtime_ns, profiles
        if key not in _parsed:
            _parsed[key] = parse_fixture(path.read_bytes().decode(), path, profiles)
        return _parsed[key]
    except UnicodeDecodeError:
        raise StoryError([f"{path}: not a UTF-8 text"]) from None
    except OSError as error:
        raise StoryError([f"{path}: cannot be read: {error.strerror}"]) from None


def verdicts_path(recording: Path) -> Path:
    """The file with the verdicts that are expected of a recording."""
    return recording.with_name(recording.name.removesuffix(".zst").removesuffix(".jsonl") + _VERDICTS)


def _load_recording(path: Path, read_trail: ReadTrail) -> Fixture:
    expected = verdicts_path(path)
    stem = expected.name.removesuffix(_VERDICTS)
    try:
        is_trail = path.name.endswith(".zst")
        events = tuple(read_trail(path) if is_trail else _decode_events(path.read_bytes()))
        verdicts = tuple(_decode_verdicts(expected.read_bytes())) if expected.exists() else ()
    except msgspec.DecodeError as error:
        raise StoryError([f"{path}: not events (or verdicts), one JSON object a line: {error}"]) from None
    return Fixture(
        path=path,
        title=stem.replace("-", " "),
        family="",
        innocent=stem.startswith("innocent-"),
        missed="",
        events=events,
        lines=tuple(range(1, len(events) + 1)),
        expect={path.parent.name: fold(verdicts)} if expected.exists() else {},
        verdicts=verdicts,
        must_kill=stem.startswith("offence-"),
    )


def parse_fixture(text: str, path: Path, profiles: frozenset[str] = frozenset()) -> Fixture:
    """The fixture in the text of a .toml file. Raises StoryError."""
    try:
        source = Source(text, str(path))
    except InvalidProfile as error:
        raise StoryError(list(error.problems)) from None
    tree = source.tree
    _check_keys(source)
    _check_expect(source, profiles)
    problems = [str(problem) for problem in source.problems]
    events: tuple[Event, ...] = ()
    lines: tuple[int, ...] = ()
    if isinstance(tree.get("events"), str):
        try:
            story = parse_story(tree["events"], str(path), _first_line(source, text))
            events, lines = story.events, story.lines
        except StoryError as error:
            problems += error.problems
    if problems:
        raise StoryError(problems)
    return Fixture(
        path=path,
        title=tree["title"],
        family=tree.get("family", ""),
        innocent=tree.get("innocent", False),
        missed=tree.get("missed", ""),
        events=events,
        lines=lines,
        expect={name: tuple(texts) for name, texts in tree.get("expect", {}).items()},
        text=tuple(text.split("\n")),
    )


def _check_keys(source: Source) -> None:
    tree = source.tree
    for key in tree:
        if key not in KEYS:
            hint = nearest(key, KEYS) or "; write " + ", ".join(KEYS)
            source.complain((key,), f"unknown key '{key}'{hint}", key=True)
    for key in ("title", "events"):
        if key not in tree:
            source.complain((), f"'{key}' is missing")
    kinds: dict[str, type] = dict.fromkeys(("title", "family", "missed", "events"), str)
    for key, kind in (kinds | {"innocent": bool, "expect": dict}).items():
        if key in tree and not isinstance(tree[key], kind):
            word = {str: "a text", bool: "true or false", dict: "a table"}[kind]
            source.complain((key,), f"'{key}' is {word}")
    if tree.get("innocent") is True and tree.get("family"):
        source.complain(("innocent",), "innocent work has no 'family' of attacks", key=True)
    if tree.get("missed") and not tree.get("family"):
        source.complain(("missed",), "'missed' is for attacks: say which 'family'", key=True)


def _check_expect(source: Source, profiles: frozenset[str]) -> None:
    expect = source.tree.get("expect", {})
    for name, texts in expect.items() if isinstance(expect, dict) else ():
        path = ("expect", name)
        if profiles and name not in profiles:
            source.complain(
                path, f"no profile '{name}' beside this folder{nearest(name, profiles)}", key=True
            )
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            example = 'such as ["deny network x3", "kill my-rule"]'
            source.complain(path, f"{name}: a list of texts is expected, {example}")
            continue
        for index, text in enumerate(texts):
            problem = _expected_problem(text)
            if problem:
                source.complain((*path, index), problem)


def _expected_problem(text: str) -> str:
    if not _EXPECTED.fullmatch(text):
        return f"'{text}': write 'ACTION RULE', 'ACTION RULE x5' or 'ACTION RULE + ACTION RULE x5'"
    for single in dict.fromkeys(unfold([text])):
        action = single.partition(" ")[0]
        if action not in ACTIONS:
            return f"'{action}' is no action{nearest(action, ACTIONS) or '; write ' + ', '.join(ACTIONS)}"
    return ""


def _first_line(source: Source, text: str) -> int:
    """The number of the line that the text of `events` begins on."""
    line, column = source.position(("events",))
    opening = text.split("\n")[line - 1][column - 1 :].strip()
    return line + (opening in ('"""', "'''"))
