"""From a name or a path to a resolved profile, and from that to a text that says all of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from ebpfaudit import resources
from ebpfaudit.errors import ProfileError
from ebpfaudit.profiles.draft import Draft, Item, read_draft
from ebpfaudit.profiles.lint import Placed, judge_marks, judge_rules
from ebpfaudit.profiles.origins import origins_of
from ebpfaudit.profiles.remarks import note_conflicts, note_rules
from ebpfaudit.profiles.resolved import Origins, resolved_text
from ebpfaudit.profiles.rules import build_rule
from ebpfaudit.profiles.schema import Profile, Rule
from ebpfaudit.profiles.sections import build_exec, build_gpu, build_network
from ebpfaudit.profiles.source import InvalidProfile, Problem, Source, nearest, printable

__all__ = [
    "Checked",
    "InvalidProfile",
    "Problem",
    "Profile",
    "check_profile",
    "check_text",
    "known_profiles",
    "load_profile",
    "parse_profile",
    "profile_hash",
    "resolved_text",
]


_MOST_BYTES = 4 * 2**20
"""Of one profile's file. A thousand rules are a tenth of it."""


class Checked(Struct, frozen=True):
    """A profile under examination: sound (then with the origins of all it says), or with problems."""

    profile: Profile | None
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    """What is allowed but hardly meant."""
    origins: Origins = {}


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
        with suppress(PermissionError):
            for path in sorted(folder.glob("*.toml")):
                found.setdefault(path.stem, path)
    return found


def load_profile(name_or_path: str) -> Profile:
    """The resolved profile. A value with a slash or ending in ".toml" is a path, all else a name.

    Raises ProfileError; `InvalidProfile` lists all that is wrong, in this file and those it extends.
    """
    draft = _load_draft(name_or_path)
    profile, rules = _build(draft)
    judge_rules(rules)
    _raise_problems(draft)
    return profile


def parse_profile(text: str, origin: str) -> Profile:
    """The profile in `text`, which extends nothing (`resolved_text`, as a trail's header keeps it).

    Rules that can never match, which a later version has learnt to see, are let be: an old trail stays readable.
    """
    draft = _text_draft(text, origin)
    profile, _ = _build(draft)
    return profile


def check_profile(name_or_path: str) -> Checked:
    """What `load_profile` would say, and what it would let pass with a shrug. Raises nothing."""
    try:
        return _check(_load_draft(name_or_path))
    except InvalidProfile as error:
        return Checked(None, error.found)
    except ProfileError as error:
        message = str(error).removeprefix(f"{Path(name_or_path)}: ")
        return Checked(None, (Problem(printable(name_or_path), 0, 0, printable(message)),))


def check_text(text: str, origin: str) -> Checked:
    """The same for a text that extends nothing."""
    try:
        return _check(_text_draft(text, origin))
    except InvalidProfile as error:
        return Checked(None, error.found)


def _check(draft: Draft) -> Checked:
    try:
        profile, rules = _build(draft)
        judge_rules(rules)
        _raise_problems(draft)
    except InvalidProfile as error:
        return Checked(None, error.found, _notes(draft))
    note_rules(rules, draft)
    note_conflicts(draft)
    return Checked(profile, (), _notes(draft), origins_of(draft))


def _notes(draft: Draft) -> tuple[Problem, ...]:
    return tuple(dict.fromkeys(note for source in reversed(draft.sources) for note in source.notes))


def _find(name_or_path: str, extending: Path | None) -> Path:
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if extending is not None:
            path = extending.parent / path
        if not _exists(path):
            raise ProfileError(f"{path}: no such profile file")
        if extending is not None and not path.is_file():
            raise ProfileError(f"{path}: is not a file")
        return path
    for folder in search_folders():
        path = folder / f"{name_or_path}.toml"
        try:
            if path.exists():
                return path
        except PermissionError:  # the home of somebody else
            continue
        except OSError as error:
            raise ProfileError(f"profile '{name_or_path}': {error.strerror}") from None
    hint = nearest(name_or_path, known_profiles()) or "."
    looked = ", ".join(str(folder) for folder in search_folders())
    raise ProfileError(
        f"profile '{name_or_path}': not found{hint} Looked in {looked}; "
        "'ebpfaudit profile list' shows all. A path needs a '/' or must end in '.toml'."
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from None


def _load_draft(name_or_path: str) -> Draft:
    """All that the profile says and inherits: each file once, what it extends first, later ones over earlier."""
    drafts: dict[Path, Draft] = {}
    _read_with_extended(_find(name_or_path, None), drafts, ())
    merged = Draft()
    for draft in drafts.values():
        merged = draft.lay_over(merged)
    return merged


def _read_with_extended(path: Path, drafts: dict[Path, Draft], chain: tuple[Path, ...]) -> Source:
    """Put the drafts of `path` and of all it extends into `drafts`, `path`'s own last."""
    real = path.resolve()
    if real in drafts:
        return drafts[real].sources[0]
    draft = read_draft(Source(_read_text(path), str(path)))
    draft.name = draft.name or path.stem
    (source,) = draft.sources
    for item in draft.extends:
        try:
            below = _find(item.value, path)
            if below.resolve() in (*chain, real):
                loop = [*chain, real][[*chain, real].index(below.resolve()) :]
                names = " -> ".join(str(each) for each in [*loop, below.resolve()])
                raise ProfileError(f"profiles extend each other in a loop: {names}")
            extended = _read_with_extended(below, drafts, (*chain, real))
        except InvalidProfile:
            raise
        except ProfileError as error:
            item.complain(f"extends: {error}")
            raise InvalidProfile(source.problems) from None
        source.below |= {extended, *extended.below}
    drafts[real] = draft
    return source


def _text_draft(text: str, origin: str) -> Draft:
    source = Source(text, origin)
    if "extends" in source.tree:
        source.complain(("extends",), "a resolved profile extends nothing", key=True)
    return read_draft(source).lay_over(Draft())


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
            raw = file.read(_MOST_BYTES + 1)
            if len(raw) > _MOST_BYTES:
                raise ProfileError(f"{path}: a profile has at most {_MOST_BYTES // 2**20} MiB")
            return raw.decode()
    except UnicodeDecodeError:
        raise ProfileError(f"{path}: not a UTF-8 text") from None
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from None


def _build(draft: Draft) -> tuple[Profile, Placed]:
    """Give a draft its meaning, or raise all problems of all its sources at once."""
    network = build_network(draft)
    gpu = build_gpu(draft)
    exec_deny = build_exec(draft)
    rules = [(rule, item) for item in draft.rules.values() if (rule := _enabled_rule(item, draft))]
    judge_marks(rules, draft)
    _raise_problems(draft)
    if network is not None:
        try:
            network.ip_nodes()
        except ProfileError as error:
            own = draft.sources[-1]
            raise InvalidProfile([Problem(own.origin, *own.position(("network",)), str(error))]) from None
    kept = tuple(rule for rule, _ in rules)
    return Profile(draft.name, draft.description, network, gpu, exec_deny, kept), rules


def _raise_problems(draft: Draft) -> None:
    """The profile's own problems first, then those of what it extends."""
    if problems := [problem for source in reversed(draft.sources) for problem in source.problems]:
        raise InvalidProfile(problems)


def _enabled_rule(item: Item, draft: Draft) -> Rule | None:
    """The rule; None where it is disabled, or wrong."""
    enabled, name = item.value.get("enabled", True), item.value["id"]
    if not isinstance(enabled, bool):
        item.child("enabled").complain("'enabled' is true or false")
        return None
    if not enabled and set(item.value) <= {"id", "enabled", "description"}:
        if item.overrides is None:
            others = [other for other in draft.rules if other != name]
            item.child("id").complain(f"no inherited rule '{name}' to disable{nearest(name, others)}")
        return None
    rule = build_rule(item, draft.lists)
    return rule if enabled else None


def profile_hash(profile: Profile) -> str:
    """SHA-256 of `resolved_text`, in hexadecimal: equal where two profiles mean the same."""
    import hashlib

    return hashlib.sha256(resolved_text(profile).encode()).hexdigest()
