"""Which entries and rules of a profile the running kernel cannot serve, and why: by trial, never by version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ebpfaudit.kernel import support as supports
from ebpfaudit.kernel.plan import STDIO_FIELDS
from ebpfaudit.kernel.support import Support
from ebpfaudit.profiles.schema import Part, Profile, Rule

_STDIO = "stdio"
"""Our own name for a need that no check of `support` answers."""

_UNSEEN = {
    "connect4": "no destination is seen or judged",
    "connect_unix": "Unix sockets are only watched, at the system call",
    "system call tracepoints": "failed execs and GPU driver calls are not seen",
    "system call registers": "failed execs and GPU driver calls cannot be read",
    "cgroup device": "opening a GPU is neither seen nor refused",
    "cgroup v2": "an episode has no cgroup to leave",
    "signal from exec": "a denied program runs until user space kills it",
    _STDIO: "sockets on a program's standard descriptors are not seen",
}

_SYSCALLS = ("system call tracepoints", "system call registers")


def unserved(
    profile: Profile, support: Support | None = None, lacks: Sequence[str] | None = None
) -> list[str]:
    """One line for each thing that this kernel does not do and the profile needs, with the entries and rules that
    are therefore not in force, or not wholly. Empty if the kernel serves all.

    `support` and `lacks` (kernel fields that are not there) save a second trial, if the caller has them.
    """
    support = support or supports.probe()
    missing = {check.name: check for check in support.checks if not check.ok}
    fields = _lacking() if lacks is None else [field for field in lacks if field in STDIO_FIELDS]
    found: dict[str, list[str]] = {}
    for who, need in _needs(profile):
        if need in missing or (need == _STDIO and fields):
            names = found.setdefault(need, [])
            if who not in names:
                names.append(who)
    if any(need in missing and missing[need].unknown for need in found):
        return ["what this kernel serves of the profile was not tried: needs root"]
    lines = []
    for need, names in found.items():
        why = f"no {' and '.join(fields)}" if need == _STDIO else missing[need].reason
        lines.append(f"{', '.join(names)}: {_UNSEEN[need]} ({why})")
    return lines


def _needs(profile: Profile) -> Iterator[tuple[str, str]]:
    """(entry or rule, what it needs of the kernel)."""
    if profile.network is not None:
        yield "[network]", "connect4"
        for node in profile.network.unix_nodes():
            if node.action != "allow":
                yield f"[network] {node.action} of Unix sockets", "connect_unix"
    if profile.gpu is not None:
        yield "[gpu]", "cgroup device"
    if profile.exec_deny:
        yield "[exec] deny", "signal from exec"
    for rule in profile.rules:
        for part in rule.parts:
            for need in _rule_needs(part):
                yield _named(rule, part), need


def _rule_needs(part: Part) -> Iterator[str]:
    fields = {*part.when, *part.unless}
    if part.on == "connect":
        yield "connect4"
        if "unix" in part.when.get("family", ()) or any(
            str(value).startswith("unix:") for value in part.when.get("dst", ())
        ):
            yield "connect_unix"
    elif part.on == "exec":
        if "error" in part.when:
            yield from _SYSCALLS
        if "stdio" in fields:
            yield _STDIO
    elif part.on == "gpu":
        events = part.when.get("event", ())
        if not events or "open" in events:
            yield "cgroup device"
        if events != ("open",):
            yield from _SYSCALLS
    elif part.on == "cgroup-move":
        yield "cgroup v2"


def _named(rule: Rule, part: Part) -> str:
    return f"rule {rule.id}" if len(rule.parts) == 1 else f"rule {rule.id}, its part on {part.on}"


def _lacking() -> Sequence[str]:
    from ebpfaudit.errors import KernelError
    from ebpfaudit.kernel.btf import Btf

    try:
        btf = Btf()
    except KernelError:
        return ()  # nothing can be audited at all, as `support` says
    lacks = []
    for field in sorted(STDIO_FIELDS):
        try:
            btf.offset(field)
        except KeyError:
            lacks.append(field)
    return lacks
