"""Where the kernel's file systems are mounted on this host."""

from __future__ import annotations

import re
from pathlib import Path


def cgroup2_mount(mountinfo: str | None = None) -> Path | None:
    """Where cgroup v2 is mounted, unified or beside v1 ("hybrid"); None where it is not.

    `mountinfo` is the text of /proc/self/mountinfo, which is read if it is not given.
    """
    if mountinfo is None:
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    found = []
    for line in mountinfo.splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split(" ")[0] == "cgroup2":
            escaped = fields.split(" ")[4]
            found.append(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), escaped))
    usual = [point for point in found if point.startswith("/sys/fs/cgroup")]
    return Path(min(usual or found, key=len)) if found else None
