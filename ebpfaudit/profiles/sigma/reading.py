"""Files of Sigma rules, read so that no file, however hostile, ends or stalls the import."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ebpfaudit.text import show

MAX_BYTES = 1 << 20
_MAX_DEPTH = 64
_REASON_CHARS = 300


class Unit:
    """One rule as pySigma read it; with `reason`, why it could not."""

    def __init__(
        self, file: Path, rule: Any = None, title: str = "", kind: str = "", reason: str = ""
    ) -> None:
        self.file = show(str(file).encode(errors="surrogateescape"))
        self.rule = rule
        self.title = show(title.encode(errors="replace"))
        self.sigma_id = str(getattr(rule, "id", None) or "")
        self.kind = kind
        self.reason = reason

    def refuse(self, kind: str, reason: str) -> None:
        self.kind, self.reason = kind, " ".join(reason.split())[:_REASON_CHARS]

    def filtered(self, filters: Iterable[Any]) -> Unit:
        """This unit, its rule as Sigma filters among the files change it."""
        from sigma.rule import SigmaRule

        try:
            for each in filters:
                if isinstance(self.rule, SigmaRule):
                    self.rule = each.apply_on_rule(self.rule)
        except Exception as error:
            self.refuse("invalid", f"a filter cannot be applied to it: {error}")
        return self

    def resolve(self, collection: Any) -> None:
        """Find the rules that this correlation names."""
        from sigma.exceptions import SigmaError

        try:
            self.rule.resolve_rule_references(collection)
        except SigmaError as error:
            self.refuse("correlation", f"it names a rule that is not among the files: {error}")


def read_file(path: Path) -> list[Unit]:
    """Every rule of a file. Never raises on what a file holds or on one that cannot be read."""
    import yaml

    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            return [_refused(path, f"larger than {MAX_BYTES >> 20} MiB, which no rule is")]
        text = data.decode("utf-8-sig")
        documents = _documents(text)
    except OSError as error:
        return [_refused(path, f"cannot be read: {error.strerror}")]
    except UnicodeDecodeError:
        return [_refused(path, "not a UTF-8 text")]
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        return [_refused(path, f"not YAML that can be read: {error}")]
    if not documents:
        return [_refused(path, "holds no rule")]
    if any(isinstance(document, dict) and "action" in document for document in documents):
        return _units(path, documents)  # later ones build on earlier ones
    return [unit for document in documents for unit in _units(path, [document])]


def _documents(text: str) -> list[Any]:
    """What the YAML says. pySigma's loader: duplicate keys and `<<` are errors, tags build no objects."""
    import yaml
    from sigma.rule.base import SigmaYAMLLoader

    depth = 0
    # libyaml's composer recurses in C: 500,000 brackets were a segmentation fault. Its parser does not.
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent)
        depth -= isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    documents = yaml.load_all(text, Loader=SigmaYAMLLoader)
    return [document for document in documents if document is not None]


def _units(path: Path, documents: list[Any]) -> list[Unit]:
    from sigma.collection import SigmaCollection

    if not all(isinstance(document, dict) for document in documents):
        return [_refused(path, "not a Sigma rule but other YAML")]
    try:
        found = SigmaCollection.from_dicts(
            documents, collect_errors=True, collect_filters=True, resolve_references=False
        )
    except Exception as error:
        # pySigma lets TypeErrors and the like out where a rule has other types than it expects.
        title = str(documents[0].get("title", ""))
        return [Unit(path, None, title, "invalid", f"not valid Sigma: {_first_line(error)}")]
    units = [_unit(path, rule) for rule in [*found.rules, *found.filters]]
    if not units:
        reason = _first_line(found.errors[0]) if found.errors else "it has no detection"
        return [Unit(path, None, str(documents[0].get("title", "")), "invalid", f"not valid Sigma: {reason}")]
    return units


def _unit(path: Path, rule: Any) -> Unit:
    unit = Unit(path, rule, str(rule.title or ""))
    if rule.errors:
        unit.refuse("invalid", f"not valid Sigma: {_first_line(rule.errors[0])}")
    return unit


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]


def _refused(path: Path, reason: str) -> Unit:
    unit = Unit(path)
    unit.refuse("unreadable", reason)
    return unit
