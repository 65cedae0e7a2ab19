"""The facts that cross from the kernel to Python. Data only: no behaviour, no clock, no /proc.

An event says nothing of its place in a stream: its number within an episode is its position, counted
from 0, and both the trail and the evaluator count it. Nor does it name its episode: a trail holds one
episode, and the pipeline carries (episode number, event) pairs.

Times are CLOCK_MONOTONIC nanoseconds (`ts_ns`); `pid` is the thread group's; `start` is explained in
`process.ProcessKey`. All text that a process can choose (argv, paths, comm, socket names) is already
in the escaped form of `text.show`: printable, and exactly reversible.

Fields are ordered for positional construction on the hot path; new ones go to the end, with a default.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from ebpfaudit.process import ProcessKey

Decision = Literal["", "allow", "deny", "kill"]
"""What the probe itself did, before Python heard of it. "" where no section was in force."""


class _Event(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="kind"):
    ts_ns: int
    pid: int
    start: int

    @property
    def process(self) -> ProcessKey:
        return ProcessKey(self.pid, self.start)


class Fork(_Event, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="fork"):
    """A new process (never a thread). `pid`/`start` are the parent's."""

    child: int
    child_start: int


class Exec(_Event, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="exec"):
    """A program replaced this process's image, or (`error` set) failed to."""

    ppid: int
    exe: str
    """Path as the kernel knows it; "memfd:name" for a memory file. On failure: the name asked for."""
    argv: tuple[str, ...]
    cwd: str
    comm: str
    uid: int
    dev: str = ""
    """Device that holds the executable, "major:minor"."""
    ino: int = 0
    filename: str = ""
    """What execve was asked for, if not equal to `exe`: the script of a `#!` line, a symbolic link."""
    script: bool = False
    """`exe` is an interpreter that the kernel chose for the script `filename`."""
    memfd: bool = False
    deleted: bool = False
    """The executable had no name left in the file system (a memfd never has)."""
    argv_bytes: int = 0
    """Length of the whole argument block, set only where `argv` is not all of it."""
    argv_truncated: bool = False
    error: str = ""
    """Name of the errno of a failed exec, such as "ENOENT"."""
    decision: Decision = ""
    """"kill": an [exec] entry named this file, and it was killed before its first instruction."""
    stdio: str = ""
    """Address of the peer, where stdin, stdout or stderr is an internet socket (IPv4-mapped as IPv4; "0.0.0.0" or
    "::" if not connected)."""
    stdio_port: int = 0


class Identity(_Event, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="identity"):
    """What a program that this process runs is by its content. Found out after its exec, beside the stream."""

    path: str
    """Of the executable, or of what the dynamic linker or an interpreter was told to run."""
    sha256: str = ""
    """In hexadecimal; "" if it could not be read: see `error`."""
    same_as: tuple[str, ...] = ()
    """Paths, as profiles name them, of files on the host that had the same content."""
    error: str = ""
    """Why the content is not known, such as "ENOENT"."""


class Exit(_Event, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="exit"):
    """The last thread of a process is gone."""

    code: int = 0
    signal: int = 0


class Connect(_Event, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="connect"):
    """A destination was named: TCP or UDP connect, unconnected UDP send, or a Unix socket.

    `phase` "attempt" comes before anything leaves the host and proves no more than the attempt;
    "done" (TCP, and failures of the others) carries how it ended in `result`.
    """

    comm: str
    family: Literal["ipv4", "ipv6", "unix"]
    protocol: str
    """"tcp", "udp", "icmp", another IP protocol's number, or "stream"/"dgram"/"seqpacket" for Unix."""
    dst: str
    """Address (IPv4-mapped IPv6 is written as IPv4), or the Unix socket's path ("@name" if abstract)."""
    port: int = 0
    phase: Literal["attempt", "done"] = "attempt"
    result: str = ""
    """"" (attempt), "ok", "denied", "refused", "timeout", "unreachable", "reset", "aborted", or the
    name of an errno."""
    decision: Decision = ""


class Gpu(_Event, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="gpu"):
    """A GPU device was opened, or its driver asked for something (GPU kinds: `gpu.KINDS`)."""

    comm: str
    event: str
    """"open", "enumerate", "context", "channel", "alloc", "submit", "admin" or "unknown"."""
    device: str
    """"nvidia:0", "nvidia:ctl", "nvidia:uvm", "amd:0", "kfd", ...: see `gpu.devices`."""
    command: str = ""
    """Name from the command table, or the number in hexadecimal."""
    uuid: str = ""
    bytes: int = 0
    result: str = ""
    """"" for success, else an errno's name, or "status:0x56" where the driver answers in the argument."""
    decision: Decision = ""


class GpuCount(_Event, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="gpu-count"):
    """How many more ioctls of one kind a process issued since it was last counted, and for how much."""

    event: str
    device: str
    count: int
    bytes: int = 0


class CgroupMove(_Event, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="cgroup-move"):
    """A tagged process changed cgroup, or a process was tagged because it came into an episode's."""

    path: str
    inside: bool
    """The new cgroup still belongs to the episode."""
    by_pid: int
    """Who wrote the move; may be the process itself."""


class Seen(_Event, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="seen"):
    """A process that was already running when its episode (or the trace) began, from /proc."""

    ppid: int
    exe: str
    argv: tuple[str, ...]
    cwd: str
    comm: str
    uid: int


class Lost(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="lost"):
    """The probes could not hand over `count` records of this episode: a gap, at or before `ts_ns`."""

    ts_ns: int
    count: int
    what: str = "ring buffer full"


class EpisodeStart(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="episode-start"):
    ts_ns: int
    episode: str
    profile: str
    pid: int
    start: int
    """The episode's root process."""
    source: str = "launched"
    """How the tag was learned: launched, adopted-pid, adopted-cgroup, environment, container."""
    step: str = ""


class EpisodeEnd(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="episode-end"):
    ts_ns: int
    reason: str
    """"exited", "killed by policy", "interrupted", or what else ended it."""
    code: int = 0


class Step(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="step"):
    """From here on the episode is in this step."""

    ts_ns: int
    step: str


ProcessEvent = Fork | Exec | Identity | Exit | Connect | Gpu | GpuCount | CgroupMove | Seen
Event = ProcessEvent | Lost | EpisodeStart | EpisodeEnd | Step
