"""`scripts.compare_runs` as a command; its table and its plot are tested with the quickstart's."""

import subprocess
import sys

import pytest

from scripts import compare_runs
from scripts.compare_runs import Point
from search_lib.results.statistics import Estimate
from tests.support.paths import ROOT


def make_curve(**means: float) -> dict[int, Point]:
    return {
        int(budget.removeprefix("at_")): Point(Estimate(mean, 0.1, None, 4, 1), None)
        for budget, mean in means.items()
    }


def test_a_curve_is_a_line_and_a_budget_a_column():
    curves = {"baseline": make_curve(at_4=0.25, at_16=1.0), "ours": make_curve(at_4=0.5)}
    assert compare_runs.format_curves(curves).splitlines() == [
        "budget              4            16",
        "--------  -----------  ------------",
        "baseline  25.0 ± 10.0  100.0 ± 10.0",
        "ours      50.0 ± 10.0              ",
    ]


def test_it_ends_with_one_line_on_bad_input(tmp_path, capsys):
    flags = ["--output", str(tmp_path / "p.png"), "--baseline", "a", "--curves", "a=absent:MV"]
    with pytest.raises(SystemExit) as ended:
        compare_runs.run(flags)
    assert ended.value.code == 2
    line = "scripts.compare_runs: error: --curves a: there is no absent/metrics.json; has the run"
    assert capsys.readouterr().err.startswith(line)


def test_damaged_metrics_are_named(tmp_path, capsys):
    (tmp_path / "metrics.json").write_text("{")
    flags = ["--output", "p.png", "--baseline", "a", "--curves", f"a={tmp_path}:MV"]
    with pytest.raises(SystemExit):
        compare_runs.run(flags)
    assert f"error: {tmp_path / 'metrics.json'} is damaged" in capsys.readouterr().err


def test_it_imports_no_torch():
    program = "import sys, scripts.compare_runs; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
