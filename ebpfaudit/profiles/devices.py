"""The [gpu] section: which GPUs an episode may open and create contexts on."""

from __future__ import annotations

import re

from msgspec import Struct

from ebpfaudit.verdicts import ACTIONS, Action

_STRICTNESS = {action: rank for rank, action in enumerate(ACTIONS)}

_PATTERN = re.compile(r"any|(?:GPU|MIG)-[0-9A-Za-z/-]+|[a-z][a-z0-9_-]*:(?:\*|[a-z0-9][a-z0-9-]*)|kfd")
_NUMBERED = re.compile(r"(.+):\d+")


class GpuEntry(Struct, frozen=True):
    text: str
    action: Action


def is_device_pattern(text: str) -> bool:
    """ "any", "VENDOR:*", "VENDOR:DEVICE", "kfd", "GPU-<uuid>" or "MIG-<uuid>"."""
    return _PATTERN.fullmatch(text) is not None


class GpuPolicy:
    """Decides about GPU devices. Equal where defaults and entries are.

    A UUID is more specific than a number, that than "VENDOR:*", that than "any"; at equal specificity
    the stricter action. What the GPUs of a vendor share ("nvidia:ctl", "nvidia:uvm", "kfd") is judged
    as mildly as the mildest of them: no granted GPU would work otherwise. So is a numbered device whose
    UUID is not known yet, where entries name UUIDs: its context, which knows it, is judged exactly.
    """

    def __init__(self, default: Action, entries: tuple[GpuEntry, ...]) -> None:
        self.default: Action = default
        self.entries = entries

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, GpuPolicy) and self.default == other.default and self.entries == other.entries
        )

    __hash__ = None  # type: ignore[assignment]

    def decide(self, device: str, uuid: str) -> tuple[Action, str]:
        """The action and the entry that gives it ("default" if none does)."""
        vendor = _vendor_of(device)
        names = [uuid, device, f"{vendor}:*", "any"]
        for name in names:
            if name and (matching := [entry for entry in self.entries if entry.text == name]):
                own = max(matching, key=_strictness)
                break
        else:
            own = GpuEntry("default", self.default)
        hopeful = [own, *(entry for entry in self.entries if self._may_be(entry, device, uuid, own))]
        chosen = min(hopeful, key=_strictness)
        return chosen.action, chosen.text

    def _may_be(self, entry: GpuEntry, device: str, uuid: str, own: GpuEntry) -> bool:
        """`entry` grants a GPU that this access may turn out to be about."""
        if own.text in (uuid, device) and own.text:
            return False
        if _is_uuid(entry.text):
            return not uuid and _vendor_of(device) in ("nvidia", "amd")
        shared = _NUMBERED.fullmatch(device) is None
        names_uuids = any(_is_uuid(other.text) for other in self.entries)
        return (
            shared
            and not (uuid and names_uuids)
            and entry.text != "any"
            and _vendor_of(entry.text) == _vendor_of(device)
        )


def _is_uuid(text: str) -> bool:
    return text.startswith(("GPU-", "MIG-"))


def _vendor_of(device: str) -> str:
    return "amd" if device == "kfd" else device.partition(":")[0]


def _strictness(entry: GpuEntry) -> int:
    return _STRICTNESS[entry.action]
