"""How much an episode can make its evaluator hold, whatever it does. `Evaluator.memory` counts it.

| held | at most |
| --- | --- |
| windows of a count, sequences of a rule, windows of a limit | `MAX_KEYS` each, the longest untouched goes |
| entries of a window | `over` + 1; of all windows of one count together, `MAX_ENTRIES` (or `over` + 1) |
| events of a sequence | one or two numbers per part |
| marks | one expiry per name (32 in a profile), process, tree and episode |
| answers, and what the index knows of values | `MAX_REMEMBERED` and `MAX_REMEMBERED_CHARS`, then all is learned anew |
| processes | the live ones, and `process.MAX_DEPARTED` ended ones if the profile names identities |
"""

from __future__ import annotations

MAX_KEYS = 1024
"""Processes, trees or steps that one count, sequence or limit tells apart."""

MAX_ENTRIES = 65_536
"""Of one count, over all its windows: beyond, windows longest untouched are dropped."""

MAX_REMEMBERED = 16_384
"""Answers (of an evaluator), and known values (of a profile's index)."""

MAX_REMEMBERED_CHARS = 8 * 2**20
"""Characters that these hold: a hostile process chooses long ones."""

LONGEST_REMEMBERED = 512
"""A value longer than this, or what is new in a command line if that is longer, is looked at each time."""

LONGEST_IMAGE = 4096
"""Processes whose arguments and paths are longer in all share no answers."""

MAX_PROCESSES = 2**22
"""Live ones: the kernel has no more pids (PID_MAX_LIMIT, include/linux/threads.h)."""

LONGEST_COUNTED = 64
"""A longer text is counted (`distinct`) by its hash."""
