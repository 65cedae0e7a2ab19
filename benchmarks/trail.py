"""A trail's size and cost on ordinary agent work: `python -m benchmarks.trail` (no root, no bcc).

The work is simulated, so that it can be repeated exactly at any rate: a coding agent that compiles, tests,
installs and commits. Its command lines are those of gcc 12, git 2.39, pip 23 and pytest 8 as `strace -f`
shows them; names of temporary files, process numbers, ports and times are random, as they are in life.
benchmarks/size.py measures a recorded run instead.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

from ebpfaudit.events import Connect, Event, Exec, Exit, Fork
from ebpfaudit.process import TICK_NS
from ebpfaudit.trail.format import Header
from ebpfaudit.trail.reader import read_trail
from ebpfaudit.trail.writer import TrailWriter

LIMIT_BYTES = 12.0
_EVENTS = 100_000
_RATES = (500, 2_000, 5_000, 10_000)

_GCC = "/usr/lib/gcc/x86_64-linux-gnu/12"
_CRT = f"{_GCC}/../../../x86_64-linux-gnu"
_GIT = "/usr/lib/git-core/git"
_PYTHON = "/usr/bin/python3.11"
_BUILD_HOOK = "/usr/lib/python3/dist-packages/pip/_vendor/pyproject_hooks/_in_process/_in_process.py"
_UNITS = ("parse", "lex", "ast", "emit", "main", "table", "buffer", "net", "log", "config", "path", "hash")
_TESTS = ("config", "server", "client", "parse", "render", "cli", "cache", "retry")
_PACKAGES = ("requests", "numpy", "idna", "urllib3", "attrs", "pluggy", "packaging", "iniconfig")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

Steps = Iterator[float]
"""A script's progress: each value is how long it waits, in no particular unit."""


class Process:
    """One simulated process: its acts become events of `work`."""

    def __init__(self, work: Work, pid: int, start: int, ppid: int) -> None:
        self.work, self.pid, self.start, self.ppid = work, pid, start, ppid
        self.comm = ""
        self.cwd = "/home/agent/project"

    def exec(self, exe: str, *argv: str, searched: tuple[str, ...] = ()) -> None:
        """Become `exe`, after not finding it in the folders `searched`, as execvp(3) does."""
        work, who = self.work, (self.pid, self.start)
        for folder in searched:
            missing = f"{folder}/{argv[0]}"
            work.emit(Exec(work.now, *who, 0, missing, (), "", self.comm, 1000, error="ENOENT"))
        self.comm = exe.rpartition("/")[2][:15]
        inode = 260_000 + sum(exe.encode()) % 5000
        work.emit(Exec(work.now, *who, self.ppid, exe, argv, self.cwd, self.comm, 1000, "254:0", inode))

    def connect(self, dst: str, port: int, result: str = "ok") -> None:
        work, who = self.work, (self.pid, self.start, self.comm)
        work.emit(Connect(work.now, *who, "ipv4", "tcp", dst, port, decision="allow"))
        work.emit(Connect(work.now, *who, "ipv4", "tcp", dst, port, "done", result))

    def look_up(self) -> None:
        """Ask for a name, as glibc does: the cache daemon, twice, then the resolver."""
        work, who = self.work, (self.pid, self.start, self.comm)
        for _ in range(2):
            work.emit(Connect(work.now, *who, "unix", "stream", "/var/run/nscd/socket", decision="allow"))
        work.emit(Connect(work.now, *who, "ipv4", "udp", "127.0.0.53", 53, decision="allow"))

    def run(self, script: Callable[[Process], Steps]) -> Steps:
        """Fork, and wait for the child that does `script`."""
        child = self.work.fork(self)
        yield 1
        yield from script(child)
        self.work.emit(Exit(self.work.now, child.pid, child.start))

    def spawn(self, exe: str, *argv: str) -> Steps:
        """Run one program that does nothing else of note."""

        def script(child: Process) -> Steps:
            child.exec(exe, *argv)
            yield 3

        return self.run(script)


class Work:
    """The clock, and everything that happened."""

    def __init__(self, rate: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.events: list[Event] = []
        self._gap_us = 1e6 / rate
        self._now_us = 8_412_337_104_512
        self._next_pid = 14_210

    @property
    def now(self) -> int:
        return self._now_us * 1000

    def emit(self, event: Event) -> None:
        self.events.append(event)
        # Some events are microseconds apart, some milliseconds: log-normal around the mean.
        self._now_us += 1 + int(self.random.lognormvariate(-0.5, 1) * self._gap_us)

    def fork(self, parent: Process) -> Process:
        self._next_pid += 1 if self.random.random() < 0.9 else self.random.randrange(2, 6)
        child = Process(self, self._next_pid, self.now // TICK_NS, parent.pid)
        child.comm, child.cwd = parent.comm, parent.cwd
        self.emit(Fork(self.now, parent.pid, parent.start, child.pid, child.start))
        return child

    def together(self, running: list[Steps]) -> Steps:
        """Scripts side by side, as in `make -j` and in a pipeline."""
        order = count()
        ready = [(self.random.random(), next(order), steps) for steps in running]
        while ready:
            when, _, steps = heappop(ready)
            pause = next(steps, None)
            if pause is not None:
                heappush(ready, (when + pause * self.random.random(), next(order), steps))
                yield 0

    def name(self, length: int = 6) -> str:
        """Of a temporary file."""
        return "".join(self.random.choice(_LETTERS) for _ in range(length))


def compile_unit(unit: str) -> Callable[[Process], Steps]:
    source, made = f"src/{unit}.c", f"build/{unit}.o"

    def script(gcc: Process) -> Steps:
        flags = ("-Wall", "-O2", "-g", "-Iinclude", "-c", "-o", made, source)
        gcc.exec("/usr/bin/x86_64-linux-gnu-gcc", "gcc", *flags, searched=("/usr/local/bin",))
        assembly = f"/tmp/cc{gcc.work.name()}.s"
        yield from gcc.spawn(
            f"{_GCC}/cc1", f"{_GCC}/cc1", "-quiet", "-I", "include", "-imultiarch", "x86_64-linux-gnu", source,
            "-quiet", "-dumpdir", "build/", "-dumpbase", f"{unit}.c", "-dumpbase-ext", ".c", "-mtune=generic",
            "-march=x86-64", "-g", "-O2", "-Wall", "-fasynchronous-unwind-tables", "-o", assembly,
        )  # fmt: skip
        assembler = ("as", "-I", "include", "--gdwarf-5", "--64", "-o", made, assembly)
        yield from gcc.spawn("/usr/bin/x86_64-linux-gnu-as", *assembler)

    return script


def link(gcc: Process) -> Steps:
    objects = [f"build/{unit}.o" for unit in _UNITS]
    gcc.exec(
        "/usr/bin/x86_64-linux-gnu-gcc", "gcc", "-o", "build/project", *objects, searched=("/usr/local/bin",)
    )
    passed = [f"-plugin-opt=-pass-through=-l{name}" for name in ("gcc", "gcc_s", "c", "gcc", "gcc_s")]
    argv = (
        "-plugin", f"{_GCC}/liblto_plugin.so", f"-plugin-opt={_GCC}/lto-wrapper",
        f"-plugin-opt=-fresolution=/tmp/cc{gcc.work.name()}.res", *passed, "--build-id", "--eh-frame-hdr",
        "-m", "elf_x86_64", "--hash-style=gnu", "--as-needed", "-dynamic-linker", "/lib64/ld-linux-x86-64.so.2",
        "-pie", "-o", "build/project", f"{_CRT}/Scrt1.o", f"{_CRT}/crti.o", f"{_GCC}/crtbeginS.o", f"-L{_GCC}",
        *objects, "-lgcc", "--push-state", "--as-needed", "-lgcc_s", "--pop-state", "-lc", f"{_GCC}/crtendS.o",
    )  # fmt: skip

    def collect(collect2: Process) -> Steps:
        collect2.exec(f"{_GCC}/collect2", f"{_GCC}/collect2", *argv)
        yield from collect2.spawn("/usr/bin/x86_64-linux-gnu-ld", "/usr/bin/ld", *argv)

    yield from gcc.run(collect)


def make(process: Process) -> Steps:
    work = process.work
    process.exec("/usr/bin/make", "make", "-j4")
    units = work.random.sample(_UNITS, len(_UNITS))
    for first in range(0, len(units), 4):
        yield from work.together([process.run(compile_unit(unit)) for unit in units[first : first + 4]])
    yield from process.run(link)


def pytest(process: Process) -> Steps:
    choose = process.work.random
    process.exec(_PYTHON, "python3", "-m", "pytest", "-q", "tests/")
    for test in _TESTS:
        port = choose.randrange(32768, 60999)
        for _ in range(choose.randrange(1, 5)):
            process.connect("127.0.0.1", port, choose.choice(("ok", "ok", "ok", "refused")))
            yield 1
        for place in range(choose.randrange(4)):
            folder = f"/tmp/pytest-of-agent/pytest-{choose.randrange(40)}/test_{test}{place}"
            yield from process.spawn(
                _PYTHON, "/usr/bin/python3", "-m", f"project.{test}", "--config", f"{folder}/config.toml"
            )


def pip(process: Process) -> Steps:
    work = process.work
    names = work.random.sample(_PACKAGES, 3)
    index = "http://127.0.0.1:3141/simple"
    process.exec(_PYTHON, "python3", "-m", "pip", "install", "--index-url", index, *names)
    yield from process.spawn("/usr/bin/dash", "/bin/sh", "-c", "uname -rs")
    for name in names:
        process.look_up()
        process.connect("127.0.0.1", 3141)
        yield 3
        process.cwd = f"/tmp/pip-install-{work.name(8).lower()}/{name}_{work.random.randbytes(16).hex()}"
        yield from process.spawn(
            _PYTHON, "/usr/bin/python3", _BUILD_HOOK, "build_wheel", f"/tmp/tmp{work.name(8).lower()}"
        )


def git(process: Process) -> Steps:
    choose = process.work.random
    message = f"Fix {choose.choice(_UNITS)}: case {choose.randrange(500)}"
    verbs = (
        ("status", "--porcelain=v1"), ("diff", "--stat"), ("add", "-A"), ("log", "--oneline", "-20"),
        ("commit", "-q", "-m", message), ("fetch", "--quiet", "origin"),
    )  # fmt: skip
    verb = choose.choice(verbs)
    process.exec("/usr/bin/git", "git", *verb, searched=("/usr/local/bin",))

    def remote(helper: Process) -> Steps:
        url = "https://git.example.com/agent/project.git"
        helper.exec(f"{_GIT}-remote-https", f"{_GIT}-remote-https", "origin", url)
        helper.look_up()
        helper.connect("10.20.0.5", 3128)
        yield 5

    if verb[0] == "fetch":
        yield from process.run(remote)
    if verb[0] in ("commit", "fetch"):
        yield from process.spawn("/usr/bin/git", _GIT, "maintenance", "run", "--auto", "--quiet")
    yield 1


def shell(process: Process) -> Steps:
    """What an agent types in between: a pipeline or two of text tools."""
    work = process.work
    unit, first = work.random.choice(_UNITS), work.random.randrange(400)
    lines = (
        f"grep -rn {unit}_{work.random.choice(_TESTS)} src/ | head -50", f"cat src/{unit}.c", "ls -la build",
        f"find . -name {unit}*.c -newer Makefile | sort | wc -l", f"sed -n {first},{first + 80}p src/{unit}.c",
    )  # fmt: skip
    line = work.random.choice(lines)
    process.exec("/usr/bin/bash", "bash", "-lc", f"cd /home/agent/project && {line}")
    commands = [command.split() for command in line.split(" | ")]
    yield from work.together([process.spawn(f"/usr/bin/{argv[0]}", *argv) for argv in commands])


def workload(events: int, rate: int, seed: int = 7) -> list[Event]:
    """The first `events` events of an agent at work, about `rate` of them in a second."""
    work = Work(rate, seed)
    root = Process(work, 14_200, work.now // TICK_NS, 14_199)
    root.comm = "python3"
    while len(work.events) < events:
        act = work.random.choice((make, pytest, pip, git, git, git, shell, shell, shell, shell))
        for _ in root.run(act):
            pass
    return work.events[:events]


def header() -> Header:
    names = ("version", "host", "boot_id", "kernel", "episode", "profile", "profile_text", "profile_hash")
    return Header(realtime_ns=0, monotonic_ns=0, **dict.fromkeys(names, "benchmark"))


def record(path: Path, events: list[Event]) -> float:
    """Write a trail as if the events came at their times. Returns its bytes per event."""
    now_ns = events[0].ts_ns
    writer = TrailWriter(path, header(), clock=lambda: now_ns)
    for start in range(0, len(events), 20):
        writer.extend(events[start : start + 20])
        now_ns = events[min(start + 20, len(events) - 1)].ts_ns
        writer.tick(now_ns)
    writer.close("benchmark", 0, complete=True)
    return path.stat().st_size / len(events)


def report(folder: Path) -> None:
    print(f"\nTrail: simulated agent work, {_EVENTS:,} events (at most {LIMIT_BYTES:g} bytes each)")
    for rate in _RATES:
        events = workload(_EVENTS, rate)
        size = record(folder / f"{rate}.jsonl.zst", events)
        print(f"  {rate:6,} events/s {size:6.2f} bytes an event")
    path = folder / "flood.jsonl.zst"
    writer = TrailWriter(path, header())
    began = time.process_time()
    for start in range(0, len(events), 500):
        writer.extend(events[start : start + 500])
    writer.flush(sync=False)
    written_us = (time.process_time() - began) / len(events) * 1e6
    writer.close("benchmark", 0, complete=True)
    size = path.stat().st_size / len(events)
    began = time.process_time()
    with read_trail(path) as trail:
        read = sum(1 for _ in trail)
    read_us = (time.process_time() - began) / read * 1e6
    print(
        f"  as fast as it goes: {written_us:.2f} us to write, {read_us:.2f} us to read, {size:.2f} bytes an event"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        report(Path(name))
