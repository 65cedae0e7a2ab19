"""Lines and columns of keys and values, in every spelling that TOML has."""

import tomllib

from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfaudit.profiles.positions import Positions

TEXT = '''\
# a comment with = and [brackets]
name = "x"   # "not" = [a, key]
a.b . "c d" = 3
'lit.eral' = \'\'\'
= [not a key]
\'\'\'
text = """
[not]
"quoted" """
when = 1979-05-27 07:32:00
list = [
  "one", # "not one"
  [ 2, { three = [ 3 ] } ], 'four'
]

[table.inner]
key = { x = "1]}", "\\u0079" = { z = true } }

[[rule]]
id = 1
[[rule]]
id = 2
[rule.when]
dst = ["a",
       "b"]
[[rule.then]]
on = "exec"
[[rule.then]]
on = "fork"
'''
LINES = TEXT.split("\n")


def found(*path, key=False):
    """The text that stands at the position of `path`."""
    line, column = Positions(TEXT).find(path, key)
    return LINES[line - 1][column - 1 :]


def test_keys_and_values():
    assert found("name") == '"x"   # "not" = [a, key]'
    assert found("name", key=True).startswith("name")
    assert found("a", "b", "c d") == "3"
    assert found("a", "b", "c d", key=True) == '"c d" = 3'
    assert found("lit.eral", key=True).startswith("'lit.eral'")
    assert found("text", key=True).startswith("text")
    assert found("when") == "1979-05-27 07:32:00"


def test_elements_and_inline_tables():
    assert found("list", 0).startswith('"one"')
    assert found("list", 1, 0).startswith("2,")
    assert found("list", 1, 1, "three", 0).startswith("3 ]")
    assert found("list", 2) == "'four'"
    assert found("table", "inner", "key", "x").startswith('"1]}"')
    assert found("table", "inner", "key", "y", "z").startswith("true")


def test_tables_and_arrays_of_tables():
    assert found("table", "inner") == "[table.inner]"
    assert found("rule", 1) == "[[rule]]"
    assert found("rule", 0, "id") == "1" and found("rule", 1, "id") == "2"
    assert found("rule", 1, "when", "dst", 1) == '"b"]'
    assert found("rule", 1, "then", 1, "on") == '"fork"'


def test_what_is_not_there_has_the_position_of_what_should_hold_it():
    assert found("rule", 1, "action") == "[[rule]]"
    assert found("rule", 1, "when", "exe", 3, key=True) == "[rule.when]"
    assert Positions(TEXT).find(("nowhere",)) == (1, 1)
    assert Positions("").find(("x", 0)) == (1, 1)


_SCALARS = st.sampled_from(["1", "'a'", '"b]"', '"""c\n"""', "'''\n]'''", "true", "1979-05-27", "2.5"])
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ", # x ]\n".join([*items, "]"]))
        | st.lists(inner.filter(lambda text: "#" not in text), max_size=3).map(
            lambda items: "{" + ", ".join(f"k{number} = {item}" for number, item in enumerate(items)) + "}"
        )
    ),
    max_leaves=8,
)


def leaves(tree, path=()):
    if isinstance(tree, dict | list):
        for key, each in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(each, (*path, key))
    else:
        yield path, tree


@settings(max_examples=200, deadline=None)
@given(st.lists(_VALUES, min_size=1, max_size=4))
def test_every_value_is_found_where_it_stands(values):
    text = "\n".join(f"v{number} = {value}" for number, value in enumerate(values))
    lines = text.split("\n")
    positions = Positions(text)
    for path, value in leaves(tomllib.loads(text)):
        line, column = positions.find(path)
        rest = "\n".join([lines[line - 1][column - 1 :], *lines[line:]])
        token = {"a": "'a'", "b]": '"b]"', "c\n": '"""c', "]": "'''"}.get(value)
        assert rest.startswith(token or str(value).lower())
