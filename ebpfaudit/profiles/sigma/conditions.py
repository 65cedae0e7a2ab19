"""A condition as a list of alternatives, each of which one rule of ours can say.

An alternative (`Term`) is what must hold, and conjunctions (`vetoes`) of which none may hold. Whatever is
given back here means exactly what the condition means; what cannot be said so raises Inexpressible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from itertools import product
from typing import Any, NamedTuple

from ebpfaudit.profiles.sigma.globs import Glob, TooManyOrders, intersect, is_plain_middle

TEXTS = ("exe", "ancestor", "cmdline", "argv", "cwd")
ORDER = (*TEXTS, "uid", "dst", "port", "protocol", "family")

MAX_TERMS = 8
"""Rules of ours that one Sigma rule may become."""

_MAX_WORKING_TERMS = 64
_MAX_NETWORKS = 64
_LAST_UID = 2**32 - 1

IpNetwork = IPv4Network | IPv6Network


KINDS = {
    "regex": ("regular expression", "regular expressions"),
    "field": ("field that events do not have", "fields that events do not have"),
    "source": ("other log source", "other log sources"),
    "negations": ("negation of several fields", "negations of several fields"),
    "orders": ("conjunction of too many texts", "conjunctions of too many texts"),
    "size": ("too large", "too large"),
    "keyword": ("text without a field", "texts without a field"),
    "value": ("value without an equivalent", "values without an equivalent"),
    "never": ("that can never match", "that can never match"),
    "correlation": ("correlation", "correlations"),
    "part": ("only part of a correlation", "only parts of correlations"),
    "invalid": ("not valid Sigma", "not valid Sigma"),
    "unreadable": ("unreadable file", "unreadable files"),
}
"""What keeps rules from being imported: one, and several of that kind."""


class Inexpressible(ValueError):
    """Why a Sigma rule is not imported. `kind` is a key of `KINDS`."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Claim(NamedTuple):
    """A field has one of the values: globs, (low, high), networks or words."""

    field: str
    values: tuple[Any, ...]


Conjunction = tuple[Claim, ...]


class Term(NamedTuple):
    when: Conjunction = ()
    vetoes: tuple[Conjunction, ...] = ()


TRUE = (Term(),)
FALSE: tuple[Term, ...] = ()

Terms = tuple[Term, ...]


def one(test: Claim) -> Terms:
    return (Term((test,)),)


def any_of(alternatives: Iterable[Terms]) -> Terms:
    return _merge(term for terms in alternatives for term in terms)


def all_of(parts: Iterable[Terms]) -> Terms:
    joined: Terms = TRUE
    for terms in parts:
        if len(joined) * len(terms) > _MAX_WORKING_TERMS:
            raise Inexpressible("size", "its condition has too many alternatives")
        joined = _merge(
            Term(_both(a.when, b.when), tuple(dict.fromkeys(a.vetoes + b.vetoes)))
            for a, b in product(joined, terms)
        )
    return joined


def none_of(terms: Terms) -> Terms:
    """Not `terms`: no alternative holds. One that has vetoes itself does not hold where one of them does."""
    return all_of(
        any_of(
            [
                (Term(vetoes=(term.when,)),) if term.when else FALSE,
                tuple(Term(veto) for veto in term.vetoes),
            ]
        )
        for term in terms
    )


def _both(one: Conjunction, other: Conjunction) -> Conjunction:
    return tuple(sorted(dict.fromkeys(one + other), key=lambda test: ORDER.index(test.field)))


def _merge(terms: Iterable[Term]) -> Terms:
    """Alternatives that differ in one field's values only become one."""
    merged = tuple(dict.fromkeys(terms))
    for field in ORDER:
        groups: dict[object, tuple[Term, dict[Any, None]]] = {}
        for term in merged:
            own = [test for test in term.when if test.field == field]
            rest = tuple(test for test in term.when if test.field != field)
            if len(own) == 1:
                _, values = groups.setdefault((rest, term.vetoes), (Term(rest, term.vetoes), {}))
                values.update(dict.fromkeys(own[0].values))
            else:
                groups[term] = (term, {})
        merged = tuple(
            Term(_both(term.when, (Claim(field, tuple(values)),)), term.vetoes) if values else term
            for term, values in groups.values()
        )
    return merged


class Alternative(NamedTuple):
    """One rule's conditions, each field asked once."""

    when: dict[str, tuple[Any, ...]]
    unless: dict[str, tuple[Any, ...]]


def alternatives(terms: Terms) -> list[Alternative]:
    """What the rules must say. Raises Inexpressible, also where nothing can ever match."""
    found = [alternative for term in terms if (alternative := _settle(term)) is not None]
    if not found:
        raise Inexpressible("never", "it can never match")
    if len(found) > MAX_TERMS:
        raise Inexpressible("size", f"it would take {len(found)} rules, more than {MAX_TERMS}")
    if any(not alternative.when for alternative in found):
        raise Inexpressible("value", "without what was left to others it would match every event")
    return found


def _settle(term: Term) -> Alternative | None:
    vetoes = list(_merge(map(Term, term.vetoes)))
    when = term.when
    while len(vetoes) > 1:
        turned = next((veto for veto in vetoes if _complement(veto.when)), None)
        if turned is None:
            fields = sorted({_names(veto.when) for veto in vetoes})
            raise Inexpressible("negations", f"it takes back several things at once: {'; '.join(fields)}")
        vetoes.remove(turned)
        when = _both(when, _complement(turned.when))
    combined = _combine(when)
    if combined is None:
        return None
    return Alternative(combined, (_combine(vetoes[0].when) or {}) if vetoes else {})


def _names(conjunction: Conjunction) -> str:
    return " and ".join(sorted({test.field for test in conjunction}))


def _complement(conjunction: Conjunction) -> Conjunction:
    """The other values of a field that has only so many; empty if there is no such list."""
    if len(conjunction) != 1:
        return ()
    (test,) = conjunction
    if test.field == "uid" and test.values == ((0, 0),):
        return (Claim("uid", ((1, _LAST_UID),)),)
    if test.field == "dst":
        outside = _outside(test.values)
        if 0 < len(outside) <= _MAX_NETWORKS:
            return (Claim("dst", outside),)
    return ()


def _outside(networks: Iterable[IpNetwork]) -> tuple[IpNetwork, ...]:
    kept: list[IpNetwork] = [ip_network("0.0.0.0/0"), ip_network("::/0")]
    for hole in networks:
        apart: list[IpNetwork] = []
        for network in kept:
            if network.version != hole.version or not network.overlaps(hole):
                apart.append(network)
            elif hole != network and hole.subnet_of(network):  # type: ignore[arg-type]
                apart += network.address_exclude(hole)  # type: ignore[arg-type]
        kept = apart
    return tuple(sorted(kept, key=lambda network: (network.version, network)))


def _combine(conjunction: Conjunction) -> dict[str, tuple[Any, ...]] | None:
    """Each field once; None where the tests of one field exclude each other."""
    tests: dict[str, list[tuple[Any, ...]]] = {}
    for test in conjunction:
        tests.setdefault(test.field, []).append(test.values)
    _lend_to_argv(tests)
    combined = {}
    for field in ORDER:
        if field in tests:
            first, *others = tests[field]
            for other in others:
                first = _narrow(field, first, other)
            if not first:
                return None
            combined[field] = _tidy(field, first)
    return combined


def _lend_to_argv(tests: dict[str, list[tuple[Any, ...]]]) -> None:
    """Of several texts that a command line must hold, one without spaces may be asked of the arguments."""
    sets = tests.get("cmdline", [])
    able = [values for values in sets if all(map(is_plain_middle, values))]
    if len(sets) > 1 and able:
        lent = max(able, key=len)
        sets.remove(lent)
        tests["argv"] = [lent]


def _narrow(field: str, ones: tuple[Any, ...], others: tuple[Any, ...]) -> tuple[Any, ...]:
    if field in TEXTS:
        return _common_texts(ones, others)
    meet = _MEETINGS.get(field, _same)
    met = (meet(a, b) for a in ones for b in others)
    return tuple(dict.fromkeys(each for each in met if each is not None))


def _common_texts(ones: tuple[Glob, ...], others: tuple[Glob, ...]) -> tuple[Glob, ...]:
    try:
        return intersect(ones, others)
    except TooManyOrders:
        raise Inexpressible("orders", "too many texts must all be in one field, in any order") from None


def _meet_networks(a: IpNetwork, b: IpNetwork) -> IpNetwork | None:
    if a.version != b.version or not a.overlaps(b):
        return None
    return a if a.prefixlen >= b.prefixlen else b


def _meet_ranges(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int] | None:
    low, high = max(a[0], b[0]), min(a[1], b[1])
    return (low, high) if low <= high else None


def _same(a: str, b: str) -> str | None:
    return a if a == b else None


_MEETINGS: dict[str, Callable[[Any, Any], Any]] = {
    "dst": _meet_networks, "port": _meet_ranges, "uid": _meet_ranges,
}  # fmt: skip


def _tidy(field: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    if field != "dst":
        return values
    by_version = ([each for each in values if each.version == version] for version in (4, 6))
    return tuple(network for same in by_version for network in collapse_addresses(same))
