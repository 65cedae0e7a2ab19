"""What holds for every trail: events come back equal, and no edit or cut goes unnoticed."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import exits, open_writer, write_trail

from ebpfaudit import events as e
from ebpfaudit.errors import TrailError
from ebpfaudit.text import show
from ebpfaudit.trail.reader import read_trail
from ebpfaudit.trail.verification import verify_trail
from ebpfaudit.verdicts import Enforcement, Verdict

shown = st.binary(max_size=30).map(show)
number = st.integers(0, 2**63 - 1)
count = st.integers(0, 2**40)

ITEMS = st.one_of(
    st.builds(e.Fork, number, number, number, number, number),
    st.builds(
        e.Exec, number, number, number, number, shown, st.lists(shown, max_size=5).map(tuple), shown, shown, number,
        memfd=st.booleans(), error=st.sampled_from(["", "ENOENT"]), argv_bytes=count,
    ),
    st.builds(e.Exit, number, number, number, st.integers(0, 255), st.integers(0, 64)),
    st.builds(
        e.Connect, number, number, number, shown, st.sampled_from(["ipv4", "ipv6", "unix"]), shown, shown,
        st.integers(0, 65535), st.sampled_from(["attempt", "done"]), shown, st.sampled_from(["", "deny", "kill"]),
    ),
    st.builds(e.Gpu, number, number, number, shown, shown, shown, shown, shown, count),
    st.builds(e.Lost, number, count),
    st.builds(e.Step, number, shown),
    st.builds(Verdict, number, st.sampled_from(["log", "kill"]), shown, shown, shown, shown),
    st.builds(Enforcement, number, st.just("kill"), st.just("tree"), shown, shown, survivors=st.lists(number).map(tuple)),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(ITEMS, st.booleans()), max_size=40))
def test_everything_comes_back_equal(items):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        writer = open_writer(path)
        for item, flush in items:
            writer.append(item)
            if flush:
                writer.flush(sync=False)
        writer.close("exited", 0, complete=True)
        with read_trail(path) as trail:
            assert list(trail) == [item for item, _ in items]
        assert verify_trail(path).state == "intact"


def _intact(data, folder):
    path = Path(folder) / "edited"
    path.write_bytes(data)
    try:
        return verify_trail(path).state == "intact"
    except TrailError:
        return False


def _bytes_of_a_trail(folder):
    path = Path(folder) / "whole"
    write_trail(path, exits(40), exits(40, first=40), exits(40, first=80))
    return path.read_bytes()


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_edited_byte_is_found(data):
    with tempfile.TemporaryDirectory() as folder:
        whole = bytearray(_bytes_of_a_trail(folder))
        assert _intact(whole, folder)
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        assert not _intact(whole, folder)


def test_every_bit_of_the_last_frame_and_the_seal_counts(tmp_path):
    # No later frame vouches for them. zstd itself ignores some bits of a frame's header.
    whole = _bytes_of_a_trail(tmp_path)
    last = whole.rindex(b"\x28\xb5\x2f\xfd")
    unnoticed = []
    for place in range(last, len(whole)):
        for bit in range(8):
            edited = bytearray(whole)
            edited[place] ^= 1 << bit
            if _intact(edited, tmp_path):
                unnoticed.append((place - last, bit))
    assert unnoticed == []


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_cut_is_found(data):
    with tempfile.TemporaryDirectory() as folder:
        whole = _bytes_of_a_trail(folder)
        assert not _intact(whole[: data.draw(st.integers(0, len(whole) - 1))], folder)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader(data):
    with tempfile.TemporaryDirectory() as folder:
        whole = _bytes_of_a_trail(folder)
        assert not _intact(data, folder)
        assert not _intact(whole + data, folder) or not data
