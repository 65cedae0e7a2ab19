"""What the evaluator costs per event: a session of an agent that builds and tests, under 20, 200 and 1,000 rules.

`python -m benchmarks.evaluator [--events 60000] [--repeat 5]`; needs no root. Times are CPU time of this thread, the
loop itself taken off; the profiles take turns, and the median of the turns is shown. Every profile has the same 20
rules, such as the shipped profiles have; the others are what a library of indicators adds. Then, what an exec costs
under the shipped profile coding-agent whose arguments were never seen before: a process chooses how many.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from ebpfaudit.events import Connect, EpisodeStart, Event, Exec, Exit, Fork, Gpu
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import load_profile, parse_profile
from ebpfaudit.profiles.schema import Profile

SIZES = (20, 200, 1000)
TARGET = 2.0
"""1,000 rules are to cost less than this many times what 20 do."""

_HEAD = """
[network]
default = "log"
allow = ["loopback", "10.20.0.0/16", "unix:*"]
kill = ["metadata"]

[lists]
ssh = ["*/ssh", "*/autossh", "*/dbclient"]
shells = ["*/sh", "*/bash", "*/dash", "*/zsh"]
"""

_CORE = (
    'on = "exec"\nwhen = { exe = "@ssh", option = ["-R *", "-L *", "-o RemoteForward*"] }',
    'on = "exec"\nwhen = { argv = ["stratum+tcp://*", "stratum+ssl://*"] }',
    'on = "exec"\nwhen = { option = ["--algo *", "--donate-level *", "--nicehash"] }',
    'on = "exec"\nwhen = { program = ["*/xmrig*", "*/chisel*", "*/frpc", "*/rathole", "*/bore", "*/cloudflared"] }',
    'on = "exec"\nwhen = { exe = "@shells", argv = ["*/dev/tcp/*", "*/dev/udp/*"] }',
    'on = "exec"\nwhen = { exe = "@shells", stdio = ["public", "private"] }',
    'on = "exec"\nwhen = { memfd = true }',
    'on = "exec"\nwhen = { deleted = true }',
    'on = "exec"\nwhen = { cmdline = "*curl*|*sh*" }\nunless = { argv = "*example.com*" }',
    'on = "exec"\nwhen = { exe = "*/systemd-run" }',
    'on = "connect"\nwhen = { dst = "private" }\ncount = { distinct = "dst", over = 40, within = "10s", per = "episode" }',
    'on = "connect"\nwhen = { dst = "public" }\ncount = { distinct = "port", over = 20, within = "10s", per = "episode" }',
    'on = "connect"\nwhen = { dst = "private", result = ["refused", "timeout"] }\ncount = { over = 100, within = "10m" }',
    'on = "connect"\nwhen = { dst = "public", port = [22, 2222], protocol = "tcp" }\nunless = { argv = "git-*" }',
    'on = "connect"\nwhen = { dst = "unix:*docker.sock" }',
    'on = "connect"\nwhen = { temporary = true, dst = "public" }\nlimit = { to = 5, within = "1m" }',
    'on = "gpu"\nwhen = { event = "context" }\nunless = { exe = "*/python3*" }',
    'on = "cgroup-move"\nwhen = { inside = false }',
    'all = [ { on = "gpu", when = { event = "context" } }, { on = "connect", when = { dst = "public", port = 3333 } } ]'
    '\nwithin = "5m"',
    'on = "connect"\nwhen = { ancestor = "*/npm", dst = "public", port = [4444, 6667] }',
)

_MORE = (
    'on = "exec"\nwhen = {{ exe = ["*/tool-{n}", "*/other-{n}-*", "/opt/{n}/bin/*"] }}',
    'on = "exec"\nwhen = {{ argv = ["--flag-{n}=*", "*indicator-{n}-*", "evil{n}.example*"] }}',
    'on = "connect"\nwhen = {{ dst = ["198.18.{b}.0/24", "203.0.113.{b}"], port = [{p}, "{p}-{q}"] }}',
    'on = "exec"\nwhen = {{ cmdline = "*stage-{n} *--run*" }}',
    'on = "connect"\nwhen = {{ dst = "10.{b}.0.0/16", port = "{p}-{q}" }}\n'
    'count = {{ distinct = "dst", over = 20, within = "10s", per = "tree" }}',
    'on = "exec"\nwhen = {{ exe = ["*/git", "*/hg"], option = ["--upload-pack *x{n}*", "-c core.fsmonitor={n}*"] }}',
    'then = [ {{ on = "exec", when = {{ exe = "*/stager-{n}" }} }}, {{ on = "connect", when = {{ dst = "203.0.{b}.0/24" }} }} ]'
    '\nwithin = "1m"',
    'on = "exec"\nwhen = {{ exe = "*/fetch-{n}" }}\nmark = "m{m}"',
    'on = "connect"\nwhen = {{ mark = "m{m}", dst = "192.0.2.{b}", port = {p} }}',
    'on = "connect"\nwhen = {{ ancestor = "*/agent-{n}", dst = "public" }}',
    'on = "connect"\nwhen = {{ dst = "100.64.{b}.0/24" }}\nunless = {{ exe = "*/git" }}',
    'on = "exec"\nwhen = {{ script = "*/hook-{n}.sh", cwd = "/workspace*" }}',
    'on = "connect"\nwhen = {{ exe = "*/daemon-{n}", result = ["refused", "timeout"] }}\ncount = {{ over = 5, within = "30s" }}',
    'on = "gpu"\nwhen = {{ event = "context", exe = "/tmp/{n}*" }}',
)  # fmt: skip


def profile_of(rules: int) -> Profile:
    """The rules that all sizes have, and of the others as many as are missing, of every sort in turn."""
    bodies = list(_CORE)
    for number in range(rules - len(bodies)):
        place = number % len(_MORE)
        values = {"n": number, "b": number % 250, "p": 1024 + number * 7, "q": 1030 + number * 7}
        mark = (number - (place == 8)) // len(_MORE) % 30
        bodies.append(_MORE[place].format(m=mark, **values))
    texts = [f'[[rule]]\nid = "r-{number}"\n{body}\n' for number, body in enumerate(bodies)]
    return parse_profile(_HEAD + "\n".join(f'{text}action = "alert"\n' for text in texts), "benchmark")


class _Session:
    """The events of an agent at work: make and its compilers, git, tests that talk to local servers, some downloads."""

    def __init__(self) -> None:
        self._random = random.Random(7)
        self._pids = count(1000)
        self._now = 0
        self._serial = count()

    def events(self) -> Iterator[Event]:
        yield EpisodeStart(0, "e", "p", 100, 1)
        yield self._exec(
            100, 1, "/usr/bin/python3.11", "python3", "/opt/agent/main.py", "--workspace", "/workspace"
        )
        while True:
            task = self._random.choices((self._build, self._tests, self._git, self._train), (6, 5, 3, 1))[0]
            yield from task()

    def _build(self) -> Iterator[Event]:
        with_shell = self._child(100, "/usr/bin/bash", "bash", "-c", "make -j4 all")
        yield from with_shell[1]
        for _ in range(self._random.randint(2, 8)):
            # Seven of ten files were compiled before; the names of temporary files never come again.
            name = self._random.randint(0, 400) if self._random.random() < 0.7 else 1000 + next(self._serial)
            temporary = f"/tmp/cc{self._random.getrandbits(36):x}.s"
            source = f"src/module_{name}.c"
            common = (
                "-O2",
                "-g",
                "-Wall",
                "-Wextra",
                "-Iinclude",
                "-I/usr/include/openssl",
                "-DNDEBUG",
                "-fPIC",
            )
            gcc, began = self._child(with_shell[0], "/usr/bin/x86_64-linux-gnu-gcc-12", "gcc", *common, "-c", source, "-o",
                                     f"build/module_{name}.o")  # fmt: skip
            yield from began
            for exe, argv in (
                ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1", ("cc1", "-quiet", *common, source, "-o", temporary)),
                ("/usr/bin/x86_64-linux-gnu-as", ("as", "--64", "-o", f"build/module_{name}.o", temporary)),
            ):
                pid, events = self._child(gcc, exe, *argv)
                yield from events
                yield self._exit(pid)
            yield self._exit(gcc)
        yield self._exit(with_shell[0])

    def _tests(self) -> Iterator[Event]:
        pid, events = self._child(
            100, "/usr/bin/python3.11", "python3", "-m", "pytest", "-q", f"tests/test_{self._pick(60)}.py"
        )
        yield from events
        for _ in range(self._random.randint(10, 40)):
            yield from self._connect(pid, "127.0.0.1", 8000 + self._pick(12))
        for _ in range(self._random.randint(1, 6)):
            yield from self._connect(pid, f"10.20.0.{self._pick(4)}", 3128)
        if self._random.random() < 0.3:  # somewhere new
            yield from self._connect(
                pid, f"{self._pick(200) + 11}.{self._pick(256)}.{self._pick(256)}.{self._pick(256)}", 443
            )
        yield self._exit(pid)

    def _git(self) -> Iterator[Event]:
        for argv in (
            ("git", "status", "--porcelain=v2"),
            ("git", "diff", "--stat", "HEAD"),
            ("git", "log", "-1"),
        ):
            pid, events = self._child(100, "/usr/bin/git", *argv)
            yield from events
            yield self._exit(pid)
        message = f"Step {next(self._serial)}: make it work"
        pid, events = self._child(100, "/usr/bin/git", "git", "commit", "-q", "-m", message)
        yield from events
        yield self._exit(pid)

    def _train(self) -> Iterator[Event]:
        pid, events = self._child(
            100, "/usr/bin/python3.11", "python3", "train.py", f"--seed={next(self._serial)}"
        )
        yield from events
        for kind, command in (("open", ""), ("context", "RM_ALLOC"), *(("alloc", "RM_ALLOC"),) * 12):
            yield Gpu(self._tick(), pid, pid, "python3", kind, "nvidia:0", command, "", self._pick(1 << 30))
        yield self._exit(pid)

    def _connect(self, pid: int, dst: str, port: int) -> Iterator[Event]:
        yield Connect(self._tick(), pid, pid, "python3", "ipv4", "tcp", dst, port)
        yield Connect(self._tick(), pid, pid, "python3", "ipv4", "tcp", dst, port, "done", "ok")

    def _child(self, parent: int, exe: str, *argv: str) -> tuple[int, list[Event]]:
        pid = next(self._pids)
        start = 1 if parent == 100 else parent
        return pid, [Fork(self._tick(), parent, start, pid, pid), self._exec(pid, pid, exe, *argv)]

    def _exec(self, pid: int, start: int, exe: str, *argv: str) -> Exec:
        return Exec(self._tick(), pid, start, 1, exe, argv, "/workspace", argv[0][:15], 1000)

    def _exit(self, pid: int) -> Exit:
        return Exit(self._tick(), pid, pid)

    def _tick(self) -> int:
        self._now += 1_000_000
        return self._now

    def _pick(self, below: int) -> int:
        return self._random.randrange(below)


def session(events: int) -> list[Event]:
    """The first so many events of a session."""
    stream = _Session().events()
    return [next(stream) for _ in range(events)]


def fresh_destinations(events: int) -> list[Event]:
    """Never the same address twice: nothing is remembered, and the counts of the scan rules are kept up."""
    return [
        Connect(n * 1000, 100, 5, "nmap", "ipv4", "tcp", f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 80)
        for n in range(events)
    ]


def fresh_arguments(events: int) -> list[Event]:
    """Every word of every command line is new."""
    return [
        Exec(n * 1000, 100 + n % 40, 5, 1, "/usr/bin/tool", ("tool", *(f"--option-{n}-{m}=value{n}" for m in range(6))),
             "/w", "tool", 1000)
        for n in range(events)
    ]  # fmt: skip


def enormous_arguments(events: int) -> list[Event]:
    """32 KiB of different words in each command line."""
    return [
        Exec(n * 1000, 100, 5, 1, "/usr/bin/tool", tuple(f"{n}-{m}" for m in range(5000)), "/w", "tool", 1000)
        for n in range(events)
    ]


FRESH = {
    "6 words": (6, 6),
    "50 words": (50, 6),
    "500 words": (500, 6),
    "5,000 words": (5000, 6),
    "a word of 32 KiB": (1, 32_000),
}
"""Words, and the length of each."""
PROGRAMS = ("gcc", "bash", "ssh", "python3")


def fresh_words(program: str, words: int, chars: int, execs: int, seed: int) -> list[Event]:
    """Execs of one program with arguments that chance makes, a good part of them options."""
    rng = random.Random(f"{program} {words} {seed}")
    return [
        Exec(n * 1000, 100 + n, 5, 1, f"/usr/bin/{program}",
             (program, *("".join(rng.choices("abcdefghij-/.=", k=chars)) for _ in range(words))), "/w", program, 1000)
        for n in range(execs)
    ]  # fmt: skip


def same_connects(events: int) -> list[Event]:
    """40 processes, few destinations: what is remembered is all that is needed."""
    return [
        Connect(n * 1000, 100 + n % 40, 5, "python3", "ipv4", "tcp", f"127.0.0.{1 + n % 3}", 8000 + n % 20)
        for n in range(events)
    ]


def forks_and_exits(events: int) -> list[Event]:
    """Of one parent that executes nothing."""
    return [
        event
        for n in range(events // 2)
        for event in (Fork(n * 1000, 100, 5, 1000 + n % 500, n), Exit(n * 1000 + 500, 1000 + n % 500, n))
    ]


LOADS: tuple[tuple[Callable[[int], list[Event]], float], ...] = (
    (session, 1.0), (same_connects, 1.0), (forks_and_exits, 1.0), (fresh_destinations, 0.1), (fresh_arguments, 0.1),
    (enormous_arguments, 0.001),
)  # fmt: skip
"""Each with the share of the events that it is given."""


def spend(profile: Profile, events: list[Event]) -> float:
    """Nanoseconds of CPU time per event, the loop itself taken off."""
    evaluate = Evaluator(profile).evaluate
    began = time.thread_time_ns()
    for event in events:
        evaluate(event)
    spent = time.thread_time_ns() - began
    began = time.thread_time_ns()
    for _event in events:
        pass
    return (spent - (time.thread_time_ns() - began)) / len(events)


def measure(profiles: list[Profile], events: list[Event], repeat: int) -> list[float]:
    """The median for each profile; they take turns, so that what disturbs the host disturbs them alike."""
    turns = [[spend(profile, events) for profile in profiles] for _ in range(repeat)]
    return [statistics.median(spent) for spent in zip(*turns, strict=True)]


def report(_folder: Path | None = None, events: int = 60_000, repeat: int = 5) -> None:
    """Print ns per event for each load and size, and how the largest compares to the smallest."""
    profiles = [profile_of(size) for size in SIZES]
    for profile in profiles:
        Evaluator(profile)
    print("\nevaluator: ns of CPU time per event, by number of rules")
    print(f"{'':20}" + "".join(f"{size:>10,}" for size in SIZES) + f"{f'{SIZES[-1]:,} / {SIZES[0]}':>14}")
    for load, share in LOADS:
        costs = measure(profiles, load(max(20, int(events * share))), repeat)
        ratio = costs[-1] / costs[0]
        target = f"  (target: below {TARGET:g})" if load is session else ""
        row = "".join(f"{cost:10,.0f}" for cost in costs)
        print(f"{load.__name__.replace('_', ' '):20}{row}{ratio:13.2f}x{target}")
    report_fresh(repeat)


def report_fresh(repeat: int) -> None:
    """Print us per exec of arguments that were never seen before, for several programs."""
    profile = load_profile("coding-agent")
    print("\nshipped coding-agent: us of CPU time per exec with fresh arguments")
    print(f"{'':20}" + "".join(f"{program:>10}" for program in PROGRAMS))
    for name, (words, chars) in FRESH.items():
        execs = max(20, 1000 // words) if chars < 100 else 20
        costs = [
            statistics.median(
                spend(profile, fresh_words(program, words, chars, execs, seed)) for seed in range(repeat)
            )
            for program in PROGRAMS
        ]
        print(f"{name:20}" + "".join(f"{cost / 1000:10,.1f}" for cost in costs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    report(events=options.events, repeat=options.repeat)


if __name__ == "__main__":
    main()
