"""Runs workloads, each on a stage of its own, some at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .catalogue import Workload
from .outcome import Outcome
from .stage import CHECKOUT


@dataclass(frozen=True)
class Played:
    """A workload, and what became of it; without an outcome, `reason` says why there is none."""

    workload: Workload
    outcome: Outcome | None = None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """ "fine", "FALSE ALARM", "failed" or "not run"."""
        if self.outcome is not None:
            return self.outcome.verdict(self.workload)
        return "not run" if self.workload.missing() else "failed"


class Player:
    """`with Player(profile) as player`: on the way out, whatever the reason, every stage is taken down."""

    def __init__(self, profile: str, jobs: int = 1) -> None:
        is_path = "/" in profile or profile.endswith(".toml")
        self._profile = str(Path(profile).resolve()) if is_path else profile
        self._jobs = jobs
        self._lock = threading.Lock()
        self._stages: set[subprocess.Popen[bytes]] = set()
        self._closing = False

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_reason: object) -> None:
        with self._lock:
            self._closing = True
            stages = list(self._stages)
        for stage in stages:
            stage.terminate()
        for stage in stages:
            stage.wait()

    def play(self, workloads: Iterable[Workload]) -> Iterator[Played]:
        """In the order given."""
        pool = ThreadPoolExecutor(self._jobs)
        try:
            yield from pool.map(self.play_one, workloads)
        finally:
            self.__exit__()
            pool.shutdown(cancel_futures=True)

    def play_one(self, workload: Workload, *, plain: bool = True) -> Played:
        """Under audit, and before that without, where `plain`."""
        if reason := workload.missing():
            return Played(workload, reason=reason)
        command = [
            "unshare", "--net", "--mount", "--propagation", "private", "tests/workloads/stage.sh", sys.executable,
            workload.name, self._profile, *(["--plain"] * plain),
        ]  # fmt: skip
        with self._lock:
            if self._closing:
                return Played(workload, reason="interrupted")
            # A session of its own: Ctrl-C reaches us, and we take the stages down.
            stage = subprocess.Popen(
                command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
            self._stages.add(stage)
        out, err = stage.communicate()
        with self._lock:
            self._stages.discard(stage)
        if stage.returncode:
            return Played(
                workload, reason=err.decode("utf-8", "replace").strip() or f"code {stage.returncode}"
            )
        return Played(workload, msgspec.json.decode(out, type=Outcome))
