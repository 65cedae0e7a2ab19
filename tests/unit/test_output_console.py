import io
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfaudit.events import Connect, EpisodeStart, Exec, Exit, Fork, Gpu, GpuCount, Lost
from ebpfaudit.output.clock import WallClock
from ebpfaudit.output.console import Console
from ebpfaudit.output.describe import byte_size, describe, destination
from ebpfaudit.output.terminal import cells, cut, fit, printable, wants_colour
from ebpfaudit.text import show
from ebpfaudit.verdicts import Enforcement, Verdict


@pytest.fixture(autouse=True, scope="module")
def _in_utc():
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(*argv, pid=41, **more):
    return Exec(10**9, pid, 7, 1, f"/usr/bin/{argv[0]}", argv, "/work", argv[0], 1000, **more)


def lines_of(*items, stream=None, episode="ep-1", **options):
    stream = stream or io.StringIO()
    console = Console(stream, WallClock(0), **options)
    about = None
    for seq, item in enumerate(items):
        console.write(episode, seq, item, about)
        about = item
    console.flush()
    return stream.getvalue().splitlines()


def test_a_line_says_when_where_who_and_what():
    (line,) = lines_of(run("git", "status", "-s"))
    assert line.split() == ["00:00:01", "ep-1", "41", "git", "exec", "git", "status", "-s"]


@pytest.mark.parametrize(
    ("item", "what"),
    [
        (run("gti", error="ENOENT"), "ENOENT gti"),
        (run("x", memfd=True), "memfd x"),
        (Exec(1, 2, 3, 1, "/tmp/miner", ("sshd", "-o", "a b"), "/", "sshd", 0), "(/tmp/miner) sshd -o 'a b'"),
        (run("x", argv_truncated=True), "x [...]"),
        (run("nsenter", decision="kill"), "KILLED nsenter"),
        (Connect(1, 2, 3, "c", "ipv4", "tcp", "198.51.100.7", 22), "tcp 198.51.100.7:22"),
        (
            Connect(1, 2, 3, "c", "ipv6", "tcp", "2001:db8::1", 443, "done", "refused"),
            "tcp [2001:db8::1]:443 -> refused",
        ),
        (
            Connect(1, 2, 3, "c", "unix", "stream", "/run/docker.sock", decision="deny"),
            "DENIED unix /run/docker.sock",
        ),
        (
            Gpu(1, 2, 3, "c", "alloc", "nvidia:0", "UVM_ALLOC", bytes=3 << 30),
            "alloc nvidia:0 UVM_ALLOC 3.0 GiB",
        ),
        (Gpu(1, 2, 3, "c", "open", "nvidia:0", decision="deny"), "DENIED open nvidia:0"),
        (GpuCount(1, 2, 3, "submit", "nvidia:0", 1204), "submit nvidia:0 x1,204"),
        (Fork(1, 2, 3, 99, 3), "-> 99"),
        (Exit(1, 2, 3, 0, 9), "signal 9"),
        (Lost(1, 444), "444 records lost: ring buffer full"),
        (
            Verdict(5, "kill", "tunnel", "argv", "-NR", "-*R*", severity="critical", technique="T1572"),
            'tunnel: argv "-NR" met "-*R*" (T1572, critical)',
        ),
        (
            Enforcement(
                5, "kill", "tree", "tunnel", "killed", "cgroup.kill", 4, 3, (), 10**9, 1_000_060_000,
                1_000_310_000, 1_002_100_000,
            ),
            "killed tree of 4: 3 processes by cgroup.kill (decided 0.06 ms, killed 0.31 ms, gone 2.10 ms)",
        ),
        (
            Enforcement(5, "kill", "tree", "tunnel", "partial", "pidfd", 4, 1, (77, 78)),
            "partial tree of 4: 1 process by pidfd; SURVIVORS 77, 78",
        ),
        (Enforcement(5, "kill", "tree", "tunnel", "not-enforced"), "not-enforced kill for tunnel"),
    ],
)  # fmt: skip
def test_what_happened_in_words(item, what):
    assert describe(item).what == what


def test_an_ordinary_wrapper_is_not_called_a_disguise():
    script = Exec(1, 2, 3, 1, "/usr/bin/python3.11", ("python3", "/w/a.py"), "/", "a.py", 0, script=True)
    assert describe(script).what == "python3 /w/a.py"
    versioned = Exec(1, 2, 3, 1, "/usr/bin/python3.11", ("python3", "a.py"), "/", "python3", 0)
    assert describe(versioned).what == "python3 a.py"
    login = Exec(1, 2, 3, 1, "/bin/bash", ("-bash",), "/", "bash", 0)
    assert describe(login).what == "-bash"


def test_every_line_fits_and_says_that_it_was_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    items = [run("cc", "x" * 500), run("cc", "\u6f22" * 300), EpisodeStart(1, "e" * 300, "p", 1, 1)]
    for stream, width in ((io.StringIO(), 80), (Terminal(), 100)):
        monkeypatch.setenv("NO_COLOR", "1")
        for line in lines_of(*items, stream=stream, episode="a-very-long-episode-name"):
            assert cells(line) <= width
            assert line.endswith("…")


def test_wide_lines_are_never_cut():
    (line,) = lines_of(run("cc", "x" * 500), wide=True)
    assert line.endswith("x" * 500)


def test_colour_only_where_a_person_looks_and_wants_it(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[31m" in lines_of(run("gti", error="ENOENT"), stream=Terminal())[0]
    assert "\x1b" not in lines_of(run("gti", error="ENOENT"))[0]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())


HOSTILE = [
    "\x1b[2J",
    "\x9b31m",
    "[red]x[/red]",
    "[/]",
    "\u202e",
    "\r\n",
    "\ud800",
    "\x07",
    "\u2028",
    "\u0301",
]


@given(
    st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=9)), min_size=1, max_size=5), st.booleans()
)
def test_a_forged_event_cannot_command_the_terminal(parts, wide):
    text = "".join(parts)
    items = [
        run("x", text),
        Exec(1, 2, 3, 1, text, (), text, text, 0),
        Connect(1, 2, 3, text, "unix", text, text),
        Gpu(1, 2, 3, text, text, text, text, text, 0, text),
        EpisodeStart(1, text, text, 1, 1, text, text),
        Verdict(0, "kill", text, text, text, text, message=text),
        Enforcement(0, "kill", "tree", text, text, text, error=text),
    ]
    lines = lines_of(*items, episode=text, wide=wide)
    assert len(lines) == len(items)
    for line in lines:
        assert line.isprintable()
        assert wide or cells(line) <= 80


def test_shown_text_is_not_escaped_twice():
    (line,) = lines_of(run("x", show(b"\x1b[2J\\")), wide=True)
    assert r"\x1b[2J\\" in line
    assert "\\\\x1b" not in line


def test_events_without_a_name_get_the_one_known_for_their_process():
    lines = lines_of(run("git", pid=41), Fork(1, 41, 7, 42, 8), Exit(1, 41, 7), Exit(1, 41, 9))
    assert [line.split()[3] for line in lines[:3]] == ["git", "git", "git"]
    assert "git" not in lines[3], "another life of the pid"


def test_a_verdict_takes_time_and_process_from_its_event():
    _, line = lines_of(run("ssh", pid=41), Verdict(0, "kill", "tunnel", "argv", "-R"))
    assert line.split()[:5] == ["00:00:01", "ep-1", "41", "ssh", "KILL"]


def test_widths_of_text():
    assert cells("a\u0301\u6f22") == 3
    assert cut("\u6f22\u6f22\u6f22", 5) == "\u6f22\u6f22…"
    assert cut("\u6f22\u6f22", 4) == "\u6f22\u6f22"
    assert fit("\u6f22\u6f22\u6f22", 4) == "\u6f22… "
    assert cut("abc", 0) == ""
    assert printable("a\x1b\u202e\ud800") == "a\\x1b\\xe2\\x80\\xae\\xed\\xa0\\x80"
    assert [byte_size(n) for n in (0, 1023, 1536, 200 << 20, 5 << 40)] == [
        "0 B", "1023 B", "1.5 KiB", "200 MiB", "5.0 TiB",
    ]  # fmt: skip
    assert destination(Connect(1, 2, 3, "c", "ipv4", "icmp", "192.0.2.1")) == "icmp 192.0.2.1"


def test_the_heading_is_for_terminals_only(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    for stream, expected in ((io.StringIO(), 0), (Terminal(), 1)):
        Console(stream, WallClock(0)).heading()
        assert stream.getvalue().count("TIME") == expected
