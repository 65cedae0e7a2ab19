"""Rules that say something in vain: errors where they can never match, notes where they are hardly meant."""

import os

import pytest

from ebpfaudit import resources
from ebpfaudit.profiles.covering import covers_glob, covers_part, covers_values
from ebpfaudit.profiles.load import check_profile, check_text, load_profile, parse_profile
from ebpfaudit.profiles.schema import Part

RULE = '[[rule]]\nid = "{id}"\non = "{on}"\nwhen = {{ {when} }}\n{rest}\naction = "{action}"\n'


def rule(id="r", on="exec", when="", rest="", action="kill"):
    return RULE.format(id=id, on=on, when=when, rest=rest, action=action)


def check(text):
    checked = check_text(text, "p.toml")
    return [str(each) for each in checked.problems], [str(each) for each in checked.notes]


@pytest.mark.parametrize(
    ("on", "when", "problem"),
    [
        ("exec", 'error = "ENOENT", filename = "*nc"', "what did not start is asked for with 'exe'"),
        ("exec", "untagged = true, source = 'launched'", "4:27: rule 'r': can never match: what is 'untagged' has the source"),
        ("exec", "untagged = false, source = 'untagged'", "what is not 'untagged' has another source"),
        ("exec", "memfd = true, exe = ['/usr/bin/x', '/tmp/*']", "4:24: rule 'r': can never match: a memory file's 'exe' is"),
        ("exec", "memfd = false, exe = 'memfd:x'", "'exe' is that of a memory file"),
        ("exec", "via_linker = true, exe = ['*/ssh', '/bin/sh']", "with 'via_linker' it is a dynamic linker"),
        ("exec", "temporary = false, deleted = true", "a memory file or a deleted file is always 'temporary'"),
        ("exec", "error = '*', program = 'same-as:/usr/bin/ssh'", "a program that did not start is not known by its content"),
        ("exec", "ancestor = ['/usr/sbin/sshd'], not-ancestor = '*/sshd'", "it bars every 'ancestor' that is asked for"),
        ("connect", "dst = 'unix:/x', family = 'ipv4'", "4:27: rule 'r': can never match: every 'dst' is a Unix socket"),
        ("connect", "dst = ['unix:/x', 'unix:/y*'], port = 22", "every 'dst' is a Unix socket, which has no port"),
        ("connect", "dst = 'unix:/x', protocol = 'tcp'", "every 'dst' is a Unix socket"),
        ("connect", "dst = 'private', family = 'unix'", "no 'dst' is a Unix socket; write unix:PATH"),
        ("connect", "dst = ['::/0', 'fe80::/10'], family = 'ipv4'", "every 'dst' is an IPv6 address"),
        ("connect", "family = 'unix', protocol = ['tcp', 'udp']", "the sockets of the family \"unix\" are stream"),
        ("exit", "signal = 9, code = '1-255'", "whatever a signal ends has the code 0"),
    ],
)  # fmt: skip
def test_contradiction_is_an_error_at_the_word_that_cannot_hold(on, when, problem):
    (found,), _ = check(rule(on=on, when=when))

    assert problem in found
    parse_profile(rule(on=on, when=when), "an old trail stays readable")


@pytest.mark.parametrize(
    ("on", "when"),
    [
        ("exec", "untagged = true, source = ['launched', 'untagged']"),
        ("exec", "memfd = true, exe = ['/usr/bin/x', '*:x']"),
        ("exec", "memfd = true, exe = ['/usr/bin/x', 'same-as:/usr/bin/ssh']"),
        ("exec", "via_linker = true, exe = '/lib64/ld-linux-x86-64.so.2'"),
        ("exec", "ancestor = ['*/sshd', '*/x'], not-ancestor = '*/sshd'"),
        ("exec", "temporary = true, exe = '/usr/bin/x'"),
        ("connect", "dst = ['unix:/x', '10.0.0.0/8'], family = 'ipv4'"),
        ("connect", "dst = 'any', family = 'ipv4'"),
        ("connect", "dst = 'unix:/x', protocol = 'stream'"),
        ("exit", "signal = 9, code = 0"),
    ],
)
def test_what_can_be_is_no_error(on, when):
    problems, _ = check(rule(on=on, when=when))

    assert problems == []


@pytest.mark.parametrize(
    ("when", "unless", "dead"),
    [
        ("exe = '/usr/bin/ssh'", "exe = '*/ssh'", True),
        ("exe = '/usr/bin/ssh', argv = '-R9'", "exe = '*ssh*'", True),
        ("uid = ['3-5', 7]", "uid = '1-9'", True),
        ("dst = '10.1.0.0/16'", "dst = '10.0.0.0/8'", True),
        ("option = '-R [0-9]*'", "option = '-R'", True),
        ("exe = ['*/ssh', '*/scp']", "exe = '*/ssh'", False),
        ("exe = '*/ssh'", "cwd = '*'", False),
        ("dst = 'any'", "dst = 'private'", False),
        ("dst = 'public'", "dst = 'any'", True),
        ("dst = 'any'", "dst = 'public'", False),
        ("exe = 'same-as:/usr/bin/ssh'", "exe = '*'", False),
        ("not-ancestor = '*/x'", "not-ancestor = '*/xy'", False),
    ],
)
def test_unless_that_takes_back_all_is_an_error(when, unless, dead):
    on = "connect" if "dst" in when else "exec"
    problems, _ = check(rule(on=on, when=when, rest=f"unless = {{ {unless} }}"))

    expected = ["p.toml:5:1: rule 'r': can never match: 'unless' takes back all that 'when' gives"]
    assert problems == (expected if dead else [])


def test_contradiction_in_a_part_names_that_part():
    text = (
        '[[rule]]\nid = "r"\naction = "log"\nwithin = "1m"\nall = [{ on = "fork" },\n'
        ' { on = "exec", when = { memfd = true, exe = "/x" } }]\n'
    )

    assert check(text)[0] == [
        "p.toml:6:40: rule 'r': can never match: a memory file's 'exe' is memfd:NAME, never a path"
    ]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (rule(when="exe = '*'"), "p.toml:4:16: rule 'r': 'exe' is always something, so \"*\" says nothing"),
        (rule(when="comm = ['sh', '**']"), "p.toml:4:24: rule 'r': 'comm' is always something"),
        (rule(rest="mark = 'x'"), "p.toml:5:8: rule 'r': no rule tests the mark 'x'"),
        (rule(rest="unless = { exe = 'same-as:/usr/bin/env' }"), "p.toml:5:10: rule 'r': 'unless' comes too late"),
        ("[lists]\nssh = ['*/ssh']\n", "p.toml:2:7: nothing uses the list 'ssh'"),
        (rule(when="exe = 'same-as:/no/such/file'"), "p.toml:4:16: 'same-as:/no/such/file': there is no such file on this host"),
        (rule("a", when="exe = '*/a*'") + rule("b", when="exe = '*/ab'", action="alert"),
         "p.toml:8:6: rule 'b': every event it matches is already met by 'a' (p.toml:1): kill"),
        (rule("a", when="argv = '-x'", action="log") + rule("b", when="argv = '-x'", action="log"),
         "p.toml:8:6: rule 'b': says the same as 'a' (p.toml:1)"),
        (rule("a", on="connect", when="dst = '10.0.0.0/8'") + rule("b", on="connect", when="dst = '10.1.0.0/16', port = 22"),
         "rule 'b': every event it matches is already met by 'a'"),
    ],
)  # fmt: skip
def test_what_is_hardly_meant_is_a_note(text, note):
    problems, notes = check(text)

    assert problems == []
    assert any(each.startswith(note) or note in each for each in notes), notes


@pytest.mark.parametrize(
    "text",
    [
        rule("a", when="exe = '*/a'", action="alert") + rule("b", when="exe = '*/a'"),
        rule("a", when="exe = '*/a'") + rule("b", when="exe = '*/a'", rest='mark = "m"') + rule("c", when='mark = "m"'),
        rule("a", when="exe = '*/a'", rest='count = { over = 3, within = "1s" }') + rule("b", when="exe = '*/a'", action="log"),
        rule("a", when="exe = '*/a'", rest='unless = { argv = "x" }') + rule("b", when="exe = '*/a'", action="log"),
        rule("a", on="connect", when="port = 22") + rule("b", on="connect", when='port = 22, result = "ok"', action="log"),
        rule("a") + rule("b", when='error = "ENOENT"', action="log"),
        rule(when='script = "*"') + rule("e", when='error = "*"'),
    ],
)  # fmt: skip
def test_what_has_a_meaning_of_its_own_is_no_note(text):
    notes = check(text)[1]

    assert [note for note in notes if "rule 'a'" not in note] == []


def test_name_of_a_multi_call_binary_is_a_note(tmp_path):
    (tmp_path / "busybox").write_bytes(b"")
    os.symlink("busybox", tmp_path / "nc")

    _, notes = check(rule(when=f"exe = 'same-as:{tmp_path}/nc'"))

    assert f"{tmp_path}/busybox, one program with many names" in notes[0] and len(notes) == 1


def test_own_text_is_noted_about_and_not_what_it_extends(tmp_path):
    base, own = tmp_path / "base.toml", tmp_path / "own.toml"
    base.write_text(rule("a", rest='mark = "x"'))
    own.write_text('extends = "./base.toml"\n[lists]\nbas = ["/x"]\n')
    for path in (base, own):
        path.chmod(0o644)

    assert [note.place for note in check_profile(str(base)).notes] == [f"{base}:5:8"]
    assert [str(note) for note in check_profile(str(own)).notes] == [
        f"{own}:3:7: nothing uses the list 'bas'"
    ]


def test_check_raises_nothing(tmp_path):
    missing = check_profile("no-such-profile")
    broken = check_text("name = [", "p.toml")

    assert missing.profile is None and "'no-such-profile': not found" in str(missing.problems[0])
    assert str(missing.problems[0]).startswith("no-such-profile: ")
    assert [str(each) for each in broken.problems] == ["p.toml:1:9: not valid TOML: Invalid value"]


@pytest.mark.parametrize("name", sorted(path.stem for path in resources.folder("profiles").glob("*.toml")))
def test_notes_about_a_shipped_profile_are_only_about_files_that_this_host_lacks(name):
    checked = check_profile(name)

    assert checked.profile == load_profile(name)
    assert [str(note) for note in checked.notes if "no such file" not in note.message] == []


@pytest.mark.parametrize(
    ("wide", "narrow", "covers"),
    [
        ("*", "x", True), ("*/ssh*", "*/sshd", True), ("*a*b", "xaxb*b", True), ("*a*b", "a?b", True), ("a*", "*a", False),
        ("a?", "ab", False), ("a?", "a?", True), ("*b", "*b*", False), ("x", "[x]", False), ("*", "a\nb", True),
        ("*a", "a*", False), ("same-as:/x", "same-as:/x", True), ("*", "same-as:/x", False), ("*a*a", "a", False),
    ],
)  # fmt: skip
def test_globs_that_hold_others(wide, narrow, covers):
    assert covers_glob(wide, narrow) is covers


def test_values_that_hold_others():
    assert covers_values("gpu", "bytes", ("over 1GiB",), ("over 2GiB",))
    assert not covers_values("gpu", "bytes", ("over 2GiB",), ("over 1GiB",))
    assert covers_values("connect", "dst", ("unix:/run/*",), ("unix:/run/x",))
    assert not covers_values("connect", "dst", ("10.0.0.0/8",), ("10.0.0.0/7",))
    assert not covers_values("connect", "dst", ("public",), ("0.0.0.0/0",))
    assert covers_values("connect", "dst", ("::/0",), ("fe80::/10",))
    assert not covers_values("connect", "dst", ("::/0",), ("10.0.0.1",))
    assert covers_values("exec", "not-ancestor", ("*/ssh",), ("*/ssh*",))
    assert not covers_values("exec", "memfd", (True,), (False,))
    assert not covers_part(Part("exec", {}, {}), Part("fork", {}, {}))
