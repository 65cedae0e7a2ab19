"""Mirror of probes/events.h for Python: formats, kinds and flags. tests/layout checks it with a C compiler.

Each record is declared as (field name, struct format) pairs; "4x" is padding. Native order, no alignment:
padding is written out, as the header writes out its `reserved` fields.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ebpfaudit.events import Decision

FORK, EXEC, EXEC_FAILED, EXIT, CONNECT, CONNECT_DONE, CONNECT_UNIX, CGROUP_MOVE, GPU = range(1, 10)

ARGV_MAX = 65536
UNIX_PATH_MAX = 108

EXEC_SCRIPT, EXEC_DELETED, EXEC_DETACHED = 1, 2, 4
EXEC_EXE_TRUNCATED, EXEC_CWD_TRUNCATED, EXEC_ARGV_UNREADABLE = 8, 16, 32

DECISIONS: tuple[Decision, ...] = ("", "allow", "deny", "kill")

HEADER_FIELDS = (
    ("kind", "I"), ("episode", "I"), ("ts_ns", "Q"), ("start_ns", "Q"), ("pid", "I"), ("uid", "I"), ("comm", "16s"),
)  # fmt: skip


class Record(NamedTuple):
    """A C struct: its name, its fields after the header (if it has one), and how to read it."""

    c_name: str
    fields: tuple[tuple[str, str], ...]
    has_header: bool = True

    @property
    def layout(self) -> struct.Struct:
        fields = (HEADER_FIELDS if self.has_header else ()) + self.fields
        return struct.Struct("=" + "".join(form for _, form in fields))


HEADER = Record("record_header", HEADER_FIELDS, has_header=False)
FORK_RECORD = Record("fork_record", (("child_start_ns", "Q"), ("child_pid", "I"), ("reserved", "4x")))
EXEC_RECORD = Record(
    "exec_record",
    (
        ("inode", "Q"), ("device", "I"), ("parent_pid", "I"), ("flags", "I"), ("decision", "I"), ("exe_bytes", "I"),
        ("cwd_bytes", "I"), ("filename_bytes", "I"), ("argv_bytes", "I"), ("argv_total", "Q"),
        ("stdio_address", "16s"), ("stdio_port", "H"), ("stdio_family", "B"), ("reserved", "5x"),
    ),
)  # fmt: skip
EXEC_FAILED_RECORD = Record("exec_failed_record", (("error", "i"), ("filename_bytes", "I")))
EXIT_RECORD = Record("exit_record", (("status", "I"), ("reserved", "4x")))
CONNECT_RECORD = Record(
    "connect_record",
    (
        ("address", "16s"), ("port", "H"), ("family", "B"), ("protocol", "B"), ("decision", "B"), ("reserved", "3x"),
        ("error", "i"), ("thread", "I"),
    ),
)  # fmt: skip
CONNECT_UNIX_RECORD = Record(
    "connect_unix_record",
    (
        ("type", "B"),
        ("decision", "B"),
        ("path_bytes", "H"),
        ("thread", "I"),
        ("path", "108s"),
        ("reserved", "4x"),
    ),
)
CGROUP_MOVE_RECORD = Record(
    "cgroup_move_record",
    (
        ("cgroup_id", "Q"),
        ("by_pid", "I"),
        ("inside", "I"),
        ("adopted", "I"),
        ("path_bytes", "I"),
        ("path", "256s"),
    ),
)

RECORDS = (
    HEADER, FORK_RECORD, EXEC_RECORD, EXEC_FAILED_RECORD, EXIT_RECORD, CONNECT_RECORD, CONNECT_UNIX_RECORD,
    CGROUP_MOVE_RECORD,
)  # fmt: skip
"""Every struct of events.h: the layout test fails if the header has one that is not here."""
