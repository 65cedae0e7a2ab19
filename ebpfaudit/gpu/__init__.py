"""GPUs and other accelerators: which devices there are, and what their drivers' commands mean.

Knows nothing of BPF: `kernel.gpu` writes what is found here into the probe's maps.
"""

from __future__ import annotations

KINDS = ("unknown", "open", "enumerate", "context", "channel", "alloc", "submit", "admin", "other")
"""What a call is about, in the order of enum gpu_kind (probes/events.h).

enumerate: opens a session or asks questions (nvidia-smi does no more); context: makes what compute runs in, or a
user-mode queue; channel: the parts of a context; alloc: memory; submit: work; admin: changes the device or watches
others; other: a known command that says nothing more (map, free, wait); unknown: not in the table.
"""

MATCHES = ("nr", "type-nr", "cmd", "hclass", "ctrl")
"""Which number names a command, in the order of enum gpu_match (probes/events.h)."""

JUDGED_KINDS = ("open", "context", "submit")
"""Kinds on which the probe carries out a [gpu] section: opening is refused; a context, or the first work that is
submitted, on a denied device (by a descriptor from elsewhere) is answered with SIGKILL."""
