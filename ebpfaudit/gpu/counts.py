"""How often each process called a GPU's driver: exact, from counters that the probe only ever increments."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ebpfaudit.events import GpuCount
from ebpfaudit.gpu import KINDS
from ebpfaudit.process import TICK_NS

KEY = struct.Struct("=IIHH")
"""struct gpu_count_key: tgid, start (ns >> 20), device, kind."""
VALUE = struct.Struct("=QQQII")
"""struct gpu_count, for each CPU: calls, bytes, start_ns, episode, reserved."""


class _Total(NamedTuple):
    calls: int
    bytes: int


class GpuCounts:
    """Turns running totals into `GpuCount` events: what was added since the last look.

    `keys` lists the counters' keys, `read` gives one's value for all CPUs (None if it is gone), `discard` removes one.
    `alive(pid, start)` tells whether a process still lives (`start` as in the key); `label` names a device.
    """

    def __init__(
        self,
        keys: Callable[[], Iterable[bytes]],
        read: Callable[[bytes], bytes | None],
        discard: Callable[[bytes], None],
        alive: Callable[[int, int], bool],
        label: Callable[[int], str],
    ) -> None:
        self._keys = keys
        self._read = read
        self._discard = discard
        self._alive = alive
        self._label = label
        self._reported: dict[bytes, _Total] = {}

    def collect(self, now_ns: int) -> list[tuple[int, GpuCount]]:
        """(episode number, event) of every counter that moved. Counters of processes that ended are removed."""
        found = []
        for key in list(self._keys()):
            pid, start, device, kind = KEY.unpack(key)
            ended = not self._alive(pid, start)  # asked before reading: then what is read is final
            value = self._read(key)
            if value is None:
                continue
            total, start_ns, episode = _sum(value)
            before = self._reported.get(key, _Total(0, 0))
            if total.calls > before.calls:
                event = GpuCount(
                    now_ns, pid, start_ns // TICK_NS, KINDS[kind], self._label(device),
                    total.calls - before.calls, total.bytes - before.bytes,
                )  # fmt: skip
                found.append((episode, event))
            if ended:
                self._discard(key)
                self._reported.pop(key, None)
            else:
                self._reported[key] = total
        return found


def _sum(value: bytes) -> tuple[_Total, int, int]:
    """Total over all CPUs, and who it is; only the CPU that came first knows the latter, the others hold 0."""
    calls = size = start_ns = episode = 0
    for more_calls, more_bytes, its_start_ns, its_episode, _ in VALUE.iter_unpack(value):
        calls += more_calls
        size += more_bytes
        start_ns |= its_start_ns
        episode |= its_episode
    return _Total(calls, size), start_ns, episode
