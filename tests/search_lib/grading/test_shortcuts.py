"""Verdicts that the grader reaches without math-verify, or without asking it again."""

import json
import subprocess
import sys
import time

import pytest

from search_lib.grading import Grader
from search_lib.grading import grader as grading
from search_lib.grading.grader import GradingStatistics
from tests.support.grading import BOMB
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        ("33", "033", True),
        ("33", "34", False),
        (" x+y ", "x+y", True),
        ("", "", False),
        ("x", "", False),
        ("x", "y" * 2_001, False),
        ("y" * 2_001, "y" * 2_001, True),
        ("1" + "0" * 2_500, "01" + "0" * 2_500, True),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_integers_and_identical_strings_start_no_worker(
    reference: str, answer: str, equal: bool
) -> None:
    with Grader() as grader:
        assert grader.equivalent([(reference, answer)]) == [equal]
        assert grader.worker_pids == ()
        assert grader.statistics == GradingStatistics(fast_path=1)


@pytest.mark.parametrize(
    ("answer", "is_readable"),
    [("7", True), ("-1,234", True), ("", False), ("1" * 3_000, True)],
    ids=lambda value: repr(value)[:12],
)
def test_reading_integers_starts_no_worker(answer: str, is_readable: bool) -> None:
    with Grader() as grader:
        assert grader.readable([answer]) == [is_readable]
        assert grader.worker_pids == ()
        assert grader.statistics == GradingStatistics(fast_path=1)


def test_nothing_to_grade_starts_no_worker() -> None:
    with Grader() as grader:
        assert grader.equivalent([]) == grader.readable([]) == []
        assert grader.worker_pids == ()


def test_import_stays_light() -> None:
    code = "import sys, json, search_lib.grading.grader; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert not {"torch", "math_verify", "sympy", "numpy"} & set(json.loads(result.stdout))


@pytest.mark.usefixtures("fake_math_verify")
def test_pairs_are_checked_once_in_a_call() -> None:
    with Grader() as grader:
        pairs = [("r", "equal"), (" r", "equal "), ("r", "no")]
        assert grader.equivalent(pairs) == [True, True, False]
        assert grader.statistics == GradingStatistics(checked=2, from_cache=1)


@pytest.mark.usefixtures("fake_math_verify")
def test_pairs_are_checked_once_in_the_life_of_the_grader() -> None:
    with Grader() as grader:
        grader.equivalent([("r", "equal"), ("r", "no")])
        assert grader.equivalent([("r", "no"), ("equal", "r"), ("3", "3")]) == [False, True, True]
        assert grader.statistics == GradingStatistics(checked=2, from_cache=2, fast_path=1)


@pytest.mark.usefixtures("fake_math_verify")
def test_cache_forgets_the_least_recent_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "_CACHE_REQUESTS", 2)
    with Grader() as grader:
        for answer in ("a", "b", "a", "c", "a", "b"):  # c pushes b out
            grader.equivalent([("r", answer)])
        assert grader.statistics == GradingStatistics(checked=4, from_cache=2)


def test_a_pair_that_timed_out_is_not_checked_again() -> None:
    with Grader(time_limit_s=1.0) as grader:
        grader.equivalent([("5", BOMB)])
        start = time.monotonic()
        assert grader.equivalent([("5", BOMB)]) == [False]
        assert time.monotonic() - start < 0.5
        assert grader.statistics == GradingStatistics(checked=1, timed_out=1, from_cache=1)


def test_an_answer_that_never_ends_costs_its_time_limit_once() -> None:
    others = [f"x+{number}" for number in range(2, 8)]
    with Grader(time_limit_s=1.0) as grader:
        assert grader.equivalent([(others[0], BOMB)]) == [False]
        start = time.monotonic()
        assert grader.equivalent([(other, BOMB) for other in others]) == [False] * 6
        assert time.monotonic() - start < 0.5
        assert grader.statistics.timed_out == 1


def test_a_string_compared_with_one_that_never_ends_is_not_at_fault() -> None:
    with Grader(time_limit_s=1.0) as grader:
        assert grader.equivalent([("2", BOMB)]) == [False]
        assert grader.equivalent([("2", r"\max(1,2)")]) == [True]


def test_an_answer_that_cannot_be_read_in_time_is_known_to_be_endless() -> None:
    with Grader(time_limit_s=1.0) as grader:
        assert grader.readable([BOMB, r"\max(1,2)", BOMB]) == [False, True, False]
        assert grader.statistics == GradingStatistics(checked=2, timed_out=1, from_cache=1)
        start = time.monotonic()
        assert grader.readable([BOMB, r"\max(1,2)"]) == [False, True]
        assert grader.equivalent([("x+3", BOMB)]) == [False]
        assert time.monotonic() - start < 0.5
        assert grader.statistics.timed_out == 1
