"""Profiles nobody wrote: whatever the text, an answer and no crash; whatever it means, its resolved text means it too."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebpfaudit.errors import ProfileError
from ebpfaudit.profiles.load import check_text, parse_profile, profile_hash, resolved_text
from ebpfaudit.profiles.resolved import annotated_text
from ebpfaudit.profiles.schema import (
    CHOICES,
    COUNT_KEYS,
    FIELDS,
    LIMIT_KEYS,
    MARK_KEYS,
    PART_KEYS,
    PERS,
    RULE_KEYS,
    SCOPES,
    SECTION_ACTIONS,
    SEVERITIES,
    TOP_KEYS,
)

MORE = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def toml(value) -> str:
    """Any tree as one TOML value."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return (
        json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        if not isinstance(value, float)
        else str(value)
    )


def document(tree) -> str:
    """A tree as a file: rules and sections under their headers where they can be."""
    lines, blocks = [], []
    for key, value in tree.items():
        if key == "rule" and isinstance(value, list) and all(isinstance(rule, dict) for rule in value):
            for rule in value:
                blocks += ["[[rule]]", *(f"{toml(name)} = {toml(each)}" for name, each in rule.items())]
        elif isinstance(value, dict):
            blocks += [f"[{toml(key)}]", *(f"{toml(name)} = {toml(each)}" for name, each in value.items())]
        else:
            lines.append(f"{toml(key)} = {toml(value)}")
    return "\n".join(lines + blocks) + "\n"


# -- whatever the text ---------------------------------------------------------------------------

_WORDS = st.sampled_from(
    [
        *TOP_KEYS, *RULE_KEYS, *PART_KEYS, *COUNT_KEYS, *MARK_KEYS, *LIMIT_KEYS, *SECTION_ACTIONS, *SEVERITIES, *PERS,
        *FIELDS, *{name for fields in FIELDS.values() for name in fields}, "remove", "require", "default",
        "@ssh", "@rule", "same-as:/usr/bin/ssh", "same-as:x", "sha256:" + "a" * 64, "sha256:" + "B" * 64, "sha256:12",
        "10.0.0.0/8", "10.0.0.0/HUGE", "unix:/x", "unix:@", "any", "public:1-2/tcp", "[::1]:22", "/usr/bin/x",
        "over 1GiB", "over HUGEGiB", "5m", "HUGEs", "1-2", "HUGE-1", "-R x", "--a=b", "{exe}",
        "{", "}}", "\x1b[2J\x7f", "", "a", "*", "[", "[!", "nvidia:0", "GPU-1", "\u0661",
    ]
)  # fmt: skip
_SCALARS = st.one_of(
    _WORDS,
    _WORDS,
    st.text(max_size=8),
    st.integers(-(2**63), 2**63),
    st.integers(-1, 70000),
    st.booleans(),
    st.floats(width=16),
)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS, inner, max_size=5),
    max_leaves=12,
)
_RULES = st.lists(
    st.dictionaries(st.sampled_from(RULE_KEYS), _TREES, max_size=8).map(lambda rule: {"id": "r", **rule})
)
_FILES = st.dictionaries(st.sampled_from(TOP_KEYS), _TREES, max_size=6) | st.fixed_dictionaries(
    {"rule": _RULES}, optional={"lists": st.just({"ssh": ["*/ssh", 22]}), "network": _TREES, "gpu": _TREES}
)


def answer(text: str) -> None:
    try:
        profile = parse_profile(text, "junk.toml")
    except ProfileError as error:
        assert str(error) and str(error).replace("\n", "").isprintable()
    else:
        assert parse_profile(resolved_text(profile), "again.toml") == profile
    checked = check_text(text, "junk.toml")
    assert (checked.profile is None) == bool(checked.problems)
    lines = text.count("\n") + 1
    assert all(1 <= problem.line <= lines and problem.column >= 1 for problem in checked.problems)


@MORE
@given(st.text())
def test_any_text_gets_an_answer(text):
    answer(text)


@MORE
@given(_FILES)
def test_any_tree_of_the_languages_words_gets_an_answer(tree):
    answer(document(tree).replace("HUGE", "9" * 5000))


# -- whatever it means ---------------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10).filter(
    lambda text: not text.startswith(("@", "same-as:", "sha256:"))
)
_PATH = st.builds(lambda text: f"*/{text}", _TEXT)
_NAME = st.from_regex(r"[a-z0-9]{1,4}(-[a-z0-9]{1,3})?", fullmatch=True)
_IDENTITY = st.sampled_from(["same-as:/usr/bin/ssh", "sha256:" + "0a" * 32])
_DURATION = st.builds("{}{}".format, st.integers(1, 999), st.sampled_from(["ms", "s", "m", "h"]))
_DESTINATION = st.sampled_from(
    ["private", "any", "10.0.0.0/8", "::/0", "fe80::1", "metadata", "198.51.100.7"]
)
_MARKS = ["fetched", "seen"]
_BY_TYPE = {
    "text": _PATH,
    "path": _PATH,
    "program": _PATH | _IDENTITY,
    "words": _TEXT,
    "option": st.builds("-{} {}".format, st.sampled_from("RLx"), _TEXT) | st.just("--algo"),
    "number": st.integers(1, 60) | st.builds(lambda low, more: f"{low}-{low + more}", st.integers(1, 9), st.integers(0, 9)),
    "flag": st.booleans(),
    "dst": _DESTINATION,
    "size": st.builds("over {}{}".format, st.integers(0, 99), st.sampled_from(["", "KiB", "GiB"])),
    "mark": st.sampled_from(_MARKS),
    "ancestor": _PATH,
}  # fmt: skip
_SPECIAL = {
    "exe": _PATH | _IDENTITY,
    "comm": st.sampled_from(["sh", "py*", "b?"]),
    "protocol": st.just("tcp"),
    "result": st.just("ok"),
}


def values(kind, name):
    by_name = {**_SPECIAL, **{choice: st.sampled_from(words) for choice, words in CHOICES.items()}}
    value = by_name.get(name, _BY_TYPE.get(FIELDS[kind][name]))
    return value | st.lists(value, min_size=1, max_size=3)


@st.composite
def parts(draw, per=False):
    kind = draw(st.sampled_from(sorted(FIELDS)))
    names = draw(st.lists(st.sampled_from(sorted(FIELDS[kind])), max_size=4, unique=True))
    part = {"on": kind}
    conditions = {
        name: draw(values(kind, name)) for name in names if name not in ("family", "code", "signal")
    }
    taken_back = [
        name
        for name in sorted(FIELDS[kind])
        if name not in names and FIELDS[kind][name] in ("text", "number")
    ]
    if conditions:
        part["when"] = conditions
    if taken_back and draw(st.booleans()):
        name = draw(st.sampled_from(taken_back))
        part["unless"] = {name: draw(values(kind, name))}
    if draw(st.booleans()):
        part["count"] = {"over": draw(st.integers(4, 100_000)), "within": draw(_DURATION)}
        if not conditions and draw(st.booleans()):
            part["count"]["distinct"] = draw(st.sampled_from(["cwd", "uid", "comm"]))
        if per and draw(st.booleans()):
            part["count"]["per"] = draw(st.sampled_from(PERS))
    return part


@st.composite
def rules(draw, number):
    form = draw(st.sampled_from(["single", "all", "then"]))
    rule = {"id": f"r-{number}"}
    if form == "single":
        rule |= draw(parts(per=True))
    else:
        rule |= {form: draw(st.lists(parts(), min_size=2, max_size=8)), "within": draw(_DURATION)}
        rule |= draw(st.fixed_dictionaries({}, optional={"per": st.sampled_from(PERS)}))
    if draw(st.booleans()):
        full = st.fixed_dictionaries(
            {"name": st.just("own")}, optional={"for": _DURATION, "scope": st.sampled_from(SCOPES)}
        )
        rule["mark"] = draw(st.just("own") | full)
    action = draw(st.sampled_from(["log", "alert", "freeze", "kill", *([""] if "mark" in rule else [])]))
    if action:
        rule["action"] = action
    if action in ("log", "alert") and draw(st.booleans()):
        rule["limit"] = {"to": draw(st.integers(1, 50)), "within": draw(_DURATION)}
    optional = {
        "severity": st.sampled_from(SEVERITIES), "technique": st.just("T1572.001"), "scope": st.sampled_from(SCOPES),
        "message": st.text("ab \"\\\n\x7f\x00é").map(lambda text: text + "{{a}} {exe} {comm}"),
        "description": st.text(max_size=9),
    }  # fmt: skip
    return rule | draw(st.fixed_dictionaries({}, optional=optional))


@st.composite
def profiles(draw):
    own = [draw(rules(number)) for number in range(draw(st.integers(0, 4)))]
    setters = [{"id": f"set-{name}", "on": "fork", "mark": name} for name in _MARKS]
    entries = st.lists(st.sampled_from(["loopback", "10.0.0.0/8:22", "unix:/x*", "public/tcp"]), unique=True)
    network = st.fixed_dictionaries(
        {"default": st.sampled_from(SECTION_ACTIONS)}, optional={"allow": entries}
    )
    gpu = st.fixed_dictionaries({}, optional={"deny": st.just(["nvidia:*"]), "default": st.just("kill")})
    denied = st.fixed_dictionaries({"deny": st.lists(_IDENTITY | st.just("/usr/bin/*"), min_size=1)})
    sections = st.fixed_dictionaries({}, optional={"network": network, "gpu": gpu, "exec": denied})
    return {"name": draw(st.text(max_size=5)), **draw(sections), "rule": own + setters}


@MORE
@given(profiles())
def test_resolved_text_says_all_that_a_profile_says(tree):
    profile = parse_profile(document(tree), "p.toml")
    assert [rule.id for rule in profile.rules] == [rule["id"] for rule in tree["rule"]]

    text = resolved_text(profile)
    again = parse_profile(text, "again.toml")

    assert again == profile
    assert resolved_text(again) == text and profile_hash(again) == profile_hash(profile)
    checked = check_text(document(tree), "p.toml")
    if checked.profile is not None:
        assert parse_profile(annotated_text(profile, checked.origins), "annotated.toml") == profile
