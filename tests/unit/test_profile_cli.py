"""`ebpfaudit profile`, as it is typed."""

import json
import os
import subprocess
import sys

import pytest

from ebpfaudit.profiles.load import load_profile, parse_profile, profile_hash, resolved_text

MAIN = "import sys; sys.modules['bcc'] = None; from ebpfaudit.cli import main; main()"


def ebpfaudit(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where bcc cannot be imported."""
    return subprocess.run([sys.executable, "-c", MAIN, "profile", *arguments], capture_output=True, text=True)


@pytest.fixture
def wrong(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text('[network]\nallow = ["10.0.0.0/40"]\n')
    path.chmod(0o644)
    return str(path)


def test_check_passes_sound_profiles_and_fails_with_all_problems(wrong):
    assert ebpfaudit("check", "base", "coding-agent").returncode == 0

    failed = ebpfaudit("check", "base", wrong, "no-such")

    assert failed.returncode == 1
    assert "base: sound" in failed.stdout
    assert f"{wrong}:2:10: [network] allow: '/40' is not a prefix length" in failed.stdout
    assert "'no-such': not found" in failed.stdout


def test_check_as_json(wrong):
    failed = ebpfaudit("check", "--json", "base", wrong)

    sound, unsound = map(json.loads, failed.stdout.splitlines())
    assert failed.returncode == 1
    assert (sound["ok"], sound["problems"], unsound["ok"]) == (True, [], False)
    (problem,) = unsound["problems"]
    assert (problem["file"], problem["line"], problem["column"]) == (wrong, 2, 10)
    assert problem["message"].startswith("[network] allow: '/40' is not a prefix length")


@pytest.fixture
def doubtful(tmp_path):
    path = tmp_path / "doubtful.toml"
    path.write_text('[[rule]]\nid = "r"\non = "exec"\nmark = "unused"\n')
    path.chmod(0o644)
    return str(path)


def test_notes_fail_a_strict_check_only(doubtful):
    checked = ebpfaudit("check", doubtful)
    strict = ebpfaudit("check", "--strict", "--json", doubtful)

    assert (checked.returncode, strict.returncode) == (0, 1)
    sound, note = checked.stdout.splitlines()
    assert sound.startswith(f"{doubtful}: sound, 1 rules")
    assert note == f"{doubtful}:4:8: note: rule 'r': no rule tests the mark 'unused'"
    assert json.loads(strict.stdout)["notes"][0]["message"] == "rule 'r': no rule tests the mark 'unused'"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may ask the kernel")
def test_only_root_may_ask_the_kernel(doubtful):
    refused = ebpfaudit("check", "--kernel", doubtful)

    assert refused.returncode == 2 and "run it as root" in refused.stderr


def test_show_prints_a_profile_that_stands_alone():
    shown = ebpfaudit("show", "offline-sandbox")

    assert parse_profile(shown.stdout, "shown") == load_profile("offline-sandbox")


def test_plain_text_is_what_a_trail_keeps():
    assert ebpfaudit("show", "--plain", "coding-agent").stdout == resolved_text(load_profile("coding-agent"))


def test_show_as_json_names_the_origin_of_each_entry(doubtful):
    shown = json.loads(ebpfaudit("show", "--json", "coding-agent").stdout)
    own = json.loads(ebpfaudit("show", "--json", doubtful).stdout)

    assert shown["hash"] == profile_hash(load_profile("coding-agent"))
    assert {"action": "allow", "entry": "loopback"}.items() <= shown["network"]["entries"][0].items()
    assert all(".toml:" in each["origin"] for each in [*shown["network"]["entries"], *shown["rules"]])
    assert own["rules"] == [
        {
            "id": "r",
            "on": "exec",
            "scope": "tree",
            "mark": {"name": "unused", "for": "10m", "scope": "process"},
            "origin": "doubtful.toml:1",
        }
    ]


def test_show_of_a_wrong_profile_is_an_error_without_traceback(wrong):
    failed = ebpfaudit("show", wrong)

    assert failed.returncode == 125
    assert failed.stdout == "" and failed.stderr.startswith("Error: ") and "Traceback" not in failed.stderr


def test_list_names_all_shipped_profiles():
    listed = ebpfaudit("list", "--json")

    names = {json.loads(line)["profile"] for line in listed.stdout.splitlines()}
    assert names >= {"base", "coding-agent", "rl-training", "offline-sandbox"}


def test_a_name_on_the_command_line_cannot_command_the_terminal():
    for arguments in (("show", "a\x1b[31mb"), ("check", "./a\x1b[31mb"), ("explain", "base", "\x1b[31m")):
        result = ebpfaudit(*arguments)
        assert result.returncode in (1, 125)
        assert "\x1b" not in result.stdout + result.stderr and "\\x1b[31m" in result.stdout + result.stderr


def test_whoever_reads_only_the_first_line_gets_no_failure(tmp_path):
    own = tmp_path / "ebpfaudit" / "profiles"
    own.mkdir(parents=True)
    for number in range(40):
        (own / f"{number}.toml").write_text(f'description = "{"x" * 4000}"')
    command = f'set -o pipefail; {sys.executable} -c "{MAIN}" profile list | head -1'
    result = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CONFIG_HOME": str(tmp_path)},
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_home_of_somebody_else_hides_no_shipped_profile(tmp_path):
    (tmp_path / "ebpfaudit" / "profiles").mkdir(parents=True)
    tmp_path.chmod(0o700)
    result = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", MAIN, "profile", "check", "base"],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CONFIG_HOME": str(tmp_path)},
    )  # fmt: skip
    assert result.stdout.startswith("base: sound"), result.stderr
