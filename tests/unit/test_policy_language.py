"""Sequences, marks, limits, identities, and the fields that look behind a name."""

import pytest
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
    Identity,
    Seen,
    Step,
)
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import parse_profile

SECOND = 10**9
START = EpisodeStart(0, "e", "p", 1, 1)


def judge(profile, *events):
    evaluator = Evaluator(parse_profile(profile, "p"))
    return [verdict for event in events for verdict in evaluator.evaluate(event)]


def numbers(profile, *events):
    return [verdict.seq for verdict in judge(profile, *events)]


def rule(on="exec", when="", more="", name="r", action="kill"):
    given = f'action = "{action}"\n' if action else ""
    return f'[[rule]]\nid = "{name}"\non = "{on}"\nwhen = {{ {when} }}\n{more}\n{given}'


def several(form, *parts, within="10s", more="", per="tree"):
    return f'[[rule]]\nid = "r"\n{form} = [ {", ".join(parts)} ]\nwithin = "{within}"\nper = "{per}"\naction = "kill"\n{more}\n'


def execute(exe="/bin/x", *argv, pid=2, s=1.0, cwd="/w", start=1, **more):
    return Exec(int(s * SECOND), pid, start, 1, exe, argv or ("x",), cwd, "x", 1000, **more)


def connect(dst="10.0.0.1", port=80, *, pid=2, s=1.0, **more):
    return Connect(int(s * SECOND), pid, 1, "x", "ipv4", "tcp", dst, port, **more)


def context(pid=2, s=1.0):
    return Gpu(int(s * SECOND), pid, 1, "x", "context", "nvidia:0")


def fork(parent, child, s=1.0):
    return Fork(int(s * SECOND), parent, 1, child, 1)


GPU = '{ on = "gpu", when = { event = "context" } }'
PUBLIC = '{ on = "connect", when = { dst = "public" } }'
SSH = '{ on = "exec", when = { exe = "*/ssh" } }'


class TestAll:
    PROFILE = several("all", GPU, PUBLIC)

    def test_any_order_and_the_verdict_is_on_the_last(self):
        (verdict,) = judge(self.PROFILE, START, connect("8.8.8.8"), context(s=5))
        assert (verdict.seq, verdict.field, verdict.value) == (2, "event", "context")
        assert verdict.because == "all of 2 in 10s: events 2, 1"
        (verdict,) = judge(self.PROFILE, START, context(), connect("8.8.8.8"))
        assert (verdict.seq, verdict.field, verdict.value) == (2, "dst", "8.8.8.8:80/tcp")
        assert verdict.because == "all of 2 in 10s: events 1, 2"

    def test_within_is_inclusive_and_the_latest_of_each_part_counts(self):
        assert numbers(self.PROFILE, START, context(s=1), connect("8.8.8.8", s=11)) == [2]
        assert numbers(self.PROFILE, START, context(s=1), connect("8.8.8.8", s=11.1)) == []
        assert numbers(self.PROFILE, START, context(s=1), context(s=9), connect("8.8.8.8", s=11.1)) == [3]

    def test_trees_are_told_apart(self):
        forks = [START, fork(1, 2), fork(2, 3), fork(1, 4)]
        assert numbers(self.PROFILE, *forks, context(2), connect("8.8.8.8", pid=4)) == []
        assert numbers(self.PROFILE, *forks, context(2), connect("8.8.8.8", pid=3)) == [5]
        per_process = several("all", GPU, PUBLIC, per="process")
        assert numbers(per_process, *forks, context(2), connect("8.8.8.8", pid=3)) == []
        per_episode = several("all", GPU, PUBLIC, per="episode")
        assert numbers(per_episode, *forks, context(2), connect("8.8.8.8", pid=4)) == [5]

    def test_step_begins_anew(self):
        profile = several("all", GPU, PUBLIC, per="step")
        assert numbers(profile, START, context(), connect("8.8.8.8")) == [2]
        assert numbers(profile, START, context(), Step(1, "two"), connect("8.8.8.8")) == []

    def test_quiet_afterwards_then_again(self):
        events = [
            context(s=1),
            connect("8.8.8.8", s=2),
            context(s=3),
            connect("8.8.8.8", s=11.9),
            context(s=12),
        ]
        assert numbers(self.PROFILE, START, *events) == [2, 5]

    def test_one_event_may_serve_several_parts(self):
        profile = several(
            "all", '{ on = "connect", when = { dst = "public" } }', '{ on = "connect", when = { port = 22 } }'
        )
        (verdict,) = judge(profile, START, connect("8.8.8.8", 22))
        assert verdict.because == "all of 2 in 10s: events 1, 1"
        assert verdict.field == "dst"

    def test_a_part_may_count(self):
        many = '{ on = "connect", when = { dst = "private" }, count = { distinct = "dst", over = 2, within = "5s" } }'
        profile = several("all", many, GPU)
        sweep = [connect(f"10.0.0.{n}", s=n) for n in range(1, 4)]
        (verdict,) = judge(profile, START, context(s=1), *sweep)
        assert (verdict.seq, verdict.field, verdict.value) == (4, "dst", "3")
        assert numbers(profile, START, context(s=1), *sweep[:2]) == []


class TestThen:
    PROFILE = several("then", SSH, PUBLIC, GPU)

    def test_in_this_order_only(self):
        events = [execute("/bin/ssh"), connect("8.8.8.8"), context()]
        (verdict,) = judge(self.PROFILE, START, *events)
        assert verdict.because == "then in 10s: events 1, 2, 3"
        assert verdict.value == "context"
        for wrong in ([0, 2, 1], [1, 0, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]):
            assert numbers(self.PROFILE, START, *(events[place] for place in wrong)) == []

    def test_first_to_last_within_and_the_latest_start_wins(self):
        assert (
            numbers(self.PROFILE, START, execute("/bin/ssh", s=1), connect("8.8.8.8", s=6), context(s=12))
            == []
        )
        events = [execute("/bin/ssh", s=1), execute("/bin/ssh", s=3), connect("8.8.8.8", s=6), context(s=12)]
        (verdict,) = judge(self.PROFILE, START, *events)
        assert verdict.because == "then in 10s: events 2, 3, 4"

    def test_a_late_start_after_a_finished_middle_changes_nothing(self):
        events = [execute("/bin/ssh", s=1), connect("8.8.8.8", s=6), execute("/bin/ssh", s=7), context(s=11)]
        (verdict,) = judge(self.PROFILE, START, *events)
        assert verdict.because == "then in 10s: events 1, 2, 4"

    def test_one_event_is_one_step(self):
        profile = several("then", PUBLIC, PUBLIC)
        assert numbers(profile, START, connect("8.8.8.8"), connect("8.8.4.4")) == [2]
        assert numbers(profile, START, connect("8.8.8.8")) == []


class TestMark:
    PROFILE = rule(
        when='exe = "*/curl"', more='mark = { name = "fetched", for = "1m" }', name="m", action=""
    ) + rule(when='exe = "/tmp/*", mark = "fetched"')

    def test_marked_process_and_its_children_but_nobody_else(self):
        forks = [START, fork(1, 2), fork(1, 9)]
        (verdict,) = judge(self.PROFILE, *forks, execute("/bin/curl"), fork(2, 3), execute("/tmp/x", pid=3))
        assert (verdict.seq, verdict.rule, verdict.field, verdict.value) == (5, "r", "exe", "/tmp/x")
        assert numbers(self.PROFILE, *forks, execute("/bin/curl"), execute("/tmp/x", pid=9)) == []
        assert numbers(self.PROFILE, *forks, fork(2, 3), execute("/bin/curl"), execute("/tmp/x", pid=3)) == []

    def test_it_lasts_through_exec_and_for_its_time(self):
        assert numbers(self.PROFILE, START, execute("/bin/curl", s=1), execute("/tmp/x", s=61)) == [2]
        assert numbers(self.PROFILE, START, execute("/bin/curl", s=1), execute("/tmp/x", s=61.5)) == []
        assert numbers(
            self.PROFILE,
            START,
            execute("/bin/curl", s=1),
            execute("/bin/curl", s=50),
            execute("/tmp/x", s=100),
        ) == [3]

    def test_it_is_seen_by_later_events_only(self):
        profile = rule(when='exe = "/tmp/*"', more='mark = "x"', name="m") + rule(when='mark = "x"')
        assert [(v.seq, v.rule) for v in judge(profile, START, execute("/tmp/a"), execute("/b"))] == [
            (1, "m"),
            (2, "r"),
        ]

    @pytest.mark.parametrize(("scope", "expected"), [("process", []), ("tree", [5]), ("episode", [5, 6])])
    def test_scope(self, scope, expected):
        profile = rule(
            when='exe = "*/curl"', more=f'mark = {{ name = "a", scope = "{scope}" }}', name="m", action=""
        )
        profile += rule("connect", 'mark = "a"')
        forks = [START, fork(1, 2), fork(2, 3), fork(1, 9), execute("/bin/curl")]
        assert numbers(profile, *forks, connect(pid=3), connect(pid=9)) == expected

    def test_a_mark_alone_says_itself(self):
        profile = rule(when='exe = "*/curl"', more='mark = "a"', name="m", action="") + rule(
            "connect", 'mark = "a"'
        )
        (verdict,) = judge(profile, START, execute("/bin/curl"), connect())
        assert (verdict.field, verdict.value, verdict.because) == ("mark", "a", "a")

    def test_unless_it_is_marked(self):
        profile = rule(when='exe = "*/git"', more='mark = "git"', name="m", action="")
        profile += rule("connect", "port = 22", 'unless = { mark = "git", dst = "private" }')
        events = [START, connect(port=22), execute("/bin/git"), connect(port=22), connect("8.8.8.8", 22)]
        assert numbers(profile, *events) == [1, 4]

    def test_set_by_a_count_and_not_held_back_by_a_limit(self):
        profile = rule(
            "connect", 'dst = "private"', 'count = { over = 1, within = "10s" }\nlimit = { to = 1, within = "1h" }\n'
            'mark = { name = "a", for = "1s" }', name="m", action="log",
        ) + rule("gpu", 'mark = "a"')  # fmt: skip
        events = [
            connect(s=1),
            context(s=1),
            connect(s=2),
            context(s=2),
            connect(s=30),
            connect(s=31),
            context(s=31),
        ]
        assert [(v.seq, v.rule) for v in judge(profile, START, *events)] == [(3, "m"), (4, "r"), (7, "r")]


class TestLimit:
    def test_what_is_left_out_is_counted(self):
        profile = rule(more='limit = { to = 2, within = "10s" }', action="alert")
        events = [execute(s=s) for s in (1, 2, 3, 4, 11.5, 12, 12.5)]
        verdicts = judge(profile, START, *events, EpisodeEnd(20 * SECOND, "exited"))
        assert [(v.seq, v.action, v.suppressed) for v in verdicts] == [
            (1, "alert", 0), (2, "alert", 0), (5, "alert", 2), (7, "alert", 1),
        ]  # fmt: skip
        assert len(judge(profile, START, *events[:2], EpisodeEnd(1, "exited"))) == 2
        *_, last = judge(profile, START, *events[:4], EpisodeEnd(1, "exited"))
        assert (last.seq, last.action, last.rule, last.field, last.value) == (5, "log", "r", "limit", "2")
        assert (last.because, last.suppressed) == ("limit 2 in 10s", 2)

    def test_what_an_ended_process_left_is_told_at_the_end(self):
        profile = rule(more='limit = { to = 1, within = "10s", per = "process" }', action="log")
        events = [
            execute(),
            execute(),
            Exit(1, 2, 1),
            execute(pid=3),
            execute(pid=3),
            EpisodeEnd(1, "exited"),
        ]
        assert [(v.seq, v.suppressed) for v in judge(profile, *events)] == [(0, 0), (3, 0), (5, 2)]


class TestIdentity:
    PROFILE = '[exec]\ndeny = ["same-as:/usr/bin/docker"]\n' + rule(
        when='exe = ["*/ssh", "same-as:/usr/bin/ssh"], argv = "-R*"'
    )
    SSH = Identity(2 * SECOND, 2, 1, "/tmp/py", "aa" * 32, ("/usr/bin/ssh",))

    def test_renamed_program_is_judged_when_it_is_known(self):
        (verdict,) = judge(self.PROFILE, START, execute("/tmp/py", "py", "-R9000:a:1"), self.SSH)
        assert (verdict.seq, verdict.rule, verdict.field, verdict.value) == (2, "r", "exe", "/tmp/py")
        assert verdict.because == "same-as:/usr/bin/ssh"
        assert numbers(self.PROFILE, START, execute("/tmp/py", "py", "-v"), self.SSH) == []

    def test_not_said_twice(self):
        known = Identity(2 * SECOND, 2, 1, "/usr/bin/ssh", "aa" * 32, ("/usr/bin/ssh",))
        assert numbers(self.PROFILE, START, execute("/usr/bin/ssh", "ssh", "-R1"), known) == [1]
        assert numbers(self.PROFILE, START, execute("/tmp/py", "py", "-R1"), self.SSH, self.SSH) == [2]

    def test_section_denies_by_content(self):
        docker = Identity(1, 2, 1, "/tmp/d", "", ("/usr/bin/docker",))
        (verdict,) = judge(self.PROFILE, START, execute("/tmp/d"), docker)
        assert (verdict.action, verdict.rule, verdict.field, verdict.value) == (
            "deny",
            "exec",
            "exe",
            "/tmp/d",
        )
        assert (verdict.because, verdict.scope) == ("same-as:/usr/bin/docker", "process")

    def test_it_ends_with_the_next_exec_and_is_inherited_by_fork(self):
        profile = rule("connect", 'exe = "same-as:/usr/bin/ssh"')
        ran = [START, execute("/tmp/py"), connect(), self.SSH, connect(), fork(2, 3), connect(pid=3)]
        assert numbers(profile, *ran, execute("/tmp/py"), connect()) == [4, 6]

    def test_children_that_were_there_before_it_was_known_still_run_the_same(self):
        profile = rule("connect", 'program = "same-as:/usr/bin/ssh"')
        events = [START, execute("/tmp/py"), fork(2, 3), fork(2, 4), execute("/bin/sh", pid=4), self.SSH]
        assert numbers(profile, *events, connect(pid=3), connect(pid=4)) == [6]

    def test_process_that_has_ended_meanwhile_is_judged(self):
        events = [START, execute("/tmp/py", "py", "-R1"), fork(2, 3), Exit(1, 2, 1), self.SSH]
        evaluator = Evaluator(parse_profile(self.PROFILE, "p"))
        assert [v.seq for event in events for v in evaluator.evaluate(event)] == [4]
        assert {process.pid for process in evaluator.processes.alive()} == {1, 3}

    def test_late_word_about_an_earlier_program_is_ignored(self):
        assert (
            numbers(self.PROFILE, START, execute("/tmp/py", "py", "-R1"), execute("/bin/x", "-R1"), self.SSH)
            == []
        )

    def test_hash_and_the_linked_program(self):
        profile = rule(when=f'program = "sha256:{"AB" * 32}"')
        linked = execute("/lib64/ld-linux-x86-64.so.2", "ld.so", "./x", cwd="/w")
        (verdict,) = judge(profile, START, linked, Identity(1, 2, 1, "/w/x", "ab" * 32))
        assert (verdict.field, verdict.value, verdict.because.lower()) == (
            "program",
            "/w/x",
            f"sha256:{'ab' * 32}",
        )


@pytest.mark.parametrize(
    ("when", "hit", "miss"),
    [
        ('option = "-R [0-9]*"', execute("/x", "ssh", "-NfR9000:a:1"), execute("/x", "ssh", "-R", "relay")),
        ('option = "--algo rx/*"', execute("/x", "x", "--algo", "rx/0"), execute("/x", "x", "--algo=kawpow")),
        ('option = "-R"', execute("/x", "x", "-vR", "y"), execute("/x", "x", "--", "-R")),
        ("temporary = true", execute("/dev/shm/x"), execute("/usr/bin/x")),
        ("temporary = true", execute("/usr/x", deleted=True), execute("/tmpx/x")),
        ("via_linker = true", execute("/lib64/ld-linux-x86-64.so.2"), execute("/bin/ld")),
        ("inline_code = true", execute("/bin/bash", "sh", "-ec", "id"), execute("/bin/bash", "sh", "x.sh", "-c")),
        ('program = "*/evil.py"', execute("/usr/bin/python3", "python3", "-u", "evil.py"), execute("/bin/cat", "cat", "evil.py")),
        ('stdio = "public"', execute(stdio="8.8.8.8", stdio_port=1), execute(stdio="10.0.0.1")),
        ('stdio = "any"', execute(stdio="10.0.0.1"), execute()),
        ('step = "build*"', execute(), None),
        ('source = "launched"', execute(), None),
        ("untagged = false", execute(), None),
    ],
)  # fmt: skip
def test_field_decides(when, hit, miss):
    start = EpisodeStart(0, "e", "p", 1, 1, step="build 1")
    assert numbers(rule(when=when), start, *([miss] if miss else []), hit) == [2 if miss else 1]


def test_untagged_until_an_episode_starts():
    profile = rule(when="untagged = true")
    assert numbers(profile, execute(), START, execute()) == [0]
    assert numbers(profile, EpisodeStart(0, "", "p", 1, 1, "untagged"), execute()) == [1]


def test_step_of_the_moment():
    assert numbers(
        rule("connect", 'step = "two"'), START, connect(), Step(1, "two"), connect(), Step(1, "3"), connect()
    ) == [3]


class TestAncestor:
    def test_whatever_it_descends_from_within_the_episode(self):
        profile = rule("connect", 'ancestor = "*/npm"')
        family = [
            START,
            fork(1, 2),
            execute("/usr/bin/npm"),
            fork(2, 3),
            execute("/bin/sh", pid=3),
            fork(3, 4),
        ]
        assert numbers(profile, *family, Exit(1, 2, 1), Exit(1, 3, 1), connect(pid=4), connect(pid=1)) == [8]

    def test_itself_counts_only_once_it_runs_something_else(self):
        profile = rule("connect", 'ancestor = "*/npm"')
        assert numbers(profile, START, execute("/bin/npm"), connect(), execute("/bin/sh"), connect()) == [4]

    def test_by_the_script_that_an_interpreter_runs(self):
        profile = rule(when='ancestor = "*/train.py"')
        events = [
            START,
            execute("/usr/bin/python3", "python3", "train.py"),
            fork(2, 3),
            execute("/bin/sh", pid=3),
        ]
        assert numbers(profile, *events) == [3]

    def test_none_of_them(self):
        profile = rule(when='not-ancestor = ["*/make", "*/ninja"]')
        events = [START, execute("/bin/a"), execute("/bin/make"), fork(2, 3), execute("/bin/cc", pid=3)]
        assert numbers(profile, *events) == [1, 2]

    def test_found_running(self):
        profile = rule("connect", 'ancestor = "*/npm"')
        seen = [
            Seen(1, pid, 1, pid - 1, exe, (exe,), "/", "x", 0)
            for pid, exe in ((2, "/bin/npm"), (3, "/bin/sh"))
        ]
        assert numbers(profile, START, *seen, connect(pid=3), connect(pid=2)) == [3]

    def test_a_failed_exec_descends_from_what_still_runs(self):
        profile = rule(when='ancestor = "*/npm", error = "ENOENT"')
        assert numbers(
            profile, START, execute("/bin/npm"), execute("y", error="ENOENT"), execute("/bin/sh")
        ) == [2]


def test_message_shows_the_event():
    profile = rule("connect", "port = 22", 'message = "{exe} to {dst} port {port} {{as {uid}}} {cmdline}"')
    (verdict,) = judge(profile, START, execute("/bin/ssh", "ssh", "host"), connect("8.8.8.8", 22))
    assert verdict.message == "/bin/ssh to 8.8.8.8 port 22 {as 1000} ssh host"


def test_message_does_not_repeat_another_process():
    profile = rule("connect", "port = 22", 'message = "{cwd}"')
    events = [START, execute("/x", cwd="/a"), connect(port=22), execute("/x", cwd="/b"), connect(port=22)]
    assert [verdict.message for verdict in judge(profile, *events)] == ["/a", "/b"]


@pytest.mark.parametrize(
    ("when", "hit", "miss"),
    [
        ('program = "/a/x.py"', execute("/bin/python3", "p", "x.py", cwd="/a"), execute("/bin/python3", "p", "x.py", cwd="/b")),
        ('program = "*/s"', execute("/bin/sh", "sh", filename="/a/s", script=True), execute("/bin/sh", "sh")),
        ('option = "-R"', execute("/x", "x", "-R"), execute("/x", "x", "-L")),
        ("inline_code = true", execute("/bin/sh", "sh", "-c"), execute("/bin/sh", "sh", "x")),
        ("temporary = true", execute("/x", deleted=True), execute("/x")),
        ("temporary = true", execute("/x", memfd=True), execute("/x")),
        ("via_linker = true", execute("/lib/ld.so"), execute("/lib/x.so")),
        ("deleted = true", execute("/x", deleted=True), execute("/x")),
        ('cwd = "/a"', execute("/x", cwd="/a"), execute("/x", cwd="/b")),
        ('cmdline = "a b"', execute("/x", "a", "b"), execute("/x", "a", "c")),
        ('not-ancestor = "*/sh"', execute("/x"), None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["connect", "gpu", "fork", "exit", "cgroup-move"])
def test_processes_that_differ_are_not_taken_for_one_another(kind, when, hit, miss):
    """What is remembered of one process serves another only if they are equal in all that the rules look at."""
    act = {
        "connect": lambda pid: connect(pid=pid),
        "gpu": lambda pid: context(pid),
        "fork": lambda pid: Fork(1, pid, 1, pid + 50, 1),
        "exit": lambda pid: Exit(1, pid, 1),
        "cgroup-move": lambda pid: CgroupMove(1, pid, 1, "/c", True, 1),
    }[kind]
    first = [fork(1, 2), hit]
    other = [fork(1, 3), execute("/bin/sh", pid=3), replace(miss or hit, pid=3)]
    events = [START, *first, *other, act(2), act(3)]

    assert [number for number in numbers(rule(kind, when), *events) if number > 5] == [6]
    swapped = numbers(rule(kind, when), *events[:-2], act(3), act(2))
    assert [number for number in swapped if number > 5] == [7]


def test_what_is_known_of_one_process_is_not_known_of_its_equal():
    profile = rule("connect", 'exe = "same-as:/usr/bin/ssh"')
    known = Identity(1, 3, 1, "/tmp/py", "", ("/usr/bin/ssh",))
    events = [
        START,
        execute("/tmp/py"),
        connect(),
        execute("/tmp/py", pid=3),
        known,
        connect(pid=3),
        connect(),
    ]

    assert numbers(profile, *events) == [5]


def test_equal_windows_of_short_processes_leave_nothing():
    profile = rule("connect", "port = 80", 'count = { over = 5, within = "1h", per = "process" }')
    evaluator = Evaluator(parse_profile(profile, "p"))
    for pid in range(10, 3000):
        for event in (fork(1, pid), connect(pid=pid), Exit(1, pid, 1)):
            evaluator.evaluate(event)

    held = evaluator.memory()
    assert (held["windows"], held["window entries"], held["processes"]) == (0, 0, 1)
