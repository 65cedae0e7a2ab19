"""What a draft's `[network]`, `[gpu]` and `[exec]` decide, and which of their entries decide nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from ebpfaudit.profiles.addresses import AddressError, IpEntry, UnixEntry, parse_entry
from ebpfaudit.profiles.conditions import expand
from ebpfaudit.profiles.devices import GpuEntry, GpuPolicy, is_device_pattern
from ebpfaudit.profiles.draft import Draft, Item
from ebpfaudit.profiles.identity import IdentityError, is_identity, parse_identity
from ebpfaudit.profiles.network import NetworkPolicy, same_reach, shadowing
from ebpfaudit.profiles.schema import SECTION_ACTIONS
from ebpfaudit.verdicts import Action

NetworkEntry = IpEntry | UnixEntry

_MOST_ALIKE = 512
"""Entries about one prefix that are compared with each other. The kernel serves far fewer."""


def build_network(draft: Draft) -> NetworkPolicy | None:
    if "network" not in draft.sections:
        return None
    placed: list[tuple[NetworkEntry, Item]] = []
    for item in section_items(draft, "network"):
        try:
            placed.append((parse_entry(item.value, _action(item.action)), item))
        except AddressError as error:
            item.complain(f"[network] {item.action}: {error}")
    entries = sorted(_without_idle_entries(placed), key=lambda entry: SECTION_ACTIONS.index(entry.action))
    return NetworkPolicy(_default(draft, "network"), tuple(dict.fromkeys(entries)))


def build_gpu(draft: Draft) -> GpuPolicy | None:
    if "gpu" not in draft.sections:
        return None
    placed: dict[str, list[Item]] = {}
    for item in section_items(draft, "gpu"):
        if not is_device_pattern(item.value):
            forms = '"nvidia:0", "amd:*", "GPU-<uuid>" or "any"'
            item.complain(f"[gpu] {item.action}: '{item.value}' is no device; write {forms}")
        for other in placed.setdefault(item.value, []):
            if _strictness(other) >= _strictness(item):
                _judge_pair("gpu", item, other)
            else:
                _judge_pair("gpu", other, item)
        placed[item.value].append(item)
    strictest = [max(items, key=_strictness) for items in placed.values()]
    entries = [GpuEntry(item.value, _action(item.action)) for item in strictest]
    entries.sort(key=lambda entry: SECTION_ACTIONS.index(entry.action))
    return GpuPolicy(_default(draft, "gpu"), tuple(dict.fromkeys(entries)))


def build_exec(draft: Draft) -> tuple[str, ...]:
    patterns = []
    for item in section_items(draft, "exec"):
        value = item.value
        if is_identity(value):
            try:
                kind, parsed = parse_identity(value)
                value = f"{kind}:{parsed}"
            except IdentityError as error:
                item.complain(f"[exec] deny: {error}")
        elif not value.startswith("/"):
            name = value.rpartition("/")[2]
            item.complain(
                f"[exec] deny: '{value}' is no full path: the kernel knows executables by their file; "
                f"write '/usr/bin/{name}'"
            )
        patterns.append(value)
    return tuple(dict.fromkeys(patterns))


def section_items(draft: Draft, section: str) -> list[Item]:
    """The section's entries, lists expanded and what was removed left out."""
    kept = []
    for item in draft.sections.get(section, ()):
        for each in expand([item], draft.lists, f"[{section}] {item.action}: "):
            text = str(each.value)
            if is_identity(text) and section != "exec":
                each.complain(
                    f"[{section}] {item.action}: '{text}' names a program, which only [exec] can deny"
                )
            elif text not in item.without:
                kept.append(Item(text, each.source, each.path, each.action, each.via))
    return kept


def _default(draft: Draft, section: str) -> Action:
    return _action(draft.defaults[section].value) if section in draft.defaults else "allow"


def _action(word: str) -> Action:
    """`word`, which the draft's keys have already proved to be an action."""
    return cast("Action", word)


def _strictness(item: Item) -> int:
    return SECTION_ACTIONS.index(_action(item.action))


def _without_idle_entries(placed: list[tuple[NetworkEntry, Item]]) -> list[NetworkEntry]:
    """The entries that can decide. Another is a mistake of its author, or overridden by whoever extends its profile."""
    alike: dict[object, list[tuple[int, NetworkEntry, Item]]] = {}
    for number, (entry, item) in enumerate(placed):
        for key in _reach_keys(entry):
            alike.setdefault(key, []).append((number, entry, item))
    kept = []
    for number, (entry, item) in enumerate(placed):
        others = alike[_reach_keys(entry)[0]]
        if len(others) > _MOST_ALIKE:
            item.complain(f"[network] {item.action}: more than {_MOST_ALIKE} entries like '{item.value}'")
            return []
        decisive = [
            place
            for other_number, other, place in others
            if shadowing(entry, other)
            or (other_number < number and other.action == entry.action and same_reach(entry, other))
        ]
        if not decisive:
            kept.append(entry)
        for place in decisive:
            _judge_pair("network", item, place)
    return kept


def _reach_keys(entry: NetworkEntry) -> list[object]:
    """Whatever has the reach of `entry` has every one of these."""
    return [(entry.path, entry.exact)] if isinstance(entry, UnixEntry) else list(entry.networks)


def _judge_pair(section: str, idle: Item, decisive: Item) -> None:
    """`decisive` is why `idle` never applies: an error of the file whose author could see both."""
    mine = f"[{section}] {idle.action} '{idle.value}'"
    if idle.action == decisive.action:
        if idle.source is decisive.source:
            idle.complain(f"{mine} says nothing that '{decisive.value}' does not")
        return
    reason = f"{decisive.action} '{decisive.value}' ({decisive.place}) is as specific and stricter"
    if idle.source is decisive.source:
        idle.complain(f"{mine} never applies: {reason}")
    elif decisive.source in idle.source.below:
        remove = f'; [{section}] remove = ["{decisive.value}"] takes the inherited entry away'
        idle.complain(f"{mine} never applies: {reason}{remove}")
    elif idle.source not in decisive.source.below:
        idle.note(f"{mine} never applies: {reason}, and neither profile extends the other")


def entry_items(draft: Draft) -> Iterable[tuple[tuple[str, ...], Item]]:
    """Where the entries and defaults in force stand, by (section, action, entry) or (section, "default")."""
    for section, item in draft.defaults.items():
        yield (section, "default"), item
    for section in draft.sections:
        for item in section_items(draft, section):
            yield (section, item.action, item.value), item
