"""Running things under the real `ebpfaudit run`, for the benchmarks: pinned, quiet, with their figures kept."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
EBPFAUDIT = [sys.executable, "-c", "from ebpfaudit.cli import main; main()"]
WORKLOAD_CPU, AUDITOR_CPU = "0", "1"

OPEN_PROFILE = """name = "bench-open"
[network]
default = "allow"
kill = ["metadata"]
"""


def build(name: str, folder: Path) -> str:
    """Path of a compiled programs/NAME.c."""
    target = folder / name
    if not target.exists():
        subprocess.run(["cc", "-O2", "-o", target, PROGRAMS / f"{name}.c"], check=True)
    return str(target)


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ebpfaudit-bench-") as folder:
        yield Path(folder)


def profile(folder: Path, text: str) -> str:
    path = folder / f"profile-{abs(hash(text))}.toml"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def rules(count: int) -> str:
    """A profile with a [network] section and so many rules of mixed kinds, none of which is ever met."""
    forms = (
        'on = "exec"\nwhen = {{ exe = ["*/tool-{n}", "*/other-{n}-*"], argv = ["--flag-{n}=*"] }}',
        'on = "exec"\nwhen = {{ argv = ["*indicator-{n}*://*"] }}',
        'on = "connect"\nwhen = {{ dst = "10.{n}.0.0/16", port = ["{n}-400", 5000] }}',
        'on = "connect"\nwhen = {{ dst = "private" }}\ncount = {{ distinct = "dst", over = 2{n}, within = "10s", per = "tree" }}',
        'on = "gpu"\nwhen = {{ event = "context", exe = "/tmp/{n}*" }}',
    )
    text = OPEN_PROFILE.replace("bench-open", f"bench-{count}-rules")
    for n in range(count):
        text += f'\n[[rule]]\nid = "rule-{n}"\n{forms[n % len(forms)].format(n=n)}\naction = "alert"\n'
    return text


def audited(
    folder: Path, profile_path: str, command: Sequence[str], *options: str, trail: str = "none"
) -> tuple[dict[str, object], str]:
    """Run a command under audit, the auditor on its own CPU. Returns the result's JSON, and stdout."""
    result = folder / f"result-{time.monotonic_ns()}.json"
    done = subprocess.run(
        ["taskset", "-c", AUDITOR_CPU, *EBPFAUDIT, "run", "--quiet", "--profile", profile_path, "--trail", trail,
         "--result", str(result), *options, "--", *command],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
    )  # fmt: skip
    return json.loads(result.read_text()), done.stdout


@contextlib.contextmanager
def host_under_audit(folder: Path, profile_path: str) -> Iterator[None]:
    """Somebody else's episode is being audited on this host, and idles."""
    ready = folder / f"ready-{time.monotonic_ns()}"
    auditor = subprocess.Popen(
        ["taskset", "-c", AUDITOR_CPU, *EBPFAUDIT, "run", "--quiet", "--profile", profile_path, "--trail", "none",
         "--", "sh", "-c", f"touch {ready}; exec sleep 600"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not ready.exists():
            if auditor.poll() is not None:
                raise SystemExit("the auditor did not start: try 'ebpfaudit doctor'")
            time.sleep(0.02)
        yield
    finally:
        auditor.terminate()
        auditor.wait()


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def pinned(command: Sequence[str]) -> list[str]:
    return ["taskset", "-c", WORKLOAD_CPU, *command]


def need_root() -> None:
    if os.geteuid() != 0:
        raise SystemExit("benchmarks load probes: run them as root")
