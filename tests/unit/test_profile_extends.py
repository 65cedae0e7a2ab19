"""Several profiles laid over each other: which word wins, what may be taken away, and where each word comes from."""

import re
import textwrap
from pathlib import Path

import pytest

from ebpfaudit.profiles.load import InvalidProfile, check_profile, load_profile, parse_profile, resolved_text
from ebpfaudit.profiles.resolved import annotated_text


@pytest.fixture
def profiles(tmp_path):
    """Write profiles (NAME=TEXT) and give the path of the last."""

    def write(**texts):
        for name, text in texts.items():
            path = tmp_path / f"{name}.toml"
            path.write_text(textwrap.dedent(text).lstrip("\n"))
            path.chmod(0o644)
        return str(path)

    return write


def problems_of(path):
    with pytest.raises(InvalidProfile) as caught:
        load_profile(path)
    return [problem.replace(path.rpartition("/")[0] + "/", "") for problem in caught.value.problems]


def notes_of(path):
    checked = check_profile(path)
    assert checked.problems == ()
    return [str(note).replace(path.rpartition("/")[0] + "/", "") for note in checked.notes]


def entries(policy):
    return {(entry.action, entry.text) for entry in policy.entries}


def test_later_over_earlier_and_own_over_all(profiles):
    path = profiles(
        a='description = "a"\n[network]\ndefault = "log"\nallow = ["10.0.0.1"]\n[gpu]\ndefault = "deny"\n'
        '[[rule]]\nid = "x"\non = "exec"\naction = "log"',
        b='description = "b"\n[network]\ndefault = "alert"\nallow = ["10.0.0.2"]\n'
        '[[rule]]\nid = "x"\non = "exec"\naction = "alert"',
        own='extends = ["./a.toml", "./b.toml"]\n[network]\nallow = ["10.0.0.3"]\n',
    )

    profile = load_profile(path)

    assert (profile.name, profile.description, profile.network.default, profile.gpu.default) == (
        "own",
        "b",
        "alert",
        "deny",
    )
    assert entries(profile.network) == {("allow", f"10.0.0.{number}") for number in (1, 2, 3)}
    assert [rule.action for rule in profile.rules] == ["alert"]


def test_each_file_is_laid_down_once_however_often_it_is_extended(profiles):
    """`b` says nothing of rule x: what `a` made of the common base stands."""
    path = profiles(
        base='[network]\ndefault = "deny"\n[[rule]]\nid = "x"\non = "exec"\naction = "kill"',
        a='extends = "./base.toml"\n[network]\ndefault = "log"\n[[rule]]\nid = "x"\nenabled = false',
        b='extends = "./base.toml"\ndescription = "b"',
        own='extends = ["./a.toml", "./b.toml", "./base.toml"]',
    )

    profile = load_profile(path)

    assert (profile.rules, profile.network.default, profile.description) == ((), "log", "b")
    assert notes_of(path) == []


def test_list_of_the_same_name_replaces_or_extends_the_inherited_one(profiles):
    base = (
        '[lists]\nssh = ["*/ssh"]\n[[rule]]\nid = "x"\non = "exec"\nwhen = { exe = "@ssh" }\naction = "kill"'
    )

    replaced = load_profile(profiles(base=base, own='extends = "./base.toml"\n[lists]\nssh = ["*/my"]'))
    extended = load_profile(
        profiles(base=base, own='extends = "./base.toml"\n[lists]\nssh = ["@ssh", "*/my"]')
    )

    assert replaced.rules[0].parts[0].when == {"exe": ("*/my",)}
    assert extended.rules[0].parts[0].when == {"exe": ("*/ssh", "*/my")}


def test_list_that_extends_nothing_or_another_is_an_error(profiles):
    path = profiles(
        base='[lists]\nssh = ["*/ssh"]',
        own='extends = "./base.toml"\n[lists]\nssg = ["@ssg"]\nmine = ["@ssh"]',
    )

    assert problems_of(path) == [
        "own.toml:3:8: '@ssg': no extended profile has a list 'ssg'; did you mean 'ssh'?",
        "own.toml:4:9: '@ssh': a list holds no other lists, only the inherited one of its own name",
    ]


def test_inherited_entries_can_be_removed(profiles):
    path = profiles(
        base="""
        [network]
        allow = ["10.0.0.0/8", "@nets"]
        kill = ["metadata"]
        [gpu]
        deny = ["any"]
        [exec]
        deny = ["/usr/bin/docker", "/usr/bin/podman"]
        [lists]
        nets = ["192.0.2.1", "192.0.2.2"]
        """,
        own="""
        extends = "./base.toml"
        [network]
        remove = ["10.0.0.0/8", "192.0.2.1"]
        allow = ["10.1.0.0/16"]
        [gpu]
        remove = ["any"]
        log = ["any"]
        [exec]
        remove = ["/usr/bin/docker"]
        """,
    )

    profile = load_profile(path)

    assert entries(profile.network) == {
        ("allow", "10.1.0.0/16"),
        ("allow", "192.0.2.2"),
        ("kill", "metadata"),
    }
    assert entries(profile.gpu) == {("log", "any")}
    assert profile.exec_deny == ("/usr/bin/podman",)
    assert "remove" not in resolved_text(profile)


def test_whole_list_can_be_removed_and_what_is_not_there_cannot(profiles):
    base = '[network]\nallow = ["10.0.0.0/8", "@nets"]\n[lists]\nnets = ["192.0.2.1"]'

    profile = load_profile(profiles(base=base, own='extends = "./base.toml"\n[network]\nremove = ["@nets"]'))
    missing = profiles(
        base=base, own='extends = "./base.toml"\n[network]\nremove = ["192.0.2.1",\n "10.0.0.0/9"]'
    )
    alone = profiles(alone='[gpu]\nallow = ["any"]\nremove = ["any"]')

    assert entries(profile.network) == {("allow", "10.0.0.0/8")}
    assert problems_of(missing) == [
        "own.toml:4:2: [network] remove: no inherited entry '10.0.0.0/9'; did you mean '10.0.0.0/8'?"
    ]
    assert problems_of(alone) == ["alone.toml:3:11: [gpu] remove: no inherited entry 'any'"]


def test_own_entry_that_an_inherited_one_shadows_is_an_error_that_says_the_way_out(profiles):
    path = profiles(
        base='[network]\nkill = ["10.0.0.0/8"]\n[gpu]\ndeny = ["any"]',
        own='extends = "./base.toml"\n[network]\nallow = ["10.0.0.0/8"]\n[gpu]\nallow = ["any"]',
    )

    network, gpu = problems_of(path)

    assert network == (
        "own.toml:3:10: [network] allow '10.0.0.0/8' never applies: kill '10.0.0.0/8' (base.toml:2) is as specific and "
        'stricter; [network] remove = ["10.0.0.0/8"] takes the inherited entry away'
    )
    assert gpu.startswith("own.toml:5:10: [gpu] allow 'any' never applies: deny 'any' (base.toml:4)")


def test_stricter_own_entry_is_no_problem(profiles):
    path = profiles(
        base='[network]\nallow = ["10.0.0.0/8"]',
        own='extends = "./base.toml"\n[network]\nkill = ["10.0.0.0/8"]',
    )

    assert notes_of(path) == []
    assert load_profile(path).network.decide_ip(b"\0" * 10 + b"\xff\xff\x0a\0\0\1", 1, "tcp") == (
        "kill",
        "10.0.0.0/8",
    )


def test_conflicts_of_two_profiles_that_do_not_know_each_other_are_notes(profiles):
    a = '[network]\ndefault = "deny"\nallow = ["10.0.0.0/8"]\n[lists]\nx = ["*/a"]\n'
    b = '[network]\ndefault = "kill"\nkill = ["10.0.0.0/8"]\n[lists]\nx = ["*/b"]\n'
    rule = '[[rule]]\nid = "r"\non = "exec"\nwhen = {{ exe = "@x" }}\naction = "{}"\n'
    both = 'extends = ["./a.toml", "./b.toml"]\n'

    path = profiles(a=a + rule.format("log"), b=b + rule.format("kill"), own=both)

    neither = "neither profile extends the other"
    assert notes_of(path) == [
        f"b.toml:2:11: [network] default replaces that of a.toml:2, and {neither}",
        f"b.toml:5:5: list 'x' replaces that of a.toml:5, and {neither}",
        f"b.toml:6:1: rule 'r' replaces that of a.toml:6, and {neither}",
        f"a.toml:3:10: [network] allow '10.0.0.0/8' never applies: kill '10.0.0.0/8' (b.toml:3) is as specific and "
        f"stricter, and {neither}",
    ]


def test_conflict_that_the_own_text_settles_is_no_note(profiles):
    path = profiles(
        a='[network]\ndefault = "deny"',
        b='[network]\ndefault = "kill"',
        own='extends = ["./a.toml", "./b.toml"]\n[network]\ndefault = "log"',
    )

    assert notes_of(path) == []


def test_what_cannot_be_extended_is_an_error_at_its_name(profiles):
    path = profiles(base="", own='extends = ["./base.toml",\n  "./bass.toml"]')
    unknown = profiles(unknown='extends = "no-such"')
    loop = profiles(a='extends = "./b.toml"', b='extends = "./a.toml"')

    (missing,) = problems_of(path)
    assert missing == "own.toml:2:3: extends: bass.toml: no such profile file"
    assert problems_of(unknown)[0].startswith("unknown.toml:1:11: extends: profile 'no-such': not found")
    assert problems_of(loop)[0].startswith("a.toml:1:11: extends: profiles extend each other in a loop: ")


def test_problems_of_the_own_text_come_before_those_of_extended_ones(profiles):
    path = profiles(base="x = 1", own='extends = "./base.toml"\ny = 1')

    assert [problem.partition(":")[0] for problem in problems_of(path)] == ["own.toml", "base.toml"]


def test_shown_text_says_where_each_word_comes_from_and_what_it_overrides(profiles):
    path = profiles(
        base="""
        description = "B"
        [network]
        default = "allow"
        kill = ["metadata", "@nets"]
        [lists]
        nets = [
            "192.0.2.1",
        ]
        [exec]
        deny = ["/usr/bin/docker"]
        [[rule]]
        id = "one"
        on = "exec"
        action = "kill"
        [[rule]]
        id = "two"
        on = "fork"
        action = "log"
        """,
        my="""
        extends = "./base.toml"
        [network]
        default = "deny"
        [[rule]]
        id = "one"
        on = "exec"
        action = "log"
        """,
    )
    checked = check_profile(path)

    text = annotated_text(checked.profile, checked.origins)

    assert parse_profile(text, "shown") == load_profile(path)
    assert text == textwrap.dedent(
        """\
        name = "my"
        description = "B"

        [network]
        default = "deny"  # my.toml:3, overrides base.toml:3
        kill = [
            "metadata",   # base.toml:4
            "192.0.2.1",  # base.toml:7 (@nets)
        ]

        [exec]
        deny = [
            "/usr/bin/docker",  # base.toml:10
        ]

        [[rule]]  # my.toml:4, overrides base.toml:11
        id = "one"
        on = "exec"
        action = "log"
        scope = "tree"

        [[rule]]  # base.toml:15
        id = "two"
        on = "fork"
        action = "log"
        scope = "tree"
        """
    )


def test_origins_of_two_files_of_one_name_are_told_apart(profiles, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "own.toml").write_text('[gpu]\ndefault = "deny"\n')
    (other / "own.toml").chmod(0o644)
    path = profiles(own='extends = "other/own.toml"\n[network]\ndefault = "deny"\n')

    checked = check_profile(path)

    assert checked.origins == {
        ("network", "default"): f"{path}:3",
        ("gpu", "default"): f"{tmp_path}/other/own.toml:2",
    }


REFERENCE = Path(__file__).parents[2] / "docs" / "profile-reference.md"


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", REFERENCE.read_text(), re.DOTALL))
def test_example_of_the_reference_is_sound(profiles, example):
    assert notes_of(profiles(example=example)) == []


def test_resolved_text_holds_no_entry_that_another_made_void(profiles):
    path = profiles(
        below='[network]\nallow = ["10.0.0.1:80", "10.1.0.0/16", "unix:/run/a"]\n[gpu]\nallow = ["nvidia:0"]\n',
        above="""
        extends = "./below.toml"
        [network]
        deny = ["10.0.0.1", "unix:/run/a"]
        allow = ["10.1.0.0/16:443"]
        [gpu]
        deny = ["nvidia:0"]
        """,
    )
    profile = load_profile(path)

    assert entries(profile.network) == {
        ("allow", "10.1.0.0/16"),
        ("deny", "10.0.0.1"),
        ("deny", "unix:/run/a"),
    }
    assert entries(profile.gpu) == {("deny", "nvidia:0")}
    assert parse_profile(resolved_text(profile), "recorded") == profile
