"""Sweeps over settings of a search."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import inference_eval
from run_lib.commands import parse_command_line
from run_lib.settings import as_json
from scripts import sweep
from scripts.sweeps.plan import as_arguments, read_sweep, shard_of
from scripts.sweeps.table import affordable, format_settings, load_settings, mean_curve, plotted
from search_lib import open_models
from search_lib.results.curves import Curve, Point
from search_lib.results.records import read_records
from search_lib.search_args import Args
from tests.support.paths import ROOT
from tests.support.refusals import refusal
from tests.support.runs import write_run
from tests.support.searches import responses

PLAN = {
    "flags": {"benchmark": "toy", "max_problems": 2, "save_blocks": False},
    "strategies": {"beam2": {"search_type": "beam2"}, "samples": {"search_type": "bon"}},
    "scorers": {"values": {"classifier_ckpt_path": "v"}, "none": {"scorer": "none"}},
    "budgets": {4: {"num_blocks": 2, "num_repetitions": 2}},
    "seeds": [1, 2],
}


def written(tmp_path, **changes):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN | changes, sort_keys=False))
    return path


def test_a_cell_is_a_run_of_each_combination_that_there_can_be(tmp_path):
    found = read_sweep(written(tmp_path), tmp_path / "out")
    assert [(c.scorer, c.strategy, c.budget, c.args.seed) for c in found.cells] == [
        *[("values", "beam2", "4", 1), ("values", "beam2", "4", 2)],
        *[("values", "samples", "4", 1), ("values", "samples", "4", 2)],
        *[("none", "samples", "4", 1), ("none", "samples", "4", 2)],
    ]
    first = found.cells[0].args
    assert first.output_path == tmp_path / "out/values/beam2/4/seed-1/records.jsonl"
    assert (first.num_blocks, first.save_blocks, first.max_problems) == (2, False, 2)
    assert found.baseline == "beam2"
    assert found.left_out == [
        f"beam2, none, budget 4, seed {seed}: --search_type beam2 selects blocks by their values, "
        "and --scorer none gives none; bon, random<w> and deepconf<n> do without"
        for seed in (1, 2)
    ]


def test_the_command_of_a_cell_runs_it_alone(tmp_path, capsys):
    plan = written(tmp_path, flags={"benchmark": "toy", "piref_model": "a folder"})
    sweep.run([str(plan), "--output", "out", "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if not line.startswith("left out: ")]
    cells = read_sweep(plan, Path("out")).cells
    assert len(commands) == len(cells) == 6
    assert " --piref_model 'a folder' " in commands[0]
    assert commands[5] == cells[5].command
    assert parse_command_line(Args, "p", None, cells[5].arguments) == cells[5].args


def test_the_cells_of_all_shards_are_those_of_the_sweep(tmp_path):
    cells = read_sweep(written(tmp_path), tmp_path).cells
    numbered = [pair for index in range(4) for pair in shard_of(cells, index, 4)]
    assert sorted(number for number, _ in numbered) == [1, 2, 3, 4, 5, 6]
    assert all(cells[number - 1] is cell for number, cell in numbered)


def test_the_sweep_of_the_documentation_can_be_read():
    assert read_sweep(ROOT / "scripts/sweeps/toy.yaml", Path("out")).cells


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": None}, "budgets must map a name to the flags of each"),
        ({"budget": {}}, "unknown budget; known: baseline, budgets, flags, scorers, seeds"),
        ({"flags": {"bloc_size": 1}}, "flags: inference_eval.py has no flag 'bloc_size'"),
        ({"budgets": {4: {"seed": 1}}}, "budgets: 4: --seed is the sweep's own"),
        ({"budgets": {4: {"num_blocks": None}}}, "num_blocks must be a number, a text or a"),
        ({"strategies": {"x": {"search_type": "bean2"}}}, "unknown --search_type 'bean2'"),
        ({"budgets": {4: {"num_blocks": 3}}}, "beam2, values, budget 4, seed 1: "),
        ({"flags": {"temperature": -1.0}}, "seed 1: --temperature must not be negative"),
        ({"seeds": [1, 1]}, "seeds must be a list of different int values"),
        ({"baseline": "best"}, "baseline 'best' is none of beam2, samples"),
        ({"strategies": {"a/b": {}, "a b": {}}}, "two names become one folder"),
        ({"votes": ["MV", "PVV"]}, "votes: there is no vote 'PVV'; known: MV, WMV"),
        ({"scorers": {True: {}}}, "scorers: a name reads as True, in YAML; write it in quotes"),
    ],
)  # fmt: skip
def test_a_bad_plan_is_one_line(tmp_path, capsys, changes, message):
    plan = written(tmp_path, **changes)
    argv = [str(plan), "--output", str(tmp_path)]
    line = refusal(sweep.run, "scripts.sweep", argv, capsys)
    assert line.startswith(f"scripts.sweep: error: {plan}: ")
    assert message in line


def test_a_file_that_is_no_yaml_is_one_line(tmp_path, capsys):
    (tmp_path / "plan.yaml").write_text("a: [")
    argv = [str(tmp_path / "plan.yaml"), "--output", "o"]
    line = refusal(sweep.run, "scripts.sweep", argv, capsys)
    assert "plan.yaml can't be read: while parsing" in line


def test_a_name_that_occurs_twice_is_one_line(tmp_path, capsys):
    plan = tmp_path / "plan.yaml"
    plan.write_text("budgets: {4: {}}\nstrategies:\n  a: {num_blocks: 2}\n  a: {num_blocks: 4}\n")
    line = refusal(sweep.run, "scripts.sweep", [str(plan), "--output", "o"], capsys)
    assert "plan.yaml can't be read: 'a' occurs twice" in line


@pytest.mark.parametrize("flag", [name for name, of in as_json(Args()).items() if of == []])
def test_a_list_of_two_gives_a_flag_both(flag):
    arguments = as_arguments({flag: ["http://a:1", "http://b:2"]})
    args = as_json(parse_command_line(Args, "p", None, arguments))
    assert args[flag] == ["http://a:1", "http://b:2"]


def points(*costs_and_accuracies):
    return [
        Point(trees, None, {"flops": flops}, np.array(accuracies))
        for trees, (flops, accuracies) in enumerate(costs_and_accuracies, start=1)
    ]


def test_within_some_flops_a_method_has_as_many_trees_as_they_pay_for():
    small = Curve("a", "a", "MV", None, points((2.0, [1.0]), (4.0, [0.5])))
    large = Curve("b", "b", "MV", None, points((3.0, [0.0]), (6.0, [0.25])))
    found = [affordable([small, large], flops) for flops in (1.9, 2.0, 3.5, 5.0, 6.0)]
    assert [one and (one[0].costs["flops"], one[1]) for one in found] == [
        *[None, (2.0, True), (3.0, True), (4.0, True), (6.0, False)]
    ]


def test_curves_of_seeds_are_averaged_point_by_point():
    first = Curve("a", "a", "MV", None, points((2.0, [1.0, 0.0]), (4.0, [1.0, 1.0])))
    second = Curve("a", "a", "MV", None, points((4.0, [0.0, 0.0]), (8.0, [1.0, 0.0])))
    mean = mean_curve([first, second])
    assert [point.costs["flops"] for point in mean.points] == [3.0, 6.0]
    assert [point.per_problem.tolist() for point in mean.points] == [[0.5, 0.0], [1.0, 0.5]]


@pytest.fixture
def ended(tmp_path):
    """A sweep whose runs have ended, and how right each is: beam2 on 2 of 2, samples on 1 of 2."""
    found = read_sweep(written(tmp_path, scorers={"": {}}), tmp_path / "out")
    for cell in found.cells:
        right = "2" if cell.strategy == "samples" else "1"
        searches = {"a": ("1", [[("1", 0.9)]] * 2), "b": ("1", [[(right, 0.9)]] * 2)}
        folder = cell.args.output_path.parent
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_run(folder, searches, search_type=cell.args.search_type, num_blocks=2)
    return found


def test_the_table_has_differences_at_equal_budget_and_at_equal_flops(ended):
    lines = format_settings(load_settings(ended), ended).splitlines()
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert [row[0] for row in rows[2:]] == [
        f"{name} {vote}" for name in ("beam2", "samples") for vote in ("MV", "WMV", "BoN")
    ]
    assert rows[3][:3] == ["beam2 WMV", "4", "100.0 ± 0.0"]
    assert rows[6][:3] == ["samples WMV", "4", "50.0 ± 98.0"]
    assert rows[6][6:] == ["-50.0", "-100.0 to +0.0", "50.0 (all)", "-50.0", "-100.0 to +0.0"]


def test_votes_with_a_number_are_in_the_table(ended):
    chosen = replace(ended, votes=["PV0.1", "WMV"])
    assert [[*setting.curves] for setting in load_settings(chosen)] == [["PV0.1", "WMV"]] * 2


def test_votes_that_no_run_has_are_named(ended):
    with pytest.raises(ValueError, match="no run has what its votes need: DeepConf-mean"):
        load_settings(replace(ended, votes=["DeepConf-mean"]))


def test_the_plot_has_majority_votes_only_where_they_cost_less(ended):
    curves = plotted(load_settings(ended))
    assert [(curve.run, curve.method) for curve in curves] == [
        *[("beam2", "WMV"), ("samples", "WMV"), ("samples", "MV")]
    ]


def test_a_sweep_runs_its_cells_and_ends_in_a_table_a_plot_and_a_page(
    models, tmp_path, monkeypatch, capsys
):
    flags = {
        **{"benchmark": "toy", "max_problems": 2, "block_size": 8, "max_length": 16},
        **{"piref_model": str(models / "policy"), "attention_impl": "sdpa", "engine": "hf"},
    }
    values = {"classifier_ckpt_path": str(models / "value_model")}
    plan = written(tmp_path, flags=flags, scorers={"values": values}, seeds=[1])
    out = tmp_path / "out"
    sweep.run([str(plan), "--output", str(out), "--shard", "0/2"])
    assert "1 of 2 cells have not ended: there is no table yet" in capsys.readouterr().out
    sweep.run([str(plan), "--output", str(out)])
    printed = capsys.readouterr().out
    assert "[1/2] beam2, values, budget 4, seed 1\n" in printed
    assert "4 searches are there, 0 to run" in printed
    table = (out / "table.txt").read_text()
    assert table in printed
    assert re.search("^samples, values WMV +4 ", table, re.MULTILINE)
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "beam2, values, 4" in (out / "report.html").read_text()
    # A cell is what its own command makes.
    cell = read_sweep(plan, tmp_path / "alone").cells[1]
    assert inference_eval.main(cell.args) == 0
    path = out / "values/samples/4/seed-1/records.jsonl"
    assert responses(path) == responses(cell.args.output_path)
    assert len(list(read_records(path))) == 4
    # All is there: nothing is loaded any more.
    monkeypatch.setattr(open_models, "open_engine", None)
    sweep.run([str(plan), "--output", str(out)])
    assert table in capsys.readouterr().out


def test_a_cell_that_fails_leaves_the_others(models, tmp_path, capsys):
    flags = {"benchmark": "toy", "max_problems": 1, "max_length": 16, "engine": "hf"}
    strategies = {
        "absent": {"search_type": "bon", "piref_model": str(tmp_path / "absent")},
        "samples": {"search_type": "bon", "piref_model": str(models / "policy")},
    }
    none = {"none": {"scorer": "none"}}
    plan = written(tmp_path, flags=flags, strategies=strategies, scorers=none, seeds=[1])
    with pytest.raises(SystemExit) as ended:
        sweep.run([str(plan), "--output", str(tmp_path / "out")])
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "\nfailed: absent, none, budget 4, seed 1: --piref_model" in printed
    assert printed.endswith("1 of 2 cells have not ended: there is no table yet\n")
    assert (tmp_path / "out/none/samples/4/seed-1/metrics.json").is_file()
