"""Rules that can never come true: an error each, at the word that prevents it."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from ebpfaudit.profiles.conditions import WILD
from ebpfaudit.profiles.covering import covers_conditions, covers_values, is_ipv6_only
from ebpfaudit.profiles.draft import Draft, Item
from ebpfaudit.profiles.identity import is_identity
from ebpfaudit.profiles.schema import MAX_MARKS, Part, Rule, Value, Values
from ebpfaudit.profiles.source import nearest

Placed = list[tuple[Rule, Item]]
"""Rules with their tables."""

_IP_PROTOCOLS = ("tcp", "udp", "icmp", "icmp6", "sctp", "udplite", "routing-header")
_LINKERS = ("ld.so", "ld-*.so*", "ld-linux*.so*", "ld-musl-*.so*")


def placed_parts(rule: Rule, item: Item) -> list[tuple[Part, Item]]:
    """The rule's parts, each with its table."""
    if rule.form == "single":
        return [(rule.parts[0], item)]
    tables = item.child(rule.form, item.value[rule.form])
    return list(zip(rule.parts, tables.children(tables.value), strict=True))


def judge_marks(rules: Placed, draft: Draft) -> None:
    """A mark that is tested must be set, by a rule that can come true without that mark."""
    setters = {name: item for item in draft.rules.values() if (name := _mark_set(item))}
    for name in list(setters)[MAX_MARKS:]:
        setters[name].child("mark").complain(
            f"a profile sets at most {MAX_MARKS} marks; '{name}' is one more"
        )
    settable = _settable_marks(rules) | (set(setters) - {rule.mark.name for rule, _ in rules if rule.mark})
    for rule, item in rules:
        for part, table in placed_parts(rule, item):
            for key, conditions in (("when", part.when), ("unless", part.unless)):
                place = table.child(key).child("mark")
                for name in map(str, conditions.get("mark", ())):
                    problem = ""
                    if name not in setters:
                        problem = f"no rule sets the mark '{name}'{nearest(name, setters)}"
                    elif name not in settable:
                        problem = f"can never match: the mark '{name}' is set only by rules that wait for it"
                    if problem:
                        place.complain(f"rule '{rule.id}': {problem}")


def _mark_set(item: Item) -> str:
    """The name of the mark that a rule's table sets; "" if none, or if the rule is disabled."""
    mark = item.value.get("mark", "")
    name = mark.get("name", "") if isinstance(mark, dict) else mark
    return name if isinstance(name, str) and item.value.get("enabled", True) is True else ""


def _settable_marks(rules: Placed) -> set[str]:
    """Marks that can come to be, beginning with none."""
    settable: set[str] = set()
    waiting = [rule for rule, _ in rules if rule.mark]
    while ready := [rule for rule in waiting if _may_fire(rule, settable)]:
        settable |= {rule.mark.name for rule in ready if rule.mark}
        waiting = [rule for rule in waiting if rule not in ready]
    return settable


def _may_fire(rule: Rule, marks: set[str]) -> bool:
    return all(
        "mark" not in part.when or marks.intersection(map(str, part.when["mark"])) for part in rule.parts
    )


def judge_rules(rules: Placed) -> None:
    """Complain about each part whose conditions contradict each other."""
    for rule, item in rules:
        for part, table in placed_parts(rule, item):
            for name, problem in _contradictions(part):
                key = "unless" if name == "unless" else "when"
                place = table.child(key) if name == key else table.child(key).child(name)
                place.complain(f"rule '{rule.id}': can never match: {problem}", key=True)


def _contradictions(part: Part) -> list[tuple[str, str]]:
    """(field, why it cannot hold beside the others)."""
    found = [*_impossible_program(part), *_impossible_origin(part)]
    if part.on == "connect":
        found += _impossible_destination(part)
    if part.on == "exit" and _all_over(part.when, "signal", 1) and _all_over(part.when, "code", 1):
        found.append(("code", "whatever a signal ends has the code 0"))
    if part.unless and part.unless.keys() <= part.when.keys():
        if set(part.unless) & {"not-ancestor"} or not covers_conditions(
            part.on, part.unless, {name: part.when[name] for name in part.unless}
        ):
            return found
        if not all(set(part.when[name]) <= set(values) for name, values in part.unless.items()):
            found.append(("unless", "'unless' takes back all that 'when' gives"))
    return found


def _impossible_program(part: Part) -> list[tuple[str, str]]:
    when = part.when
    programs = [str(value) for value in when.get("exe", ())]
    found = []
    if programs and when.get("memfd") == (True,) and all(value.startswith("/") for value in programs):
        found.append(("exe", "a memory file's 'exe' is memfd:NAME, never a path"))
    if programs and when.get("memfd") == (False,) and all(value.startswith("memfd:") for value in programs):
        found.append(("memfd", "'exe' is that of a memory file"))
    if programs and when.get("via_linker") == (True,) and not any(map(_may_be_linker, programs)):
        found.append(("exe", "with 'via_linker' it is a dynamic linker; ask for the program with 'program'"))
    if when.get("temporary") == (False,) and (True,) in (when.get("memfd"), when.get("deleted")):
        found.append(("temporary", "a memory file or a deleted file is always 'temporary'"))
    if "error" in when and "filename" in when:
        found.append(("filename", "what did not start is asked for with 'exe', as it was named"))
    for name in ("exe", "program"):
        if "error" in when and name in when and all(is_identity(str(value)) for value in when[name]):
            found.append((name, "a program that did not start is not known by its content"))
    return found


def _may_be_linker(program: str) -> bool:
    name = program.rpartition("/")[2]
    return bool(is_identity(program) or WILD.search(name)) or any(
        fnmatchcase(name, each) for each in _LINKERS
    )


def _impossible_origin(part: Part) -> list[tuple[str, str]]:
    when = part.when
    sources, untagged = when.get("source", ()), when.get("untagged")
    found = []
    if untagged == (True,) and sources and "untagged" not in sources:
        found.append(("source", "what is 'untagged' has the source \"untagged\""))
    if untagged == (False,) and sources == ("untagged",):
        found.append(("source", "what is not 'untagged' has another source"))
    barred = when.get("not-ancestor")
    if barred and "ancestor" in when and covers_values(part.on, "ancestor", barred, when["ancestor"]):
        found.append(("not-ancestor", "it bars every 'ancestor' that is asked for"))
    return found


def _impossible_destination(part: Part) -> list[tuple[str, str]]:
    when = part.when
    families = set(map(str, when.get("family", ("ipv4", "ipv6", "unix"))))
    protocols = [str(value) for value in when.get("protocol", ())]
    destinations = [str(value) for value in when.get("dst", ())]
    on_unix = [value.startswith("unix:") for value in destinations]
    found = []
    if destinations and all(on_unix):
        if "unix" not in families:
            found.append(("family", "every 'dst' is a Unix socket"))
        if "port" in when:
            found.append(("port", "every 'dst' is a Unix socket, which has no port"))
        if protocols and all(value in _IP_PROTOCOLS for value in protocols):
            found.append(("protocol", "every 'dst' is a Unix socket"))
    elif destinations and not any(on_unix):
        if families == {"unix"}:
            found.append(("family", "no 'dst' is a Unix socket; write unix:PATH"))
        if families == {"ipv4"} and all(map(is_ipv6_only, destinations)):
            found.append(("family", "every 'dst' is an IPv6 address"))
    if protocols and families == {"unix"} and all(value in _IP_PROTOCOLS for value in protocols):
        found.append(("protocol", 'the sockets of the family "unix" are stream, dgram or seqpacket'))
    return found


def _all_over(when: dict[str, Values], name: str, lowest: int) -> bool:
    return name in when and all(_low(value) >= lowest for value in when[name])


def _low(value: Value) -> int:
    return int(re.split("-", str(value))[0])
