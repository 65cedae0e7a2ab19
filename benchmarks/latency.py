"""From the offending system call to the decision, to the kill, to the last process gone.

A harness, the episode's root, starts trees of waiting processes; the top of each connects to a forbidden address
(the metadata service), and the whole tree is killed. Times are the enforcement records' own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.audit import OPEN_PROFILE, audited, build, pinned, profile, quantile

TARGETS_MS = {1: 3.0, 50: 12.0, 500: 60.0}
"""Last process gone, p99."""
_HARNESS = """
import subprocess, sys
tree, size, count, producer, rate = sys.argv[1:6]
noise = subprocess.Popen([producer, rate, "600"]) if int(rate) else None
for _ in range(int(count)):
    subprocess.run([tree, size])
if noise:
    noise.kill(); noise.wait()
"""
# The producer names loopback only; the trees are judged by [network], after the fact: decision "deny" stays the
# kernel's, and the kill is the evaluator's, so that what is timed is the way through Python.
_PROFILE = (
    OPEN_PROFILE.replace('kill = ["metadata"]', "")
    + """
[[rule]]
id = "metadata"
on = "connect"
when = { dst = "metadata" }
action = "kill"
"""
)


def times_ms(folder: Path, size: str, count: int, rate: int) -> list[dict[str, float]]:
    """The enforcement records of so many kills."""
    tree, producer = build("tree", folder), build("producer", folder)
    command = pinned([sys.executable, "-c", _HARNESS, tree, size, str(count), producer, str(rate)])
    result, _ = audited(folder, profile(folder, _PROFILE), command)
    done = [each for each in result["enforcements"] if each["result"] in ("killed", "partial")]
    survivors = [each for each in done if each["survivors"]]
    if survivors:
        print(f"  SURVIVORS: {survivors}")
    return done


def report(folder: Path, count: int = 60) -> None:
    print("\nTime from the offending call, ms (p50 / p99)")
    print(f"  {'tree':>6} {'background':>12} {'kills':>6} {'decided':>16} {'killed':>16} {'last gone':>16}")
    for rate in (0, 20_000):
        for size, target in TARGETS_MS.items():
            kills = max(10, count if size < 500 else count // 3)
            done = times_ms(folder, str(size), kills, rate)
            columns = [
                f"{quantile(values, 0.5):7.2f} /{quantile(values, 0.99):7.2f}"
                for values in (
                    [each[f"{name}_ms"] for each in done] for name in ("decided", "killed", "gone")
                )
            ]
            print(
                f"  {size:6} {rate:10,}/s {len(done):6} {' '.join(columns)}   (gone p99 at most {target:g})"
            )
