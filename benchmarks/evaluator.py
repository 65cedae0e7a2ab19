"""What the evaluator costs per event, with 50 rules, against an empty loop over the same events.

python -m benchmarks.evaluator [--events 200000] [--rules 50]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from ebpfaudit.events import Connect, Event, Exec, Exit, Fork, Gpu
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import load_profile, parse_profile, resolved_text
from ebpfaudit.profiles.schema import Profile

_FILLERS = (
    'on = "exec"\nwhen = {{ exe = ["*/tool-{n}", "*/other-{n}-*"], argv = ["--flag-{n}=*", "*evil-{n}*"] }}',
    'on = "exec"\nwhen = {{ argv = ["*indicator-{n}*://*"] }}',
    'on = "connect"\nwhen = {{ dst = "10.{n}.0.0/16", port = ["{n}-400", 5000] }}',
    'on = "connect"\nwhen = {{ dst = "private" }}\n'
    'count = {{ distinct = "dst", over = 2{n}, within = "10s", per = "tree" }}',
    'on = "gpu"\nwhen = {{ event = "context", exe = "/tmp/{n}*" }}',
)


def profile_of(rules: int) -> Profile:
    """The coding agent's profile, filled up with a mixture of rules."""
    shipped = load_profile("coding-agent")
    text = resolved_text(shipped)
    for number in range(rules - len(shipped.rules)):
        body = _FILLERS[number % len(_FILLERS)].format(n=number)
        text += f'\n[[rule]]\nid = "filler-{number}"\n{body}\naction = "alert"\n'
    return parse_profile(text, "benchmark")


def loopback_connects(count: int) -> list[Event]:
    """What tests with local servers do: 40 processes, few destinations, text decoded anew each time."""
    return [
        Connect(n * 1000, 100 + n % 40, 5, "python3", "ipv4", "tcp", f"127.0.0.{1 + n % 3}", 8000 + n % 20)
        for n in range(count)
    ]


def sweep(count: int) -> list[Event]:
    """Never the same destination twice: nothing is remembered."""
    return [
        Connect(n * 1000, 100, 5, "nmap", "ipv4", "tcp", f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 80)
        for n in range(count)
    ]


def fresh_execs(count: int) -> list[Event]:
    compiler = "/usr/lib/gcc/x86_64-linux-gnu/12/cc1"
    argv = ("cc1", "-O2", "-quiet", "-o")
    return [
        Exec(
            n * 1000,
            100 + n % 40,
            5,
            1,
            compiler,
            (*argv, f"/tmp/{n}.s", f"{n}.c"),
            "/workspace",
            "cc1",
            1000,
        )
        for n in range(count)
    ]


def gpu_allocations(count: int) -> list[Event]:
    return [
        Gpu(n * 1000, 100 + n % 8, 5, "python3", "alloc", "nvidia:ctl", "RM_ALLOC", "", n << 12)
        for n in range(count)
    ]


def forks_and_exits(count: int) -> list[Event]:
    return [
        event
        for n in range(count // 2)
        for event in (Fork(n * 1000, 100, 5, 1000 + n % 500, n), Exit(n * 1000 + 500, 1000 + n % 500, n))
    ]


def measure(profile: Profile, events: list[Event], repeat: int) -> float:
    """Nanoseconds of CPU time per event, the loop itself taken off; the best of `repeat`."""
    best = float("inf")
    for _ in range(repeat):
        evaluate = Evaluator(profile).evaluate
        began = time.thread_time_ns()
        for event in events:
            evaluate(event)
        spent = time.thread_time_ns() - began
        began = time.thread_time_ns()
        for _event in events:
            pass
        best = min(best, spent - (time.thread_time_ns() - began))
    return best / len(events)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rules", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    profile = profile_of(options.rules)
    loads: list[Callable[[int], list[Event]]] = [
        loopback_connects, fresh_execs, gpu_allocations, forks_and_exits, sweep,
    ]  # fmt: skip
    print(f"{len(profile.rules)} rules, {options.events} events of each kind, best of {options.repeat}")
    for load in loads:
        events = load(options.events if load is not sweep else options.events // 10)
        nanoseconds = measure(profile, events, options.repeat)
        print(f"{load.__name__:20} {nanoseconds:8.0f} ns/event {1e9 / nanoseconds:12,.0f} events/s")


if __name__ == "__main__":
    main()
