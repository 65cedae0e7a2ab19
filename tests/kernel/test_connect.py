"""No destination goes unseen, and no refused one is reached, by whatever road the kernel offers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import uuid
from pathlib import Path

import pytest
from audited import NO_POLICY, PYTHON, profile, until

pytestmark = pytest.mark.kernel

PROGRAMS = Path(__file__).parent / "programs"
TCP_WAYS = [
    "tcp", "mapped", "passed-in", "fast-open", "thread", "uring-plain", "uring-async", "uring-sqpoll",
    "int80-socketcall", "int80-connect",
]  # fmt: skip
UDP_WAYS = ["udp-connect", "udp-connect-mapped", "udp-send", "udp-send-mapped"]
WAYS = TCP_WAYS + UDP_WAYS


class Outside:
    """What the episode wants to reach: a listener for each way, which notices any packet."""

    def __init__(self, address, ways=WAYS):
        self.address = address
        self._sockets = {}
        for way in ways:
            kind = socket.SOCK_DGRAM if way in UDP_WAYS else socket.SOCK_STREAM
            listener = self._sockets[way] = socket.socket(socket.AF_INET, kind)
            listener.bind((address, 0))
            listener.setblocking(False)
            if kind == socket.SOCK_STREAM:
                listener.listen()
        self.ports = {way: listener.getsockname()[1] for way, listener in self._sockets.items()}

    def reached(self, way):
        """Whether somebody came since we last looked."""
        listener = self._sockets[way]
        try:
            if listener.type == socket.SOCK_DGRAM:
                return bool(listener.recv(64))
            listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self):
        for listener in self._sockets.values():
            listener.close()


class Attempts:
    """One run of programs/connects.py: what the workload says, what was recorded, what arrived."""

    def __init__(self, auditor, program, outside, network):
        with socket.socket() as inherited:
            plan = {
                "address": outside.address, "ports": outside.ports, "inherited": inherited.fileno(),
                "uring": program("uring"), "int80": program("int80"),
            }  # fmt: skip
            os.set_inheritable(inherited.fileno(), True)
            self.audited = auditor.run(
                profile(network), [*PYTHON, str(PROGRAMS / "connects.py"), json.dumps(plan)],
                close_fds=False,
            )  # fmt: skip
        assert self.audited.exit_code == 0, self.audited.stderr
        assert self.audited.result["complete"] is True
        self.ended = json.loads(self.audited.stdout)
        self.reached = {way: outside.reached(way) for way in outside.ports}
        self._ports = outside.ports

    def events(self, way, phase):
        return self.audited.of("connect", port=self._ports[way], phase=phase)


def attempts(address, network):
    """A fixture: all ways to an address of this host, under a [network] section."""

    @pytest.fixture(scope="module")
    def run(module_auditor, program):
        outside = Outside(address)
        try:
            yield Attempts(module_auditor, program, outside, network)
        finally:
            outside.close()

    return run


allowed = attempts("127.0.0.7", 'default = "deny"\nallow = ["127.0.0.7"]')
denied = attempts("127.0.0.9", 'default = "allow"\ndeny = ["127.0.0.9"]')
killed = attempts("127.0.0.11", 'default = "allow"\nkill = ["127.0.0.11"]')


def unavailable(way, ended):
    """Skips where this kernel has no such road at all, policy or not."""
    if way.startswith(("uring", "int80")) and ended in ("200", "ENOSYS", "signal 11"):
        pytest.skip(f"this kernel has no {way}: {ended}")


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_seen_once(allowed, way):
    unavailable(way, allowed.ended[way])
    assert allowed.ended[way] == "ok"
    assert allowed.reached[way]
    event, *again = allowed.events(way, "attempt")
    # The kernel names the destination anew for each send on a connected mapped UDP socket (udpv6_sendmsg).
    assert len(again) == (way == "udp-connect-mapped")
    assert (event.family, event.dst) == ("ipv4", "127.0.0.7"), "a mapped address is no other address"
    assert event.protocol == ("udp" if way in UDP_WAYS else "tcp")
    assert (event.decision, event.result) == ("allow", "")
    born = {(fork.child, fork.child_start) for fork in allowed.audited.of("fork")}
    assert (event.pid, event.start) in born, "the process that asked, not the kernel's helper"


@pytest.mark.parametrize("way", TCP_WAYS)
def test_success_is_told(allowed, way):
    unavailable(way, allowed.ended[way])
    (event,) = allowed.events(way, "done")
    (attempt,) = allowed.events(way, "attempt")
    assert event.result == "ok"
    assert (event.dst, event.pid, event.start) == (attempt.dst, attempt.pid, attempt.start)
    assert event.ts_ns >= attempt.ts_ns


@pytest.mark.parametrize("way", WAYS)
def test_nothing_denied_is_reached(denied, way):
    unavailable(way, denied.ended[way])
    assert denied.ended[way] == "EPERM"
    assert not denied.reached[way]
    (event,) = denied.events(way, "attempt")
    assert (event.decision, event.result) == ("deny", "denied")
    assert denied.events(way, "done") == []
    (verdict,) = [
        verdict for verdict in denied.audited.verdicts if denied.audited.events[verdict.seq] == event
    ]
    assert (verdict.action, verdict.rule, verdict.because) == ("deny", "network", "127.0.0.9")


@pytest.mark.parametrize("way", WAYS)
def test_a_kill_comes_before_the_packet(killed, require, way):
    require("signal from connect")
    unavailable(way, killed.ended[way])
    assert killed.ended[way] == "signal 9"
    assert not killed.reached[way]
    (event,) = killed.events(way, "attempt")
    assert (event.decision, event.result) == ("kill", "denied")
    (ended,) = killed.audited.of("exit", pid=event.pid)
    assert ended.signal == signal.SIGKILL


def connect(address, port, kind="STREAM", family="INET"):
    """A command that tries, and says the errno (0: none)."""
    code = f"import socket; print(socket.socket(socket.AF_{family}, socket.SOCK_{kind}).connect_ex(({address!r}, {port})))"
    return [*PYTHON, "-c", code]


def test_the_command_itself_may_be_killed(audit, require):
    require("signal from connect")
    audited = audit(profile('default = "kill"'), connect("127.0.0.1", 9))
    assert audited.exit_code == 120
    assert audited.stdout == b""
    assert audited.result["killed_by_policy"] is True
    assert "KILLED BY POLICY" in audited.stderr


MANY = """
import errno, json, socket, sys
found = {}
for key, (address, port, kind) in json.loads(sys.argv[1]).items():
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, getattr(socket, kind)) as client:
        client.setblocking(False)
        number = client.connect_ex((address, port))
        found[key] = errno.errorcode.get(number, "ok")
print(json.dumps(found))
"""


def try_all(audit, network, targets, *before):
    """{target: how it ended} and the record of one run that tries all of them, without waiting."""
    named = {str(number): target for number, target in enumerate(targets)}
    audited = audit(profile(network), [*before, *PYTHON, "-c", MANY, json.dumps(named)])
    assert audited.exit_code == 0, audited.stderr
    ended = json.loads(audited.stdout)
    return {targets[int(number)]: answer for number, answer in ended.items()}, audited


def in_a_namespace(*setup):
    """Runs a command in a network of its own, where every address is routed to a device that keeps silent."""
    lines = [
        "ip link set lo up", "ip link add silent type veth peer name far", "ip link set silent arp off",
        "ip addr add 192.0.2.1/24 dev silent", "ip -6 addr add 2001:db8::1/64 dev silent nodad",
        "ip link set far up", "ip link set silent up",
        "ip route add default dev silent", "ip -6 route add default dev silent", *setup,
    ]  # fmt: skip
    return ["unshare", "--net", "sh", "-ec", "; ".join(lines) + '; exec "$@"', "sh"]


METADATA = [
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "fd00:ec2::254",
    "100.100.100.200",
]


def test_metadata_is_refused_in_every_spelling(audit):
    targets = [
        (address, port, kind)
        for address in METADATA
        for port in (80, 443)
        for kind in ("SOCK_STREAM", "SOCK_DGRAM")
    ]
    innocent = ("192.0.2.77", 80, "SOCK_DGRAM")
    ended, audited = try_all(
        audit, 'default = "allow"\ndeny = ["metadata"]', [*targets, innocent], *in_a_namespace()
    )
    assert ended == {**dict.fromkeys(targets, "EPERM"), innocent: "ok"}
    assert len(audited.of("verdict", because="metadata")) == len(targets)
    assert {event.dst for event in audited.of("connect", result="denied")} == {
        "169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254", "100.100.100.200",
    }  # fmt: skip


def test_a_killed_connect_sends_no_packet(audit, require):
    require("signal from connect")
    count = "cat /sys/class/net/silent/statistics/tx_packets"
    # The command line is that of `sh -c`, so its child is killed and it can still look.
    script = (
        f'sleep 0.1; before=$({count}); for n in 1 2 3; do "$@"; echo $?; done; echo $(($({count}) - before))'
    )
    setup = in_a_namespace("echo 1 >/proc/sys/net/ipv6/conf/silent/disable_ipv6")
    command = [*setup, "sh", "-c", script, "sh", *connect("198.51.100.9", 443)]
    audited = audit(profile('default = "allow"\nkill = ["198.51.100.9"]'), command)
    assert audited.stdout == b"137\n137\n137\n0\n", audited.stderr
    assert len(audited.of("connect", decision="kill")) == 3


def test_ports_and_protocols_are_told_apart(audit):
    network = 'default = "deny"\nallow = ["127.0.0.7:7000-7009/tcp", "127.0.0.7:7005/udp", "[::1]:7001"]'
    expected = {
        ("127.0.0.7", 6999, "SOCK_STREAM"): "EPERM",
        ("127.0.0.7", 7000, "SOCK_STREAM"): "EINPROGRESS",
        ("127.0.0.7", 7009, "SOCK_STREAM"): "EINPROGRESS",
        ("127.0.0.7", 7010, "SOCK_STREAM"): "EPERM",
        ("127.0.0.7", 7004, "SOCK_DGRAM"): "EPERM",
        ("127.0.0.7", 7005, "SOCK_DGRAM"): "ok",
        ("127.0.0.7", 7006, "SOCK_DGRAM"): "EPERM",
        ("::ffff:127.0.0.7", 7005, "SOCK_DGRAM"): "ok",
        ("::ffff:127.0.0.7", 7010, "SOCK_STREAM"): "EPERM",
        ("127.0.0.8", 7005, "SOCK_STREAM"): "EPERM",
        ("::1", 7001, "SOCK_STREAM"): "EINPROGRESS",
        ("::1", 7001, "SOCK_DGRAM"): "ok",
        ("::1", 7002, "SOCK_STREAM"): "EPERM",
    }
    ended, audited = try_all(audit, network, list(expected))
    # Loopback answers a SYN to a closed port before connect(2) returns.
    assert {
        target: answer.replace("ECONNREFUSED", "EINPROGRESS") for target, answer in ended.items()
    } == expected
    denied = [target for target, answer in expected.items() if answer == "EPERM"]
    assert len(audited.of("connect", decision="deny")) == len(denied) == len(audited.verdicts)


def test_the_most_specific_prefix_wins(audit):
    network = 'default = "allow"\ndeny = ["127.0.0.0/8", "127.1.2.3"]\nallow = ["127.1.0.0/16"]'
    ended, _ = try_all(
        audit,
        network,
        [(address, 9, "SOCK_DGRAM") for address in ("127.0.0.1", "127.1.0.1", "127.1.2.3", "::1")],
    )
    assert list(ended.values()) == ["EPERM", "ok", "EPERM", "ok"]


RESULTS = """
import os, socket
def tcp(address, *, family=socket.AF_INET, **options):
    client = socket.socket(family)
    for name, value in options.items():
        client.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return client
def blocking(address, **options):
    try:
        tcp(address, **options).connect(address)
    except OSError:
        pass
blocking(("127.0.0.1", 1))
blocking(("203.0.113.1", 2))
blocking(("203.0.114.1", 3))
blocking(("192.0.2.9", 4), TCP_SYNCNT=1, TCP_USER_TIMEOUT=1)
aborted = tcp(None)
aborted.setblocking(False)
aborted.connect_ex(("192.0.2.9", 5))
aborted.close()
blocking(("::1", 6), family=socket.AF_INET6)
killed = os.fork()
if killed == 0:
    blocking(("192.0.2.9", 7))
import time; time.sleep(0.2)
os.kill(killed, 9); os.wait()
"""


def test_how_a_connect_ended(audit):
    setup = in_a_namespace("ip route add unreachable 203.0.113.0/24", "ip route add prohibit 203.0.114.0/24")
    audited = audit(NO_POLICY, [*setup, *PYTHON, "-c", RESULTS])
    assert audited.exit_code == 0, audited.stderr
    done = audited.of("connect", phase="done")
    assert {event.port: event.result for event in done} == {
        1: "refused", 2: "unreachable", 3: "denied", 4: "timeout", 5: "aborted", 6: "refused", 7: "aborted",
    }  # fmt: skip
    assert len(done) == 7, done
    assert {event.dst for event in done} == {"127.0.0.1", "203.0.113.1", "203.0.114.1", "192.0.2.9", "::1"}
    assert {event.port: event.decision for event in audited.of("connect", phase="attempt")} == dict.fromkeys(
        range(1, 8), ""
    ), "no section, no decision"


UNIX = """
import errno, json, socket, sys
found = {}
for key, (kind, name, send) in json.loads(sys.argv[1]).items():
    name = name.replace("@", "\\0", 1)
    with socket.socket(socket.AF_UNIX, getattr(socket, kind)) as client:
        try:
            client.sendto(b"x", name) if send else client.connect(name)
            found[key] = "ok"
        except OSError as error:
            found[key] = errno.errorcode[error.errno]
print(json.dumps(found))
"""


@pytest.fixture
def unix(tmp_path):
    """Listening Unix sockets: {name: path or "@abstract"}; `.reached(name)` as for `Outside`."""

    class Unix(dict):
        def __init__(self):
            super().__init__()
            self.sockets = {}

        def reached(self, name):
            try:
                if self.sockets[name].type == socket.SOCK_DGRAM:
                    return bool(self.sockets[name].recv(9))
                self.sockets[name].accept()[0].close()
            except BlockingIOError:
                return False
            return True

    made = Unix()
    mark = uuid.uuid4().hex[:12]
    names = {
        "stream": f"{tmp_path}/stream",
        "abstract": f"@{mark}/abstract",
        "seqpacket": f"{tmp_path}/seqpacket",
    }
    names |= {"dgram": f"{tmp_path}/dgram", "abstract-dgram": f"@{mark}/dgram"}
    for name, path in names.items():
        kind = {"seqpacket": socket.SOCK_SEQPACKET}.get(
            name, socket.SOCK_DGRAM if "dgram" in name else socket.SOCK_STREAM
        )
        listener = made.sockets[name] = socket.socket(socket.AF_UNIX, kind)
        listener.bind(path.replace("@", "\0", 1))
        listener.setblocking(False)
        if kind != socket.SOCK_DGRAM:
            listener.listen()
        made[name] = path
    yield made
    for listener in made.sockets.values():
        listener.close()


UNIX_WAYS = {
    "stream": ("SOCK_STREAM", False), "abstract": ("SOCK_STREAM", False), "seqpacket": ("SOCK_SEQPACKET", False),
    "dgram": ("SOCK_DGRAM", False), "abstract-dgram": ("SOCK_DGRAM", True),
}  # fmt: skip


def try_unix(audit, network, unix):
    plan = {name: (kind, unix[name], send) for name, (kind, send) in UNIX_WAYS.items()}
    plan["send"] = ("SOCK_DGRAM", unix["dgram"], True)
    audited = audit(profile(network), [*PYTHON, "-c", UNIX, json.dumps(plan)])
    assert audited.exit_code == 0, audited.stderr
    return json.loads(audited.stdout), audited


def test_unix_sockets_are_seen(audit, require, unix):
    require("connect_unix", "sendmsg_unix")
    ended, audited = try_unix(audit, 'default = "allow"', unix)
    assert set(ended.values()) == {"ok"}
    assert all(unix.reached(name) for name in unix)
    seen = [(event.protocol, event.dst) for event in audited.of("connect", family="unix", phase="attempt")]
    kinds = {"SOCK_STREAM": "stream", "SOCK_DGRAM": "dgram", "SOCK_SEQPACKET": "seqpacket"}
    assert seen == [
        *((kinds[kind], unix[name]) for name, (kind, _) in UNIX_WAYS.items()),
        ("dgram", unix["dgram"]),
    ]


def test_unix_sockets_are_denied(audit, require, unix, tmp_path):
    require("connect_unix", "sendmsg_unix")
    mark = unix["abstract"].partition("/")[0]
    network = f'default = "allow"\ndeny = ["unix:{tmp_path}/*", "unix:{mark}/*"]\nallow = ["unix:{unix["seqpacket"]}"]'
    ended, audited = try_unix(audit, network, unix)
    assert ended == {**dict.fromkeys(ended, "EPERM"), "seqpacket": "ok"}
    assert [name for name in unix if unix.reached(name)] == ["seqpacket"]
    assert len(audited.of("connect", decision="deny")) == 5 == len(audited.verdicts)


def test_an_exact_unix_entry_is_exact(audit, require, unix):
    require("connect_unix")
    exact = unix["stream"]
    ended, _ = try_unix(audit, f'default = "allow"\ndeny = ["unix:{exact[:-1]}", "unix:{exact}x"]', unix)
    assert ended["stream"] == "ok"
    ended, _ = try_unix(audit, f'default = "allow"\ndeny = ["unix:{exact}"]', unix)
    assert ended["stream"] == "EPERM"


def test_a_failed_unix_connect_says_why(audit, tmp_path):
    code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(tmp_path / 'none')!r})"
    audited = audit(NO_POLICY, [*PYTHON, "-c", code])
    assert audited.exit_code == 1
    (event,) = audited.of("connect", phase="done")
    assert (event.dst, event.result) == (str(tmp_path / "none"), "ENOENT")


def test_23_connects_are_23_events(audit):
    code = "import socket\nfor port in range(7001, 7024): socket.socket().connect_ex(('127.0.0.1', port))"
    audited = audit(NO_POLICY, [*PYTHON, "-c", code])
    for phase in ("attempt", "done"):
        assert [event.port for event in audited.of("connect", phase=phase)] == list(range(7001, 7024))
    assert audited.result["connections"]["attempted"] == 23


WAIT = "import sys, socket; print('ready', flush=True); sys.stdin.read(1)\n"


def test_episodes_are_judged_each_by_its_own_profile(auditor):
    outside = {address: Outside(address, ["tcp"]) for address in ("127.0.0.21", "127.0.0.22")}
    addresses = list(outside)
    code = WAIT + "".join(
        f"print(socket.socket().connect_ex(({address!r}, {outside[address].ports['tcp']})))\n"
        for address in addresses
    )
    runs = [
        auditor.start(
            profile(f'default = "allow"\ndeny = ["{address}"]'), [*PYTHON, "-c", code], stdin=subprocess.PIPE
        )
        for address in addresses
    ]  # fmt: skip
    for run in runs:
        assert run.process.stdout.readline() == b"ready\n"
    first, second = (run.wait(b"x") for run in runs)
    assert first.stdout == b"1\n0\n"
    assert second.stdout == b"0\n1\n"
    for mine in (first, second):
        assert len(mine.of("connect", phase="attempt")) == 2, "nothing of the other's"
        assert len(mine.verdicts) == 1
    for listener in outside.values():
        assert listener.reached("tcp")
        assert not listener.reached("tcp"), "one of the two came through"
        listener.close()


def test_before_means_before_while_the_auditor_stands_still(auditor, tmp_path):
    outside = Outside("127.0.0.23", ["tcp"])
    port = outside.ports["tcp"]
    code = f"{WAIT}open({str(tmp_path / 'answer')!r}, 'w').write(str(socket.socket().connect_ex(('127.0.0.23', {port}))))"
    run = auditor.start(profile('default = "deny"'), [*PYTHON, "-c", code], stdin=subprocess.PIPE)
    assert run.process.stdout.readline() == b"ready\n"
    os.kill(run.process.pid, signal.SIGSTOP)
    try:
        until(
            lambda: "T" in Path(f"/proc/{run.process.pid}/stat").read_text().rpartition(")")[2][:3],
            "it stands still",
        )
        run.process.stdin.write(b"x")
        run.process.stdin.flush()
        answer = until(
            lambda: (tmp_path / "answer").exists() and (tmp_path / "answer").read_text(), "it tried"
        )
    finally:
        os.kill(run.process.pid, signal.SIGCONT)
    audited = run.wait()
    assert answer == "1"
    assert not outside.reached("tcp")
    assert len(audited.of("connect", decision="deny")) == 1
    assert audited.result["complete"] is True
    outside.close()


def test_others_on_the_host_are_neither_judged_nor_recorded(auditor):
    with Outside("127.0.0.24", ["tcp"])._sockets["tcp"] as listener:
        run = auditor.start(profile('default = "deny"'), [*PYTHON, "-c", WAIT], stdin=subprocess.PIPE)
        assert run.process.stdout.readline() == b"ready\n"
        with socket.socket() as bystander:
            assert bystander.connect_ex(listener.getsockname()) == 0
        audited = run.wait(b"x")
    assert audited.of("connect") == []
