"""Answers as text: extraction from a response, and the numbers that they spell out."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_lib.grading import extract_answer
from search_lib.grading.answers import boxed_answers, parse_integer, parse_rational


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"thought</think>so \boxed{33}.", "33"),
        (r"\boxed{1}</think>\boxed{2}", "2"),
        (r"a</think>\boxed{1}</think>\boxed{2}", "2"),
        (r"\boxed{1}</think>no box", None),
        (r"unfinished \boxed{5}", None),
        (r"</think>\boxed{1} or \boxed{2}", "2"),
        (r"</think>\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"</think>\boxed{\sqrt{2^{3}}} {}", r"\sqrt{2^{3}}"),
        (r"</think>\boxed{\left\{1,2\right.} and }", r"\left\{1,2\right."),
        (r"</think>\boxed{ {x} " + "\n}", "{x}"),
        (r"</think>\boxed {5}", "5"),
        (r"</think>\\boxed{5}", "5"),
        (r"</think>\\\boxed{5}", "5"),
        (r"</think>} \boxed{5}", "5"),
        (r"</think>\boxed{x = \boxed{5}}", "5"),
        (r"</think>\boxed{6} then \boxed{7", "6"),
        (r"</think>\boxed{6} then \boxed{ {7}", "6"),
        (r"</think>\boxed{6 \boxed{7}", "7"),
        (r"</think>\boxed{6} then \boxed{}", "6"),
        (r"</think>\boxed{ }", None),
        (r"</think>Hence $x=\boxed 5$.", "5"),
        (r"</think>\boxed 1,234.", "1,234"),
        (r"</think>\boxed C.", "C"),
        (r"</think>\boxed and so on", None),
        (r"</think>\fbox{5}", "5"),
        (r"</think>$\boxed{3}$ and $\boxed{5}$.", "3, 5"),
        (r"</think>\boxed{x=1} \quad \text{and} \quad \boxed{y=2}", "x=1, y=2"),
        (r"</think>\(\boxed{x=1}\), \(\boxed{y=2}\)", "x=1, y=2"),
        (r"</think>\boxed{5}, \boxed{5}", "5"),
        (r"</think>\boxed{1}. Then \boxed{2}", "2"),
        (r"</think>\boxedx{5}", None),
        ("</think>\\", None),
        ("", None),
    ],
)
def test_extract_answer(response: str, expected: str | None) -> None:
    assert extract_answer(response) == expected


def test_extract_answer_after_another_mark_or_none() -> None:
    assert extract_answer(r"\boxed{1} END \boxed{2}", after="END") == "2"
    assert extract_answer(r"\boxed{1}", after=None) == "1"
    assert extract_answer(r"\boxed{1}</think>", after=None) == "1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no box", []),
        (r"\boxed{1}, then \boxed{ \frac{1}{2} }.", ["1", r"\frac{1}{2}"]),
        (r"\boxed{x = \boxed{5}} and \boxed{}", ["5", ""]),
        (r"\boxed{6 \boxed{7} or \fbox{8}", ["7", "8"]),
    ],
)
def test_boxed_answers(text: str, expected: list[str]) -> None:
    assert boxed_answers(text) == expected


@given(st.text(st.characters(exclude_characters="\\{}<")), st.text())
def test_extract_answer_finds_any_content(content: str, thought: str) -> None:
    response = f"{thought}</think>\\boxed{{{content}}}"
    assert extract_answer(response) == (content.strip() or None)


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 100_000,
        "\\boxed{" * 100_000 + "}" * 100_000,
        "\\boxed{{}" * 100_000,
        "\\" * 500_001,
        "\\boxed" + " " * 500_000,
        "\\boxed " * 100_000,
        "}" * 300_000 + "{" * 300_000,
    ],
    ids=lambda text: text[:12],
)
def test_extract_answer_is_linear_on_hostile_text(text: str) -> None:
    start = time.process_time()
    extract_answer(text, after=None)
    assert time.process_time() - start < 3.0  # 0.2 s; minutes if it were quadratic


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("33", 33),
        (" 033\n", 33),
        ("000", 0),
        ("-0", 0),
        ("+7", 7),
        ("-7", -7),
        ("- 7", -7),
        ("$33$", 33),
        ("$ 33 $", 33),
        ("$5", 5),
        (r"\$5", 5),
        ("1,234", 1234),
        ("-1,234,567", -1234567),
        ("1{,}234", 1234),
        (r"1,\!234", 1234),
        (r"1\,234", 1234),
        ("33.", 33),
        ("33.0", 33),
        ("1,234.00", 1234),
        ("33.5", None),
        ("33.01", None),
        (".0", None),
        ("1,23", None),
        ("1234,567", None),
        ("0,123", None),
        ("1,,234", None),
        (",123", None),
        ("1 234", None),
        ("+-3", None),
        ("--3", None),
        ("1e3", None),
        ("0x10", None),
        ("1_000", None),
        ("\u0663", None),
        ("\uff13", None),
        ("3\u00b2", None),
        (r"\text{3}", None),
        ("x", None),
        ("-", None),
        ("", None),
        ("$", None),
        ("1" * 4_000, int("1" * 4_000)),
        ("1" * 4_001, None),
        ("0" * 100_000 + "33", 33),
        ("1" * 1_000_000, None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_parse_integer(answer: str, expected: int | None) -> None:
    assert parse_integer(answer) == expected


@given(st.integers(), st.integers(0, 20), st.sampled_from(["", ".", ".0", ".000"]))
def test_parse_integer_reads_padded_integers(number: int, zeros: int, tail: str) -> None:
    sign = "-" if number < 0 else ""
    assert parse_integer(f"{sign}{'0' * zeros}{abs(number)}{tail}") == number


@given(st.integers())
def test_parse_integer_reads_thousands_separators(number: int) -> None:
    assert parse_integer(f"{number:,}") == number
    assert parse_integer(f"{number:,}".replace(",", "{,}")) == number


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("3/4", Fraction(3, 4)),
        (r"-\dfrac{ 3 }{4}", Fraction(-3, 4)),
        (r"$\tfrac{3}{4}$", Fraction(3, 4)),
        ("-0.50", Fraction(-1, 2)),
        ("1,234", Fraction(1234)),
        *((text, None) for text in ("3/0", "3/", r"\frac{3}4", ".5", "1.2.3", "1e3", "", "x/2")),
        ("1/" + "7" * 5000, None),
    ],
)
def test_parse_rational(answer: str, value: Fraction | None) -> None:
    assert parse_rational(answer) == value
