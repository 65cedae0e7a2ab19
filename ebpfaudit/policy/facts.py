"""What a rule may ask about an event: the fields of a profile, read from the event and the process behind it."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from ebpfaudit.events import Connect, Exec, ProcessEvent
from ebpfaudit.policy.options import Options
from ebpfaudit.policy.programs import is_linker, is_temporary, programs_of, runs_inline_code
from ebpfaudit.process import Process, take_over
from ebpfaudit.profiles.addresses import AddressError, parse_address
from ebpfaudit.profiles.schema import FIELDS

Getter = Callable[[Any], Any]


class Setting:
    """What holds for all processes of an episode for a while."""

    __slots__ = ("source", "step")

    def __init__(self) -> None:
        self.step = ""
        self.source = "untagged"
        """How the episode's tag was learned; "untagged" until an episode-start says so."""

    @property
    def untagged(self) -> bool:
        return self.source == "untagged"


class Facts:
    """One event, and who did it, in which setting."""

    __slots__ = (
        "_cmdline",
        "_inline_code",
        "_options",
        "destination",
        "event",
        "process",
        "result",
        "setting",
    )

    def __init__(self, process: Process, event: ProcessEvent, setting: Setting, result: str = "") -> None:
        self.process = process
        self.event = event
        self.setting = setting
        self.result = result
        self.destination: int | str = destination_of(event) if event.__class__ is Connect else ""
        self._cmdline: str | None = None
        self._inline_code: bool | None = None
        self._options: Options | None = None

    @property
    def cmdline(self) -> str:
        """The arguments as one text."""
        if self._cmdline is None:
            self._cmdline = " ".join(self.process.argv)
        return self._cmdline

    @property
    def options(self) -> Options:
        if self._options is None:
            self._options = Options(self.process.argv, self.cmdline)
        return self._options

    @property
    def inline_code(self) -> bool:
        if self._inline_code is None:
            self._inline_code = runs_inline_code(self.process)
        return self._inline_code


def image_after(process: Process, event: Exec, lineage: int) -> Process:
    """A stand-in for a process, as if it ran what `event` asks for: the exec failed, or is yet to be judged."""
    image = Process(process.pid, process.start)
    take_over(image, event)
    image.tree, image.marks = process.tree, process.marks
    image.lineage = lineage
    return image


def destination_of(event: Connect) -> int | str:
    """The address as a number (see `profiles.addresses`), or "unix:PATH"; "" if it is no address."""
    if event.family == "unix":
        return f"unix:{event.dst}"
    return _address(event.dst)


def endpoint(event: Connect) -> str:
    """A destination as a profile's entry would be written: what to paste into `allow`."""
    if event.family == "unix":
        return f"unix:{event.dst}"
    host = f"[{event.dst}]" if ":" in event.dst else event.dst
    suffix = f"/{event.protocol}" if event.protocol in ("tcp", "udp") else ""
    return f"{host}:{event.port}{suffix}" if event.port else f"{host}{suffix}"


def _address(text: str) -> int | str:
    try:
        return parse_address(text)
    except AddressError:
        return ""


_PROCESS = {
    name: attrgetter(f"process.{name}")
    for name in ("argv", "exe", "cwd", "script", "uid", "memfd", "deleted", "comm", "lineage")
}
_GETTERS: dict[str, Getter] = {
    **_PROCESS,
    "cmdline": attrgetter("cmdline"),
    "option": attrgetter("options"),
    "program": lambda facts: programs_of(facts.process),
    "temporary": lambda facts: is_temporary(facts.process),
    "via_linker": lambda facts: is_linker(facts.process.exe),
    "inline_code": attrgetter("inline_code"),
    "ancestor": _PROCESS["lineage"],
    "not-ancestor": _PROCESS["lineage"],
    "step": attrgetter("setting.step"),
    "source": attrgetter("setting.source"),
    "untagged": attrgetter("setting.untagged"),
    "mark": attrgetter("process.marks"),
    "result": attrgetter("result"),
    "dst": attrgetter("destination"),
    "stdio": lambda facts: _address(facts.event.stdio) if facts.event.stdio else "",
}
_EVENTS_OWN = {"connect": ("comm",), "gpu": ("comm",)}
"""Fields that these kinds of events bring themselves, where others have their process's."""


def getter(kind: str, name: str) -> Getter:
    """Reads a field from `Facts`."""
    if name not in _GETTERS or name in _EVENTS_OWN.get(kind, ()):
        return attrgetter(f"event.{name}")
    return _GETTERS[name]


def is_of_event(kind: str, name: str) -> bool:
    """The field differs from event to event of one process; the others are the process's, or the setting's."""
    return name in _EVENTS_OWN.get(kind, ()) or name not in FIELDS["fork"]


def show_field(kind: str, name: str, facts: Facts) -> str:
    """The value as one text, for messages and explanations."""
    if name == "dst":
        return endpoint(facts.event)  # type: ignore[arg-type]
    if name in ("argv", "cmdline"):
        return facts.cmdline
    if name in ("option", "mark", "ancestor", "not-ancestor", "program"):
        return facts.process.exe
    if name == "stdio":
        return _show_stdio(facts.event)
    value = getter(kind, name)(facts)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _show_stdio(event: Any) -> str:
    if not event.stdio:
        return ""
    host = f"[{event.stdio}]" if ":" in event.stdio else event.stdio
    return f"{host}:{event.stdio_port}" if event.stdio_port else host
