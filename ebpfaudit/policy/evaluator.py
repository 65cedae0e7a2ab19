"""The judge of one episode: a pure function of its events so far and its profile.

No clock, no /proc, no name look-up: a replayed trail gives the verdicts of the live run. And quick,
because the ring buffer fills while it thinks: what does not depend on earlier events (sections, the
conditions of all rules) is worked out once for each distinct question and remembered, so an event like
an earlier one costs two dictionary look-ups. What is remembered is bounded (`MAX_REMEMBERED`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from ebpfaudit.events import (
    CgroupMove,
    Connect,
    EpisodeEnd,
    EpisodeStart,
    Event,
    Exec,
    Exit,
    Fork,
    Gpu,
    GpuCount,
    Identity,
    Lost,
    Seen,
    Step,
)
from ebpfaudit.gpu import JUDGED_KINDS
from ebpfaudit.policy.compiled import VALUE_CHARS, CompiledRule, Facts, Finding, endpoint
from ebpfaudit.policy.matching import match_paths
from ebpfaudit.policy.windows import Windows
from ebpfaudit.process import Process, ProcessTable
from ebpfaudit.profiles.schema import FIELDS, Profile
from ebpfaudit.verdicts import Action, Verdict

_PING_PROTOCOLS = ("icmp", "icmp6")
_JUDGED_PROTOCOLS = ("tcp", "udp", *_PING_PROTOCOLS)
_NOWHERE = ("0.0.0.0", "::")

MAX_REMEMBERED = 16_384
"""Answers kept in all; beyond, everything is forgotten and learned anew."""

Findings = tuple[Finding, ...]
Verdicts = tuple[Verdict, ...]

_IDENTITY_FIELDS = ("exe", "argv", "cwd", "script", "uid")


class _Memory:
    """The answers that hold for one process until it executes something else."""

    __slots__ = ("answers", "process", "start")

    def __init__(self, process: Process, answers: dict[Hashable, Findings]) -> None:
        self.process = process
        self.start = process.start
        self.answers = answers


class _ExecAnswer:
    """What holds for an executable whatever its arguments: denied or not, and the rules that remain."""

    __slots__ = ("denied", "needles", "plain")

    def __init__(self, denied: Finding | None, rules: list[CompiledRule]) -> None:
        self.denied = denied
        self.plain = [rule for rule in rules if not rule.needles]
        """Rules to be tried each time."""
        self.needles = [(needle, rule) for rule in rules for needle in rule.needles]
        """Rules to be tried where this text stands in the command line."""


class Evaluator:
    """Judges the events of one episode, in their order, under one profile."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.processes = ProcessTable()
        self.events = 0
        """How many events it has been given; the number of the next one."""
        self._rules: dict[str, list[CompiledRule]] = {kind: [] for kind in FIELDS}
        for rule in profile.rules:
            self._rules[rule.parts[0].on].append(CompiledRule(rule))
        self._exec_deny = match_paths(profile.exec_deny) if profile.exec_deny else None
        self._exec_answers: dict[Hashable, _ExecAnswer] = {}
        self._failed_exec_rules = [rule for rule in self._rules["exec"] if rule.wants_error]
        self._memories: dict[int, _Memory] = {}
        self._by_identity: dict[Hashable, dict[Hashable, Findings]] = {}
        self._remembered = 0
        self._step = 0
        self._process_windows = self._windows_per("process")
        self._step_windows = self._windows_per("step")
        fields = {name for kind in ("connect", "gpu") for rule in self._rules[kind] for name in rule.fields}
        self._identity = [
            name for name in _IDENTITY_FIELDS if name in fields or (name == "argv" and "cmdline" in fields)
        ]
        self._comm_matters = "comm" in fields
        self._bytes_matter = "bytes" in fields
        self._handlers: dict[type, Callable[[Any], Verdicts]] = {
            Connect: self._connect,
            Gpu: self._gpu,
            Exec: self._exec,
            Fork: self._fork,
            Exit: self._exit,
            CgroupMove: self._cgroup_move,
            Seen: self._seen,
            EpisodeStart: self._episode_start,
            Step: self._step_begins,
            GpuCount: _nothing,
            Identity: _nothing,
            Lost: _nothing,
            EpisodeEnd: _nothing,
        }

    def evaluate(self, event: Event) -> Verdicts:
        """All verdicts on the next event: its section's, then its rules' in the profile's order."""
        self.events += 1
        return self._handlers[event.__class__](event)

    def _connect(self, event: Connect) -> Verdicts:
        memory = self._memories.get(event.pid)
        if memory is None or memory.start != event.start:
            if event.phase == "done" and not self.processes.knows(event.pid, event.start):
                memory = _Memory(
                    Process(event.pid, event.start), {}
                )  # answered after its end: not entered again
            else:
                memory = self._remember(event.pid, event.start)
        question: Hashable = (event.dst, event.port, event.protocol, event.phase, event.result)
        if self._comm_matters:
            question = (question, event.comm)
        findings = memory.answers.get(question)
        if findings is None:
            findings = self._learn(memory, question, self._judge_connect(event, memory.process))
        if not findings:
            return ()
        return self._conclude(findings, event.ts_ns, memory.process)

    def _gpu(self, event: Gpu) -> Verdicts:
        memory = self._memories.get(event.pid)
        if memory is None or memory.start != event.start:
            memory = self._remember(event.pid, event.start)
        size = event.bytes if self._bytes_matter else 0
        question = (event.event, event.device, event.uuid, event.command, event.result, event.comm, size)
        findings = memory.answers.get(question)
        if findings is None:
            findings = self._learn(memory, question, self._judge_gpu(event, memory.process))
        if not findings:
            return ()
        return self._conclude(findings, event.ts_ns, memory.process)

    def _exec(self, event: Exec) -> Verdicts:
        process = self.processes.execute(event)
        if event.error:
            found = [rule.find(event) for rule in self._failed_exec_rules]
            return self._conclude(tuple(each for each in found if each is not None), event.ts_ns, process)
        self._memories.pop(event.pid, None)
        question = (event.exe, event.script, event.memfd, event.deleted, event.decision)
        answer = self._exec_answers.get(question)
        if answer is None:
            answer = self._learn_exec(question, event)
        rules = answer.plain
        if answer.needles:
            line = " ".join(event.argv)
            for needle, rule in answer.needles:
                if needle in line and rule not in rules:
                    rules = [*rules, rule]
        if not rules and answer.denied is None:
            return ()
        return self._judge_exec(event, answer.denied, rules, process)

    def _fork(self, event: Fork) -> Verdicts:
        self.processes.fork(event)
        self._memories.pop(event.child, None)
        return self._judge_rest("fork", event) if self._rules["fork"] else ()

    def _exit(self, event: Exit) -> Verdicts:
        verdicts = self._judge_rest("exit", event) if self._rules["exit"] else ()
        self.processes.exit(event)
        self._memories.pop(event.pid, None)
        for windows in self._process_windows:
            windows.drop((event.pid, event.start))
        return verdicts

    def _cgroup_move(self, event: CgroupMove) -> Verdicts:
        return self._judge_rest("cgroup-move", event) if self._rules["cgroup-move"] else ()

    def _seen(self, event: Seen) -> Verdicts:
        self.processes.seen(event)
        self._memories.pop(event.pid, None)
        return ()

    def _episode_start(self, event: EpisodeStart) -> Verdicts:
        self.processes.set_root(event.pid, event.start)
        return ()

    def _step_begins(self, event: Step) -> Verdicts:
        self._step += 1
        for windows in self._step_windows:
            windows.clear()
        return ()

    def _judge_connect(self, event: Connect, process: Process) -> Findings:
        """The section's finding, and those of the rules, on an event like this from such a process."""
        findings: list[Finding] = []
        facts = Facts(process, event, event.result)
        if event.phase == "attempt":
            action, entry = self._decide_connect(event, facts.destination)
            if action != "allow":
                findings.append(Finding((action, "network", "dst", endpoint(event)[:VALUE_CHARS], entry)))
            is_denied = action in ("deny", "kill") or event.result == "denied"
            facts.result = "denied" if is_denied else ""
            judged = [rule for rule in self._rules["connect"] if is_denied or not rule.wants_result]
        else:
            # A rule that asks for no result has judged the attempt. "denied" is here the host's answer, or another
            # program's: our own denial was the attempt's, and has no "done".
            judged = [rule for rule in self._rules["connect"] if rule.wants_result]
        findings += [found for rule in judged if (found := rule.find(facts)) is not None]
        return tuple(findings)

    def _decide_connect(self, event: Connect, destination: int | str) -> tuple[Action, str]:
        network = self.profile.network
        if network is None:
            return "allow", ""
        if event.family == "unix":
            return network.decide_unix(event.dst)
        if event.protocol not in _JUDGED_PROTOCOLS or (
            event.dst in _NOWHERE and event.protocol in _PING_PROTOCOLS
        ):
            return "deny", "protocol"  # what the probe refuses because it could not judge where it goes
        if not isinstance(destination, int):
            return network.default, "default"
        return network.decide_ip(destination.to_bytes(16, "big"), event.port, event.protocol)

    def _judge_gpu(self, event: Gpu, process: Process) -> Findings:
        findings: list[Finding] = []
        facts = Facts(process, event, event.result)
        if self.profile.gpu is not None and event.event in JUDGED_KINDS:
            action, entry = self.profile.gpu.decide(event.device, event.uuid)
            if action != "allow":
                field, value = ("uuid", event.uuid) if event.uuid else ("device", event.device)
                findings.append(Finding((action, "gpu", field, value[:VALUE_CHARS], entry)))
            if action in ("deny", "kill"):
                facts.result = "denied"
        findings += [found for rule in self._rules["gpu"] if (found := rule.find(facts)) is not None]
        return tuple(findings)

    def _judge_exec(
        self, event: Exec, denied: Finding | None, rules: list[CompiledRule], process: Process
    ) -> Verdicts:
        findings = [denied] if denied is not None else []
        for rule in sorted(rules, key=self._rules["exec"].index) if len(rules) > 1 else rules:
            found = rule.find(event)
            if found is not None:
                findings.append(found)
        return self._conclude(tuple(findings), event.ts_ns, process) if findings else ()

    def _judge_rest(self, kind: str, event: Fork | Exit | CgroupMove) -> Verdicts:
        process = self.processes.get(event.pid, event.start)
        facts = Facts(process, event)
        found = (rule.find(facts) for rule in self._rules[kind])
        return self._conclude(tuple(each for each in found if each is not None), event.ts_ns, process)

    def _conclude(self, findings: Findings, ts_ns: int, process: Process) -> Verdicts:
        """Findings as verdicts; of those that are counted, the ones that are now too many."""
        seq = self.events - 1
        verdicts = []
        for finding in findings:
            if finding.windows is not None:
                key = self._window_key(finding.per, process)
                if not finding.windows.exceeded(key, ts_ns, finding.distinct):
                    continue
            verdicts.append(finding.verdict(seq))
        return tuple(verdicts)

    def _windows_per(self, per: str) -> list[Windows]:
        return [
            rule.windows
            for rules in self._rules.values()
            for rule in rules
            if rule.windows is not None and rule.part.count is not None and rule.part.count.per == per
        ]

    def _window_key(self, per: str, process: Process) -> Hashable:
        if per == "process":
            return process.pid, process.start
        if per == "tree":
            return process.tree.pid, process.tree.start
        return self._step if per == "step" else None

    def _remember(self, pid: int, start: int) -> _Memory:
        """The memory of a process; those of equal processes share their answers."""
        process = self.processes.get(pid, start)
        identity = tuple([getattr(process, name) for name in self._identity])
        answers = self._by_identity.get(identity)
        if answers is None:
            self._make_room()
            answers = self._by_identity[identity] = {}
        memory = self._memories[pid] = _Memory(process, answers)
        return memory

    def _learn(self, memory: _Memory, question: Hashable, findings: Findings) -> Findings:
        self._make_room()
        memory.answers[question] = findings
        return findings

    def _learn_exec(self, question: Hashable, event: Exec) -> _ExecAnswer:
        self._make_room()
        entry = self._exec_deny(event.exe) if self._exec_deny else None
        if entry is None and event.decision == "kill":
            # The probe knows a denied file by its inode: here it goes by another name.
            entry = "the same file as a denied one"
        denied = None
        if entry is not None:
            denied = Finding(("deny", "exec", "exe", event.exe[:VALUE_CHARS], entry, "process"))
        answer = _ExecAnswer(denied, [rule for rule in self._rules["exec"] if rule.possible_for(event)])
        self._exec_answers[question] = answer
        return answer

    def _make_room(self) -> None:
        self._remembered += 1
        if self._remembered > MAX_REMEMBERED:
            self._remembered = 0
            self._memories.clear()
            self._by_identity.clear()
            self._exec_answers.clear()


def _nothing(_event: Event) -> Verdicts:
    return ()
