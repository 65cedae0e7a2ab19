"""From a name or a path to a resolved profile, and from that to a text that says all of it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ebpfaudit import resources
from ebpfaudit.errors import ProfileError
from ebpfaudit.profiles.addresses import AddressError, IpEntry, UnixEntry, parse_entry
from ebpfaudit.profiles.devices import GpuEntry, GpuPolicy, is_device_pattern
from ebpfaudit.profiles.draft import Draft, Item, read_draft
from ebpfaudit.profiles.network import NetworkPolicy, same_reach, shadowing
from ebpfaudit.profiles.rules import build_rule, expand
from ebpfaudit.profiles.schema import IDENTITIES, SECTION_ACTIONS, Profile, Rule
from ebpfaudit.profiles.source import InvalidProfile, Source, nearest
from ebpfaudit.verdicts import Action

__all__ = [
    "InvalidProfile",
    "Profile",
    "known_profiles",
    "load_profile",
    "parse_profile",
    "profile_hash",
    "resolved_text",
]


def search_folders() -> list[Path]:
    """Where a profile's name is looked up, in order: the user's, the system's, the shipped ones."""
    own = os.environ.get("XDG_CONFIG_HOME", "")
    user = Path(own) if own.startswith("/") else Path("~/.config").expanduser()
    system = Path("/etc/ebpfaudit/profiles")
    return [user / "ebpfaudit" / "profiles", system, resources.folder("profiles")]


def known_profiles() -> dict[str, Path]:
    """Every profile that can be named, and the file that the name stands for."""
    found: dict[str, Path] = {}
    for folder in search_folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def load_profile(name_or_path: str) -> Profile:
    """The resolved profile. A value with a slash or ending in ".toml" is a path, all else a name.

    Raises ProfileError; `InvalidProfile` lists all that is wrong, in this file and those it extends.
    """
    return _build(_load_draft(_find(name_or_path, None), ()))


def parse_profile(text: str, origin: str) -> Profile:
    """The profile in `text`, which extends nothing (`resolved_text`, as a trail's header keeps it)."""
    source = Source(text, origin)
    if "extends" in source.tree:
        source.complain(("extends",), "a resolved profile extends nothing")
    return _build(read_draft(source))


def _find(name_or_path: str, extending: Path | None) -> Path:
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if extending is not None:
            path = extending.parent / path
        if not path.exists():
            raise ProfileError(f"{path}: no such profile file")
        return path
    for folder in search_folders():
        path = folder / f"{name_or_path}.toml"
        if path.exists():
            return path
    hint = nearest(name_or_path, known_profiles())
    looked = ", ".join(str(folder) for folder in search_folders())
    wanted = f"{extending}: extends" if extending else "profile"
    raise ProfileError(
        f"{wanted} '{name_or_path}': not found{hint} Looked in {looked}; "
        "'ebpfaudit profile list' shows all. A path needs a '/' or must end in '.toml'."
    )


def _load_draft(path: Path, chain: tuple[Path, ...]) -> Draft:
    """The draft of `path`, laid over those it extends; later ones in its list over earlier ones."""
    real = path.resolve()
    if real in chain:
        loop = " -> ".join(str(each) for each in (*chain[chain.index(real) :], real))
        raise ProfileError(f"{path}: profiles extend each other in a loop: {loop}")
    draft = read_draft(Source(_read_text(path), str(path)))
    draft.name = draft.name or path.stem
    base = Draft()
    for name in draft.extends:
        base = _load_draft(_find(name, path), (*chain, real)).lay_over(base)
    return draft.lay_over(base)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            shipped = resources.folder("profiles") in path.resolve().parents
            if os.geteuid() == 0 and mode & 0o022 and not shipped:
                raise ProfileError(
                    f"{path}: others than its owner may write this profile (mode {mode & 0o777:04o}), "
                    f"so root does not trust it; run 'chmod go-w {path}'"
                )
            return file.read().decode()
    except UnicodeDecodeError:
        raise ProfileError(f"{path}: not a UTF-8 text") from None
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from None


def _build(draft: Draft) -> Profile:
    """Give a draft its meaning, or raise all problems of all its sources at once."""
    network = _build_network(draft)
    gpu = _build_gpu(draft)
    exec_deny = _build_exec(draft)
    rules = [_build_rule(item, draft) for item in draft.rules.values()]
    problems = [problem for source in draft.sources for problem in source.problems]
    if problems:
        raise InvalidProfile(problems)
    if network is not None:
        try:
            network.ip_nodes()
        except ProfileError as error:
            raise InvalidProfile([f"{draft.sources[-1].origin}: {error}"]) from None
    kept = tuple(rule for rule in rules if rule is not None)
    return Profile(draft.name, draft.description, network, gpu, exec_deny, kept)


def _build_rule(item: Item, draft: Draft) -> Rule | None:
    """The rule; None where it is disabled, or wrong."""
    enabled = item.value.get("enabled", True)
    if not isinstance(enabled, bool):
        item.complain("'enabled' is true or false", "enabled")
        return None
    if not enabled and set(item.value) <= {"id", "enabled", "description"}:
        if not any(_defines(source, item) for source in draft.sources):
            others = [name for name in draft.rules if name != item.value["id"]]
            hint = nearest(item.value["id"], others)
            item.complain(f"no inherited rule '{item.value['id']}' to disable{hint}", "id")
        return None
    rule = build_rule(item, draft.lists)
    return rule if enabled else None


def _defines(source: Source, item: Item) -> bool:
    rules = source.tree.get("rule", [])
    return source is not item.source and any(rule.get("id") == item.value["id"] for rule in rules)


def _items(draft: Draft, section: str) -> list[Item]:
    """The section's entries, lists expanded; values of later versions are complained about."""
    kept = []
    for item in draft.sections.get(section, ()):
        for value in expand(item, [item.value], draft.lists, f"[{section}]"):
            if isinstance(value, str) and value.startswith(IDENTITIES):
                item.complain(f"'{value}' is not supported by this version", item.value)
            else:
                kept.append(Item(str(value), item.source, item.path, item.action))
    return kept


def _default(draft: Draft, section: str) -> Action:
    return _action(draft.defaults[section].value) if section in draft.defaults else "allow"


def _action(word: str) -> Action:
    """`word`, which the draft's keys have already proved to be an action."""
    return cast("Action", word)


def _build_network(draft: Draft) -> NetworkPolicy | None:
    if "network" not in draft.sections:
        return None
    placed: list[tuple[IpEntry | UnixEntry, Item]] = []
    for item in _items(draft, "network"):
        try:
            placed.append((parse_entry(item.value, _action(item.action)), item))
        except AddressError as error:
            item.complain(f"[network] {item.action}: {error}", item.value)
    for index, (entry, item) in enumerate(placed):
        _complain_if_idle(entry, item, placed, index)
    entries = sorted((entry for entry, _ in placed), key=lambda entry: SECTION_ACTIONS.index(entry.action))
    return NetworkPolicy(_default(draft, "network"), tuple(entries))


def _complain_if_idle(
    entry: IpEntry | UnixEntry, item: Item, placed: Sequence[tuple[IpEntry | UnixEntry, Item]], index: int
) -> None:
    """An entry that decides nothing is a mistake of its author, or of whoever extends a profile."""
    for position, (other, place) in enumerate(placed):
        if shadowing(entry, other):
            item.complain(
                f"[network] {item.action} '{item.value}' never applies: {place.action} '{place.value}' "
                f"({place.place}) is as specific and stricter",
                item.value,
            )
        elif (
            position < index
            and place.source is item.source
            and other.action == entry.action
            and same_reach(entry, other)
        ):
            item.complain(
                f"[network] {item.action} '{item.value}' says nothing that '{place.value}' does not",
                item.value,
            )


def _build_gpu(draft: Draft) -> GpuPolicy | None:
    if "gpu" not in draft.sections:
        return None
    entries: dict[str, Item] = {}
    for item in _items(draft, "gpu"):
        if not is_device_pattern(item.value):
            forms = '"nvidia:0", "amd:*", "GPU-<uuid>" or "any"'
            item.complain(f"[gpu] {item.action}: '{item.value}' is no device; write {forms}", item.value)
        other = entries.setdefault(item.value, item)
        if other is not item:
            item.complain(
                f"[gpu] '{item.value}' is named twice: {other.action} at {other.place}, {item.action} here",
                item.value,
            )
    ordered = sorted(entries.values(), key=lambda item: SECTION_ACTIONS.index(_action(item.action)))
    return GpuPolicy(
        _default(draft, "gpu"), tuple(GpuEntry(item.value, _action(item.action)) for item in ordered)
    )


def _build_exec(draft: Draft) -> tuple[str, ...]:
    patterns = []
    for item in _items(draft, "exec"):
        if not item.value.startswith("/"):
            name = item.value.rpartition("/")[2]
            item.complain(
                f"[exec] deny: '{item.value}' is no full path: the kernel knows executables by their file; "
                f"write '/usr/bin/{name}'",
                item.value,
            )
        patterns.append(item.value)
    return tuple(dict.fromkeys(patterns))


def profile_hash(profile: Profile) -> str:
    """SHA-256 of `resolved_text`, in hexadecimal: equal where two profiles mean the same."""
    import hashlib

    return hashlib.sha256(resolved_text(profile).encode()).hexdigest()


def resolved_text(profile: Profile) -> str:
    """TOML that `parse_profile` reads back as an equal profile; the same for equal profiles."""
    lines = [f"name = {_toml(profile.name)}", f"description = {_toml(profile.description)}"]
    for title, section in (("network", profile.network), ("gpu", profile.gpu)):
        if section is not None:
            lines += ["", f"[{title}]", f"default = {_toml(section.default)}"]
            for action in SECTION_ACTIONS:
                texts = [entry.text for entry in section.entries if entry.action == action]
                lines += [f"{action} = {_toml(texts)}"] if texts else []
    if profile.exec_deny:
        lines += ["", "[exec]", f"deny = {_toml(list(profile.exec_deny))}"]
    for rule in profile.rules:
        lines += ["", "[[rule]]", *_rule_lines(rule)]
    return "\n".join(lines) + "\n"


def _rule_lines(rule: Rule) -> list[str]:
    part = rule.parts[0]
    count = part.count
    counted = (
        {"distinct": count.distinct, "over": count.over, "within": count.within, "per": count.per}
        if count
        else {}
    )
    values = {
        "id": rule.id, "description": rule.description, "technique": rule.technique,
        "severity": rule.severity,
        "on": part.on, "when": part.when, "unless": part.unless,
        "count": {key: value for key, value in counted.items() if value},
        "action": rule.action, "scope": rule.scope, "message": rule.message,
    }  # fmt: skip
    return [f"{key} = {_toml(value)}" for key, value in values.items() if value]


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    # JSON's strings are TOML's, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
