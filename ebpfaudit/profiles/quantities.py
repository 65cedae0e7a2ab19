"""Durations and sizes as a profile writes them."""

from __future__ import annotations

import re

_UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h)")
_SIZE = re.compile(r"(?:over +)?([0-9]{1,15}(?:\.[0-9]{1,15})?) *(B|KiB|MiB|GiB|TiB)?")
_SIZE_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def size_over(text: str) -> int:
    """Bytes of "over 1.5GiB"; raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"'{text}' is not a size: write \"over 1GiB\"")
    return int(float(found[1]) * _SIZE_UNITS[found[2] or ""])


def duration_ns(text: str) -> int:
    """Nanoseconds of "500ms", "10s", "5m" or "2h"; raises ValueError."""
    found = _DURATION.fullmatch(text)
    if found is None or not int(found[1]):
        raise ValueError(f'\'{text}\' is not a duration: write "500ms", "10s", "5m" or "2h"')
    return int(found[1]) * _UNITS_NS[found[2]]
