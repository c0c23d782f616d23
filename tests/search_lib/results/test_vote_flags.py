"""Votes chosen by name: in the table, in the commands that read runs, and calibrated ones."""

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts import compare, frontier
from search_lib.results import calibration, summary
from search_lib.results.records import Record, RecordedResponse
from search_lib.results.resampling import resample, tree_orders
from search_lib.results.run_config import RunConfig
from search_lib.results.run_trees import RunTrees
from search_lib.results.summary import report
from search_lib.voting import VOTES
from tests.support.ballots import make_confidence
from tests.support.refusals import refusal
from tests.support.runs import tree_cost, write_records


def make_records(names: str, seed: int, confidences: bool = True) -> list[Record]:
    """Two trees of three responses a problem, whose right answer is 1 and gets larger values."""
    draw = random.Random(seed)
    records = []
    for name in names:
        for tree in range(2):
            responses = []
            for _ in range(3):
                answer = draw.choice(["1", "2", "3"])
                value = round(draw.random() * (1.0 if answer == "1" else 0.6), 2)
                confidence = make_confidence(draw) if confidences else None
                text = f"\\boxed{{{answer}}}"
                responses.append(RecordedResponse(text, answer, value, True, 9, 0, confidence))
            records.append(
                Record(name, tree, f"Question {name}", "1", 0, responses, [], tree_cost(tree))
            )
    return records


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_records(tmp_path / "run", make_records("abcdefgh", 1))
    return tmp_path / "run"


@pytest.fixture
def fitted(tmp_path: Path, capsys) -> Path:
    """A calibration from a run on other problems."""
    write_records(tmp_path / "tuning", make_records("pqrstuvw", 2))
    path = tmp_path / "calibration.json"
    calibration.main([str(tmp_path / "tuning"), "--output", str(path)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("48 responses to 8 problems; mean squared error on them: 0.")
    assert printed[1] == f"calibration: {path}"
    return path


def refused(command: Any, arguments: list[Any], capsys: Any) -> str:
    """What is said of a command that is refused, behind the name of its program."""
    main, program = (command.run if hasattr(command, "run") else command.main), command.PROGRAM
    line = refusal(main, program, list(map(str, arguments)), capsys)
    return line.removeprefix(f"{program}: error: ")


def methods(run: Path) -> list[str]:
    document = json.loads((run / "metrics.json").read_text())
    return list(dict.fromkeys(row["method"] for row in document["metrics"]))


def test_named_votes_stand_beside_the_default_ones(run, capsys):
    default = ["MV", "WMV", "BoN", "pass@1", "pass@k"]
    summary.main([str(run)])
    assert methods(run) == default
    summary.main([str(run), "--vote", "Borda1.2", "PV"])
    assert methods(run) == [*default, "Borda1.2", "PV"]
    lines = [line.split()[:1] for line in capsys.readouterr().out.splitlines()]
    assert ["Borda1.2"] in lines
    summary.main([str(run), "--vote", "all"])
    assert methods(run) == [name for name in VOTES if name != "CWMV"]


def test_a_run_is_counted_with_the_votes_that_it_asked_for(run):
    path, config = RunConfig.find(run)
    report(path, replace(config, flags=config.flags | {"vote": ["PV1"]}))
    assert methods(run)[-1] == "PV1"


def test_votes_whose_features_are_not_there_are_refused(run, tmp_path, capsys):
    write_records(tmp_path / "unsure", make_records("ab", 1, confidences=False))
    line = refused(summary, [str(tmp_path / "unsure"), "--vote", "Borda"], capsys)
    expected = (
        "--vote Borda needs confidences (--confidence records them), which the responses lack"
    )
    assert line == expected
    line = refused(summary, [str(run), "--vote", "CWMV"], capsys)
    assert line == "--vote CWMV needs calibrated values (--calibration), which the responses lack"
    line = refused(summary, [str(run), "--vote", "Bordo"], capsys)
    assert line.startswith("--vote there is no vote 'Bordo'; known: MV, WMV, BoN, pass@1, pass@k, ")


def test_the_calibrated_vote_is_counted_and_remembered(run, fitted):
    summary.main([str(run), "--vote", "CWMV", "--calibration", str(fitted)])
    document = json.loads((run / "metrics.json").read_text())
    of_fit = json.loads(fitted.read_text())
    assert document["calibration"] == of_fit
    accuracies = {
        row["method"]: row["per_problem"] for row in document["metrics"] if row["trees"] == 2
    }
    # Worked out again: the class with the largest sum of interpolated values.
    records = make_records("abcdefgh", 1)
    for name, accuracy in zip("abcdefgh", accuracies["CWMV"], strict=True):
        totals: dict[str, float] = {}
        for record in records:
            for one in record.responses if record.problem_id == name else ():
                totals[one.answer] = totals.get(one.answer, 0) + interpolate(of_fit, one.value)
        assert accuracy == (max(totals, key=lambda answer: totals[answer]) == "1")


def interpolate(of_fit: dict, value: float) -> float:
    knots = list(zip(of_fit["values"], of_fit["calibrated"], strict=True))
    if value <= knots[0][0]:
        return knots[0][1]
    for (low, at_low), (high, at_high) in itertools.pairwise(knots):
        if value <= high:
            return at_low + (at_high - at_low) * (value - low) / (high - low)
    return knots[-1][1]


def test_a_calibration_of_the_same_problems_is_refused(run, tmp_path, capsys):
    path = tmp_path / "own.json"
    calibration.main([str(run), "--output", str(path)])
    capsys.readouterr()
    arguments = [str(run), "--vote", "CWMV", "--calibration", str(path)]
    line = refused(summary, arguments, capsys)
    assert line.startswith("--calibration was fitted on 8 of these 8 problems (a, b, c")


def test_a_run_without_values_fits_nothing(tmp_path, capsys):
    records = [
        replace(record, responses=[replace(one, value=None) for one in record.responses])
        for record in make_records("ab", 1)
    ]
    write_records(tmp_path / "plain", records)
    arguments = [str(tmp_path / "plain"), "--output", str(tmp_path / "c.json")]
    line = refused(calibration, arguments, capsys)
    assert line == f"{tmp_path}/plain: no response has both an answer and a value"


def test_the_commands_that_read_runs_take_any_vote_by_name(run, fitted, tmp_path, capsys):
    summary.main([str(run), "--vote", "Borda0.3", "CWMV", "--calibration", str(fitted)])
    compare.run([f"{run}:MV", f"{run}:Borda0.3"])
    assert "run Borda0.3 - run MV" in capsys.readouterr().out
    selections = [f"{run}:DeepConf-tail50", f"{run}:CWMV", f"{run}:PV"]
    frontier.run([*selections, "--output", str(tmp_path / "frontier.png")])
    printed = capsys.readouterr().out
    assert all(f"run {name}" in printed for name in ("DeepConf-tail50", "CWMV", "PV"))
    line = refused(compare, [f"{run}:MV", f"{run}:Borda2"], capsys)
    assert line.endswith(f"`python -m search_lib.results.summary {run} --vote Borda2` counts it")


def test_all_trees_vote_as_in_the_metrics(run, fitted):
    summary.main([str(run), "--vote", "all", "--calibration", str(fitted)])
    document = json.loads((run / "metrics.json").read_text())
    trees = RunTrees.load(run)
    assert trees.methods == list(VOTES)
    for row in document["metrics"]:
        if row["trees"] == 2:
            of_each = resample(trees.votes, row["method"], tree_orders(2))
            found = of_each[:, -1].tolist()
            assert found == pytest.approx(row["per_problem"]), row["method"]
