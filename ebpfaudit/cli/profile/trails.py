"""Which trails a command line names: files, and all below folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ebpfaudit.errors import UsageError

SUFFIX = ".jsonl.zst"


def find_trails(names: Iterable[str]) -> list[str]:
    """The files among `names`, and every *.jsonl.zst below the folders among them, each once.

    A file that does not exist is for its reader to complain about. Raises UsageError for a folder without trails.
    """
    found: dict[str, None] = {}
    for name in names:
        if os.path.isdir(name):
            below = sorted(str(path) for path in Path(name).rglob(f"*{SUFFIX}") if path.is_file())
            if not below:
                raise UsageError(f"no trail (*{SUFFIX}) is in the folder {name}")
            found.update(dict.fromkeys(below))
        else:
            found[name] = None
    return list(found)


def size_of(path: str) -> int:
    """In bytes; 0 where there is no such file."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
