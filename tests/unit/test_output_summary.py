import json

from ebpfaudit.events import Connect, Exec, Exit, Fork, Gpu, GpuCount, Lost
from ebpfaudit.output.clock import WallClock
from ebpfaudit.output.notices import enforcement_line, start_lines, verdict_line
from ebpfaudit.output.summary import RunSummary, Tally, render, to_json
from ebpfaudit.verdicts import Enforcement, Verdict

KILLED = Enforcement(
    9, "kill", "tree", "tunnel", "killed", "cgroup.kill", 41, 3, (), 10**9, 1_000_060_000, 1_000_310_000,
    1_002_100_000,
)  # fmt: skip


def connect(phase="attempt", result="", decision=""):
    return Connect(1, 41, 7, "curl", "ipv4", "tcp", "192.0.2.1", 80, phase, result, decision)


def run(error=""):
    return Exec(1, 41, 7, 1, "/bin/x", ("x",), "/", "x", 0, error=error)


def tallied():
    tally = Tally()
    tally.add([Fork(1, 1, 1, 41, 7), run(), run("ENOENT"), Exit(1, 41, 7)])
    tally.add([connect(), connect("done", "ok"), connect(), connect("done", "refused")])
    tally.add([connect(decision="deny"), connect("done", "denied", "deny")])
    tally.add(
        [
            Gpu(1, 41, 7, "t", "open", "nvidia:0"),
            Gpu(1, 41, 7, "t", "context", "nvidia:0"),
            Gpu(1, 41, 7, "t", "alloc", "nvidia:0", bytes=1 << 30),
            Gpu(1, 41, 7, "t", "alloc", "nvidia:0", bytes=1 << 30, result="ENOMEM"),
            Gpu(1, 41, 7, "t", "open", "nvidia:1", decision="deny"),
            GpuCount(1, 41, 7, "alloc", "nvidia:0", 10, 1 << 20),
            Lost(1, 3),
            Lost(1, 4),
        ]
    )
    tally.add(
        [Verdict(9, "kill", "tunnel", "argv", "-R"), Verdict(12, "kill", "tunnel", "argv", "-NR"), KILLED]
    )
    return tally


def test_the_tally_counts_each_thing_once():
    tally = tallied()
    summary = tally.summary("ep-1", "base", exit_code=3)
    assert (summary.processes, summary.execs, summary.failed_execs) == (2, 1, 1)
    assert summary.connections == {"attempted": 3, "ok": 1, "refused": 1, "denied": 1}
    gpu = summary.gpu["nvidia:0"]
    assert (gpu.opens, gpu.contexts, gpu.calls, gpu.bytes, gpu.denied) == (1, 1, 13, (1 << 30) + (1 << 20), 0)
    assert (summary.gpu["nvidia:1"].opens, summary.gpu["nvidia:1"].denied) == (0, 1)
    assert [(v.rule, v.action, v.count, v.value, v.seq) for v in summary.verdicts] == [
        ("tunnel", "kill", 2, "-R", 9)
    ]
    assert (summary.lost, summary.complete, summary.exit_code) == (7, False, 3)


def test_the_result_file_has_every_key_always():
    result = json.loads(to_json(RunSummary("ep-1", "base")))
    assert {
        "episode", "profile", "step", "exit_code", "killed_by_policy", "duration_s", "processes",
        "connections", "gpu", "verdicts", "enforcements", "lost", "complete", "trail",
        "trail_head", "coverage",
    } <= result.keys()  # fmt: skip
    assert to_json(RunSummary("ep-1", "base")).count(b"\n") == 1


def test_kill_times_are_milliseconds_after_the_offending_call():
    (done,) = json.loads(to_json(tallied().summary("ep-1", "base")))["enforcements"]
    assert (done["decided_ms"], done["killed_ms"], done["gone_ms"]) == (0.06, 0.31, 2.1)
    assert (done["processes"], done["survivors"], done["result"]) == (3, [], "killed")


def test_the_summary_tells_the_whole_run():
    text = render(
        tallied().summary(
            "ep-1", "base", step="s1", exit_code=120, killed_by_policy=True, duration_s=12.34,
            trail="/tmp/ep-1.jsonl.zst", trail_head="ab" * 32,
        )
    )  # fmt: skip
    for part in (
        "episode ep-1, step s1, profile base: KILLED BY POLICY after 12.3 s",
        "2; 1 programs run, 1 failed to start",
        "3 attempted: 1 denied, 1 ok, 1 refused",
        "nvidia:0: opened 1, contexts 1, driver calls 13, allocated 1.0 GiB",
        '2 x kill tunnel: argv "-R"',
        "tunnel: killed tree of 41: 3 processes by cgroup.kill (decided 0.06 ms, killed 0.31 ms, gone 2.1",
        "INCOMPLETE: 7 records lost; /tmp/ep-1.jsonl.zst (head abababababababab)",
    ):
        assert part in text, text
    assert "\x1b" not in text


def test_a_clean_run_says_so():
    text = render(RunSummary("ep-1", "base", trail="t"))
    assert "exit code 0" in text
    assert "complete; t" in text
    assert "INCOMPLETE" not in text
    assert "INCOMPLETE" in render(RunSummary("ep-1", "base", complete=False))
    assert "\x1b[" in render(RunSummary("ep-1", "base"), colour=True)


def test_hostile_names_stay_text_in_what_run_says():
    bad = "\x1b[2J\n[red]"
    summary = RunSummary(bad, bad, trail=bad, connections={bad: 1}, step=bad)
    assert "\x1b" not in render(summary)
    verdict = Verdict(1, "kill", bad, bad, bad, bad)
    event = Exec(1, 2, 3, 1, bad, (bad,), "/", bad, 0)
    for line in (
        *start_lines(bad, bad, bad, [bad], enforce=True),
        verdict_line(verdict, event, WallClock(0)),
        enforcement_line(Enforcement(1, "kill", "tree", bad, bad, bad)),
    ):
        assert line.isprintable()


def test_what_is_not_covered_is_said_at_the_start():
    first, second = start_lines("ep-1", "base", "t.zst", ["raw sockets", "32-bit"], enforce=False, step="s")
    assert first == "ebpfaudit: episode ep-1, step s, profile base, NOT enforced: only recorded, trail t.zst"
    assert second == "ebpfaudit: not covered on this kernel: raw sockets; 32-bit"
    assert len(start_lines("ep-1", "base", "", [], enforce=True)) == 1


def test_an_alert_is_one_line_that_explains_itself():
    verdict = Verdict(9, "kill", "tunnel", "argv", "-NR", "-*R*", severity="critical", technique="T1572")
    event = Exec(10**9, 41, 7, 1, "/usr/bin/ssh", ("ssh", "-NR", "1:h:2"), "/", "ssh", 0)
    line = verdict_line(verdict, event, WallClock(0))
    assert line.endswith(
        ':01.000 KILL ssh[41] tunnel: argv "-NR" met "-*R*" (T1572, critical) | ssh -NR 1:h:2'
    )
    assert enforcement_line(KILLED) == (
        "ebpfaudit: killed tree of 41: 3 processes by cgroup.kill "
        "(decided 0.06 ms, killed 0.31 ms, gone 2.10 ms) [tunnel]"
    )
    assert verdict_line(verdict, event, WallClock(0), colour=True).count("\x1b[") == 2
    assert "tcp 192.0.2.1:80" in verdict_line(verdict, connect(), WallClock(0))
