"""The learned profile as a text: every entry on a line of its own, with its evidence."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from ebpfaudit import __version__
from ebpfaudit.errors import ProfileError
from ebpfaudit.profiles.addresses import AddressError, UnixEntry, parse_entry
from ebpfaudit.profiles.devices import GpuEntry, is_device_pattern
from ebpfaudit.profiles.network import NetworkPolicy
from ebpfaudit.profiles.resolved import toml_text
from ebpfaudit.profiles.schema import Profile
from ebpfaudit.trail.learning.destinations import MANY_PORTS, Entry, Map, combine, exact_entries
from ebpfaudit.trail.learning.names import program_globs, socket_entries
from ebpfaudit.trail.learning.narrowness import loosens, loosens_devices, stricter
from ebpfaudit.trail.learning.observation import Evidence, Judgement, Observations, Recorded, UnixSpot
from ebpfaudit.verdicts import ACTIONS, Action

_SHOWN_CHARS = 100
_MAX_REMARKS = 200
_NAMED_TRAILS = 40
_TOGETHER = 4
_RELATIVE = ("unix:*", ("unix:/*", "unix:@*"))
_UNKNOWN_PROGRAM = "unknown-program"

Sections = dict[Action, list[Entry]]


class Learned(Struct, frozen=True):
    """A profile's text, and what whoever asked for it should hear. Printable."""

    text: str
    doubts: tuple[str, ...]
    """Why the trails may not show all, or more than should be allowed."""
    not_allowed: tuple[str, ...]
    """What was observed and is not in the profile."""


class Naming(Struct, frozen=True):
    """How the new profile is called, and what it extends."""

    name: str
    extends: str
    """As it is written behind `extends`."""


def write_profile(seen: Observations, base: Profile, naming: Naming) -> Learned:
    """The tightest profile that extends `base` and allows what was seen, as far as `base` does.

    Raises ProfileError where the kernel's tables could not hold it.
    """
    network, nameless = _network(seen, base)
    gpu, nameless_devices = _gpu(seen, base)
    names = [record.name for record in seen.trails]
    nameless = {**seen.nameless, **nameless, **nameless_devices}
    not_allowed = [
        *_judged_lines(seen.judged, naming.extends, names),
        *_left_out("denied when it was observed", seen.refused, names),
        *_left_out("no entry could name it", nameless, names),
    ]
    doubts = tuple(line for record in seen.trails for line in _doubts(record))
    default = {"network": base.network and base.network.default, "gpu": base.gpu and base.gpu.default}
    lines = [
        *_head(seen, naming, doubts),
        *_section("network", stricter("deny", default["network"] or "allow"), network, names),
        *_section("gpu", stricter("deny", default["gpu"] or "allow"), gpu, names),
        *_inherited(seen, naming),
        *_program_rule(seen.programs, base, names),
    ]
    if not_allowed:
        lines += ["", "# Observed, and not allowed:"]
        lines += [f"# not allowed: {line}" for line in not_allowed[:_MAX_REMARKS]]
        if len(not_allowed) > _MAX_REMARKS:
            lines.append(f"# and {len(not_allowed) - _MAX_REMARKS:,} more")
    return Learned("\n".join(lines) + "\n", doubts, tuple(not_allowed))


# ---- sections


def _network(seen: Observations, base: Profile) -> tuple[Sections, dict[tuple[str, str], Evidence]]:
    sections: Sections = {}
    nameless: dict[tuple[str, str], Evidence] = {}
    _add_unix(seen.unix, base, sections, nameless)
    for level in ("log", "alert"):
        # What the extended profile wants reported stays reported, one by one.
        spots = {spot: evidence for (spot, action), evidence in seen.spots.items() if action == level}
        sections.setdefault(level, []).extend(exact_entries(spots))
    spots = {spot: evidence for (spot, action), evidence in seen.spots.items() if action == "allow"}
    allowed, denied = _mapped(spots, base.network)
    sections.setdefault("allow", []).extend(allowed)
    sections.setdefault("deny", []).extend(denied)
    return sections, nameless


def _mapped(spots: Any, base: NetworkPolicy | None) -> tuple[list[Entry], list[Entry]]:
    """As many ports apart as the kernel's tables can hold for one place."""
    inherited = base.entries if base is not None else ()
    for many_ports in (MANY_PORTS, MANY_PORTS // 2, 2):
        allowed, denied = Map(spots, base, many_ports).entries()
        entries = [parse_entry(each.text, "allow") for each in allowed]
        entries += [parse_entry(each.text, "deny") for each in denied]
        try:
            NetworkPolicy("deny", (*inherited, *entries)).ip_nodes()
        except ProfileError as error:
            problem = error
        else:
            return allowed, denied
    raise problem


def _add_unix(
    observed: Mapping[tuple[UnixSpot, Action], Evidence],
    base: Profile,
    sections: Sections,
    nameless: dict[tuple[str, str], Evidence],
) -> None:
    by_action: dict[Action, dict[str, Evidence]] = {}
    choices = socket_entries({spot.path for spot, _ in observed})
    for (spot, action), evidence in observed.items():
        texts = choices[spot.path] if action == "allow" else choices[spot.path][-1:]
        text = next((text for text in texts if _is_safe(base.network, text, action)), "")
        if text:
            _merge(by_action.setdefault(action, {}), text, evidence)
        elif spot.path.startswith(("/", "@")) or not _relative_is_safe(base.network):
            _merge(nameless, ("connect", f"unix:{spot.path}"), evidence)
        else:
            _merge(by_action.setdefault("allow", {}), _RELATIVE[0], evidence)
    for action, entries in by_action.items():
        for text, evidence in entries.items():
            stems = (text[:end] + "*" for end in range(len("unix:/"), len(text)) if text[:end] + "*" != text)
            if text == _RELATIVE[0]:
                remark = "for paths that are relative, and cannot be named"
                sections.setdefault("deny", []).extend(
                    Entry(wide, evidence, "the entry for relative paths is not for these")
                    for wide in _RELATIVE[1]
                )
                sections.setdefault(action, []).append(Entry(text, evidence, remark))
            elif not any(stem in entries for stem in stems):
                sections.setdefault(action, []).append(Entry(text, evidence))


def _is_safe(network: NetworkPolicy | None, text: str, action: Action) -> bool:
    try:
        return not loosens(network, parse_entry(text, action))
    except AddressError:
        return False


def _relative_is_safe(network: NetworkPolicy | None) -> bool:
    fences = (parse_entry(text, "deny") for text in _fences(network))
    return not loosens(network, parse_entry(_RELATIVE[0], "allow"), *fences)


def _fences(network: NetworkPolicy | None) -> list[str]:
    """What keeps the entry for relative paths from opening others, but for those that the extended profile opens."""
    entries = network.entries if network is not None else ()
    return [text for text in _RELATIVE[1] if not any(entry.text == text for entry in entries)]


def _gpu(seen: Observations, base: Profile) -> tuple[Sections, dict[tuple[str, str], Evidence]]:
    entries: dict[tuple[Action, str], Evidence] = {}
    nameless: dict[tuple[str, str], Evidence] = {}
    for (device, action), evidence in seen.devices.items():
        texts = [text for text in (device.uuid, device.device) if text and is_device_pattern(text)]
        safe = [text for text in texts if not loosens_devices(base.gpu, GpuEntry(text, action))]
        if safe:
            _merge(entries, (action, safe[0]), evidence)
        else:
            _merge(nameless, ("gpu", device.uuid or device.device), evidence)
    sections: Sections = {}
    named: dict[str, Action] = {}
    for (action, text), _ in entries.items():
        named[text] = stricter(named.get(text, "allow"), action)
    for (action, text), evidence in entries.items():
        if named[text] == action:
            sections.setdefault(action, []).append(Entry(text, evidence))
    return sections, nameless


def _section(name: str, default: Action, sections: Sections, names: list[str]) -> Iterator[str]:
    yield from ("", f"[{name}]", f"default = {toml_text(default)}")
    for action in ACTIONS:
        entries = sorted(sections.get(action, ()), key=_order)
        if entries:
            yield f"{action} = ["
            written = set()
            for entry in entries:
                if entry.text not in written:
                    remark = f"; {entry.remark}" if entry.remark else ""
                    yield f"    {toml_text(entry.text)},  # {_evidence(entry.evidence, names)}{remark}"
                written.add(entry.text)
            yield "]"


def _order(entry: Entry) -> tuple[Any, ...]:
    """Unix sockets behind addresses, these by number."""
    try:
        parsed = parse_entry(entry.text, "allow")
    except AddressError:
        return (2, entry.text)
    if isinstance(parsed, UnixEntry):
        return (1, entry.text)
    return (0, parsed.networks[0], parsed.port_low, parsed.port_high, parsed.protocol)


def _inherited(seen: Observations, naming: Naming) -> Iterator[str]:
    if seen.inherited:
        many = len(seen.inherited)
        yield ""
        yield f"# Not said again: {many:,} destinations or devices that entries of {_shown(naming.extends)} let pass."
        yield f"# Those entries stay in force as they are: see 'ebpfaudit profile show {_shown(naming.extends)}'."


def _program_rule(programs: Mapping[str, Evidence], base: Profile, names: list[str]) -> Iterator[str]:
    globs = program_globs(programs)
    by_glob: dict[str, Evidence] = {}
    for path, glob in globs.items():
        _merge(by_glob, glob, programs[path])
    if not by_glob:
        return
    taken = {rule.id for rule in base.rules}
    ids = (f"{_UNKNOWN_PROGRAM}{number}" for number in ["", *(f"-{n}" for n in range(2, len(taken) + 3))])
    yield from ("", "[[rule]]", f"id = {toml_text(next(name for name in ids if name not in taken))}")
    yield from ('severity = "medium"', 'on = "exec"', "unless = { exe = [")
    for glob, evidence in sorted(by_glob.items()):
        yield f"    {toml_text(glob)},  # {_evidence(evidence, names, with_programs=False)}"
    yield from ("] }", 'action = "alert"', 'message = "a program that was never observed before"')


def _merge(table: dict[Any, Evidence], key: Any, evidence: Evidence) -> None:
    known = table.get(key)
    if known is None:
        table[key] = Evidence(evidence.count, evidence.programs, evidence.trail, evidence.seq)
    else:
        known.add(evidence)


# ---- words


def _head(seen: Observations, naming: Naming, doubts: tuple[str, ...]) -> Iterator[str]:
    days = sorted({_day(record.realtime_ns) for record in seen.trails})
    recorded = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    count = len(seen.trails)
    trails = f"{count} trail{'' if count == 1 else 's'}"
    yield f"# Learned by ebpfaudit {__version__} from {trails}, recorded {recorded} (UTC):"
    for record in seen.trails[:_NAMED_TRAILS]:
        whole = "complete" if record.complete else "NOT COMPLETE"
        yield (
            f"#   {_shown(record.name)}: episode {_quoted(record.episode)} under {_quoted(record.profile)}, "
            f"{record.events:,} events, {whole}, head {record.head}"
        )
    if count > _NAMED_TRAILS:
        yield f"#   and {count - _NAMED_TRAILS:,} more"
    for doubt in doubts:
        yield f"# Beware: {doubt}"
    yield "# Each line says how often, by which programs, and where first it was observed. Read them before you use this:"
    yield "# whatever went wrong in these episodes is allowed, too."
    yield ""
    yield f"name = {toml_text(naming.name)}"
    yield f"description = {toml_text(f'Learned from {trails}: what was observed there, and nothing else.')}"
    yield f"extends = {toml_text(naming.extends)}"


def _doubts(record: Recorded) -> Iterator[str]:
    name = _shown(record.name)
    yield from (f"{name} is not whole: {_shown(doubt)}" for doubt in record.doubts)
    if not record.complete and not record.doubts:
        yield f"{name} is not complete: events of the episode are missing from it"
    if record.kills:
        act = "was killed" if record.enforced else "would have been killed"
        yield f"{name} {act} by its policy ({record.kills} verdicts): see what led there before you allow it"


def _judged_lines(judged: Mapping[Judgement, Evidence], extends: str, names: list[str]) -> Iterator[str]:
    def order(each: tuple[Judgement, Evidence]) -> tuple[Any, ...]:
        found, evidence = each
        return -ACTIONS.index(found.action), found.rule, -evidence.count, found.field, found.value

    for found, evidence in sorted(judged.items(), key=order):
        yield (
            f"{found.action} by {_shown(extends)}: {_shown(found.rule)}, {_shown(found.field)} {_quoted(found.value)} "
            f"({_evidence(evidence, names)})"
        )


def _left_out(why: str, found: Mapping[tuple[str, str], Evidence], names: list[str]) -> Iterator[str]:
    """One line each; many destinations that differ only in their address share one."""
    groups: dict[tuple[str, str], list[str]] = {}
    for kind, value in found:
        service = value.rpartition(":")[2] if kind == "connect" and not value.startswith("unix:") else ""
        groups.setdefault((kind, service or value), []).append(value)
    for (kind, service), values in sorted(groups.items()):
        evidences = {value: found[kind, value] for value in values}
        if len(values) >= _TOGETHER:
            first = min(values, key=lambda value: (evidences[value].trail, evidences[value].seq))
            total = combine(evidences.values())
            what = f"{kind} to {len(values):,} addresses at port {_shown(service)}, such as {_quoted(first)}"
            yield f"{why}: {what} ({_evidence(total, names)})"
        else:
            for value in sorted(values):
                yield f"{why}: {kind} {_quoted(value)} ({_evidence(evidences[value], names)})"


def _evidence(evidence: Evidence, names: list[str], with_programs: bool = True) -> str:
    programs = [_shown(name) for name in evidence.programs] if with_programs else []
    place = f"first: {_shown(names[evidence.trail])} event {evidence.seq}"
    return "; ".join([", ".join([f"{evidence.count}x", *programs]), place])


def _shown(text: str) -> str:
    """`text` as a comment may hold it, whatever it is: on one line, and not too long."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return shown if len(shown) <= _SHOWN_CHARS else f"{shown[: _SHOWN_CHARS - 1]}…"


def _quoted(text: str) -> str:
    return f'"{_shown(text)}"'


def _day(realtime_ns: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(realtime_ns // 1_000_000_000))
