"""Values of plain numbers are those that math-verify's own parser gives."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_verify import LatexExtractionConfig, parse

from search_lib.grading.latex_numbers import plain_value

CONFIGURATION = (LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False),)

numbers = st.sampled_from(["2", "3", "7", "12", "0.5", r"\pi", r"\sqrt{2}", r"\sqrt[3]{5}"])


def combine(inner):
    return st.one_of(
        st.builds("{}+{}".format, inner, inner),
        st.builds("{}-{}".format, inner, inner),
        st.builds(r"({}) \cdot ({})".format, inner, inner),
        st.builds(r"\frac{{{}}}{{{}}}".format, inner, inner),
        st.builds(r"3\sqrt{{{}}}".format, st.sampled_from(["2", "3", r"\frac{1}{3}", "5+1"])),
        st.builds(r"2\pi \cdot ({})".format, inner),
        st.builds(r"-({})".format, inner),
        st.builds("({})^2".format, inner),
    )


@given(st.recursive(numbers, combine, max_leaves=4))
@settings(max_examples=60, deadline=None)
def test_a_value_is_that_of_math_verify(text):
    value = plain_value(text)
    expression = parse(rf"\boxed{{{text}}}", CONFIGURATION, extraction_mode="first_match")[0]
    expected = complex(expression.evalf(15)) if expression.is_finite else None
    if value is not None and expected is not None:
        assert abs(value - expected) <= 1e-9 * max(1.0, abs(expected))
    else:
        assert value is None  # a division by zero


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"2\sqrt{3}", 2 * math.sqrt(3)),
        (r"\dfrac{3\pi}{4}", 0.75 * math.pi),
        (r"\left( 1+\sqrt{2} \right)\!", 1 + math.sqrt(2)),
        ("2^{-1}", 0.5),
        ("-2^2", -4.0),
        (" 1.5 ", 1.5),
    ],
)
def test_values(text, value):
    assert plain_value(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "x",
            "2x",
            r"2\frac{1}{2}",
            r"1/2\pi",
            r"\pi(2)",
            "2 3",
            "2^10",
            "10^{400}",
            "2^3^2",
            r"50\%",
        ),
        *(r"\sqrt{-1}", r"(-8)^{\frac{1}{3}}", r"\frac{1}{0}", "1/", "(1", "1)", "[1)", r"\sin{1}"),
        *(r"5\text{ cm}", r"\pm 2", "1,000", "{" * 150 + "1" + "}" * 150, "(" * 199, "1" * 400),
    ],
)
def test_what_could_be_anything_else_has_no_value(text):
    assert plain_value(text) is None
