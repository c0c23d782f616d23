"""The check of a benchmark's references before a search."""

import pytest

from run_lib.commands import InputError
from search_lib.answer_formats import ANSWER_FORMATS
from search_lib.benchmarks import Problem
from search_lib.search_args import Args, check_references

ARGS = Args("mine.jsonl", "policy", "value_model")
BOXED = ANSWER_FORMATS["boxed"]


def problems(*answers):
    return [Problem(f"p{index}", "?", answer) for index, answer in enumerate(answers)]


def test_readable_references_need_no_word(capsys):
    check_references(ARGS, problems("1", r"\frac{1}{2}", "Monday"), BOXED)
    assert capsys.readouterr().out == ""


def test_references_that_no_answer_can_equal_are_listed(capsys):
    check_references(ARGS, problems("1", "N/A", "x" * 3000, "none", "5"), BOXED)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("3 of 5 references can't be compared with an answer: p1: 'N/A', p2: 'xx")
    assert line.endswith(", p3: 'none'")
    assert len(line) < 200


def test_a_benchmark_without_a_readable_reference_is_refused():
    message = r"^--benchmark mine.jsonl: 2 of 2 references can't .* p0: '\?', p1: 'unknown'$"
    with pytest.raises(InputError, match=message):
        check_references(ARGS, problems("?", "unknown"), BOXED)
