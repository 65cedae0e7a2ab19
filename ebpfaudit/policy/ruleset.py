"""A profile made ready to judge by: what is the same for all its episodes."""

from __future__ import annotations

from collections.abc import Iterator

from ebpfaudit.events import Identity
from ebpfaudit.policy.compiled import CompiledPart, CompiledRule, compile_rules
from ebpfaudit.policy.index import Index
from ebpfaudit.policy.matching import Matcher, identity_key, identity_keys, match_paths, split_identities
from ebpfaudit.policy.programs import programs_of
from ebpfaudit.policy.remembered import Remembered, Room
from ebpfaudit.policy.texts import TextIndex
from ebpfaudit.process import Process
from ebpfaudit.profiles.schema import FIELDS, IDENTITIES, Profile, Rule

_MAX_KEPT = 4
_kept: list[Ruleset] = []

_IMAGE_FIELDS = {
    "exe": ("exe",), "argv": ("argv",), "cmdline": ("argv",), "option": ("argv",), "cwd": ("cwd",),
    "script": ("script",), "uid": ("uid",), "memfd": ("memfd",), "deleted": ("deleted",),
    "temporary": ("exe", "memfd", "deleted"), "via_linker": ("exe",), "inline_code": ("exe", "argv"),
    "program": ("exe", "argv", "script", "cwd"), "ancestor": ("lineage",), "not-ancestor": ("lineage",),
}  # fmt: skip
"""What of a process decides a field, and so, whether two processes are the same to a profile."""


def ruleset_of(profile: Profile) -> Ruleset:
    """The ruleset of this very profile object: made once for the episodes that run under it."""
    for ruleset in _kept:
        if ruleset.profile is profile:
            return ruleset
    ruleset = Ruleset(profile)
    _kept.append(ruleset)
    del _kept[:-_MAX_KEPT]
    return ruleset


class Ruleset:
    """A profile's rules, compiled and indexed. It holds nothing of an episode but what values mean."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.room = Room()
        ancestors = sorted({str(value) for value in _ancestors(profile.rules)})
        bits = {text: 1 << number for number, text in enumerate(ancestors)}
        self.parts = compile_rules(profile.rules, bits)
        self.indexes = {kind: Index(kind, parts, self.room) for kind, parts in self.parts.items()}
        by_number = {part.rule.number: part.rule for parts in self.parts.values() for part in parts}
        self.rules: list[CompiledRule] = [by_number[number] for number in sorted(by_number)]
        self.has_ancestors = bool(bits)
        self._ancestor_bits = Remembered(TextIndex(bits).find, self.room)
        self._identity_parts: dict[str, int] = {}
        for part in self.parts["exec"]:
            for key in map(identity_key, part.identities):
                self._identity_parts[key] = self._identity_parts.get(key, 0) | 1 << part.position
        self.denied_identities, denied_paths = split_identities(profile.exec_deny)
        self.deny: Matcher | None = match_paths(denied_paths) if denied_paths else None
        self.names_identities = bool(self.denied_identities) or any(
            str(value).startswith(IDENTITIES)
            for rule in profile.rules
            for part in rule.parts
            for conditions in (part.when, part.unless)
            for values in conditions.values()
            for value in values
        )

    def fields(self, *kinds: str) -> set[str]:
        """Every field that the rules about these kinds look at."""
        return {name for kind in kinds for part in self.parts[kind] for name in part.fields}

    def image_fields(self) -> list[str]:
        """What of a process matters to its events but execs: equal processes get equal answers."""
        kinds = [kind for kind in FIELDS if kind != "exec"]
        asked = {name for kind in kinds for name in _process_fields(kind, self.fields(kind))}
        return sorted({name for field in asked for name in _IMAGE_FIELDS.get(field, (field,))})

    def mask(self, kind: str, test: str) -> int:
        """The parts of a kind that have this property."""
        return sum(1 << part.position for part in self.parts[kind] if getattr(part, test))

    def lineage_of(self, process: Process) -> int:
        """The bits of the programs it runs, of those that rules name as ancestors."""
        bits = 0
        for path in programs_of(process):
            bits |= self._ancestor_bits[path]
        return bits

    def named_by(self, identity: Identity) -> Iterator[CompiledPart]:
        """The parts about execs that name a program of this content."""
        candidates = 0
        for key in identity_keys(identity):
            candidates |= self._identity_parts.get(key, 0)
        yield from self.indexes["exec"].members(candidates)


def _ancestors(rules: tuple[Rule, ...]) -> Iterator[object]:
    for rule in rules:
        for part in rule.parts:
            for conditions in (part.when, part.unless):
                for name in ("ancestor", "not-ancestor"):
                    yield from conditions.get(name, ())


def _process_fields(kind: str, names: set[str]) -> set[str]:
    """Those that are the process's, and do not come with each event. A process's comm does not come with these."""
    of_events = FIELDS[kind].keys() - FIELDS["fork"].keys() | {"mark", "step", "source", "untagged"}
    if kind in ("connect", "gpu"):
        of_events |= {"comm"}
    return names - of_events
