"""Start-up: from the command to its first event; and the auditor's peak memory."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from benchmarks.audit import EBPFAUDIT, OPEN_PROFILE, profile, quantile
from ebpfaudit.events import Exec
from ebpfaudit.trail.reader import read_trail

FIRST_EVENT_LIMIT_S, PEAK_LIMIT_MIB = 0.6, 64


def measure(folder: Path, count: int) -> tuple[list[float], list[float]]:
    """(seconds from the start of `ebpfaudit` to the command's exec, peak MiB of the auditor), each `count` times."""
    path = profile(folder, OPEN_PROFILE)
    first, peaks = [], []
    for n in range(count):
        trail = folder / f"start-{n}.jsonl.zst"
        began_ns = time.monotonic_ns()
        done = subprocess.run(
            [*EBPFAUDIT, "run", "-q", "-p", path, "--trail", str(trail), "--", "/bin/sh", "-c",
             "grep VmHWM /proc/$PPID/status"],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        execs = [item for item in read_trail(trail) if isinstance(item, Exec) and not item.error]
        first.append((execs[0].ts_ns - began_ns) / 1e9)
        peaks.append(int(done.stdout.split()[1]) / 1024)
    return first, peaks


def report(folder: Path, count: int = 11) -> None:
    first, peaks = measure(folder, count)
    print("\nStart-up and memory")
    print(
        f"  first event after {min(first):.2f} s at best, {quantile(first, 0.5):.2f} s p50, {max(first):.2f} s at worst "
        f"(target {FIRST_EVENT_LIMIT_S} s)"
    )
    print(f"  auditor's peak memory {max(peaks):.0f} MiB (target {PEAK_LIMIT_MIB})")
