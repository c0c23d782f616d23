"""The table of policies, and the plot of their trainings."""

import json

import pytest

from scripts import dvo_table, plot_training
from tests.support.metrics import write_run
from tests.support.refusals import refusal


def write_lines(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


ACCURACIES = {
    ("base", "plain"): {"MV": 0.11, "pass@1": 0.12},
    ("base", "guided"): {"WMV": 0.13},
    ("dvo", "plain"): {"MV": 0.21, "pass@1": 0.22},
    ("dvo", "guided"): {"WMV": 0.23},
    ("dpo", "plain"): {"MV": 0.31, "pass@1": 0.32},
}


@pytest.fixture
def folder(tmp_path):
    """A policy before and after a training with DVO, and after one with TRL."""
    for (name, how), methods in ACCURACIES.items():
        run = tmp_path / "evaluation" / name / how
        run.mkdir(parents=True)
        write_run(run, {1: [0.0, 0.0], 4: [0.0, 1.0]}, tuple(methods), ids="ab")
        document = json.loads((run / "metrics.json").read_text())
        for row in document["metrics"]:
            if row["budget"] == 4:
                row["estimate"]["mean"] = methods[row["method"]]
        (run / "metrics.json").write_text(json.dumps(document))
    lines = [
        {
            "step": step,
            "train/loss_tokens": 10.0 * step,
            "train/epoch": step / 4,
            "train/kl": step / 10,
        }
        for step in (2, 4, 4, 5)
    ]
    lines[1]["train/loss_tokens"] = 99.0  # a killed run wrote step 4, and the resumed one again
    write_lines(tmp_path / "dvo", [*lines, {"step": 5, "eval/kl": 0.25}])
    with (tmp_path / "dvo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "train/lo')  # torn
    trl = [{"step": n, "train/tokens/trained": 70 * n, "train/epoch": n} for n in (1, 2)]
    write_lines(tmp_path / "dpo", trl)
    return tmp_path


def table(folder, capsys, *policies):
    dvo_table.main(["--folder", str(folder), "--policies", *policies])
    lines = capsys.readouterr().out.splitlines()[2 : 2 + len(policies)]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_a_line_has_the_accuracies_at_the_largest_budget(folder, capsys):
    assert table(folder, capsys, "base", "dvo")[0] == [
        *("base", "12.0 ± 10.0", "11.0 ± 10.0 @4", "13.0 ± 10.0 @4")
    ]


def test_the_tokens_of_a_training_are_those_of_all_its_steps_once(folder, capsys):
    (dvo,) = table(folder, capsys, "dvo")
    assert dvo[:4] == ["dvo", "22.0 ± 10.0", "21.0 ± 10.0 @4", "23.0 ± 10.0 @4"]
    assert dvo[4:] == ["5", str(2 * 20 + 2 * 40 + 1 * 50)]


def test_a_training_with_trl_says_its_tokens_itself(folder, capsys):
    (dpo,) = table(folder, capsys, "dpo")
    assert dpo == ["dpo", "32.0 ± 10.0", "31.0 ± 10.0 @4", "2", "140"]


def test_a_policy_without_an_evaluation_is_named(folder, capsys):
    argv = ["--folder", str(folder), "--policies", "kto"]
    line = refusal(dvo_table.main, "scripts.dvo_table", argv, capsys)
    assert line.endswith(f": --policies kto: there is no {folder}/evaluation/kto")


def test_metrics_are_plotted_over_the_passes(folder, tmp_path):
    curve = f"DVO={folder}/dvo:train/kl"
    assert plot_training.load_curve(curve) == ("DVO", [0.5, 1.0, 1.25], [0.2, 0.4, 0.5])
    plot_training.main(["--curves", curve, "--output", str(tmp_path / "plots" / "kl.png")])
    assert (tmp_path / "plots" / "kl.png").read_bytes().startswith(b"\x89PNG")


def test_an_evaluation_is_plotted_where_its_step_is(folder):
    assert plot_training.load_curve(f"DVO={folder}/dvo:eval/kl") == ("DVO", [1.25], [0.25])


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ("dvo", "'dvo' is not of the form label=folder:metric"),
        (
            "DVO={folder}/none:train/loss",
            "DVO: {folder}/none/metrics.jsonl: No such file or directory",
        ),
        ("DVO={folder}/dvo:train/x", "DVO: {folder}/dvo has no metric 'train/x'"),
    ],
)
def test_curves_that_are_not_there_are_named(folder, curve, message, capsys):
    arguments = ["--output", "x.png", "--curves", curve.format(folder=folder)]
    line = refusal(plot_training.main, "scripts.plot_training", arguments, capsys)
    assert line.endswith(f"error: --curves {message.format(folder=folder)}")
