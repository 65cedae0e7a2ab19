"""Stories: what an episode does, written by hand, line by line, and read as the events it stands for.

    ssh: exec /work/.cache/totally_python -F ssh.cfg -N relay
    ssh: connect 198.51.100.9:2222/tcp
    +5s
    ssh: connect 127.0.0.1:8765/tcp ok

The grammar is docs/profile-testing.md. `narration` goes the other way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from msgspec import Struct

from ebpfaudit import events as e
from ebpfaudit.errors import EbpfAuditError
from ebpfaudit.profiles.addresses import AddressError, parse_address, show_address
from ebpfaudit.profiles.quantities import size_over
from ebpfaudit.profiles.schema import CHOICES, CONNECT_RESULTS
from ebpfaudit.profiles.source import nearest
from ebpfaudit.stories.lines import MAX_EVENTS, OPTIONS, PLACELESS, ROOT, Line, take_apart
from ebpfaudit.stories.words import expand, without_comment

ROOT_PID = 100
START_NS = 1_000_000_000
"""When a story begins, on the clock of its events."""
CWD = "/work"
UID = 1000
COMM_BYTES = 15

_PROTOCOLS = ("tcp", "udp", "icmp", "icmp6", "sctp", "udplite", "raw", "routing-header", "bound-device")
_UNIX_TYPES = ("stream", "dgram", "seqpacket", "unix")
_DECISIONS = ("allow", "deny", "kill")
_ERRNO = re.compile(r"E[A-Z0-9]+|[0-9]+")
_DESTINATION = re.compile(
    r"(?:\[([^\]]*)\]|([^:/\[\]]+)|([^/\[\]]*:[^/\[\]]*:[^/\[\]]*))(?::(\d+))?(?:/([\w-]+))?"
)


class StoryError(EbpfAuditError):
    """All that is wrong with a story or a fixture, one `file:line: what` each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class Story(Struct, frozen=True):
    """The events of a story, and for each the number of the line that it comes from."""

    events: tuple[e.Event, ...]
    lines: tuple[int, ...]


class _Actor(Struct):
    """What later lines need to know of a process."""

    pid: int
    start: int
    ppid: int
    comm: str = ""
    cwd: str = CWD
    uid: int = UID


def parse_story(text: str, origin: str = "story", first_line: int = 1) -> Story:
    """The events of `text`. Raises StoryError, with all that is wrong in it."""
    teller = _Teller(first_line)
    problems = []
    for number, line in enumerate(text.split("\n"), first_line):
        try:
            teller.tell(number, line)
        except ValueError as error:
            problems.append(f"{origin}:{number}: {error}")
        if len(teller.events) > MAX_EVENTS:
            break
    if problems:
        raise StoryError(problems)
    if not teller.events:
        teller.begin(None)
    return Story(tuple(teller.events), tuple(teller.lines))


class _Teller:
    """Turns line after line into events."""

    def __init__(self, first_line: int) -> None:
        self.events: list[e.Event] = []
        self.lines: list[int] = []
        self._number = first_line
        self._now_ns = START_NS
        self._last_pid = ROOT_PID
        self._actors: dict[str, _Actor] = {}
        self._handlers: dict[str, Callable[[Line, _Actor], None]] = {
            "seen": self._seen, "exec": self._exec, "identity": self._identity, "connect": self._connect,
            "gpu": self._gpu, "fork": self._fork, "exit": self._exit, "move": self._move,
        }  # fmt: skip

    def tell(self, number: int, text: str) -> None:
        """Raises ValueError where the line makes no sense."""
        self._number = number
        lines = expand(without_comment(text))
        parts = [part for line in lines if (part := take_apart(line)) is not None]
        for repetition in range(parts[0].times if parts else 0):
            for index, part in enumerate(parts):
                self._now_ns += part.every_ns if repetition or index else part.after_ns
                if part.kind:
                    self._happen(part)
                if len(self.events) > MAX_EVENTS:
                    raise ValueError(f"a story has at most {MAX_EVENTS:,} events")

    def begin(self, line: Line | None) -> None:
        """The first event of every story, said or not."""
        keys = line.keys if line else {}
        pid = _number(line, "pid", ROOT_PID) if line else ROOT_PID
        source = keys.get("source", "launched")
        _choose(source, CHOICES["source"], "source")
        self._last_pid = pid
        self._actors[ROOT] = _Actor(pid, pid, pid - 1)
        episode, step = keys.get("episode", "story"), keys.get("step", "")
        self._add(e.EpisodeStart(START_NS, episode, "story", pid, pid, source, step))

    def _add(self, event: e.Event) -> None:
        self.events.append(event)
        self.lines.append(self._number)

    def _happen(self, line: Line) -> None:
        if line.kind == "start":
            if self.events:
                raise ValueError("'start' comes first, or not at all")
            no_more(line, 0)
            self.begin(line)
            return
        if not self.events:
            self.begin(None)
        if line.kind in PLACELESS:
            self._add(_placeless(self._now_ns, line))
            return
        self._handlers[line.kind](line, self._actor(line.name, line.parent, line.kind))

    def _actor(self, name: str, parent: str, kind: str) -> _Actor:
        """The process of that name, forked first if there is none."""
        actor = self._actors.get(name)
        if actor is not None:
            if parent and parent != "?" and self._find(parent).pid != actor.ppid:
                raise ValueError(f"'{name}' is there already, and '{parent}' is not its parent")
            return actor
        if parent == "?" or kind == "seen":
            self._last_pid += 1
            ppid = self._find(parent or ROOT).pid if parent != "?" else 1
            actor = self._actors[name] = _Actor(self._last_pid, self._last_pid, ppid)
            return actor
        return self._born(name, self._find(parent or ROOT), 0)

    def _find(self, name: str) -> _Actor:
        if name not in self._actors:
            raise ValueError(f"there is no process '{name}' yet{nearest(name, self._actors)}")
        return self._actors[name]

    def _born(self, name: str, parent: _Actor, pid: int) -> _Actor:
        pid = pid or self._last_pid + 1
        self._last_pid = max(self._last_pid, pid)
        start = self._actors[ROOT].start + len(self.events)
        self._add(e.Fork(self._now_ns, parent.pid, parent.start, pid, start))
        child = _Actor(pid, start, parent.pid, parent.comm, parent.cwd, parent.uid)
        if name:
            self._actors[name] = child
        return child

    def _fork(self, line: Line, actor: _Actor) -> None:
        no_more(line, 1)
        name = line.words[0].shown if line.words else ""
        self._born(name, actor, _number(line, "pid", 0))

    def _place(self, actor: _Actor) -> tuple[int, int, int]:
        """What every event of a process begins with."""
        return self._now_ns, actor.pid, actor.start

    def _pid(self, line: Line, key: str, default: int) -> int:
        """Of the process that a key names, or the number itself."""
        text = line.keys.get(key, "")
        if not text or text.isdecimal():
            return _number(line, key, default)
        return self._find(text).pid

    def _describe(self, line: Line, actor: _Actor, comm: str) -> tuple[str, str, int]:
        """(cwd, comm, uid) of a process from here on."""
        actor.comm = line.keys.get("comm", comm)
        actor.cwd = line.keys.get("cwd", actor.cwd)
        actor.uid = _number(line, "uid", actor.uid)
        return actor.cwd, actor.comm, actor.uid

    def _seen(self, line: Line, actor: _Actor) -> None:
        path, argv = _program(line)
        ppid = self._pid(line, "ppid", actor.ppid)
        self._add(e.Seen(*self._place(actor), ppid, path, argv, *self._describe(line, actor, name_of(path))))

    def _exec(self, line: Line, actor: _Actor) -> None:
        path, argv = _program(line)
        keys = line.keys
        if "error" in keys:
            self._exec_failed(line, actor, path, argv)
            return
        memfd = _flag(line, "memfd", path.startswith("memfd:"))
        if memfd and not path.startswith("memfd:"):
            path = f"memfd:{name_of(path)}"
        script = "script" in keys
        filename = keys.get("script", keys.get("filename", ""))
        program = filename if script else path.removeprefix("memfd:")
        about = self._describe(line, actor, name_of(program))
        stdio, port = _peer(keys["stdio"]) if "stdio" in keys else ("", 0)
        self._add(
            e.Exec(
                *self._place(actor), self._pid(line, "ppid", actor.ppid), path, argv, *about, keys.get("dev", ""),
                _number(line, "ino", 0), filename, script, memfd, _flag(line, "deleted", memfd),
                _number(line, "truncated", 0), "truncated" in keys, decision=_decision(line), stdio=stdio,
                stdio_port=port,
            )
        )  # fmt: skip

    def _exec_failed(self, line: Line, actor: _Actor, path: str, argv: tuple[str, ...]) -> None:
        """The probes know only the name that was asked for, and the process stays as it was."""
        keys = line.keys
        argv = argv if len(argv) > 1 or "argv0" in keys else ()
        about = keys.get("cwd", ""), keys.get("comm", actor.comm), _number(line, "uid", actor.uid)
        ppid = self._pid(line, "ppid", 0)
        self._add(e.Exec(*self._place(actor), ppid, path, argv, *about, error=keys["error"]))

    def _identity(self, line: Line, actor: _Actor) -> None:
        path = _one(line, "the path of a program")
        keys = line.keys
        same_as = tuple(filter(None, keys.get("same-as", "").split(",")))
        if "sha256" in keys and not re.fullmatch(r"[0-9a-f]{64}", keys["sha256"]):
            raise ValueError("sha256= is followed by 64 digits of 0-9 and a-f")
        self._add(
            e.Identity(*self._place(actor), path, keys.get("sha256", ""), same_as, keys.get("error", ""))
        )

    def _connect(self, line: Line, actor: _Actor) -> None:
        no_more(line, 2)
        if not line.words:
            raise ValueError("connect needs a destination, such as 10.0.0.5:22/tcp")
        where = _parse_destination(line.words[0].shown, line.keys.get("type", "stream"))
        phase: Any = "attempt"
        result = line.keys.get("result", "")
        if len(line.words) == 2:
            phase, result = "done", line.words[1].shown
        if result and not _ERRNO.fullmatch(result):
            _choose(result, CONNECT_RESULTS, "result (nor an errno such as ENETDOWN)")
        family, dst, port, protocol = where
        comm = line.keys.get("comm", actor.comm)
        self._add(
            e.Connect(
                *self._place(actor), comm, family, protocol, dst, port, phase, result, _decision(line)
            )
        )  # fmt: skip

    def _gpu(self, line: Line, actor: _Actor) -> None:
        no_more(line, 2)
        if len(line.words) < 2:
            raise ValueError("gpu needs an event and a device: write 'gpu context nvidia:0'")
        event, device = (word.shown for word in line.words)
        _choose(event, CHOICES["event"], "gpu event")
        keys = line.keys
        self._add(
            e.Gpu(
                *self._place(actor), keys.get("comm", actor.comm), event, device, keys.get("command", ""),
                keys.get("uuid", ""), size_over(keys.get("bytes", "0")), keys.get("result", ""), _decision(line),
            )
        )  # fmt: skip

    def _exit(self, line: Line, actor: _Actor) -> None:
        no_more(line, 1)
        text = line.words[0].shown if line.words else "0"
        if not text.isdecimal():
            raise ValueError(f"exit: '{text}' is no exit code")
        self._add(e.Exit(*self._place(actor), int(text), _number(line, "signal", 0)))

    def _move(self, line: Line, actor: _Actor) -> None:
        path = _one(line, "the path of a cgroup")
        by_pid = self._pid(line, "by", actor.pid)
        self._add(e.CgroupMove(*self._place(actor), path, _flag(line, "inside", False), by_pid))


def _placeless(ts_ns: int, line: Line) -> e.Event:
    """An event of the episode, not of a process."""
    if line.kind == "step":
        return e.Step(ts_ns, _one(line, "a label"))
    if line.kind == "lost":
        count = _one(line, "how many records")
        if not count.isdecimal():
            raise ValueError(f"lost: '{count}' is no number")
        return e.Lost(ts_ns, int(count), line.keys.get("what", "ring buffer full"))
    reason = " ".join(word.shown for word in line.words) or "exited"
    return e.EpisodeEnd(ts_ns, reason, _number(line, "code", 0))


def _program(line: Line) -> tuple[str, tuple[str, ...]]:
    """The executable and argv of an exec. A name without a slash stands for the one in /usr/bin."""
    if not line.words:
        raise ValueError(f"{line.kind} needs a program: write '{line.kind} /usr/bin/ssh -N relay'")
    asked, *rest = (word.shown for word in line.words)
    path = asked if "/" in asked or asked.startswith("memfd:") else f"/usr/bin/{asked}"
    if _flag(line, "noargv", False):
        return path, ()
    return path, (line.keys.get("argv0", path.removeprefix("memfd:").rpartition("/")[2]), *rest)


def name_of(path: str) -> str:
    """What the kernel calls a process that runs `path`."""
    return path.rpartition("/")[2][:COMM_BYTES]


def _parse_destination(text: str, unix_type: str) -> tuple[Any, str, int, str]:
    """(family, address or path, port, protocol), as events have them."""
    if text.startswith("unix:"):
        _choose(unix_type, _UNIX_TYPES, "type")
        return "unix", text.removeprefix("unix:"), 0, unix_type
    found = _DESTINATION.fullmatch(text)
    forms = "write 10.0.0.5:22/tcp, [fd00::5]:443 or unix:/run/x.sock"
    if found is None:
        raise ValueError(f"'{text}' is no destination: {forms}")
    protocol = found[5] or "tcp"
    if not protocol.isdecimal():
        _choose(protocol, _PROTOCOLS, "protocol")
    try:
        dst = show_address(parse_address(found[1] or found[2] or found[3]))
    except AddressError as error:
        raise ValueError(f"{error}: {forms}") from None
    if protocol in ("tcp", "udp") and found[4] is None:
        host = f"[{dst}]" if ":" in dst else dst
        raise ValueError(f"'{text}' has no port: write {host}:443/{protocol}")
    port = int(found[4] or 0)
    if port > 65535:
        raise ValueError(f"'{found[4]}' is no port")
    return "ipv6" if ":" in dst else "ipv4", dst, port, protocol


def _peer(text: str) -> tuple[str, int]:
    """The address and port of ADDRESS:PORT."""
    _, dst, port, _ = _parse_destination(text, "stream")
    return dst, port


def _decision(line: Line) -> e.Decision:
    text = line.keys.get("decision", "")
    if text:
        _choose(text, _DECISIONS, "decision")
    return cast("e.Decision", text)


def _flag(line: Line, key: str, default: bool) -> bool:
    text = line.keys.get(key)
    if text not in (None, "", "true", "false"):
        raise ValueError(f"{key}={text}: write '{key}' or '{key}=false'")
    return default if text is None else text != "false"


def _number(line: Line, key: str, default: int) -> int:
    text = line.keys.get(key, "")
    if text and not re.fullmatch(r"[0-9]{1,19}", text):
        raise ValueError(f"{key}: '{text}' is no number")
    return int(text) if text else default


def _choose(word: str, known: tuple[str, ...], what: str) -> None:
    if word not in known:
        raise ValueError(f"'{word}' is no {what}{nearest(word, known) or '; write ' + ', '.join(known)}")


def _one(line: Line, what: str) -> str:
    if not line.words:
        raise ValueError(f"{line.kind} needs {what}")
    no_more(line, 1)
    return line.words[0].shown


def no_more(line: Line, count: int) -> None:
    """Raises ValueError if there are more words than `count`."""
    for word in line.words[count:]:
        hint = nearest(word.shown.partition("=")[0], OPTIONS[line.kind])
        raise ValueError(f"{line.kind}: '{word.shown}' is too much{hint}")
