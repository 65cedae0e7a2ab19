"""The incident, for real: an agent that wanders off, under `ebpfaudit run`; then what became of each act.

    .venv/bin/python examples/incident/incident.py               audited, as `make run` does
    .venv/bin/python examples/incident/incident.py --unguarded   the same acts with nobody watching

Needs root. Exit status 0: every act was caught, ordinary work raised no alarm, and the trail verifies and
replays to the same verdicts (with --unguarded: every act succeeded). Else 1.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import story
from stage import HERE, Stage

EBPFAUDIT = Path(sys.executable).parent / "ebpfaudit"
DEFAULT_OUT = HERE.parents[1] / "build" / "incident"
LIMIT_S = 300
GRACE_S = 15


def main() -> int:
    parser = argparse.ArgumentParser(description="Act out the incident and show what became of each act.")
    parser.add_argument("--unguarded", action="store_true", help="without ebpfaudit: show that the acts work")
    parser.add_argument("--profile", default="coding-agent", help="the profile to judge by (%(default)s)")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder for trail and results")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("incident: needs root, for network namespaces and for the probes: sudo make run")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        with Stage() as stage:
            try:
                stage.build()
            except (OSError, subprocess.CalledProcessError) as error:
                sys.exit(f"incident: the stage cannot be built here: {error}")
            if arguments.unguarded:
                return run_unguarded(stage, arguments.out)
            return run_audited(stage, arguments.out, arguments.profile)
    except KeyboardInterrupt:
        return 130


def run_unguarded(stage: Stage, out: Path) -> int:
    status = run_to_end(stage.inside(stage.agent, agent_command(stage)), agent_environment(stage))
    acts = story.read_acts(stage.folder / "report.jsonl", None, stage.seen_outside())
    print("\nThe same acts with nobody watching\n")
    for act in acts:
        print(story.tell(act, audited=False))
    story.save(acts, out / f"incident-{os.getpid()}.json")
    worked = status == 0 and len(acts) == story.ACT_COUNT and all(act.succeeded for act in acts)
    print(f"\n{'Every act succeeded.' if worked else 'An act failed on its own: the stage proves nothing.'}")
    return 0 if worked else 1


def run_audited(stage: Stage, out: Path, profile: str) -> int:
    episode = f"incident-{os.getpid()}"
    trail = out / f"{episode}.jsonl.zst"
    audited = [
        str(EBPFAUDIT), "run", "--profile", profile, "--episode", episode, "--trail", str(trail),
        "--result", str(out / f"{episode}.result.json"), "--user", "root",
        "--gpu-device", f"{stage.gpu}=nvidia-uvm", "--",
    ]  # fmt: skip
    # The auditor too is started in the agent's namespace, so that the agent itself is the episode's root.
    command = stage.inside(stage.agent, [*audited, *agent_command(stage)])
    status = run_to_end(command, agent_environment(stage))
    if status != 0:
        print(f"incident: the audited run ended with exit status {status}", file=sys.stderr)
        return 1
    acts = story.read_acts(stage.folder / "report.jsonl", trail, stage.seen_outside())
    print(f"\nWhat became of each act under the profile {profile}\n")
    for act in acts:
        print(story.tell(act, audited=True))
    story.save(acts, out / f"{episode}.json")
    checks = [
        (len(acts) == story.ACT_COUNT, "the agent came to the end of its acts"),
        (all(act.innocent for act in acts if act.is_ordinary), "ordinary work passed without an alarm"),
        (all(act.caught for act in acts if not act.is_ordinary), "every other act was caught"),
        (verify(trail), "the trail verifies"),
        (replay(trail), "the trail replays to the same verdicts"),
    ]
    print()
    for passed, what in checks:
        print(f"{'yes' if passed else 'NO '}  {what}")
    print(f"\nThe trail: {shown(trail)}")
    return 0 if all(passed for passed, _ in checks) else 1


def agent_command(stage: Stage) -> list[str]:
    return [
        "/usr/bin/python3", str(HERE / "agent.py"), "--workspace", str(stage.folder / "workspace"),
        "--python", sys.executable, "--ssh-key", str(stage.ssh_key), "--gpu", str(stage.gpu),
        "--report", str(stage.folder / "report.jsonl"),
    ]  # fmt: skip


def agent_environment(stage: Stage) -> dict[str, str]:
    """Nothing of the caller's: neither its settings for pip and git nor its secrets."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(stage.folder / "workspace"),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def run_to_end(command: list[str], environment: dict[str, str]) -> int:
    """Its exit status; on our way out it is asked to end, and gets the time to clean up behind itself."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
    try:
        return process.wait(LIMIT_S)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def verify(trail: Path) -> bool:
    print(f"\n$ ebpfaudit verify {shown(trail)}", flush=True)
    return subprocess.run([str(EBPFAUDIT), "verify", str(trail)], check=False).returncode == 0


def replay(trail: Path) -> bool:
    """The verdicts themselves were told above; the comparison is what is left to show."""
    print(f"\n$ ebpfaudit replay --json {shown(trail)} >/dev/null", flush=True)
    command = [str(EBPFAUDIT), "replay", "--json", str(trail)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    print(done.stderr, end="")
    return done.returncode == 0


def shown(path: Path | str) -> str:
    """As short as it can be typed."""
    return min(str(path), os.path.relpath(path), key=len)


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
