"""A run whose right answers nobody knows: what works on accuracies says so in one line."""

import json

import pytest

from scripts import compare, frontier, mean_of_runs
from search_lib.results import calibration, summary
from search_lib.results.metrics import NO_REFERENCE
from tests.support.runs import write_run


@pytest.fixture
def runs(tmp_path):
    """Two runs that differ in their seeds."""
    for seed in (0, 1):
        searches = {"question": (None, [[("1", 0.5)], [("2", 0.75)]])}
        write_run(tmp_path / f"seed-{seed}", searches, seed=seed)
    return tmp_path / "seed-0", tmp_path / "seed-1"


COMMANDS = {
    "compare": (compare.run, "{0} {1}", "{0}/metrics.json"),
    "frontier": (frontier.run, "{0} --output plot.png", "RUNS seed-0"),
    "mean of runs": (mean_of_runs.run, "--runs {0} {1}", "{0}/metrics.json"),
    "calibration": (calibration.main, "{0} --output c.json", "{0}"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_accuracies_refuses_it(name, runs, capsys):
    command, words, place = COMMANDS[name]
    with pytest.raises(SystemExit) as ended:
        command(words.format(*runs).split())
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f" error: {place.format(*runs)}: {NO_REFERENCE}")


def test_its_summary_counts_answers_and_says_that_there_are_no_accuracies(runs, capsys):
    summary.main([str(runs[0])])
    lines = capsys.readouterr().out.splitlines()
    assert NO_REFERENCE in lines
    metrics = json.loads((runs[0] / "metrics.json").read_text())
    assert (metrics["metrics"], metrics["without_reference"]) == ([], 1)
    answers = json.loads((runs[0] / "answers.jsonl").read_text())
    assert (answers["classes"], answers["correct"]) == ([[1], [2]], [[False], [False]])
