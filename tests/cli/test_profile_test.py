"""`ebpfaudit profile test`, as it is typed."""

import json
import os
import pty
import subprocess
import sys
import tomllib
from xml.etree import ElementTree

import pytest
from recorded import EVERY_KIND, write_trail

MAIN = "import sys; sys.modules['bcc'] = None; from ebpfaudit.cli import main; main()"

PROFILE = """name = "mine"
description = ""
[network]
default = "deny"
allow = ["loopback"]
[[rule]]
id = "no-ssh"
on = "exec"
when = { exe = "*/ssh" }
action = "kill"
"""

STORY = """# about it
title = "ssh goes out"
family = "ssh"
events = '''

ssh: exec ssh relay
ssh: connect 10.0.0.{1..3}:22
'''

[expect]   # by hand
other = ["alert something"]   # keep me
mine = [ "kill no-ssh", "deny network x3" ] # and me
"""


def run(*arguments, **options):
    command = [sys.executable, "-c", MAIN, "profile", "test", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.fixture
def folder(tmp_path):
    """A profile "mine" and its neighbour "other", with one story."""
    for name in ("mine", "other"):
        (tmp_path / f"{name}.toml").write_text(PROFILE.replace('"mine"', f'"{name}"'))
        (tmp_path / f"{name}.toml").chmod(0o644)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "ssh.toml").write_text(STORY)
    return tmp_path


def test_what_is_expected_passes(folder):
    result = run(folder / "mine.toml")
    assert result.returncode == 0, result.stdout
    assert result.stdout.startswith("mine ") and "1 passed in " in result.stdout
    assert run(folder / "mine.toml", "-v").stdout.startswith(
        "ok   mine: ssh.toml: ssh goes out ['kill no-ssh', 'deny "
    )


def test_it_may_be_folded_or_spelled_out(folder):
    story = folder / "tests" / "ssh.toml"
    story.write_text(STORY.replace('"deny network x3"', '"deny network", "deny network", "deny network x1"'))
    assert run(folder / "mine.toml").returncode == 0


def test_a_failure_shows_the_story_with_both_sides(folder):
    (folder / "tests" / "ssh.toml").write_text(STORY.replace("no-ssh", "no-telnet").replace("x3", "x2"))
    result = run(folder / "mine.toml", cwd=folder)
    assert result.returncode == 1
    assert result.stdout.splitlines()[:-1] == [
        "FAIL mine: ssh goes out",
        f"     {folder}/tests/ssh.toml",
        "     the verdicts are not the expected ones",
        "    6  ssh: exec ssh relay",
        "         - kill no-telnet",
        '         + kill no-ssh      exe "/usr/bin/ssh" met "*/ssh"',
        "    7  ssh: connect 10.0.0.{1..3}:22",
        '           deny network x2  dst "10.0.0.1:22/tcp" met "default"',
        '         + deny network     dst "10.0.0.3:22/tcp" met "default"',
    ]
    assert "0 passed, 1 failed" in result.stdout


def test_update_writes_the_chosen_entry_and_nothing_else(folder):
    story = folder / "tests" / "ssh.toml"
    story.write_text(
        STORY.replace('[ "kill no-ssh", "deny network x3" ]', '[\n  "kill it", # old\n  "deny network",\n]')
    )
    result = run(folder / "mine.toml", "--update")
    assert result.returncode == 0, result.stdout
    assert f'updated {story}: mine = ["kill no-ssh", "deny network x3"]' in result.stdout
    assert story.read_text() == STORY.replace(
        '[ "kill no-ssh", "deny network x3" ]', '["kill no-ssh", "deny network x3"]'
    )


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "end",
    [
        "",
        "\n[expect]\n",
        "\n[expect]",
        "\n[expect]\nother = []  # why",
        "\n[expect]\nother = [\n'log b']\n\n# end\n",
    ],
)
def test_update_adds_an_entry(folder, newline, end):
    story = folder / "tests" / "ssh.toml"
    before = (STORY.partition("\n[expect]")[0] + end).replace("\n", newline)
    story.write_bytes(before.encode())
    result = run(folder / "mine.toml", "--fixture", story, "--update")
    after = story.read_bytes().decode()
    assert tomllib.loads(after)["expect"]["mine"] == ["kill no-ssh", "deny network x3"]
    assert result.returncode == 0, result.stdout
    for line in before.split(newline):
        assert line in after.split(newline)


def test_update_does_not_touch_what_it_cannot_rewrite(folder):
    story = folder / "tests" / "ssh.toml"
    before = STORY.partition("\n[expect]")[0] + "\n[other]\n"
    story.write_text(before.replace("title =", "expect = {}\ntitle =").replace("[other]\n", ""))
    before = story.read_text()
    result = run(folder / "mine.toml", "--fixture", story, "--update")
    assert result.returncode == 1
    assert "edit it by hand" in result.stdout and story.read_text() == before


def test_innocent_work_must_not_be_alarmed_whatever_is_expected(folder):
    (folder / "tests" / "ssh.toml").write_text(STORY.replace('family = "ssh"', "innocent = true"))
    result = run(folder / "mine.toml")
    assert result.returncode == 1 and "innocent work meets 'kill no-ssh'" in result.stdout


def test_an_attack_must_be_caught_by_somebody_or_excused(folder):
    story = folder / "tests" / "ssh.toml"
    uncaught = 'title = "t"\nfamily = "f"\nevents = "exec ls"\n[expect]\nmine = []\n'
    story.write_text(uncaught)
    assert "no profile in [expect] gives alert" in run(folder / "mine.toml").stdout
    story.write_text(uncaught.replace("events", 'missed = "nothing happens"\nevents'))
    assert run(folder / "mine.toml").returncode == 0
    story.write_text(STORY.replace("events =", 'missed = "nothing happens"\nevents ='))
    assert "a profile catches this attack now" in run(folder / "mine.toml").stdout


def test_a_bad_fixture_is_said_with_file_and_line(folder):
    story = folder / "tests" / "bad.toml"
    story.write_text(
        'title = "x"\nfamly = "y"\nevents = """\nconect 1.2.3.4:5\n"""\n[expect]\nmin = []\nmine = ["kil x"]\n'
    )
    result = run(folder / "mine.toml", folder / "other.toml")
    assert result.returncode == 1
    for problem in (
        f"{story}:2:1: unknown key 'famly'; did you mean 'family'?",
        f"{story}:4: 'conect' is no kind of event; did you mean 'connect'?",
        f"{story}:7:1: no profile 'min' beside this folder; did you mean 'mine'?",
        f"{story}:8:9: 'kil' is no action; did you mean 'kill'?",
    ):
        assert problem in result.stdout
    assert "1 passed, 1 could not be judged" in result.stdout  # and only mine is concerned
    assert "Traceback" not in result.stdout + result.stderr


def test_no_fixtures_is_a_failure_for_a_named_profile(folder):
    (folder / "tests" / "ssh.toml").unlink()
    result = run(folder / "mine.toml")
    assert result.returncode == 1 and "there are no fixtures" in result.stdout
    unknown = run("codin-agent")
    assert unknown.returncode == 125 and "did you mean 'coding-agent'?" in unknown.stderr


def test_a_profile_that_does_not_load_is_said(folder):
    (folder / "mine.toml").write_text("[network]\nallow = ['10.0.0.0/40']\n")
    result = run(folder / "mine.toml")
    assert result.returncode == 1 and "mine.toml:2:" in result.stdout


def test_a_fixture_can_be_chosen(folder):
    (folder / "tests" / "ls.toml").write_text(
        'title = "list"\nevents = "exec ls"\n[expect]\nmine = ["kill no-ssh"]\n'
    )
    assert run(folder / "mine.toml").returncode == 1
    assert run(folder / "mine.toml", "-k", "GOES OUT").returncode == 0
    chosen = run("--fixture", folder / "tests" / "ls.toml")
    assert chosen.returncode == 1 and "0 passed, 1 failed" in chosen.stdout


def test_json_and_junit(folder):
    hostile = "title = 'h'\nevents = '''exec ssh $'\\x1b<&>' \"]]>\"'''\n[expect]\nmine = []\n"
    (folder / "tests" / "hostile.toml").write_text(hostile)
    (folder / "tests" / "bad.toml").write_text("title = 3\n")
    report = folder / "report.xml"
    result = run(folder / "mine.toml", "--json", "--junit", report)
    passed = {
        line["fixture"].rpartition("/")[2]: line["passed"]
        for line in map(json.loads, result.stdout.splitlines())
    }
    assert passed == {"ssh.toml": True, "hostile.toml": False, "bad.toml": False}
    root = ElementTree.parse(report).getroot()
    (suite,) = root
    assert (suite.get("name"), suite.get("tests"), suite.get("failures"), suite.get("errors")) == (
        "mine",
        "3",
        "1",
        "1",
    )
    assert {case.get("name") for case in suite} >= {"ssh.toml: ssh goes out", "hostile.toml: h"}
    assert "+ kill no-ssh" in suite.find("testcase/failure").text


def test_junit_has_no_character_that_xml_cannot_hold(folder):
    (folder / "tests" / "ssh.toml").write_text(
        'title = "bell \\u0007 and \\uffff"\nevents = "exec ssh"\n[expect]\nmine = []\n'
    )
    report = folder / "report.xml"
    run(folder / "mine.toml", "--junit", report)
    (case,) = ElementTree.parse(report).getroot()[0]
    assert case.get("name") == "ssh.toml: bell \\x07 and \\xef\\xbf\\xbf"


def test_an_incident_becomes_a_fixture(folder):
    write_trail(folder / "ep.jsonl.zst", EVERY_KIND)
    recorded = run("--record", folder / "ep.jsonl.zst", folder / "mine.toml")
    assert recorded.returncode == 0, recorded.stderr
    (folder / "tests" / "ssh.toml").write_text(recorded.stdout)
    assert tomllib.loads(recorded.stdout)["expect"]["mine"] == ["deny network"]
    assert run(folder / "mine.toml").returncode == 0
    by_itself = run("--record", folder / "ep.jsonl.zst", "--around", "5")
    assert tomllib.loads(by_itself.stdout)["expect"] == {"quiet": ["deny network"]}
    beyond = run("--record", folder / "ep.jsonl.zst", "--around", "99")
    assert beyond.returncode == 125 and beyond.stderr.startswith("Error: there is no event 99")


def test_a_trail_with_verdicts_is_a_fixture(folder):
    own = folder / "tests" / "mine"
    own.mkdir()
    (folder / "tests" / "ssh.toml").unlink()
    write_trail(own / "ep.jsonl.zst", EVERY_KIND)
    assert "nothing is expected of 'mine'" in run(folder / "mine.toml").stdout
    assert run(folder / "mine.toml", "--update").returncode == 0
    assert (own / "ep.verdicts.jsonl").read_text().count("\n") == 1
    assert run(folder / "mine.toml").returncode == 0


def test_whoever_waits_sees_a_bar_on_the_terminal(folder):
    for number in range(400):
        (folder / "tests" / f"s{number}.toml").write_text(STORY)
    terminal, end = pty.openpty()
    command = [sys.executable, "-c", MAIN, "profile", "test", str(folder / "mine.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end, text=True) as running:
        os.close(end)
        shown = b""
        while True:
            try:
                part = os.read(terminal, 4096)
            except OSError:
                break
            shown += part
        assert "401 passed" in running.stdout.read()
    os.close(terminal)
    assert b"judging" in shown


def test_update_keeps_a_byte_order_mark(folder):
    story = folder / "tests" / "ssh.toml"
    story.write_bytes(b"\xef\xbb\xbf" + story.read_bytes().replace(b'"kill no-ssh"', b'"kill other"'))
    before = story.read_bytes()
    result = run(folder / "mine.toml", "--update")
    assert result.returncode == 0, result.stdout + result.stderr
    assert story.read_bytes().startswith(b"\xef\xbb\xbf# about") and story.read_bytes() != before


def test_a_fixture_that_is_no_file_is_said(folder):
    os.mkfifo(folder / "tests" / "fifo.toml")
    result = run(folder / "mine.toml")
    assert result.returncode == 1 and "fifo.toml: is not a file" in result.stdout


def test_a_fixture_that_is_not_there_is_called_so():
    result = run("--fixture", "nosuch.toml")
    assert result.returncode == 1 and "nosuch.toml: cannot be read: No such file" in result.stdout
