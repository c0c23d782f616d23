"""A run as its trees: votes, and what each cost."""

import json

import numpy as np
import pytest

from run_lib.commands import InputError
from search_lib.answer_rules import PUBLISHED
from search_lib.results.resampling import tree_orders
from search_lib.results.run_trees import RunTrees
from tests.support.runs import POLICY, VALUE_MODEL, write_run

SEARCHES = {
    "b": ("5", [[("4", 0.2), ("5", 0.7)], [("5", 0.6), (None, 0.5)], [("4", 0.9), ("4", 0.8)]]),
    "a": ("1", [[("1", 0.9), ("2", 0.2)], [("2", 0.3), ("2", 0.3)], [("1", 0.8), (None, 0.1)]]),
}


def flops(size, tokens, contexts):
    return 2 * size.num_matmul_parameters * tokens + 4 * size.attention_width * contexts


def test_the_votes_of_all_trees_are_those_of_the_metrics(tmp_path):
    write_run(tmp_path / "run", SEARCHES, num_blocks=2, vote=["all"])
    run = RunTrees.load(tmp_path / "run")
    assert list(run.graded) == ["a", "b"]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]
    single = {row["method"]: row["per_problem"] for row in metrics if row["trees"] == 1}
    assert run.methods == list(single)
    for method, expected in single.items():
        found = [votes.accuracies(method, tree_orders(3))[0] for votes in run.votes]
        assert found == pytest.approx(expected)


def test_each_tree_has_its_own_cost_in_order_of_problems(tmp_path):
    write_run(tmp_path / "run", SEARCHES, num_blocks=2)
    run = RunTrees.load(tmp_path / "run")
    costs = run.costs("WMV")
    assert costs["budget"].tolist() == [[2.0] * 3] * 2
    assert costs["tokens"].tolist() == [[10, 20, 30]] * 2
    # 20 seconds over 120 tokens.
    assert costs["seconds"] == pytest.approx(np.array([[10, 20, 30]] * 2) / 6)
    expected = [
        flops(POLICY, n, 5 * n) + flops(VALUE_MODEL, n + 1, 5 * n + 5) for n in (10, 20, 30)
    ]
    assert costs["flops"].tolist() == [expected] * 2


def test_incomplete_problems_took_their_share_of_the_time(tmp_path):
    write_run(tmp_path / "run", SEARCHES)
    answers = tmp_path / "run" / "answers.jsonl"
    answers.write_bytes(answers.read_bytes().splitlines(keepends=True)[0])
    run = RunTrees.load(tmp_path / "run")
    # 20 seconds over the 120 tokens of both problems.
    assert run.costs("MV")["seconds"] == pytest.approx(np.array([[10, 20, 30]]) / 6)


@pytest.mark.parametrize(
    ("search_type", "method", "is_charged"),
    [
        ("bon", "MV", False),
        ("random4", "pass@k", False),
        ("random", "WMV", True),
        ("bon", "BoN", True),
        ("beam2", "MV", True),
        ("bfs", "pass@1", True),
        ("particles", "MV", True),
        ("reject50", "pass@k", True),
    ],
)
def test_the_value_model_is_charged_where_it_takes_part(tmp_path, search_type, method, is_charged):
    write_run(tmp_path / "run", SEARCHES, search_type=search_type)
    run = RunTrees.load(tmp_path / "run")
    expected = flops(POLICY, 10, 50) + is_charged * flops(VALUE_MODEL, 11, 55)
    assert run.costs(method)["flops"][0, 0] == expected


def test_costs_that_are_not_known_are_left_out(tmp_path):
    write_run(tmp_path / "run", SEARCHES, tokens_scored=None, session=None, session_seconds=None)
    run = RunTrees.load(tmp_path / "run")
    assert list(run.costs("WMV")) == ["budget", "tokens"]
    assert list(run.costs("MV")) == ["budget", "flops", "tokens"]


def test_a_run_without_values_has_no_methods_that_weigh(tmp_path):
    plain = {"a": ("1", [[("1", None)], [("2", None)]])}
    write_run(tmp_path / "run", plain, tokens_scored=0, contexts_scored=0)
    run = RunTrees.load(tmp_path / "run")
    assert run.methods == ["MV", "pass@1", "pass@k"]
    assert run.costs("MV")["flops"][0, 0] == flops(POLICY, 10, 50)


def refusal(run, **rules):
    with pytest.raises(InputError) as raised:
        RunTrees.load(run, **rules)
    return str(raised.value)


def test_a_run_that_is_not_counted_says_how_to(tmp_path):
    run = tmp_path / "run"
    write_run(run, SEARCHES)
    command = f"`python -m search_lib.results.summary {run} --answers"
    expected = f"{run}: there are no published answers of complete problems; {command} published`"
    assert refusal(run, rules=PUBLISHED).startswith(expected)
    (run / "answers.jsonl").write_text('{"problem_id": "a"}\n')
    assert refusal(run).startswith(f"{run / 'answers.jsonl'}, line 1: no line of answers")
    (run / "answers.jsonl").unlink()
    assert f"no strict answers of complete problems; {command} strict`" in refusal(run)


def test_answers_of_other_records_are_refused(tmp_path):
    run = tmp_path / "run"
    write_run(run, SEARCHES)
    lines = (run / "r.jsonl").read_bytes().splitlines(keepends=True)
    (run / "r.jsonl").write_bytes(b"".join(lines[:-1]))
    assert "there are answers of searches without a record" in refusal(run)
    record = json.loads(lines[-1])
    record["responses"].pop()
    (run / "r.jsonl").write_bytes(b"".join(lines[:-1]) + json.dumps(record).encode())
    assert "the answers are not those of problem b, repetition 0" in refusal(run)
