"""Where one workload runs: namespaces of its own, a user of its own, a home folder, and a network that leads nowhere.

Everything that is made here lives in a mount and a network namespace, so it is gone with the last process in them,
whatever ends this program. A name or an address outside can be asked for and is never reached, audited or not.

`unshare --net --mount stage.sh PYTHON NAME PROFILE [--plain]`: the outcome as JSON on stdout.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ebpfaudit.output.describe import describe, verdict_text
from ebpfaudit.trail.reader import Trail
from ebpfaudit.verdicts import Enforcement, Verdict

from .catalogue import PATH, Workload, workloads
from .outcome import Alarm, Outcome, Run

CHECKOUT = Path(__file__).resolve().parents[2]
"""On the stage: /srv/product, where `stage.sh` shows it, because it may lie in a folder that is covered."""
_MAIN = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); from ebpfaudit.cli import main; main()"
HOME = Path("/srv/agent")
RECORDS = Path("/srv/records")
RESOLVER = "127.0.0.53"
_ELSEWHERE = "10.0.2.3"
_COVERED = ("/tmp", "/var/tmp", "/dev/shm")
_UID_BASE = 2_000_000
"""Plus our pid, which is below 4,194,304: a user whom no other stage has, and no system hands out."""


class Stage:
    """`with Stage(workload) as stage`: set up inside namespaces that the caller made for this process alone."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.uid = _UID_BASE + os.getpid()
        self.user = f"agent-{os.getpid()}"
        self._resolver: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Stage:
        for folder in _COVERED:
            _command("mount", "-t", "tmpfs", "-o", "mode=1777,size=4g", "tmpfs", folder)
        RECORDS.mkdir(mode=0o700)
        _replace("/etc/passwd", f"{self.user}:x:{self.uid}:{self.uid}:Agent:{HOME}:/bin/bash\n", keep=True)
        _replace("/etc/group", f"{self.user}:x:{self.uid}:\n", keep=True)
        _replace(
            "/etc/resolv.conf", f"nameserver {RESOLVER if self.workload.names else _ELSEWHERE}\n", keep=False
        )
        _make_network()
        if self.workload.names:
            self._resolver = subprocess.Popen(
                ["/usr/bin/python3", str(Path(__file__).with_name("resolver.py")), RESOLVER],
                stdout=subprocess.PIPE,
            )
            assert self._resolver.stdout is not None
            self._resolver.stdout.readline()  # it answers
        return self

    def __exit__(self, *_reason: object) -> None:
        if self._resolver is not None:
            self._resolver.kill()
            self._resolver.wait()
        self._end_user()

    def plain(self) -> Run:
        """The workload without an auditor."""
        self._prepare()
        start = time.monotonic()
        code, output = self._as_user(self.workload.run)
        seconds = time.monotonic() - start
        self._end_user()
        return Run(code, seconds, output)

    def audited(self, profile: str) -> Outcome:
        """The workload under `ebpfaudit run`, in a fresh home folder."""
        self._prepare()
        trail, result = RECORDS / "trail.jsonl.zst", RECORDS / "result.json"
        command = [
            sys.executable, "-c", _MAIN, "run", "--profile", profile,
            "--episode", f"workload-{os.getpid()}",
            "--user", self.user, "--trail", str(trail), "--result", str(result), "--quiet", "--",
            "bash", "-euo", "pipefail", "-c", self.workload.run,
        ]  # fmt: skip
        code, output = _finish(command, HOME, _environment(self.user), self.workload.timeout_s)
        if not result.exists():
            raise SystemExit(f"workloads: ebpfaudit itself failed ({code}): {output[-2000:]}")
        return _outcome(trail, msgspec.json.decode(result.read_bytes()), code, output)

    def _prepare(self) -> None:
        _command("rm", "-rf", str(HOME))
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):
            _command("find", folder, "-xdev", "-mindepth", "1", "-delete")
        HOME.mkdir(mode=0o755)
        os.chown(HOME, self.uid, self.uid)
        if self.workload.setup:
            code, output = self._as_user(self.workload.setup)
            if code:
                raise SystemExit(
                    f"workloads: the setup of {self.workload.name!r} failed ({code}):\n{output[-2000:]}"
                )
            self._end_user()

    def _as_user(self, script: str) -> tuple[int, str]:
        identity = {"user": self.uid, "group": self.uid, "extra_groups": []}
        command = ["/bin/bash", "-euo", "pipefail", "-c", script]
        return _finish(command, HOME, _environment(self.user), self.workload.timeout_s, **identity)

    def _end_user(self) -> None:
        """No process of the user stays."""
        while pids := list(_processes_of(self.uid)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def _environment(user: str) -> dict[str, str]:
    return {
        "PATH": PATH, "HOME": str(HOME), "USER": user, "LOGNAME": user, "SHELL": "/bin/bash",
        "LANG": "C.UTF-8", "TERM": "xterm",
    }  # fmt: skip


def _finish(
    command: list[str], folder: Path, environment: dict[str, str], timeout_s: float, **identity: Any
) -> tuple[int, str]:
    """Exit code and all output. Into a file: what stays in the background may keep a pipe open for ever."""
    path = RECORDS / "output"
    with path.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True, umask=0o022, **identity,
        )  # fmt: skip
        try:
            code = process.wait(timeout_s)
        except BaseException as error:
            process.terminate()  # ebpfaudit passes it on, and ends its episode
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            code = 124
    return code if code >= 0 else 128 - code, path.read_bytes().decode("utf-8", "replace")


def _outcome(trail: Path, result: dict[str, Any], code: int, output: str) -> Outcome:
    events: list[Any] = []
    alarms: list[Alarm] = []
    denials = 0
    with Trail(trail) as recorded:
        for item in recorded:
            if isinstance(item, Verdict):
                denials += item.action == "deny"
                if item.action in ("alert", "freeze", "kill") and item.rule != "episode-end":
                    cause = describe(events[item.seq]).what if item.seq < len(events) else ""
                    alarms.append(Alarm(item.action, item.rule, verdict_text(item), cause))
            elif not isinstance(item, Enforcement):
                events.append(item)
    return Outcome(Run(code, result["duration_s"], output), len(events), denials, alarms, result["lost"])


def _processes_of(uid: int) -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                status = Path(entry.path, "status").read_text()
                if f"\nUid:\t{uid}\t" in status and "\nState:\tZ" not in status:
                    yield int(entry.name)


def _replace(path: str, text: str, *, keep: bool) -> None:
    """Another content for a file of /etc, in this namespace only."""
    real = os.path.realpath(path)
    if not os.path.exists(real):
        return
    copy = RECORDS.parent / Path(path).name
    copy.write_text((Path(real).read_text() if keep else "") + text)
    _command("mount", "--bind", str(copy), real)


def _make_network() -> None:
    """Loopback, and an interface as an agent's sandbox has one, behind which nothing answers, at once."""
    for words in (
        "link set lo up",
        "link add eth0 type veth peer name nowhere",
        "link set eth0 up",
        "link set nowhere up",
        "address add 10.0.2.15/24 dev eth0",
        "-6 address add fd00:0:0:2::15/64 dev eth0 nodad",
        "route add unreachable default",
        "-6 route add unreachable default",
        f"route add unreachable {_ELSEWHERE}",
        "route add 224.0.0.0/4 dev eth0",
    ):
        _command("ip", *words.split())


def _command(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"workloads: {' '.join(words)}: {done.stderr.strip()}")


def main() -> None:
    name, profile, *plain = sys.argv[1:]
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: without its caller nobody wants the answer
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    (workload,) = (each for each in workloads() if each.name == name)
    with Stage(workload) as stage:
        before = stage.plain() if plain else None
        outcome = stage.audited(profile)
    outcome.plain = before
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
