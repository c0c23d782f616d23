"""Verdicts of the grader with the real math-verify: what is equal, and what can be read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from search_lib.grading import Grader


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(time_limit_s=10.0) as shared:
        yield shared


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("33", "033"),
        ("33", "$33.0$"),
        (r"\frac{1}{2}", "0.5"),
        (r"\frac12", "1/2"),
        (r"\dfrac{3}{4}", r"\tfrac34"),
        (r"2\frac{1}{2}", "2.5"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        (r"\log_2 8", "3"),
        ("120", "5!"),
        ("1000", "10^3"),
        ("(x+1)^2", "x^2+2x+1"),
        ("3+4i", "4i+3"),
        ("1/3", r"0.\overline{3}"),
        ("1000", "1e3"),
        ("1/2", "½"),
        ("x=3", "3"),
        ("5", "x=2+3=5"),
        ("x<3", "3>x"),
        ("x<3", r"(-\infty,3)"),  # math-verify's `verify` says so in one order only
        ("[0,1]", r"0\le x\le 1"),
        ("(1,2)", "(1, 2)"),
        (r"\{1,2\}", r"\{2,1\}"),
        ("5,6", "6,5"),
        (r"\pm 3", "3,-3"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
        (r"\emptyset", r"\{\}"),
        ("33", r"33^\circ"),
        ("5", r"5\text{ cm}"),
        ("5", "5 apples"),
        ("5", r"\mathbf{5}"),
        (r"\text{Monday}", "Monday"),
        (r"\text{no solution}", r"\text{No solution}"),
        ("A", r"\text{(A)}"),
        (r"50\%", "50"),
        ("5 000", "5000"),
        ("5", r"\max(3, 5)"),  # no normal form: math-verify's verdict
    ],
)
def test_equal(grader: Grader, reference: str, answer: str) -> None:
    assert grader.equivalent([(reference, answer)]) == [True]


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("33", "34"),
        ("3", "-3"),
        ("50", "0.5"),
        ("1/3", "0.33"),
        ("1/3", "0.333333"),  # a rounded number is another one, or nothing would be transitive
        (r"50\%", "0.5"),
        ("(5,6)", "5,6"),
        (r"\{5,6\}", "(5,6)"),
        ("east", "seat"),
        ("0", "5 000"),
        (r"\emptyset", r"\{,\}"),
        ("1010", "1010_2"),
        (r"\pi", "3.14"),
        ("x=3", "y=3"),
        ("2", "x^2=4"),
        ("x", "y"),
        ("(1,2)", "(2,1)"),
        ("(1,2)", "[1,2]"),
        ("(0,1]", "[0,1)"),
        (r"\infty", r"-\infty"),
        (r"\text{Monday}", r"\text{Tuesday}"),
        (r"\text{east}", r"\text{seat}"),
        ("5", "5, 6"),
        ("5", r"\text{five}"),
        ("5", r"\text{the answer is } 5"),
        # Numbers inside text that is not mathematics do not count as the answer.
        ("7", "foo^ 7 bar_"),
        ("5", "the final answer is 5. I hope"),
        ("5", "^ final answer is $5$. I hope ^"),
        ("5", "$5$ answer: $5$ ^"),
        ("5", r"\frac{5}{^}"),
        ("6", r"5} \boxed{6"),
        (r"\frac{\pi}{2}", r"90^\circ"),  # degrees are a unit outside of functions
        # Equations that are false, which math-verify takes for equal, and lists beside numbers.
        (r"\max(1,2)=3", r"\max(1,2)=4"),
        (r"\gcd(a,b)=3", r"\gcd(a,b)=4"),
        ("1,234", "1, 234"),
        ("5", ""),
        ("", ""),
        (" ", "\n"),
        ("5", "\ud800"),
        ("5", "(" * 20),
        ("5", r"\frac" * 50),
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_different(grader: Grader, reference: str, answer: str) -> None:
    assert grader.equivalent([(reference, answer)]) == [False]


def test_model_text_is_not_evaluated(grader: Grader, tmp_path: Path) -> None:
    target = tmp_path / "x"
    code = f"__import__('os').mkdir('{target}')"
    assert grader.equivalent([("5", code), ("5", f"$5$ answer: {code}")]) == [False, False]
    assert not target.exists()


@pytest.mark.parametrize(
    "answer",
    [
        "33",
        " 033 ",
        "$1,234$",
        "1" * 4_000,
        r"\frac{1}{2}",
        r"\frac12",
        "0.5",
        r"x^2-1",
        "x=3",
        r"2\le x<3",
        r"(-\infty,3]\cup[5,\infty)",
        "(1,2)",
        r"\{1,2\}",
        r"\emptyset",
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        r"30\text{ cm}^2",
        r"\boxed{5}",
        "½",
        r"0.\overline{3}",
        # Words are equal to the same words in another case.
        "Monday",
        r"\text{no solution}",
    ],
    ids=lambda text: text[:24],
)
def test_readable(grader: Grader, answer: str) -> None:
    assert grader.readable([answer]) == [True]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n",
        "1" * 4_001,
        "x+" * 1_000 + "x",
        r"\frac{5}{^}",
        r"\frac{1}{2",
        "1) 3; 2) 5",
        "foo^ 7 bar_",
        "答案",
        "\ud800",
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_not_readable(grader: Grader, answer: str) -> None:
    assert grader.readable([answer]) == [False]
