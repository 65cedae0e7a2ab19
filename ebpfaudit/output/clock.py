"""CLOCK_MONOTONIC times of events as times of day."""

from __future__ import annotations

import time


class WallClock:
    """Turns `ts_ns` into local or UTC time. Dates are made once a second, not once an event."""

    def __init__(self, offset_ns: int) -> None:
        """`offset_ns`: what to add to monotonic time to get the time of day (see a trail's header)."""
        self._offset_ns = offset_ns
        self._local: tuple[int, str] = (-1, "")
        self._utc: tuple[int, str] = (-1, "")

    @classmethod
    def of_this_host(cls) -> WallClock:
        return cls(time.time_ns() - time.monotonic_ns())

    def adjust(self) -> None:
        """Follow this host's clock: it may be set, and monotonic time stands still in a suspended host."""
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def local(self, ts_ns: int) -> str:
        """ "03:14:07.123", in the time zone of whoever looks."""
        second, rest_ns = divmod(ts_ns + self._offset_ns, 1_000_000_000)
        if second != self._local[0]:
            self._local = (second, time.strftime("%H:%M:%S", time.localtime(second)))
        return f"{self._local[1]}.{rest_ns // 1_000_000:03d}"

    def utc(self, ts_ns: int) -> str:
        """ "2026-11-21T03:14:07.123456Z" (ISO 8601)."""
        second, rest_ns = divmod(ts_ns + self._offset_ns, 1_000_000_000)
        if second != self._utc[0]:
            self._utc = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        return f"{self._utc[1]}.{rest_ns // 1000:06d}Z"
