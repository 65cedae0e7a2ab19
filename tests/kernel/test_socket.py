"""What the connect hooks could not judge is refused: other protocols, detours, names with zeros in them."""

from __future__ import annotations

import json
import socket

import pytest
from audited import PYTHON, profile

pytestmark = pytest.mark.kernel

ACTS = """
import json, socket, struct
said = {}
def act(name, do):
    try:
        do()
        said[name] = "ok"
    except OSError as error:
        said[name] = error.errno
detour = struct.pack("BBBBBBH", 0, 2, 4, 0, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, "fd77::2")
act("udplite", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136))
act("udplite6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, 136))
act("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
act("tcp", lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
act("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
act("unix", lambda: socket.socketpair())
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
    act("routing header", lambda: udp.setsockopt(socket.IPPROTO_IPV6, 57, detour))
    act("bind to device", lambda: udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo"))
    act("v6only", lambda: udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1))
print(json.dumps(said))
"""
EPERM = 1


def acts(audit, policy, *options):
    audited = audit(policy, [*PYTHON, "-c", ACTS], *options)
    assert audited.exit_code == 0, audited.stderr
    return json.loads(audited.stdout), audited


def test_where_the_section_denies_by_default_all_of_it_is_refused(audit):
    said, audited = acts(audit, profile('default = "deny"\nallow = ["loopback", "unix:*"]'))
    refused = {name for name, answer in said.items() if answer == EPERM}
    assert refused == {"udplite", "udplite6", "raw", "routing header", "bind to device"}
    assert {said[name] for name in ("tcp", "udp", "unix", "v6only")} == {"ok"}
    denied = audited.of("connect")
    assert [event.protocol for event in denied if event.result == "denied"] == [
        "udplite", "udplite", "raw", "routing-header", "bound-device",
    ]  # fmt: skip
    assert [(verdict.action, verdict.because) for verdict in audited.verdicts] == [("deny", "protocol")] * 5


def test_where_it_allows_by_default_only_what_could_slip_past_its_entries(audit):
    said, _ = acts(audit, profile('default = "allow"\nkill = ["metadata"]'))
    refused = {name for name, answer in said.items() if answer == EPERM}
    assert refused == {"udplite", "udplite6", "routing header"}


@pytest.mark.parametrize("options", [("--enforce", "on"), ("--enforce", "off")])
def test_without_a_section_or_without_enforcement_nothing_is(audit, options):
    policy = profile() if options[1] == "on" else profile('default = "deny"')
    said, _ = acts(audit, policy, *options)
    assert EPERM not in said.values()


NAMES = """
import json, socket
said = []
for name in (b"\\0good", b"\\0good\\0evil", b"\\0goodness"):
    try:
        socket.socket(socket.AF_UNIX).connect(name)
    except OSError as error:
        said.append(error.errno)
print(json.dumps(said))
"""


def test_an_abstract_name_is_not_an_allowed_one_with_more_behind_a_zero(audit):
    audited = audit(
        profile('default = "allow"\nallow = ["unix:@good"]\ndeny = ["unix:*"]'), [*PYTHON, "-c", NAMES]
    )
    nobody_listens = 111
    assert json.loads(audited.stdout) == [nobody_listens, EPERM, EPERM]
    attempts = [event for event in audited.of("connect") if event.phase == "attempt"]
    assert [(event.dst, event.decision) for event in attempts] == [
        ("@good", "allow"), ("@good\\x00evil", "deny"), ("@goodness", "deny"),
    ]  # fmt: skip
    assert [verdict.action for verdict in audited.verdicts] == ["deny", "deny"]


LINKED = """
import socket, sys
for name in sys.argv[1:]:
    socket.socket(socket.AF_UNIX).connect(name)
    print("connected to", name, flush=True)
"""


@pytest.mark.parametrize("spelling", ["link", "dots"])
def test_a_forbidden_socket_is_known_by_its_own_name_too(audit, tmp_path_factory, spelling):
    folder = tmp_path_factory.mktemp("s")
    with socket.socket(socket.AF_UNIX) as forbidden, socket.socket(socket.AF_UNIX) as innocent:
        for server, name in ((forbidden, "forbidden"), (innocent, "innocent")):
            server.bind(str(folder / name))
            server.listen()
        (folder / "link").symlink_to(folder / "forbidden")
        other = str(folder / "link") if spelling == "link" else f"{folder}/./forbidden"
        policy = profile(f'default = "allow"\nkill = ["unix:{folder}/forbidden"]')
        audited = audit(policy, [*PYTHON, "-c", LINKED, str(folder / "innocent"), other])
    assert audited.exit_code == 120, audited.stderr
    assert audited.stdout == f"connected to {folder / 'innocent'}\n".encode(), (
        "no instruction after the connect"
    )
    kills = [event for event in audited.of("connect") if event.decision == "kill"]
    assert [event.dst for event in kills] == [str(folder / "forbidden")]
    assert [verdict.action for verdict in audited.verdicts] == ["kill"]
