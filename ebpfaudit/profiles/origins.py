"""Which file and line each word of a resolved profile comes from."""

from __future__ import annotations

import os
from collections import Counter

from ebpfaudit.profiles.draft import Draft, Item
from ebpfaudit.profiles.resolved import Origins
from ebpfaudit.profiles.sections import entry_items
from ebpfaudit.profiles.source import Source


def origins_of(draft: Draft) -> Origins:
    """`base.toml:12`, `my.toml:3, overrides base.toml:40`, `base.toml:30 (@ssh)`; a full path where two files have one name."""
    names = Counter(os.path.basename(source.origin) for source in draft.sources)
    short = {
        source: name if names[name := os.path.basename(source.origin)] == 1 else source.origin
        for source in draft.sources
    }
    origins: dict[tuple[str, ...], str] = {}
    for place, item in entry_items(draft):
        origins.setdefault(place, _text(item, short))
    for name, item in draft.rules.items():
        origins["rule", name] = _text(item, short)
    return origins


def _text(item: Item, short: dict[Source, str]) -> str:
    text = _place(item, short) + (f" ({item.via})" if item.via else "")
    overridden = item.overrides
    if overridden is not None:
        text += f", overrides {_place(overridden, short)}"
    return text


def _place(item: Item, short: dict[Source, str]) -> str:
    return f"{short[item.source]}:{item.source.position(item.path)[0]}"
