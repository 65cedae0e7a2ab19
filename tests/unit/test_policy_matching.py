"""Conditions: globs, numbers, sizes, destinations."""

import fnmatch
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfaudit.policy.globs import Glob, glob_regex, literals_of, longest_literal
from ebpfaudit.policy.matching import compile_matcher, match_paths, match_texts, match_words
from ebpfaudit.profiles.addresses import parse_address
from ebpfaudit.text import show


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("*/ssh", "/usr/bin/ssh", True),
        ("*/ssh", "/usr/bin/sshd", False),
        ("/usr/*", "/usr/a/b", True),
        ("a?c", "abc", True),
        ("[Rr]emote*", "RemoteForward", True),
        ("[!a]b", "ab", False),
        ("[!a]b", "cb", True),
        ("[a-c]x", "bx", True),
        ("*a*b*a", "aba", True),
        ("*a*b*a", "ab", False),
        ("a*a", "a", False),
        ("x[", "x[", True),
        ("*", "", True),
        ("SSH", "ssh", False),
        ("a.c", "abc", False),
        ("a\\b", "a\\\\b", True),
    ],
)
def test_glob_matches_whole_texts_as_events_show_them(pattern, text, expected):
    match = compile_matcher("exec", "exe", (pattern,))

    assert (match(text) == pattern) is expected


@settings(deadline=None, max_examples=500)
@given(st.text("ab*?/", max_size=8), st.text("ab/", max_size=12))
def test_glob_means_what_fnmatch_means(pattern, text):
    expected = fnmatch.fnmatchcase(text, pattern)

    assert (re.compile(glob_regex(pattern), re.DOTALL).fullmatch(text) is not None) is expected


@settings(deadline=None, max_examples=300)
@given(st.text("ab*?[]!\\\u0085", max_size=8), st.text("ab[]!\\\u0085", max_size=12))
def test_required_literal_stands_in_whatever_matches(pattern, text):
    shown = show(text.encode())

    if compile_matcher("exec", "filename", (pattern,))(shown) is not None:
        assert longest_literal(pattern) in shown


@settings(deadline=None, max_examples=300)
@given(st.text("ab*?[]!", min_size=1, max_size=8), st.text("ab[]!", max_size=12))
def test_a_glob_matches_what_its_expression_matches(pattern, text):
    expected = re.compile(glob_regex(pattern), re.DOTALL).fullmatch(text) is not None

    assert Glob(pattern).matches(text) is expected
    if expected:
        assert all(literal in f"<{text}>" for literal in literals_of(pattern, "<", ">"))


patterns = st.lists(st.text("ab*?[]!", min_size=1, max_size=5), min_size=1, max_size=4, unique=True).map(
    tuple
)


@settings(deadline=None, max_examples=400)
@given(patterns, st.lists(st.text("ab[]!", max_size=6), max_size=40), st.sampled_from(["", "\n"]))
def test_first_of_many_words_is_found_as_if_each_were_tried(patterns, words, end):
    words = [*words, *(["x" + end] * 20), "ab", "a"]
    match = match_texts(patterns)

    expected = next(((place, met) for place, word in enumerate(words) if (met := match(word))), None)
    assert match_words(patterns)(words) == expected


def test_glob_takes_linear_time_on_hostile_text():
    match = compile_matcher("exec", "argv", ("*a*a*a*a*a*a*b", "*aab*"))
    hostile = ("a" * 32_768,)

    began = time.process_time()
    assert match(hostile) is None
    assert time.process_time() - began < 1


def test_file_globs_stay_within_a_folder():
    match = match_paths(("/usr/bin/*", "/opt/?/x"))

    assert match("/usr/bin/ssh") == "/usr/bin/*"
    assert match("/usr/bin/a/b") is None
    assert match("/opt///x") is None


def test_first_of_several_patterns_that_is_met_is_named():
    match = compile_matcher("exec", "argv", ("--exact", "-R*", "*forward*"))

    assert match(("ssh", "-v", "-Rx")) == "-R*"
    assert match(("ssh", "--exact")) == "--exact"
    assert match(()) is None


def test_numbers_and_ranges():
    match = compile_matcher("connect", "port", (22, "80-90", 443))

    assert [match(port) for port in (22, 79, 80, 90, 91, 443)] == ["22", None, "80-90", "80-90", None, "443"]
    assert compile_matcher("exec", "memfd", (True,))(True) == "true"
    assert compile_matcher("exec", "memfd", (True,))(False) is None


def test_sizes():
    match = compile_matcher("gpu", "bytes", ("over 1.5GiB",))

    assert match(3 << 29) is None
    assert match((3 << 29) + 1) == "over 1.5GiB"


def test_destinations():
    match = compile_matcher("connect", "dst", ("10.1.0.0/16", "metadata", "public", "unix:*docker.sock"))

    for text, expected in (
        ("10.1.2.3", "10.1.0.0/16"), ("10.2.2.3", None), ("169.254.169.254", "metadata"), ("8.8.8.8", "public"),
        ("::ffff:10.1.2.3", "10.1.0.0/16"), ("2001:db8::1", "public"), ("fd00::1", None), ("10.1.2.3", "10.1.0.0/16"),
    ):  # fmt: skip
        assert match(parse_address(text)) == expected, text
    assert match("unix:./docker.sock") == "unix:*docker.sock"
    assert match("unix:/tmp/x") is None
    assert match("") is None
