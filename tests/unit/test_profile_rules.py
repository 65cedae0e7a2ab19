"""The words of a `[[rule]]`: what each means, what it may not say, and where the mistake is said to be."""

import pytest

from ebpfaudit.profiles.identity import IdentityError, is_identity, parse_identity
from ebpfaudit.profiles.load import InvalidProfile, check_text, parse_profile, resolved_text
from ebpfaudit.profiles.message import MessageError, parse_message
from ebpfaudit.profiles.schema import Count, Limit, Mark, Part

MINUTE = 60 * 10**9
HEX = "0123456789abcdef" * 4


def rule(lines: str, head: str = ""):
    """The only rule that carries `lines`, and the same read back from the resolved text."""
    profile = parse_profile(f'{head}[[rule]]\nid = "r"\n{lines}', "p.toml")
    assert parse_profile(resolved_text(profile), "again.toml") == profile
    return profile.rules[0]


def problems_of(text: str) -> list[str]:
    with pytest.raises(InvalidProfile) as caught:
        parse_profile(text, "p.toml")
    return list(caught.value.problems)


def test_single_rule_has_one_part():
    read = rule(
        'on = "exec"\nwhen = { program = "*/ssh" }\ncount = { over = 3, within = "10s", per = "step" }\naction = "kill"'
    )

    assert (read.form, read.within_ns, read.within, read.per) == ("single", 0, "", "")
    assert read.parts == (Part("exec", {"program": ("*/ssh",)}, {}, Count(3, 10 * 10**9, "10s", "step")),)


def test_conjunction_keeps_its_parts_and_a_count_takes_the_rules_per():
    read = rule(
        'all = [{ on = "gpu", when = { event = "context" } }, { on = "connect", unless = { dst = "private" },'
        ' count = { over = 5, within = "1s", distinct = "dst" } }]\nwithin = "5m"\nper = "episode"\naction = "freeze"'
    )

    assert (read.form, read.within_ns, read.within, read.per) == ("all", 5 * MINUTE, "5m", "episode")
    assert read.parts[0] == Part("gpu", {"event": ("context",)}, {})
    assert read.parts[1] == Part(
        "connect", {}, {"dst": ("private",)}, Count(5, 10**9, "1s", "episode", "dst")
    )


def test_sequence_may_be_written_as_tables_of_its_own():
    read = rule(
        'within = "5m"\naction = "alert"\n[[rule.then]]\non = "exec"\nwhen.exe = "*/curl"\n[[rule.then]]\non = "fork"\n'
    )

    assert (read.form, read.per) == ("then", "tree")
    assert [part.on for part in read.parts] == ["exec", "fork"]


@pytest.mark.parametrize(
    ("written", "mark"),
    [
        ('"fetched"', Mark("fetched", 10 * MINUTE, "10m", "process")),
        ('{ name = "fetched" }', Mark("fetched", 10 * MINUTE, "10m", "process")),
        (
            '{ name = "fetched", for = "2h", scope = "episode" }',
            Mark("fetched", 120 * MINUTE, "2h", "episode"),
        ),
    ],
)
def test_mark(written, mark):
    read = rule(f'on = "exec"\nmark = {written}')

    assert read.mark == mark
    assert read.action == "allow"


def test_rule_with_a_mark_may_also_act():
    assert rule('on = "exec"\nmark = "x"\naction = "log"').action == "log"


def test_limit():
    read = rule('on = "exec"\naction = "alert"\nlimit = { to = 5, within = "1m" }')
    by_tree = rule('on = "exec"\naction = "log"\nlimit = { to = 1, within = "1m", per = "tree" }')

    assert (read.limit, by_tree.limit) == (Limit(5, MINUTE, "1m", "episode"), Limit(1, MINUTE, "1m", "tree"))


def test_new_fields_are_kept_as_written():
    read = rule(
        'on = "exec"\nwhen = { option = ["-R [0-9]*", "--nicehash"], ancestor = "*/sshd", not-ancestor = ["*/git"], '
        'stdio = "any", temporary = true, inline_code = false, source = "launched", step = "tests*", argv = "@ngrok/*" }\n'
        'action = "kill"'
    )

    assert read.parts[0].when == {
        "option": ("-R [0-9]*", "--nicehash"), "ancestor": ("*/sshd",), "not-ancestor": ("*/git",), "stdio": ("any",),
        "temporary": (True,), "inline_code": (False,), "source": ("launched",), "step": ("tests*",), "argv": ("@ngrok/*",),
    }  # fmt: skip


def test_identities_anywhere_are_collected():
    profile = parse_profile(
        f'[exec]\ndeny = ["same-as:/usr/bin/docker", "/x", "sha256:{HEX.upper()}"]\n[lists]\n'
        'ssh = ["*/ssh", "same-as:/usr/bin/ssh"]\n'
        '[[rule]]\nid = "r"\naction = "kill"\nwithin = "1m"\nthen = [{ on = "exec", when = { program = "@ssh" } }, '
        '{ on = "connect", unless = { exe = "same-as:/usr/bin/git" } }]\n',
        "p.toml",
    )

    assert profile.identities == (
        {"/usr/bin/docker", "/usr/bin/ssh", "/usr/bin/git"},
        {HEX},
    )
    assert profile.exec_deny[2] == f"sha256:{HEX}"
    assert parse_profile(resolved_text(profile), "again") == profile


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('on = "exec"', "3:1: rule 'r': needs 'action', one of log, alert, freeze, kill"),
        ('on = "exec"\naction = "allow"\nmark = "x"', "5:10: rule 'r': a rule cannot allow; use 'unless'"),
        ('action = "kill"', "3:1: rule 'r': needs 'on', one of exec"),
        ('action = "kill"\nall = []\nthen = []', "6:1: rule 'r': has 'all' and 'then'"),
        ('action = "kill"\non = "exec"\nwithin = "5m"', "6:1: rule 'r': 'within' goes with 'all' or 'then', or into 'count'"),
        ('action = "kill"\non = "exec"\nper = "tree"', "6:1: rule 'r': 'per' goes with 'all' or 'then'"),
        ('action = "kill"\nwithin = "5m"\nall = [PART, PART]\non = "exec"', "7:1: rule 'r': 'on' belongs into the parts"),
        ('action = "kill"\nwithin = "5m"\nthen = [PART, PART]\nwhen = {}', "7:1: rule 'r': 'when' belongs into the parts"),
        ('action = "kill"\nwithin = "5m"\nthen = [PART, PART]\ncount = {}', "7:1: rule 'r': 'count' belongs into the parts"),
        ('action = "kill"\nthen = [PART, PART]', "3:1: rule 'r': 'then' needs 'within', such as within"),
        ('action = "kill"\nwithin = "5 m"\nthen = [PART, PART]', "5:10: rule 'r': within: '5 m' is not a duration"),
        ('action = "kill"\nwithin = "5m"\nper = "host"\nthen = [PART, PART]', "6:7: rule 'r': unknown per 'host'"),
        ('action = "kill"\nwithin = "5m"\nthen = [PART]', "6:8: rule 'r': 'then' has 2 to 8 parts, not 1"),
        ('action = "kill"\nwithin = "5m"\nall = []', "6:7: rule 'r': 'all' has 2 to 8 parts, not 0"),
        (f'action = "kill"\nwithin = "5m"\nall = [{"PART, " * 9}]', "6:7: rule 'r': 'all' has 2 to 8 parts, not 9"),
        ('action = "kill"\nwithin = "5m"\nall = "x"', "6:7: rule 'r': 'all' is a list of parts"),
        ('action = "kill"\nwithin = "5m"\nall = [PART, 3]', "6:7: rule 'r': 'all' is a list of parts"),
        ('action = "kill"\nwithin = "5m"\nall = [PART, { when = {} }]', "6:25: rule 'r': needs 'on'"),
        ('action = "kill"\nwithin = "5m"\nall = [PART, { on = "exec", scop = 1 }]', "unknown key 'scop' in [rule.all]"),
        ('action = "kill"\nwithin = "5m"\nall = [PART,\n  { on = "exec", when = { exe = "x" } }]', "7:33: rule 'r': 'exe' is"),
        ('action = "kill"\nwithin = "5m"\nall = [PART, { on = "exec", count = { over = 3, within = "1s", per = "tree" } }]',
         "6:75: rule 'r': the count of a part has no 'per': it takes the rule's"),
        ('action = "kill"\non = "exec"\ncount = { over = 3 }', "6:9: rule 'r': count needs 'within'"),
        ('action = "kill"\non = "exec"\ncount = { over = 3, within = "1s", distinct = "option" }', "count distinct 'option'"),
        ('action = "kill"\non = "exec"\ncount = 3', "6:9: rule 'r': 'count' is a table"),
        ('on = "exec"\nmark = 3', "5:8: rule 'r': 'mark' is a name"),
        ('on = "exec"\nmark = "A b"', "5:8: rule 'r': the name of a mark is lower-case words"),
        ('on = "exec"\nmark = { name = "A b" }', "5:17: rule 'r': the name of a mark"),
        ('on = "exec"\nmark = { name = "x", fo = "1m" }', "5:22: unknown key 'fo' in [rule.mark]; did you mean 'for'?"),
        ('on = "exec"\nmark = { name = "x", for = "1d" }', "5:28: rule 'r': for: '1d' is not a duration"),
        ('on = "exec"\nmark = { name = "x", scope = "step" }', "5:30: rule 'r': unknown scope 'step'"),
        ('on = "exec"\naction = "kill"\nlimit = { to = 5, within = "1m" }', "6:1: rule 'r': 'limit' is for 'log' and 'alert'"),
        ('on = "exec"\naction = "freeze"\nlimit = { to = 5, within = "1m" }', "here it would let a 'freeze' go undone"),
        ('on = "exec"\nmark = "x"\nlimit = { to = 5, within = "1m" }', "is for 'log' and 'alert': here it gives no verdicts"),
        ('on = "exec"\naction = "log"\nlimit = 5', "6:9: rule 'r': 'limit' is a table"),
        ('on = "exec"\naction = "log"\nlimit = { within = "1m" }', "6:9: rule 'r': limit needs 'to', a number"),
        ('on = "exec"\naction = "log"\nlimit = { to = 0, within = "1m" }', "6:16: rule 'r': limit needs 'to', a number"),
        ('on = "exec"\naction = "log"\nlimit = { to = 5 }', "6:9: rule 'r': limit needs 'within'"),
        ('on = "exec"\naction = "log"\nlimit = { to = 5, within = "1m", per = "x" }', "6:40: rule 'r': unknown per 'x'"),
        ('on = "exec"\naction = "log"\nlimit = { to = 5, within = "1m", burst = 1 }', "unknown key 'burst' in [rule.limit]"),
        ('on = "exec"\naction = "log"\nmessage = "{exee}"', "6:11: rule 'r': message: 'exec' events have no field '{exee}'; did"),
        ('on = "exec"\naction = "log"\nmessage = "a { b"', "6:11: rule 'r': a single '{' in the message: write '{{'"),
        ('on = "exec"\naction = "log"\nmessage = "a } b"', "a single '}' in the message"),
        ('on = "exec"\naction = "log"\nmessage = "{}"', "'{}' in the message names no field"),
        ('action = "log"\nwithin = "5m"\nthen = [{ on = "connect" }, { on = "exec" }]\nmessage = "{dst}"',
         "message: 'exec' events have no field '{dst}'"),
        ('action = "log"\nwithin = "5m"\nall = [{ on = "connect" }, { on = "exec" }]\nmessage = "{dst}"',
         "'exec' events, which may complete the rule, have no field '{dst}'"),
        ('id = 3', "a rule needs an id"),
        ('on = ["exec"]\naction = "log"', "4:6: rule 'r': 'on' must be a string"),
    ],
)  # fmt: skip
def test_rule_that_is_badly_formed_is_an_error_at_the_wrong_word(lines, problem):
    text = f'name = "x"\n\n[[rule]]\n{lines}\nid = "r"\n'.replace("PART", '{ on = "fork" }')
    if lines.startswith("id"):
        text = text.replace('id = "r"', "")

    found = problems_of(text)

    assert any(problem in each for each in found), found
    assert all(each.startswith("p.toml:") for each in found)


@pytest.mark.parametrize(
    ("on", "when", "problem"),
    [
        ("exec", "option = 'R'", "'R': an option begins with '-' or '--'"),
        ("exec", "option = '--'", "'--': an option begins with"),
        ("exec", "option = '--algo=rx'", "'--algo=rx': write '--algo rx'"),
        ("exec", "option = '-R*'", "an option's name holds no '*'"),
        ("exec", "program = 'ssh'", "'program' is a full path and can never be 'ssh'; write '*/ssh'"),
        ("exec", "program = 'sha256:12'", "SHA-256 has 64 hexadecimal digits, these are 2 characters"),
        ("exec", f"exe = 'sha256:{HEX[:-1]}g'", "SHA-256 has 64 hexadecimal digits"),
        ("exec", "exe = 'same-as:bin/ssh'", "write the full path of a file"),
        ("exec", "exe = 'same-as:/usr/../bin/ssh'", "write the full path of a file"),
        ("exec", "exe = 'same-as:/usr/bin/*'", "the path of one file"),
        (
            "exec",
            "script = 'same-as:/x'",
            "a program's content is known of 'exe' and 'program' only, not of 'script'",
        ),
        ("exec", "ancestor = 'same-as:/x'", "only, not of 'ancestor'"),
        ("exec", "argv = 'sha256:00'", "only, not of 'argv'"),
        ("exec", "stdio = 'unix:/x'", "'stdio' is the address of an internet socket"),
        ("exec", "stdio = '10.0.0.0/33'", "is not a prefix length"),
        ("exec", "untagged = 'yes'", "'untagged' is true or false"),
        ("exec", "source = 'lunched'", "'source' is never 'lunched'; did you mean 'launched'?"),
        ("exec", "mark = 'A*'", "'A*' is no mark"),
        ("exec", "mark = 'fetch'", "no rule sets the mark 'fetch'; did you mean 'fetched'?"),
        ("exec", "not-ancestr = '*/x'", "no field 'not-ancestr'; did you mean 'not-ancestor'?"),
        ("exec", "exe = [['/x']]", "'exe' needs a string that is not empty"),
        ("exec", "comm = 'sixteen-letters-*'", "'comm' holds 15 bytes and can never match"),
        ("exec", "uid = 4294967296", "'uid' can never be '4294967296'"),
        ("exit", "signal = 65", "'signal' can never be '65'"),
        ("exit", "code = '200-300'", "'code' can never be '200-300'"),
        ("connect", "protocol = 'tpc'", "'protocol' is never 'tpc'; did you mean 'tcp'?"),
        ("connect", "dst = '@nets'", "unknown list '@nets'; did you mean '@net'?"),
        ("connect", "when = 3", "have no field 'when'"),
    ],
)
def test_value_that_a_field_never_has_is_an_error_where_it_stands(on, when, problem):
    head = '[lists]\nnet = ["10.0.0.0/8"]\n[[rule]]\nid = "setter"\non = "exec"\nmark = "fetched"\n'
    (found,) = problems_of(f'{head}[[rule]]\nid = "r"\naction = "kill"\non = "{on}"\nwhen = {{ {when} }}\n')

    assert problem in found and found.startswith("p.toml:11:")


def test_value_of_a_list_is_complained_about_where_it_stands():
    found = problems_of(
        '[lists]\nssh = ["*/ssh",\n  "ssh"]\n[[rule]]\nid = "r"\non = "exec"\nwhen = { exe = "@ssh" }\naction = "kill"\n'
    )

    assert found == [
        "p.toml:3:3: rule 'r': 'exe' is a full path and can never be 'ssh'; write '*/ssh' (in '@ssh')"
    ]


def test_marks_that_wait_for_each_other_can_never_be():
    setters = '[[rule]]\nid = "a"\non = "exec"\nwhen = { mark = "b" }\nmark = "a"\n'
    setters += '[[rule]]\nid = "b"\non = "fork"\nwhen.mark = "a"\nmark = "b"\n'

    found = problems_of(setters)

    assert found == [
        "p.toml:4:17: rule 'a': can never match: the mark 'b' is set only by rules that wait for it",
        "p.toml:9:13: rule 'b': can never match: the mark 'a' is set only by rules that wait for it",
    ]
    assert parse_profile(f'{setters}[[rule]]\nid = "c"\non = "exit"\nmark = "a"\n', "p").rules


def test_mark_of_a_disabled_rule_is_not_set():
    found = problems_of(
        '[[rule]]\nid = "a"\non = "exec"\nmark = "x"\nenabled = false\n'
        '[[rule]]\nid = "b"\non = "exec"\nwhen.mark = "x"\naction = "log"'
    )

    assert found == ["p.toml:9:13: rule 'b': no rule sets the mark 'x'"]


def test_a_profile_sets_at_most_32_marks():
    def profile(number):
        return "".join(f'[[rule]]\nid = "r-{n}"\non = "exec"\nmark = "m-{n}"\n' for n in range(number))

    assert len(parse_profile(profile(32), "p").rules) == 32
    (found,) = problems_of(profile(33))
    assert found == "p.toml:132:8: a profile sets at most 32 marks; 'm-32' is one more"


def test_message_is_split_into_text_and_fields():
    assert parse_message("a {{b}} {exe}, {dst}") == (("a {b} ", "exe"), (", ", "dst"))
    assert parse_message("plain\n") == (("plain\n", ""),)
    assert parse_message("") == ()
    with pytest.raises(MessageError):
        parse_message("}")


def test_identities_are_told_from_paths():
    assert is_identity("same-as:x") and is_identity("sha256:") and not is_identity("/same-as:x")
    assert parse_identity("same-as:/usr/bin/ssh") == ("same-as", "/usr/bin/ssh")
    assert parse_identity(f"sha256:{HEX.upper()}") == ("sha256", HEX)
    for wrong in (
        "same-as:",
        "same-as:/",
        "same-as:/a/",
        "same-as://a",
        "same-as:/a\0",
        "sha256:",
        f"sha256:{HEX}0",
    ):
        with pytest.raises(IdentityError):
            parse_identity(wrong)


def test_problems_hold_nothing_that_a_terminal_would_obey():
    (problem,) = check_text('"\\u001b[2J" = 1', "p\n.toml").problems

    assert str(problem) == "p\\x0a.toml:1:1: unknown key '\\x1b[2J'"


def test_older_resolved_text_still_means_the_same():
    """As trails of earlier versions keep it: a scope always, no mark, no limit, one `on`."""
    (read,) = parse_profile(
        'name = "p"\ndescription = ""\n\n[[rule]]\nid = "r"\non = "exec"\nwhen = { exe = ["*/x"], memfd = [true] }\n'
        'count = { over = 2, within = "5s", per = "tree" }\naction = "kill"\nscope = "tree"\n',
        "trail",
    ).rules

    assert (read.form, read.action, read.scope, read.mark, read.limit) == (
        "single",
        "kill",
        "tree",
        None,
        None,
    )
