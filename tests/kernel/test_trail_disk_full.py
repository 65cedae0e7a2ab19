"""An audited command on a host whose disk fills up: it runs to its end, and the record says what it lacks."""

import subprocess

import pytest
from audited import NO_POLICY, PYTHON

from ebpfaudit.events import Lost
from ebpfaudit.trail.reader import read_trail
from ebpfaudit.trail.verification import verify_trail

pytestmark = pytest.mark.kernel

DISK_BYTES = 64 << 10
SPAWN = """
import os, sys, time
def spawn(count):
    for number in range(count):
        pid = os.fork()
        if not pid:
            os.execv('/bin/true', ['true', os.urandom(300).hex()])
        os.waitpid(pid, 0)
spawn(600)           # about 200 KiB of names that no compressor can shorten
time.sleep(1.5)      # so the next frame is another
if len(sys.argv) > 1:
    os.unlink(sys.argv[1])
spawn(5)
print('done')
"""


@pytest.fixture
def disk(kernel, tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={DISK_BYTES}"
    result = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True, text=True
    )
    if result.returncode:
        pytest.skip(f"this host mounts no tmpfs: {result.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_the_command_runs_on_and_the_record_says_so(disk, audit):
    trail = disk / "ep.jsonl.zst"
    audited = audit(NO_POLICY, [*PYTHON, "-c", SPAWN], trail=str(trail))
    assert (audited.exit_code, audited.stdout) == (0, b"done\n")
    assert "No space left on device" in audited.stderr
    assert audited.result["complete"] is False
    found = verify_trail(trail)
    assert found.state != "damaged", found.problems
    assert 0 < trail.stat().st_size <= DISK_BYTES


def test_recording_goes_on_when_there_is_room_again(disk, audit):
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(DISK_BYTES - (12 << 10)))
    ballast.chmod(0o666)
    trail = disk / "ep.jsonl.zst"
    audited = audit(
        NO_POLICY,
        [*PYTHON, "-c", SPAWN.replace("600", "100"), str(ballast)],
        "--user",
        "root",
        trail=str(trail),
    )
    assert (audited.exit_code, audited.stdout) == (0, b"done\n")
    found = verify_trail(trail)
    assert found.state == "intact", found.problems
    assert not found.complete
    assert 0 < found.unwritten < found.events
    with read_trail(trail) as recorded:
        numbered = list(recorded.numbered())
    gaps = [(number, item) for number, item in numbered if isinstance(item, Lost)]
    assert gaps
    assert all(item.what == "disk full" for _, item in gaps)
    assert numbered[-1][0] == found.events - 1
    assert audited.result["complete"] is False
