"""The table of policies, and the plot of their trainings."""

import json

import pytest

from scripts import dvo_table, plot_training
from tests.support.metrics import write_run
from tests.support.refusals import refusal


def write_lines(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.fixture
def folder(tmp_path):
    """A policy before and after a training with DVO, and after one with TRL."""
    for name in ("base", "dvo", "dpo"):
        for how, methods in (("plain", ("MV", "pass@1")), ("guided", ("WMV",))):
            run = tmp_path / "evaluation" / name / how
            if (name, how) != ("dpo", "guided"):
                run.mkdir(parents=True)
                write_run(run, {1: [0.0, 0.5], 4: [0.0, 1.0]}, methods, ids="ab")
    mean = {"train/implicit_reward/correct": 0.5, "train/epoch": 1.0}
    lines = [{"step": step, "train/loss_tokens": 10.0 * step} | mean for step in (2, 4, 4, 5)]
    lines[1]["train/loss_tokens"] = 99.0  # a killed run wrote step 4, and the resumed one again
    write_lines(tmp_path / "dvo", [*lines, {"step": 5, "validation/loss": 0.1}])
    trl = [
        {"step": step, "train/tokens/trained": 70 * step, "train/epoch": step} for step in (1, 2)
    ]
    write_lines(tmp_path / "dpo", trl)
    return tmp_path


def table(folder, capsys, *policies):
    dvo_table.main(["--folder", str(folder), "--policies", *policies])
    lines = capsys.readouterr().out.splitlines()[2 : 2 + len(policies)]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_a_line_has_the_accuracies_at_the_largest_budget(folder, capsys):
    assert table(folder, capsys, "base") == [
        ["base", "50.0 ± 10.0", "50.0 ± 10.0 @4", "50.0 ± 10.0 @4"]
    ]


def test_the_tokens_of_a_training_are_those_of_all_its_steps_once(folder, capsys):
    (dvo,) = table(folder, capsys, "dvo")
    assert dvo[-2:] == ["5", str(2 * 20 + 2 * 40 + 1 * 50)]


def test_a_training_with_trl_says_its_tokens_itself(folder, capsys):
    (dpo,) = table(folder, capsys, "dpo")
    assert dpo == ["dpo", "50.0 ± 10.0", "50.0 ± 10.0 @4", "2", "140"]


def test_a_policy_without_an_evaluation_is_named(folder, capsys):
    argv = ["--folder", str(folder), "--policies", "kto"]
    line = refusal(dvo_table.main, "scripts.dvo_table", argv, capsys)
    assert line.endswith(f": --policies kto: there is no {folder}/evaluation/kto")


def test_metrics_are_plotted_over_the_passes(folder, tmp_path):
    curve = f"DVO={folder}/dvo:train/implicit_reward/correct"
    assert plot_training.load_curve(curve) == ("DVO", [1.0] * 3, [0.5] * 3)
    plot_training.main(["--curves", curve, "--output", str(tmp_path / "plots" / "reward.png")])
    assert (tmp_path / "plots" / "reward.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ("dvo", "'dvo' is not of the form label=folder:metric"),
        ("DVO={folder}/none:train/loss", "DVO: there is no {folder}/none/metrics.jsonl"),
        ("DVO={folder}/dvo:train/x", "DVO: {folder}/dvo/metrics.jsonl has no metric 'train/x'"),
    ],
)
def test_curves_that_are_not_there_are_named(folder, curve, message, capsys):
    arguments = ["--output", "x.png", "--curves", curve.format(folder=folder)]
    line = refusal(plot_training.main, "scripts.plot_training", arguments, capsys)
    assert line.endswith(f"error: --curves {message.format(folder=folder)}")
