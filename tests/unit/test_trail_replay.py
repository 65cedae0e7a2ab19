"""A trail judged once more: the live verdicts again, also where the trail lacks something."""

import resource

import pytest
from recorded import HEADER, exits, open_writer, write_trail

from ebpfaudit.errors import TrailError
from ebpfaudit.events import Connect, EpisodeStart
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import parse_profile
from ebpfaudit.trail.reader import read_trail
from ebpfaudit.trail.replay import MAX_DIFFERENCES, Replay
from ebpfaudit.verdicts import Verdict


def connects(count, first=0):
    return [
        Connect(6_000_000_000 + n, 100, 40, "curl", "ipv4", "tcp", "203.0.113.9", n % 65536)
        for n in range(first, first + count)
    ]


def judge(evaluator, events):
    return [item for event in events for item in (event, *evaluator.evaluate(event))]


@pytest.fixture
def live():
    """An evaluator as the recording pipeline has it."""
    evaluator = Evaluator(parse_profile(HEADER.profile_text, "test"))
    evaluator.evaluate(EpisodeStart(5_000_000_000, "ep-1", "quiet", 100, 40))
    return evaluator


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t"


def test_verdicts_behind_a_gap_keep_their_numbers(path, live):
    start = EpisodeStart(5_000_000_000, "ep-1", "quiet", 100, 40)
    writer = open_writer(path)
    writer.extend([start, *judge(live, connects(10))])
    writer.flush(sync=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    try:
        writer.extend(judge(live, exits(50)))
        writer.flush(sync=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    after = judge(live, connects(5, first=10))
    writer.extend(after)
    writer.close("exited", 0, complete=True)
    with read_trail(path) as trail:
        replay = Replay(trail)
        verdicts = [each.verdict for each in replay]
        assert trail.unwritten == 50
    assert verdicts[-5:] == [item for item in after if isinstance(item, Verdict)]
    assert replay.compare().identical


def test_a_verdict_may_be_recorded_with_or_without_its_defaults(path, live):
    # msgspec leaves a field out where its value *is* the default object: a string read from a file never is.
    items = judge(live, connects(3))
    spelled = [
        Verdict(item.seq, item.action, item.rule, item.field, item.value, item.because, "".join(["tr", "ee"]))
        if isinstance(item, Verdict)
        else item
        for item in items
    ]
    write_trail(path, [EpisodeStart(5_000_000_000, "ep-1", "quiet", 100, 40), *spelled])
    with read_trail(path) as trail:
        replay = Replay(trail)
        assert len(list(replay)) == 3
    assert replay.compare().identical


def test_differences_are_counted_and_the_first_are_kept(path, live):
    count = MAX_DIFFERENCES + 500
    write_trail(path, connects(count))
    with read_trail(path) as trail:
        replay = Replay(trail)
        assert sum(1 for _ in replay) == count
    found = replay.compare()
    assert (found.identical, found.appeared, found.vanished) == (False, count, 0)
    assert [each.verdict.seq for each in found.differences] == list(range(MAX_DIFFERENCES))


def test_the_same_verdict_twice_is_not_the_same_as_once(path, live):
    items = judge(live, connects(1))
    write_trail(path, [EpisodeStart(5_000_000_000, "ep-1", "quiet", 100, 40), *items, items[-1]])
    with read_trail(path) as trail:
        replay = Replay(trail)
        list(replay)
    found = replay.compare()
    assert (found.identical, found.appeared, found.vanished) == (False, 0, 1)


def test_a_header_without_a_profile_says_what_to_do(path):
    import msgspec

    write_trail(path, [], header=msgspec.structs.replace(HEADER, profile_text="nonsense"))
    with read_trail(path) as trail, pytest.raises(TrailError, match="use --profile"):
        Replay(trail)
