"""Sequences and conjunctions against a search through all events, limits, and the text index."""

from itertools import combinations, pairwise, product

from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfaudit import events as e
from ebpfaudit.policy.bounds import MAX_KEYS
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.policy.index import Index
from ebpfaudit.policy.limits import Limits
from ebpfaudit.policy.matching import match_texts
from ebpfaudit.policy.remembered import Room
from ebpfaudit.policy.sequences import Sequences
from ebpfaudit.policy.texts import NeedleIndex, TextIndex
from ebpfaudit.profiles.load import parse_profile
from ebpfaudit.profiles.schema import Limit, Part, Rule

WITHIN = 10


def rule(form, parts):
    return Rule("r", "kill", tuple(Part("exec", {}, {}) for _ in range(parts)), form, WITHIN, "10ns", "tree")


steps = st.lists(st.tuples(st.integers(0, 6), st.sets(st.integers(0, 2), max_size=2)), max_size=14)


def possible(form, parts, met):
    """Whether the last event completes the rule: by trying all choices of one event for each part."""
    last = len(met) - 1
    places = [[at for at, (_, numbers) in enumerate(met) if part in numbers] for part in range(parts)]
    for chosen in product(*places):
        times = [met[at][0] for at in chosen]
        ordered = form == "all" or all(one < two for one, two in pairwise(chosen))
        ends = last in chosen if form == "all" else chosen[-1] == last
        if ordered and ends and max(times) - min(times) <= WITHIN:
            return True
    return False


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(["all", "then"]), st.integers(2, 3), steps)
def test_agrees_with_trying_every_choice(form, parts, events):
    sequences = Sequences(rule(form, parts))
    met, now, fired = [], 0, None
    for number, (delay, numbers) in enumerate(events):
        now += delay
        numbers = sorted(each for each in numbers if each < parts)
        met.append((now, set(numbers)))
        if not numbers:
            continue
        expected = possible(form, parts, met) and (fired is None or now - fired >= WITHIN)
        if expected:
            fired = now

        told = sequences.completed(None, numbers, now, number)

        assert (told is not None) is expected
        if told is not None:
            assert all(part in met[at][1] for part, at in enumerate(told))
            assert number in told
    assert sequences.entries <= (parts if form == "all" else parts * (parts - 1) // 2)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 3), st.lists(st.integers(0, 6), max_size=40))
def test_a_limit_is_kept_and_nothing_is_forgotten(to, delays):
    limits = Limits(Limit(to, WITHIN, "10ns"))
    given_at, told, now = [], 0, 0
    for delay in delays:
        now += delay
        suppressed = limits.admit(None, now)
        if suppressed is not None:
            given_at.append(now)
            told += suppressed
    for window in combinations(given_at, to + 1):
        assert window[-1] - window[0] > WITHIN
    assert len(given_at) + told + limits.unsaid == len(delays)


GLOBS = (
    "*", "a", "b*", "*/name", "*needle*", "*other*d", "x?z", "[ab]c*", "/usr/*/name", "*é*", "needle", "b\\*", "*dl*",
)  # fmt: skip
globs = st.lists(
    st.sampled_from(GLOBS)
    | st.text("ab*?[]/\\", min_size=1, max_size=5),
    min_size=1, max_size=30, unique=True,
)  # fmt: skip
TEXTS = (
    "a needle b",
    "needle",
    "/usr/bin/name",
    "xyz",
    "otherwisd",
    "b\\\\x",
    "é",
    "",
    "needl",
    "other",
    "a" * 300,
)
texts = st.lists(
    st.sampled_from(TEXTS)
    | st.text("ab/é\\", max_size=6), max_size=5,
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(globs, texts)
def test_text_index_finds_what_trying_each_finds(patterns, several):
    bits = {pattern: 1 << number for number, pattern in enumerate(patterns)}
    index = TextIndex(bits)

    for text in several:
        expected = sum(bit for pattern, bit in bits.items() if match_texts((pattern,))(text) is not None)
        assert index.find(text) == expected


needles = st.lists(
    st.sampled_from(["needle", "wise", "éééé", "otherwise", "é other", "a" * 7, ""])
    | st.text("ab/é", max_size=9),
    max_size=5,
    unique=True,
)


@settings(deadline=None, max_examples=400)
@given(needles, texts, st.integers(0, 31))
def test_needle_index_finds_what_trying_each_finds(several, lines, wanted):
    index = NeedleIndex({needle: 1 << number for number, needle in enumerate(several)}, Room())
    line = " ".join(lines)

    expected = sum(1 << number for number, needle in enumerate(several) if needle in line)
    assert index.find(line, wanted) == expected & wanted


def test_members_are_in_order():
    index = Index.__new__(Index)
    index._parts = list(range(100))

    assert list(index.members(1 << 99 | 1 << 3 | 1)) == [0, 3, 99]


def test_who_never_began_takes_no_room_from_who_did():
    """A crowd that does only what comes later cannot push out the one that did what comes first."""
    text = """name = "test"
[[rule]]
id = "relay"
then = [ { on = "connect", when = { dst = "public" } }, { on = "connect", when = { dst = "loopback" } } ]
within = "1h"
per = "process"
action = "alert"
"""
    evaluator = Evaluator(parse_profile(text, "test"))
    evaluator.evaluate(e.Connect(1, 200, 5, "x", "ipv4", "tcp", "198.51.100.7", 443))
    for pid in range(1000, 1000 + 2 * MAX_KEYS):
        assert evaluator.evaluate(e.Connect(2, pid, 5, "y", "ipv4", "tcp", "127.0.0.1", 80)) == ()
    (verdict,) = evaluator.evaluate(e.Connect(3, 200, 5, "x", "ipv4", "tcp", "127.0.0.1", 80))
    assert verdict.rule == "relay"
