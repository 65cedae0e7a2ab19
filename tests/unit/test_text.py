from hypothesis import example, given
from hypothesis import strategies as st

from ebpfaudit.text import hide, show


@given(st.binary(max_size=200))
@example(b"\\x41")
@example(b"\\")
@example(b"\x85\xc2\x85")  # a C1 byte, and the character of the same number
@example(b"\xed\xa0\x80")  # a surrogate, which UTF-8 does not allow
@example("a\u202eb\u200d\u00a0".encode())
def test_shown_bytes_come_back_exactly(raw):
    assert hide(show(raw)) == raw


@given(st.binary(max_size=200))
@example(b"\x1b[2J\r\n\x07\x9b31m")
@example("\u202e\u2066\u2028\u0085\ufeff".encode())
def test_nothing_that_a_terminal_acts_on_is_shown(raw):
    shown = show(raw)
    assert shown.isprintable()
    assert shown.encode().decode() == shown  # no surrogate: it can be written anywhere


@given(st.text(alphabet=st.characters(categories=("L", "N", "P", "S"), exclude_characters="\\"), max_size=60))
def test_ordinary_text_is_shown_as_it_is(text):
    assert show(text.encode()) == text


def test_what_an_escape_sequence_looks_like():
    assert show(b"a\x1b[31mb\\c\xff") == r"a\x1b[31mb\\c\xff"
