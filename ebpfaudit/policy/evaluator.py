"""The judge of one episode: a pure function of its events so far and its profile.

No clock, no /proc, no name look-up: a replayed trail gives the verdicts of the live run. And quick,
because the ring buffer fills while it thinks: what does not depend on earlier events (sections, and what the
tests of all rules say) is worked out once for each distinct question and remembered, so an event like
an earlier one costs two dictionary look-ups; and of a question that is new, an index (`policy.index`) finds the
few rules that it can concern. Everything that is held is bounded (`policy.bounds`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
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
    ProcessEvent,
    Seen,
    Step,
)
from ebpfaudit.policy.answers import FINDING_CHARS, QUESTION_CHARS, ExecAnswer, Finding, Findings, Memory
from ebpfaudit.policy.bounds import LONGEST_IMAGE, LONGEST_REMEMBERED, MAX_REMEMBERED
from ebpfaudit.policy.compiled import CompiledPart, Match
from ebpfaudit.policy.facts import Facts, Setting, image_after
from ebpfaudit.policy.memory import bounds_of, measure
from ebpfaudit.policy.programs import programs_of
from ebpfaudit.policy.remembered import Room
from ebpfaudit.policy.ruleset import ruleset_of
from ebpfaudit.policy.sections import Sections
from ebpfaudit.policy.state import Marking, RuleState
from ebpfaudit.process import MAX_IDENTITIES, Process, ProcessTable
from ebpfaudit.profiles.schema import Profile
from ebpfaudit.verdicts import Verdict

Verdicts = tuple[Verdict, ...]


class Evaluator:
    """Judges the events of one episode, in their order, under one profile."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.ruleset = ruleset = ruleset_of(profile)
        self.processes = ProcessTable(
            ruleset.lineage_of if ruleset.has_ancestors else None, keep_departed=ruleset.names_identities
        )
        self.events = 0
        """How many events it has been given; the number of the next one."""
        self.setting = Setting()
        self.marking = Marking()
        self.states = [RuleState(rule) for rule in ruleset.rules]
        """What each rule remembers, in the profile's order."""
        self._step_tables = [table for state in self.states for per, table in state.tables() if per == "step"]
        self._sections = Sections(ruleset)
        self._indexes = ruleset.indexes
        self._with_result = ruleset.mask("connect", "wants_result")
        self._with_error = ruleset.mask("exec", "wants_error")
        self._with_marks = ruleset.mask("exec", "marks")
        self._image_fields = ruleset.image_fields()
        fields = ruleset.fields("connect", "gpu")
        self._comm_matters = "comm" in fields
        self._bytes_matter = "bytes" in fields
        self._filename_matters = "filename" in ruleset.fields("exec")
        self._room = Room()
        self._memories: dict[int, Memory] = {}
        self._by_image: dict[Hashable, tuple[dict[Hashable, Findings], dict[str, int]]] = {}
        self._exec_answers: dict[Hashable, ExecAnswer] = {}
        for table in (self._memories, self._by_image, self._exec_answers):
            self._room.share(table)
        self._handlers: dict[type, Callable[[Any], Verdicts]] = {
            Connect: self._connect,
            Gpu: self._gpu,
            Exec: self._exec,
            Fork: self._fork,
            Exit: self._exit,
            CgroupMove: self._cgroup_move,
            Seen: self._seen,
            Identity: self._identity,
            EpisodeStart: self._episode_start,
            EpisodeEnd: self._episode_end,
            Step: self._step_begins,
            GpuCount: _nothing,
            Lost: _nothing,
        }

    def evaluate(self, event: Event) -> Verdicts:
        """All verdicts on the next event: its section's, then its rules' in the profile's order."""
        self.events += 1
        return self._handlers[event.__class__](event)

    def memory(self) -> dict[str, int]:
        """How much is held, by what it is held for. Never more than `bounds` says, whatever the events."""
        return measure(self.states, self.marking, self.processes) | {
            "answers": self._room.held,
            "known values": self.ruleset.room.held,
        }

    def bounds(self) -> dict[str, int]:
        """The most that `memory` can come to under this profile."""
        return bounds_of(self.states) | {"answers": MAX_REMEMBERED, "known values": MAX_REMEMBERED}

    def forget(self) -> None:
        """Work out anew all that is only remembered to be quick. No verdict changes by it."""
        self._room.empty()

    def _connect(self, event: Connect) -> Verdicts:
        memory = self._memories.get(event.pid)
        if memory is None or memory.start != event.start:
            if event.phase == "done" and not self.processes.knows(event.pid, event.start):
                # answered after its end: not entered again
                memory = Memory(Process(event.pid, event.start), {}, {})
            else:
                memory = self._remember(event.pid, event.start)
        question: Hashable = (event.dst, event.port, event.protocol, event.phase, event.result)
        if self._comm_matters:
            question = (question, event.comm)
        findings = memory.answers.get(question)
        if findings is None:
            findings = self._learn(memory, question, self._judge_connect(event, memory))
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
            findings = self._learn(memory, question, self._judge_gpu(event, memory))
        if not findings:
            return ()
        return self._conclude(findings, event.ts_ns, memory.process)

    def _exec(self, event: Exec) -> Verdicts:
        if event.error:
            process = self.processes.get(event.pid, event.start)
            if not self._with_error:
                return ()
            image = image_after(process, event, self.processes.lineage_after(process))
        else:
            process = image = self.processes.execute(event)
            self._memories.pop(event.pid, None)
        filename = event.filename if event.script or self._filename_matters else ""
        question = (
            event.exe,
            filename,
            event.script,
            event.memfd,
            event.deleted,
            event.decision,
            event.error,
        )
        answer = self._exec_answers.get(question)
        if answer is None:
            answer = self._learn_exec(question, event, image)
        candidates = answer.candidates
        if not (process.marks or process.tree.tree_marks or self.marking.episode):
            candidates &= ~self._with_marks
        if not candidates:
            return self._conclude((answer.denied,), event.ts_ns, process) if answer.denied is not None else ()
        facts = Facts(image, event, self.setting)
        candidates = self._indexes["exec"].of_rest(facts, candidates)
        findings = self._find("exec", facts, candidates) if candidates else ()
        if answer.denied is not None:
            findings = (answer.denied, *findings)
        return self._conclude(findings, event.ts_ns, process) if findings else ()

    def _fork(self, event: Fork) -> Verdicts:
        self.processes.fork(event)
        self._memories.pop(event.child, None)
        return self._judge_rest("fork", event, ()) if self._indexes["fork"].all else ()

    def _exit(self, event: Exit) -> Verdicts:
        verdicts: Verdicts = ()
        if self._indexes["exit"].all:
            verdicts = self._judge_rest("exit", event, (event.code, event.signal))
        process = self.processes.exit(event)
        self._memories.pop(event.pid, None)
        if process is not None and process.touched is not None:
            for table in process.touched:
                table.drop((event.pid, event.start))
        return verdicts

    def _cgroup_move(self, event: CgroupMove) -> Verdicts:
        if not self._indexes["cgroup-move"].all:
            return ()
        return self._judge_rest("cgroup-move", event, (event.path, event.inside, event.by_pid))

    def _seen(self, event: Seen) -> Verdicts:
        self.processes.seen(event)
        self._memories.pop(event.pid, None)
        return ()

    def _identity(self, event: Identity) -> Verdicts:
        """Judge the process's last exec again, by the rules that this identity makes match."""
        process = self.processes.find(event.pid, event.start)
        if (
            not self.ruleset.names_identities
            or process is None
            or len(process.identities) >= MAX_IDENTITIES
            or event.path not in programs_of(process)
        ):
            return ()
        executed = process.executed
        facts = Facts(process, executed, self.setting) if executed is not None else None
        parts = [
            part for part in self.ruleset.named_by(event) if facts is not None and part.find(facts) is None
        ]
        was_denied = (
            executed is None or self._sections.on_exec(executed) or self._sections.on_content(process)
        )
        process.identities.append(event)
        self._memories.clear()
        findings: list[Finding] = []
        if not was_denied and (denied := self._sections.on_content(process)) is not None:
            findings.append(denied)
        if facts is not None:
            found = [(part, part.find(facts, part.naming(event, process.exe))) for part in parts]
            findings += self._findings(found)
        return self._conclude(tuple(findings), event.ts_ns, process)

    def _episode_start(self, event: EpisodeStart) -> Verdicts:
        self.processes.set_root(event.pid, event.start)
        self.setting.source, self.setting.step = event.source, event.step
        self._room.empty()
        return ()

    def _step_begins(self, event: Step) -> Verdicts:
        self.setting.step = event.step
        self._room.empty()
        for table in self._step_tables:
            table.clear()
        return ()

    def _episode_end(self, _event: EpisodeEnd) -> Verdicts:
        rests = [state.rest(self.events - 1) for state in self.states]
        return tuple([rest for rest in rests if rest is not None])

    def _judge_connect(self, event: Connect, memory: Memory) -> Findings:
        """The section's finding, and those of the rules, on an event like this from such a process."""
        facts, section, judged = self.facts_of(event, memory.process)
        return (*section, *self._judge("connect", facts, memory, judged))

    def facts_of(self, event: ProcessEvent, process: Process) -> tuple[Facts, Findings, int]:
        """What rules are told of an event; what the section (of connects and GPU events) finds; and the parts of
        rules that are about such an event at all."""
        facts = Facts(process, event, self.setting, getattr(event, "result", ""))
        if isinstance(event, Exec):
            everything = self._indexes["exec"].all
            return facts, (), self._with_error if event.error else everything & ~self._with_error
        judged = self._indexes[event.__struct_config__.tag].all  # type: ignore[index]
        if isinstance(event, Gpu):
            found = self._sections.on_gpu(event, facts)
            return facts, () if found is None else (found,), judged
        if not isinstance(event, Connect):
            return facts, (), judged
        # A rule that asks for no result judges the attempt. "denied" is, of one that is done, the host's answer, or
        # another program's: our own denial was the attempt's, and has no "done".
        if event.phase != "attempt":
            return facts, (), self._with_result
        found = self._sections.on_connect(event, facts)
        if facts.result != "denied":
            judged &= ~self._with_result
        return facts, () if found is None else (found,), judged

    def _judge_gpu(self, event: Gpu, memory: Memory) -> Findings:
        facts, section, judged = self.facts_of(event, memory.process)
        return (*section, *self._judge("gpu", facts, memory, judged))

    def _judge_rest(
        self, kind: str, event: Fork | Exit | CgroupMove, question: tuple[Hashable, ...]
    ) -> Verdicts:
        memory = self._memories.get(event.pid)
        if memory is None or memory.start != event.start:
            memory = self._remember(event.pid, event.start)
        question = (kind, *question)
        findings = memory.answers.get(question)
        if findings is None:
            facts = Facts(memory.process, event, self.setting)
            findings = self._judge(kind, facts, memory, self._indexes[kind].all)
            self._learn(memory, question, findings)
        return self._conclude(findings, event.ts_ns, memory.process) if findings else ()

    def _judge(self, kind: str, facts: Facts, memory: Memory, judged: int) -> Findings:
        """What the rules' parts of the set `judged` find in an event that is no exec."""
        if not judged:
            return ()
        index = self._indexes[kind]
        candidates = memory.candidates.get(kind)
        if candidates is None:
            candidates = memory.candidates[kind] = index.of_process(facts, index.all)
        candidates &= judged
        return self._find(kind, facts, index.of_event(facts, candidates)) if candidates else ()

    def _find(self, kind: str, facts: Facts, candidates: int) -> Findings:
        return self._findings([(part, part.find(facts)) for part in self._indexes[kind].members(candidates)])

    def _findings(self, found: Iterable[tuple[CompiledPart, Match | None]]) -> Findings:
        """One for each rule of which a part matches."""
        findings = []
        by_rule: dict[int, list[Match]] = {}
        for part, match in found:
            if match is not None:
                by_rule.setdefault(part.rule.number, []).append(match)
        for number, matches in by_rule.items():
            state = self.states[number]
            rule, (match, *_) = state.rule, matches
            if rule.simple:
                told = (match.field, match.value, match.because, *rule.about, match.message)
                findings.append(Finding((rule.rule.action, rule.rule.id, *told)))
            else:
                findings.append(Finding((), state, tuple(matches)))
        return tuple(findings)

    def _conclude(self, findings: Findings, ts_ns: int, process: Process) -> Verdicts:
        """Findings as verdicts; of the rules that depend on earlier events, those that now fire."""
        seq = self.events - 1
        verdicts = []
        fired = []
        for finding in findings:
            state = finding.state
            if state is None:
                verdicts.append(Verdict(seq, *finding.rest))
                continue
            told = state.enter(finding.matches, process, ts_ns, seq, self.marking)
            if told is None:
                continue
            rule = state.rule.rule
            if rule.mark is not None:
                fired.append(rule.mark)
            suppressed = None if rule.action == "allow" else state.admit(process, ts_ns)
            if suppressed is not None:
                field, value, because, message = told
                about = state.rule.about
                verdicts.append(
                    Verdict(seq, rule.action, rule.id, field, value, because, *about, message, suppressed)
                )
        for mark in fired:  # seen by later events only
            self.marking.set(mark, process, ts_ns)
        return tuple(verdicts)

    def _remember(self, pid: int, start: int) -> Memory:
        """The memory of a process; those that run the same share their answers."""
        process = self.processes.get(pid, start)
        image: tuple[Any, ...] = tuple([getattr(process, name) for name in self._image_fields])
        if process.identities and self.ruleset.names_identities:
            image = (*image, *process.identities)
        shared = self._by_image.get(image)
        if shared is None:
            shared = {}, {}
            chars = sum(sum(map(len, value)) for value in image if isinstance(value, str | tuple))
            if chars <= LONGEST_IMAGE:
                self._room.take(chars)
                self._by_image[image] = shared
        memory = self._memories[pid] = Memory(process, *shared)
        return memory

    def _learn(self, memory: Memory, question: Hashable, findings: Findings) -> Findings:
        self._room.take(QUESTION_CHARS + FINDING_CHARS * len(findings))
        memory.answers[question] = findings
        return findings

    def _learn_exec(self, question: Hashable, event: Exec, image: Process) -> ExecAnswer:
        facts, _, judged = self.facts_of(event, image)
        candidates = self._indexes["exec"].of_image(facts, judged) if judged else 0
        denied = None if event.error else self._sections.on_exec(event)
        answer = ExecAnswer(denied, candidates)
        chars = len(event.exe) + len(event.filename)
        if chars <= 2 * LONGEST_REMEMBERED:
            self._room.take(chars)
            self._exec_answers[question] = answer
        return answer


def _nothing(_event: Event) -> Verdicts:
    return ()
