"""A host, a kernel, an installation or an argument that is not as it should be: one clear message, nothing left."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from audited import MAIN, NO_POLICY, PYTHON, clear, profile

from ebpfaudit.kernel.image import CACHE
from ebpfaudit.text import hide
from ebpfaudit.trail.reader import Trail

pytestmark = pytest.mark.kernel

NOBODY = 65534


def refusal(audited, code=125):
    """The message of a run that ended before it began."""
    assert audited.exit_code == code, audited.stderr
    assert "Traceback" not in audited.stderr
    errors = [line for line in audited.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, audited.stderr
    assert audited.stdout == b""
    return audited.stderr[audited.stderr.index("Error: ") :]


CONNECT = "import socket; print(socket.socket().connect_ex(('127.0.0.1', 9)))"
RAN = ["/bin/echo", "ran"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (profile('default = "deny"\nalow = ["127.0.0.1"]'), ["alow", "allow"]),
        (profile('default = "deny"\nallow = ["10.0.0.0/33"]'), [":5", "/33", "prefix length"]),
        (profile('default = "deny"\nallow = ["10.0.0.1/8"]'), ["10.0.0.0/8"]),
        (profile('default = "dney"'), ["dney", "deny"]),
        (profile('default = "deny'), [":4", "not valid TOML"]),
        (profile(rest='extends = "no-such-base"'), ["no-such-base"]),
    ],
    ids=["unknown key", "bad CIDR", "bits behind a prefix", "unknown action", "no TOML", "missing base"],
)
def test_a_bad_profile_starts_nothing(audit, text, why):
    if "extends" in text:
        text = f'extends = "no-such-base"\n{NO_POLICY}'
    message = refusal(audit(text, RAN))
    assert ".toml" in message
    assert all(word in message for word in why), message


def test_a_missing_profile(kernel):
    command = [*MAIN, "run", "--profile", "no-such-profile", "--trail", "none", "--", *RAN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert "no-such-profile" in done.stderr
    assert "Traceback" not in done.stderr


def test_not_root(auditor):
    if subprocess.run(
        [sys.executable, "-c", "import ebpfaudit"], user=NOBODY, cwd="/", check=False
    ).returncode:
        pytest.skip("this interpreter cannot be started by another user")
    message = refusal(auditor.run(NO_POLICY, RAN, user=NOBODY, group=NOBODY, extra_groups=[]))
    assert "root" in message
    assert "sudo" in message


def test_root_without_its_capabilities(audit):
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv(1)")
    message = refusal(
        audit(NO_POLICY, RAN, main=["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", *MAIN])
    )
    assert "CAP_SYS_ADMIN" in message


def without(script, main=MAIN):
    """A host with less: the auditor runs in a mount namespace of its own, which ends with it."""
    return ["unshare", "--mount", "sh", "-ec", f'{script}\nexec "$@"', "sh", *main]


FIRST_RUN = f"mkdir -p {CACHE} && mount -t tmpfs -o mode=0700 none {CACHE}"
"""No probes are kept from an earlier run: they have to be compiled."""


def test_no_bcc(audit):
    main = [sys.executable, "-c", f"import sys; sys.modules['bcc'] = None; {MAIN[-1]}"]
    message = refusal(audit(NO_POLICY, RAN, main=without(FIRST_RUN, main)))
    assert "python3-bpfcc" in message


def test_another_package_called_bcc(audit, tmp_path):
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    message = refusal(audit(NO_POLICY, RAN, main=without(FIRST_RUN), env=environment))
    assert "not the BPF compiler collection" in message
    assert str(tmp_path) in message


def test_a_kernel_without_btf(audit):
    message = refusal(
        audit(NO_POLICY, RAN, main=without(f"{FIRST_RUN}; mount -t tmpfs none /sys/kernel/btf"))
    )
    assert "BTF" in message


EARLIER = f"{shlex.join(MAIN)} run --profile base --trail none --quiet -- /bin/true"


@pytest.mark.parametrize("damage", ["truncate -s 100", "truncate -s 0", "sh -c 'echo nonsense >$0'"])
def test_damaged_kept_probes_are_compiled_anew(audit, damage):
    main = without(
        f'{FIRST_RUN}; {EARLIER}; for kept in {CACHE}/*; do test -s "$kept"; {damage} "$kept"; done'
    )
    audited = audit(profile('default = "deny"'), [*PYTHON, "-c", CONNECT], main=main)
    assert audited.stdout == b"1\n", audited.stderr
    assert len(audited.of("connect", decision="deny")) == 1


def test_probes_are_not_kept_where_others_can_write(audit):
    nothing = f'test -z "$(ls {CACHE})"'
    audited = audit(NO_POLICY, RAN, main=without(f"{FIRST_RUN}; chmod 1777 {CACHE}; {EARLIER}; {nothing}"))
    assert audited.stdout == b"ran\n", audited.stderr


NO_CGROUP = "grep ' cgroup2 ' /proc/mounts | cut -d' ' -f2 | tac | xargs -r umount -l"


def test_without_cgroup_v2_it_says_what_is_lost_and_audits_the_rest(audit):
    rest = '[[rule]]\nid = "mark"\non = "exec"\nwhen = { argv = ["marked"] }\naction = "kill"\n'
    script = f"{' '.join(PYTHON)} -c \"{CONNECT}\"; setsid sleep 1000 & sh -c 'sleep 60' marked; /bin/true done; exit 3"
    audited = audit(profile('default = "deny"', rest), ["/bin/sh", "-c", script], main=without(NO_CGROUP))
    assert audited.exit_code == 3, audited.stderr
    started = audited.stderr.split("exit code", 1)[0]
    assert "IPv4 destinations are neither judged nor denied" in started
    assert len(audited.execs("done")) == 1
    assert any(done.rule == "mark" and done.result == "killed" for done in audited.enforcements), (
        audited.enforcements
    )
    assert audited.of("connect", phase="attempt") == [], "nobody saw it, and nobody says so"
    assert audited.result["complete"] is True


def test_without_tracefs_it_still_sees_what_fails(audit):
    hide = "for place in /sys/kernel/tracing /sys/kernel/debug; do umount -l $place 2>/dev/null || :; done"
    audited = audit(NO_POLICY, ["/bin/sh", "-c", "/no/such/program; exit 0"], main=without(hide))
    assert audited.exit_code == 0, audited.stderr
    assert [event.error for event in audited.of("exec") if event.exe == "/no/such/program"] == ["ENOENT"] or (
        "failed" in audited.stderr
    ), "neither seen nor said"


@pytest.mark.parametrize("size", ["3", "5", "0", "-8"])
def test_a_ring_of_an_impossible_size(audit, size):
    assert "power of two" in refusal(audit(NO_POLICY, RAN, "--ring-size", size))


def test_a_result_that_cannot_be_written(audit, tmp_path):
    message = refusal(audit(NO_POLICY, RAN, "--result", str(tmp_path / "none" / "result.json")), code=2)
    assert "none/result.json" in message


def test_a_result_that_finds_the_disk_full(audit):
    audited = audit(NO_POLICY, [*RAN], "--quiet", "--result", "/dev/full")
    assert audited.exit_code == 125
    assert audited.stderr == (
        "Error: the command ended with code 0, but the result could not be written: No space left on device\n"
    )


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_not_to_run(audit, closed):
    audited = audit(NO_POLICY, ["/bin/sh", "-c", "exit 3"], main=without(f"exec {closed}"))
    assert audited.exit_code == 3
    assert audited.end.complete


def test_nowhere_to_register_the_episode(audit):
    refusal(audit(NO_POLICY, RAN, main=without("mount -t tmpfs -o ro none /run")))


def test_alerts_as_json_that_nobody_takes_end_no_episode(audit):
    rule = '[[rule]]\nid = "seen"\non = "exec"\nwhen = { exe = "*/true" }\naction = "alert"\n'
    with open("/dev/full", "wb") as full:
        audited = audit(
            NO_POLICY + rule, ["/bin/sh", "-c", "/bin/true; sleep 0.3; exit 3"], "--json", stderr=full
        )
    assert audited.exit_code == 3
    assert audited.end.complete


def test_a_result_is_not_written_through_a_link(audit, tmp_path):
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    refusal(audit(NO_POLICY, RAN, "--result", str(tmp_path / "link")), code=2)
    assert (tmp_path / "precious").read_text() == "keep"


def test_a_trail_is_never_written_over(auditor, tmp_path):
    (tmp_path / "kept.jsonl.zst").write_text("keep")
    command = ["run", "--profile", "base", "--trail", str(tmp_path / "kept.jsonl.zst"), "--", *RAN]
    done = subprocess.run([*MAIN, *command], capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 125, done.stderr
    assert "kept.jsonl.zst" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert (tmp_path / "kept.jsonl.zst").read_text() == "keep"


def test_a_device_that_is_none(audit):
    for wrong, word in {
        "/dev/none=nvidia": "/dev/none", "/dev/null=no-such-driver": "no-such-driver", "/dev/null": "/dev/null",
        "/etc/passwd=nvidia": "/etc/passwd",
    }.items():  # fmt: skip
        audited = audit(NO_POLICY, RAN, "--gpu-device", wrong)
        assert audited.exit_code in (2, 125), (wrong, audited.stderr)
        assert word in refusal(audited, audited.exit_code)


def test_a_script_whose_interpreter_is_missing(audit, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    audited = audit(NO_POLICY, [str(script)])
    assert audited.exit_code == 127
    assert str(script) in refusal(audited, 127)


def test_an_episode_id_may_be_any_text(audit):
    """It names files and directories, and is shown: none of that may be taken literally."""
    for episode in ("../../etc/passwd", "a/b", "\x1b[31mred", ".", "x" * 300, "é ü", "-e"):
        audited = audit(NO_POLICY, ["/bin/sh", "-c", 'printf %s "$EBPFAUDIT_EPISODE"'], episode=episode)
        assert audited.exit_code == 0, audited.stderr
        assert hide(audited.stdout.decode()) == episode.encode()
        assert hide(audited.of("episode-start")[0].episode) == episode.encode()
        assert "\x1b" not in audited.stderr


def test_a_trail_after_power_is_cut_still_reads(auditor, tmp_path):
    """SIGKILL is what comes closest: what was recorded until then verifies, but for its end."""
    run = auditor.start(NO_POLICY, ["/bin/sh", "-c", "/bin/true early; sleep 1.5; echo late; sleep 60"])
    assert run.process.stdout.readline() == b"late\n"
    run.process.kill()
    run.process.wait(30)
    command = [*MAIN, "verify", str(run.trail)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 1
    with Trail(run.trail) as trail:
        events = list(trail)
    assert trail.end is None
    assert any("early" in getattr(event, "argv", ()) for event in events)
    replay = subprocess.run(
        [*MAIN, "replay", str(run.trail)], capture_output=True, text=True, timeout=60, cwd="/"
    )
    assert "Traceback" not in replay.stderr + done.stderr
    assert Path(run.trail).stat().st_mode & 0o777 == 0o600
    clear(run.episode)
