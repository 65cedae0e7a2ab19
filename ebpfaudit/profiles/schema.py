"""What a profile may say. Strict: an unknown key is an error, never a silent nothing.

`profiles.draft` reads one file into these words, `profiles.load` finds, extends and builds, and
`profiles.network` and `profiles.devices` turn the sections into the tables that both the probes
(through `kernel.tables`) and the evaluator decide by. The language is docs/profile-reference.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from ebpfaudit.verdicts import Action, Scope

if TYPE_CHECKING:
    from ebpfaudit.profiles.devices import GpuPolicy
    from ebpfaudit.profiles.network import NetworkPolicy

Kind = Literal["exec", "connect", "gpu", "fork", "exit", "cgroup-move"]
Value = str | int | bool
Values = tuple[Value, ...]

SECTION_ACTIONS: tuple[Action, ...] = ("allow", "log", "alert", "deny", "kill")
RULE_ACTIONS: tuple[Action, ...] = ("log", "alert", "freeze", "kill")
SCOPES = ("process", "tree", "episode")
SEVERITIES = ("low", "medium", "high", "critical")
PERS = ("process", "tree", "episode", "step")

TOP_KEYS = ("name", "description", "extends", "network", "gpu", "exec", "lists", "rule")
RULE_KEYS = (
    "id", "on", "when", "unless", "count", "action", "scope", "severity", "technique", "message", "enabled",
    "description",
)  # fmt: skip
COUNT_KEYS = ("distinct", "over", "within", "per")

LATER_KEYS = frozenset(
    {"all", "then", "within", "per", "mark", "ancestor", "not-ancestor", "same-as", "sha256", "rate", "limit",
     "rate-limit", "require", "gate", "first"}
)  # fmt: skip
"""Words of the language that later versions understand: an error here, never ignored."""

LATER_VALUES = ("same-as:", "sha256:")

FieldType = Literal["text", "path", "words", "number", "flag", "dst", "size", "choice"]

_PROCESS_FIELDS: dict[str, FieldType] = {
    "argv": "words",
    "cmdline": "text",
    "script": "path",
    "cwd": "path",
    "exe": "path",
    "comm": "text",
    "uid": "number",
}
_OWN_FIELDS: dict[str, dict[str, FieldType]] = {
    "exec": {
        "error": "text",
        "memfd": "flag",
        "deleted": "flag",
        "argv_truncated": "flag",
        "filename": "text",
        "ppid": "number",
    },
    "connect": {"dst": "dst", "port": "number", "result": "text", "protocol": "text", "family": "choice"},
    "gpu": {
        "uuid": "text",
        "bytes": "size",
        "command": "text",
        "event": "choice",
        "device": "text",
        "result": "text",
    },
    "fork": {},
    "exit": {"signal": "number", "code": "number"},
    "cgroup-move": {"path": "path", "inside": "flag", "by_pid": "number"},
}

FIELDS: dict[str, dict[str, FieldType]] = {
    kind: {
        name: both[name]
        for both in [{**_PROCESS_FIELDS, **own}]
        for name in sorted(both, key=lambda name: (name not in ("argv", "cmdline"), name not in own))
    }
    for kind, own in _OWN_FIELDS.items()
}
"""The fields of each kind of event. Of several that a rule names, its verdict shows the first here."""

CHOICES: dict[str, tuple[str, ...]] = {
    "family": ("ipv4", "ipv6", "unix"),
    "event": ("open", "enumerate", "context", "channel", "alloc", "submit", "admin", "unknown"),
}

CONNECT_RESULTS = ("ok", "denied", "refused", "timeout", "unreachable", "reset", "aborted")


class Count(Struct, frozen=True):
    """More than `over` matches (or distinct values of one field) within a sliding window."""

    over: int
    within_ns: int
    within: str
    per: str
    distinct: str = ""


class Rule(Struct, frozen=True):
    """One `[[rule]]`, checked and with its lists expanded."""

    id: str
    on: str
    action: Action
    when: dict[str, Values]
    unless: dict[str, Values]
    count: Count | None = None
    scope: Scope = "tree"
    severity: str = ""
    technique: str = ""
    message: str = ""
    description: str = ""


class Profile(Struct, frozen=True):
    """A resolved profile: nothing inherited, referred to, or disabled is left in it."""

    name: str
    description: str
    network: NetworkPolicy | None
    """None: no [network] section is in force, nothing is decided or reported about destinations."""
    gpu: GpuPolicy | None
    exec_deny: tuple[str, ...]
    """Globs of executables that may not run."""
    rules: tuple[Rule, ...]
