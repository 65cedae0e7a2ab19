"""The evaluator: sections, rules, windows and their keys; and that nothing makes it raise or waver."""

import pytest

from ebpfaudit.events import (
    CgroupMove,
    Connect,
    EpisodeStart,
    Exec,
    Exit,
    Fork,
    Gpu,
    Seen,
    Step,
)
from ebpfaudit.policy import remembered
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import load_profile, parse_profile
from ebpfaudit.verdicts import Verdict

SECOND = 10**9


def judge(profile: str, *events) -> list[Verdict]:
    evaluator = Evaluator(parse_profile(profile, "p"))
    return [verdict for event in events for verdict in evaluator.evaluate(event)]


def rule(on: str, when: str = "", more: str = "") -> str:
    return f'[[rule]]\nid = "r"\non = "{on}"\nwhen = {{ {when} }}\n{more}\naction = "kill"\n'


def execute(exe="/bin/x", *argv, pid=2, ts=1, **more) -> Exec:
    return Exec(ts, pid, 1, 1, exe, argv or ("x",), "/w", "x", 1000, **more)


def connect(dst="10.0.0.1", port=80, *, pid=2, ts=1, family="ipv4", protocol="tcp", **more) -> Connect:
    return Connect(ts, pid, 1, "x", family, protocol, dst, port, **more)


def gpu(event="context", device="nvidia:0", **more) -> Gpu:
    return Gpu(1, 2, 1, "x", event, device, **more)


START = EpisodeStart(0, "e", "p", 1, 1)


def test_verdict_explains_itself():
    profile = (
        '[[rule]]\nid = "tunnel"\non = "exec"\nwhen = { exe = "*/ssh", argv = ["-N", "-R*"] }\naction = "kill"\n'
        'scope = "episode"\nseverity = "high"\ntechnique = "T1572"\nmessage = "m"\n'
    )

    (verdict,) = judge(profile, START, execute("/bin/ls", "ls", "-R"), execute("/bin/ssh", "ssh", "-R 1:2"))

    assert verdict == Verdict(2, "kill", "tunnel", "argv", "-R 1:2", "-R*", "episode", "high", "T1572", "m")


def test_network_section_judges_attempts_and_names_the_entry():
    profile = '[network]\ndefault = "log"\nallow = ["loopback"]\nkill = ["metadata", "unix:/run/d*"]\ndeny = ["10.0.0.0/8:22"]\n'

    verdicts = judge(
        profile,
        connect("127.0.0.1"),
        connect("10.0.0.1", 22),
        connect("10.0.0.1", 22, phase="done", result="denied"),
        connect("fd00:ec2::254", 80, family="ipv6"),
        connect("/run/d.sock", 0, family="unix", protocol="stream"),
        connect("8.8.8.8", 53, protocol="udp"),
        connect("not an address"),
    )

    assert [(v.seq, v.action, v.rule, v.value, v.because) for v in verdicts] == [
        (1, "deny", "network", "10.0.0.1:22/tcp", "10.0.0.0/8:22"),
        (3, "kill", "network", "[fd00:ec2::254]:80/tcp", "metadata"),
        (4, "kill", "network", "unix:/run/d.sock", "unix:/run/d*"),
        (5, "log", "network", "8.8.8.8:53/udp", "default"),
        (6, "log", "network", "not an address:80/tcp", "default"),
    ]


def test_gpu_section_judges_open_and_context_only():
    verdicts = judge(
        '[gpu]\ndefault = "deny"\nallow = ["GPU-a"]\n',
        gpu("open"), gpu("context", uuid="GPU-a"), gpu("context", uuid="GPU-b"), gpu("alloc", bytes=5), gpu("enumerate"),
    )  # fmt: skip

    assert [(v.seq, v.rule, v.field, v.value) for v in verdicts] == [(2, "gpu", "uuid", "GPU-b")]


def test_exec_section_denies_by_path_and_by_what_the_probe_did():
    verdicts = judge(
        '[exec]\ndeny = ["/usr/bin/docker"]\n',
        execute("/usr/bin/docker"),
        execute("/usr/bin/docker", error="ENOENT"),
        execute("/opt/linked", decision="kill"),
        execute("/opt/linked"),
    )

    assert [(v.seq, v.action, v.rule, v.scope) for v in verdicts] == [
        (0, "deny", "exec", "process"),
        (2, "deny", "exec", "process"),
    ]


@pytest.mark.parametrize(
    ("on", "when", "hit", "miss"),
    [
        ("exec", 'cmdline = "a b*"', execute("/x", "a", "b", "c"), execute("/x", "a b"[:1])),
        ("exec", 'script = "*/s.sh"', execute("/bin/sh", filename="/w/s.sh", script=True), execute(filename="/w/s.sh")),
        ("exec", "memfd = true", execute("memfd:a", memfd=True), execute("memfd:a")),
        ("exec", "deleted = true", execute(deleted=True), execute()),
        ("exec", "deleted = false", execute(), execute(deleted=True)),
        ("exec", "argv_truncated = true", execute(argv_truncated=True), execute()),
        ("exec", 'error = "EACCES"', execute("x", error="EACCES"), execute("x", error="ENOENT")),
        ("exec", 'error = "E*"', execute("x", error="ENOENT"), execute("x")),
        ("exec", 'exe = "*/x"', execute("/bin/x"), execute("/bin/x", error="ENOENT")),
        ("exec", 'uid = ["0-999", 1000]', execute(), Exec(1, 2, 1, 1, "/x", ("x",), "/", "x", 1001)),
        ("connect", 'protocol = "udp"', connect(protocol="udp"), connect()),
        ("connect", 'family = "unix"', connect("/a", 0, family="unix"), connect()),
        ("connect", 'port = "1-100"', connect(port=100), connect(port=101)),
        ("connect", 'comm = "x"', connect(), Connect(1, 2, 1, "y", "ipv4", "tcp", "10.0.0.1", 80)),
        ("gpu", 'event = "context"', gpu(), gpu("open")),
        ("gpu", 'bytes = "over 1KiB"', gpu("alloc", bytes=1025), gpu("alloc", bytes=1024)),
        ("gpu", 'command = "RM_*"', gpu(command="RM_ALLOC"), gpu(command="0x12")),
        ("gpu", 'result = "EPERM"', gpu(result="EPERM"), gpu()),
        ("exit", "signal = 9", Exit(1, 2, 1, 0, 9), Exit(1, 2, 1, 9)),
        ("exit", "code = '1-255'", Exit(1, 2, 1, 3), Exit(1, 2, 1)),
        ("cgroup-move", "inside = false", CgroupMove(1, 2, 1, "/c", False, 1), CgroupMove(1, 2, 1, "/c", True, 1)),
    ],
)  # fmt: skip
def test_field_decides(on, when, hit, miss):
    profile = rule(on, when)

    assert [verdict.seq for verdict in judge(profile, miss, hit, miss)] == [1]
    assert [verdict.seq for verdict in judge(profile, hit, miss, hit)] == [0, 2]


def test_rule_without_result_sees_attempts_only_and_with_it_the_rest():
    attempts = (
        connect(),
        connect(phase="done", result="refused"),
        connect(result="denied"),
        connect(phase="done", result="denied"),
    )

    assert [v.seq for v in judge(rule("connect", 'dst = "private"'), *attempts)] == [0, 2]
    # The last is a refusal by the host or another program: our own is told at the attempt, and only there.
    assert [v.seq for v in judge(rule("connect", 'result = ["refused", "denied"]'), *attempts)] == [1, 2, 3]


def test_attempt_that_the_section_denies_counts_as_denied_whatever_was_recorded():
    profile = '[network]\ndefault = "deny"\n' + rule("connect", 'result = "denied"')

    assert [v.rule for v in judge(profile, connect(decision="allow"))] == ["network", "r"]
    assert [v.rule for v in judge('[gpu]\ndefault = "deny"\n' + rule("gpu", 'result = "denied"'), gpu())] == [
        "gpu",
        "r",
    ]


def test_unless_vetoes_only_if_all_of_it_holds():
    profile = rule("exec", 'exe = "/x"', 'unless = { argv = "ok", uid = 1000 }')

    assert [v.seq for v in judge(profile, execute("/x", "ok"), execute("/x", "no"))] == [1]


def test_connect_is_judged_by_what_its_process_runs_now():
    profile = rule("connect", 'exe = "/bad", argv = "-x"')

    verdicts = judge(
        profile,
        START,
        Fork(1, 1, 1, 2, 1),
        connect(),
        execute("/bad", "bad", "-x"),
        connect(),
        Fork(1, 2, 1, 3, 1),
        connect(pid=3),
        execute("/good", "good"),
        connect(),
        execute("/bad", "bad", "-x", error="ENOENT"),
        connect(),
        Exit(1, 2, 1),
        Fork(1, 1, 1, 2, 7),
        Connect(1, 2, 7, "x", "ipv4", "tcp", "10.0.0.1", 80),
    )

    assert [verdict.seq for verdict in verdicts] == [4, 6]


def test_process_found_running_is_known():
    verdicts = judge(
        rule("connect", 'exe = "/bad"'), Seen(1, 2, 1, 1, "/bad", ("b",), "/", "b", 0), connect()
    )

    assert [verdict.seq for verdict in verdicts] == [1]


COUNTED = rule(
    "connect", 'dst = "private"', 'count = {{ distinct = "dst", over = 2, within = "10s", per = "{per}" }}'
)


def sweep(*pids: int) -> list:
    return [connect(f"10.0.0.{number}", pid=pid, ts=number * SECOND) for number, pid in enumerate(pids)]


@pytest.mark.parametrize(
    ("per", "expected"),
    [("process", [8, 10]), ("tree", [7, 10]), ("episode", [6]), ("step", [6])],
)
def test_count_is_kept_per(per, expected):
    forks = [START, Fork(1, 1, 1, 2, 1), Fork(1, 2, 1, 3, 1), Fork(1, 1, 1, 4, 1)]

    verdicts = judge(
        COUNTED.replace("{per}", per).replace("{{", "{").replace("}}", "}"),
        *forks,
        *sweep(2, 4, 3, 2, 2, 4, 4),
    )

    assert [verdict.seq for verdict in verdicts] == expected
    assert all((v.field, v.value, v.because) == ("dst", "3", "over 2 distinct dst in 10s") for v in verdicts)


def test_new_step_begins_a_new_count():
    profile = COUNTED.replace("{per}", "step").replace("{{", "{").replace("}}", "}")
    first, second, third = sweep(2, 2, 2)

    assert judge(profile, first, second, Step(1, "two"), third) == []
    assert len(judge(profile, Step(1, "two"), first, second, third)) == 1


def test_count_of_a_process_ends_with_it():
    profile = COUNTED.replace("{per}", "process").replace("{{", "{").replace("}}", "}")
    evaluator = Evaluator(parse_profile(profile, "p"))
    for pid in range(2, 500):
        evaluator.evaluate(connect(pid=pid))
        evaluator.evaluate(Exit(1, pid, 1))

    (state,) = evaluator.states
    assert [len(table) for _, table in state.tables()] == [0]


def test_section_comes_first_and_rules_in_the_order_of_the_profile():
    rules = "".join(rule("exec", when).replace('"r"', f'"{name}"') for name, when in
                    (("b", 'argv = "*needle*"'), ("a", "uid = 1000"), ("c", 'argv = ["*nothing*", "*dle*"]')))  # fmt: skip

    verdicts = judge('[exec]\ndeny = ["/x"]\n' + rules, execute("/x", "needle"))

    assert [verdict.rule for verdict in verdicts] == ["exec", "b", "a", "c"]


def test_value_of_a_verdict_is_cut():
    (verdict,) = judge(rule("exec", 'argv = "a*"'), execute("/x", "a" * 5000))

    assert len(verdict.value) == 256


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(remembered, "MAX_REMEMBERED", 100)
    evaluator = Evaluator(load_profile("coding-agent"))
    for number in range(2000):
        evaluator.evaluate(connect(f"10.0.{number >> 8}.{number & 255}", pid=number % 7))
        evaluator.evaluate(execute(f"/bin/{number}", pid=number % 7))

    held = sum(len(answers) for answers, _ in evaluator._by_image.values())
    assert held + len(evaluator._by_image) + len(evaluator._exec_answers) + len(evaluator._memories) <= 210
