"""What a trail is made of: its lines, its frames, and the limits that both sides keep.

A trail is NDJSON in a row of zstd frames, so `zstdcat trail | jq` reads it. docs/trail-format.md says all
of it in words. Within format 1, new fields go to the end with a default, and new kinds of event may
appear: a reader keeps what it does not know. Anything else raises `FORMAT`.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ebpfaudit.events import Event
from ebpfaudit.verdicts import Enforcement, Verdict

FORMAT = 1
"""A reader reads this and every earlier one."""

FRAME_TEXT_BYTES = 1 << 20
"""A writer closes a frame that has this much text."""
FRAME_AGE_NS = 1_000_000_000
"""A writer closes a frame whose first line is this old."""

MAX_LINE_BYTES = 16 << 20
MAX_FRAME_BYTES = 64 << 20
"""Of a frame, compressed or not. Readers refuse more: nobody writes it but to hurt them."""
MAX_WINDOW_BYTES = 8 << 20
"""zstd asks every decoder for this much, and a decoder refuses more unless told otherwise."""

SEAL_MAGIC = b"\x5e\x2a\x4d\x18"
SEAL_PREFIX = SEAL_MAGIC + (32).to_bytes(4, "little")
"""The last 40 bytes are a skippable frame, which zstd tools pass over: the SHA-256 of the frame before."""
SEAL_BYTES = len(SEAL_PREFIX) + 32

DISK_FULL = "disk full"
"""`Lost.what` where it was the trail that could not take events."""


class Header(Struct, frozen=True, kw_only=True, tag_field="kind", tag="header"):
    """The first line: where, when and under which profile. Alone in the first frame."""

    format: int = FORMAT
    version: str
    """Of ebpfaudit."""
    host: str
    boot_id: str
    kernel: str
    """Its release, as of uname(2)."""
    realtime_ns: int
    monotonic_ns: int
    """CLOCK_REALTIME and CLOCK_MONOTONIC at one moment: their difference turns `ts_ns` into time of day."""
    episode: str
    profile: str
    profile_text: str
    """The whole resolved profile: what `replay` judges by."""
    profile_hash: str
    """SHA-256 of `profile_text`, in hexadecimal."""
    coverage: tuple[str, ...] = ()
    """One line a promise: by which hooks it is kept on that kernel, and what stays open."""
    step: str = ""
    command: tuple[str, ...] = ()
    enforce: bool = True
    """False: nothing was refused or killed, only recorded."""


class Frame(Struct, frozen=True, tag_field="kind", tag="frame"):
    """The first line of every frame but the first."""

    n: int
    """Number of the frame; the header's is 0."""
    prev: str
    """SHA-256 of the frame before, as it lies in the file, in hexadecimal."""
    first: int
    """Number of the next event. The others follow by counting: every line of a frame is an event but
    `frame`, `verdict`, `enforcement` and `end`."""


class End(Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="end"):
    """The last line of a trail that was closed."""

    ts_ns: int
    reason: str
    code: int
    complete: bool
    """Every event of the episode was received, and is in this trail."""
    events: int
    """How many there were, in the trail or not: the number of the one that did not come."""
    verdicts: int = 0
    enforcements: int = 0
    lost: int = 0
    """Events that the probes could not hand over: the sum of `lost` lines, but for those of a full disk."""
    unwritten: int = 0
    """Events that the trail itself could not take."""


Item = Event | Verdict | Enforcement
Line = Header | Frame | End | Item
Unknown = dict[str, Any]
"""A line of a kind that this version does not know. It counts as an event."""
