"""Speaking on a stream that the audited command shares with us, and can therefore block."""

from __future__ import annotations

import os
import queue
from threading import Thread

_WAITING_MAX = 2000
"""Writes that may wait. An agent that stops the terminal costs us these many lines of memory, and no time."""


class Voice:
    """Writes to a descriptor from a thread of its own: `write` never waits, and never raises.

    What does not fit is dropped and counted. A closed or full stream ends nothing but the talking.
    """

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING_MAX)
        self._thread = Thread(target=self._speak, daemon=True)
        self._thread.start()

    def write(self, data: bytes | bytearray) -> None:
        try:
            self._waiting.put_nowait(bytes(data))
        except queue.Full:
            self.dropped += 1

    def flush(self) -> None:
        """Nothing to do: the thread does not hold back."""

    def close(self, timeout_s: float = 5.0) -> None:
        """Let what waits be said, if the stream takes it in that time. May be called twice."""
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _speak(self) -> None:
        while (data := self._waiting.get()) is not None:
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                continue
