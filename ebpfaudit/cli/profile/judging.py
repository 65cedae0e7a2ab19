"""Many trails under two profiles, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from ebpfaudit.cli.profile.progress import progress_bar
from ebpfaudit.cli.profile.trails import size_of
from ebpfaudit.profiles.schema import Profile
from ebpfaudit.trail.backtest import Outcome, backtest

_AHEAD = 4
"""Outcomes that wait for their turn, for each process: a folder of trails is not held in memory."""

_shared: dict[str, Any] = {}
"""In a worker: the profiles, how far each trail is read, and whether to stop."""


class _Stopped(BaseException):
    """The parent gave up."""


def judge_all(
    paths: Sequence[str], first: Profile | None, second: Profile | None, jobs: int
) -> Iterator[Outcome]:
    """An outcome for each trail, in their order. A profile of None is the recorded one."""
    context = multiprocessing.get_context("spawn")
    offsets = context.RawArray("Q", max(len(paths), 1))
    sizes = [size_of(path) for path in paths]
    with progress_bar("judging", sum(sizes), lambda: sum(offsets)):
        jobs = min(jobs, len(paths))
        if jobs > 1:
            yield from _in_processes(context, paths, (first, second), offsets, jobs)
            return
        for index, path in enumerate(paths):

            def note(offset: int, index: int = index) -> None:
                offsets[index] = offset

            yield backtest(path, first, second, note)


def _in_processes(
    context: Any,
    paths: Sequence[str],
    profiles: tuple[Profile | None, Profile | None],
    offsets: Any,
    jobs: int,
) -> Iterator[Outcome]:
    stop = context.RawValue("b", 0)
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_prepare, initargs=(*profiles, offsets, stop)
    )
    waiting: list[Future[Outcome]] = []
    try:
        for index, path in enumerate(paths):
            with _without_interrupt():
                waiting.append(pool.submit(_judge, index, path))
            if len(waiting) > jobs * _AHEAD:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        stop.value = 1
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _without_interrupt() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal. Workers, begun here when needed, inherit the mask: this one answers."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _prepare(first: Profile | None, second: Profile | None, offsets: Any, stop: Any) -> None:
    _shared.update(first=first, second=second, offsets=offsets, stop=stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's worker would wait for work for ever if its parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _judge(index: int, path: str) -> Outcome:
    def note(offset: int) -> None:
        _shared["offsets"][index] = offset
        if _shared["stop"].value:
            raise _Stopped

    return backtest(path, _shared["first"], _shared["second"], note)
