"""One `run`: an episode launched, audited from before its first instruction, ended, accounted for.

Everything that start-up makes is unwound in reverse, on every way out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from msgspec import Struct

from ebpfaudit import __version__
from ebpfaudit.enforce.cgroup import EpisodeCgroup, remove_abandoned
from ebpfaudit.enforce.enforcer import Enforcer
from ebpfaudit.enforce.guard import Guard
from ebpfaudit.episodes import Episode, Item, Recorder
from ebpfaudit.errors import EXIT_POLICY_KILL
from ebpfaudit.events import EpisodeEnd, EpisodeStart, Event, Fork, Step
from ebpfaudit.kernel import bpf, coverage, served, support
from ebpfaudit.kernel.compile import Compiler
from ebpfaudit.kernel.gpu import GpuTables
from ebpfaudit.kernel.identity import Identifier
from ebpfaudit.kernel.loader import Probes, load
from ebpfaudit.kernel.plan import EVERYWHERE, lacking_gaps
from ebpfaudit.kernel.procfs import processes_of, start_ticks
from ebpfaudit.kernel.tables import Tables
from ebpfaudit.launch import Launcher, User
from ebpfaudit.mounts import cgroup2_mount
from ebpfaudit.pipeline import Pipeline
from ebpfaudit.profiles.load import Profile, profile_hash, resolved_text
from ebpfaudit.registry import Registration, take
from ebpfaudit.text import show
from ebpfaudit.trail.format import Header
from ebpfaudit.verdicts import Verdict

NUMBER = 1
"""A run has maps of its own, with this one episode in them."""

_GRACE_S = 10.0
"""How long the command may take to heed a signal that we passed on, before the whole episode is killed."""

_IDENTIFY_S = 2.0
"""How long the end of an episode waits until what was run last is identified."""

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Plan(Struct, frozen=True):
    """What to run, and how."""

    command: tuple[str, ...]
    episode: str
    profile: Profile
    step: str
    user: User | None
    enforce: bool
    gpu_devices: tuple[str, ...] = ()
    realtime: bool = True
    """Ask for real-time scheduling: an agent's fork bomb then does not delay its own end."""


class Outcome(Struct):
    """How the run ended."""

    exit_code: int
    killed_by_policy: bool
    duration_s: float
    reason: str
    emitted: int
    received: int
    lost: int
    untagged_children: int
    damaged: int
    unidentified: int = 0
    """Programs whose content should have been known and was not learnt (see `kernel.identity`)."""

    @property
    def complete(self) -> bool:
        """Every record that a probe made was received and read, and no process went without its tag."""
        return self.emitted == self.received and not (self.lost or self.untagged_children or self.damaged)


class Session:
    """Builds the stage (`open`), plays the episode (`play`), and leaves nothing (`close`)."""

    def __init__(
        self, plan: Plan, compiler: Compiler, listener: Callable[[Episode, list[Item]], None]
    ) -> None:
        self._plan = plan
        self._compiler = compiler
        self._listener = listener
        self._stack = ExitStack()
        self._killed_root = False
        self._signals: list[int] = []
        self.writer: Recorder | None = None

    def open(self) -> Probes:
        """Reserve the episode's ID, make its cgroup, load and attach. Raises EbpfAuditError; then call `close`."""
        plan, stack = self._plan, self._stack
        stack.callback(self._compiler.stop)
        self._seat = take(plan.episode)
        stack.callback(self._seat.release)
        self._mount = cgroup2_mount()
        self.probes = load(self._compiler, self._mount)
        stack.callback(self.probes.close)
        self._compiler.stop()
        self._support = support.probe()
        self._tables = Tables(self.probes)
        self._tables.write_sections(NUMBER, plan.profile)
        self._gpu = GpuTables(self.probes, plan.gpu_devices)
        self._gpu.write_section(NUMBER, plan.profile)
        self._tables.set_episode(NUMBER, plan.profile, enforce=plan.enforce)
        self._tables.freeze_sections()
        self._orphans = remove_abandoned(self._mount) if self._mount else []
        self._identifier = self._start_identifier()
        self._cgroup = EpisodeCgroup(plan.episode) if self._mount else None
        stack.callback(self._remove_cgroup)
        if self._cgroup is not None:
            self._tables.tag_cgroup(NUMBER, self._cgroup.id)
        return self.probes

    def _start_identifier(self) -> Identifier | None:
        """Only where the profile names a program by its content."""
        same_as, sha256 = self._plan.profile.identities
        if not same_as and not sha256:
            return None
        identifier = Identifier(same_as, sha256)
        self._stack.callback(identifier.close)
        return identifier

    def coverage(self) -> list[str]:
        """What is covered on this kernel, promise by promise, and what of the profile is not in force."""
        identities = self._identifier.inactive if self._identifier else []
        return coverage.coverage(self._support) + [
            f"open: {gap}" for gap in self._shortcomings() + identities
        ]

    def _shortcomings(self) -> list[str]:
        """What the optional parts leave open that are not in place, and what of the profile is not served."""
        missing = self.probes.missing
        found = [f"{hook.without} ({missing[hook.target]})" for hook in EVERYWHERE if hook.target in missing]
        found += lacking_gaps(self.probes.lacks)
        return found + served.unserved(self._plan.profile, self._support, self.probes.lacks)

    def gaps(self) -> list[str]:
        """What is not covered, on this kernel and in this run."""
        found = [*coverage.gaps(self._support)]
        found += self._shortcomings()
        found += self._identifier.inactive_here if self._identifier else []
        if self._plan.user is None and os.geteuid() == 0:
            found.append("the command runs as root, who can undo an audit: give --user")
        if self._plan.user is not None and (others := processes_of(self._plan.user.uid)):
            found.append(
                f"{others} processes of user {self._plan.user.name} run outside the episode, which can act through "
                "them: give the agent a user of its own"
            )
        found += [
            f"processes of an episode whose auditor was killed still run in {path}" for path in self._orphans
        ]
        return found

    def header(self, command_line: Sequence[str]) -> Header:
        """The first line of this run's trail."""
        plan, kernel = self._plan, os.uname()
        return Header(
            version=__version__,
            host=kernel.nodename,
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            kernel=kernel.release,
            realtime_ns=time.time_ns(),
            monotonic_ns=time.monotonic_ns(),
            episode=plan.episode,
            profile=plan.profile.name,
            profile_text=resolved_text(plan.profile),
            profile_hash=profile_hash(plan.profile),
            coverage=tuple(self.coverage()),
            step=plan.step,
            command=tuple(show(os.fsencode(argument)) for argument in command_line),
            enforce=plan.enforce,
        )

    def play(self, writer: Recorder | None) -> Outcome:
        """Launch the command, audit it to its end, end whatever it left behind."""
        plan = self._plan
        self.writer = writer
        pipeline = Pipeline(self.probes, self._tables)
        self._stack.callback(pipeline.close)
        self._gpu.register(pipeline.decoder)
        self._catch_signals(pipeline)
        if plan.realtime:
            self._stack.callback(_become_realtime())
        if self._cgroup is not None and self._cgroup.can_kill:
            guard = Guard(self._cgroup)
            self._stack.callback(guard.stand_down)
        began = time.monotonic()
        environment = {**os.environ, "EBPFAUDIT_EPISODE": plan.episode}
        if plan.step:
            environment["EBPFAUDIT_STEP"] = plan.step
        launcher = self._launcher = Launcher(plan.command, plan.user, environment)
        self._stack.callback(launcher.close)
        self._spare_from_memory_shortage()
        start = start_ticks(launcher.pid)
        self._tables.tag_process(NUMBER, launcher.pid)
        if self._cgroup is not None:
            self._cgroup.add(launcher.pid)
        episode = self._episode = Episode(
            NUMBER,
            plan.episode,
            plan.profile,
            recorder=writer,
            listener=self._observe,
        )
        episode.executioner = self._enforcer("on" if plan.enforce else "off", pipeline.pending_forks)
        pipeline.add(episode)
        if self._identifier is not None:
            pipeline.consult(self._identifier)
        pipeline.every_look(lambda now_ns: self._gpu.count(episode, now_ns))
        self._publish(launcher.pid)
        episode.judge(
            [
                EpisodeStart(
                    time.monotonic_ns(),
                    plan.episode,
                    plan.profile.name,
                    launcher.pid,
                    start,
                    "launched",
                    plan.step,
                )
            ]
        )
        launcher.release()
        self._audit(pipeline)
        duration_s = time.monotonic() - began
        return self._end(pipeline, duration_s)

    def close(self) -> None:
        """Undo whatever `open` and `play` did. May be called twice, and at any point."""
        self._stack.close()

    def _audit(self, pipeline: Pipeline) -> None:
        """Until the command's root process has ended."""
        launcher = self._launcher
        deadline = float("inf")
        while launcher.status is None:
            pipeline.turn(1000)
            while self._signals:
                number = self._signals.pop(0)
                if number == signal.SIGCHLD:
                    continue
                launcher.forward(number)
                deadline = min(deadline, time.monotonic() + _GRACE_S)
            if launcher.reap():
                self._suspend(pipeline)
            if time.monotonic() > deadline:
                self._kill_all(pipeline)
                launcher.wait()

    def _end(self, pipeline: Pipeline, duration_s: float) -> Outcome:
        """Kill what the command left behind, take in the last events, and draw the balance."""
        status = self._launcher.status
        assert status is not None
        self._kill_all(pipeline)
        pipeline.drain()
        if self._identifier is not None:
            pipeline.deliver(self._identifier.finish(_IDENTIFY_S))
        self._gpu.finish(self._episode)
        policy = self._plan.enforce and status == -signal.SIGKILL and self._killed_root
        reason = "killed by policy" if policy else "exited" if status >= 0 else f"signal {-status}"
        code = EXIT_POLICY_KILL if policy else status if status >= 0 else 128 - status
        self._episode.judge([EpisodeEnd(time.monotonic_ns(), reason, code)])
        counters = self._tables.counters(NUMBER)
        received = self._episode.received + pipeline.decoder.silent.get(NUMBER, 0)
        return Outcome(
            code, policy, duration_s, reason, counters.emitted, received, counters.lost,
            counters.untagged_children, pipeline.decoder.damaged,
            self._identifier.unidentified if self._identifier else 0,
        )  # fmt: skip

    def _enforcer(self, mode: Literal["on", "off"], pending_forks: Callable[[int], list[Fork]]) -> Enforcer:
        return Enforcer(
            self._cgroup,
            self._episode.evaluator.processes,
            lambda: self._tables.tagged_pids(NUMBER),
            mode=mode,
            pending_forks=lambda: pending_forks(NUMBER),
            reap=self._reap,
        )

    def _reap(self) -> None:
        self._launcher.reap()

    def _kill_all(self, pipeline: Pipeline) -> None:
        """End every process of the episode, inside its cgroup or out. Nothing is left to fork, run or connect."""
        self._tables.set_episode(NUMBER, self._plan.profile, enforce=self._plan.enforce, doomed=True)
        everything = Verdict(self._episode.evaluator.events, "kill", "episode-end", "", "", scope="episode")
        self._enforcer("on", pipeline.pending_forks).carry_out(
            everything, Step(time.monotonic_ns(), ""), time.monotonic_ns()
        )
        self._launcher.reap()

    def _suspend(self, pipeline: Pipeline) -> None:
        """Ctrl-Z. We stop with the command, so nothing of the episode may run meanwhile."""
        if self._cgroup is None:
            return
        pipeline.drain()
        self._cgroup.freeze()
        self._launcher.suspend()
        self._cgroup.thaw()

    def _observe(self, episode: Episode, items: list[Item]) -> None:
        root = self._launcher.pid
        event: Event | None = None
        for item in items if any(isinstance(each, Verdict) for each in items) else ():
            if isinstance(item, Verdict):
                if item.action == "kill" and (item.scope == "episode" or getattr(event, "pid", 0) == root):
                    self._killed_root = True
            elif getattr(item, "root_pid", 0) == root and getattr(item, "result", "") in (
                "killed",
                "partial",
            ):
                self._killed_root = True
            else:
                event = item  # type: ignore[assignment]
        self._listener(episode, items)

    def _catch_signals(self, pipeline: Pipeline) -> None:
        """Handlers only note the number; the loop wakes up and deals with it."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        before = {number: signal.getsignal(number) for number in (*_FORWARDED, signal.SIGCHLD)}
        for number in before:
            signal.signal(number, lambda number, _frame: self._signals.append(number))
        # The command may set `tostop`: what we write to its terminal would then stop us, and it would run unjudged.
        before[signal.SIGTTOU] = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        pipeline.watch(read)

        def restore() -> None:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(read)
            os.close(write)

        self._stack.callback(restore)

    def _spare_from_memory_shortage(self) -> None:
        """Let the kernel, short of memory, look for its victim elsewhere; the command, forked before, is no such exception."""
        with contextlib.suppress(OSError):  # needs CAP_SYS_RESOURCE
            Path("/proc/self/oom_score_adj").write_text("-1000")

    def _publish(self, pid: int) -> None:
        self._seat.update(
            Registration(
                self._plan.episode,
                self._plan.profile.name,
                os.getpid(),
                self._plan.step,
                pid,
                str(self._cgroup.path) if self._cgroup else "",
                bpf.map_id(self.probes.maps["tags"]),
                NUMBER,
            )
        )

    def _remove_cgroup(self) -> None:
        if self._cgroup is not None:
            if self._cgroup.populated() and self._cgroup.can_kill:
                self._cgroup.kill_all()
            self._cgroup.remove()


def _become_realtime() -> Callable[[], None]:
    """Let no ordinary process keep us from a CPU, if the host permits; what we start is ordinary again.

    Returns what undoes it.
    """
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(OSError):  # no CAP_SYS_NICE, or a v1 cpu cgroup without a real-time share
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    return lambda: os.sched_setscheduler(0, *before)


def default_trail(episode: str, folder: Path = Path("/var/log/ebpfaudit")) -> Path:
    """Where a trail goes that nobody placed: a folder that no agent without root can look into."""
    from ebpfaudit.enforce.cgroup import directory_name

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return folder / f"{directory_name(episode)}-{stamp}-{os.getpid()}.jsonl.zst"
