"""Functions that remember what they were asked: pure ones, of texts that a hostile process may choose."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from ebpfaudit.policy.bounds import LONGEST_REMEMBERED, MAX_REMEMBERED, MAX_REMEMBERED_CHARS

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Room:
    """What several tables may hold in all. If one more entry does not fit, all are emptied."""

    def __init__(self) -> None:
        self.held = 0
        self._chars = 0
        self._tables: list[dict[Any, Any]] = []

    def share(self, table: dict[Any, Any]) -> None:
        """From now on `table` is emptied with the others."""
        self._tables.append(table)

    def take(self, chars: int, entries: int = 1) -> None:
        """Make room for entries of about so many characters."""
        self.held += entries
        self._chars += chars
        if self.held > MAX_REMEMBERED or self._chars > MAX_REMEMBERED_CHARS:
            self.empty()
            self.held, self._chars = entries, chars

    def empty(self) -> None:
        self.held = self._chars = 0
        for table in self._tables:
            table.clear()


class Remembered(dict[Key, Value]):
    """`remembered[key]` is `find(key)`, looked up if it was asked before. Long texts are found anew each time."""

    def __init__(self, find: Callable[[Key], Value], room: Room) -> None:
        super().__init__()
        self._find = find
        self._room = room
        room.share(self)

    def __missing__(self, key: Key) -> Value:
        value = self._find(key)
        chars = len(key) if isinstance(key, str) else 0
        if chars <= LONGEST_REMEMBERED:
            self._room.take(chars)
            self[key] = value
        return value
