"""Paths of programs and sockets with what changes from run to run taken out: temporary names, versions, users."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from ebpfaudit.text import hide, show

MANY_PROGRAMS = 8
"""So many programs of one folder stand for the folder, unless that is one of everybody's."""

_TEMPORARY = ("/tmp/", "/var/tmp/", "/dev/shm/", "/run/shm/", "@")
_EVERYBODYS = frozenset(
    {
        "", "/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/usr/lib", "/usr/libexec",
        "/usr/local", "/usr", "/opt", "/home", "/root", "/run", "/tmp", "/var/tmp", "/dev/shm", "/run/shm",
    }
)  # fmt: skip
_SUN_PATH_BYTES = 107
_SHORTEST_STEM = 3
"""Of a name in a folder of everybody's: less in front of a star would say nothing."""

_UUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_HEX = r"(?<![0-9A-Za-z])(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}(?![0-9A-Za-z])"
_PYTEST = r"(?<=/pytest-of-)[^/]+(?:/[^/]+)*(?=/[^/]+$)"
_MIXED = (
    r"(?<![0-9A-Za-z_])(?=\w*(?:[a-z_]\d|\d[A-Za-z_]|[a-z]\w*[A-Z]|[A-Z]\w*[a-z]))"
    r"(?:[0-9A-Za-z_]{12}|[0-9A-Za-z_]{10}|[0-9A-Za-z_]{8}|[0-9A-Za-z_]{6})(?![0-9A-Za-z_])"
)
_RANDOM = re.compile(rf"(?P<random>{_UUID}|{_HEX}|\d{{6,}})")
_RANDOM_TEMPORARY = re.compile(
    rf"(?P<random>{_PYTEST}|{_UUID}|{_HEX}|(?<=[/@-]tmp)\.?\w{{6,12}}(?![0-9A-Za-z_])|{_MIXED}|\d{{3,}})"
    r"|(?P<varying>(?<=[-.])(?:[a-z]{8}|[a-z]{6}|[a-z]{10}|[a-z]{12})(?![0-9A-Za-z_]))"
)
_VARYING = re.compile(
    r"(?P<venv>^.+(?=/\.?(?:venv|env|virtualenv)/bin/))|(?P<user>(?<=^/home/)[^/]+)|(?P<number>\d+)"
)


class Piece(Struct, frozen=True):
    """A part of a path: fixed text, or what may be another one in the next run."""

    text: str
    random: bool = False
    """It will be another one."""
    varying: bool = False
    """It may be: known only when several have been seen."""


def dissect(path: str) -> tuple[Piece, ...]:
    """The pieces of a path; together they are the path."""
    temporary = path.startswith(_TEMPORARY)
    pieces: list[Piece] = []
    for piece in _split(path, _RANDOM_TEMPORARY if temporary else _RANDOM):
        fixed = not (piece.random or piece.varying)
        # What stands in front matters to "^" and "(?<=": only the first piece begins where the path does.
        pieces += _split(piece.text, _VARYING) if fixed and (not pieces or not temporary) else [piece]
    return tuple(pieces)


def _split(text: str, pattern: re.Pattern[str]) -> list[Piece]:
    pieces, position = [], 0
    for found in pattern.finditer(text):
        if found.start() > position:
            pieces.append(Piece(text[position : found.start()]))
        random = found.lastgroup == "random"
        pieces.append(Piece(found[0], random=random, varying=not random))
        position = found.end()
    if position < len(text):
        pieces.append(Piece(text[position:]))
    return pieces


Skeleton = tuple[str | None, ...]


def _skeleton(pieces: tuple[Piece, ...]) -> Skeleton:
    return tuple(None if piece.random or piece.varying else piece.text for piece in pieces)


def _families(paths: Iterable[str]) -> dict[Skeleton, list[tuple[str, tuple[Piece, ...]]]]:
    """Paths that differ only in what may vary."""
    families: dict[Skeleton, list[tuple[str, tuple[Piece, ...]]]] = {}
    for path in paths:
        pieces = dissect(path)
        families.setdefault(_skeleton(pieces), []).append((path, pieces))
    return families


def _open(members: list[tuple[str, tuple[Piece, ...]]]) -> list[bool]:
    """Of each place in a family: is it random, or did several texts stand there?"""
    columns = zip(*(pieces for _, pieces in members), strict=True)
    return [any(piece.random for piece in column) or len({p.text for p in column}) > 1 for column in columns]


# ---- programs


def program_globs(paths: Iterable[str]) -> dict[str, str]:
    """For each executable's path (as events show it), the glob by which a rule names it and its like."""
    globs: dict[str, str] = {}
    for members in _families(path for path in paths if path).values():
        is_open = _open(members)
        for path, pieces in members:
            glob = ""
            for place, (piece, gap) in enumerate(zip(pieces, is_open, strict=True), 1):
                glob += _wild(piece, glob, place == len(pieces)) if gap else _literal(piece.text)
            globs[path] = _rooted(re.sub(r"\*\*+", "*", glob))
    return _by_folder(globs)


def _wild(piece: Piece, before: str, last: bool) -> str:
    if last and before.endswith("/") and before[:-1] in _EVERYBODYS:
        return "?" * len(piece.text)  # a star would stand for all below /tmp
    return "[0-9]*" if piece.varying and piece.text.isdecimal() else "*"


def _literal(text: str) -> str:
    """A glob that matches `text`; a glob cannot name its own signs, nor bytes that are no text."""
    raw = _raw(text)
    if raw is None:
        return "".join("?" if char in "[*?\\" or not char.isprintable() else char for char in text)
    chars = raw.decode("utf-8", "surrogateescape")
    return "".join(
        "????" if "\udc80" <= char <= "\udcff" else "?" if char in "[*?" else char for char in chars
    )


def _raw(shown: str) -> bytes | None:
    """The bytes behind a text of an event; None where a forged trail has what no bytes are shown as."""
    try:
        raw = hide(shown)
    except (IndexError, ValueError):
        return None
    return raw if show(raw) == shown else None


def _rooted(glob: str) -> str:
    """A path's glob begins with "/" (or is a memory file's): whatever else an event shows, a "?" matches."""
    return glob if glob.startswith(("/", "*", "?", "memfd:")) else f"?{glob[1:]}"


def _by_folder(globs: Mapping[str, str]) -> dict[str, str]:
    by_folder: dict[str, set[str]] = {}
    for glob in globs.values():
        by_folder.setdefault(glob.rpartition("/")[0], set()).add(glob)
    crowded = {
        folder
        for folder, inside in by_folder.items()
        if len(inside) >= MANY_PROGRAMS and folder not in _EVERYBODYS and not re.search(r"[*?\[]", folder)
    }
    return {path: _folder_glob(glob, crowded) for path, glob in globs.items()}


def _folder_glob(glob: str, crowded: set[str]) -> str:
    """The topmost crowded folder above; a glob's star crosses folders."""
    parts = glob.split("/")
    for end in range(2, len(parts)):
        if (folder := "/".join(parts[:end])) in crowded:
            return f"{folder}/*"
    return glob


# ---- sockets


def socket_entries(paths: Iterable[str]) -> dict[str, list[str]]:
    """For each Unix socket's path, the entries by which [network] could name it: the widest first, the path last.

    An empty list: no entry can, because the path is relative, or begins with what is no text.
    """
    entries: dict[str, list[str]] = {}
    for members in _families(paths).values():
        together = _open(members)
        for path, pieces in members:
            own = [piece.random for piece in pieces]
            found = [_entry(path, pieces, gaps) for gaps in (together, own, [False] * len(pieces))]
            entries[path] = list(dict.fromkeys(entry for entry in found if entry))
    return entries


def _entry(path: str, pieces: tuple[Piece, ...], gaps: list[bool]) -> str:
    """An entry has its only star at the end: nothing behind the first gap can be named."""
    end = gaps.index(True) if True in gaps else len(pieces)
    raw = _raw("".join(piece.text for piece in pieces[:end]))
    if raw is None:
        return ""
    stem = raw[: _valid(raw)].decode()
    sign = re.search(r"[*?\[\]]", stem)
    stem = stem[: sign.start()] if sign else stem
    cut = end < len(pieces) or len(stem.encode()) < len(raw)
    if len(stem.encode()) > _SUN_PATH_BYTES:
        stem, cut = stem.encode()[:_SUN_PATH_BYTES].decode("utf-8", "ignore"), True
    if not path.startswith(("/", "@")) or (cut and _says_little(stem)):
        return ""
    return f"unix:{stem}{'*' if cut else ''}"


def _says_little(stem: str) -> bool:
    """Most of a folder that is everybody's, or of all abstract names, begins like that."""
    folder, slash, name = stem.rpartition("/")
    if not slash:
        folder, name = "", stem.removeprefix("@")
    return folder in _EVERYBODYS and len(name) < _SHORTEST_STEM


def _valid(raw: bytes) -> int:
    """How many bytes at the beginning are UTF-8."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(raw)
