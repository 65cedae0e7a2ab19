"""`ebpfaudit profile`, as it is typed."""

import json
import subprocess
import sys

import pytest

from ebpfaudit.profiles.load import load_profile, parse_profile


def ebpfaudit(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where bcc cannot be imported."""
    code = "import sys; sys.modules['bcc'] = None; from ebpfaudit.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, "profile", *arguments], capture_output=True, text=True)


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
    assert f"{wrong}:2: " in failed.stdout
    assert "'no-such': not found" in failed.stdout


def test_check_as_json(wrong):
    failed = ebpfaudit("check", "--json", "base", wrong)

    sound, unsound = map(json.loads, failed.stdout.splitlines())
    assert failed.returncode == 1
    assert (sound["ok"], unsound["ok"], len(unsound["problems"])) == (True, False, 1)


def test_show_prints_a_profile_that_stands_alone():
    shown = ebpfaudit("show", "offline-sandbox")

    assert parse_profile(shown.stdout, "shown") == load_profile("offline-sandbox")


def test_show_of_a_wrong_profile_is_an_error_without_traceback(wrong):
    failed = ebpfaudit("show", wrong)

    assert failed.returncode == 125
    assert failed.stdout == "" and failed.stderr.startswith("Error: ") and "Traceback" not in failed.stderr


def test_list_names_all_shipped_profiles():
    listed = ebpfaudit("list", "--json")

    names = {json.loads(line)["profile"] for line in listed.stdout.splitlines()}
    assert names >= {"base", "coding-agent", "rl-training", "offline-sandbox"}
