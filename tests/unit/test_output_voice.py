"""A stream that nobody reads, or that is closed, does not hold us up."""

from __future__ import annotations

import os
import time

from ebpfaudit.output.voice import Voice


def test_what_is_said_arrives_in_order():
    read, write = os.pipe()
    voice = Voice(write)
    for n in range(100):
        voice.write(b"%d\n" % n)
    voice.close()
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        assert stream.read() == b"".join(b"%d\n" % n for n in range(100))
    assert voice.dropped == 0


def test_a_stream_that_nobody_reads_costs_lines_but_no_time():
    read, write = os.pipe()
    voice = Voice(write)
    began = time.monotonic()
    for _ in range(5000):
        voice.write(b"x" * 1000)
    assert time.monotonic() - began < 2
    assert voice.dropped > 0
    voice.close(timeout_s=0.1)
    assert time.monotonic() - began < 3
    os.close(read)  # the thread's write fails now, and it ends with the rest
    os.close(write)


def test_a_closed_stream_is_no_error():
    read, write = os.pipe()
    os.close(read)
    voice = Voice(write)
    voice.write(b"nobody hears\n")
    voice.close()
    os.close(write)
