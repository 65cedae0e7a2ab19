"""`ebpfaudit profile explain`, as it is typed."""

import json
import subprocess
import sys

import msgspec
import pytest
from recorded import EVERY_KIND, HEADER, write_trail

MAIN = "import sys; sys.modules['bcc'] = None; from ebpfaudit.cli import main; main()"

PROFILE = """name = "mine"
description = ""
[network]
default = "deny"
allow = ["loopback", "10.0.0.0/8:443", "10.1.0.0/16", "unix:*"]
kill = ["10.1.2.3", "unix:/run/docker.sock"]
[gpu]
default = "deny"
allow = ["nvidia:1"]
[exec]
deny = ["/usr/bin/nsenter"]
[[rule]]
id = "tunnel"
on = "exec"
when = { exe = "*/ssh", argv = "-R*" }
unless = { argv = "--harmless" }
action = "kill"
[[rule]]
id = "scan"
on = "connect"
when = { dst = "private" }
count = { over = 3, distinct = "dst", within = "10s", per = "tree" }
action = "alert"
[[rule]]
id = "marked"
on = "connect"
when = { mark = "seen" }
action = "alert"
[[rule]]
id = "marking"
on = "exec"
when = { exe = "/opt/*" }
mark = "seen"
[[rule]]
id = "both"
then = [{ on = "exec", when = { exe = "/tmp/*" } }, { on = "connect", when = { dst = "public" } }]
within = "1m"
action = "kill"
"""


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(PROFILE)
    path.chmod(0o644)
    return path


def run(*arguments, **options):
    command = [sys.executable, "-c", MAIN, "profile", "explain", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def lines(*arguments, **options):
    result = run(*arguments, **options)
    assert result.returncode == 0, result.stderr
    return [line.strip() for line in result.stdout.splitlines()]


def test_the_section_says_which_entry_and_which_others(profile):
    shown = lines(profile, "connect 10.1.2.3:22")
    assert shown[0] == "line 1: connect tcp 10.1.2.3:22"
    assert (
        '[network] kill by "10.1.2.3": a prefix of 32 of 32 bits; the most specific wins, then the stricter'
        in shown
    )
    assert '-> kill  "10.1.2.3": a prefix of 32 of 32 bits' in shown
    assert 'allow "10.1.0.0/16": a prefix of 16 of 32 bits' in shown
    assert 'allow "10.0.0.0/8:443": port 22 is not in it' in shown


@pytest.mark.parametrize(
    ("event", "decision"),
    [
        ("connect 127.0.0.1:80", '[network] allow by "loopback": a prefix of 8 of 32 bits'),
        ("connect 198.51.100.1:80", '[network] deny by "default": no entry applies'),
        ("connect unix:/run/docker.sock", '[network] kill by "unix:/run/docker.sock": the exact path'),
        (
            "connect 10.0.0.1/sctp",
            '[network] deny by "protocol": nobody can say where sctp leads, so it is refused',
        ),
        ("gpu context nvidia:1", '[gpu] allow by "nvidia:1": the device'),
        ("gpu open nvidia:0", '[gpu] deny by "default": no entry applies'),
        ("exec nsenter -t 1", '[exec] deny by "/usr/bin/nsenter": the path'),
        ("exec ls", "[exec] allow: none of 1 denied paths is '/usr/bin/ls'"),
    ],
)
def test_every_section_is_explained(profile, event, decision):
    assert any(line.startswith(decision) for line in lines(profile, event)), event


def test_rules_say_which_field_failed_and_what_vetoed(profile):
    shown = lines(profile, "exec ssh -R 80:a:80 x --harmless", "--rule", "tunnel")
    assert "missed by 1: tunnel" in shown
    assert any(line.startswith("x unless argv ") and line.endswith('met "--harmless"') for line in shown)
    shown = lines(profile, "exec scp -R 80:a:80 x", "--rule", "tunnel")
    assert 'x exe "/usr/bin/scp" is not "*/ssh"' in shown
    fired = lines(profile, "exec ssh -R 80:a:80 x", "--rule", "tunnel")
    assert "fired: tunnel" in fired and "no verdict" not in fired


def test_counts_marks_and_parts_say_how_far_they_are(profile):
    shown = lines(profile, "a: connect 10.1.0.{1..3}:22")
    assert "before this event: count 2 of 3 distinct dst in 10s per tree" in shown
    assert 'x mark "seen" is missing; held: none' in shown
    shown = lines(profile, "a: exec /opt/x ; a: connect 10.1.0.1:22", "--rule", "marked")
    assert "fired: marked" in shown
    shown = lines(profile, "a: exec /tmp/x ; a: connect 198.51.100.1:80", "--rule", "both")
    assert "fired: both part 2 of 2 (then)" in shown
    assert "before this event: parts met in the last 1m per tree: 1 of 2" in shown


def test_the_nearest_misses_come_first_and_all_on_demand(profile):
    shown = lines(profile, "exec ls")
    assert [line for line in shown if line.startswith("missed")] == [
        "missed by 1: marking", "missed by 1: both part 1 of 2 (then)", "missed by 2: tunnel",
    ]  # fmt: skip
    many = profile.read_text() + "".join(
        f'[[rule]]\nid = "r{number}"\non = "exec"\nwhen = {{ exe = "/opt/{number}" }}\naction = "log"\n'
        for number in range(9)
    )
    profile.write_text(many)
    assert "and 7 further from matching: --all shows them" in lines(profile, "exec ls")
    assert sum(line.startswith("missed") for line in lines(profile, "exec ls", "--all")) == 12


def test_a_line_of_a_storys_file(profile, tmp_path):
    story = tmp_path / "s.toml"
    story.write_text("title = 't'\nevents = '''\na: exec ssh -R 1:a:1 x\na: connect 10.1.0.1:22\n'''\n")
    assert lines(profile, f"{story}:3")[0] == "line 3: exec ssh -R 1:a:1 x"
    assert lines(profile, f"{story}:4")[0] == "line 4: connect tcp 10.1.0.1:22"
    nothing = run(profile, f"{story}:1")
    assert nothing.returncode == 2 and "nothing happens in line 1" in nothing.stderr
    assert [line for line in lines(profile, story) if line.startswith("line ")] == [
        "line 3: exec ssh -R 1:a:1 x", "line 4: connect tcp 10.1.0.1:22",
    ]  # fmt: skip


def test_a_trail_by_the_profile_it_was_recorded_under_or_another(profile, tmp_path):
    path = tmp_path / "ep.jsonl.zst"
    write_trail(path, EVERY_KIND)
    recorded = lines("recorded", path)
    assert recorded[0] == "event 5: connect DENIED tcp 203.0.113.9:443"
    assert sum(line.startswith("event ") for line in recorded) == 1
    assert lines(profile, f"{path}:4")[0].startswith("event 4: exec ENOENT")
    nearest = lines(profile, path, "--rule", "tunnel")
    assert [line for line in nearest if line.startswith("event ")] == ["event 2: exec python3 -c pass"]
    assert run(profile, f"{path}:99").returncode == 2
    assert run("recorded", "exec ls").returncode == 2


def test_a_profile_that_is_named_needs_none_in_the_trail(profile, tmp_path):
    path = tmp_path / "old.jsonl.zst"
    write_trail(path, EVERY_KIND, header=msgspec.structs.replace(HEADER, profile_text="worn out = 1"))
    assert run(profile, f"{path}:1").returncode == 0
    assert run("recorded", f"{path}:1").returncode == 125


def test_json_in_and_out(profile):
    event = (
        '{"kind":"exec","ts_ns":5,"pid":7,"start":7,"ppid":1,"exe":"/usr/bin/ssh","argv":["ssh","-R1:a:1"],'
        '"cwd":"/","comm":"ssh","uid":0}'
    )
    for what, given in ((event, ""), ("-", event)):
        result = run(profile, what, "--json", input=given)
        (found,) = map(json.loads, result.stdout.splitlines())
        assert found["event"]["exe"] == "/usr/bin/ssh"
        assert [verdict["rule"] for verdict in found["verdicts"]] == ["tunnel"]
        assert [rule["rule"] for rule in found["rules"]] == ["tunnel", "marking", "both"]
        assert found["rules"][0]["matches"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("conect 10.0.0.1:22",), 125, "did you mean 'connect'?"),
        (("nosuch.toml",), 2, "nosuch.toml: no such file"),
        ((f"nosuch.jsonl.zst:{'9' * 5000}",), 125, "is no kind of event"),
        (("exec \udcff",), 2, "event: not a UTF-8 text"),
        (("nosuch.jsonl.zst:3",), 2, "nosuch.jsonl.zst: no such file"),
        (('{"kind":"exec"}',), 2, "not an event as JSON"),
        (("exec ls", "--rule", "tunel"), 2, "profile 'mine' has no rule 'tunel'; did you mean 'tunnel'?"),
    ],
)
def test_errors_are_one_message(profile, arguments, code, problem):
    result = run(profile, *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert (
        result.stderr.startswith("Error: ") and problem in result.stderr and "Traceback" not in result.stderr
    )


def test_hostile_text_stays_text(profile):
    shown = run(profile, "exec ssh $'\\x1b[2J-R'").stdout
    assert "\x1b" not in shown and "\\x1b[2J" in shown
