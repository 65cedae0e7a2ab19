"""Recording: what is in the file, when, for whom, and what a disk that refuses does to it."""

import json
import os
import resource
import stat
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from recorded import EVERY_KIND, HEADER, Clock, exits, open_writer, write_trail

from ebpfaudit.errors import TrailError
from ebpfaudit.events import Exec, Lost
from ebpfaudit.trail.format import FRAME_TEXT_BYTES
from ebpfaudit.trail.reader import read_trail
from ebpfaudit.trail.verification import verify_trail

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ep-1.jsonl.zst"


def zstdcat(path):
    """What the zstd tool makes of it: the trail's readers are not asked."""
    result = subprocess.run(["zstdcat", path], capture_output=True, timeout=60)
    return [json.loads(line) for line in result.stdout.splitlines()], result


def test_every_kind_of_item_comes_back_equal(path):
    write_trail(path, EVERY_KIND)
    with read_trail(path) as trail:
        assert list(trail) == EVERY_KIND
        assert trail.header == HEADER
        assert trail.problems == []


def test_the_file_is_ordinary_ndjson_in_ordinary_zstd(path):
    write_trail(path, EVERY_KIND)
    lines, result = zstdcat(path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == b""
    kinds = [line["kind"] for line in lines]
    assert kinds[0] == "header"
    assert kinds[1] == "frame"
    assert kinds[-1] == "end"
    assert lines[0]["format"] == 1
    assert lines[4]["argv"] == ["python3", "-c", "pass"]
    assert len(lines) == len(EVERY_KIND) + 4  # two frame lines: the end has a frame of its own


def test_the_header_is_in_the_file_before_anything_happens(path):
    open_writer(path)
    with read_trail(path) as trail:
        assert trail.header == HEADER


def test_only_its_owner_may_read_it(path):
    old = os.umask(0)
    try:
        open_writer(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_existing_file_is_never_replaced(path):
    path.write_text("precious")
    with pytest.raises(TrailError, match=r"it exists, and a trail never replaces anything"):
        open_writer(path)
    assert path.read_text() == "precious"


def test_a_symbolic_link_is_never_followed(path, tmp_path):
    target = tmp_path / "target"
    path.symlink_to(target)
    with pytest.raises(TrailError):
        open_writer(path)
    assert not target.exists()


def test_a_folder_that_is_not_there_is_one_clear_message(tmp_path):
    with pytest.raises(TrailError, match=r"cannot record to .*none.*: No such file or directory"):
        open_writer(tmp_path / "none" / "ep.jsonl.zst")


def test_a_place_that_cannot_be_written_leaves_no_file(tmp_path):
    code = (
        "import resource, sys; sys.path[:0] = sys.argv[1:3]; from recorded import open_writer\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); open_writer(sys.argv[3])"
    )
    target = tmp_path / "ep.jsonl.zst"
    arguments = [sys.executable, "-c", code, ROOT, ROOT / "tests", target]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert "TrailError: cannot record to" in result.stderr
    assert "File too large" in result.stderr
    assert not target.exists()


def test_what_a_second_brought_is_in_the_file(path):
    clock = Clock()
    writer = open_writer(path, clock=clock)
    writer.tick(clock.now_ns)
    writer.extend(exits(3))
    clock.now_ns += 999_999_999
    writer.tick(clock.now_ns)
    assert len(zstdcat(path)[0]) == 1
    clock.now_ns += 1
    writer.tick(clock.now_ns)
    # The recorder may now be killed with SIGKILL: nothing more of it is needed.
    assert [line["kind"] for line in zstdcat(path)[0]] == ["header", "frame", "exit", "exit", "exit"]


def test_an_idle_second_makes_no_frame(path):
    clock = Clock()
    writer = open_writer(path, clock=clock)
    size = path.stat().st_size
    for _ in range(50):
        clock.now_ns += 100_000_000
        writer.tick(clock.now_ns)
    assert path.stat().st_size == size
    writer.append(exits(1)[0])
    clock.now_ns += 950_000_000
    writer.tick(clock.now_ns)
    assert path.stat().st_size == size, "it is not a second old, however long nothing happened before it"


def test_frames_end_at_a_mebibyte_of_text(path):
    writer = open_writer(path)
    writer.extend(exits(60_000))
    writer.close("exited", 0, complete=True)
    lines, _ = zstdcat(path)
    sizes, first = [], []
    for line in lines:
        if line["kind"] == "frame":
            sizes.append(0)
            first.append(line["first"])
        elif sizes:
            sizes[-1] += len(json.dumps(line, separators=(",", ":"))) + 1
    assert len(sizes) == 4
    assert all(FRAME_TEXT_BYTES <= size < FRAME_TEXT_BYTES + 20_000 for size in sizes[:-1])
    assert all(one < other for one, other in pairwise(first))


def test_a_fast_flood_and_a_slow_trickle_both_read_back(path, tmp_path):
    # Two compressors serve them: the flood's second mebibyte gets the fast one.
    flood = exits(60_000)
    write_trail(path, flood)
    slow = tmp_path / "slow.jsonl.zst"
    write_trail(slow, *[flood[start : start + 500] for start in range(0, 5000, 500)])
    assert list(read_trail(path)) == flood
    assert list(read_trail(slow)) == flood[:5000]


def test_the_longest_argv_there_can_be(path):
    # 64 KiB of unprintable bytes: five characters each, once escaped and encoded.
    worst = Exec(
        1, 1, 1, 0, "/bin/x", ("\\x1b" * 65536,), "/", "x", 0, argv_bytes=1 << 20, argv_truncated=True
    )
    write_trail(path, [worst] * 300)
    assert list(read_trail(path)) == [worst] * 300
    assert verify_trail(path).state == "intact"


def test_the_balance_at_the_end(path):
    write_trail(path, EVERY_KIND, EVERY_KIND)
    with read_trail(path) as trail:
        list(trail)
        assert trail.end is not None
        assert (trail.end.events, trail.end.verdicts, trail.end.enforcements) == (26, 2, 2)
        assert trail.end.lost == 6
        assert not trail.end.complete, "with losses, a record is not complete whatever the caller thinks"


def test_a_trail_without_loss_is_complete_if_the_caller_says_so(path, tmp_path):
    write_trail(path, exits(3))
    assert verify_trail(path).complete
    other = tmp_path / "other"
    write_trail(other, exits(3), complete=False)
    assert not verify_trail(other).complete
    assert verify_trail(other).state == "intact"


def test_close_unfinished_says_what_happened(path):
    writer = open_writer(path)
    writer.extend(exits(2))
    writer.close_unfinished("ebpfaudit failed")
    found = verify_trail(path)
    assert (found.state, found.reason, found.complete, found.events) == (
        "intact",
        "ebpfaudit failed",
        False,
        2,
    )


def test_closing_twice_is_closing_once(path):
    writer = open_writer(path)
    head = writer.close("exited", 0, complete=True)
    size = path.stat().st_size
    assert writer.close("exited", 0, complete=True) == head
    assert path.stat().st_size == size


def test_a_deleted_trail_is_told(path):
    writer = open_writer(path)
    path.unlink()
    writer.extend(exits(2))
    writer.close("exited", 0, complete=True)
    assert "was deleted" in writer.error


def test_a_sync_reaches_the_disk_before_close_returns(path):
    writer = open_writer(path)
    writer.extend(EVERY_KIND)
    writer.flush(sync=True)
    assert len(zstdcat(path)[0]) == len(EVERY_KIND) + 2
    writer.close("exited", 0, complete=True)
    assert writer.error == ""


@contextmanager
def file_limit(size):
    """Files of this process cannot grow beyond `size`: EFBIG, as ENOSPC on a full disk.

    Only inside the block: pytest, too, writes to a file where its output is redirected.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_events_and_nothing_else(path):
    writer = open_writer(path)
    writer.extend(exits(100))
    writer.flush(sync=False)
    whole = path.stat().st_size
    with file_limit(whole + 50):
        writer.extend(exits(200, first=100))
        writer.flush(sync=True)
    assert "File too large" in writer.error
    assert writer.unwritten == 200
    assert path.stat().st_size == whole, "the half of a frame that had room is taken back"
    found = verify_trail(path)
    assert (found.state, found.events, found.problems[0].what) == ("not closed", 100, found.problems[0].what)

    writer.extend(exits(7, first=300))
    writer.close("exited", 0, complete=True)
    with read_trail(path) as trail:
        numbered = list(trail.numbered())
        assert trail.problems == []
        assert trail.end is not None
        assert not trail.end.complete
        assert (trail.end.events, trail.end.unwritten, trail.end.lost) == (307, 200, 0)
    number, gap = numbered[100]
    assert isinstance(gap, Lost)
    assert (number, gap.count, gap.what) == (299, 200, "disk full")
    assert numbered[101:] == list(enumerate(exits(7, first=300), 300)), "later events keep their numbers"
    found = verify_trail(path)
    assert (found.state, found.complete, found.unwritten) == ("intact", False, 200)


def test_a_disk_that_stays_full_still_gets_the_end_if_that_fits(path):
    writer = open_writer(path)
    with file_limit(path.stat().st_size + 400):
        writer.extend(exits(5000))
        head = writer.close("exited", 0, complete=True)
    found = verify_trail(path)
    assert (found.state, found.events, found.unwritten, found.complete) == ("intact", 5000, 5000, False)
    assert found.head == head


def test_a_disk_without_any_room_leaves_a_trail_that_says_it_was_not_closed(path):
    writer = open_writer(path)
    writer.extend(exits(10))
    writer.flush(sync=False)
    with file_limit(path.stat().st_size):
        for turn in range(50):
            writer.extend(exits(1000, first=10 + turn * 1000))
            writer.flush(sync=False)
        writer.close("exited", 0, complete=True)
    assert writer.unwritten == 50_000
    assert writer.error
    found = verify_trail(path)
    assert (found.state, found.events) == ("not closed", 10)


def test_ordinary_agent_work_takes_at_most_twelve_bytes_an_event(tmp_path):
    from benchmarks.trail import LIMIT_BYTES, record, workload

    assert record(tmp_path / "a", workload(20_000, 5_000)) <= LIMIT_BYTES
    assert record(tmp_path / "b", workload(20_000, 2_000)) <= LIMIT_BYTES
