"""Events as a story: what an incident was, in lines that `story` reads back.

Told so, they are judged as they were. Left out is what no rule can see: pids, inodes, counts of GPU calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ebpfaudit import events as e
from ebpfaudit.process import ProcessKey, ProcessTable
from ebpfaudit.stories.lines import ADVANCE_NS, FLAGS, KEY, OPTIONS, REPEAT, ROOT, UNITS_NS
from ebpfaudit.stories.story import CWD, START_NS, UID, StoryError, name_of
from ebpfaudit.stories.words import quote, quote_always

_NOT_A_NAME = re.compile(r"[^\w.-]+", re.ASCII)


def story_of(events: Sequence[e.Event], grain_ns: int = 1) -> str:
    """The story's lines. Times are rounded down to `grain_ns`; an event never comes before the one it follows."""
    return "\n".join(_Narrator(events, grain_ns).lines) + "\n"


def tree_around(events: Sequence[e.Event], seq: int) -> list[e.Event]:
    """Only what the process of event `seq` did, those it descends from, and all that they started on the way to it.

    That is: its tree, as rules count it, the root, and what is of no process. Raises StoryError.
    """
    if not 0 <= seq < len(events):
        raise StoryError([f"there is no event {seq}: the last is {len(events) - 1}"])
    table = ProcessTable()
    tree_of: list[ProcessKey | None] = []
    root: ProcessKey | None = None
    for event in events:
        if isinstance(event, e.EpisodeStart):
            root = table.set_root(event.pid, event.start).key
        tree_of.append(
            table.get(event.pid, event.start).tree.key if isinstance(event, e.ProcessEvent) else None
        )
        if isinstance(event, e.Fork):
            table.fork(event)
            tree_of[-1] = table.get(event.child, event.child_start).tree.key
        elif isinstance(event, e.Seen):
            table.seen(event)
        elif isinstance(event, e.Exit):
            table.exit(event)
    wanted = {tree_of[seq], None, root}
    return [event for event, tree in zip(events, tree_of, strict=True) if tree in wanted]


class _Known:
    """What a reader knows of a process by now, so that it need not be said."""

    def __init__(self, name: str, ppid: int, parent: _Known | None = None) -> None:
        self.name = name
        self.ppid = ppid
        self.comm: str = parent.comm if parent else ""
        self.cwd: str = parent.cwd if parent else CWD
        self.uid: int = parent.uid if parent else UID


class _Narrator:
    def __init__(self, events: Sequence[e.Event], grain_ns: int) -> None:
        self.lines: list[str] = []
        self._names = _names(events)
        self._known: dict[ProcessKey, _Known] = {}
        self._by_pid: dict[int, _Known] = {}
        tell: dict[type, Callable[[Any], str]] = {
            e.Fork: self._fork, e.Exec: self._exec, e.Seen: self._seen, e.Identity: self._identity, e.Exit: self._exit,
            e.Connect: self._connect, e.Gpu: self._gpu, e.CgroupMove: self._move, e.Step: _step, e.Lost: _lost,
            e.EpisodeEnd: _end,
        }  # fmt: skip
        begin_ns = events[0].ts_ns // grain_ns * grain_ns if events else 0
        now_ns = START_NS
        for index, event in enumerate(events):
            if index == 0 and (first := self._start(event)):
                self.lines.append(first)
            if type(event) not in tell:
                continue
            line = tell[type(event)](event)
            at_ns = event.ts_ns // grain_ns * grain_ns - begin_ns + START_NS
            after_ns = max(at_ns - now_ns, 0)
            now_ns += after_ns
            self.lines.append(line if after_ns == ADVANCE_NS else f"{_time(after_ns)} {line}")

    def _start(self, event: e.Event) -> str:
        if not isinstance(event, e.EpisodeStart):
            return "start source=untagged"
        self._enter(ProcessKey(event.pid, event.start), _Known(ROOT, -1))
        keys = {"source": event.source if event.source != "launched" else "", "step": event.step}
        said = _keys(keys)
        return f"start{said}" if said else ""

    def _enter(self, key: ProcessKey, known: _Known) -> _Known:
        self._known[key] = self._by_pid[key.pid] = known
        return known

    def _who(self, event: e.ProcessEvent) -> tuple[_Known, str]:
        """The process of an event, and the words that name it at the beginning of a line."""
        known = self._known.get(event.process)
        if known is not None:
            return known, "" if known.name == ROOT else f"{known.name}: "
        known = self._enter(event.process, _Known(self._names[event.process], 1))
        return known, f"{known.name}<?: "

    def _fork(self, event: e.Fork) -> str:
        parent, who = self._who(event)
        key = ProcessKey(event.child, event.child_start)
        child = self._enter(key, _Known(self._names[key], event.pid, parent))
        return f"{who}fork {_word('fork', child.name)}"

    def _seen(self, event: e.Seen) -> str:
        parent = self._by_pid.get(event.ppid)
        known = self._known.get(event.process)
        if known is not None:
            _, who = self._who(event)
            return f"{who}seen {self._program(event)}" + self._described(
                event, known, name_of(event.exe), True
            )
        known = _Known(self._names[event.process], event.ppid if parent else 1)
        self._enter(event.process, known)
        line = f"{known.name}<{parent.name if parent else '?'}: seen {self._program(event)}"
        return line + self._described(event, known, name_of(event.exe))

    def _exec(self, event: e.Exec) -> str:
        known, who = self._who(event)
        line = f"{who}exec {self._program(event)}"
        if event.error:
            keys = {
                "error": event.error,
                "cwd": event.cwd,
                "comm": event.comm if event.comm != known.comm else None,
                "uid": str(event.uid) if event.uid != known.uid else "",
                "ppid": self._pid(event.ppid) if event.ppid else "",
            }
            return line + _keys(keys)
        is_memfd = event.exe.startswith("memfd:")
        program = event.filename if event.script else event.exe.removeprefix("memfd:")
        line += self._described(event, known, name_of(program), event.ppid != known.ppid)
        if event.script:
            line += f" script={quote(event.filename)}"
        line += "" if event.memfd == is_memfd else " memfd" if event.memfd else " memfd=false"
        line += "" if event.deleted == event.memfd else " deleted" if event.deleted else " deleted=false"
        if event.argv_truncated:
            line += f" truncated={event.argv_bytes}"
        host = f"[{event.stdio}]" if ":" in event.stdio else event.stdio
        keys = {
            "filename": "" if event.script else event.filename,
            "stdio": f"{host}:{event.stdio_port}" if event.stdio else "",
            "decision": event.decision if event.decision == "kill" else "",
        }
        return line + _keys(keys)

    def _program(self, event: e.Exec | e.Seen) -> str:
        path = event.exe
        usual = path.removeprefix("/usr/bin/")
        asked = (
            usual if usual and "/" not in usual and usual != path and not usual.startswith("memfd:") else path
        )
        line = " ".join([quote(asked), *(_word("exec", word) for word in event.argv[1:])])
        failed = isinstance(event, e.Exec) and event.error
        if not event.argv:
            return line if failed else f"{line} noargv"
        if failed or event.argv[0] != path.removeprefix("memfd:").rpartition("/")[2]:
            line += f" argv0={quote(event.argv[0])}"
        return line

    def _described(self, event: e.Exec | e.Seen, known: _Known, comm: str, says_ppid: bool = False) -> str:
        said = f" comm={quote(event.comm)}" if event.comm != comm else ""
        if event.cwd != known.cwd:
            said += f" cwd={quote(event.cwd)}"
        if event.uid != known.uid:
            said += f" uid={event.uid}"
        if says_ppid:
            said += f" ppid={self._pid(event.ppid)}"
        known.comm, known.cwd, known.uid = event.comm, event.cwd, event.uid
        return said

    def _pid(self, pid: int) -> str:
        known = self._by_pid.get(pid)
        return known.name if known else str(pid)

    def _identity(self, event: e.Identity) -> str:
        _, who = self._who(event)
        keys = {"same-as": ",".join(event.same_as), "sha256": event.sha256, "error": event.error}
        return f"{who}identity {_word('identity', event.path)}{_keys(keys)}"

    def _exit(self, event: e.Exit) -> str:
        _, who = self._who(event)
        code = f" {event.code}" if event.code else ""
        return f"{who}exit{code}" + (f" signal={event.signal}" if event.signal else "")

    def _connect(self, event: e.Connect) -> str:
        known, who = self._who(event)
        keys = {"comm": event.comm if event.comm != known.comm else None}
        if event.family == "unix":
            where = quote(f"unix:{event.dst}")
            keys["type"] = event.protocol if event.protocol != "stream" else None
        else:
            host = f"[{event.dst}]" if ":" in event.dst else event.dst
            port = f":{event.port}" if event.port or event.protocol in ("tcp", "udp") else ""
            where = f"{host}{port}/{event.protocol}"
        if event.phase == "done":
            where += f" {event.result}"
        else:
            keys["result"] = event.result or None
        return f"{who}connect {where}{_keys(keys)}"

    def _gpu(self, event: e.Gpu) -> str:
        known, who = self._who(event)
        keys = {
            "command": event.command, "uuid": event.uuid, "bytes": str(event.bytes or ""), "result": event.result,
            "comm": event.comm if event.comm != known.comm else None,
        }  # fmt: skip
        return f"{who}gpu {event.event} {_word('gpu', event.device)}{_keys(keys)}"

    def _move(self, event: e.CgroupMove) -> str:
        _, who = self._who(event)
        by = f" by={self._pid(event.by_pid)}" if event.by_pid != event.pid else ""
        return f"{who}move {_word('move', event.path)}{' inside' if event.inside else ''}{by}"


def _step(event: e.Step) -> str:
    return f"step {_word('step', event.step)}"


def _lost(event: e.Lost) -> str:
    return f"lost {event.count} what={quote(event.what)}"


def _end(event: e.EpisodeEnd) -> str:
    return f"end {_word('end', event.reason)} code={event.code}"


def _names(events: Sequence[e.Event]) -> dict[ProcessKey, str]:
    """A name for every process: that of its first program, or else of its parent's."""
    programs: dict[ProcessKey, str] = {}
    parents: dict[ProcessKey, ProcessKey] = {}
    for event in events:
        if isinstance(event, e.Fork):
            parents.setdefault(ProcessKey(event.child, event.child_start), event.process)
        if isinstance(event, e.Exec | e.Seen) and not getattr(event, "error", ""):
            programs.setdefault(event.process, event.exe.rpartition("/")[2])
    names: dict[ProcessKey, str] = {}
    counts: dict[str, int] = {}
    taken = {ROOT}
    for key in dict.fromkeys([*parents, *parents.values(), *_keys_of(events)]):
        program = programs.get(key) or programs.get(parents.get(key, key), "")
        stem = _NOT_A_NAME.sub("-", program).strip("-.")[:20] or "process"
        name = stem
        while name in taken:
            counts[stem] = counts.get(stem, 1) + 1
            name = f"{stem}-{counts[stem]}"
        taken.add(name)
        names[key] = name
    return names


def _keys_of(events: Sequence[e.Event]) -> list[ProcessKey]:
    return [event.process for event in events if isinstance(event, e.ProcessEvent)]


def _word(kind: str, text: str) -> str:
    """A word of a line that cannot be taken for one of its keys."""
    found = KEY.match(text)
    is_key = found is not None and (found[1] in OPTIONS[kind] or found[1] == "every")
    if is_key or text in FLAGS or REPEAT.fullmatch(text):
        return quote_always(text)
    return quote(text)


def _keys(keys: dict[str, Any]) -> str:
    """Those keys that have a value."""
    return "".join(
        f" {key}={quote(value)}" for key, value in keys.items() if value or (key == "comm" and value == "")
    )


def _time(after_ns: int) -> str:
    size, unit = next(
        (size, unit) for unit, size in UNITS_NS.items() if size <= 10**9 and after_ns % size == 0
    )
    return f"+{after_ns // size}{unit}"
