"""Messages are one line, and tables are aligned."""

import pytest

from run_lib.text import format_table, one_line, printable, shorten, some_of


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("  a\n b\t\tc ", "a b c"),
        (b"a\xff\n b", "a\ufffd b"),
        (ValueError("a\nb"), "a b"),
        (7, "7"),
        ("", ""),
    ],
)
def test_any_value_is_one_line(content, expected):
    assert one_line(content) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\r\nb\x9b31m", r"a\r\nb\x9b31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("half \ud800", r"half \ud800"),
        ("π ≤ 4 \U0001f600", "π ≤ 4 \U0001f600"),
    ],
)
def test_a_terminal_is_given_nothing_that_it_obeys(content, expected):
    assert printable(content) == expected
    assert one_line(content.replace("\r\n", "")) == expected.replace(r"\r\n", "")
    assert some_of([content]) == expected
    assert expected in format_table([content, "n"], [["a", "1"]])


def test_a_short_text_stays_whole():
    assert shorten("a" * 300) == "a" * 300


def test_a_long_text_ends_in_a_mark():
    assert shorten("a" * 301) == "a" * 300 + " ..."
    assert shorten("ab\ncd", 4, mark="!") == "ab c!"


def test_a_few_names_are_all_there():
    assert some_of([]) == ""
    assert some_of(list("abcde")) == "a, b, c, d, e"


def test_of_many_names_the_rest_is_counted():
    assert some_of(list("abcdefg")) == "a, b, c, d, e, and 2 more"
    assert some_of(list("abc"), most=1, separator="; ") == "a; and 2 more"


def test_a_table_has_its_labels_left_and_its_numbers_right():
    table = format_table(["way", "s", "tokens"], [["ours", "1.5", "7"], ["published", "12", "80"]])
    assert table.splitlines() == [
        "way          s  tokens",
        "---------  ---  ------",
        "ours       1.5       7",
        "published   12      80",
    ]


def test_a_table_without_lines_is_its_heading():
    assert format_table(["a", "bc"], []).splitlines() == ["a  bc", "-  --"]


def test_a_table_refuses_a_line_of_another_length():
    with pytest.raises(ValueError, match="argument"):
        format_table(["a", "b"], [["1"]])
