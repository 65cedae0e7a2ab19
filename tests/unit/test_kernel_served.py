"""What of a profile a kernel cannot serve is said by name, and nothing else is."""

from __future__ import annotations

from ebpfaudit.kernel.plan import lacking_gaps
from ebpfaudit.kernel.served import unserved
from ebpfaudit.kernel.support import Check, Support
from ebpfaudit.profiles.load import known_profiles, load_profile, parse_profile

NAMES = (
    "connect4", "connect_unix", "system call tracepoints", "system call registers", "cgroup device", "cgroup v2",
    "signal from exec",
)  # fmt: skip

PROFILE = parse_profile(
    """
name = "all"
description = "Needs everything."
[network]
default = "deny"
allow = ["10.0.0.0/8"]
deny = ["unix:/run/bus"]
kill = ["unix:/run/docker.sock"]
[gpu]
default = "deny"
[exec]
deny = ["/usr/bin/ssh"]
[[rule]]
id = "failures"
on = "exec"
when = { error = "ENOENT" }
action = "log"
[[rule]]
id = "shell"
on = "exec"
when = { stdio = "any" }
action = "alert"
[[rule]]
id = "gone"
on = "cgroup-move"
when = { inside = false }
action = "alert"
[[rule]]
id = "both"
within = "1m"
action = "alert"
all = [{ on = "connect", when = { port = 22 } }, { on = "gpu", when = { event = "context" } }]
""",
    "test",
)


def kernel(*missing, unknown=False):
    checks = [
        Check(name, name not in missing, "too old" if name in missing else "", unknown=unknown)
        for name in NAMES
    ]
    return Support("6.18", "x86_64", tuple(checks))


def test_a_kernel_with_everything_serves_every_shipped_profile():
    for name in known_profiles():
        assert unserved(load_profile(name), kernel(), ()) == []
    assert unserved(PROFILE, kernel(), ()) == []


def test_what_needs_a_missing_hook_is_named_in_one_line():
    assert unserved(PROFILE, kernel("connect4"), ()) == [
        "[network], rule both, its part on connect: no destination is seen or judged (too old)"
    ]
    assert unserved(PROFILE, kernel("system call registers"), ()) == [
        "rule failures, rule both, its part on gpu: failed execs and GPU driver calls cannot be read (too old)"
    ]
    (line,) = unserved(PROFILE, kernel("connect_unix"), ())
    assert "[network] kill of Unix sockets" in line
    assert "[network] deny of Unix sockets" in line
    (line,) = unserved(PROFILE, kernel("cgroup v2"), ())
    assert line.startswith("rule gone: ")
    (line,) = unserved(PROFILE, kernel("signal from exec"), ())
    assert line.startswith("[exec] deny: ")
    (line,) = unserved(PROFILE, kernel("cgroup device"), ())
    assert line.startswith("[gpu]: ")


def test_a_missing_kernel_field_is_named():
    (line,) = unserved(PROFILE, kernel(), ("socket.sk", "unix_sock.addr"))
    assert line == "rule shell: sockets on a program's standard descriptors are not seen (no socket.sk)"
    assert len(lacking_gaps(("socket.sk",))) == 1
    assert lacking_gaps(("unix_sock.addr",)) == []


def test_without_the_right_to_try_it_says_so_once():
    assert unserved(PROFILE, kernel(*NAMES, unknown=True), ()) == [
        "what this kernel serves of the profile was not tried: needs root"
    ]
