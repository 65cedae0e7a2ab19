"""Sliding windows against a plain reckoning, and their bounds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfaudit.policy.bounds import MAX_KEYS
from ebpfaudit.policy.windows import Windows
from ebpfaudit.profiles.schema import Count


def windows(over: int, within_ns: int, distinct: str = "") -> Windows:
    return Windows(Count(over, within_ns, f"{within_ns}ns", "episode", distinct))


def test_fires_at_one_more_than_over_and_once_per_window():
    counted = windows(3, 100)

    fired = [ts for ts in (0, 1, 2, 3, 4, 50, 102, 103, 104, 202, 203) if counted.exceeded(None, ts, None)]

    assert fired == [3, 103, 203]


def test_old_entries_fall_out():
    counted = windows(2, 100)

    assert not any(counted.exceeded(None, ts, None) for ts in (0, 90, 180, 270, 360))


def test_distinct_counts_values_and_remembers_the_latest():
    counted = windows(2, 100, "dst")

    assert not any(counted.exceeded(None, ts, "ab"[ts % 2]) for ts in range(90))
    assert counted.exceeded(None, 91, "c")
    counted = windows(2, 100, "dst")
    assert [counted.exceeded(None, ts, value) for ts, value in ((0, "a"), (60, "b"), (70, "a"), (120, "c"))] == [
        False, False, False, True,
    ]  # fmt: skip


def test_keys_are_counted_apart_and_can_be_dropped():
    counted = windows(1, 100)

    assert not counted.exceeded("p", 0, None)
    assert not counted.exceeded("q", 0, None)
    counted.drop("p")
    assert not counted.exceeded("p", 1, None)
    assert counted.exceeded("q", 1, None)


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 5), st.integers(1, 50), st.booleans(),
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from("abcdefgh")), max_size=80),
)  # fmt: skip
def test_agrees_with_a_plain_reckoning(over, within_ns, distinct, steps):
    counted = windows(over, within_ns, "dst" if distinct else "")
    seen: list[tuple[int, str]] = []
    fired_ns = None
    now = 0
    for step, value in steps:
        now += step
        seen.append((now, value))
        recent = [each for each in seen if each[0] >= now - within_ns]
        reached = len({each[1] for each in recent}) if distinct else len(recent)
        expected = reached > over and (fired_ns is None or now - fired_ns >= within_ns)
        if expected:
            fired_ns = now

        assert counted.exceeded(None, now, value) is expected


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 5), st.integers()), max_size=200))
def test_memory_is_bounded_even_when_time_runs_backwards(entries):
    counted = windows(3, 10**5, "dst")
    for ts, key, value in entries:
        counted.exceeded(key, ts, value)

    assert counted.entries <= 6 * 4


def test_keys_are_bounded_and_the_longest_untouched_goes_first():
    counted = windows(1, 10**9)
    counted.exceeded("kept", 0, None)
    for key in range(MAX_KEYS * 2):
        counted.exceeded(key, key, None)
        if key == MAX_KEYS // 2:
            assert counted.exceeded("kept", key, None)

    assert len(counted) == MAX_KEYS
    assert not counted.exceeded(0, MAX_KEYS * 2, None)
