"""What a process really runs, and its options, by its arguments."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfaudit.policy.globs import glob_regex
from ebpfaudit.policy.options import Options, compile_options
from ebpfaudit.policy.programs import is_linker, programs_of, runs_inline_code
from ebpfaudit.process import Process

LINKER = "/lib64/ld-linux-x86-64.so.2"


def process(exe, *argv, script="", cwd="/w"):
    made = Process(1, 1)
    made.exe, made.argv, made.script, made.cwd = exe, argv, script, cwd
    return made


@pytest.mark.parametrize(
    ("running", "also"),
    [
        (process("/bin/cat", "cat", "x.py"), ()),
        (process("/usr/bin/python3.11", "python3", "-u", "-W", "ignore", "a/../x.py", "-c"), ("/w/x.py",)),
        (process("/usr/bin/python3", "python3", "-Wignore", "/opt/x.py"), ("/opt/x.py",)),
        (process("/usr/bin/python3", "python3", "-m", "http.server"), ()),
        (process("/usr/bin/python3", "python3", "-Ic", "print()", "x.py"), ()),
        (process("/usr/bin/python3", "python3", "-"), ()),
        (process("/usr/bin/python3", "python3", "--", "x.py"), ("/w/x.py",)),
        (process("/usr/bin/python3", "python3", "x.py", cwd=""), ("x.py",)),
        (process("/bin/bash", "bash", "-o", "pipefail", "--rcfile", "/r", "s.sh"), ("/w/s.sh",)),
        (process("/bin/dash", "/bin/sh", "/w/s.sh", script="/w/s.sh"), ("/w/s.sh",)),
        (process("/usr/bin/perl", "perl", "-w", "-I", "lib", "p.pl"), ("/w/p.pl",)),
        (process("/usr/bin/node", "node", "--require", "x", "--inspect=1", "app.js"), ("/w/app.js",)),
        (process("/usr/bin/php8.2", "php", "-d", "a=b", "-f", "x.php"), ("/w/x.php",)),
        (process("/bin/busybox", "sh", "s.sh"), ("/w/s.sh",)),
        (process("/bin/busybox", "busybox", "sh", "s.sh"), ("/w/s.sh",)),
        (process(LINKER, "ld.so", "./miner", "--x"), ("/w/miner",)),
        (process(LINKER, "ld.so", "--library-path", "/a:/b", "--argv0", "sshd", "/tmp/x"), ("/tmp/x",)),
        (process(LINKER, "ld.so", "--library-path", "/a:/b", "x"), ("/w/x", "/a/x", "/b/x")),
        (process(LINKER, "ld.so", "/usr/bin/python3", "x.py"), ("/usr/bin/python3", "/w/x.py")),
        (process(LINKER, "ld.so", LINKER, "./x"), (LINKER, "/w/x")),
        (process("/lib/ld-musl-x86_64.so.1", "ld", "--preload=/l.so", "--", "x"), ("/w/x",)),
        (process(LINKER, "ld.so", "--list"), ()),
    ],
)  # fmt: skip
def test_programs(running, also):
    assert programs_of(running) == tuple(dict.fromkeys((running.exe, *also)))


@pytest.mark.parametrize(
    ("exe", "argv", "inline"),
    [
        ("/bin/bash", ("bash", "-xec", "id"), True), ("/bin/bash", ("bash", "x.sh", "-c"), False),
        ("/usr/bin/perl", ("perl", "-lane", "print"), True), ("/usr/bin/ruby", ("ruby", "-rsocket", "-e", "x"), True),
        ("/usr/bin/node", ("node", "--eval=1"), True), ("/usr/bin/php", ("php", "-r", "x"), True),
        ("/usr/bin/lua5.4", ("lua", "-e", "x"), True), ("/usr/bin/python3", ("p", "-X", "c", "x.py"), False),
        (LINKER, ("ld.so", "/bin/sh", "-c", "id"), True), ("/bin/ls", ("ls", "-c"), False),
    ],
)  # fmt: skip
def test_inline_code(exe, argv, inline):
    assert runs_inline_code(process(exe, *argv)) is inline


def test_linkers():
    names = ("ld.so", "ld-2.31.so", "ld-linux-aarch64.so.1", "ld-musl-x86_64.so.1", "ld-linux.so.2")
    assert all(is_linker(f"/lib/{name}") for name in names)
    assert not any(is_linker(f"/bin/{name}") for name in ("ld", "ld.gold", "old.so", "ls"))


@pytest.mark.parametrize(
    ("value", "argv", "shown"),
    [
        ("-R", ("ssh", "-R", "1:a:2"), "-R 1:a:2"),
        ("-R", ("ssh", "-NfR"), "-NfR"),
        ("-R [0-9]*", ("ssh", "-R9000:a:1"), "-R9000:a:1"),
        ("-R [0-9]*", ("ssh", "-NfR", "9000:a:1"), "-NfR 9000:a:1"),
        ("-R [0-9]*", ("ssh", "-vvv", "-NfR9000:a:1"), "-NfR9000:a:1"),
        ("-R [0-9]*", ("ssh", "-R", "relay"), None),
        ("-R [0-9]*", ("ssh", "--", "-R9000"), None),
        ("-R", ("-R",), None),
        ("-R", ("ssh", "host", "-R"), "-R"),
        ("-o RemoteForward*", ("ssh", "-oRemoteForward=1 a:2"), "-oRemoteForward=1 a:2"),
        ("-o RemoteForward*", ("ssh", "-o", "RemoteForward 1"), "-o RemoteForward 1"),
        ("--algo rx/*", ("x", "--algo=rx/0"), "--algo=rx/0"),
        ("--algo rx/*", ("x", "--algo", "rx/0"), "--algo rx/0"),
        ("--algo rx/*", ("x", "--algorithm=rx/0"), None),
        ("--nicehash", ("x", "--nicehash=1"), "--nicehash=1"),
        ("-pool *", ("x", "-pool", "a:1"), "-pool a:1"),
        ("-pool *", ("x", "-pool=a:1"), "-pool=a:1"),
        ("-p 22", ("x", "--p22"), None),
        ("-x a b", ("x", "-x", "a b"), "-x a b"),
    ],
)  # fmt: skip
def test_options(value, argv, shown):
    met = compile_options((value,))(Options(argv, " ".join(argv)))

    assert met == (None if shown is None else (value, shown))


@pytest.mark.parametrize(
    "argv",
    [("x", *["-a" * 3] * 30_000), ("x", "-" + "R" * 65_536), ("x", "-" * 65_536), ("x", *["-R"] * 30_000)],
)
def test_options_of_a_hostile_command_line_take_linear_time(argv):
    match = compile_options(("-R [0-9]*", "-L x*", "--algo rx*", "-o Remote*"))
    began = time.process_time()

    assert match(Options(argv, " ".join(argv))) is None
    assert time.process_time() - began < 1


EXES = ("/bin/sh", "/usr/bin/python3", LINKER, "/usr/bin/node", "/usr/bin/php", "/bin/busybox", "")
WORDS = ("-", "--", "-c", "-o", "x", "/a//b", "", "-W", "--library-path", "sh", "--eval", LINKER)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(EXES),
    st.lists(st.sampled_from(WORDS) | st.text(), max_size=6),
    st.text(max_size=3),
)
def test_no_command_line_raises(exe, argv, cwd):
    running = process(exe, *argv, cwd=cwd)

    assert set(programs_of(running)) >= ({exe} - {""})
    assert runs_inline_code(running) in (True, False)


LETTERS = st.lists(
    st.sampled_from(["-R", "-R=x", "-NfR", "-aRbR", "-fR9", "--", "--R=1", "-", "-n", "x", "9:a", "--name", "--name=9:", "-R\n"])
    | st.text("-Ran=9:", max_size=5),
    max_size=6,
)  # fmt: skip


def readings(name, argv):
    """The definition, word by word: (place, value) for every way to read an option."""
    for place, word in enumerate(argv):
        if place == 0 or not word.startswith("-"):
            continue
        if word == "--":
            return
        following = argv[place + 1] if place + 1 < len(argv) else None
        head, equals, value = word.partition("=")
        if head == name:
            yield place, value if equals else following
        if len(name) == 2 and not word.startswith("--"):
            for at in range(1, len(word)):
                if word[at] == name[1] and (at == 1 or word[1:at].isalnum()):
                    yield place, word[at + 1 :] or following


@settings(deadline=None, max_examples=500)
@given(
    LETTERS,
    st.sampled_from(["-R", "-a", "--name", "-n"]),
    st.sampled_from(["", " *", " 9*", " *:*", " ?", " x"]),
    st.booleans(),
)
def test_first_option_is_the_first_that_any_reading_meets(argv, name, glob, many):
    argv = ("x", *["-z", "y"] * (40 * many), *argv)
    met = compile_options((name + glob,))(Options(argv, " ".join(argv)))

    pattern = glob.strip()
    match = re.compile(glob_regex(pattern), re.DOTALL).fullmatch
    hits = [
        place
        for place, value in readings(name, argv)
        if not pattern or (value is not None and match(value) is not None)
    ]
    assert (met is not None) == bool(hits)
    if met is not None:
        assert met[0] == name + glob
        assert met[1].startswith(argv[hits[0]])
