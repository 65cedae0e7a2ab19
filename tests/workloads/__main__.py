"""`python -m tests.workloads`: how many false alarms a profile raises on ordinary work (root)."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .catalogue import workloads
from .player import Played, Player
from .report import line, page, summary

_POLICY = Path("/usr/sbin/policy-rc.d")


def main() -> int:
    """1 if there was a false alarm, or a workload did not do its work and so shows nothing."""
    parser = argparse.ArgumentParser(prog="python -m tests.workloads", description=__doc__)
    parser.add_argument(
        "--install", action="store_true", help="install the tools that are missing, with apt-get"
    )
    parser.add_argument(
        "--profile", default="coding-agent", metavar="NAME|FILE", help="default: coding-agent"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose family or name contains it")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there, as Markdown")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="so many at a time; default: 2")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("workloads: they run under audit, so this needs root")
    chosen = [each for each in workloads() if arguments.only in f"{each.family}: {each.name}"]
    if not chosen:
        raise SystemExit(f"workloads: no family or name contains {arguments.only!r}")
    if arguments.install:
        _install(sorted({package for workload in chosen for package in workload.packages()}))
    done: list[Played] = []
    with Player(arguments.profile, arguments.jobs) as player:
        for played in player.play(chosen):
            print(line(played), flush=True)
            done.append(played)
    if arguments.write:
        arguments.write.write_text(page(done, arguments.profile), encoding="utf-8")
    print(f"\n{summary(done, arguments.profile)}")
    return int(any(played.verdict in ("FALSE ALARM", "failed") for played in done))


def _install(packages: list[str]) -> None:
    if not packages:
        return
    print(f"workloads: installing {' '.join(packages)}", file=sys.stderr)
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_service_starts():
        subprocess.run([*apt, "update"], env=environment, stdout=subprocess.DEVNULL, check=True)
        subprocess.run(
            [*apt, "install", "-y", "--no-install-recommends", *packages],
            env=environment, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """The host gets the databases' programs, and none of their services. A policy that is there stays as it is."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    try:
        _POLICY.chmod(0o755)
        yield
    finally:
        _POLICY.unlink()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
