"""How long a tree kill takes, from the decision to the last process verified gone.

    sudo .venv/bin/python benchmarks/enforce.py --sizes 1,2,50,500 --rounds 50

Each round plays a fresh episode: a root, the offending tree, and bystanders in trees of their own that must
outlive the kill. Compared are the ways of `ebpfaudit.enforce.enforcer`: freezing and killing by pidfd (the
usual one), a cgroup of its own for the tree (`apart`), cgroup.kill of the whole episode, and no cgroup.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ebpfaudit.enforce.cgroup import EpisodeCgroup
from ebpfaudit.enforce.enforcer import Enforcer
from ebpfaudit.enforce.pidfd import read_stat
from ebpfaudit.events import Exec, Fork
from ebpfaudit.process import ProcessTable
from ebpfaudit.verdicts import Enforcement, Verdict

TREE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
/* Root: waits for a byte, then forks the offender (v[1] processes) and v[2] bystanders, and says READY. */
static void rest(void) { for (;;) pause(); }
int main(int c, char **v) {
    char go;
    if (c < 3 || read(0, &go, 1) != 1) return 1;
    if (!fork()) { for (int i = atoi(v[1]); i > 1; i--) if (!fork()) rest(); write(1, "t", 1); rest(); }
    for (int i = atoi(v[2]); i > 0; i--) if (!fork()) rest();
    write(1, "r", 1);
    rest();
}
"""
WAYS = ("pidfd", "apart", "episode", "no-cgroup")


def compile_tree(folder: Path) -> Path:
    program = folder / "tree"
    subprocess.run(["cc", "-O2", "-x", "c", "-o", str(program), "-"], input=TREE.encode(), check=True)
    return program


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def table_of(root: int, pids: set[int]) -> tuple[ProcessTable, list[int]]:
    """The table that an audit would have, and the tops below the root, the offender's first."""
    stats = {pid: stat for pid in pids if (stat := read_stat(pid))}
    table = ProcessTable()
    table.set_root(root, stats[root].start)
    tops = sorted(pid for pid in stats if stats[pid].ppid == root)
    for pid in [*tops, *(pid for pid in stats if stats[pid].ppid in tops)]:
        parent = stats[pid].ppid
        table.fork(Fork(0, parent, stats[parent].start, pid, stats[pid].start))
    return table, tops


def strike(program: Path, way: str, size: int, bystanders: int) -> Enforcement:
    cgroup = EpisodeCgroup("benchmark")
    root = subprocess.Popen(
        [program, str(size), str(bystanders)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert root.stdin and root.stdout
    try:
        cgroup.add(root.pid)
        root.stdin.write(b"x")
        said = b""
        while len(said) < 2:
            said += root.stdout.read(1) or b""
        time.sleep(0.03)
        pids = cgroup.procs()
        table, tops = table_of(root.pid, pids)
        assert len(pids) == 1 + size + bystanders == len(table)
        if way == "apart":
            cgroup.freeze = lambda timeout_s=0: False  # type: ignore[method-assign]
        enforcer = Enforcer(None if way == "no-cgroup" else cgroup, table, set, reap=lambda: None)
        offender = next(process for process in table.alive() if process.pid == tops[0])
        scope = "episode" if way == "episode" else "tree"
        verdict = Verdict(0, "kill", "benchmark", "exe", "tree", scope=scope)
        event = Exec(0, offender.pid, offender.start, root.pid, "tree", ("tree",), "/", "tree", 0)
        record = enforcer.carry_out(verdict, event, time.monotonic_ns())
        killed = 1 + size + bystanders if way == "episode" else size
        assert (record.result, record.processes) == ("killed", killed), record
        return record
    finally:
        cgroup.kill_all()
        cgroup.wait_empty(5)
        root.wait()
        reap()
        root.stdin.close()
        root.stdout.close()
        cgroup.remove()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="1,2,50,500", help="processes in the offending tree")
    parser.add_argument("--bystanders", type=int, default=10, help="other trees in the episode")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--ways", default=",".join(WAYS))
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root: it makes cgroups")
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    print("times in ms since the decision: p50 / p99 (the worst, below 100 rounds)")
    print(f"{'processes':>9}  {'way':<10} {'killed':>15}  {'gone':>15}")
    with tempfile.TemporaryDirectory() as folder:
        program = compile_tree(Path(folder))
        for size in map(int, arguments.sizes.split(",")):
            for way in arguments.ways.split(","):
                records = [strike(program, way, size, arguments.bystanders) for _ in range(arguments.rounds)]
                cells = []
                for field in ("killed_ns", "gone_ns"):
                    took_ms = [(getattr(record, field) - record.decided_ns) / 1e6 for record in records]
                    cells.append(f"{percentile(took_ms, 0.5):6.2f} / {percentile(took_ms, 0.99):6.2f}")
                print(f"{size:>9}  {way:<10} {cells[0]:>15}  {cells[1]:>15}", flush=True)


if __name__ == "__main__":
    main()
