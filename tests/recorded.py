"""Trails for tests: a header, events of every kind, and a writer whose clock stands still."""

from __future__ import annotations

from hashlib import sha256

from ebpfaudit import events as e
from ebpfaudit.trail.format import Header
from ebpfaudit.trail.writer import TrailWriter
from ebpfaudit.verdicts import Enforcement, Verdict

PROFILE = 'name = "quiet"\ndescription = ""\n\n[network]\ndefault = "deny"\nallow = ["loopback"]\n'
HEADER = Header(
    version="0.1.0",
    host="box",
    boot_id="7c1f8b9e-0000-4000-8000-000000000000",
    kernel="6.1.0-18-amd64",
    realtime_ns=1_790_000_000_000_000_000,
    monotonic_ns=5_000_000_000,
    episode="ep-1",
    profile="quiet",
    profile_text=PROFILE,
    profile_hash=sha256(PROFILE.encode()).hexdigest(),
    coverage=("exec: sched_process_exec",),
    step="build",
    command=("ebpfaudit", "run", "--", "true"),
)

EVERY_KIND = [
    e.EpisodeStart(5_000_000_000, "ep-1", "quiet", 100, 40, step="build"),
    e.Seen(5_000_001_000, 99, 39, 1, "/bin/sh", ("sh",), "/", "sh", 0),
    e.Exec(5_000_002_000, 100, 40, 99, "/usr/bin/python3", ("python3", "-c", "pass"), "/w", "python3", 1000),
    e.Fork(5_000_003_000, 100, 40, 101, 41),
    e.Exec(5_000_004_000, 101, 41, 0, "/bin/git", (), "", "python3", 1000, error="ENOENT"),
    e.Connect(5_000_005_000, 101, 41, "git", "ipv4", "tcp", "203.0.113.9", 443, decision="deny"),
    Verdict(5, "deny", "network", "dst", "203.0.113.9:443/tcp", "default"),
    Enforcement(5, "deny", "tree", "network", "denied", "probe", detected_ns=5_000_005_000),
    e.Gpu(5_000_006_000, 101, 41, "git", "open", "nvidia:0", result="EPERM"),
    e.GpuCount(5_000_007_000, 101, 41, "submit", "nvidia:0", 12),
    e.CgroupMove(5_000_008_000, 101, 41, "/elsewhere", False, 100),
    e.Step(5_000_009_000, "test"),
    e.Lost(5_000_010_000, 3),
    e.Exit(5_000_011_000, 101, 41, code=1),
    e.EpisodeEnd(5_000_012_000, "exited", 1),
]


class Clock:
    """CLOCK_MONOTONIC, as far as a writer can tell."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000

    def __call__(self) -> int:
        return self.now_ns


def exits(count, first=0, pid=1000):
    """Events that take little space, and differ."""
    return [
        e.Exit(1_000_000_000 + number * 1000, pid + number, number) for number in range(first, first + count)
    ]


def open_writer(path, header=HEADER, clock=None):
    return TrailWriter(path, header, clock=clock or Clock())


def write_trail(path, *frames, complete=True, header=HEADER):
    """A closed trail with a frame for each list of items. Returns its head."""
    writer = open_writer(path, header)
    for items in frames:
        writer.extend(items)
        writer.flush(sync=False)
    return writer.close("exited", 0, complete=complete)
