"""What the sections of a profile find, as the probes decide it: no more, and by the same tables."""

from __future__ import annotations

from ebpfaudit.events import Connect, Exec, Gpu
from ebpfaudit.gpu import JUDGED_KINDS
from ebpfaudit.policy.answers import Finding
from ebpfaudit.policy.compiled import VALUE_CHARS
from ebpfaudit.policy.facts import Facts, endpoint
from ebpfaudit.policy.matching import match_identities
from ebpfaudit.policy.programs import programs_of
from ebpfaudit.policy.ruleset import Ruleset
from ebpfaudit.process import Process
from ebpfaudit.verdicts import Action

_PING_PROTOCOLS = ("icmp", "icmp6")
_JUDGED_PROTOCOLS = ("tcp", "udp", *_PING_PROTOCOLS)
_NOWHERE = ("0.0.0.0", "::")


class Sections:
    """[network], [gpu] and [exec] of one profile."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._network = ruleset.profile.network
        self._gpu = ruleset.profile.gpu
        self._deny = ruleset.deny
        self._match_content = match_identities(ruleset.denied_identities)

    def on_connect(self, event: Connect, facts: Facts) -> Finding | None:
        """On an attempt; and says in `facts` whether that is denied, by the section or otherwise."""
        action, entry = self._decide(event, facts.destination)
        facts.result = "denied" if action in ("deny", "kill") or event.result == "denied" else ""
        if action == "allow":
            return None
        return Finding((action, "network", "dst", endpoint(event)[:VALUE_CHARS], entry))

    def on_gpu(self, event: Gpu, facts: Facts) -> Finding | None:
        """The same for an access to a GPU."""
        if self._gpu is None or event.event not in JUDGED_KINDS:
            return None
        action, entry = self._gpu.decide(event.device, event.uuid)
        if action in ("deny", "kill"):
            facts.result = "denied"
        if action == "allow":
            return None
        field, value = ("uuid", event.uuid) if event.uuid else ("device", event.device)
        return Finding((action, "gpu", field, value[:VALUE_CHARS], entry))

    def on_exec(self, event: Exec) -> Finding | None:
        """On an exec by its path, or by what the probe did."""
        entry = self._deny(event.exe) if self._deny is not None else None
        if entry is None and event.decision == "kill":
            # The probe knows a denied file by its inode: here it goes by another name.
            entry = "the same file as a denied one"
        if entry is None:
            return None
        return Finding(("deny", "exec", "exe", event.exe[:VALUE_CHARS], entry, "process"))

    def on_content(self, process: Process) -> Finding | None:
        """On a program by its content, as far as that is known."""
        for path in programs_of(process):
            entry = self._match_content(process, path)
            if entry is not None:
                field = "exe" if path == process.exe else "program"
                return Finding(("deny", "exec", field, path[:VALUE_CHARS], entry, "process"))
        return None

    def _decide(self, event: Connect, destination: int | str) -> tuple[Action, str]:
        network = self._network
        if network is None:
            return "allow", ""
        if event.family == "unix":
            return network.decide_unix(event.dst)
        if event.protocol not in _JUDGED_PROTOCOLS or (
            event.dst in _NOWHERE and event.protocol in _PING_PROTOCOLS
        ):
            return "deny", "protocol"  # what the probe refuses because it could not judge where it goes
        if not isinstance(destination, int):
            return network.default, "default"
        return network.decide_ip(destination.to_bytes(16, "big"), event.port, event.protocol)
