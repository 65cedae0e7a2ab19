"""Sigma's rules as a profile of ours: what is imported means the same, the rest is named with the reason.

pySigma reads the rules and their conditions; it is an extra, imported only here and inside functions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct, field

from ebpfaudit.errors import EbpfAuditError
from ebpfaudit.profiles.draft import RESERVED_IDS
from ebpfaudit.profiles.load import parse_profile
from ebpfaudit.profiles.resolved import toml_text
from ebpfaudit.profiles.sigma.conditions import KINDS, Inexpressible
from ebpfaudit.profiles.sigma.fields import Case
from ebpfaudit.profiles.sigma.reading import Unit, read_file
from ebpfaudit.profiles.sigma.rules import Draft, from_correlation, from_rule
from ebpfaudit.profiles.source import InvalidProfile
from ebpfaudit.text import show

SUFFIXES = (".yml", ".yaml")
_ID_CHARS = 60
_LINE_CHARS = 120


class SigmaMissing(EbpfAuditError):
    """pySigma is not installed."""


class Outcome(Struct):
    """What became of one Sigma rule (or of a file that holds none that could be read)."""

    file: str
    title: str = ""
    sigma_id: str = ""
    rules: list[str] = field(default_factory=list)
    """Ids of the rules that it became; empty: not imported."""
    notes: list[str] = field(default_factory=list)
    """How these reach wider or narrower than Sigma's."""
    kind: str = ""
    """Not imported: a key of `KINDS`."""
    reason: str = ""


class Imported(NamedTuple):
    outcomes: list[Outcome]
    text: str
    """The profile; has no rule where nothing was imported."""


def require_pysigma() -> None:
    """Raises SigmaMissing where pySigma cannot be imported."""
    try:
        import sigma.collection  # noqa: F401
    except ImportError as error:
        raise SigmaMissing(
            f"import-sigma needs the pySigma library ({error}); run: pip install 'ebpfaudit[sigma]'"
        ) from None


def rule_files(paths: Iterable[str]) -> Iterator[Path]:
    """Files as named; of folders every .yml and .yaml below them, in order."""
    for name in paths:
        path = Path(name)
        if not path.is_dir():
            yield path
            continue
        for folder, folders, files in os.walk(path):
            folders.sort()
            found = (Path(folder, file) for file in sorted(files) if file.endswith(SUFFIXES))
            yield from (each for each in found if each.is_file() or not each.exists())


def import_sigma(
    files: Collection[Path],
    *,
    name: str = "imported-sigma",
    extends: str = "",
    action: str = "alert",
    case: Case = "paths",
    taken: Iterable[str] = (),
    on_file: Callable[[], object] = lambda: None,
) -> Imported:
    """A profile of what `files` hold. `taken`: ids of the rules that `extends` brings. Raises SigmaMissing."""
    require_pysigma()
    units: list[Unit] = []
    for path in files:
        units += read_file(path)
        on_file()
    writer = _Writer({*taken, *RESERVED_IDS}, action, case)
    outcomes = [writer.write(unit) for unit in _resolved(units)]
    head = [
        f"name = {_toml(name)}",
        f"description = {_toml('Imported from Sigma rules; their authors are named in each description.')}",
        *([f"extends = {_toml(extends)}"] if extends else []),
    ]
    return Imported(outcomes, "\n".join(head) + "\n" + "".join(writer.texts))


def summary(outcomes: Collection[Outcome]) -> str:
    """ "imported 41 of 60 Sigma rules as 47 rules; 19 not: 7 regular expressions, ..." """
    good = [outcome for outcome in outcomes if outcome.rules]
    became = sum(len(outcome.rules) for outcome in good)
    text = f"imported {len(good)} of {len(outcomes)} Sigma rules as {became} rule{'s' * (became != 1)}"
    if len(good) == len(outcomes):
        return text
    counts = {kind: sum(outcome.kind == kind for outcome in outcomes) for kind in KINDS}
    reasons = [
        f"{count} {KINDS[kind][count > 1]}"
        for kind, count in sorted(counts.items(), key=lambda item: -item[1])
        if count
    ]
    return f"{text}; {len(outcomes) - len(good)} not: {', '.join(reasons)}"


def _resolved(units: list[Unit]) -> list[Unit]:
    """The units with filters applied and the references of correlations followed."""
    from sigma.collection import SigmaCollection
    from sigma.correlations import SigmaCorrelationRule
    from sigma.filters import SigmaFilter

    filters = [unit.rule for unit in units if isinstance(unit.rule, SigmaFilter)]
    applied = [unit.filtered(filters) for unit in units if not isinstance(unit.rule, SigmaFilter)]
    collection = SigmaCollection(
        [unit.rule for unit in applied if unit.rule is not None], resolve_references=False
    )
    for unit in applied:
        if isinstance(unit.rule, SigmaCorrelationRule) and not unit.reason:
            unit.resolve(collection)
    return applied


class _Writer:
    """Gives every rule its id and its text, and has the language itself check it."""

    def __init__(self, taken: set[str], action: str, case: Case) -> None:
        self.texts: list[str] = []
        self._taken = taken
        self._action = action
        self._case: Case = case

    def write(self, unit: Unit) -> Outcome:
        outcome = Outcome(unit.file, unit.title, unit.sigma_id)
        try:
            drafts = self._drafts(unit)
            pairs = [
                (draft, rule_id)
                for draft, rule_id in zip(drafts, self._ids(unit.title, len(drafts)), strict=True)
            ]
            texts = [_rule_text(rule_id, draft) for draft, rule_id in pairs]
            for text in texts:
                _check(text)
        except Inexpressible as error:
            outcome.kind, outcome.reason = error.kind, show(str(error).encode(errors="replace"))
            return outcome
        self.texts += texts
        outcome.rules = [rule_id for _, rule_id in pairs]
        self._taken.update(outcome.rules)
        outcome.notes = list(dict.fromkeys(note for draft in drafts for note in draft.notes))
        return outcome

    def _drafts(self, unit: Unit) -> list[Draft]:
        from sigma.correlations import SigmaCorrelationRule
        from sigma.exceptions import SigmaError

        if unit.reason:
            raise Inexpressible(unit.kind, unit.reason)
        try:
            if isinstance(unit.rule, SigmaCorrelationRule):
                return from_correlation(unit.rule, self._action, self._case)
            if not unit.rule._output:
                raise Inexpressible(
                    "part", "only a part of a correlation, which does not say 'generate: true'"
                )
            return from_rule(unit.rule, self._action, self._case)
        except SigmaError as error:
            raise Inexpressible("invalid", f"not valid Sigma: {error}") from None
        except RecursionError:
            raise Inexpressible("size", "its condition is nested too deeply") from None

    def _ids(self, title: str, count: int) -> list[str]:
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower())[:_ID_CHARS].strip("-") or "sigma-rule"
        found: list[str] = []
        number = 1
        while len(found) < count:
            candidate = slug if number == 1 else f"{slug}-{number}"
            number += 1
            if candidate not in self._taken:
                found.append(candidate)
        return found


def _check(text: str) -> None:
    """Whatever the language refuses is not imported."""
    try:
        text.encode()
        parse_profile(text, "rule")
    except UnicodeEncodeError:
        raise Inexpressible("value", "a text that is not Unicode") from None
    except InvalidProfile as error:
        problem = re.sub(r"^rule:\d+: (rule '[^']*': )?", "", error.problems[0])
        raise Inexpressible("never" if "never" in problem else "value", problem) from None


def _rule_text(rule_id: str, draft: Draft) -> str:
    comments = [f"# {note}" for note in draft.notes]
    lines = [f"{key} = {_toml(value)}" for key, value in {"id": rule_id, **draft.table}.items()]
    return "\n".join(["", *comments, "[[rule]]", *lines]) + "\n"


def _toml(value: Any) -> str:
    """A list that does not fit a line has one value on each; inline tables may hold such lists."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        if len(value) == 1 and not isinstance(value[0], dict):
            return _toml(value[0])
        texts = [_toml(each) for each in value]
        line = f"[{', '.join(texts)}]"
        fits = len(line) <= _LINE_CHARS and not any(isinstance(each, dict) for each in value)
        return line if fits else "[\n" + "".join(f"    {text},\n" for text in texts) + "]"
    return toml_text(value)
