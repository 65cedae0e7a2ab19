"""A program that talks to a socket by its standard descriptors is told with the peer's address: a reverse shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from audited import NO_POLICY, PYTHON

from ebpfaudit.kernel.btf import Btf
from ebpfaudit.kernel.compile import Compiler
from ebpfaudit.kernel.loader import load
from ebpfaudit.kernel.plan import lacking_gaps
from ebpfaudit.mounts import cgroup2_mount

pytestmark = pytest.mark.kernel

PROGRAM = Path(__file__).parent / "programs" / "stdio.py"
HOST4, HOST6, PORT = "203.0.113.7", "2001:db8::7", 4444


@pytest.fixture(scope="module")
def told(module_auditor):
    """(record, what the workload says of itself) of one run of programs/stdio.py, in a network of its own."""
    audited = module_auditor.run(NO_POLICY, [*PYTHON, str(PROGRAM)], "--user", "root")
    assert audited.exit_code == 0, audited.stderr
    assert audited.result["complete"] is True
    return audited, json.loads(audited.stdout)


@pytest.fixture
def stdio(told):
    """`stdio(marker)`: peer of the only program with this argument."""

    def find(marker):
        (event,) = [event for event in told[0].execs(marker) if not event.error]
        return event.stdio, event.stdio_port

    return find


@pytest.mark.parametrize(
    ("marker", "peer"),
    [
        ("reverse-shell", (HOST4, PORT)),
        ("typed-by-the-attacker", (HOST4, PORT)),
        ("-s", (HOST4, PORT)),
        ("ipv6", (HOST6, PORT)),
        ("mapped", (HOST4, PORT)),
        ("stderr-only", (HOST4, PORT)),
        ("udp", (HOST4, 53)),
    ],
)
def test_a_socket_to_another_host_is_told(told, marker, peer):
    events = [event for event in told[0].execs(marker) if not event.error]
    assert events
    assert {(event.stdio, event.stdio_port) for event in events} == {peer}


def test_loopback_is_told_as_such(told, stdio):
    assert stdio("loopback") == ("127.0.0.1", told[1]["local-port"])


def test_a_shell_on_an_accepted_connection_is_told(told, stdio):
    assert stdio("bind-shell") == ("127.0.0.1", told[1]["client-port"])


@pytest.mark.parametrize("marker", ["behind-loopback", "behind-unconnected"])
def test_a_harmless_socket_does_not_hide_another(stdio, marker):
    assert stdio(marker) == (HOST4, PORT)


def test_an_unconnected_socket_has_no_peer(stdio):
    assert stdio("unconnected") == ("0.0.0.0", 0)
    assert stdio("unconnected-ipv6") == ("::", 0)


@pytest.mark.parametrize("marker", ["closed-on-exec", "elsewhere", "pipes", "socketpair", "terminal"])
def test_other_descriptors_are_none(stdio, marker):
    assert stdio(marker) == ("", 0)


def test_pipes_made_by_node_are_none(told, stdio):
    if "node" not in told[1]:
        pytest.skip("no node here")
    assert stdio("node") == ("", 0)


def test_a_kernel_without_the_fields_does_without_and_says_so(kernel, tmp_path, monkeypatch):
    real = Btf.offset

    def offset(self, path):
        if path == "socket.sk":
            raise KeyError(path)
        return real(self, path)

    monkeypatch.setattr(Btf, "offset", offset)
    compiler = Compiler.start(ring_bytes=1 << 16, cache=tmp_path)
    try:
        probes = load(compiler, cgroup2_mount())
        probes.close()
    finally:
        compiler.stop()
    assert "socket.sk" in probes.lacks
    assert "stdin, stdout or stderr" in lacking_gaps(probes.lacks)[0]
    kept = Compiler.start(ring_bytes=1 << 16, cache=tmp_path)
    assert "socket.sk" in kept.image().lacks, "a kept image remembers it"
    kept.stop()
