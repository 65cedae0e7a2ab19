"""Mirror of struct gpu_record (probes/events.h). tests/layout checks it with a C compiler."""

from __future__ import annotations

import struct
from typing import NamedTuple

_HEADER = "IIQQII16s"
"""struct record_header: kind, episode, ts_ns, start_ns, pid, uid, comm."""


class GpuRecordLayout(NamedTuple):
    c_name: str
    fields: tuple[tuple[str, str], ...]
    has_header: bool = True

    @property
    def layout(self) -> struct.Struct:
        return struct.Struct("=" + _HEADER + "".join(form for _, form in self.fields))


GPU_RECORD = GpuRecordLayout(
    "gpu_record",
    (
        ("bytes", "Q"), ("command", "I"), ("status", "I"), ("error", "i"), ("device", "H"), ("kind", "B"),
        ("match", "B"), ("uuid", "16s"), ("has_uuid", "B"), ("driver", "B"), ("decision", "B"), ("reserved", "5x"),
    ),
)  # fmt: skip
