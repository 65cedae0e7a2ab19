"""Programs named by their content are recognised, and stopped, under whatever name and in whatever way they are run."""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
from pathlib import Path

import pytest
from audited import MAIN, PYTHON, profile

from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import parse_profile

pytestmark = pytest.mark.kernel

SLEEP = os.path.realpath("/bin/sleep")
LOADER = os.path.realpath("/lib64/ld-linux-x86-64.so.2")
DENY = f'[exec]\ndeny = ["same-as:{SLEEP}"]'
ALERT = """
[[rule]]
id = "known"
on = "exec"
when = {{ program = "{identity}" }}
action = "alert"
"""


def alert(identity):
    return profile(rest=ALERT.format(identity=identity))


def shell(audit, text, script, folder, **options):
    return audit(text, ["/bin/sh", "-c", script], "--user", "root", cwd=folder, **options)


@pytest.fixture
def copy(tmp_path):
    """A copy of sleep that is called otherwise."""
    return str(shutil.copy(SLEEP, tmp_path / "notes"))


def test_a_copy_is_killed_and_says_why(audit, copy, tmp_path):
    audited = shell(audit, profile(rest=DENY), "./notes 60; echo $?", tmp_path)
    assert audited.stdout == b"137\n"
    (identity,) = audited.of("identity", path=copy)
    assert identity.same_as == (SLEEP,)
    (verdict,) = audited.verdicts
    assert (verdict.action, verdict.rule, verdict.field) == ("deny", "exec", "exe")
    assert (verdict.value, verdict.because) == (copy, f"same-as:{SLEEP}")
    assert audited.events[verdict.seq] is identity
    (done,) = audited.enforcements
    assert (done.result, done.scope, done.root_pid) == ("killed", "process", identity.pid)
    assert audited.problems == []


def test_the_named_file_itself_runs_no_instruction(audit, require, tmp_path):
    require("signal from exec")
    audited = shell(audit, profile(rest=DENY), "/bin/sleep 60; echo $?", tmp_path)
    assert audited.stdout == b"137\n"
    (event,) = audited.of("exec", exe=SLEEP)
    assert event.decision == "kill"
    assert audited.verdicts[0].action == "deny"


def test_a_hard_link_to_the_named_file_runs_no_instruction(audit, require, copy, tmp_path):
    require("signal from exec")
    os.link(copy, tmp_path / "other")
    text = profile(rest=f'[exec]\ndeny = ["same-as:{copy}"]')
    audited = shell(audit, text, "./other 60; echo $?", tmp_path)
    assert audited.stdout == b"137\n"
    assert audited.of("exec", exe=str(tmp_path / "other"))[0].decision == "kill"


@pytest.mark.skipif(not os.path.exists(LOADER), reason="no glibc here")
def test_a_copy_behind_the_dynamic_linker_is_killed(audit, copy, tmp_path):
    audited = shell(audit, profile(rest=DENY), f"{LOADER} ./notes 60; echo $?", tmp_path)
    assert audited.stdout == b"137\n"
    assert audited.of("identity")[0].path == copy


@pytest.mark.parametrize("way", ["interpreter", "hash-bang"])
def test_a_copied_script_is_recognised(audit, tmp_path, way):
    known = tmp_path / "tool.py"
    known.write_text(f"#!{PYTHON[0]}\nimport time\ntime.sleep(60)\n")
    shutil.copy(known, tmp_path / "notes.txt")
    (tmp_path / "notes.txt").chmod(0o755)
    command = f"{PYTHON[0]} -S notes.txt" if way == "interpreter" else "./notes.txt"
    text = profile(rest=ALERT.format(identity=f"same-as:{known}").replace("alert", "kill"))
    audited = shell(audit, text, f"{command}; echo $?", tmp_path)
    assert audited.stdout == b"137\n"
    (identity,) = audited.of("identity")
    assert (identity.path, identity.same_as) == (str(tmp_path / "notes.txt"), (str(known),))


def test_a_hash_is_recognised(audit, copy, tmp_path):
    with open(copy, "ab") as file:
        file.write(b"tail")
    digest = hashlib.sha256(Path(copy).read_bytes()).hexdigest()
    audited = shell(audit, alert(f"sha256:{digest}"), "./notes 0; ./notes 0; /bin/true", tmp_path)
    assert [identity.path for identity in audited.of("identity")] == [copy, copy]
    assert [verdict.because for verdict in audited.verdicts] == [f"sha256:{digest}"] * 2


def test_a_copy_that_was_deleted_at_once_is_recognised(audit, copy, tmp_path):
    audited = shell(audit, profile(rest=DENY), "./notes 60 & rm notes; wait $!; echo $?", tmp_path)
    assert audited.stdout == b"137\n"


def test_programs_that_live_a_millisecond_are_recognised_in_order(audit, copy, tmp_path):
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13; do ./notes 0; done"
    audited = shell(audit, alert(f"same-as:{SLEEP}"), script, tmp_path)
    runs = audited.of("exec", exe=copy)
    found = audited.of("identity", path=copy)
    assert [(each.pid, each.start) for each in found] == [(each.pid, each.start) for each in runs]
    assert len(found) == len(audited.verdicts) == 13
    assert audited.result["unidentified"] == 0
    for run, identity in zip(runs, found, strict=True):
        assert audited.events.index(run) < audited.events.index(identity)
    delays_ms = [(found.ts_ns - run.ts_ns) / 1e6 for run, found in zip(runs, found, strict=True)]
    assert statistics.median(delays_ms) < 50, delays_ms


def test_a_large_copy_is_read_once(audit, tmp_path):
    known = shutil.copy(SLEEP, tmp_path / "known")
    with open(known, "ab") as file:
        file.truncate(64 << 20)
    shutil.copy(known, tmp_path / "notes")
    script = "sleep 1; ./notes 1; ./notes 1; ./notes 1"
    audited = shell(audit, alert(f"same-as:{known}"), script, tmp_path)
    runs, found = audited.of("exec", exe=str(tmp_path / "notes")), audited.of("identity")
    delays = [found.ts_ns - run.ts_ns for run, found in zip(runs, found, strict=True)]
    assert len(delays) == 3
    assert min(delays[1:]) < delays[0]


def test_a_fifo_as_script_holds_up_nobody(audit, copy, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    text = profile(rest=DENY + ALERT.format(identity="sha256:" + "0" * 64))
    script = "timeout 0.3 sh ./fifo; ./notes 60; echo $?"
    audited = shell(audit, text, script, tmp_path)
    assert audited.stdout == b"137\n"
    assert {event.error for event in audited.of("identity", path=str(tmp_path / "fifo"))} == {
        "not a regular file"
    }
    assert audited.result["unidentified"] >= 1


def test_what_is_not_known_stays_untold(audit, tmp_path):
    audited = shell(audit, alert(f"same-as:{SLEEP}"), "/bin/true; ls; cat /dev/null", tmp_path)
    assert audited.of("identity") == audited.verdicts == []


def test_without_identities_nobody_reads_programs(auditor, tmp_path):
    def children(text):
        running = auditor.start(text, ["/bin/sleep", "60"], "--user", "root")
        running.registration()
        found = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
        running.process.terminate()
        running.wait()
        return len(found)

    assert children(alert("same-as:/bin/ls")) == children(alert("/bin/ls")) + 1


def test_inactive_names_are_said_and_harmless(audit, tmp_path):
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox here")
    (tmp_path / "nc").symlink_to(busybox)
    text = profile(rest=f'[exec]\ndeny = ["same-as:{tmp_path}/nc", "same-as:{tmp_path}/absent"]')
    audited = shell(audit, text, f"{busybox} true; echo $?", tmp_path)
    assert audited.stdout == b"0\n"
    assert f"copies of {tmp_path}/nc are not recognised: it is busybox" in audited.stderr
    coverage = " ".join(audited.result["coverage"])
    assert f"copies of {tmp_path}/absent are not recognised: no such file here" in coverage


def test_the_record_gives_the_same_verdicts_again(audit, copy, tmp_path):
    text = profile(rest=DENY)
    audited = shell(audit, text, "./notes 60; ./notes 60; /bin/sleep 60; true", tmp_path)
    again = Evaluator(parse_profile(text, "test"))
    replayed = [verdict for event in audited.events for verdict in again.evaluate(event)]
    assert replayed == audited.verdicts
    assert len(replayed) >= 3


def test_on_an_overlay_files_are_told_by_the_kernels_own_numbers(audit, tmp_path):
    (tmp_path / "lower").mkdir()
    (tmp_path / "merged").mkdir()
    (tmp_path / "tmpfs").mkdir()
    for name in ("named", "copy"):
        shutil.copy(SLEEP, tmp_path / "lower" / name)
    mount = (
        f"cd {tmp_path}; mount -t tmpfs none tmpfs; mkdir tmpfs/upper tmpfs/work;"
        "mount -t overlay none -o lowerdir=lower,upperdir=tmpfs/upper,workdir=tmpfs/work merged || exit 99"
    )
    main = ["unshare", "--mount", "sh", "-ec", f'{mount}\nexec "$@"', "sh", *MAIN]
    merged = tmp_path / "merged"
    text = profile(rest=f'[exec]\ndeny = ["same-as:{merged}/named"]')
    command = f"{merged}/named 60; echo $?; {merged}/copy 60; echo $?"
    audited = shell(audit, text, command, "/", main=main)
    if audited.exit_code == 99:
        pytest.skip("no overlayfs here")
    assert audited.stdout == b"137\n137\n", audited.stderr
    assert audited.of("exec", exe=f"{merged}/named")[0].decision == "kill"
