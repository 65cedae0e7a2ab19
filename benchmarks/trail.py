"""A trail's size and cost on ordinary agent work: bytes, and microseconds, for each event.

The work is simulated, so that it can be repeated exactly: a coding agent that compiles, tests, installs and
commits. The command lines are those that gcc 12, git 2.39, pip 23 and pytest 8 really use (taken with
`strace -f`); names of temporary files, process numbers, ports and the nanoseconds are random, as they are
in life. A recorded run shows the same size: see docs/trail-format.md.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count

from ebpfaudit.events import Connect, Event, Exec, Exit, Fork
from ebpfaudit.process import TICK_NS

_GCC = "/usr/lib/gcc/x86_64-linux-gnu/12"
_UNITS = ("parse", "lex", "ast", "emit", "main", "table", "buffer", "net", "log", "config", "path", "hash")
_TESTS = ("config", "server", "client", "parse", "render", "cli", "cache", "retry")
_PACKAGES = ("requests", "numpy", "idna", "urllib3", "attrs", "pluggy", "packaging", "iniconfig")
_INODES = {name: 262_144 + 37 * place for place, name in enumerate((
    "bash", "dash", "make", "gcc", "cc1", "as", "collect2", "ld", "git", "python3.11", "grep", "sed", "find", "cat", "ls", "head",
    "remote-https", "xargs", "sort", "wc"))}  # fmt: skip


class _Process:
    """One simulated process: what it does to the clock and to the list of events."""

    def __init__(self, work: Work, pid: int, start: int, ppid: int) -> None:
        self.work, self.pid, self.start, self.ppid = work, pid, start, ppid
        self.comm = ""
        self.cwd = "/home/agent/project"

    def exec(self, exe: str, argv: tuple[str, ...], searched: tuple[str, ...] = ()) -> None:
        name = exe.rsplit("/", 1)[-1]
        for folder in searched:
            self.emit(Exec(self.work.now, self.pid, self.start, self.ppid, f"{folder}/{argv[0]}", argv,
                           self.cwd, self.comm, 1000, error="ENOENT"))  # fmt: skip
        self.comm = name[:15]
        self.emit(Exec(self.work.now, self.pid, self.start, self.ppid, exe, argv, self.cwd, self.comm,
                       1000, dev="259:2", ino=_INODES[name.removeprefix("x86_64-linux-gnu-").removeprefix("git-")]))  # fmt: skip

    def connect(self, dst: str, port: int, result: str = "ok") -> None:
        for phase in ("attempt", "done"):
            done = phase == "done"
            self.emit(Connect(self.work.now, self.pid, self.start, self.comm, "ipv4", "tcp", dst, port,
                              phase, result if done else "", "" if done else "allow"))  # fmt: skip

    def lookup(self) -> None:
        self.emit(Connect(self.work.now, self.pid, self.start, self.comm, "unix", "stream", "/var/run/nscd/socket",
                          decision="allow"))  # fmt: skip
        self.emit(Connect(self.work.now, self.pid, self.start, self.comm, "unix", "stream", "/var/run/nscd/socket",
                          phase="done", result="ENOENT"))  # fmt: skip

    def emit(self, event: Event) -> None:
        self.work.emit(event)


Steps = Iterator[float]
Script = Callable[[_Process], Steps]


class Work:
    """The clock, and every process that runs. A script yields how long it thinks, in its own units."""

    def __init__(self, rate: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 8_412_337_104_512_377
        self.events: list[Event] = []
        self._gap_ns = 1e9 / rate
        self._next_pid = 14_210

    def emit(self, event: Event) -> None:
        self.events.append(event)
        # Some events are microseconds apart, some milliseconds: log-normal around the mean.
        self.now += int(self.random.lognormvariate(0, 1) / 1.65 * self._gap_ns) + self.random.randrange(1, 1000)

    def fork(self, parent: _Process) -> _Process:
        self._next_pid += 1 if self.random.random() < 0.9 else self.random.randrange(2, 6)
        start = self.now // TICK_NS
        child = _Process(self, self._next_pid, start, parent.pid)
        child.comm, child.cwd = parent.comm, parent.cwd
        self.emit(Fork(self.now, parent.pid, parent.start, child.pid, child.start))
        return child

    def name(self, length: int = 6) -> str:
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        return "".join(self.random.choice(letters) for _ in range(length))


def run(process: _Process, script: Script) -> Steps:
    """Fork, let the child run to its exit, come back: what a shell does."""
    child = process.work.fork(process)
    yield 1
    yield from script(child)
    process.emit(Exit(process.work.now, child.pid, child.start))


def together(work: Work, running: list[Steps]) -> Steps:
    """Scripts side by side, as `make -j` and pipelines are."""
    order = count()
    ready = [(work.random.random(), next(order), steps) for steps in running]
    while ready:
        when, _, steps = heappop(ready)
        pause = next(steps, None)
        if pause is not None:
            heappush(ready, (when + pause * work.random.random(), next(order), steps))
            yield 0


def compile_unit(unit: str) -> Script:
    def script(process: _Process) -> Steps:
        work = process.work
        source, made = f"src/{unit}.c", f"build/{unit}.o"
        flags = ("-Wall", "-O2", "-g", "-Iinclude")
        process.exec("/usr/bin/x86_64-linux-gnu-gcc-12".removesuffix("-12"), ("gcc", *flags, "-c", "-o", made, source),
                     ("/usr/local/bin",))  # fmt: skip
        assembly = f"/tmp/cc{work.name()}.s"
        yield from run(process, lambda child: cc1(child, source, unit, assembly))
        yield from run(process, lambda child: simple(child, "/usr/bin/x86_64-linux-gnu-as",
                                                     ("as", "-I", "include", "--gdwarf-5", "--64", "-o", made, assembly)))  # fmt: skip

    return script


def cc1(process: _Process, source: str, unit: str, assembly: str) -> Steps:
    process.exec(f"{_GCC}/cc1", (f"{_GCC}/cc1", "-quiet", "-I", "include", "-imultiarch", "x86_64-linux-gnu", source, "-quiet",
                                 "-dumpdir", "build/", "-dumpbase", f"{unit}.c", "-dumpbase-ext", ".c", "-mtune=generic", "-march=x86-64",
                                 "-g", "-O2", "-Wall", "-fasynchronous-unwind-tables", "-o", assembly))  # fmt: skip
    yield 20


def simple(process: _Process, exe: str, argv: tuple[str, ...]) -> Steps:
    process.exec(exe, argv)
    yield 2


def link(process: _Process) -> Steps:
    work = process.work
    objects = tuple(f"build/{unit}.o" for unit in _UNITS)
    process.exec("/usr/bin/x86_64-linux-gnu-gcc", ("gcc", "-o", "build/project", *objects), ("/usr/local/bin",))
    passed = tuple(f"-plugin-opt=-pass-through=-l{name}" for name in ("gcc", "gcc_s", "c", "gcc", "gcc_s"))
    argv = ("-plugin", f"{_GCC}/liblto_plugin.so", f"-plugin-opt={_GCC}/lto-wrapper",
            f"-plugin-opt=-fresolution=/tmp/cc{work.name()}.res", *passed, "--build-id", "--eh-frame-hdr", "-m", "elf_x86_64",
            "--hash-style=gnu", "--as-needed", "-dynamic-linker", "/lib64/ld-linux-x86-64.so.2", "-pie", "-o", "build/project",
            f"{_GCC}/../../../x86_64-linux-gnu/Scrt1.o", f"{_GCC}/../../../x86_64-linux-gnu/crti.o", f"{_GCC}/crtbeginS.o",
            f"-L{_GCC}", *objects, "-lgcc", "--push-state", "--as-needed", "-lgcc_s", "--pop-state", "-lc", f"{_GCC}/crtendS.o")  # fmt: skip

    def collect(process: _Process) -> Steps:
        process.exec(f"{_GCC}/collect2", (f"{_GCC}/collect2", *argv))
        yield from run(process, lambda child: simple(child, "/usr/bin/x86_64-linux-gnu-ld", ("/usr/bin/ld", *argv)))

    yield from run(process, collect)


def make(process: _Process) -> Steps:
    work = process.work
    process.exec("/usr/bin/make", ("make", "-j4"))
    units = list(_UNITS)
    work.random.shuffle(units)
    for first in range(0, len(units), 4):
        batch = [run(process, compile_unit(unit)) for unit in units[first : first + 4]]
        yield from together(work, batch)
    yield from run(process, link)


def pytest(process: _Process) -> Steps:
    work = process.work
    process.exec("/usr/bin/python3.11", ("python3", "-m", "pytest", "-q", "tests/"))
    for test in _TESTS:
        port = work.random.randrange(32768, 60999)
        for _ in range(work.random.randrange(1, 5)):
            process.connect("127.0.0.1", port, work.random.choice(("ok", "ok", "ok", "refused")))
            yield 1
        for place in range(work.random.randrange(4)):
            argv = ("/usr/bin/python3", "-m", f"project.{test}", "--config", f"/tmp/pytest-of-agent/pytest-{work.random.randrange(40)}/test_{test}{place}/config.toml")  # fmt: skip
            yield from run(process, lambda child, argv=argv: simple(child, "/usr/bin/python3.11", argv))


def pip(process: _Process) -> Steps:
    work = process.work
    names = work.random.sample(_PACKAGES, 3)
    process.exec("/usr/bin/python3.11", ("python3", "-m", "pip", "install", "--index-url", "http://127.0.0.1:3141/simple", *names))
    yield from run(process, lambda child: simple(child, "/usr/bin/dash", ("/bin/sh", "-c", "uname -rs")))
    for name in names:
        process.lookup()
        process.connect("127.0.0.1", 3141)
        yield 3
        argv = ("/usr/bin/python3", "/usr/lib/python3/dist-packages/pip/_vendor/pyproject_hooks/_in_process/_in_process.py",
                "build_wheel", f"/tmp/tmp{work.name(8).lower()}")  # fmt: skip
        process.cwd = f"/tmp/pip-install-{work.name(8).lower()}/{name}_{work.random.randbytes(16).hex()}"
        yield from run(process, lambda child, argv=argv: simple(child, "/usr/bin/python3.11", argv))


def git(process: _Process) -> Steps:
    work = process.work
    verb = work.random.choice((("status", "--porcelain=v1"), ("diff", "--stat"), ("add", "-A"), ("log", "--oneline", "-20"),
                               ("commit", "-q", "-m", f"Fix {work.random.choice(_UNITS)}: case {work.random.randrange(500)}"),
                               ("fetch", "--quiet", "origin")))  # fmt: skip
    process.exec("/usr/bin/git", ("git", *verb), ("/usr/local/bin",))
    if verb[0] == "fetch":
        def remote(child: _Process) -> Steps:
            child.exec("/usr/lib/git-core/git-remote-https", ("/usr/lib/git-core/git-remote-https", "origin", "https://git.example.com/agent/project.git"))
            child.lookup()
            child.connect("10.20.0.5", 3128)
            yield 5

        yield from run(process, remote)
    if verb[0] in ("commit", "fetch"):
        yield from run(process, lambda child: simple(child, "/usr/bin/git", ("/usr/lib/git-core/git", "maintenance", "run", "--auto", "--quiet")))
    yield 1


def shell(process: _Process) -> Steps:
    """What an agent types between: a pipeline or two of text tools."""
    work = process.work
    unit = work.random.choice(_UNITS)
    line = work.random.choice((
        (("/usr/bin/grep", ("grep", "-rn", f"{unit}_{work.random.choice(_TESTS)}", "src/")), ("/usr/bin/head", ("head", "-50"))),
        (("/usr/bin/find", ("find", ".", "-name", f"{unit}*.c", "-newer", "Makefile")), ("/usr/bin/sort", ("sort",)), ("/usr/bin/wc", ("wc", "-l"))),
        (("/usr/bin/sed", ("sed", "-n", f"{work.random.randrange(400)},{work.random.randrange(400, 900)}p", f"src/{unit}.c")),),
        (("/usr/bin/cat", ("cat", f"src/{unit}.c")),),
        (("/usr/bin/ls", ("ls", "-la", "build")),),
    ))  # fmt: skip
    command = " | ".join(" ".join(argv) for _, argv in line)
    process.exec("/usr/bin/bash", ("bash", "-lc", f"cd /home/agent/project && {command}"))
    yield from together(work, [run(process, lambda child, exe=exe, argv=argv: simple(child, exe, argv)) for exe, argv in line])


def workload(events: int, rate: int, seed: int = 7) -> list[Event]:
    """The first `events` events of an agent at work, about `rate` of them in a second."""
    work = Work(rate, seed)
    root = _Process(work, 14_200, work.now // TICK_NS, 14_199)
    root.comm = "python3"
    acts = (make, pytest, pip, git, git, git, shell, shell, shell, shell)
    while len(work.events) < events:
        for _ in run(root, work.random.choice(acts)):
            pass
    return work.events[:events]
