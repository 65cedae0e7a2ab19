"""`ebpfaudit doctor` as it is typed, on this host and on worse ones."""

import json
import os
import shutil
import subprocess
import sys

import pytest

DOCTOR = "from ebpfaudit.cli import main; main()"
WITHOUT_BCC = f"import sys; sys.modules['bcc'] = None; {DOCTOR}"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def doctor(*arguments, code=DOCTOR, before=(), **options):
    command = [*before, sys.executable, "-c", code, "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", **options)


def findings(**options):
    result = doctor("--json", **options)
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert result.returncode == (0 if found["usable"] else 1)
    return found, {check["name"]: check for check in found["checks"]}


def test_what_is_missing_comes_with_consequence_and_advice():
    found, checks = findings()
    assert found["kernel"] == os.uname().release
    for check in checks.values():
        assert check["reason"]
        assert set(check) == {"name", "ok", "reason", "consequence", "advice", "required", "unknown"}
        if not check["ok"] and check["name"] != "fentry":
            assert check["consequence"], check
            assert check["advice"], check
    assert found["usable"] == all(check["ok"] for check in checks.values() if check["required"])
    assert bool(found["coverage"]) == found["usable"]


def test_the_text_says_the_same_and_fits_a_page():
    found, checks = findings()
    result = doctor()
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 120
    for name in checks:
        assert f" {name} " in result.stdout
    assert ("ebpfaudit run works here" in result.stdout) == found["usable"]


def test_no_bcc_is_an_answer_not_a_traceback():
    found, checks = findings(code=WITHOUT_BCC)
    assert not found["usable"]
    assert not checks["bcc"]["ok"]
    assert "python3-bpfcc" in checks["bcc"]["advice"]


def test_another_project_called_bcc_is_told_apart(tmp_path):
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text("")
    _, checks = findings(env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert not checks["bcc"]["ok"]
    assert "another project" in checks["bcc"]["reason"]


@needs_root
def test_an_ordinary_user_is_told_what_could_not_be_tried():
    nobody = 65534
    if subprocess.run([sys.executable, "-c", ""], user=nobody, cwd="/", check=False).returncode:
        pytest.skip("this interpreter cannot be started by another user")
    found, checks = findings(user=nobody, group=nobody, extra_groups=[])
    assert not found["usable"]
    assert checks["btf"]["ok"], "what can be tried is tried"
    assert not checks["privileges"]["ok"]
    assert checks["raw tracepoints"]["unknown"]
    text = doctor(user=nobody, group=nobody, extra_groups=[]).stdout
    assert "sudo ebpfaudit doctor" in text


def unshare(*options, script=""):
    """A host with less: the command runs in namespaces of its own, which end with it."""
    if not shutil.which("unshare"):
        pytest.skip("no unshare(1)")
    return ("unshare", *options, "sh", "-c", f'{script} exec "$@"', "sh")


@needs_root
def test_a_kernel_without_btf():
    found, checks = findings(before=unshare("--mount", script="mount -t tmpfs none /sys/kernel/btf &&"))
    assert not found["usable"]
    assert not checks["btf"]["ok"]
    assert "CONFIG_DEBUG_INFO_BTF" in checks["btf"]["advice"]


@needs_root
def test_a_host_without_cgroup_v2():
    script = "grep ' cgroup2 ' /proc/mounts | cut -d' ' -f2 | tac | xargs umount -l;"
    found, checks = findings(before=unshare("--mount", script=script))
    for name in ("cgroup v2", "cgroup.kill", "connect4", "cgroup device"):
        assert not checks[name]["ok"]
        assert "not mounted" in checks[name]["reason"]
    assert not checks["connect4"]["required"], "run goes on without it"
    assert any("IPv4 destinations" in line for line in found["coverage"]) == found["usable"]


@needs_root
def test_a_container_is_not_the_host():
    found, checks = findings(before=unshare("--pid", "--fork"))
    assert not found["usable"]
    assert "container" in checks["namespaces"]["reason"]
