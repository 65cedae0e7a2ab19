"""One rule or correlation of Sigma's as rules of ours: tables as a profile writes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ebpfaudit.profiles.sigma.conditions import (
    TEXTS,
    Alternative,
    Inexpressible,
    Terms,
    all_of,
    alternatives,
    any_of,
    none_of,
)
from ebpfaudit.profiles.sigma.fields import PATHS, Case, condition
from ebpfaudit.profiles.sigma.globs import text_of

if TYPE_CHECKING:
    from sigma.correlations import SigmaCorrelationRule
    from sigma.rule import SigmaRule, SigmaRuleBase

_KINDS = {"process_creation": "exec", "network_connection": "connect"}
_SEVERITIES = {
    "informational": "low", "low": "low", "medium": "medium", "high": "high", "critical": "critical",
}  # fmt: skip
_TECHNIQUE = re.compile(r"t\d{4}(\.\d{3})?")
_MESSAGE_CHARS = 200
_MAX_PARTS = 8

_DISTINCT = {"exec": ("exe", "cmdline", "uid"), "connect": ("exe", "cmdline", "uid", "dst", "port")}
_HOSTS = frozenset({"Computer", "ComputerName", "Hostname", "host", "hostname", "host.name"})
_PROCESSES = frozenset({"ProcessId", "ProcessGuid"})


class Draft(NamedTuple):
    """A `[[rule]]` but for its id, and what its reader should know of its reach."""

    table: dict[str, Any]
    notes: tuple[str, ...]


def from_rule(rule: SigmaRule, action: str, case: Case) -> list[Draft]:
    """Rules of ours that together match what `rule` does; raises Inexpressible."""
    kind = _kind(rule)
    drafts = []
    for found in alternatives(_terms(rule, kind, case)):
        part, notes = _part(kind, found, case)
        drafts.append(Draft({**_about(rule), **part, "action": _action(rule, action)}, notes))
    return drafts


def from_correlation(rule: SigmaCorrelationRule, action: str, case: Case) -> list[Draft]:
    """The one rule that a correlation of (already resolved) rules becomes; raises Inexpressible."""
    form = str(rule.type).rpartition(".")[2].lower()
    if form in ("event_count", "value_count"):
        table, notes = _counting(rule, form, case)
    elif form in ("temporal", "temporal_ordered"):
        table, notes = _sequence(rule, "all" if form == "temporal" else "then", case)
    else:
        raise Inexpressible("correlation", f"a correlation of type {form} has no equivalent")
    return [Draft({**_about(rule), **table, "action": _action(rule, action)}, notes)]


def _kind(rule: SigmaRule) -> str:
    source = rule.logsource
    if source.product not in (None, "linux") or source.service or source.category not in _KINDS:
        named = "/".join(filter(None, (source.product, source.category, source.service)))
        raise Inexpressible("source", f"log source {named}")
    return _KINDS[source.category]


def _terms(rule: SigmaRule, kind: str, case: Case) -> Terms:
    return any_of(_read(parsed.parsed, kind, case) for parsed in rule.detection.parsed_condition)


def _read(node: Any, kind: str, case: Case) -> Terms:
    """A node of pySigma's condition tree."""
    from sigma.conditions import (
        ConditionAND,
        ConditionFieldEqualsValueExpression,
        ConditionNOT,
        ConditionOR,
    )

    if isinstance(node, ConditionFieldEqualsValueExpression):
        return condition(kind, node.field, node.value, case)
    if isinstance(node, ConditionOR):
        return any_of(_read(arg, kind, case) for arg in node.args)
    if isinstance(node, ConditionAND):
        return all_of(_read(arg, kind, case) for arg in node.args)
    if isinstance(node, ConditionNOT):
        return none_of(_read(node.args[0], kind, case))
    raise Inexpressible("keyword", "it looks for a text without saying in which field")


def _part(kind: str, found: Alternative, case: Case) -> tuple[dict[str, Any], tuple[str, ...]]:
    when = {field: _values(field, values) for field, values in found.when.items()}
    if kind == "connect" and not when.keys() & {"dst", "port", "family"}:
        when["family"] = ["ipv4", "ipv6"]  # Sigma's connections are not those of Unix sockets
    part: dict[str, Any] = {"on": kind, "when": when}
    if found.unless:
        part["unless"] = {field: _values(field, values) for field, values in found.unless.items()}
    return part, tuple(_notes(kind, found, case))


def _notes(kind: str, found: Alternative, case: Case) -> list[str]:
    notes = []
    for fields, reach, other in ((found.when, "wider", "narrower"), (found.unless, "narrower", "wider")):
        if "ancestor" in fields:
            notes.append(f"{reach}: ParentImage is any ancestor, of those within the episode")
        exact = [field for field in fields if field in (PATHS if case == "paths" else TEXTS)]
        if case != "any" and any(_has_letters(field, fields[field]) for field in exact):
            what = "paths match" if case == "paths" else "texts match"
            notes.append(f"{other}: {what} in the case written, Sigma's in any")
    if kind == "connect":
        notes.append("wider: an attempt to connect counts, too")
    return notes


def _has_letters(field: str, values: tuple[Any, ...]) -> bool:
    return any(char.isalpha() for value in values for char in text_of(value))


def _values(field: str, values: tuple[Any, ...]) -> list[str | int]:
    if field in TEXTS:
        return [text_of(value) for value in values]
    if field in ("port", "uid"):
        return [low if low == high else f"{low}-{high}" for low, high in values]
    return [str(value).removesuffix("/32" if "." in str(value) else "/128") for value in values]


def _counting(rule: SigmaCorrelationRule, form: str, case: Case) -> tuple[dict[str, Any], tuple[str, ...]]:
    rules = _referenced(rule)
    kinds = {_kind(each) for each in rules}
    if len(kinds) != 1:
        raise Inexpressible("correlation", "it counts events of different kinds together")
    (kind,) = kinds
    found = alternatives(any_of(_terms(each, kind, case) for each in rules))
    if len(found) != 1:
        raise Inexpressible("correlation", "what it counts takes more than one rule")
    part, notes = _part(kind, found[0], case)
    count: dict[str, Any] = {"over": _threshold(rule), "within": _within(rule), "per": _per(rule)}
    if form == "value_count":
        count = {"distinct": _distinct(kind, getattr(rule.condition, "fieldref", None)), **count}
    return {**part, "count": count}, (*notes, *_group_notes(rule))


def _sequence(rule: SigmaCorrelationRule, form: str, case: Case) -> tuple[dict[str, Any], tuple[str, ...]]:
    rules = _referenced(rule)
    if not 2 <= len(rules) <= _MAX_PARTS:
        raise Inexpressible("correlation", f"it has {len(rules)} rules; 2 to {_MAX_PARTS} can be combined")
    if getattr(rule.condition, "count", None) != len(rules) or rule.condition.op.name != "GTE":  # type: ignore[union-attr]
        raise Inexpressible("correlation", "only 'all of its rules' has an equivalent")
    parts: list[dict[str, Any]] = []
    notes: list[str] = []
    for each in rules:
        kind = _kind(each)
        found = alternatives(_terms(each, kind, case))
        if len(found) != 1:
            raise Inexpressible("correlation", f"its rule '{each.title}' takes more than one rule")
        part, own = _part(kind, found[0], case)
        parts.append(part)
        notes += own
    table = {form: parts, "within": _within(rule), "per": _per(rule)}
    return table, (*dict.fromkeys(notes), *_group_notes(rule))


def _referenced(rule: SigmaCorrelationRule) -> list[Any]:
    from sigma.rule import SigmaRule

    rules = [reference.rule for reference in rule.referenced_rules]
    if not all(isinstance(each, SigmaRule) for each in rules):
        raise Inexpressible("correlation", "it correlates correlations")
    if rule.aliases:
        raise Inexpressible("correlation", "it gives fields other names")
    return rules


def _threshold(rule: SigmaCorrelationRule) -> int:
    name, count = rule.condition.op.name, rule.condition.count  # type: ignore[union-attr]
    over = {"GTE": count - 1, "GT": count}.get(name, 0)
    if not isinstance(over, int) or over < 1:
        raise Inexpressible("correlation", f"a count of {name} {count} has no equivalent")
    return over


def _within(rule: SigmaCorrelationRule) -> str:
    seconds = rule.timespan.seconds
    unit, length = next(
        (unit, length) for unit, length in (("h", 3600), ("m", 60), ("s", 1)) if seconds % length == 0
    )
    return f"{seconds // length}{unit}"


def _per(rule: SigmaCorrelationRule) -> str:
    group = frozenset(rule.group_by or ()) - _HOSTS
    if not group:
        return "episode"
    if group <= _PROCESSES:
        return "process"
    raise Inexpressible("correlation", f"it groups events by {', '.join(sorted(group))}")


def _group_notes(rule: SigmaCorrelationRule) -> tuple[str, ...]:
    return ("narrower: only events of one episode are put together",) if _per(rule) == "episode" else ()


def _distinct(kind: str, field: Any) -> str:
    from ebpfaudit.profiles.sigma.fields import FIELDS

    ours = FIELDS[kind].get(field, "") if isinstance(field, str) else ""
    if ours not in _DISTINCT[kind]:
        raise Inexpressible("correlation", f"different values of {field} cannot be counted")
    return ours


def _about(rule: SigmaRuleBase) -> dict[str, Any]:
    """Where the rule comes from and how bad it is."""
    named = [tag.name for tag in rule.tags if tag.namespace == "attack" and _TECHNIQUE.fullmatch(tag.name)]
    techniques = [name.upper() for name in named]
    source = f"Sigma {rule.id}" if rule.id else "Sigma"
    source += f" by {rule.author}" if rule.author else ""
    source += f", licence {rule.license}" if rule.license else ""
    source += f"; also {', '.join(techniques[1:])}" if techniques[1:] else ""
    about = {
        "description": source,
        "technique": techniques[0] if techniques else "",
        "severity": _SEVERITIES.get(str(rule.level), ""),
        "message": rule.title[:_MESSAGE_CHARS].replace("{", "{{").replace("}", "}}"),
    }
    return {key: value for key, value in about.items() if value}


def _action(rule: SigmaRuleBase, action: str) -> str:
    grave = _SEVERITIES.get(str(rule.level)) in ("high", "critical")
    return "alert" if action in ("kill", "freeze") and not grave else action
