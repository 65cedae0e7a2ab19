"""Runs the real `ebpfaudit run` for a test, reads what it recorded, and checks that nothing is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebpfaudit import registry
from ebpfaudit.enforce.cgroup import PARENT, cgroup2_mount
from ebpfaudit.registry import RUN_FOLDER, Registration

MAIN = [sys.executable, "-c", "from ebpfaudit.cli import main; main()"]
PYTHON = [os.path.realpath(sys.executable), "-I", "-S"]
"""An interpreter that starts fast and imports nothing of this project."""


NO_POLICY = 'name = "none"\ndescription = "Everything is allowed."\n'
TIMEOUT_S = 90


def profile(network: str = "", rest: str = "") -> str:
    """A profile's text; `network` is the body of its [network] section."""
    section = f"[network]\n{network}\n" if network else ""
    return f'name = "test"\ndescription = "For a test."\n{section}{rest}\n'


@dataclass
class Audited:
    """What became of one run."""

    exit_code: int
    stdout: bytes
    stderr: str
    result: dict[str, Any] | None
    items: list[Any] = field(repr=False)
    """Events, verdicts and enforcements, in the order of the trail."""
    end: Any
    problems: list[str]
    """What `verify` would find wrong with the trail."""

    def of(self, *kinds: str, **fields: object) -> list[Any]:
        """Items of these kinds whose fields have these values."""
        return [
            item
            for item in self.items
            if kind_of(item) in kinds and all(getattr(item, name) == value for name, value in fields.items())
        ]

    @property
    def verdicts(self) -> list[Any]:
        return self.of("verdict")

    @property
    def enforcements(self) -> list[Any]:
        return self.of("enforcement")

    @property
    def events(self) -> list[Any]:
        """Numbered as verdicts count them: a verdict's `seq` is an index into this."""
        return [item for item in self.items if kind_of(item) not in ("verdict", "enforcement")]

    def execs(self, marker: str) -> list[Any]:
        """Programs that ran (or failed to) with this argument."""
        return [event for event in self.of("exec") if marker in event.argv]


def kind_of(item: object) -> str:
    return str(item.__struct_config__.tag)  # type: ignore[attr-defined]


class Running:
    """An `ebpfaudit run` that was started."""

    def __init__(
        self, process: subprocess.Popen[bytes], episode: str, trail: Path | None, result: Path
    ) -> None:
        self.process = process
        self.episode = episode
        self.trail = trail
        self.result = result

    def registration(self) -> Registration:
        """As soon as the command has begun."""
        return until(self._registration, "the episode is registered")

    def _registration(self) -> Registration | None:
        assert self.process.poll() is None, self.process.communicate()[1].decode()
        found = [entry for entry in registry.active() if entry.episode == self.episode and entry.root_pid]
        return found[0] if found else None

    def wait(self, data: bytes | None = None, timeout_s: float = TIMEOUT_S) -> Audited:
        out, err = self.process.communicate(data, timeout=timeout_s)
        recorded = self.trail is not None and self.trail.exists()
        items, end, problems = read(self.trail) if recorded else ([], None, [])
        text = self.result.read_bytes() if self.result.exists() else b""
        result = json.loads(text) if text else None
        return Audited(
            self.process.returncode, out or b"", (err or b"").decode(), result, items, end, problems
        )


class Auditor:
    """Starts runs with their files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[Running] = []

    def start(
        self,
        profile_text: str,
        command: Sequence[str | bytes],
        *options: str,
        episode: str | None = "",
        trail: str = "",
        main: Sequence[str] = MAIN,
        stdin: Any = subprocess.DEVNULL,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        **popen: Any,
    ) -> Running:
        """`trail`: "none" for no trail, "" for one in our folder. `episode`: None leaves the choice to the command."""
        label = f"test-{uuid.uuid4().hex[:12]}" if episode == "" else episode or ""
        stem = self._folder / f"{len(self.started)}"
        source, recorded, result = (
            stem.with_suffix(".toml"),
            stem.with_suffix(".jsonl.zst"),
            stem.with_suffix(".json"),
        )
        source.write_text(profile_text)
        arguments = [
            "run",
            "--profile",
            str(source),
            "--trail",
            trail or str(recorded),
            "--result",
            str(result),
        ]
        if label:
            arguments += ["--episode", label]
        process = subprocess.Popen(
            [*main, *arguments, *options, "--", *command],
            stdin=stdin, stdout=stdout, stderr=stderr, **{"cwd": "/", **popen},
        )  # fmt: skip
        running = Running(process, label, Path(trail or recorded) if trail != "none" else None, result)
        self.started.append(running)
        return running

    def run(self, profile_text: str, command: Sequence[str | bytes], *options: str, **start: Any) -> Audited:
        """Runs a command to its end."""
        return self.start(profile_text, command, *options, **start).wait()

    def check_nothing_is_left(self) -> None:
        """No process, cgroup or registration of any episode that was started here."""
        for running in self.started:
            if running.process.poll() is None:
                running.process.kill()
                running.process.wait(30)
            for pipe in (running.process.stdin, running.process.stdout, running.process.stderr):
                if pipe is not None:  # not read: what the command left behind may hold its other end
                    pipe.close()
        episodes = {running.episode for running in self.started if running.episode}
        left = {episode: list(leftovers(episode)) for episode in episodes}
        for episode in episodes:
            clear(episode)
        assert not any(left.values()), {episode: found for episode, found in left.items() if found}


def leftovers(episode: str) -> Iterator[str]:
    for pid in processes_of(episode):
        with contextlib.suppress(OSError):
            yield f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()!r}"
    mount = cgroup2_mount()
    if mount is not None:
        yield from map(str, (mount / PARENT).glob(f"{episode}-*"))
    for path in RUN_FOLDER.glob("*.json"):
        with contextlib.suppress(OSError):
            if episode.encode() in path.read_bytes():
                yield str(path)


def clear(episode: str) -> None:
    """Removes what an auditor that was killed could not."""
    for pid in processes_of(episode):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not processes_of(episode), "its processes are gone")
    mount = cgroup2_mount()
    for folder in (mount / PARENT).glob(f"{episode}-*") if mount is not None else ():
        until(lambda folder=folder: _removed(folder), f"{folder} is empty")
    for path in RUN_FOLDER.glob("*.json"):
        with contextlib.suppress(OSError):
            if episode.encode() in path.read_bytes():
                path.unlink()


def _removed(folder: Path) -> bool:
    """A process that is ending keeps its cgroup busy a little longer than it can be seen."""
    for inner, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(inner)
    return not folder.exists()


def processes_of(episode: str) -> list[int]:
    """Live processes that inherited the episode's ID in their environment."""
    mark = f"EBPFAUDIT_EPISODE={episode}\0".encode()
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in Path(entry.path, "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def read(trail: Path) -> tuple[list[Any], Any, list[str]]:
    """Everything in a trail, its `end` line, and what is wrong with it."""
    from ebpfaudit.trail.reader import Trail

    with Trail(trail) as recorded:
        items = list(recorded)
    return items, recorded.end, [str(problem) for problem in recorded.problems]


def until(condition: Callable[[], Any], what: str, timeout_s: float = 30) -> Any:
    """Waits for something true, and returns it."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError(f"waited {timeout_s} s in vain until {what}")
