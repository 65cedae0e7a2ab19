"""Progress bars on stderr, for a person who waits: over the bytes of trails, or over a number of files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


@contextmanager
def counting_bar(what: str, total: int, many: int) -> Iterator[Callable[[], object]]:
    """Gives what to call after each of `total`; a bar where those are `many` and somebody looks."""
    if total < many or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
