"""The files that a profile's `same-as:` entries name, and what they have held since the audit began."""

from __future__ import annotations

import contextlib
import errno
import os

from ebpfaudit.kernel.content import Findings, Key, Unreadable, hash_file, same_content, state_of

_MULTI_CALL = frozenset(("busybox", "busybox.static", "toybox", "coreutils", "uutils"))
"""Programs that are whatever they are called: a copy of one says nothing of what it does."""

_CONTENTS_MAX = 8
"""Different contents that are kept for one name."""

_ABSENT = "no such file here"


def inactive(same_as: frozenset[str]) -> dict[str, str]:
    """Which of these paths recognise nothing at present, and why."""
    return {path: why for path in sorted(same_as) if (why := _why_inactive(path))}


def inactive_text(same_as: frozenset[str], *, absent: bool = True) -> list[str]:
    """The same, as lines for a run's trail; without those of absent files for its start, where they say little."""
    by_reason: dict[str, list[str]] = {}
    for path, why in inactive(same_as).items():
        if absent or why != _ABSENT:
            by_reason.setdefault(why, []).append(path)
    return [f"copies of {', '.join(paths)} are not recognised: {why}" for why, paths in by_reason.items()]


def _why_inactive(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return _ABSENT
    if not os.path.isfile(path):
        return "not a regular file"
    real = os.path.basename(os.path.realpath(path))
    if real in _MULTI_CALL and real != os.path.basename(path):
        return f"it is {real}, which goes by many names"
    for name in _MULTI_CALL - {os.path.basename(path)}:  # hard links
        for folder in ("/bin", "/usr/bin", "/sbin", "/usr/sbin"):
            with contextlib.suppress(OSError):
                other = os.stat(f"{folder}/{name}")
                if (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino):
                    return f"it is {name}, which goes by many names"
    return ""


class Known:
    """Content of the named files, by hash. What a file held once it is known by for ever (an upgrade leaves copies)."""

    def __init__(self, paths: frozenset[str], findings: Findings) -> None:
        """`findings` are forgotten when there is something new to be the same as."""
        self.sizes: set[int] = set()
        """Only a file of one of these sizes can be the same as a known one."""
        self._findings = findings
        self._paths = tuple(sorted(paths))
        self._held: dict[str, list[str]] = {path: [] for path in self._paths}
        self._now: dict[str, Key] = {}
        """The state in which each file was found last."""
        self._hashes: dict[str, str] = {}
        """What each file holds in that state, once it has been read."""
        self._past_sizes: set[int] = set()
        self.refresh()

    def refresh(self) -> None:
        """Look which of the named files are there, and whether they have changed. Reads none."""
        for path in self._paths:
            try:
                state = state_of(os.stat(path))
            except OSError:
                continue
            if self._now.get(path) != state and not _why_inactive(path):
                if path in self._now:
                    self._past_sizes.add(self._now[path][-1])
                self._now[path] = state
                self._hashes.pop(path, None)
                self.sizes.add(state[-1])
                self._findings.forget()

    def read_one(self) -> bool:
        """Read a named file that has not been read yet, to know its content when it will have been replaced.

        False if there is none: work for idle moments.
        """
        for path in self._now.keys() - self._hashes.keys():
            sha256 = ""
            with contextlib.suppress(OSError, Unreadable):
                descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
                try:
                    if state_of(os.fstat(descriptor)) == self._now[path]:
                        sha256 = hash_file(descriptor)
                finally:
                    os.close(descriptor)
            self._learn(path, sha256)
            return True
        return False

    def names(self, sha256: str) -> tuple[str, ...]:
        """Every named path whose file has held this."""
        return tuple(path for path in self._paths if sha256 in self._held[path])

    def recognise(self, descriptor: int, size: int) -> str | None:
        """Hash of the known file that holds the same as the one open there; "" if there is none.

        None if only a hash can tell: a known file has just changed, or held something of that size before.
        Raises Unreadable.
        """
        unsure = size in self._past_sizes
        same: dict[Key, bool] = {}
        for path, state in self._now.items():
            if state[-1] != size:
                continue
            if state not in same:
                try:
                    same[state] = self._holds_the_same(path, state, descriptor)
                except OSError:
                    unsure = True
        alike = [path for path, state in self._now.items() if same.get(state)]
        if not alike:
            return None if unsure else ""
        sha256 = next(filter(None, map(self._hashes.get, alike)), None) or hash_file(descriptor)
        for path in alike:
            self._learn(path, sha256)
        return sha256

    def _holds_the_same(self, path: str, state: Key, descriptor: int) -> bool:
        """Raises OSError if the named file is no longer what it was."""
        if state_of(os.fstat(descriptor)) == state:
            return True
        other = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if state_of(os.fstat(other)) != state:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return same_content(descriptor, other)
        finally:
            os.close(other)

    def _learn(self, path: str, sha256: str) -> None:
        self._hashes[path] = sha256
        held = self._held[path]
        if sha256 and sha256 not in held:
            held.append(sha256)
            del held[:-_CONTENTS_MAX]
