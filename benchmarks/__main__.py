"""`make bench`: every benchmark, or those named: overhead throughput latency startup size evaluator."""

from __future__ import annotations

import argparse
import os

from benchmarks import evaluator, latency, overhead, size, startup, throughput
from benchmarks.audit import need_root, workshop

_ALL = {
    "startup": startup.report, "overhead": overhead.report, "latency": latency.report,
    "throughput": throughput.report, "size": size.report, "evaluator": evaluator.report,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", choices=[*_ALL, []], help="default: all")
    chosen = parser.parse_args().which or list(_ALL)
    need_root()
    load = os.getloadavg()[0]
    print(
        f"Linux {os.uname().release}, {os.cpu_count()} CPUs, load {load:.1f}"
        + ("  (busy: expect worse)" if load > 1 else "")
    )
    with workshop() as folder:
        for name in chosen:
            _ALL[name](folder)


if __name__ == "__main__":
    main()
