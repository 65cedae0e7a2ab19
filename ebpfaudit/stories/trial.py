"""Profiles on trial: which fixtures each has, and what it makes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ebpfaudit import resources
from ebpfaudit.errors import ProfileError
from ebpfaudit.profiles.load import known_profiles, load_profile
from ebpfaudit.profiles.source import nearest
from ebpfaudit.stories.expectation import write_expectation
from ebpfaudit.stories.fixtures import Fixture, Outcome, ReadTrail, collect, judge, load_fixture
from ebpfaudit.stories.story import StoryError


class Trial:
    """A profile and its fixtures; after `run`, what came of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem
        self.fixtures: list[Fixture] = []
        self.outcomes: list[Outcome] = []
        self.problems: dict[str, str] = {}
        """By file, what could not be judged and why: one or more lines."""
        self.seconds = 0.0

    @property
    def passed(self) -> bool:
        return not self.problems and all(outcome.passed for outcome in self.outcomes)

    def run(self, advance: Callable[[], object] = lambda: None) -> None:
        """Judge every fixture."""
        began = time.perf_counter()
        if not self.fixtures and str(self.path) in self.problems:
            return
        try:
            profile = load_profile(str(self.path))
        except ProfileError as error:
            self.problems[str(self.path)] = str(error)
            return
        for fixture in self.fixtures:
            self.outcomes.append(judge(fixture, self.name, profile))
            advance()
        self.seconds = time.perf_counter() - began

    def update(self) -> list[str]:
        """Make the fixtures that expected something else expect what they got: what changed, for a person."""
        changes = []
        for outcome in self.outcomes:
            if outcome.differs:
                try:
                    changes.append(write_expectation(outcome))
                except (StoryError, OSError) as error:
                    self.problems[str(outcome.fixture.path)] = f"{outcome.fixture.path}: not updated: {error}"
        return changes


def prepare(names: Sequence[str], files: Sequence[Path], text: str, read_trail: ReadTrail) -> list[Trial]:
    """The trials that a command line asks for. `text` (in lower case) selects fixtures. Raises ProfileError."""
    if files and not names:
        return _of_files(files, text, read_trail)
    trials = []
    for path in _paths(names):
        trial = Trial(path)
        if files:
            _add_files(trial, files, read_trail)
        else:
            found = collect(path, read_trail)
            trial.fixtures = list(found.fixtures)
            trial.problems = {str(file): "\n".join(problems) for file, problems in found.problems.items()}
            if names and not trial.fixtures and not trial.problems:
                trial.problems[str(path)] = _nothing(path)
        _select(trial, text)
        trials.append(trial)
    return trials


def _paths(names: Sequence[str]) -> list[Path]:
    if not names:
        return [_near(path) for path in sorted(resources.folder("profiles").glob("*.toml"))]
    known = known_profiles()
    paths = []
    for name in names:
        if "/" in name or name.endswith(".toml"):
            paths.append(Path(name))
        elif name in known:
            paths.append(_near(known[name]))
        else:
            raise ProfileError(
                f"profile '{name}': not found{nearest(name, known) or '.'} 'ebpfaudit profile list' shows all. "
                "A path needs a '/' or must end in '.toml'."
            )
    return paths


def _near(path: Path) -> Path:
    """The path from the current folder, where it is in there: shorter to read."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _nothing(path: Path) -> str:
    folder = path.parent / "tests"
    return (
        f"{path}: there are no fixtures: no story {folder}/*.toml has an [expect] entry for '{path.stem}', and "
        f"nothing is in {folder / path.stem}/. See docs/profile-testing.md."
    )


def _add_files(trial: Trial, files: Sequence[Path], read_trail: ReadTrail) -> None:
    for file in files:
        try:
            trial.fixtures.append(load_fixture(file, read_trail))
        except StoryError as error:
            trial.problems[str(file)] = str(error)


def _of_files(files: Sequence[Path], text: str, read_trail: ReadTrail) -> list[Trial]:
    """A trial for each profile that the files themselves name."""
    known = known_profiles()
    trials: dict[str, Trial] = {}
    for file in files:
        try:
            fixture = load_fixture(file, read_trail)
        except StoryError as error:
            trials.setdefault("", Trial(file)).problems[str(file)] = str(error)
            continue
        for name in fixture.expect:
            beside = file.parent.parent / f"{name}.toml"
            path = beside if beside.exists() else known.get(name, beside)
            trials.setdefault(name, Trial(path)).fixtures.append(fixture)
        if not fixture.expect:
            why = f"{file}: its [expect] names no profile; name one on the command line"
            trials.setdefault("", Trial(file)).problems[str(file)] = why
    for trial in trials.values():
        _select(trial, text)
    return list(trials.values())


def _select(trial: Trial, text: str) -> None:
    trial.fixtures = [
        fixture
        for fixture in trial.fixtures
        if text in f"{fixture.name}\n{fixture.title}\n{fixture.family}".lower()
    ]
