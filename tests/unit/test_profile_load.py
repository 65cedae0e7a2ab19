"""Profiles from files: what is found, what is extended, and what each mistake is told."""

import os
import re

import pytest

from ebpfaudit import resources
from ebpfaudit.errors import ProfileError
from ebpfaudit.profiles import load
from ebpfaudit.profiles.load import InvalidProfile, load_profile, parse_profile, profile_hash, resolved_text

RULE = '[[rule]]\nid = "r"\non = "{on}"\nwhen = {{ {when} }}\n{rest}action = "kill"\n'


def problems_of(text: str) -> list[str]:
    with pytest.raises(InvalidProfile) as caught:
        parse_profile(text, "p.toml")
    return list(caught.value.problems)


def write(folder, name: str, text: str) -> str:
    path = folder / f"{name}.toml"
    path.write_text(text)
    path.chmod(0o644)
    return str(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("acton = 1", "p.toml:1:1: unknown key 'acton'"),
        ("name = 'x'\n[network]\ndefalt = 'deny'", "p.toml:3:1: unknown key 'defalt' in [network]; did you mean 'default'?"),
        ("[network]\ndefault = 'denny'", "p.toml:2:11: unknown action 'denny'; did you mean 'deny'?"),
        ("[network]\nallow = [\n 'loopback',\n 'privat',\n]", "p.toml:4:2: [network] allow: 'privat' is neither an"),
        ("[network]\nallow = ['10.0.0.1/8']", "p.toml:2:10: [network] allow: '10.0.0.1/8' has bits set"),
        ("[network]\nallow = ['10.0.0.0/33']", "'/33' is not a prefix length of 0 to 32"),
        ("[network]\nallow = ['300.0.0.1']", "'300.0.0.1' is not an address"),
        ("[network]\nallow = ['10.0.0.1:70000']", "'70000' is not a port"),
        ("[network]\nallow = ['10.0.0.1:9-5']", "'9-5' is not a port"),
        ("[network]\nallow = ['packages.example.org:443']", "host names cannot be decided in the kernel"),
        ("[network]\nallow = ['unix:/tmp/*/x']", "one '*', at its end"),
        ("[network]\nallow = ['unix:tmp']", "write unix:/path"),
        (f"[network]\nallow = ['unix:/{'x' * 120}']", "at most 107 bytes"),
        ("[network]\nallow = ['same-as:x']", "p.toml:2:10: [network] allow: 'same-as:x' names a program, which only"),
        ("[network]\nallow = ['@nets']", "unknown list '@nets'"),
        ("[network]\nallow = 'loopback'", "'allow' must be a list of strings"),
        ("network = 3", "'network' is a table: write [network]"),
        ("[gpu]\nallow = ['nvidia0']", "'nvidia0' is no device"),
        ("[gpu]\nallow = ['any']\ndeny = ['any']", "p.toml:2:10: [gpu] allow 'any' never applies: deny 'any' (p.toml:3)"),
        ("[exec]\ndeny = ['docker']", "write '/usr/bin/docker'"),
        ("[exec]\ndeny = ['/usr/bin/ok', 'sha256:00']", "p.toml:2:24: [exec] deny: 'sha256:00': SHA-256 has 64 hex"),
        ("[exec]\nallow = ['/bin/ls']", "unknown key 'allow' in [exec]"),
        ("[lists]\nempty = []", "p.toml:2:9: list 'empty' is empty"),
        ("[require]\nhooks = ['lsm']", "p.toml:1:1: 'require' is not supported by this version"),
        ("name = 3", "'name' must be a string"),
        ("extends = 'base'", "a resolved profile extends nothing"),
        ("name = ", "p.toml:1:8: not valid TOML"),
        ("rule = 3", "in double brackets"),
        ("[[rule]]\non = 'exec'", "p.toml:1:1: a rule needs an id"),
        ("[[rule]]\nid = 'network'", "the id 'network' is taken"),
        ("[[rule]]\nid = 'a'\non='exec'\naction='kill'\n[[rule]]\nid = 'a'", "p.toml:6:6: a second rule with the id 'a'"),
        ("[[rule]]\nid = 'a'\nenabled = false", "no inherited rule 'a' to disable"),
    ],
)  # fmt: skip
def test_mistake_is_named_with_its_line(text, problem):
    found = problems_of(text)

    assert any(problem in each for each in found), found


@pytest.mark.parametrize(
    ("on", "when", "rest", "problem"),
    [
        ("exek", "", "", "p.toml:3:6: rule 'r': unknown on 'exek'; did you mean 'exec'?"),
        ("exec", "dst = 'any'", "", "p.toml:4:10: rule 'r': 'exec' events have no field 'dst'"),
        ("connect", "phase = 'done'", "", "'connect' events have no field 'phase'"),
        ("exec", "ancestor = 'x'", "", "'ancestor' is a full path and can never be 'x'; write '*/x'"),
        ("exec", "exe = []", "", "'exe' has no values and can never match"),
        ("exec", "exe = 'ssh'", "", "can never be 'ssh'; write '*/ssh'"),
        ("exec", "exe = ['*/ssh', 'same-as:ssh']", "", "p.toml:4:26: rule 'r': 'same-as:ssh': write the full path of a file"),
        ("exec", "exe = '@shells'", "", "unknown list '@shells'"),
        ("exec", "comm = 'a-name-longer-than-15'", "", "'comm' holds 15 bytes"),
        ("exec", "memfd = 'yes'", "", "'memfd' is true or false"),
        ("exec", "uid = -1", "", "'uid' can never be '-1'"),
        ("exec", "argv = 5", "", "'argv' needs a string"),
        ("connect", "dst = '10.0.0.0/8:22'", "", "prefix length"),
        ("connect", "dst = 'privat'", "", "did you mean 'private'?"),
        ("connect", "port = 0", "", "'0-0' is not a port"),
        ("connect", "port = '9-3'", "", "'9-3' is not a port"),
        ("connect", "family = 'ipv5'", "", "'family' is never 'ipv5'"),
        ("connect", "result = 'refusd'", "", "did you mean 'refused'?"),
        ("connect", "family = 'unix', port = 3", "", "a Unix socket has no port"),
        ("connect", "protocol = 'udp', result = 'ok'", "", "only TCP tells"),
        ("connect", "dst = 'any'", "unless = { dst = 'any' }\n", "'unless' takes back all"),
        ("gpu", "event = 'kernel'", "", "'event' is never 'kernel'"),
        ("gpu", "bytes = 'much'", "", "'much' is not a size"),
        ("exec", "", "severty = 'low'\n", "unknown key 'severty' in [rule]; did you mean 'severity'?"),
        ("exec", "", "severity = 'lo'\n", "unknown severity 'lo'"),
        ("exec", "", "scope = 'host'\n", "unknown scope 'host'"),
        ("exec", "", "technique = 'X1'\n", "'X1' is not a technique"),
        ("exec", "", "count = { over = 0, within = '5s' }\n", "count needs 'over'"),
        ("exec", "", "count = { over = 5, within = '5 s' }\n", "'5 s' is not a duration"),
        ("exec", "", "count = { over = 5, within = '5s', per = 'host' }\n", "unknown per 'host'"),
        ("exec", "", "count = { over = 5, within = '5s', distinct = 'dst' }\n", "cannot count distinct 'dst'"),
        ("exec", "", "count = { over = 5, within = '5s', burst = 3 }\n", "unknown key 'burst' in [rule.count]"),
        ("connect", "port = [22, 23]", "count = { over = 2, within = '5s', distinct = 'port' }\n", "never count over 2"),
    ],
)  # fmt: skip
def test_rule_that_cannot_be_meant_is_an_error(on, when, rest, problem):
    found = problems_of(RULE.format(on=on, when=when, rest=rest))

    assert any(problem in each for each in found), found


@pytest.mark.parametrize("action", ["deny", "allow"])
def test_rule_cannot_deny_or_allow_after_the_act(action):
    (problem,) = problems_of(f'[[rule]]\nid = "r"\non = "exec"\naction = "{action}"')

    assert problem.startswith("p.toml:4:10: ") and action in problem


@pytest.mark.parametrize(
    ("section", "line", "problem"),
    [
        ("allow = ['10.0.0.0/8']\nkill = ['10.0.0.0/8']", 2, "never applies: kill '10.0.0.0/8' (p.toml:3)"),
        ("allow = ['10.1.1.1:80']\ndeny = ['10.1.1.1']", 2, "never applies: deny '10.1.1.1'"),
        ("allow = ['::ffff:10.0.0.0/104']\nkill = ['10.0.0.0/8']", 2, "never applies"),
        ("allow = ['169.254.169.254']\nkill = ['metadata']", 2, "never applies"),
        ("allow = ['unix:/x']\nkill = ['unix:/x']", 2, "never applies"),
        ("allow = ['10.1.1.1', '10.1.1.1/32']", 2, "says nothing that '10.1.1.1' does not"),
    ],
)
def test_entry_that_never_decides_is_an_error(section, line, problem):
    (found,) = problems_of(f"[network]\n{section}")

    assert found.startswith(f"p.toml:{line}:") and problem in found


def test_wider_or_milder_entries_beside_narrower_ones_are_no_error():
    profile = parse_profile(
        "[network]\nallow = ['10.0.0.0/8', '10.1.1.1:80']\nkill = ['10.1.0.0/16']\ndeny = ['10.2.0.0/16:22']\n",
        "p",
    )

    assert profile.network is not None and len(profile.network.entries) == 4


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_text():
    found = problems_of("nam = 1\n[network]\nallow = ['x', '1.2.3.4/40']\n[[rule]]\nid = 'a'\non = 'exec'\n")

    assert [each.split(":")[1] for each in found] == ["1", "3", "3", "4"]


def test_more_ports_than_the_kernel_walks_is_an_error():
    ports = ", ".join(f"'10.0.0.1:{port}'" for port in range(100, 117))

    (found,) = problems_of(f"[network]\nallow = [{ports}]")

    assert "at most 16" in found
    assert parse_profile(f"[network]\nallow = [{ports.rsplit(',', 2)[0]}]", "p").network is not None


def test_child_overrides_scalars_and_rules_and_adds_to_sections(tmp_path):
    write(
        tmp_path,
        "parent",
        """
        name = "parent"
        description = "D"
        [network]
        default = "allow"
        kill = ["metadata"]
        [lists]
        tools = ["*/a"]
        [[rule]]
        id = "one"
        on = "exec"
        when = { exe = "@tools" }
        action = "kill"
        [[rule]]
        id = "two"
        on = "exec"
        action = "alert"
        """,
    )
    child = write(
        tmp_path,
        "child",
        """
        extends = "./parent.toml"
        [network]
        default = "deny"
        allow = ["loopback"]
        kill = ["metadata"]
        [lists]
        tools = ["*/b"]
        [[rule]]
        id = "two"
        enabled = false
        """,
    )

    profile = load_profile(child)

    assert (profile.name, profile.description) == ("child", "D")
    assert profile.network.default == "deny"
    assert [(entry.action, entry.text) for entry in profile.network.entries] == [
        ("allow", "loopback"), ("kill", "metadata"),
    ]  # fmt: skip
    assert [rule.id for rule in profile.rules] == ["one"]
    assert profile.rules[0].parts[0].when == {"exe": ("*/b",)}


def test_entry_of_a_child_that_the_parent_shadows_names_both_files(tmp_path):
    parent = write(tmp_path, "parent", '[network]\nkill = ["metadata"]\n')
    child = write(tmp_path, "child", 'extends = ["parent.toml"]\n[network]\nallow = ["metadata"]\n')

    with pytest.raises(InvalidProfile, match="never applies") as caught:
        load_profile(child)

    assert str(caught.value).startswith(f"{child}:3:10: ") and f"({parent}:2)" in str(caught.value)


def test_loop_of_extends_is_an_error(tmp_path):
    write(tmp_path, "a", 'extends = "./b.toml"')
    write(tmp_path, "b", 'extends = "./a.toml"')

    with pytest.raises(ProfileError, match="in a loop"):
        load_profile(str(tmp_path / "a.toml"))


def test_name_is_searched_for_in_the_users_folder_before_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "ebpfaudit" / "profiles"
    folder.mkdir(parents=True)
    write(folder, "base", 'description = "mine"')

    assert load_profile("base").description == "mine"
    assert load.known_profiles()["base"] == folder / "base.toml"
    assert load.known_profiles()["coding-agent"].parent == resources.folder("profiles")


def test_missing_profile_says_where_it_was_sought_and_what_is_near(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    with pytest.raises(ProfileError) as caught:
        load_profile("codin-agent")

    message = str(caught.value)
    assert "did you mean 'coding-agent'?" in message
    for folder in (
        tmp_path / "ebpfaudit" / "profiles",
        "/etc/ebpfaudit/profiles",
        resources.folder("profiles"),
    ):
        assert str(folder) in message
    with pytest.raises(ProfileError, match=r"nowhere\.toml: no such profile file"):
        load_profile("nowhere.toml")
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(f"{tmp_path}/")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root distrusts")
def test_root_refuses_a_profile_that_others_may_write(tmp_path):
    path = write(tmp_path, "p", "name = 'p'")
    os.chmod(path, 0o664)

    with pytest.raises(ProfileError, match="chmod go-w"):
        load_profile(path)


def test_profile_that_is_no_text_is_an_error(tmp_path):
    path = tmp_path / "p.toml"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o644)

    with pytest.raises(ProfileError, match="not a UTF-8 text"):
        load_profile(str(path))


@pytest.mark.parametrize("name", sorted(path.stem for path in resources.folder("profiles").glob("*.toml")))
def test_resolved_text_reads_back_as_the_same_profile(name):
    profile = load_profile(name)
    text = resolved_text(profile)

    again = parse_profile(text, "trail")

    assert again == profile
    assert resolved_text(again) == text
    assert profile_hash(again) == profile_hash(profile)
    assert "extends" not in text and not re.search(r'"@[A-Za-z0-9_-]+"', text)


def test_resolved_text_keeps_every_word_of_the_language():
    text = (
        'name = "n\\u007f\\"é"\ndescription = "d"\n[network]\ndefault = "log"\nallow = ["unix:@x\\u0001*", "any:53/udp"]\n'
        '[gpu]\ndefault = "kill"\nallow = ["GPU-1-2"]\n[exec]\ndeny = ["/x"]\n[[rule]]\nid = "r"\non = "gpu"\n'
        'when = { bytes = { over = "1.5GiB" }, uid = ["5-9", 3] }\nunless = { exe = "/a" }\n'
        'count = { distinct = "device", over = 3, within = "90m", per = "step" }\naction = "freeze"\nscope = "episode"\n'
        'severity = "low"\ntechnique = "T1000.001"\nmessage = "m"\ndescription = "e"\n'
    )
    profile = parse_profile(text, "p")

    assert parse_profile(resolved_text(profile), "q") == profile
    (rule,) = profile.rules
    (part,) = rule.parts
    assert part.when == {"bytes": ("over 1.5GiB",), "uid": ("5-9", 3)}
    assert (part.count.within_ns, part.count.per, part.count.distinct) == (5400 * 10**9, "step", "device")
    assert (rule.action, rule.scope, rule.severity, rule.technique) == (
        "freeze",
        "episode",
        "low",
        "T1000.001",
    )


def test_hash_changes_with_the_meaning():
    one = parse_profile("[network]\ndefault = 'deny'", "p")
    two = parse_profile("[network]\ndefault = 'kill'", "p")

    assert profile_hash(one) != profile_hash(two)
    assert one != two


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (RULE.format(on="exec", when=f"exe{'.a' * 3000} = 1", rest=""), "p.toml:1:1: nested too deeply"),
        (RULE.format(on="exec", when=f"uid = 0x{'f' * 6000}", rest=""), "p.toml:4:16: the number is too long"),
        ("\n" + RULE.format(on="exec", when=f"uid = 1{'0' * 6000}", rest=""), "p.toml:5:1: not valid TOML: the number is"),
    ],
)  # fmt: skip
def test_no_value_is_too_much_to_be_quoted(text, problem):
    (found,) = problems_of(text)
    assert found.startswith(problem)


def test_a_long_value_is_not_quoted_in_full():
    (found,) = problems_of(f"[network]\nallow = ['{'A' * 100_000}']")
    assert found.startswith("p.toml:2:10: [network] allow: 'AAA") and len(found) < 3000


def test_a_byte_order_mark_is_no_part_of_the_text():
    (found,) = problems_of("\ufeffname = 'x'\nacton = 1")
    assert found.startswith("p.toml:2:1: unknown key")


def test_many_entries_at_one_prefix_are_not_compared_forever():
    ports = ", ".join(f"'10.0.0.1:{port}'" for port in range(1, 20_000))
    assert any(
        "more than 512 entries like" in found for found in problems_of(f"[network]\nallow = [{ports}]")
    )


def test_what_is_no_text_of_a_sensible_size_is_said(tmp_path):
    os.mkfifo(tmp_path / "fifo.toml")
    big = write(tmp_path, "big", "#" * (4 * 2**20 + 1))
    with pytest.raises(ProfileError, match="at most 4 MiB"):
        load_profile(big)
    for name, problem in (
        ("./fifo.toml", "is not a file"),
        (f"{'a' * 5000}/", "cannot be read: File name too"),
    ):
        with pytest.raises(InvalidProfile, match=problem):
            load_profile(write(tmp_path, "child", f"extends = '{name}'"))


def test_a_problem_of_the_file_names_it_once(tmp_path):
    (problem,) = load.check_profile(str(tmp_path / "none.toml")).problems
    assert str(problem) == f"{tmp_path}/none.toml: no such profile file"


def test_resolved_text_is_printable_and_reads_back(tmp_path):
    text = 'name = "a\\u009b31m\\u202e\\U000E0001\\u007f"\n' + RULE.format(
        on="exec", when="argv = '\x85*'", rest=""
    )
    profile = load_profile(write(tmp_path, "odd", text))
    shown = resolved_text(profile)
    assert shown.replace("\n", "").isprintable()
    assert parse_profile(shown, "shown") == profile
