"""Running totals become differences, and none is lost when a process ends."""

from __future__ import annotations

import pytest

from ebpfaudit.gpu import KINDS
from ebpfaudit.gpu.counts import KEY, VALUE, GpuCounts

SUBMIT = KINDS.index("submit")
START_NS = 5_000_000_000


class Counters:
    """The probe's map, as a dictionary: one value for each of two CPUs."""

    def __init__(self):
        self.map = {}
        self.living = set()
        self.counts = GpuCounts(
            lambda: self.map,
            self.map.get,
            self.map.pop,
            lambda pid, start: (pid, start) in self.living,
            lambda index: f"nvidia:{index}",
        )

    def call(self, pid, cpu, calls=1, size=0, episode=1):
        key = KEY.pack(pid, START_NS >> 20, 3, SUBMIT)
        if key not in self.map:
            fresh = [(0, 0, 0, 0, 0), (0, 0, 0, 0, 0)]
            fresh[cpu] = (0, 0, START_NS, episode, 0)
            self.map[key] = b"".join(VALUE.pack(*one) for one in fresh)
        per_cpu = [list(one) for one in VALUE.iter_unpack(self.map[key])]
        per_cpu[cpu][0] += calls
        per_cpu[cpu][1] += size
        self.map[key] = b"".join(VALUE.pack(*one) for one in per_cpu)
        self.living.add((pid, START_NS >> 20))

    def collect(self):
        return [
            (number, e.pid, e.start, e.event, e.device, e.count, e.bytes)
            for number, e in self.counts.collect(9)
        ]


@pytest.fixture
def counters():
    return Counters()


def test_differences_over_all_cpus(counters):
    counters.call(7, 0, calls=3, size=10)
    counters.call(7, 1, calls=4, size=20)
    assert counters.collect() == [(1, 7, 500, "submit", "nvidia:3", 7, 30)]
    assert counters.collect() == []
    counters.call(7, 1)
    assert counters.collect() == [(1, 7, 500, "submit", "nvidia:3", 1, 0)]


def test_the_last_calls_of_a_process_are_counted_and_its_counter_removed(counters):
    counters.call(7, 0)
    counters.collect()
    counters.call(7, 0, calls=5)
    counters.living.clear()
    assert [row[5] for row in counters.collect()] == [5]
    assert counters.map == {}
    counters.call(7, 1, calls=2)  # a new life of the counter starts from nothing
    assert [row[5] for row in counters.collect()] == [2]


def test_episodes_are_told_apart(counters):
    counters.call(7, 0, episode=1)
    counters.call(8, 1, episode=2)
    assert {row[:2] for row in counters.collect()} == {(1, 7), (2, 8)}


def test_a_counter_that_vanishes_meanwhile_is_no_error(counters):
    counters.call(7, 0)
    counters.counts._read = lambda key: None
    assert counters.collect() == []
