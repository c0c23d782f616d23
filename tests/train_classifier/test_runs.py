"""Training runs from start to end."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

import train_classifier
from classifier_lib import evaluation
from classifier_lib.data import GroupedRollouts
from classifier_lib.losses import LOSSES
from classifier_lib.modeling import Qwen2ForClassifier
from tests.support.hub import Api, install
from tests.support.training import (
    check_close,
    check_equal,
    command_line,
    final_weights,
    read_evaluation,
    read_metrics,
    step_weights,
)

# One whole run.


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, tiny_policy, rollout_folder) -> tuple[list[str], Path]:
    """A run with checkpoints and evaluations: its command line and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    changes = {"num_steps": 5, "save_every": 2, "eval_every": 2, "eval_data_path": rollout_folder}
    argv = command_line(tiny_policy, rollout_folder, folder, **changes)
    train_classifier.main(argv)
    return argv, folder / "run"


def test_a_run_leaves_its_files(whole_run):
    assert sorted(path.name for path in whole_run[1].iterdir()) == [
        ".run.lock",
        "config.json",
        "evaluation.json",
        "final",
        "metrics.jsonl",
        "step_4",
        "step_5",
    ]


def test_the_settings_are_saved(whole_run):
    config = json.loads((whole_run[1] / "config.json").read_text())
    assert config["max_lr"] == 1e-3
    assert config["output_dir"] == str(whole_run[1].parent)
    assert config["trackers"] == []
    assert set(config["fingerprints"]) == {"model_path", "data_path"}


def test_steps_and_evaluations_are_logged(whole_run):
    lines = read_metrics(whole_run[1])
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if "eval/auroc" in line] == [2, 4, 5]
    assert read_evaluation(whole_run[1])["step"] == 5


def test_rates_count_padding_and_sharing(whole_run):
    line = read_metrics(whole_run[1])[0]
    rates = [line[f"train/tokens_per_second/{kind}"] for kind in ("all", "valid", "loss")]
    assert rates[0] == rates[1] > rates[2] > 0  # packed: nothing is padding, nothing is shared


def test_lengths_loss_tokens_and_time_of_a_step_are_logged(whole_run, rollout_rows):
    # All samples are in one of the five batches.
    lines = [line for line in read_metrics(whole_run[1]) if "train/loss" in line]
    rows = [
        (len(roll_in), len(roll_out))
        for row in rollout_rows
        for roll_in, roll_out in zip(row["roll_in_ids"], row["roll_outs_ids"], strict=True)
    ]
    lengths = [sum(row) for row in rows]
    assert sum(line["train/loss_tokens"] for line in lines) == sum(own for _, own in rows)
    assert 8 * sum(line["train/avg_length"] for line in lines) == pytest.approx(sum(lengths))
    assert max(line["train/max_length"] for line in lines) == max(lengths)
    assert all(line["train/step_time"] > 0 for line in lines)


def test_the_final_model_loads_whole(whole_run):
    final = whole_run[1] / "final"
    model, info = Qwen2ForClassifier.from_pretrained(final, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == torch.float32


def test_the_final_model_is_that_of_the_last_step(whole_run):
    check_equal(step_weights(whole_run[1], 5), final_weights(whole_run[1]))


def test_the_tokenizer_goes_along(whole_run, tiny_policy):
    name = "tokenizer_config.json"
    for folder in ("final", "step_5"):
        assert (whole_run[1] / folder / name).read_text() == (tiny_policy / name).read_text()


def test_a_checkpoint_holds_the_state_of_the_run(whole_run):
    text = (whole_run[1] / "step_4" / "trainer_state.json").read_text()
    assert json.loads(text) == {
        "step": 4,
        "sampler": {"epoch": 0, "position": 16, "num_groups": 20},
        "num_bad": 0,
        "bad_in_a_row": 0,
        "all_without_loss": 0,
        "left_out": [],
        "trackers": {"step": 4},
        "resume_from": None,
    }


def test_the_card_has_the_numbers_of_the_run(whole_run):
    card = (whole_run[1] / "final" / "README.md").read_text()
    assert f"| auroc | {read_evaluation(whole_run[1])['auroc']:.4f} |" in card
    assert "5 steps of 8 samples (1.00 epochs of 40 roll-outs)" in card


def test_a_finished_run_is_left_as_it_is(whole_run, capsys):
    argv, run_dir = whole_run
    before = (run_dir / "metrics.jsonl").read_text()
    train_classifier.main(argv)
    assert f"the run is finished: {run_dir / 'final'}" in capsys.readouterr().out
    assert (run_dir / "metrics.jsonl").read_text() == before


# Weights.


def test_the_last_step_has_a_line_of_metrics(flags, tmp_path):
    train_classifier.main(flags(num_steps=3, log_every=2))
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 3]


def test_training_learns(flags, rollout_folder, tmp_path):
    train_classifier.main(
        flags(num_steps=30, max_lr=1e-2, total_batch_size=16, eval_data_path=rollout_folder)
    )
    assert read_evaluation(tmp_path / "run")["auroc"] > 0.9


@pytest.mark.parametrize("loss", list(LOSSES))
def test_packing_and_micro_batches_do_not_change_the_result(flags, tmp_path, loss):
    shared = {
        "loss": loss,
        "attention_dropout": 0,
        "max_length": 9,  # some samples lose all their loss tokens, so parts weigh unequally
        "total_batch_size": 16,
        "small_group_size": 4,
        "eval_data_path": flags()[1],
    }
    train_classifier.main(flags(run_name="expected", packing="padded", **shared))
    for name, changes in {
        "padded": {"packing": "padded", "micro_batch_size": 8},
        "packed": {"packing": "packed", "tokens_per_micro_batch": 40},
        "shared": {"packing": "shared_prefix", "tokens_per_micro_batch": 200},
    }.items():
        train_classifier.main(flags(run_name=name, **shared, **changes))
        check_close(final_weights(tmp_path / "expected"), final_weights(tmp_path / name))
        expected, metrics = (read_metrics(tmp_path / run)[3] for run in ("expected", name))
        assert metrics["train/truncated_samples"] == expected["train/truncated_samples"] > 0
        counts = [
            [x.get("train/samples_without_loss") for x in read_metrics(tmp_path / run)]
            for run in ("expected", name)
        ]
        assert counts[0] == counts[1]
        assert any(counts[0])
        expected, metrics = (read_metrics(tmp_path / run)[-1] for run in ("expected", name))
        assert metrics["eval/auroc"] == pytest.approx(expected["eval/auroc"], abs=1e-3)


@pytest.mark.parametrize("warmup_steps", [-1, 1])
def test_num_epochs_and_warmup(flags, tmp_path, warmup_steps):
    train_classifier.main(
        flags(num_steps=-1, num_epochs=1, total_batch_size=16, warmup_steps=warmup_steps)
    )
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2]  # 40 samples hold two whole batches
    assert lines[1]["train/lr"] == pytest.approx(1e-3)


def test_a_run_without_schedule_on_a_part_of_the_data(flags, tmp_path, rollout_folder, capsys):
    settings = {"dataset_size": 2, "eval_size": 1, "eval_data_path": rollout_folder}
    train_classifier.main(flags(disable_lr_schedule=True, num_steps=2, **settings))
    assert "8 samples" in capsys.readouterr().out
    lines = read_metrics(tmp_path / "run")
    assert [line["train/lr"] for line in lines if "train/lr" in line] == [1e-3, 1e-3]
    data = GroupedRollouts(str(rollout_folder), 4)
    num_tokens = sum(len(data[i].roll_out) for i in range(4))
    assert read_evaluation(tmp_path / "run")["num_tokens"] == num_tokens


def test_weights_in_bfloat16(flags, tmp_path):
    train_classifier.main(flags(param_dtype="bfloat16", packing="shared_prefix"))
    weights = final_weights(tmp_path / "run")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_samples_without_a_loss_are_counted(flags, rollout_rows, tmp_path, capsys):
    """One epoch in two steps; the second one is of a run that was started again."""
    max_length = 8
    roll_ins = [ids for row in rollout_rows for ids in row["roll_in_ids"]]
    expected = sum(len(ids) >= max_length for ids in roll_ins)
    assert 0 < expected < len(roll_ins)
    command = flags(num_steps=2, total_batch_size=20, max_length=max_length, save_every=1)
    train_classifier.main(command)
    lines = read_metrics(tmp_path / "run")
    assert sum(line["train/samples_without_loss"] for line in lines) == expected
    for name in ("final", "step_2"):
        shutil.rmtree(tmp_path / "run" / name)
    train_classifier.main(command)
    told = f"{expected} of 40 samples lost all roll-out tokens to --max_length\n"
    assert capsys.readouterr().out.count(told) == 2


# Bad rows, bad steps, bad luck.


@pytest.fixture
def bad_data(rollout_rows, tmp_path) -> Path:
    """Rows 3 and 5 are bad."""
    rows = copy.deepcopy(rollout_rows)
    rows[3]["labels"][1] = 7
    rows[5]["roll_in_ids"][0] = [64]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "bad")
    return tmp_path / "bad"


def test_bad_rows_are_named(flags, bad_data, train_error):
    line = train_error(flags(data_path=bad_data))
    assert f"--data_path {bad_data}: row 3, column labels, response 1 is 7" in line


def test_bad_rows_may_be_left_out(flags, bad_data, rollout_rows, tmp_path, capsys):
    train_classifier.main([*flags(data_path=bad_data), "--skip_bad_rows"])
    output = capsys.readouterr().out
    assert "--data_path: left out 2 bad rows:" in output
    assert "row 5, column roll_in_ids, response 0 holds token id 64; the vocabulary" in output
    good = [row for number, row in enumerate(rollout_rows) if number not in (3, 5)]
    datasets.Dataset.from_list(good).save_to_disk(tmp_path / "good")
    train_classifier.main(flags(data_path=tmp_path / "good", run_name="good"))
    check_equal(final_weights(tmp_path / "run"), final_weights(tmp_path / "good"))


def poison_steps(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Makes the loss of these steps NaN (one micro batch a step)."""
    loss, calls = LOSSES["cross_entropy"], 0

    def poisoned(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss.function(*args) * (float("nan") if calls in steps else 1)

    monkeypatch.setitem(LOSSES, "cross_entropy", loss._replace(function=poisoned))


def test_bad_steps_are_skipped_and_counted(flags, tmp_path, monkeypatch, capsys):
    poison_steps(monkeypatch, {2, 3})
    train_classifier.main(
        flags(micro_batch_size=8, max_bad_steps=3, save_every=1, max_keep_ckpts=9)
    )
    run_dir = tmp_path / "run"
    lines = read_metrics(run_dir)
    assert [line["train/skipped_steps"] for line in lines] == [0, 1, 2, 2]
    assert lines[1]["train/loss"] is None
    assert capsys.readouterr().out.count("NOT FINITE, step skipped") == 2
    weights = [step_weights(run_dir, step) for step in (1, 3, 4)]
    check_equal(weights[0], weights[1])
    assert not torch.equal(weights[1]["score.0.weight"], weights[2]["score.0.weight"])


def test_too_many_bad_steps_end_the_run(flags, tmp_path, monkeypatch, train_stop):
    poison_steps(monkeypatch, {2, 3, 4})
    line = train_stop(flags(micro_batch_size=8, max_bad_steps=2))
    assert "not finite in 2 consecutive steps, the last one step 3; the weights were not" in line
    assert not (tmp_path / "run" / "final").exists()


def test_an_evaluation_that_is_not_finite_is_no_crash(flags, rollout_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        evaluation, "success_probabilities", lambda logits: logits[..., 0] * float("nan")
    )
    train_classifier.main(flags(eval_data_path=rollout_folder))
    assert read_evaluation(tmp_path / "run")["auroc"] is None
    assert (tmp_path / "run" / "final").exists()


# The Hub and the trackers.


def test_every_checkpoint_is_pushed_and_one_that_fails_is_a_warning(
    flags, tmp_path, monkeypatch, capsys
):
    install(monkeypatch)
    monkeypatch.setattr(Api, "is_reached", True)
    monkeypatch.setattr(Api, "refused", "me/model-step-2")
    changes = {"push_checkpoints": True, "hub_model_id": "me/model"}
    train_classifier.main(flags(num_steps=3, save_every=1, max_keep_ckpts=9, **changes))
    run_dir = tmp_path / "run"
    assert Api.pushed == [run_dir / "step_1", run_dir / "step_3"]
    output = capsys.readouterr().out
    assert f"warning: {run_dir}/step_2 could not be pushed to me/model-step-2: Conn" in output
    assert "pushed step_3 to https://huggingface.co/me/model-step-3" in output
    assert (run_dir / "final").exists()


def test_push_to_hub_can_be_tried_again(flags, tmp_path, monkeypatch, capsys, train_stop):
    install(monkeypatch)
    final = tmp_path / "run" / "final"
    command = flags(num_steps=1, push_to_hub=True, hub_model_id="me/model")
    assert f"{final} could not be pushed to me/model: ConnectionError: no" in train_stop(command)
    monkeypatch.setattr(Api, "is_reached", True)
    train_classifier.main(command)
    assert Api.pushed == [final]
    assert "pushed to https://huggingface.co/me/model" in capsys.readouterr().out


def test_trackers_keep_their_files_in_the_run(flags, tmp_path, monkeypatch):
    monkeypatch.delenv("NEPTUNE_API_TOKEN", raising=False)
    command = flags(num_steps=1, track=True)
    train_classifier.main([*command, "--trackers", "tensorboard"])
    assert list((tmp_path / "run" / "neptune").rglob("*.sqlite3"))
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    state = json.loads((tmp_path / "run" / "step_1" / "trainer_state.json").read_text())
    assert state["trackers"]["neptune"]
