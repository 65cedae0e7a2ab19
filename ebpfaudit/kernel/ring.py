"""The ring buffer, read in batches straight from its mapping: no callback, no copy, no system call.

Protocol: kernel/bpf/ringbuf.c. The kernel maps the data twice in a row, so neither a record nor a window wraps.
x86-64 orders the loads for us; other architectures need acquire and release, which Python does not have.
"""

from __future__ import annotations

import mmap
import os
import select

_PAGE = mmap.PAGESIZE

NAP_MS = 1
"""How long to wait for more records before reading again, while they keep coming."""


class Ring:
    """Reader of one BPF_MAP_TYPE_RINGBUF of `size` bytes, and of the word that says whether it sleeps."""

    def __init__(self, events_fd: int, reader_fd: int, size: int) -> None:
        self._mask = size - 1
        self._consumer_map = mmap.mmap(events_fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_map = mmap.mmap(
            events_fd, _PAGE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE
        )
        self._reader_map = mmap.mmap(reader_fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # A native 8-byte load or store each; struct.unpack would assemble bytes, and could tear.
        self._consumer = memoryview(self._consumer_map).cast("Q")
        self._asleep = memoryview(self._reader_map).cast("Q")
        self._asleep[1] = os.getpid()
        view = memoryview(self._producer_map)
        self._producer = view[:_PAGE].cast("Q")
        self.data = view[_PAGE:]
        """All of the buffer, twice in a row: the offsets of a `window` index this."""
        self.words = self.data.cast("I")
        """The same as 32-bit words."""

    @property
    def pending_bytes(self) -> int:
        return self._producer[0] - self._consumer[0]

    def window(self, limit_bytes: int) -> tuple[int, int]:
        """(begin, end) in `data` of what waits to be read: whole records, the last ones perhaps unfinished.

        It may end inside a record if `limit_bytes` cuts it.
        """
        position = self._consumer[0]
        waiting = self._producer[0] - position
        self._asleep[2] = waiting > self._mask - (self._mask >> 2)  # crowded: see common.bpf.h
        begin = position & self._mask
        return begin, begin + min(waiting, limit_bytes)

    def release(self, size: int) -> None:
        """Give the first `size` bytes of the window back to the kernel: what was there must have been copied."""
        self._consumer[0] += size

    def wait(self, poll: select.poll, timeout_ms: int) -> list[tuple[int, int]]:
        """Sleep until a record arrives, `poll` has something, or the time is up. Returns what `poll` had.

        `poll` must have the ring's descriptor registered. While we sleep, and only then, whoever writes a
        record pays for waking us (about 20 us).
        """
        self._asleep[0] = 1
        ready = poll.poll(timeout_ms) if self._producer[0] == self._consumer[0] else []
        self._asleep[0] = 0
        return ready

    def close(self) -> None:
        for view in (self.words, self.data, self._producer, self._consumer, self._asleep):
            view.release()
        for mapping in (self._producer_map, self._consumer_map, self._reader_map):
            mapping.close()
