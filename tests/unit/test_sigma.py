"""Sigma rules as rules of ours: the same events match, near misses do not, and nothing is left out in silence."""

import json
import os
import subprocess
import sys
from fnmatch import translate
from pathlib import Path
from re import fullmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfaudit.events import Connect, EpisodeStart, Exec, Fork
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import load_profile, parse_profile

pytest.importorskip("sigma", reason="pySigma is not installed: pip install 'ebpfaudit[sigma]'")

from ebpfaudit.profiles.sigma import Imported, import_sigma, rule_files, summary
from ebpfaudit.profiles.sigma.globs import ANY, STAR, TooManyOrders, intersect, literal, text_of

RULES = Path(__file__).parent / "sigma"
START = EpisodeStart(0, "e", "p", 1, 1)
SECOND = 10**9


def imported(name: str, **options) -> Imported:
    return import_sigma([RULES / name], **options)


def one_rule(detection: str, tmp_path: Path, *, category="process_creation", more="", **options) -> Imported:
    path = tmp_path / "rule.yml"
    path.write_text(
        f"title: T\n{more}\nlogsource: {{product: linux, category: {category}}}\ndetection: {detection}\n"
    )
    return import_sigma([path], **options)


def fired(text: str, *events) -> list[str]:
    evaluator = Evaluator(parse_profile(text, "imported"))
    return [verdict.rule for event in (START, *events) for verdict in evaluator.evaluate(event)]


def execute(line: str, *, exe="", pid=2, ts=1, cwd="/w", uid=1000) -> Exec:
    argv = tuple(line.split(" "))
    return Exec(ts, pid, 1, 1, exe or f"/usr/bin/{argv[0]}", argv, cwd, "x", uid)


def connect(dst: str, port=4444, *, pid=2, ts=1, protocol="tcp", family="") -> Connect:
    found = family or ("ipv6" if ":" in dst else "ipv4")
    return Connect(ts, pid, 1, "x", found, protocol, dst, port)


def test_several_texts_in_any_order_and_a_filter():
    text = imported("processes.yml").text
    uploads = "archive-uploaded-from-a-temporary-folder"

    assert fired(text, execute("uploader --send /tmp/a.tgz")) == [uploads]
    assert fired(text, execute("syncer /tmp/a.tgz --SEND now")) == [uploads]
    assert fired(text, execute("uploader /tmp/a.tgz --sender x")) == []
    assert fired(text, execute("uploader --send /srv/a.tgz")) == []
    assert fired(text, execute("other --send /tmp/a.tgz")) == []
    assert fired(text, execute("uploader --send /tmp/a.tgz --to=backup.example")) == []


def test_alternatives_become_rules_with_a_number():
    text = imported("processes.yml").text
    server = execute("nginx", exe="/usr/sbin/nginx", pid=2)
    shell = execute("sh -c id", exe="/bin/sh", pid=3, ts=3)

    assert fired(text, server, Fork(2, 2, 1, 3, 1), shell) == ["shell-of-a-web-server"]
    assert fired(text, shell) == []
    assert fired(text, execute("dump-tables all", uid=0)) == ["shell-of-a-web-server-2"]
    assert fired(text, execute("dump-tables all", uid=1)) == []
    assert fired(text, execute("x dump-tables all", uid=0)) == []


def test_literal_star_case_and_base64():
    text = imported("processes.yml").text

    assert fired(text, execute("CHMOD 777 *")) == ["star-in-a-command"]
    assert fired(text, execute("chmod 777 x")) == []
    assert fired(text, execute("x REMOVE")) == ["star-in-a-command"]
    assert fired(text, execute("x remove")) == []
    # base64 of "a reverse-shell": at another offset than that of the word alone
    assert fired(text, execute("echo YSByZXZlcnNlLXNoZWxs")) == ["encoded-word"]
    assert fired(text, execute("echo YSByZXZlcnNlLWRvb3I=")) == []


def test_connections():
    text = imported("connections.yaml").text
    python = execute("python3 x.py")

    assert fired(text, python, connect("192.0.2.1")) == ["interpreter-to-a-far-port"]
    assert fired(text, python, connect("2001:db8::1")) == ["interpreter-to-a-far-port"]
    assert fired(text, python, connect("192.0.2.1", 3999)) == []
    assert fired(text, python, connect("10.1.2.3")) == []
    assert fired(text, python, connect("fe80::1")) == []
    assert fired(text, execute("ruby x.rb"), connect("192.0.2.1")) == []


def test_what_must_not_be_is_turned_where_two_things_must_not_be():
    text = imported("connections.yaml").text
    user, root = execute("x"), execute("x", uid=0)

    assert fired(text, user, connect("10.99.1.1", 80)) == ["lab-network"]
    assert fired(text, root, connect("10.99.1.1", 80)) == []
    assert fired(text, user, connect("10.99.1.1", 443)) == []
    assert fired(text, user, connect("10.98.1.1", 80)) == []
    assert fired(text, user, connect("10.99.1.1", 80, protocol="udp")) == []


def test_unix_sockets_are_none_of_sigmas_connections():
    text = imported("connections.yaml").text
    agent = execute("agent", exe="/opt/agent/bin")

    assert fired(text, agent, connect("192.0.2.1", 80)) == ["any-program-but-one"]
    assert fired(text, agent, connect("/run/x", 0, family="unix", protocol="stream")) == []
    assert fired(text, execute("u", exe="/opt/agent/updater"), connect("192.0.2.1", 80)) == []


def test_correlations():
    result = imported("correlations.yml")
    looks = [execute(f"cat /etc/passwd {n}", ts=n * SECOND) for n in range(1, 4)]
    slow = [execute("cat /etc/passwd", ts=n * 200 * SECOND) for n in range(1, 4)]
    reach = connect("192.0.2.1", 8443, ts=5 * SECOND)

    assert fired(result.text, *looks[:2]) == []
    assert fired(result.text, *looks) == ["many-looks"]
    assert fired(result.text, *slow) == []
    assert fired(result.text, looks[0], reach) == ["look-then-reach"]
    assert fired(result.text, reach, execute("cat /etc/passwd", ts=6 * SECOND)) == []
    assert fired(result.text, reach, reach) == []
    assert fired(result.text, reach, connect("192.0.2.2", 8443, ts=6 * SECOND)) == ["many-ports"]
    assert fired(result.text, reach, connect("192.0.2.2", 8443, ts=6 * SECOND, pid=3)) == []
    refused = {outcome.title: outcome.kind for outcome in result.outcomes if not outcome.rules}
    assert refused == {
        "Look At Accounts": "part",
        "Reach Out": "part",
        "Sum Of Something": "correlation",
        "By Image": "correlation",
    }


def test_whatever_is_not_imported_is_named_with_its_reason():
    result = imported("refused.yml")

    assert not any(outcome.rules for outcome in result.outcomes)
    kinds = {outcome.title: outcome.kind for outcome in result.outcomes}
    assert kinds == {
        "Regular Expression": "regex",
        "Parent Command Line": "field",
        "Host Name": "field",
        "Windows": "source",
        "Keywords": "keyword",
        "Two Negations": "negations",
        "Incoming": "value",
        "Too Many Orders": "orders",
        "Unknown Modifier": "invalid",
        "Placeholder": "value",
        "Contradiction": "never",
        "Everything": "value",
    }
    assert all(outcome.reason and "\n" not in outcome.reason for outcome in result.outcomes)


def test_origin_severity_technique_and_action():
    first, *_ = parse_profile(imported("processes.yml", action="kill").text, "p").rules
    shell = next(
        rule
        for rule in parse_profile(imported("processes.yml", action="kill").text, "p").rules
        if "web" in rule.id
    )

    assert (first.severity, first.technique, first.action) == ("high", "T1567.002", "kill")
    assert first.message == "Archive Uploaded From A Temporary Folder"
    assert first.description.startswith(
        "Sigma 0b1f1c52-6d1f-4d0e-9a53-3a8f0c1c9b11 by ebpfaudit, licence Apache-2.0"
    )
    assert shell.action == "alert"  # of level medium


def test_reach_that_differs_by_design_is_said_above_the_rule():
    text = imported("processes.yml").text
    above = text[: text.index('id = "shell-of-a-web-server"')].split("\n\n")[-1]

    assert "# wider: ParentImage is any ancestor" in above
    assert "# narrower: paths match in the case written" in above
    assert "# narrower" not in imported("processes.yml", case="any").text


@pytest.mark.parametrize(
    ("case", "loud", "mixed"), [("any", True, True), ("paths", False, True), ("written", False, False)]
)
def test_case(tmp_path, case, loud, mixed):
    text = one_rule(
        "{s: {Image|endswith: /curl, CommandLine|contains: ' -o x'}, condition: s}", tmp_path, case=case
    ).text

    assert bool(fired(text, execute("curl -o x"))) is True
    assert bool(fired(text, execute("curl -O X"))) is mixed
    assert bool(fired(text, execute("c -o x", exe="/usr/bin/CURL"))) is loud


def test_ids_are_unique_also_among_those_of_the_extended_profile(tmp_path):
    detection = "{s: {Image: /bin/x}, condition: s}"
    (tmp_path / "a.yml").write_text(
        f"title: T\nlogsource: {{category: process_creation}}\ndetection: {detection}\n"
    )
    (tmp_path / "b.yaml").write_text((tmp_path / "a.yml").read_text())

    result = import_sigma(list(rule_files([str(tmp_path)])), taken=["t"])

    assert [rule.id for rule in parse_profile(result.text, "p").rules] == ["t-2", "t-3"]


HOSTILE = {
    "alias bomb": "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "merge bomb": "a0: &a0 {k: 1}\n"
    + "".join(f"a{n}: &a{n}\n  <<: [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)),
    "deep": "[" * 500_000,
    "object": "a: !!python/object/apply:os.system ['true']",
    "duplicate key": "title: a\ntitle: b\n",
    "unhashable key": "? [a, b]\n: 1\n",
    "a list": "- a\n- b\n",
    "a word": "hello",
    "nothing": "",
    "control characters": "title: \x07\n",
    "too large": "#" * ((1 << 20) + 1),
    "numbers": "title: 1\nlogsource: 2\ndetection: 3\n",
    "nots": "title: T\nlogsource: {category: process_creation}\ndetection:\n  s: {CommandLine: x}\n  condition: "
    + "not " * 2000
    + "s\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_file_is_named_and_the_others_go_on(what, tmp_path):
    (tmp_path / "bad.yml").write_text(HOSTILE[what])

    result = import_sigma([tmp_path / "bad.yml", tmp_path / "absent.yml", RULES / "connections.yaml"])

    bad, absent, *good = result.outcomes
    assert not bad.rules and bad.kind in ("unreadable", "invalid", "size") and bad.reason
    assert absent.reason == "cannot be read: No such file or directory"
    assert all(outcome.rules for outcome in good)
    assert summary(result.outcomes).startswith("imported 3 of 5 Sigma rules as 3 rules; 2 not: ")


def test_hostile_texts_stay_texts(tmp_path):
    more = 'author: "x\\n[[rule]]\\u001b[2J"'
    result = one_rule(
        '{s: {CommandLine|contains: ["@list", "same-as:/x", "\\"]", "{pid}", "[!a]", "\\x7f"]}, condition: s}',
        tmp_path, more=more, case="written",
    )  # fmt: skip

    assert [rule.id for rule in parse_profile(result.text, "p").rules] == ["t"]
    assert "\x1b" not in result.text
    for held in ("@list", "same-as:/x", '"]', "{pid}", "[!a]", "\\x7f"):
        assert fired(result.text, execute(f"x {held} y")) == ["t"]
    assert fired(result.text, execute("x b y")) == []


PATTERNS = st.text("ab*?", min_size=1, max_size=6)


def glob(pattern: str):
    return tuple({"*": STAR, "?": ANY}.get(char, char) for char in pattern)


@settings(max_examples=300, deadline=None)
@given(PATTERNS, PATTERNS, st.text("ab", max_size=7))
def test_common_texts_are_exactly_the_common_ones(one, other, text):
    try:
        common = intersect([glob(one)], [glob(other)])
    except TooManyOrders:
        return
    in_both = all(fullmatch(translate(pattern), text) for pattern in (one, other))
    assert any(fullmatch(translate(text_of(each)), text) for each in common) == bool(in_both)


def test_any_case_is_written_as_classes():
    assert text_of((STAR, *literal("a-B1[é", any_case=True))) == "*[aA]-[bB]1[[][éÉ]"


def ebpfaudit(*arguments: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.modules['bcc'] = None; {before}; from ebpfaudit.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "profile", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ},
    )


def test_command_prints_a_profile_that_check_accepts_and_reports_the_rest(tmp_path):
    path = tmp_path / "sigma.toml"
    done = ebpfaudit("import-sigma", str(RULES), "--name", "mine", "--extends", "base")
    path.write_text(done.stdout)
    path.chmod(0o644)

    assert done.returncode == 0
    profile = load_profile(str(path))
    assert profile.name == "mine"
    assert {rule.id for rule in load_profile("base").rules} < {rule.id for rule in profile.rules}
    assert ebpfaudit("check", str(path)).returncode == 0
    assert f"{RULES}/refused.yml: Regular Expression: CommandLine is a regular expression\n" in done.stderr
    assert "imported 10 of 26 Sigma rules as 11 rules; 16 not: " in done.stderr


def test_command_as_json_and_with_output(tmp_path):
    path = tmp_path / "sigma.toml"
    done = ebpfaudit("import-sigma", str(RULES), "--json", "--output", str(path))

    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == 26
    assert sum(bool(outcome["rules"]) for outcome in outcomes) == 10
    assert len(parse_profile(path.read_text(), "p").rules) == 11


def test_command_fails_where_nothing_is_imported_and_where_pysigma_is_missing():
    none = ebpfaudit("import-sigma", str(RULES / "refused.yml"))
    missing = ebpfaudit("import-sigma", str(RULES), before="sys.modules['sigma'] = None")

    assert (none.returncode, none.stdout) == (1, "")
    assert missing.returncode == 125
    assert "pip install 'ebpfaudit[sigma]'" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_a_folder_may_hold_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "fifo.yml")
    (tmp_path / "loop.yml").symlink_to("loop.yml")
    assert [path.name for path in rule_files([str(tmp_path)])] == ["loop.yml"]
