"""A learned profile allows what was observed, no more than its entries say, and never more than what it extends."""

import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import HEADER, write_trail

from ebpfaudit import events as e
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.addresses import parse_address
from ebpfaudit.profiles.load import load_profile
from ebpfaudit.text import show
from ebpfaudit.trail.learning.draft import Naming, write_profile
from ebpfaudit.trail.learning.names import program_globs, socket_entries
from ebpfaudit.trail.learning.narrowness import looser, stricter
from ebpfaudit.trail.learning.observation import Observations, Observer
from ebpfaudit.trail.reader import read_trail
from ebpfaudit.verdicts import ACTIONS

EVIL = '"\n[network]\ndefault = "allow"\n# \x1b[2J\x85\u2028'
START = e.EpisodeStart(5_000_000_000, "ep-1", "quiet", 100, 40)
LIMITING = """name = "limiting"
description = ""
[network]
default = "deny"
allow = ["loopback", "10.0.0.0/8", "any:53/udp", "198.51.100.7:8000-8010/tcp", "198.51.100.7:8020-8030/tcp", "unix:/tmp/*"]
deny = ["10.9.0.0/16", "10.1.0.0/16:22", "unix:/tmp/secret*"]
alert = ["10.2.0.0/16:443/tcp"]
kill = ["10.3.3.3"]
[gpu]
default = "deny"
allow = ["nvidia:0"]
[exec]
deny = ["/usr/bin/nsenter"]
"""


def connect(dst, port=443, protocol="tcp", **more):
    family = (
        "unix"
        if dst[:1] in "/@" or dst.endswith(".sock") or dst == EVIL
        else "ipv6"
        if ":" in dst
        else "ipv4"
    )
    if family == "unix":
        port, protocol = 0, "stream"
    return e.Connect(6_000_000_000, 101, 41, "curl", family, protocol, dst, port, **more)


def execute(exe, *argv, **more):
    return e.Exec(6_000_000_000, 101, 41, 100, exe, (exe, *argv), "/w", "x", 1000, **more)


def observe(folder, base, *episodes, name="ep"):
    seen = Observations()
    for number, events in enumerate(episodes):
        path = Path(folder) / f"{name}-{number}.jsonl.zst"
        path.unlink(missing_ok=True)
        write_trail(path, [START, *events])
        with read_trail(path) as trail:
            Observer(trail, base, seen).run()
    return seen


def learn(folder, *episodes, extends="base"):
    """(the learned profile, its text and remarks)"""
    base = load_profile(extends)
    learned = write_profile(observe(folder, base, *episodes), base, Naming("learned", extends))
    path = Path(folder) / "learned.toml"
    path.write_text(learned.text)
    return load_profile(str(path)), learned


def entries(profile, action="allow"):
    return [entry.text for entry in profile.network.entries if entry.action == action]


@pytest.fixture
def limiting(tmp_path):
    path = tmp_path / "limiting.toml"
    path.write_text(LIMITING)
    return str(path)


# ---- destinations


def test_what_was_seen_is_allowed_exactly_and_with_its_evidence(tmp_path):
    events = [
        execute("/usr/bin/curl"),
        connect("10.20.0.5", 3128),
        connect("10.20.0.5", 3128),
        connect("2001:db8::1"),
    ]
    profile, learned = learn(tmp_path, events)
    assert entries(profile) == ["10.20.0.5:3128/tcp", "[2001:db8::1]:443/tcp"]
    assert profile.network.default == "deny"
    assert '    "10.20.0.5:3128/tcp",  # 2x, curl; first: ep-0.jsonl.zst event 2\n' in learned.text
    assert learned.not_allowed == ()


@pytest.mark.parametrize(
    ("ports", "wanted"),
    [
        ([80, 81, 83], ["10.0.0.1:80-81/tcp", "10.0.0.1:83/tcp"]),
        (range(40000, 40070, 10), [f"10.0.0.1:{port}/tcp" for port in range(40000, 40070, 10)]),
        (range(40000, 40080, 10), ["10.0.0.1:40000-40070/tcp"]),
        (range(10, 26, 2), ["10.0.0.1:10-24/tcp"]),
        (
            [22, 25, 5432, 6379, *range(40000, 40080, 10)],
            [*(f"10.0.0.1:{port}/tcp" for port in (22, 25, 5432, 6379)), "10.0.0.1:40000-40070/tcp"],
        ),
    ],
)
def test_neighbouring_and_many_ports_become_ranges(tmp_path, ports, wanted):
    assert entries(learn(tmp_path, [connect("10.0.0.1", port) for port in ports])[0]) == wanted


def test_loopback_is_always_the_set(tmp_path):
    profile, _ = learn(
        tmp_path, [connect("127.0.0.1", 8080), connect("::1", 8080), connect("127.8.0.1", 9000)]
    )
    assert entries(profile) == ["loopback:8080/tcp", "loopback:9000/tcp"]


def test_many_neighbours_become_their_prefix(tmp_path):
    few = [connect(f"10.0.0.{n}", 443) for n in range(7)]
    many = [connect(f"10.0.1.{n}", 443) for n in range(8)] + [connect("10.0.1.3", 80)]
    six = [connect(f"2001:db8::{n}", 443) for n in range(1, 9)]
    profile, _ = learn(tmp_path, few + many + six)
    assert entries(profile) == [
        *(f"10.0.0.{n}:443/tcp" for n in range(7)),
        "10.0.1.0/24:443/tcp",
        "10.0.1.3:80/tcp",
        "[2001:db8::/64]:443/tcp",
    ]  # fmt: skip


def test_a_set_is_allowed_only_if_really_many_networks_of_it_were_seen(tmp_path):
    web = [connect(f"198.51.{n}.1", 443) for n in range(31)]
    assert len(entries(learn(tmp_path, web)[0])) == 31
    assert entries(learn(tmp_path, [*web, connect("203.0.113.1", 443)])[0]) == ["public:443/tcp"]


def test_a_ping_opens_no_port(tmp_path):
    profile, _ = learn(
        tmp_path,
        [connect("10.0.0.1", 0, "icmp"), connect("10.0.0.2", 0, "udp"), connect("10.0.0.2", 53, "udp")],
    )
    decide = profile.network.decide_ip
    one, two = (parse_address(f"10.0.0.{n}").to_bytes(16, "big") for n in (1, 2))
    assert decide(one, 0, "icmp")[0] == "allow"
    assert {decide(one, port, protocol)[0] for port in (1, 22, 65535) for protocol in ("tcp", "udp")} == {
        "deny"
    }
    assert [decide(two, port, "udp")[0] for port in (0, 52, 53, 54)] == ["allow", "deny", "allow", "deny"]
    assert decide(two, 53, "tcp")[0] == "deny"


def test_metadata_is_not_allowed_and_its_neighbours_are_not_joined_to_it(tmp_path):
    profile, learned = learn(
        tmp_path, [connect("169.254.169.254", 80), connect("169.254.169.254", 53, "udp")]
    )
    assert entries(profile) == ["169.254.169.254:53/udp"]
    assert any("kill by base" in line and "169.254.169.254:80/tcp" in line for line in learned.not_allowed)
    assert "# not allowed: deny by base: network" in learned.text


def test_what_was_denied_when_it_was_observed_is_listed_and_not_allowed(tmp_path):
    scan = [connect(f"10.0.0.{n}", 443, decision="deny", result="denied") for n in range(9)]
    profile, learned = learn(
        tmp_path, [connect("203.0.113.9", 444, decision="deny"), connect("10.1.1.1"), *scan]
    )
    assert entries(profile) == ["10.1.1.1:443/tcp"]
    assert len(learned.not_allowed) == 2
    assert 'denied when it was observed: connect "203.0.113.9:444/tcp"' in learned.not_allowed[1]
    assert 'connect to 9 addresses at port 443/tcp, such as "10.0.0.0:443/tcp"' in learned.not_allowed[0]


# ---- sockets


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("/run/nscd/socket", "unix:/run/nscd/socket"),
        ("/run/user/1000/bus", "unix:/run/user/1000/bus"),
        ("/tmp/pymp-uum1ga0a/listener-hn8vho60", "unix:/tmp/pymp-*"),
        ("/tmp/tmpab12cd34/s", "unix:/tmp/tmp*"),
        ("/tmp/ssh-AbCdEfGhIjKl/agent.123", "unix:/tmp/ssh-*"),
        ("/run/x/7c1f8b9e-0000-4000-8000-000000000000.sock", "unix:/run/x/*"),
        ("/run/shim/0123456789abcdef", "unix:/run/shim/*"),
        ("@/tmp/dbus-AbCdEf12", "unix:@/tmp/dbus-*"),
        ("@0001f", "unix:@0001f"),
        ("/tmp/AbCdEf12", "unix:/tmp/AbCdEf12"),
        ("/run/abc[b]*c", "unix:/run/abc*"),
    ],
)  # fmt: skip
def test_the_random_parts_of_a_socket_are_left_out(path, entry):
    assert socket_entries([path])[path][0] == entry


@pytest.mark.parametrize("path", ["/r*", "/run/a[b]*c", "/tmp/*", "@a*", "/*", "@*"])
def test_a_name_with_a_star_opens_no_folder(path):
    assert socket_entries([path]) == {path: []}


def test_what_varies_is_left_out_when_it_was_seen_to_vary():
    one, two = "/srv/worker-1/s", "/srv/worker-2/s"
    assert socket_entries([one])[one] == ["unix:/srv/worker-1/s"]
    assert socket_entries([one, two])[one] == ["unix:/srv/worker-*", "unix:/srv/worker-1/s"]


def test_relative_sockets_do_not_open_absolute_ones(tmp_path):
    profile, _ = learn(tmp_path, [connect("work.sock"), connect("/run/a")])
    decisions = {
        path: profile.network.decide_unix(path)[0] for path in ("other.sock", "/run/a", "/run/b", "@x")
    }
    assert decisions == {"other.sock": "allow", "/run/a": "allow", "/run/b": "deny", "@x": "deny"}
    assert profile.network.decide_unix("/run/docker.sock")[0] == "kill"


# ---- programs and GPUs


@pytest.mark.parametrize(
    ("paths", "glob"),
    [
        (["/usr/bin/python3.11"], "/usr/bin/python3.11"),
        (["/usr/bin/python3.11", "/usr/bin/python3.12"], "/usr/bin/python3.[0-9]*"),
        (["/tmp/pytest-of-root/pytest-12/test_x0/prog"], "/tmp/pytest-of-*/prog"),
        (["/home/a/.local/bin/x"], "/home/a/.local/bin/x"),
        (["/home/a/.local/bin/x", "/home/b/.local/bin/x"], "/home/*/.local/bin/x"),
        (["/w/a/.venv/bin/node", "/v/.venv/bin/node"], "*/.venv/bin/node"),
        (["/w/target/deps/foo-0123456789abcdef"], "/w/target/deps/foo-*"),
        (["/tmp/AbCdEf12"], "/tmp/????????"),
        ([f"/opt/tool/libexec/x{c}" for c in "abcdefgh"], "/opt/tool/libexec/*"),
        (["/usr/bin/["], "/usr/bin/?"),
        (["@list"], "?list"),
    ],
)  # fmt: skip
def test_programs_are_generalised(paths, glob):
    assert set(program_globs(paths).values()) == {glob}


def test_folders_of_everybody_are_not_generalised():
    paths = [f"/usr/bin/x{c}" for c in "abcdefghij"]
    assert sorted(program_globs(paths).values()) == paths


def test_another_program_is_an_alert(tmp_path):
    profile, _ = learn(tmp_path, [execute("/usr/bin/git")])
    evaluator = Evaluator(profile)
    assert evaluator.evaluate(execute("/usr/bin/git")) == ()
    (verdict,) = evaluator.evaluate(execute("/usr/bin/make"))
    assert (verdict.action, verdict.rule) == ("alert", "unknown-program")


def test_a_program_that_base_kills_is_not_known(tmp_path):
    profile, learned = learn(tmp_path, [execute("/usr/bin/git"), execute("/w/chisel", "client")])
    assert [v.rule for v in Evaluator(profile).evaluate(execute("/w/chisel"))][-1] == "unknown-program"
    assert any("by base: " in line and "chisel" in line for line in learned.not_allowed), learned.not_allowed


def test_a_gpu_goes_by_its_uuid_where_that_is_known(tmp_path):
    def gpu(device, uuid="", event="open", **more):
        return e.Gpu(6_000_000_000, 101, 41, "x", event, device, uuid=uuid, **more)

    granted = [gpu("nvidia:0"), gpu("nvidia:ctl"), gpu("nvidia:0", "GPU-1234", "context"), gpu("amd:128")]
    profile, learned = learn(tmp_path, [*granted, gpu("nvidia:7", result="denied", decision="deny")])
    assert [entry.text for entry in profile.gpu.entries] == ["GPU-1234", "amd:128", "nvidia:ctl"]
    assert profile.gpu.default == "deny"
    assert profile.gpu.decide("nvidia:0", "")[0] == "allow"
    assert profile.gpu.decide("nvidia:7", "GPU-other")[0] == "deny"
    assert any("nvidia:7" in line for line in learned.not_allowed)


# ---- the text


def test_the_head_says_where_it_comes_from_and_what_to_beware_of(tmp_path):
    _, learned = learn(
        tmp_path, [connect("10.0.0.1"), e.Lost(6_000_000_000, 3), connect("169.254.169.254", 80)]
    )
    assert learned.text.startswith("# Learned by ebpfaudit ")
    assert "recorded 2026-09-21 (UTC)" in learned.text
    assert 'ep-0.jsonl.zst: episode "ep-1" under "quiet", 4 events, ' in learned.text
    assert any("3 events were lost" in doubt for doubt in learned.doubts)
    assert "# Beware: ep-0.jsonl.zst is not whole: 3 events were lost" in learned.text


def test_the_head_of_many_trails_stays_short(tmp_path):
    _, learned = learn(tmp_path, *([connect("10.0.0.1")] for _ in range(43)))
    assert "#   and 3 more\n" in learned.text
    assert learned.text.count("#   ep-") == 40


def test_a_killed_episode_is_said_to_be_one(tmp_path):
    base = load_profile("base")
    bad = connect("169.254.169.254", 80)
    path = tmp_path / "k.jsonl.zst"
    write_trail(path, [START, bad, *Evaluator(base).evaluate(bad)])
    seen = Observations()
    with read_trail(path) as trail:
        Observer(trail, base, seen).run()
    learned = write_profile(seen, base, Naming("x", "base"))
    assert any("was killed by its policy" in doubt for doubt in learned.doubts)


def test_hostile_text_does_not_leave_its_line(tmp_path):
    forged = [
        execute(EVIL),
        connect("/" + EVIL),
        connect(EVIL),
        connect("10.0.0.1", 443),
        execute("/a\\"),
        execute("/b\\xZZ"),
    ]
    evil = msgspec.structs.replace(HEADER, episode=EVIL, profile=EVIL)
    base = load_profile("base")
    path = tmp_path / "evil.jsonl.zst"
    write_trail(path, [START, *forged], header=evil)
    seen = Observations()
    with read_trail(path) as trail:
        Observer(trail, base, seen).run()
    learned = write_profile(seen, base, Naming("x", "base"))
    assert all(line.isprintable() for line in learned.text.split("\n"))
    target = tmp_path / "x.toml"
    target.write_text(learned.text)
    profile = load_profile(str(target))
    assert profile.network.default == "deny"
    evaluator = Evaluator(profile)
    assert [evaluator.evaluate(event) for event in forged if isinstance(event, e.Exec)] == [(), (), ()]


# ---- what always holds

HOSTS = ["10.0.0.1", "10.0.0.2", "10.1.0.5", "10.2.0.5", "10.3.3.3", "10.9.0.1", "127.0.0.1", "169.254.169.254",
         "198.51.100.7", "203.0.113.9", "2001:db8::1", "fd00:ec2::254", "::1", "0.0.0.0", "100.100.100.200"]  # fmt: skip
addresses = st.sampled_from(HOSTS) | st.builds("10.{}.{}.{}".format, *[st.integers(0, 9)] * 3)
ports = st.sampled_from([0, 22, 53, 80, 443, 8000, 8010, 8015, 8025]) | st.integers(1, 65535)
PATHS = ["/tmp/x", "/tmp/secret1", "/run/docker.sock", "/run/user/1000/bus", "work.sock", "@abs", "/tmp/tmpab12cd34/s",
         "/srv/worker-1", "/srv/worker-2", "/run/a[b", ""]  # fmt: skip
decisions = st.sampled_from(["allow", "allow", "allow", "deny"])
events = st.one_of(
    st.builds(connect, addresses, ports, st.sampled_from(["tcp", "udp"]), decision=decisions),
    st.builds(connect, addresses, st.just(0), st.just("icmp"), decision=decisions),
    st.builds(connect, st.sampled_from(PATHS) | st.binary(max_size=12).map(lambda raw: "/tmp/" + show(raw)), decision=decisions),
    st.builds(execute, st.sampled_from(["/usr/bin/git", "/usr/bin/python3.11", "/usr/bin/python3.12", "/w/chisel",
                                        "/usr/bin/nsenter", "/tmp/tmpab12cd34/x", "memfd:x"])
              | st.binary(min_size=1, max_size=12).map(lambda raw: "/" + show(raw))),
    st.builds(lambda device, uuid, event: e.Gpu(6_000_000_000, 101, 41, "x", event, device, uuid=uuid),
              st.sampled_from(["nvidia:0", "nvidia:1", "nvidia:ctl", "amd:128", "kfd"]),
              st.sampled_from(["", "", "GPU-1", "GPU-2"]), st.sampled_from(["open", "context"])),
)  # fmt: skip
episodes = st.lists(events, max_size=40)
slow = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def written_limits(folder):
    path = Path(folder) / "limiting.toml"
    path.write_text(LIMITING)
    return str(path)


def harsh(verdicts):
    return {(v.rule, v.action) for v in verdicts if v.action in ("alert", "deny", "freeze", "kill")}


@slow
@given(st.lists(episodes, min_size=1, max_size=3), st.booleans())
def test_a_replay_gives_only_what_the_extended_profile_gives(trails, limited):
    with tempfile.TemporaryDirectory() as folder:
        extends = written_limits(folder) if limited else "base"
        profile, learned = learn(folder, *trails, extends=extends)
        nameless = [line for line in learned.not_allowed if line.startswith("no entry could name it")]
        base = load_profile(extends)
        assert list(looser(profile, base)) == []
        for trail in trails:
            tight, inherited = Evaluator(profile), Evaluator(base)
            for event in [START, *trail]:
                mine, theirs = harsh(tight.evaluate(event)), harsh(inherited.evaluate(event))
                assert theirs <= mine
                prevented = any(action in ("deny", "freeze", "kill") for _, action in theirs)
                named = not any(f'"unix:{getattr(event, "dst", None)}"' in line for line in nameless)
                if not prevented and getattr(event, "decision", "") != "deny" and named:
                    assert mine == theirs, event


@slow
@given(
    st.lists(episodes, min_size=1, max_size=2),
    st.lists(st.tuples(addresses, ports), max_size=200),
    st.booleans(),
)
def test_a_learned_profile_is_never_milder(trails, sample, limited):
    with tempfile.TemporaryDirectory() as folder:
        extends = written_limits(folder) if limited else "base"
        base = load_profile(extends)
        profile, _ = learn(folder, *trails, extends=extends)
        for host, port in sample:
            raw = parse_address(host).to_bytes(16, "big")
            for protocol in ("tcp", "udp", "icmp"):
                mine, theirs = (each.network.decide_ip(raw, port, protocol)[0] for each in (profile, base))
                assert ACTIONS.index(mine) >= ACTIONS.index(theirs), (host, port, protocol)
        for path in [*PATHS, "/run/containerd/x", "/tmp/secret", "/tmp/secretary", "/proc/x", "@"]:
            mine, theirs = (each.network.decide_unix(path)[0] for each in (profile, base))
            assert ACTIONS.index(mine) >= ACTIONS.index(theirs), path
        if base.gpu is not None:
            for device in ("nvidia:0", "nvidia:1", "nvidia:9", "nvidia:ctl", "amd:0", "kfd"):
                for uuid in ("", "GPU-1", "GPU-2", "GPU-9"):
                    assert stricter(profile.gpu.decide(device, uuid)[0], "deny") == "deny"
                    mine, theirs = (each.gpu.decide(device, uuid)[0] for each in (profile, base))
                    assert ACTIONS.index(mine) >= ACTIONS.index(theirs), (device, uuid)


@slow
@given(st.lists(episodes, min_size=2, max_size=3), st.booleans())
def test_more_trails_only_add(trails, limited):
    with tempfile.TemporaryDirectory() as folder:
        extends = written_limits(folder) if limited else "base"
        fewer, _ = learn(folder, *trails[:-1], extends=extends)
        more, _ = learn(folder, *trails, extends=extends)
        for network in ("network",):
            old, new = getattr(fewer, network), getattr(more, network)
            for node in old.ip_nodes():
                for rule in node.rules:
                    for port in (rule.port_low, rule.port_high):
                        for protocol in ("tcp", "udp", "icmp"):
                            was, now = (
                                each.decide_ip(node.address16, port, protocol)[0] for each in (old, new)
                            )
                            assert ACTIONS.index(now) <= ACTIONS.index(was), (node, port, protocol)
            for path in PATHS:
                assert ACTIONS.index(new.decide_unix(path)[0]) <= ACTIONS.index(old.decide_unix(path)[0]), (
                    path
                )
        was, now = Evaluator(fewer), Evaluator(more)
        for event in [START, *(event for trail in trails[:-1] for event in trail)]:
            before, after = was.evaluate(event), now.evaluate(event)
            assert harsh(after) <= harsh(before), event


@slow
@given(st.lists(episodes, min_size=1, max_size=2))
def test_the_same_trails_give_the_same_text(trails):
    with tempfile.TemporaryDirectory() as folder:
        assert learn(folder, *trails)[1] == learn(folder, *trails)[1]


def test_a_scan_of_many_ports_still_fits_the_kernels_tables(tmp_path):
    events = [connect(f"10.0.{net}.{n}", port, protocol) for net in range(3) for n in range(10)
              for port in (*range(1, 40, 3), *range(2000, 2040, 3)) for protocol in ("tcp", "udp")]  # fmt: skip
    profile, _ = learn(tmp_path, events)
    assert len(entries(profile)) == 12
    assert profile.network.ip_nodes()
