"""The workloads of `list/*.toml`, and whether this host has the tools for one."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

LIST = Path(__file__).parent / "list"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a workload finds its programs: what the distribution installs, and nobody's own."""


@dataclass(frozen=True)
class Workload:
    """One piece of ordinary work: a table `[[workload]]` of a file in `list/`."""

    name: str
    run: str
    """A bash script, given to `bash -euo pipefail -c` as an agent's tool does, in an empty home folder."""
    family: str = ""
    """The file's name."""
    setup: str = ""
    """A script that prepares the home folder first, not audited."""
    needs: tuple[str, ...] = ()
    """Tools: "ninja", "ninja:ninja-build" where the package has another name, "import zmq:python3-zmq" for modules."""
    absent: tuple[str, ...] = ()
    """Commands that must not be there: the workload is about their absence."""
    exit: int = 0
    prints: tuple[str, ...] = ()
    """What its output must contain: proof that the work was done, or failed as it does without a network."""
    denied: bool = False
    """The sections deny something of it."""
    names: bool = False
    """A resolver on loopback knows every name; otherwise the resolver is elsewhere, and denied."""
    ci: bool = False
    """Needs only what setup.sh installs, and little time: also a test."""
    timeout_s: int = 90

    def missing(self) -> str:
        """What the host lacks for it, or has too much of; "" if it can run."""
        lacking = [need.split(":")[0] for need in self.needs if not _present(need.split(":")[0])]
        surplus = [command for command in self.absent if _present(command)]
        parts = ["needs " + ", ".join(lacking)] if lacking else []
        return "; ".join(parts + (["only without " + ", ".join(surplus)] if surplus else []))

    def packages(self) -> set[str]:
        """The distribution packages of the tools that are missing."""
        return {need.split(":")[-1] for need in self.needs if not _present(need.split(":")[0])}


def _present(tool: str) -> bool:
    if not tool.startswith("import "):
        return shutil.which(tool, path=PATH) is not None
    module = tool.removeprefix("import ")
    asked = subprocess.run(
        ["/usr/bin/python3", "-c", f"import {module}"], capture_output=True, cwd="/", check=False
    )
    return asked.returncode == 0


def workloads() -> list[Workload]:
    """All of them, in the order of the files. Raises ValueError for one that is not written as it should be."""
    found = [
        _workload(path, table)
        for path in sorted(LIST.glob("*.toml"))
        for table in tomllib.loads(path.read_text(encoding="utf-8"))["workload"]
    ]
    names = [workload.name for workload in found]
    if double := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two workloads have one name: {', '.join(sorted(double))}")
    return found


def _workload(path: Path, table: dict[str, object]) -> Workload:
    if unknown := table.keys() - {field.name for field in fields(Workload)}:
        raise ValueError(f"{path}: {table.get('name')!r} has unknown keys: {', '.join(sorted(unknown))}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return Workload(**{**values, "family": path.stem})  # type: ignore[arg-type]
