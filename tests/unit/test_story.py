"""Stories: lines to events, and events to lines that are judged alike."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfaudit import events as e
from ebpfaudit.profiles.load import load_profile, parse_profile
from ebpfaudit.stories.fixtures import evaluate
from ebpfaudit.stories.narration import story_of, tree_around
from ebpfaudit.stories.story import StoryError, parse_story
from ebpfaudit.stories.words import expand, quote, quote_always, split
from ebpfaudit.text import show


def told(text):
    """The events of a story but for its implicit start."""
    first, *events = parse_story(text).events
    assert isinstance(first, e.EpisodeStart)
    return events


def test_a_process_is_forked_when_it_is_first_named():
    fork, program, connect = told("ssh: exec /opt/ssh -N relay\nssh: connect 198.51.100.9:2222/tcp")
    assert (fork.pid, fork.child) == (100, program.pid)
    assert (program.exe, program.argv, program.ppid) == ("/opt/ssh", ("ssh", "-N", "relay"), 100)
    assert (program.cwd, program.uid, program.comm) == ("/work", 1000, "ssh")
    assert (connect.comm, connect.family, connect.protocol) == ("ssh", "ipv4", "tcp")
    assert (connect.dst, connect.port, connect.phase, connect.result) == ("198.51.100.9", 2222, "attempt", "")
    assert connect.process == program.process


def test_without_a_name_it_is_the_root():
    (program,) = told("exec ssh -N x")
    assert (program.pid, program.exe) == (100, "/usr/bin/ssh")


def test_a_parent_is_named_once():
    make, cc = [
        event
        for event in told("make: exec make\ncc<make: exec cc\ncc<make: exit")
        if isinstance(event, e.Fork)
    ]
    assert cc.pid == make.child
    with pytest.raises(StoryError, match="'cc' is there already, and 'root' is not its parent"):
        parse_story("make: exec make\ncc<make: exec cc\ncc<root: exit")


def test_times_advance_and_can_be_set():
    story = parse_story("step a\n+5s\nstep b\n+100ms step c\nstep d x3 every=2s")
    assert [event.ts_ns - story.events[0].ts_ns for event in story.events] == [
        0, 1_000_000, 5_002_000_000, 5_102_000_000, 5_103_000_000, 7_103_000_000, 9_103_000_000,
    ]  # fmt: skip
    assert story.lines == (1, 1, 3, 4, 5, 5, 5)


def test_ranges_repeat_a_line_equal_ones_together():
    dsts = [event.dst for event in told("connect 10.{0..1}.0.{1..3}:22")]
    assert dsts == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1", "10.1.0.2", "10.1.0.3"]
    workers = [
        event for event in told("w{1..3}: connect 10.0.0.{1..3}:22 x2") if isinstance(event, e.Connect)
    ]
    assert [event.dst for event in workers] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"] * 2
    assert len({event.pid for event in workers}) == 3
    assert [event.port for event in told("connect 10.0.0.1:{008..010}")] == [8, 9, 10]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("connect 10.0.0.5:22 refused", {"phase": "done", "result": "refused", "protocol": "tcp"}),
        ("connect 10.0.0.5:22 result=denied decision=deny", {"phase": "attempt", "result": "denied", "decision": "deny"}),
        ("connect [::ffff:169.254.169.254]:80", {"family": "ipv4", "dst": "169.254.169.254", "port": 80}),
        ("connect [fd00::5]:53/udp", {"family": "ipv6", "dst": "fd00::5", "protocol": "udp"}),
        ("connect fd00::5/icmp6", {"dst": "fd00::5", "port": 0, "protocol": "icmp6"}),
        ("connect unix:/run/docker.sock", {"family": "unix", "dst": "/run/docker.sock", "protocol": "stream"}),
        ("connect 'unix:/run/a b' type=dgram", {"dst": "/run/a b", "protocol": "dgram"}),
        ("exec memfd:x a", {"exe": "memfd:x", "memfd": True, "deleted": True, "argv": ("x", "a"), "comm": "x"}),
        ("exec /bin/x memfd", {"exe": "memfd:x", "memfd": True}),
        ("exec /bin/x deleted", {"memfd": False, "deleted": True}),
        ("exec /bin/x 'deleted'", {"deleted": False, "argv": ("x", "deleted")}),
        ("exec env A=b C=d uid=0", {"argv": ("env", "A=b", "C=d"), "uid": 0}),
        ("exec python3 a.py script=./a.py", {"script": True, "filename": "./a.py", "comm": "a.py"}),
        ("exec bash -i stdio=[fd00::1]:4444", {"stdio": "fd00::1", "stdio_port": 4444}),
        ("exec bash truncated=40000", {"argv_truncated": True, "argv_bytes": 40000}),
        ("exec /opt/x argv0=sshd cwd='/a b'", {"argv": ("sshd",), "cwd": "/a b"}),
        ("exec /bin/git error=ENOENT", {"error": "ENOENT", "argv": (), "exe": "/bin/git", "cwd": ""}),
        ("exec bash -c 'echo \"\\x1b\" # no comment' # a comment", {"argv": ("bash", "-c", 'echo "\\\\x1b" # no comment')}),
        ("exec x $'\\x1b[2J'", {"argv": ("x", "\\x1b[2J")}),
        ("gpu context nvidia:0 bytes=3GiB uuid=GPU-1", {"event": "context", "bytes": 3 << 30, "uuid": "GPU-1"}),
        ("exit 3 signal=9", {"code": 3, "signal": 9}),
        ("move /elsewhere inside", {"path": "/elsewhere", "inside": True, "by_pid": 100}),
        ("identity /opt/x same-as=/usr/bin/ssh,/bin/ssh", {"path": "/opt/x", "same_as": ("/usr/bin/ssh", "/bin/ssh")}),
        ("step 'two words'", {"step": "two words"}),
        ("lost 5", {"count": 5, "what": "ring buffer full"}),
        ("end killed by policy code=9", {"reason": "killed by policy", "code": 9}),
    ],
)  # fmt: skip
def test_lines(line, expected):
    (event,) = told(line)
    assert {key: getattr(event, key) for key in expected} == expected


def test_fork_and_seen():
    events = told("bomb: exec bomb\nbomb: fork x3\nbomb: fork w pid=500\nw: exit")
    assert [type(event).__name__ for event in events] == [
        "Fork",
        "Exec",
        "Fork",
        "Fork",
        "Fork",
        "Fork",
        "Exit",
    ]
    assert events[-1].pid == 500
    daemon, worker = told("daemon<?: seen /usr/bin/daemon -f\nworker<daemon: seen daemon")
    assert (daemon.ppid, daemon.argv, worker.ppid) == (1, ("daemon", "-f"), daemon.pid)
    (stranger,) = told("x<?: exec ls")
    assert isinstance(stranger, e.Exec)


def test_start_says_how_the_episode_began():
    first, *_ = parse_story("# a comment\n\nstart source=environment step=build pid=7\nexec ls").events
    assert (first.source, first.step, first.pid) == ("environment", "build", 7)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("conect 1.2.3.4:5", "'conect' is no kind of event; did you mean 'connect'?"),
        ("connect 1.2.3.4", "'1.2.3.4' has no port: write 1.2.3.4:443/tcp"),
        ("connect example.org:80", "'example.org' is not an address"),
        ("connect 10.0.0.1:70000", "'70000' is no port"),
        ("connect 10.0.0.1:22 refussed", "did you mean 'refused'?"),
        ("connect 10.0.0.1:22 rsult=denied", "'connect' has no key 'rsult'; did you mean 'result'?"),
        ("connect 10.0.0.1:22/tpc", "'tpc' is no protocol; did you mean 'tcp'?"),
        ("connect 10.0.0.1:22 ok then", "connect: 'then' is too much"),
        ("exec", "exec needs a program"),
        ("exec 'abc", "a quote is not closed"),
        ("ssh:", "what does 'ssh' do?"),
        ("y<z: exec a", "there is no process 'z' yet"),
        ("x: step a", "'step' is of no process: leave out 'x:'"),
        ("gpu contxt nvidia:0", "did you mean 'context'?"),
        ("+5 exec ls", "'+5' is no time"),
        ("connect 10.0.0.{9..1}:22", "counts down; write {1..9}"),
        ("connect 10.{0..255}.{0..99}.{0..9}:22", "at most"),
        ("exec ls x200000", "repeated 1 to"),
        ("exit nine", "'nine' is no exit code"),
        ("lost many", "'many' is no number"),
        ("exec ls uid=me", "uid: 'me' is no number"),
        ("exec ls memfd=maybe", "write 'memfd' or 'memfd=false'"),
        ("identity /x sha256=abc", "64 digits"),
        ("step a\nstart", "'start' comes first"),
        ("start source=launch", "did you mean 'launched'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(line, problem):
    with pytest.raises(StoryError) as raised:
        parse_story(f"\n{line}", "x.toml", 10)
    assert raised.value.problems[0].startswith(f"x.toml:{11 + line.count(chr(10))}: ")
    assert problem in str(raised.value)


def test_a_comment_repeats_nothing():
    assert len(told("a: exit 1 # {1..5} x3")) == len(told("a: exit 1"))
    assert len(told("a: exec sh '#{1..2}' # it's {1..9}")) == len(told("a: exec sh x{1..2}"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"exec sh {'y' * 100_000} {{1..20000}}", "20,000 long lines; at most 8 MiB"),
        (f"exec sh {{1..{'9' * 5000}}}", "a range of numbers of more than 18 digits"),
        ("exec sh x60000\n" * 1000, "a story has at most 100,000 events"),
    ],
)
def test_no_line_is_too_much(text, problem):
    with pytest.raises(StoryError) as caught:
        parse_story(text)
    (found,) = caught.value.problems
    assert problem in found


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(StoryError) as raised:
        parse_story("exec\nconnect\nexec ls")
    assert len(raised.value.problems) == 2


@given(st.binary().filter(lambda raw: b"\0" not in raw))
def test_a_quoted_word_is_read_back(raw):
    for write in (quote, quote_always):
        (line,) = expand(write(show(raw)))
        (word,) = split(line)
        assert word.shown == show(raw)
    assert split(quote_always(show(raw)))[0].bare == 0


@given(st.text(max_size=80))
def test_no_text_makes_anything_but_a_story_or_a_story_error(text):
    try:
        story = parse_story(text)
    except StoryError as error:
        assert error.problems
    else:
        assert len(story.events) == len(story.lines)


# ---- events to story


PIDS = st.integers(100, 106)
TEXT = st.one_of(
    st.sampled_from(
        [
            "ssh",
            "-R",
            "9000:localhost:80",
            "x3",
            "uid=0",
            "memfd",
            "{1..3}",
            "#",
            "every=5s",
            "it's",
            "",
            "a b",
            "\\x1b",
        ]
    ),
    st.binary(max_size=6).filter(lambda raw: b"\0" not in raw).map(show),
)
PATH = st.one_of(
    st.sampled_from(
        ["/usr/bin/ssh", "/usr/bin/python3.11", "/tmp/x", "/bin/sh", "/usr/bin/", "/dev/shm/a b"]
    ),
    TEXT.map(lambda text: f"/opt/{text}"),
)
DST = st.sampled_from(
    ["10.0.0.1", "10.0.0.2", "198.51.100.7", "169.254.169.254", "fd00::1", "127.0.0.1", "::1"]
)
RESULT = st.sampled_from(["ok", "denied", "refused", "timeout", "ENETDOWN"])


@st.composite
def events(draw):
    kind = draw(
        st.sampled_from(
            [
                "fork",
                "exec",
                "memfd",
                "failed",
                "connect",
                "unix",
                "gpu",
                "exit",
                "move",
                "step",
                "identity",
                "seen",
            ]
        )
    )
    pid = draw(PIDS)
    head = (0, pid, pid)
    if kind == "fork":
        child = draw(PIDS)
        return e.Fork(*head, child, child)
    if kind == "exec":
        script = draw(st.booleans())
        return e.Exec(
            *head, draw(PIDS), draw(PATH), tuple(draw(st.lists(TEXT, max_size=4))), draw(PATH), draw(TEXT),
            draw(st.sampled_from([0, 1000])), filename=draw(PATH) if script or draw(st.booleans()) else "", script=script,
            deleted=draw(st.booleans()), argv_truncated=draw(st.booleans()),
            decision=draw(st.sampled_from(["", "allow", "kill"])),
            stdio=draw(st.sampled_from(["", "203.0.113.9", "fd00::1"])), stdio_port=4444,
        )  # fmt: skip
    if kind == "memfd":
        return e.Exec(
            *head, 1, "memfd:" + draw(TEXT), ("x",), "/", "x", 0, memfd=True, deleted=draw(st.booleans())
        )
    if kind == "failed":
        return e.Exec(*head, 0, draw(PATH), (), "", draw(TEXT), 1000, error="ENOENT")
    if kind == "connect":
        dst = draw(DST)
        phase = draw(st.sampled_from(["attempt", "done"]))
        result = draw(RESULT) if phase == "done" else draw(st.sampled_from(["", "denied"]))
        protocol = draw(st.sampled_from(["tcp", "udp", "icmp", "132"]))
        port = draw(st.sampled_from([0, 22, 80, 3333]))
        return e.Connect(
            *head, draw(TEXT), "ipv6" if ":" in dst else "ipv4", protocol, dst, port, phase, result
        )
    if kind == "unix":
        return e.Connect(*head, draw(TEXT), "unix", "stream", draw(st.one_of(PATH, TEXT.map("@{}".format))))
    if kind == "gpu":
        return e.Gpu(
            *head,
            "x",
            draw(st.sampled_from(["open", "context"])),
            "nvidia:0",
            bytes=draw(st.integers(0, 1 << 40)),
        )
    if kind == "exit":
        return e.Exit(*head, 0, draw(st.sampled_from([0, 9])))
    if kind == "move":
        return e.CgroupMove(*head, draw(PATH), draw(st.booleans()), draw(PIDS))
    if kind == "step":
        return e.Step(0, draw(TEXT))
    if kind == "identity":
        return e.Identity(*head, draw(PATH), "ab" * 32, ("/usr/bin/ssh",))
    return e.Seen(
        *head, draw(PIDS), draw(PATH), tuple(draw(st.lists(TEXT, min_size=1, max_size=3))), "/", "x", 0
    )


@st.composite
def streams(draw):
    """Events in the order of their times; a pid that is given anew is another process."""
    now_ns = 5_000_000_000
    lives = {}
    stream = [e.EpisodeStart(now_ns, "ep", "p", 100, 100, step=draw(st.sampled_from(["", "one"])))]
    for event in draw(st.lists(events(), max_size=25)):
        now_ns += draw(st.sampled_from([0, 1_000_000, 1, 12_345, 4_000_000_000]))
        changes = {"ts_ns": now_ns}
        if isinstance(event, e.ProcessEvent):
            changes["start"] = lives.get(event.pid, event.pid)
        if isinstance(event, e.Fork):
            if event.child == event.pid:  # no process gets the pid of one that is there
                continue
            changes["child_start"] = lives[event.child] = 1000 + len(stream)
        stream.append(msgspec.structs.replace(event, **changes))
    return stream


COUNTING = parse_profile(
    """
name = "counting"
description = ""
[network]
default = "deny"
allow = ["loopback"]
[gpu]
default = "kill"
[exec]
deny = ["/usr/bin/ssh", "/opt/*"]
"""
    + "".join(
        f"""
[[rule]]
id = "{kind}-{per}"
on = "{kind}"
count = {{ over = {over}, within = "5s", per = "{per}"{distinct} }}
action = "alert"
"""
        for kind, distinct in (
            ("exec", ', distinct = "cwd"'),
            ("connect", ', distinct = "dst"'),
            ("fork", ""),
            ("exit", ""),
        )
        for per, over in (("process", 1), ("tree", 2), ("episode", 3), ("step", 2))
    )
    + "".join(
        f'[[rule]]\nid = "{name}"\non = "{kind}"\nwhen = {{ {when} }}\naction = "log"\n'
        for name, kind, when in (
            ("words", "exec", 'argv = ["x3", "memfd", "#", "\\\\\\\\x1b", "?"]'),
            ("script", "exec", 'script = "*"'),
            ("gone", "exec", "deleted = true"),
            ("memory", "exec", "memfd = true"),
            ("cut", "exec", "argv_truncated = true"),
            ("failed", "exec", 'error = "ENOENT"'),
            ("name", "exec", 'comm = ["x*", "it\'s", "?"]'),
            ("owner", "connect", "uid = 0"),
            ("caller", "connect", 'comm = "*"'),
            ("place", "connect", 'cwd = ["/tmp/*", "/opt/*"]'),
            ("socket", "connect", 'dst = "unix:*"'),
            ("end", "connect", 'result = "*"'),
            ("size", "gpu", 'bytes = "over 1GiB"'),
            ("moved", "cgroup-move", "inside = false"),
            ("killed", "exit", "signal = 9"),
        )
    ),
    "counting",
)


@settings(max_examples=300, deadline=None)
@given(streams())
def test_a_stream_told_as_a_story_is_judged_alike(stream):
    story = parse_story(story_of(stream)).events
    assert len(story) == len(stream)
    assert evaluate(COUNTING, story) == evaluate(COUNTING, stream)


def test_the_recordings_of_the_shipped_profiles_are_judged_alike_as_stories():
    folder = Path(__file__).parents[2] / "profiles"
    recordings = [
        path for path in folder.glob("tests/*/*.jsonl") if not path.name.endswith(".verdicts.jsonl")
    ]
    assert recordings
    for path in recordings:
        recorded = msgspec.json.Decoder(e.Event).decode_lines(path.read_bytes())
        profile = load_profile(str(folder / f"{path.parent.name}.toml"))
        for grain_ns in (1, 1000):
            story = parse_story(story_of(recorded, grain_ns)).events
            assert evaluate(profile, story) == evaluate(profile, recorded), path.name


def test_only_one_tree_can_be_told():
    story = parse_story(
        "a: exec a\nb: exec b\nc<a: exec c\nb: connect 10.0.0.1:22\nc: connect 10.0.0.2:22\nstep x"
    ).events
    around = tree_around(story, len(story) - 2)
    assert [event.exe for event in around if isinstance(event, e.Exec)] == ["/usr/bin/a", "/usr/bin/c"]
    assert [event.dst for event in around if isinstance(event, e.Connect)] == ["10.0.0.2"]
    assert isinstance(around[0], e.EpisodeStart) and isinstance(around[-1], e.Step)
    with pytest.raises(StoryError, match="there is no event 99"):
        tree_around(story, 99)


def test_what_has_no_start_is_of_untagged_processes():
    text = story_of(
        [e.Exec(5, 7, 7, 1, "/bin/ls", ("ls",), "/", "ls", 0), e.GpuCount(6, 7, 7, "submit", "nvidia:0", 3)]
    )
    assert text.splitlines() == ["start source=untagged", "+0s ls<?: exec /bin/ls cwd=/ uid=0"]
