"""Whatever the events and the profile: nothing raises, nothing wavers, nothing grows, and the index hides no rule."""

import time
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ebpfaudit.events import (
    CgroupMove,
    Connect,
    EpisodeEnd,
    EpisodeStart,
    Exec,
    Exit,
    Fork,
    Gpu,
    GpuCount,
    Identity,
    Lost,
    Seen,
    Step,
)
from ebpfaudit.policy import keyed, remembered, windows
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.policy.examine import decide, examine
from ebpfaudit.policy.index import Index
from ebpfaudit.profiles.load import load_profile, parse_profile
from ebpfaudit.profiles.schema import CHOICES, FIELDS, Count, Limit, Mark, Part, Profile, Rule

SECOND = 10**9

PATHS = (
    "/usr/bin/ssh",
    "/bin/sh",
    "/usr/bin/python3",
    "/tmp/x",
    "memfd:a",
    "/lib/ld-linux.so.2",
    "/w/run.py",
    "",
)
WORDS = (*PATHS, "ssh", "-R", "-R9000:a:1", "-NfR", "9000:a:1", "--algo=rx/0", "--algo", "rx/0", "--", "-c", "-", "-o",
         "stratum+tcp://x", "[red]", "\\\\", "run.py", "./x", "a b", "é")  # fmt: skip
GLOBS = (
    "*/ssh",
    "/usr/bin/*",
    "*",
    "?*",
    "[/m]*",
    "/tmp/x",
    "*sh*",
    "-R*",
    "*stratum*",
    "*:a:*",
    "run.py",
    "a b",
    "*R* *:a*",
    "x",
    "*é",
)
ADDRESSES = (
    "10.0.0.1",
    "10.0.0.2",
    "8.8.8.8",
    "::1",
    "169.254.169.254",
    "fe80::1%eth0",
    "2001:db8::1",
    "/run/docker.sock",
    "@a",
    "",
)
DESTINATIONS = (
    "private",
    "public",
    "any",
    "loopback",
    "metadata",
    "10.0.0.0/8",
    "8.8.8.8",
    "::/0",
    "2001:db8::/32",
    "unix:*docker*",
    "unix:@a",
)
NAMES = ("one", "two", "three")
SHA = "ab" * 32

pids = st.integers(1, 3)
starts = st.sampled_from([1] * 9 + [2])
words = st.one_of(st.sampled_from(WORDS), st.text(max_size=6))
paths = st.sampled_from(PATHS) | words
times = st.integers(0, 40).map(lambda tick: tick * SECOND // 2)
argvs = st.lists(words, max_size=5).map(tuple)
ENORMOUS = (
    ("-R",) * 30_000,
    ("a" * 65_536,),
    ("ssh", "-" + "N" * 40_000 + "R", "9000:a:1"),
    tuple(map(str, range(9000))),
)
flags = st.booleans()
errors = st.sampled_from(["", "", "ENOENT", "EACCES"])
events_of_processes = st.one_of(
    st.builds(Fork, times, pids, starts, pids, starts),
    st.builds(Exit, times, pids, starts, st.integers(0, 3), st.integers(0, 9)),
    st.builds(
        Exec, times, pids, starts, pids, paths, argvs, paths, words, st.integers(-1, 3), filename=paths, script=flags,
        memfd=flags, deleted=flags, error=errors, decision=st.sampled_from(["", "kill"]),
        stdio=st.sampled_from(["", "8.8.8.8", "x"]), argv_truncated=flags,
    ),
    st.builds(
        Connect, times, pids, starts, words, st.sampled_from(["ipv4", "ipv6", "unix"]),
        st.sampled_from(["tcp", "udp", "icmp", "132", "stream"]), st.sampled_from(ADDRESSES) | words,
        st.sampled_from([22, 80, 443, -1, 70000]), st.sampled_from(["attempt", "done"]),
        st.sampled_from(["", "ok", "denied", "refused", "EPERM", "x"]),
    ),
    st.builds(
        Gpu, times, pids, starts, words, st.sampled_from(["open", "context", "alloc", "new"]),
        st.sampled_from(["nvidia:0", "kfd", ""]), words, words, st.sampled_from([0, 1024, 2**63]), words,
    ),
    st.builds(CgroupMove, times, pids, starts, paths, flags, pids),
    st.builds(
        Identity, times, pids, starts, paths, st.sampled_from(["", SHA]),
        st.lists(st.sampled_from(PATHS), max_size=2).map(tuple), words,
    ),
)  # fmt: skip
any_events = events_of_processes | st.one_of(
    st.builds(EpisodeStart, times, words, words, pids, starts, st.sampled_from(CHOICES["source"]), words),
    st.builds(EpisodeEnd, times, words),
    st.builds(Lost, times, st.integers(0, 9)),
    st.builds(Step, times, words),
    st.builds(Seen, times, pids, starts, pids, paths, argvs, paths, words, st.integers(-1, 2000)),
    st.builds(GpuCount, times, pids, starts, words, words, st.integers(0, 9)),
)


@st.composite
def lives(draw) -> list:
    """What one process does: chance alone seldom brings an exec, word of its content and a connect together."""
    pid = draw(pids)
    events = [
        replace(event, pid=pid, start=1)
        for event in draw(st.lists(events_of_processes, min_size=2, max_size=6))
    ]
    ran = next((event for event in events if isinstance(event, Exec) and not event.error), None)
    if ran is None:
        return events
    known = Identity(
        ran.ts_ns,
        pid,
        1,
        ran.exe,
        draw(st.sampled_from(["", SHA])),
        draw(st.sampled_from([(), ("/usr/bin/ssh",)])),
    )
    place = events.index(ran) + 1
    return [*events[:place], known, *events[place:]]


streams = st.lists(any_events.map(lambda event: [event]) | lives(), max_size=16).map(
    lambda several: [event for events in several for event in events]
)

_VALUES = {
    "text": GLOBS, "path": GLOBS, "words": GLOBS, "dst": DESTINATIONS, "size": ("over 1KiB", "over 0B"), "mark": NAMES,
    "program": (*GLOBS, "same-as:/usr/bin/ssh", f"sha256:{SHA}"), "number": (1, 2, 22, "0-1", "20-500"), "flag": (True, False),
    "option": ("-R", "-R [0-9]*", "--algo rx/*", "--algo", "-o *", "-N"), "ancestor": ("*/ssh", "/bin/*", "*.py"),
}  # fmt: skip


def pool(name: str, field_type: str) -> tuple:
    if field_type == "choice":
        return CHOICES[name]
    return _VALUES["program" if name == "exe" else field_type]


def _values(name: str, field_type: str) -> st.SearchStrategy:
    return st.lists(st.sampled_from(pool(name, field_type)), min_size=1, max_size=3, unique=True).map(tuple)


def conditions(kind: str, most: int) -> st.SearchStrategy:
    fields = st.lists(st.sampled_from(list(FIELDS[kind])), max_size=most, unique=True)
    return fields.flatmap(
        lambda names: st.fixed_dictionaries({name: _values(name, FIELDS[kind][name]) for name in names})
    )


pers = st.sampled_from(["process", "tree", "episode", "step"])


@st.composite
def parts(draw, per: str = "") -> Part:
    kind = draw(st.sampled_from(list(FIELDS)))
    count = None
    if draw(st.integers(0, 2)) == 0:
        distinct = draw(
            st.sampled_from(["", *(name for name in FIELDS[kind] if name not in ("bytes", "mark"))])
        )
        count = Count(
            draw(st.integers(1, 3)), draw(st.integers(1, 10)) * SECOND, "some", per or draw(pers), distinct
        )
    return Part(kind, draw(conditions(kind, 2)), draw(conditions(kind, 1)), count)


@st.composite
def rules(draw, number: int) -> Rule:
    form = draw(st.sampled_from(["single", "single", "all", "then"]))
    per = "" if form == "single" else draw(pers)
    within = 0 if form == "single" else draw(st.integers(1, 20)) * SECOND
    of = [draw(parts(per))] if form == "single" else draw(st.lists(parts(per), min_size=2, max_size=3))
    mark = limit = None
    if draw(st.integers(0, 2)) == 0:
        scope = draw(st.sampled_from(["process", "tree", "episode"]))
        mark = Mark(draw(st.sampled_from(NAMES)), draw(st.integers(1, 9)) * SECOND, "some", scope)
    if draw(st.integers(0, 3)) == 0:
        limit = Limit(draw(st.integers(1, 2)), draw(st.integers(1, 9)) * SECOND, "some", draw(pers))
    return Rule(
        f"r{number}", draw(st.sampled_from(["log", "alert", "kill", "allow"])), tuple(of), form, within, "some", per,
        mark=mark, limit=limit, message=draw(st.sampled_from(["m", "{exe} {cmdline} {dst} {mark}"])),
    )  # fmt: skip


@st.composite
def profiles(draw) -> Profile:
    several = [draw(rules(number)) for number in range(draw(st.integers(0, 6)))]
    denied = draw(
        st.lists(st.sampled_from(["/usr/bin/*", "same-as:/bin/sh", f"sha256:{SHA}"]), max_size=2).map(tuple)
    )
    return replace(draw(st.sampled_from(SECTIONS)), exec_deny=denied, rules=tuple(several))


SECTIONS = [
    parse_profile('name = "none"', "none"),
    parse_profile(
        '[gpu]\ndefault = "log"\nallow = ["GPU-1"]\n[network]\ndefault = "alert"\nkill = ["any:53"]\ndeny = ["private"]\n',
        "sections",
    ),
]
SHIPPED = [load_profile(name) for name in ("coding-agent", "rl-training", "offline-sandbox")]


EACH = replace(
    SECTIONS[1],
    rules=tuple(
        Rule(
            f"{kind}-{name}-{number}",
            "log",
            (Part(kind, {name: (value,)} if side else {}, {} if side else {name: (value,)}),),
        )
        for kind, fields in FIELDS.items()
        for name, field_type in fields.items()
        for side in (True, False)
        for number, value in enumerate(pool(name, field_type))
        if name != "mark"
    ),
)
"""Every field of every kind with every value, alone in a rule's `when` or `unless`."""

any_profile = st.one_of(profiles(), st.just(EACH), st.sampled_from(SHIPPED))


def verdicts_of(evaluator: Evaluator, stream: list) -> list:
    return [evaluator.evaluate(event) for event in stream]


@settings(deadline=None, max_examples=120)
@given(any_profile, streams)
def test_never_raises_and_never_wavers(profile, stream):
    evaluator, again = Evaluator(profile), Evaluator(profile)

    verdicts = verdicts_of(evaluator, stream)

    assert verdicts_of(again, stream) == verdicts
    assert evaluator.events == len(stream)
    for number, given_verdicts in enumerate(verdicts):
        assert all(verdict.seq == number and len(verdict.value) <= 256 for verdict in given_verdicts)


@pytest.mark.parametrize("argv", ENORMOUS, ids=lambda argv: f"{len(argv)}-words")
def test_an_enormous_command_line_is_judged_in_no_time(argv):
    event = Exec(1, 2, 1, 1, "/bin/sh", argv, "/", "sh", 1)
    for profile in (EACH, *SHIPPED):
        evaluator = Evaluator(profile)
        began = time.process_time()
        evaluator.evaluate(event)
        assert time.process_time() - began < 1


@settings(deadline=None, max_examples=100)
@given(any_profile, streams)
def test_remembering_changes_no_verdict(profile, stream):
    remembering, forgetful = Evaluator(profile), Evaluator(profile)

    for event in stream:
        forgetful.forget()
        assert remembering.evaluate(event) == forgetful.evaluate(event)


@dataclass
class Everything:
    """An index that finds every part a candidate: `find` alone decides."""

    index: Index

    def __post_init__(self):
        self.all, self.members = self.index.all, self.index.members

    def of_event(self, _facts, candidates):
        return candidates

    of_process = of_image = of_rest = of_event


@settings(deadline=None, max_examples=120)
@given(any_profile, streams)
def test_index_hides_no_rule(profile, stream):
    indexed, naive = Evaluator(profile), Evaluator(profile)
    naive._indexes = {kind: Everything(index) for kind, index in naive.ruleset.indexes.items()}

    for event in stream:
        naive.forget()
        assert indexed.evaluate(event) == naive.evaluate(event)


@settings(deadline=None, max_examples=80)
@given(profiles(), streams, st.randoms())
def test_order_of_the_rules_is_only_the_order_of_the_verdicts(profile, stream, randomness):
    shuffled = list(profile.rules)
    randomness.shuffle(shuffled)
    evaluator, other = Evaluator(profile), Evaluator(replace(profile, rules=tuple(shuffled)))

    for event in stream:
        assert Counter(evaluator.evaluate(event)) == Counter(other.evaluate(event))


LOCAL = parse_profile(
    "".join(
        f'[[rule]]\nid = "{name}"\n{body}\naction = "alert"\n'
        for name, body in {
            "count": 'on = "connect"\nwhen = { dst = "any" }\ncount = { over = 1, within = "5s", per = "process" }',
            "distinct": 'on = "connect"\nwhen = { dst = "any" }\n'
            'count = { distinct = "port", over = 1, within = "5s", per = "tree" }',
            "both": 'all = [ { on = "gpu", when = { event = "context" } }, { on = "connect", when = { dst = "any" } } ]\n'
            'within = "5s"\nper = "tree"',
            "after": 'then = [ { on = "connect", when = { port = 22 } }, { on = "exec", when = { exe = "*" } } ]\n'
            'within = "5s"\nper = "process"',
            "marking": 'on = "exec"\nwhen = { exe = "/tmp/*" }\nmark = { name = "tmp", for = "5s", scope = "tree" }',
            "marked": 'on = "connect"\nwhen = { mark = "tmp" }\nlimit = { to = 1, within = "5s", per = "tree" }',
            "descends": 'on = "connect"\nwhen = { ancestor = "*/ssh" }',
        }.items()
    ),
    "local",
)


@settings(deadline=None, max_examples=200)
@given(st.lists(events_of_processes, max_size=12), st.lists(events_of_processes, max_size=12), st.randoms())
def test_unrelated_processes_may_come_in_any_order(ours, others, randomness):
    """What is kept per process and tree does not depend on how the events of two families are mixed."""

    def moved(event):
        changes = {"pid": event.pid + 100}
        if isinstance(event, Fork):
            changes["child"] = event.child + 100
        return replace(event, **changes)

    others = [moved(event) for event in others]

    def judged(mixture):
        evaluator = Evaluator(LOCAL)
        told = {0: [], 1: []}
        numbers = {}
        for number, (family, event) in enumerate(mixture):
            numbers[str(number)] = str(len(numbers))
            for verdict in evaluator.evaluate(event):
                because = verdict.because.partition(": events")[0]
                told[family].append((event, replace(verdict, seq=0, because=because)))
        return told

    in_turn = [(0, event) for event in ours] + [(1, event) for event in others]
    queues = {0: list(ours), 1: list(others)}
    order = [family for family, _ in in_turn]
    randomness.shuffle(order)

    assert judged([(family, queues[family].pop(0)) for family in order]) == judged(in_turn)


@settings(deadline=None, max_examples=80)
@given(profiles(), st.lists(events_of_processes | any_events, min_size=20, max_size=80))
def test_nothing_grows_beyond_its_bound(profile, stream):
    kept = keyed.MAX_KEYS, remembered.MAX_REMEMBERED, windows.MAX_ENTRIES
    keyed.MAX_KEYS, remembered.MAX_REMEMBERED, windows.MAX_ENTRIES = 2, 20, 3
    try:
        evaluator = Evaluator(replace(profile))
        for event in stream:
            evaluator.evaluate(event)
            held = evaluator.memory()
            answers = len(evaluator._by_image) + sum(len(known) for known, _ in evaluator._by_image.values())
            assert held["answers"] <= 20
            assert answers + len(evaluator._exec_answers) <= 20
            for state in evaluator.states:
                for _, table in state.tables():
                    assert len(table) <= 2
                for count in state.windows:
                    assert count is None or count.entries <= max(3, count._over + 1)
        bounds = evaluator.bounds()
        assert held.keys() <= bounds.keys()
        assert all(held[name] <= bounds[name] for name in held)
    finally:
        keyed.MAX_KEYS, remembered.MAX_REMEMBERED, windows.MAX_ENTRIES = kept


@settings(deadline=None, max_examples=80)
@given(any_profile, streams)
def test_examining_changes_nothing_and_agrees(profile, stream):
    """A rule of one part without state gives a verdict exactly where `examine` says that it matches."""
    watched, unwatched = Evaluator(profile), Evaluator(profile)
    stateless = {
        rule.rule.id
        for state in watched.states
        if (rule := state.rule).simple and rule.rule.action != "allow"
    }

    for event in stream:
        examined, decided = examine(watched, event), decide(watched, event)
        verdicts = watched.evaluate(event)
        assert verdicts == unwatched.evaluate(event)
        if not isinstance(event, Identity):
            matching = {each.rule for each in examined if each.matches} & stateless
            assert matching == {verdict.rule for verdict in verdicts} & stateless
            section = [verdict for verdict in verdicts if verdict.rule in ("network", "gpu")]
            assert [(v.action, v.field, v.because) for v in section] == (
                [(decided.action, decided.field, decided.entry)] if decided is not None else []
            )
