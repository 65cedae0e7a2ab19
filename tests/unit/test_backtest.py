"""Two profiles over one trail: what changes is counted by rule, with an example, and kills are named."""

import pytest
from recorded import HEADER, exits, write_trail

from ebpfaudit.events import Connect, EpisodeStart, Exec
from ebpfaudit.profiles.difference import differences
from ebpfaudit.profiles.load import load_profile, parse_profile, resolved_text
from ebpfaudit.trail.backtest import MAX_VALUES, Change, Outcome, backtest
from ebpfaudit.verdicts import Verdict

START = EpisodeStart(5_000_000_000, "ep-1", "quiet", 100, 40)


def profile(network, rest=""):
    return parse_profile(f'name = "x"\ndescription = ""\n[network]\n{network}\n{rest}', "test")


def connect(dst, port=443):
    return Connect(6_000_000_000, 100, 40, "curl", "ipv4", "tcp", dst, port)


ALLOW = profile('default = "allow"')
DENY = profile('default = "deny"')
KILL = profile('default = "deny"\nkill = ["203.0.113.9"]')


@pytest.fixture
def judge(tmp_path):
    def judge(events, first, second, **options):
        path = tmp_path / "t"
        path.unlink(missing_ok=True)
        write_trail(path, [START, *events], **options)
        seen = []
        outcome = backtest(str(path), first, second, seen.append)
        assert outcome.error or seen[-1] == path.stat().st_size
        return outcome

    return judge


def test_the_same_profile_changes_nothing(judge):
    outcome = judge([connect("203.0.113.9"), *exits(10)], KILL, KILL)
    assert not outcome.changed
    assert (outcome.events, outcome.verdicts) == (12, (1, 1))
    assert not outcome.newly_killed
    assert not outcome.spared


def test_appeared_vanished_and_changed_are_told_apart(judge):
    events = [connect("203.0.113.9"), connect("10.0.0.1"), connect("10.0.0.1")]
    assert set(judge(events, ALLOW, KILL).changes) == {
        Change("appeared", "kill", "", "network"),
        Change("appeared", "deny", "", "network"),
    }
    assert set(judge(events, DENY, KILL).changes) == {Change("changed", "kill", "deny", "network")}
    assert set(judge(events, DENY, ALLOW).changes) == {Change("vanished", "deny", "", "network")}


def test_the_strongest_come_first_with_an_example(judge):
    outcome = judge([connect("10.0.0.1"), connect("10.0.0.1"), connect("203.0.113.9", 22)], ALLOW, KILL)
    (kill, kills), (deny, denies) = outcome.ordered()
    assert (kill.action, deny.action) == ("kill", "deny")
    (sample,) = kills.ordered()
    assert (sample.seq, sample.event, sample.verdict.value) == (
        3,
        connect("203.0.113.9", 22),
        "203.0.113.9:22/tcp",
    )
    assert [(each.count, each.seq) for each in denies.ordered()] == [(2, 1)]


def test_who_is_newly_killed_and_who_no_longer(judge):
    events = [connect("10.0.0.1"), connect("203.0.113.9"), connect("203.0.113.9")]
    there, back = judge(events, DENY, KILL), judge(events, KILL, DENY)
    assert there.newly_killed
    assert not there.spared
    assert (there.kills[1].seq, there.kills[1].rule) == (2, "network")
    assert back.spared
    assert not back.newly_killed


def test_what_comes_after_the_first_prevention_is_counted_apart(judge):
    rule = '[[rule]]\nid = "r"\non = "connect"\nwhen = { dst = "10.0.0.1" }\naction = "alert"\n'
    outcome = judge(
        [connect("10.0.0.1"), connect("203.0.113.9"), connect("10.0.0.1")],
        ALLOW, profile('default = "allow"\nkill = ["203.0.113.9"]', rule),
    )  # fmt: skip
    assert outcome.first_difference == 2
    assert outcome.after == 1
    assert outcome.changes[Change("appeared", "alert", "", "r")].after == 1


def test_only_words_that_differ_are_no_change(judge):
    other = profile('default = "allow"\ndeny = ["0.0.0.0/0"]')
    assert not judge([connect("10.0.0.1")], DENY, other).changed


def test_memory_is_bounded_and_nothing_is_left_uncounted(judge):
    count = MAX_VALUES + 500
    outcome = judge([connect("203.0.113.9", port) for port in range(1, count + 1)], ALLOW, DENY)
    (tally,) = outcome.changes.values()
    assert (tally.count, len(tally.samples), tally.more) == (count, MAX_VALUES, 500)
    total = Outcome("")
    for _ in range(3):
        total.merge(outcome)
    (tally,) = total.changes.values()
    assert (tally.count, len(tally.samples), tally.more) == (3 * count, MAX_VALUES, 1500)
    assert sum(each.count for each in tally.samples.values()) + tally.more == tally.count


def test_the_recorded_profile_is_the_headers(judge):
    events = [connect("203.0.113.9"), connect("127.0.0.1")]
    assert not judge(events, None, parse_profile(HEADER.profile_text, "test")).changed
    assert judge(events, None, ALLOW).count("vanished") == 1


def test_recorded_verdicts_are_not_looked_at(judge):
    events = [connect("203.0.113.9"), Verdict(1, "kill", "x", "dst", "y")]
    assert not judge(events, DENY, DENY).changed


def test_a_trail_that_cannot_be_read_is_an_outcome(tmp_path):
    (tmp_path / "bad").write_bytes(b"nothing")
    assert "is no trail" in backtest(str(tmp_path / "bad"), ALLOW, DENY, print).error
    assert "No such file" in backtest(str(tmp_path / "none"), ALLOW, DENY, print).error


def test_a_damaged_trail_is_judged_as_far_as_it_goes(tmp_path):
    path = tmp_path / "t"
    write_trail(path, [START, connect("203.0.113.9")], exits(500))
    data = bytearray(path.read_bytes())
    data[-60] ^= 1
    path.write_bytes(data)
    outcome = backtest(str(path), ALLOW, DENY, lambda offset: None)
    assert outcome.damaged
    assert outcome.doubts
    assert outcome.count("appeared") == 1


def test_a_rule_that_kills_another_scope_is_a_change(judge):
    def rule(scope):
        return profile(
            'default = "allow"',
            f'[[rule]]\nid = "r"\non = "exec"\nwhen = {{ exe = "/x" }}\naction = "kill"\nscope = "{scope}"\n',
        )

    execute = Exec(6_000_000_000, 100, 40, 1, "/x", ("x",), "/", "x", 0)
    assert set(judge([execute], rule("tree"), rule("episode")).changes) == {
        Change("changed", "kill", "kill", "r")
    }


# ---- profiles as texts


def test_profiles_are_compared_by_section_and_by_rule():
    first = resolved_text(
        profile(
            'default = "deny"\nallow = ["loopback"]',
            '[[rule]]\nid = "r"\non = "exec"\nwhen = { exe = "/x" }\naction = "kill"\n',
        )
    )
    second = resolved_text(
        profile(
            'default = "deny"\nallow = ["loopback", "10.0.0.1"]',
            '[[rule]]\nid = "r"\non = "exec"\nwhen = { exe = "/x" }\naction = "alert"\n',
        )
    )
    found = {
        each.title: [line for line in each.lines if line[0] in "+-"] for each in differences(first, second)
    }
    assert found == {
        "[network]": ['+allow: "10.0.0.1"'],
        "[[rule]] r": ['-action: "kill"', '+action: "alert"'],
    }
    assert differences(first, first) == []


def test_shipped_profiles_can_be_compared():
    texts = [resolved_text(load_profile(name)) for name in ("base", "coding-agent")]
    titles = [each.title for each in differences(*texts)]
    assert titles[0] == "profile"
    assert "[network]" in titles
    assert "[gpu]" in titles
