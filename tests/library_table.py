"""The table of profiles/README.md, made of what the profiles say of the stories in profiles/tests.

    python -m tests.library_table            print it
    python -m tests.library_table --write    put it into profiles/README.md

Why a profile does not catch an attack is in profiles/tests/reasons/not-caught.toml; one reason too many or too few is an error.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ebpfaudit.profiles.load import load_profile
from ebpfaudit.profiles.schema import IDENTITIES, Profile, Rule
from ebpfaudit.stories.fixtures import HARSH, SECTIONS, Fixture, collect, evaluate
from ebpfaudit.verdicts import Verdict

FOLDER = Path(__file__).parents[1] / "profiles"
README = FOLDER / "README.md"
REASONS = FOLDER / "tests" / "reasons" / "not-caught.toml"
PROFILES = (
    "base", "coding-agent", "research-agent", "ci-runner", "offline-sandbox", "gpu-sandbox", "gpu-inference", "rl-training",
)  # fmt: skip
BEGIN, END = "<!-- table: begin (python -m tests.library_table --write) -->", "<!-- table: end -->"

Means = Literal["before", "behaviour", "content", "name"]
MEANS: tuple[Means, ...] = ("before", "behaviour", "content", "name")
_NAMES = ("exe", "program", "argv", "cmdline", "option", "script", "comm", "filename", "ancestor")


@dataclass(frozen=True)
class Cell:
    """How one profile catches one story: by which means, and whether that ends it (else: an alert)."""

    means: dict[Means, bool]

    def __str__(self) -> str:
        shown = (word if self.means[word] else f"({word})" for word in MEANS if word in self.means)
        return ", ".join(shown) or "**not caught**"


@dataclass(frozen=True)
class Library:
    """Every story, and what the profiles that it names say of it."""

    attacks: dict[str, Fixture]
    innocent: dict[str, Fixture]
    cells: dict[tuple[str, str], Cell]
    """By the story's name and the profile's."""

    def families(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, story in self.attacks.items():
            found.setdefault(story.family, []).append(name)
        return found


def read_library() -> Library:
    """Judge all stories by all profiles. Raises AssertionError where a file is no story."""
    attacks: dict[str, Fixture] = {}
    innocent: dict[str, Fixture] = {}
    cells: dict[tuple[str, str], Cell] = {}
    for name in PROFILES:
        path = FOLDER / f"{name}.toml"
        profile = load_profile(str(path))
        found = collect(path, lambda _trail: ())
        assert not found.problems, found.problems
        for story in found.fixtures:
            if story.path.suffix == ".toml":
                (attacks if story.family else innocent)[story.path.stem] = story
                if story.family:
                    cells[story.path.stem, name] = judge_cell(profile, evaluate(profile, story.events))
    return Library(dict(sorted(attacks.items())), dict(sorted(innocent.items())), cells)


def judge_cell(profile: Profile, verdicts: Iterable[Verdict]) -> Cell:
    rules = {rule.id: rule for rule in profile.rules}
    means: dict[Means, bool] = {}
    for verdict in verdicts:
        if verdict.action == "deny" or verdict.action in HARSH:
            how = _means_of(verdict, rules)
            means[how] = means.get(how, False) or verdict.action != "alert"
    return Cell(means)


def _means_of(verdict: Verdict, rules: dict[str, Rule]) -> Means:
    if verdict.rule in SECTIONS:
        return "before"
    if verdict.because.startswith(IDENTITIES):
        return "content"
    return "name" if _asks_for_names(rules[verdict.rule]) else "behaviour"


def _asks_for_names(rule: Rule) -> bool:
    """A part of it matches no program, option or argument of another name. (A folder is no name.)"""
    return any(
        not str(value).endswith("/*")
        for part in rule.parts
        for field, values in part.when.items()
        if field in _NAMES
        for value in values
    )


def read_reasons() -> dict[tuple[str, str], str]:
    """Why a profile does not catch a story, by the story's name and the profile's."""
    reasons: dict[tuple[str, str], str] = {}
    for entry in tomllib.loads(REASONS.read_text())["reason"]:
        for story in entry["stories"]:
            for profile in entry["profiles"]:
                assert (story, profile) not in reasons, f"two reasons for {story} under {profile}"
                reasons[story, profile] = entry["why"]
    return reasons


def render(library: Library) -> str:
    """Everything between the README's two marks."""
    numbers = {name: number for number, name in enumerate(library.attacks, 1)}
    lines = [*_summary(library, numbers), *_stories(library, numbers), *_missed(library, numbers)]
    return "\n".join([BEGIN, "", *lines, *_innocent(library), "", END])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*titles: str) -> list[str]:
    return [_row(titles), _row("---" for _ in titles)]


def _link(name: str, text: str) -> str:
    return f"[{text}](tests/{name}.toml)"


def _summary(library: Library, numbers: dict[str, int]) -> Iterator[str]:
    yield from ("## Attack family by profile", "", *_head("family", *PROFILES))
    for family, names in library.families().items():
        cells = (_summary_cell(library, numbers, names, profile) for profile in PROFILES)
        yield _row([family, *cells])
    yield ""


def _summary_cell(library: Library, numbers: dict[str, int], names: list[str], profile: str) -> str:
    """For each means how many stories it catches and, as the witness, the first that nothing stronger does."""
    judged = [(name, library.cells[name, profile]) for name in names if (name, profile) in library.cells]
    parts = []
    for means in MEANS:
        caught = [name for name, cell in judged if means in cell.means]
        if caught:
            alone = [name for name, cell in judged if list(cell.means) == [means]]
            witness = (alone or caught)[0]
            parts.append(f"{means} {len(caught)} {_link(witness, f'#{numbers[witness]}')}")
    missed = [name for name, cell in judged if not cell.means]
    if missed:
        links = " ".join(_link(name, f"#{numbers[name]}") for name in missed)
        parts.append(f"**not caught** {len(missed)}: {links}")
    return "<br>".join(parts) or "allowed"


def _stories(library: Library, numbers: dict[str, int]) -> Iterator[str]:
    yield from ("## Story by profile", "")
    for family, names in library.families().items():
        yield from (f"### {family[0].upper()}{family[1:]}", "", *_head("#", "story", *PROFILES))
        for name in names:
            cells = (
                str(library.cells[name, profile]) if (name, profile) in library.cells else "allowed"
                for profile in PROFILES
            )
            yield _row([str(numbers[name]), _link(name, library.attacks[name].title), *cells])
        yield ""


def _missed(library: Library, numbers: dict[str, int]) -> Iterator[str]:
    reasons = read_reasons()
    missed = {key for key, cell in library.cells.items() if not cell.means}
    assert reasons.keys() == missed, (
        f"{REASONS}: without a reason: {sorted(missed - reasons.keys())}; "
        f"caught, or no story: {sorted(reasons.keys() - missed)}"
    )
    yield from ("## Not caught, and why", "", *_head("#", "story", "under", "why"))
    for name in library.attacks:
        by_reason: dict[str, list[str]] = {}
        for profile in PROFILES:
            if (name, profile) in missed:
                by_reason.setdefault(reasons[name, profile], []).append(profile)
        for why, profiles in by_reason.items():
            title = library.attacks[name].title
            yield _row([str(numbers[name]), _link(name, title), ", ".join(profiles), why])
    yield ""


def _innocent(library: Library) -> Iterator[str]:
    """The look-alikes, by the family that their names begin with."""
    family_of = {name.split("-")[0]: story.family for name, story in library.attacks.items()}
    titles = ("beside", "innocent work", "under")
    yield from ("## Innocent look-alikes", "", "None of these meets an alert or a kill.", "", *_head(*titles))
    for name, story in library.innocent.items():
        under = (
            "all"
            if len(story.expect) == len(PROFILES)
            else ", ".join(p for p in PROFILES if p in story.expect)
        )
        yield _row([family_of[name.split("-")[0]], _link(name, story.title), under])


def table_in(readme: str) -> str:
    """What stands between the marks now, with them."""
    start, end = readme.index(BEGIN), readme.index(END) + len(END)
    return readme[start:end]


def main() -> None:
    table = render(read_library())
    if sys.argv[1:] == ["--write"]:
        text = README.read_text()
        README.write_text(text.replace(table_in(text), table))
    else:
        print(table)


if __name__ == "__main__":
    main()
