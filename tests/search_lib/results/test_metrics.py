"""Metrics of a small run, worked out by hand."""

import tracemalloc
from dataclasses import replace

import pytest

from search_lib.results.cost import SearchCost
from search_lib.results.graded import RunGrader
from search_lib.results.metrics import (
    MetricTable,
    format_joining,
    format_metrics,
    published_metrics,
    stopping_document,
)
from search_lib.results.records import Record, RecordedResponse

SEARCHES = {
    # problem: reference, then for each of 4 repetitions the (answer, value) of two responses
    "a": (
        "1",
        [
            [("1", 0.9), ("2", 0.2)],
            [("2", 0.3), ("2", 0.3)],
            [("1", 0.8), (None, 0.1)],
            [("3", 0.1), ("3", 0.1)],
        ],
    ),
    "b": (
        "5",
        [
            [("4", 0.2), ("5", 0.7)],
            [("4", 0.6), ("4", 0.5)],
            [("5", 0.9), ("4", 0.8)],
            [("4", 0.9), ("5", 0.1)],
        ],
    ),
}


def records(leave_out=()):
    for problem_id, (reference, searches) in SEARCHES.items():
        for repetition in (2, 0, 3, 1):  # records come in the order in which searches ended
            if (problem_id, repetition) not in leave_out:
                responses = [
                    RecordedResponse("", answer, value, answer is not None, 10, 0)
                    for answer, value in searches[repetition]
                ]
                cost = SearchCost(40, 1.0)
                yield Record(problem_id, repetition, "", reference, 0, responses, [], cost)


def equal_strings(pairs):
    return [a == b for a, b in pairs]


def grade(of_run, num_repetitions=4, equivalent=equal_strings):
    """The complete problems by id, and what has graded them."""
    grader = RunGrader(num_repetitions, equivalent)
    return dict(grader.problems(of_run)), grader


def rows_of(of_run, num_repetitions=4, is_stopped=False):
    table = MetricTable(4, num_repetitions, is_stopped=is_stopped)
    for problem in grade(of_run, num_repetitions)[0].items():
        table.add(*problem)
    return {(row.method, row.trees): row for row in table.rows()}


def table(num_repetitions=4):
    return rows_of(records(), num_repetitions)


def test_the_published_names_at_increasing_budgets(tmp_path):
    rows = table()
    logged = published_metrics("aime-24", list(rows.values()))
    assert list(logged) == [4, 8, 16]
    names = {"bon": "BoN", "maj": "MV", "wmaj": "WMV", "pass": "pass@k", "pass1": "pass@1"}
    assert logged[8] == {
        f"aime-24/{name}_{kind}": value
        for name, method in names.items()
        for kind, value in (
            ("m", rows[method, 2].estimate.mean),
            ("ci", rows[method, 2].estimate.over_searches),
        )
    }
    # One group of all trees has no interval over searches.
    assert set(logged[16]) == {f"aime-24/{name}_m" for name in names}
    problems = tmp_path / "mine.jsonl"
    problems.touch()
    assert "mine/bon_m" in published_metrics(str(problems), list(rows.values()))[4]


def test_every_method_at_every_power_of_two_of_trees():
    rows = table()
    assert {(r.trees, r.budget) for r in rows.values()} == {(1, 4), (2, 8), (4, 16)}
    # One tree: a -> tie .5, wrong 0, right 1, wrong 0; b -> tie, 0, tie, tie.
    assert rows["MV", 1].estimate.mean == pytest.approx((0.5 + 0 + 1 + 0 + 0.5 + 0 + 0.5 + 0.5) / 8)
    assert rows["WMV", 1].estimate.mean == pytest.approx((1 + 0 + 1 + 0 + 1 + 0 + 1 + 0) / 8)
    assert rows["BoN", 1].estimate.mean == pytest.approx((1 + 0 + 1 + 0 + 1 + 0 + 1 + 0) / 8)
    assert rows["pass@k", 1].estimate.mean == pytest.approx((1 + 0 + 1 + 0 + 1 + 0 + 1 + 1) / 8)
    assert rows["pass@1", 1].estimate.mean == pytest.approx(5 / 16)
    # Two trees: the disjoint groups (0, 1) and (2, 3).
    assert rows["MV", 2].estimate.mean == pytest.approx((0 + 0 + 0 + 0.5) / 4)
    assert rows["WMV", 2].estimate.mean == pytest.approx((1 + 1 + 0 + 0) / 4)
    # Four trees: one group, so no interval over searches.
    assert rows["WMV", 4].per_problem == [1.0, 0.0]
    assert rows["WMV", 4].estimate.over_searches is None
    assert rows["WMV", 2].estimate.num_repetitions == 2


@pytest.mark.parametrize("num_missing", [1, 2])
def test_without_all_values_nothing_is_weighed_by_them(num_missing):
    def without(record):
        missing = [replace(response, value=None) for response in record.responses[:num_missing]]
        return replace(record, responses=missing + record.responses[num_missing:])

    rows = rows_of(map(without, records()))
    assert {method for method, _ in rows} == {"MV", "pass@1", "pass@k"}
    assert rows["MV", 2].per_problem == table()["MV", 2].per_problem


def test_a_problem_that_lacks_a_repetition_is_left_out():
    graded, grader = grade(records({("a", 3)}))
    assert list(graded) == ["b"]
    assert grader.summary().num_searches == 7


STOPPED = {("a", 2), ("a", 3)}


def stopping_records(enough=("a", 1), leave_out=STOPPED):
    """Problem a did without its last two trees."""
    return (replace(r, is_enough=r.key == enough) for r in records(leave_out))


def test_a_stopped_problem_has_the_vote_of_what_it_has_at_every_budget():
    rows = rows_of(stopping_records(), is_stopped=True)
    assert {(r.trees, r.budget, r.mean_budget) for r in rows.values()} == {
        (1, 4, 4),
        (2, 8, 8),
        (4, 16, 12),  # 4 x (2 + 4) / 2
    }
    # The first trees only: a tie in both. Then 2 and 4 have more responses.
    assert [rows["MV", trees].per_problem for trees in (1, 2, 4)] == [[0.5, 0.5], [0, 0], [0, 0]]
    # a: 1 has 0.9 and 2 has 0.8 from its second tree on. b: 4 has 1.3, then 3.0, and 5 less.
    assert [rows["WMV", trees].per_problem for trees in (1, 2, 4)] == [[1, 1], [1, 0], [1, 0]]
    assert rows["pass@1", 4].per_problem == [1 / 4, 3 / 8]
    # Trees behind the first depend on it: there is one group, and no interval over searches.
    assert all(r.estimate.num_repetitions == 1 for r in rows.values())
    assert all(r.estimate.over_searches is None for r in rows.values())
    lines = [line.split() for line in format_metrics(list(rows.values())).splitlines()]
    assert lines[-2:] == [["mean", "budget", "4.0", "8.0", "12.0"], ["n", *["2", "x", "1"] * 3]]


def test_the_saved_budget_is_a_share_of_that_of_all_trees():
    _, grader = grade(stopping_records())
    flags = {"stop": "beta", "stop_confidence": 0.95, "num_blocks": 4, "num_repetitions": 4}
    assert stopping_document(grader.complete, flags) == {
        "rule": "beta",
        "confidence": 0.95,
        "trees": [2, 4],
        "mean_trees": 3.0,
        "mean_budget": 12.0,
        "saved_budget": 0.25,
    }


@pytest.mark.parametrize(
    ("enough", "leave_out"), [(None, STOPPED), (("a", 1), {*STOPPED, ("a", 0)})]
)
def test_a_problem_that_still_needs_a_tree_is_left_out(enough, leave_out):
    graded, _ = grade(stopping_records(enough, leave_out))
    assert list(graded) == ["b"]


def test_the_summary_counts():
    summary = grade(records())[1].summary()
    assert (summary.num_searches, summary.num_responses) == (8, 16)
    assert summary.answered_share == summary.finished_share == 15 / 16
    assert summary.tokens_generated == 320
    assert summary.mean_response_tokens == 10


def test_the_table_has_a_line_a_method_and_a_column_a_budget():
    lines = format_metrics(list(table().values())).splitlines()
    assert lines[0].split() == ["budget", "4", "8", "16"]
    assert [line.split()[0] for line in lines[2:]] == ["MV", "WMV", "BoN", "pass@1", "pass@k", "n"]
    assert lines[-1].split() == ["n", *"2x4 2x2 2x1".replace("x", " x ").split()]
    assert "50.0 ±98.0 (-)" in lines[3]
    assert len({len(line) for line in lines}) == 1


def test_answers_that_join_two_classes_are_counted_with_their_problem():
    def same_or_without_unit(pairs):
        return [a == b or {a, b} in ({"5", "5 cm"}, {"5", "5 km"}) for a, b in pairs]

    responses = [RecordedResponse("", a, 0.5, True, 10, 0) for a in ("5 cm", "5 km", "5", "7")]
    record = Record("c", 0, "", "9", 0, responses, [], SearchCost(40, 1.0))
    graded, grader = grade([record], 1, same_or_without_unit)
    assert graded["c"].classes == [[1, 1, 1, 2]]
    line = "answers equal to two that differ, in one class with both: 1 (c: '5')"
    assert format_joining(grader.complete) == line
    assert format_joining(grade(records())[1].complete) == ""


def test_no_problem_gives_no_rows():
    assert MetricTable(4, 4).rows() == []


def test_a_search_counts_once_also_after_its_problem_is_complete():
    twice = [*records(), *records()]
    graded, grader = grade(twice)
    assert grader.summary() == grade(records())[1].summary()
    assert [problem.values for problem in graded.values()] == [
        problem.values for problem in grade(records())[0].values()
    ]


def test_the_table_is_by_the_ids_whichever_problem_ends_first():
    last_first = sorted(records(), key=lambda record: record.problem_id, reverse=True)
    table = MetricTable(4, 4)
    for problem in grade(last_first)[0].items():
        table.add(*problem)
    assert table.problem_ids == ["a", "b"]
    assert table.rows() == list(rows_of(records()).values())


def test_what_is_in_memory_is_what_has_not_ended():
    """Long texts as answers: those of one problem at a time, however many there are."""

    def big_run(num_problems):
        for number in range(num_problems):
            for repetition in range(2):
                answer = f"{number} {repetition} " + "x" * 50_000
                responses = [RecordedResponse("", answer, 0.5, True, 10, 0)]
                cost = SearchCost(40, 1.0)
                yield Record(f"{number:03d}", repetition, "", "9", 0, responses, [], cost)

    def peak(num_problems):
        grader, table = RunGrader(2, equal_strings), MetricTable(1, 2)
        tracemalloc.start()
        for problem in grader.problems(big_run(num_problems)):
            table.add(*problem)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(grader.complete) == num_problems
        return peak

    assert peak(100) < peak(10) + 200_000
