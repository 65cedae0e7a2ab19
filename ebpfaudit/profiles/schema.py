"""What a profile may say. Strict: an unknown key is an error, never a silent nothing.

`profiles.draft` reads one file into these words, `profiles.load` finds, extends and builds, and
`profiles.network` and `profiles.devices` turn the sections into the tables that both the probes
(through `kernel.tables`) and the evaluator decide by. The language is docs/profile-reference.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from ebpfaudit.profiles.identity import is_identity, parse_identity
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
    "id", "on", "when", "unless", "count", "all", "then", "within", "per", "action", "scope", "mark", "limit",
    "severity", "technique", "message", "enabled", "description",
)  # fmt: skip
PART_KEYS = ("on", "when", "unless", "count")
COUNT_KEYS = ("distinct", "over", "within", "per")
MARK_KEYS = ("name", "for", "scope")
LIMIT_KEYS = ("to", "within", "per")
MAX_PARTS = 8
MAX_MARKS = 32
"""Names of marks that one profile may set: an episode keeps them as bits."""

LATER_KEYS = frozenset({"require", "gate", "first"})
"""Words of the language that later versions understand: an error here, never ignored."""

IDENTITIES = ("same-as:", "sha256:")
"""How a value begins that names a program by its content: a known file's path, or a hash in hexadecimal."""

FieldType = Literal[
    "text",
    "path",
    "program",
    "words",
    "option",
    "number",
    "flag",
    "dst",
    "size",
    "choice",
    "mark",
    "ancestor",
]
"""What a field's values are and how they match. "path" and "program" may be globs; "program" (several paths for one
process) and the path `exe` may also be identities."""

_PROCESS_FIELDS: dict[str, FieldType] = {
    "option": "option",
    "argv": "words",
    "cmdline": "text",
    "program": "program",
    "script": "path",
    "cwd": "path",
    "exe": "path",
    "comm": "text",
    "uid": "number",
    "memfd": "flag",
    "deleted": "flag",
    "temporary": "flag",
    "via_linker": "flag",
    "inline_code": "flag",
    "mark": "mark",
    "ancestor": "ancestor",
    "not-ancestor": "ancestor",
    "step": "text",
    "source": "choice",
    "untagged": "flag",
}
_OWN_FIELDS: dict[str, dict[str, FieldType]] = {
    "exec": {
        "error": "text",
        "stdio": "dst",
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
    "source": ("launched", "adopted-pid", "adopted-cgroup", "environment", "container", "untagged"),
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


class Part(Struct, frozen=True):
    """Events of one kind that meet all of `when` and not all of `unless`; with `count`, too many of them."""

    on: str
    when: dict[str, Values]
    unless: dict[str, Values]
    count: Count | None = None


class Mark(Struct, frozen=True):
    """What a rule leaves on whoever it matched, for other rules to test, until `for_ns` has gone by.

    A process's mark is inherited by the children it has while the mark lasts.
    """

    name: str
    for_ns: int
    duration: str
    scope: Scope = "process"


class Limit(Struct, frozen=True):
    """At most `to` verdicts in a sliding window; the next one that passes says how many were left out."""

    to: int
    within_ns: int
    within: str
    per: str = "episode"


Form = Literal["single", "all", "then"]
FORMS: tuple[Form, ...] = ("single", "all", "then")


class Rule(Struct, frozen=True):
    """One `[[rule]]`, checked and with its lists expanded."""

    id: str
    action: Action
    """"allow": no verdict, only the mark."""
    parts: tuple[Part, ...]
    """One, unless `form` is "all" (each has matched, in any order) or "then" (in this order)."""
    form: Form = "single"
    within_ns: int = 0
    """How long may lie between the first and the last part's events. 0 for "single"."""
    within: str = ""
    per: str = ""
    """What the parts' events must have in common: "process", "tree", "episode" or "step". "" for "single"."""
    scope: Scope = "tree"
    mark: Mark | None = None
    limit: Limit | None = None
    severity: str = ""
    technique: str = ""
    message: str = ""
    """May hold {field}s of the (completing) event."""
    description: str = ""


class Profile(Struct, frozen=True):
    """A resolved profile: nothing inherited, referred to, or disabled is left in it."""

    name: str
    description: str
    network: NetworkPolicy | None
    """None: no [network] section is in force, nothing is decided or reported about destinations."""
    gpu: GpuPolicy | None
    exec_deny: tuple[str, ...]
    """Executables that may not run: full paths, globs within a folder, identities."""
    rules: tuple[Rule, ...]

    @property
    def identities(self) -> tuple[frozenset[str], frozenset[str]]:
        """Paths of all "same-as:" and hashes of all "sha256:" anywhere in it."""
        texts = {text for text in self.exec_deny if is_identity(text)}
        for rule in self.rules:
            for part in rule.parts:
                for conditions in (part.when, part.unless):
                    for name in ("exe", "program"):
                        texts.update(str(each) for each in conditions.get(name, ()) if is_identity(str(each)))
        pairs = [parse_identity(text) for text in texts]
        return (
            frozenset(value for kind, value in pairs if kind == "same-as"),
            frozenset(value for kind, value in pairs if kind == "sha256"),
        )
