"""A progress bar over the bytes of one or many trails, for a person who waits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

_LONG_BYTES = 1 << 20


def progress_bar(what: str, total: int, done: Callable[[], int]) -> AbstractContextManager[Any]:
    """A bar on stderr that asks `done` whenever it is drawn; nothing for short work, or where nobody looks."""
    if total < _LONG_BYTES or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console, RenderableType
    from rich.progress import Progress

    class Bar(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            for task in self.tasks:
                task.completed = done()
            return super().get_renderables()

    bar = Bar(console=Console(stderr=True), transient=True)
    bar.add_task(what, total=total)
    return bar
