"""What an audit costs the audited: loops of one act, bare, untagged on an audited host, and tagged.

The three are run in turn, several times; of each the least is kept (others on the machine only add).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.audit import OPEN_PROFILE, audited, build, host_under_audit, pinned, profile

LIMITS = {  # (act, state): at most so many times the bare act
    ("ioctl", "untagged"): 1.6, ("gpu ioctl", "tagged"): 2.3, ("udp connect", "tagged"): 1.3,
    ("tcp connect", "tagged"): 1.3, ("spawn", "tagged"): 1.12,
}  # fmt: skip
GETPPID_LIMIT_NS = 10.0
_LOOPS = ("ioctl", "getppid", "udp", "tcp", "spawn")
_NAMES = {
    "ioctl": "ioctl",
    "getppid": "getppid",
    "udp": "udp connect",
    "tcp": "tcp connect",
    "spawn": "spawn",
}


def _figures(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in (line.split() for line in text.splitlines())}


def _keep_least(best: dict[str, float], figures: dict[str, float]) -> None:
    for name, value in figures.items():
        best[name] = min(value, best.get(name, value))


def measure(folder: Path, rounds: int) -> list[tuple[str, str, float, float]]:
    """(act, state, bare ns, ratio) for every act and state."""
    workload, open_profile = build("workload", folder), profile(folder, OPEN_PROFILE)
    bare: dict[str, float] = {}
    untagged: dict[str, float] = {}
    tagged: dict[str, float] = {}
    counted: dict[str, float] = {}
    for _ in range(rounds):
        loops = pinned([workload, "/dev/null", *_LOOPS])
        _keep_least(bare, _figures(subprocess.run(loops, capture_output=True, text=True, check=True).stdout))
        _keep_least(tagged, _figures(audited(folder, open_profile, loops)[1]))
        with host_under_audit(folder, open_profile):
            _keep_least(
                untagged, _figures(subprocess.run(loops, capture_output=True, text=True, check=True).stdout)
            )
        gpu = pinned([workload, "/dev/null", "ioctl"])
        _keep_least(
            counted, _figures(audited(folder, open_profile, gpu, "--gpu-device", "/dev/null=nvidia")[1])
        )
    rows = []
    for loop in _LOOPS:
        rows.append((_NAMES[loop], "untagged", bare[loop], untagged[loop] / bare[loop]))
        rows.append((_NAMES[loop], "tagged", bare[loop], tagged[loop] / bare[loop]))
    rows.append(("gpu ioctl", "tagged", bare["ioctl"], counted["ioctl"] / bare["ioctl"]))
    return rows


def report(folder: Path, rounds: int = 3) -> None:
    print("\nSlow-down of the audited (ratio to the bare act in the same run)")
    for act, state, bare, ratio in measure(folder, rounds):
        limit = LIMITS.get((act, state))
        if (act, state) == ("getppid", "untagged"):
            print(
                f"  {act:12} {state:9} {bare:10.0f} ns  + {bare * (ratio - 1):5.1f} ns   (at most +{GETPPID_LIMIT_NS:.0f})"
            )
            continue
        print(
            f"  {act:12} {state:9} {bare:10.0f} ns  x {ratio:5.2f}"
            + (f"      (at most x {limit})" if limit else "")
        )
