"""Reading what somebody cut, edited, forged, or wrote with a later version."""

import json
import os
import subprocess
from itertools import pairwise

import msgspec
import pytest
import zstandard
from recorded import EVERY_KIND, HEADER, exits, open_writer, write_trail

from ebpfaudit.errors import TrailError
from ebpfaudit.trail import frames, lines
from ebpfaudit.trail.reader import MAX_PROBLEMS, read_trail
from ebpfaudit.trail.verification import verify_trail


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ep-1.jsonl.zst"


def frame_offsets(path):
    """Where each frame begins, and where the last thing ends."""
    with path.open("rb") as file:
        return [item.offset for item in frames.walk(file)] + [path.stat().st_size]


def compress(*objects, checksum=True):
    """A frame with these lines."""
    text = b"".join(json.dumps(each).encode() + b"\n" if isinstance(each, dict) else each for each in objects)
    return zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=False).compress(text)


def header(**changes):
    return {**msgspec.to_builtins(HEADER), **changes}


def follow(before, *objects, n=1, first=0):
    """A frame that follows a header frame correctly."""
    digest = frames.RawFrame(0, before).digest
    return before + compress({"kind": "frame", "n": n, "prev": digest, "first": first}, *objects)


def problems(path):
    with read_trail(path) as trail:
        for _ in trail:
            pass
        return [problem.what for problem in trail.problems]


# What is no trail


def test_a_missing_file_is_one_clear_message(path):
    with pytest.raises(TrailError, match=r"cannot read the trail .*: No such file or directory"):
        read_trail(path)


def test_a_file_of_somebody_else_is_one_clear_message(path):
    path.write_bytes(b"")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(TrailError, match=r"cannot read the trail .*: Permission denied"):
            read_trail(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_without_waiting(path, make):
    make(path)
    with pytest.raises(TrailError, match="not a regular file"):
        read_trail(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"\x28\xb5", "the file ends inside the frame"),
        (b'{"kind":"header"}\n', "no frame begins here"),
        (b"PK\x03\x04" + bytes(100), "no frame begins here"),
        (compress({"kind": "exit"}), "Object missing required field `format`"),
        (compress(b"\xff\xfe\n"), "first frame is damaged"),
        (compress(b"[" * 100_000), "first frame is damaged"),
        (compress(header(), checksum=False), "no checksum"),
        (compress({"kind": "header", "format": 1}), "Object missing required field `version`"),
        (compress({"kind": "\x1b[2J", "format": 1}), r"Invalid value '\\x1b\[2J'"),
    ],
)
def test_other_files_are_said_to_be_no_trail(path, content, why):
    path.write_bytes(content)
    with pytest.raises(TrailError, match=why) as caught:
        read_trail(path)
    assert str(caught.value).isprintable()


def test_a_newer_format_is_refused_with_advice(path):
    path.write_bytes(compress({"kind": "header", "format": 2, "who-knows": []}))
    with pytest.raises(TrailError, match=r"of format 2, and ebpfaudit .* reads up to 1: use the version"):
        read_trail(path)


# What a later version of this format may bring


def test_unknown_fields_and_kinds_are_passed_through(path):
    known = {"kind": "exit", "ts_ns": 1, "pid": 2, "start": 3}
    path.write_bytes(
        follow(
            compress(header(later=True)),
            {**known, "new": {"deep": [1]}},
            {"kind": "tomorrow", "ts_ns": 2, "x": "y"},
            {"kind": "connect", "ts_ns": 3, "pid": 2, "start": 3, "decision": "a new word"},
            known,
            {"kind": "verdict", "seq": 3, "action": "applaud"},
        )
    )
    with read_trail(path) as trail:
        numbered = list(trail.numbered())
        assert [number for number, _ in numbered] == [0, 1, 2, 3, 4]
        assert numbered[1][1] == {"kind": "tomorrow", "ts_ns": 2, "x": "y"}
        assert numbered[2][1]["decision"] == "a new word"
        assert (trail.unknown, trail.events) == (3, 4), (
            "an unknown kind counts as an event, a verdict never does"
        )
        assert not trail.damaged


# Damage


@pytest.mark.parametrize("place", range(4))
def test_an_edited_byte_is_found_with_its_frame_and_offset(path, place):
    write_trail(path, exits(100), exits(100, first=100), exits(100, first=200))
    offsets = frame_offsets(path)
    data = bytearray(path.read_bytes())
    data[offsets[place] + 20] ^= 0x10
    path.write_bytes(data)
    if place == 0:
        with pytest.raises(TrailError, match="its first frame is damaged"):
            verify_trail(path)
        return
    found = verify_trail(path)
    assert found.state == "damaged"
    assert (found.problems[0].frame, found.problems[0].offset) == (place, offsets[place])
    assert str(found.problems[0]).startswith(f"frame {place} at byte {offsets[place]}: ")


def test_what_lies_behind_a_damaged_frame_is_still_read(path):
    write_trail(path, exits(100), exits(100, first=100), exits(100, first=200))
    offsets = frame_offsets(path)
    data = bytearray(path.read_bytes())
    data[offsets[3] - 2] ^= 1  # the checksum of frame 2
    path.write_bytes(data)
    with read_trail(path) as trail:
        assert list(trail.numbered()) == [*enumerate(exits(100)), *enumerate(exits(100, first=200), 200)]
        assert trail.damaged


@pytest.mark.parametrize("doing", ["drop", "swap", "repeat"])
def test_missing_swapped_and_repeated_frames_are_found(path, doing):
    write_trail(path, exits(100), exits(100, first=100), exits(100, first=200))
    data = path.read_bytes()
    offsets = frame_offsets(path)
    parts = [data[start:end] for start, end in pairwise(offsets)]
    order = {"drop": [0, 1, 3, 4, 5], "swap": [0, 2, 1, 3, 4, 5], "repeat": [0, 1, 1, 2, 3, 4, 5]}[doing]
    path.write_bytes(b"".join(parts[place] for place in order))
    found = verify_trail(path)
    assert found.state == "damaged"
    assert "frames are missing, or in another order" in found.problems[0].what


def test_a_frame_of_another_trail_is_found(path, tmp_path):
    other = tmp_path / "other"
    write_trail(path, exits(100), exits(100, first=100))
    write_trail(other, exits(100, pid=7), exits(100, first=100))
    mine, theirs = frame_offsets(path), frame_offsets(other)
    swapped = (
        path.read_bytes()[: mine[1]]
        + other.read_bytes()[theirs[1] : theirs[2]]
        + path.read_bytes()[mine[2] :]
    )
    path.write_bytes(swapped)
    assert "does not follow from the frame before" in problems(path)[0]


def test_a_cut_trail_reads_up_to_the_cut(path):
    write_trail(path, exits(100), exits(100, first=100))
    offsets = frame_offsets(path)
    path.write_bytes(path.read_bytes()[: offsets[2] + 30])
    with read_trail(path) as trail:
        assert list(trail) == exits(100)
        assert not trail.damaged
        assert trail.end is None
        assert [str(problem) for problem in trail.problems] == [
            f"frame 2 at byte {offsets[2]}: the file ends inside the frame"
        ]


def test_a_trail_that_lost_only_its_seal_is_not_closed(path):
    write_trail(path, exits(10))
    path.write_bytes(path.read_bytes()[:-40])
    found = verify_trail(path)
    assert (found.state, found.problems[0].what) == ("not closed", "the seal is missing: cut off")


def test_a_trail_that_is_being_written_is_not_closed(path):
    writer = open_writer(path)
    writer.extend(exits(10))
    writer.flush(sync=False)
    found = verify_trail(path)
    assert found.state == "not closed"
    assert "not closed" in found.problems[0].what
    writer.close("exited", 0, complete=True)


@pytest.mark.parametrize(
    "extra", [b"x", bytes(4), compress(b"{}\n"), b"\x5e\x2a\x4d\x18\x20\0\0\0" + bytes(32)]
)
def test_whatever_follows_the_end_is_found(path, extra):
    write_trail(path, exits(10))
    path.write_bytes(path.read_bytes() + extra)
    assert verify_trail(path).state != "intact"


def test_another_head_than_expected_is_damage(path):
    head = write_trail(path, exits(10))
    assert verify_trail(path, head).state == "intact"
    assert verify_trail(path, head[:16].upper()).state == "intact"
    found = verify_trail(path, "0" * 64)
    assert found.state == "damaged"
    assert "another trail" in found.problems[-1].what


def test_a_profile_that_is_not_the_hashed_one_is_found(path):
    write_trail(path, exits(1), header=msgspec.structs.replace(HEADER, profile_text='name = "other"'))
    assert (
        verify_trail(path).problems[0].what
        == "the profile in the header does not have the hash that it claims"
    )


@pytest.mark.parametrize(
    ("objects", "what"),
    [
        ([b"not json\n"], "a line is not JSON"),
        ([b'{"kind":"exit"'], "its last line has no end"),
        ([b"[1]\n"], "no object with a kind"),
        ([{"kind": 7}], "no object with a kind"),
        ([{"kind": "end"}], "its 'end' line is wrong"),
        ([{"kind": "frame", "n": 1, "prev": "", "first": 0}], "belongs elsewhere"),
        (
            [{"kind": "lost", "ts_ns": 1, "count": 5, "what": "disk full"}],
            "5 events are not in it, and skips 1",
        ),
        ([b'{"kind":"\x1b[31m",\n'], "a line is not JSON"),
    ],
)
def test_forged_lines_are_found_and_printable(path, objects, what):
    path.write_bytes(follow(compress(header()), *objects))
    found = problems(path)
    assert what in found[0]
    assert all(problem.isprintable() for problem in found)


def test_skipped_numbers_are_found(path):
    path.write_bytes(follow(compress(header()), {"kind": "exit", "ts_ns": 1, "pid": 2, "start": 3}, first=10))
    assert problems(path)[0] == "10 events before it are missing"


def test_more_in_the_first_frame_than_a_header_is_found(path):
    path.write_bytes(compress(header(), {"kind": "exit", "ts_ns": 1, "pid": 2, "start": 3}))
    assert problems(path)[0] == "there is more in it than the header"


# Attacks


def limited(code, *arguments):
    """Run Python with 512 MiB of address space."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))\n"
    command = [os.sys.executable, "-c", limit + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


READ = "import sys; from ebpfaudit.trail.verification import verify_trail\nprint(verify_trail(sys.argv[1]).problems[0].what)"


def test_a_decompression_bomb_is_refused(path):
    bomb = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compressobj()
    data = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(1024)) + bomb.flush()
    assert len(data) < 200_000
    path.write_bytes(compress(header()) + data)
    result = limited(READ, path)
    assert "more than 64 MiB of text" in result.stdout, result.stderr


def test_a_line_without_end_is_refused(path):
    path.write_bytes(follow(compress(header()), b'{"kind":"' + b"a" * (40 << 20)))
    result = limited(READ, path)
    assert "a line is longer than 16 MiB" in result.stdout, result.stderr


def test_a_frame_that_wants_a_huge_window_is_refused(path):
    parameters = zstandard.ZstdCompressionParameters(
        window_log=27, write_checksum=True, write_content_size=False
    )
    huge = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path.write_bytes(compress(header()) + huge.compress(b"{}\n") + huge.flush())
    assert "cannot be decompressed" in problems(path)[0]


def test_problems_without_number_are_not_all_kept(path):
    path.write_bytes(follow(compress(header()), *[b"x\n"] * 1000))
    assert len(problems(path)) == MAX_PROBLEMS


def test_deep_nesting_is_no_crash():
    deep = b'{"kind":"exec","argv":' + b"[" * 50_000 + b"]" * 50_000 + b"}\n"
    found = list(lines.decode([deep]))
    assert isinstance(found[0], lines.BadLine)


def test_lines_may_lie_across_pieces():
    text = msgspec.json.Encoder().encode_lines(EVERY_KIND)
    pieces = [text[start : start + 7] for start in range(0, len(text), 7)]
    assert list(lines.decode(pieces)) == EVERY_KIND
