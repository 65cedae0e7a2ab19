import io
import json

from hypothesis import given
from hypothesis import strategies as st

from ebpfaudit.events import Connect, EpisodeEnd, EpisodeStart, Exec, Fork, GpuCount, Lost, Step
from ebpfaudit.output.clock import WallClock
from ebpfaudit.output.ndjson import Ndjson
from ebpfaudit.verdicts import Enforcement, Verdict

# 2026-11-21T03:14:07Z
CLOCK = WallClock(1_795_230_847 * 10**9)

FORK = Fork(123_456_789, 10, 7, 11, 8)
ITEMS = [
    EpisodeStart(1, "ep-1", "base", 10, 7),
    FORK,
    Exec(2, 11, 8, 10, "/bin/ls", ("ls", 'a"b'), "/", "ls", 0),
    Connect(3, 11, 8, "ls", "ipv4", "tcp", "192.0.2.1", 80),
    GpuCount(4, 11, 8, "submit", "nvidia:0", 9),
    Lost(5, 444),
    Step(6, "step-2"),
    Verdict(2, "kill", "r", "argv", "x"),
    Enforcement(2, "kill", "tree", "r", "killed", gone_ns=7 * 10**9),
    EpisodeEnd(8, "exited", 0),
]


def written(*calls):
    stream = io.BytesIO()
    sink = Ndjson(stream, CLOCK)
    for call in calls:
        sink.write(*call)
    sink.flush()
    return stream.getvalue()


def test_every_item_is_one_line_with_time_episode_and_number():
    data = written(*[("ep-1", seq, item) for seq, item in enumerate(ITEMS)])
    lines = data.splitlines()
    assert len(lines) == len(ITEMS)
    for seq, (line, item) in enumerate(zip(lines, ITEMS, strict=True)):
        pairs = json.loads(line, object_pairs_hook=list)
        names = [name for name, _ in pairs]
        assert len(names) == len(set(names)), "a key came twice"
        fields = dict(pairs)
        assert fields["episode"] == "ep-1"
        assert fields["seq"] == (2 if isinstance(item, Verdict | Enforcement) else seq)
        assert fields["kind"] == item.__struct_config__.tag


def test_times_are_those_of_the_host_clock_in_utc():
    fields = json.loads(written(("ep-1", 1, FORK)))
    assert fields["time"] == "2026-11-21T03:14:07.123456Z"
    assert fields["ts_ns"] == 123_456_789
    verdict = Verdict(1, "alert", "r", "argv", "x")
    assert json.loads(written(("ep-1", -1, verdict, FORK)))["time"] == fields["time"]
    assert "time" not in json.loads(written(("ep-1", -1, verdict)))


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_an_episode_name_cannot_break_out_of_its_string(name):
    fields = json.loads(written((name, 0, FORK)))
    assert fields["episode"] == name
    assert fields["pid"] == 10


def test_lines_leave_at_flush_and_when_there_are_many():
    stream = io.BytesIO()
    sink = Ndjson(stream, CLOCK)
    sink.write("ep-1", 0, FORK)
    assert stream.getvalue() == b""
    sink.flush()
    assert stream.getvalue().endswith(b"\n")
    for seq in range(2000):
        sink.write("ep-1", seq, FORK)
    assert stream.getvalue().count(b"\n") > 1000, "a full buffer waits for nobody"


def test_the_clock_crosses_seconds_and_days():
    clock = WallClock(0)
    assert clock.utc(86_399 * 10**9 + 999_999_999) == "1970-01-01T23:59:59.999999Z"
    assert clock.utc(86_400 * 10**9) == "1970-01-02T00:00:00.000000Z"
    assert clock.utc(86_399 * 10**9) == "1970-01-01T23:59:59.000000Z"
    assert clock.local(1_500_000_000).endswith(":01.500")
