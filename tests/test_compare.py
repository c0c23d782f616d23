"""Runs compared on the same problems: the tables, the plot, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from run_lib.files import write_json
from scripts import compare
from search_lib.results.run_config import CONFIG_NAME
from search_lib.results.statistics import bootstrap_interval
from tests.support.metrics import metric_row, write_run


@pytest.fixture
def runs(tmp_path):
    """Two runs of two methods, of which the second has one budget in common with the first."""
    for name in ("low", "high"):
        (tmp_path / name).mkdir()
    low = {4: [0.0, 1.0, 0.0, 0.5], 8: [0.0, 1.0, 0.0, 1.0]}
    both = ("MV", "WMV")
    return write_run(tmp_path / "low", low, both), write_run(
        tmp_path / "high", {4: [1.0, 0.75, 0.0, 1.0]}, both
    )


def printed(capsys, *argv):
    """The lines of the two tables, cell by cell."""
    compare.run([*map(str, argv)])
    tables = capsys.readouterr().out.split("\n\n")[:2]
    cells = [[line.split("  ") for line in table.splitlines()] for table in tables]
    return [[[cell.strip() for cell in line if cell] for line in table] for table in cells]


def test_the_differences_are_paired_by_problem(runs, capsys):
    low, high = runs
    _, (header, _, line, *_) = printed(capsys, f"{low}:MV", f"{high}:MV")
    assert header == ["budget", "difference", "95 % interval", "p", "n", "better", "worse"]
    # 1, -0.25, 0 and 0.5: of 8 signs of the three, those of 4 are as far from 0 as their sum.
    low_end, high_end = bootstrap_interval(np.array([[1.0], [-0.25], [0.0], [0.5]]))
    interval = f"{100 * low_end:+.1f} to {100 * high_end:+.1f}"
    assert line == ["high MV - low MV", "4", "+31.2", interval, "0.5000", "4", "2", "1"]


def test_whole_runs_are_compared_method_by_method(runs, capsys):
    accuracies, differences = printed(capsys, *runs)
    assert [line[0] for line in accuracies[2:6]] == ["low MV", "low WMV", "high MV", "high WMV"]
    names = [line[0] for line in differences[2:4]]
    assert names == ["high MV - low MV", "high WMV - low WMV"]


def test_one_method_of_the_first_is_compared_with_all_others(runs, capsys):
    low, high = runs
    _, differences = printed(capsys, f"plain={low}:MV", f"VGS={high}:WMV", low)
    names = [(line[0], line[1]) for line in differences[2:7]]
    assert names == [
        *[("VGS - plain", "4"), ("low MV - plain", "4"), ("low MV - plain", "8")],
        *[("low WMV - plain", "4"), ("low WMV - plain", "8")],
    ]


def test_a_curve_is_a_line_and_a_budget_a_column():
    def row(mean, budget):
        return metric_row("MV", budget, [mean] * 4)

    curves = {"baseline": {4: row(0.25, 4), 16: row(1.0, 16)}, "ours": {4: row(0.5, 4)}}
    assert compare.format_curves(curves).splitlines() == [
        "budget              4            16",
        "--------  -----------  ------------",
        "baseline  25.0 ± 10.0  100.0 ± 10.0",
        "ours      50.0 ± 10.0              ",
    ]


def test_a_plot_is_drawn_and_other_metrics_are_read(runs, tmp_path, capsys):
    low, high = runs
    other = (Path(high) / "metrics.json").rename(Path(high) / "metrics.published.json")
    output = tmp_path / "plots" / "p.png"
    compare.run([f"{low}:MV", f"VGS={other}:MV", "--output", str(output), "--title", "Toy"])
    assert capsys.readouterr().out.splitlines()[-1] == f"plot: {output}"
    assert output.read_bytes().startswith(b"\x89PNG")


def test_a_run_may_be_named_by_its_records(runs, capsys):
    low, high = runs
    of_records = printed(capsys, f"low={low}/r.jsonl", f"high={high}/r.jsonl")
    assert of_records == printed(capsys, low, high)


def refusal(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        compare.run([*map(str, argv)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("scripts.compare: error: ")


def test_runs_of_other_problems_are_refused(runs, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    other = write_run(tmp_path / "other", {4: [1.0, 0.0]}, ids="ax")
    expected = "RUNS low and other are of different problems: 4 and 2, 1 in common"
    assert refusal(capsys, runs[0], other) == expected


def test_other_problems_of_the_same_ids_are_refused(runs, capsys):
    named = {"benchmark": "b", "search_type": "bon", "num_blocks": 1, "num_repetitions": 1}
    named |= {"output_path": "r.jsonl", "piref_model": "p", "classifier_ckpt_path": None}
    for run, digest in zip(runs, "12", strict=True):
        document = named | {"fingerprints": {"benchmark": digest}, "problem_ids": list("abcd")}
        write_json(Path(run) / CONFIG_NAME, document)
    line = "low and high are of different problems: their ids are the same, and their texts are not"
    assert refusal(capsys, *runs) == f"RUNS {line}"


def test_two_curves_of_one_name_are_refused(runs, capsys):
    low, high = runs
    line = "RUNS 'low MV' names two curves: give one of them another label"
    assert refusal(capsys, low, f"low MV={high}:MV") == line


def test_bad_input_is_one_line(runs, tmp_path, capsys):
    low, high = runs
    assert refusal(capsys, low) == "RUNS needs at least two, to compare one with another"
    absent = tmp_path / "absent"
    line = f"RUNS absent: there is no {absent}/metrics.json; has the run ended?"
    assert refusal(capsys, low, absent) == line
    assert "has no method 'BoN'; it has MV, WMV" in refusal(capsys, low, f"{high}:BoN")
    (tmp_path / "metrics.json").write_text("{")
    assert refusal(capsys, low, tmp_path).startswith(f"{tmp_path / 'metrics.json'} is damaged")
    (tmp_path / "metrics.json").write_text(json.dumps({"problem_ids": [], "metrics": []}))
    assert "has no complete problem" in refusal(capsys, low, tmp_path)
