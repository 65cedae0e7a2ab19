"""A table with one entry per process, tree or step, of bounded size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Generic, TypeVar

from ebpfaudit.policy.bounds import MAX_KEYS

Entry = TypeVar("Entry")


class Keyed(ABC, Generic[Entry]):
    """Entries by key, made when first touched; at most `MAX_KEYS`, the one longest untouched makes room."""

    def __init__(self) -> None:
        self._by_key: dict[Hashable, Entry] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._by_key

    @property
    def entries(self) -> int:
        """How many events (or values) are held in all."""
        return sum(self._size(entry) for entry in self._by_key.values())

    def drop(self, key: Hashable) -> None:
        """Forget what is held for `key`."""
        entry = self._by_key.pop(key, None)
        if entry is not None:
            self._dropped(entry)

    def clear(self) -> None:
        for key in list(self._by_key):
            self.drop(key)

    def _touch(self, key: Hashable) -> Entry:
        entry = self._by_key.pop(key, None)
        if entry is None:
            entry = self._make()
            if len(self._by_key) >= MAX_KEYS:
                self.drop(next(iter(self._by_key)))
        self._by_key[key] = entry
        return entry

    @abstractmethod
    def _make(self) -> Entry:
        """A new entry, with nothing in it."""

    @abstractmethod
    def _size(self, entry: Entry) -> int:
        """How many events (or values) `entry` holds."""

    def _dropped(self, entry: Entry) -> None:
        """Called with every entry that is forgotten."""
