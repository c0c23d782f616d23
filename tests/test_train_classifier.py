import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file, save_file

import train_classifier
from classifier_lib import evaluation
from classifier_lib.losses import LOSSES
from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.training.args import check_flags
from run_lib.files import lock_file
from tests.support.distributed import Job, host_store, run_distributed, torchrun_environment
from train_classifier import parse_args

SCRIPT = str(Path(train_classifier.__file__))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def flags(tiny_policy: Path, rollout_folder: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Command line of a short run, with some flags changed (None leaves a flag out)."""

    def make(**changes: object) -> list[str]:
        values: dict[str, object] = {
            "data_path": rollout_folder,
            "data_num_response": 4,
            "model_path": tiny_policy,
            "output_dir": tmp_path,
            "run_name": "run",
            "num_steps": 4,
            "total_batch_size": 8,
            "micro_batch_size": 4,
            "max_lr": 1e-3,
            "max_length": 64,
            **changes,
        }
        line = []
        for name, value in values.items():
            if value is True:
                line.append(f"--{name}")
            elif value is not None:
                line += [f"--{name}", str(value)]
        return line

    return make


def final_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "final" / "model.safetensors")


def read_metrics(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def check_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def check_close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-5, rtol=1e-4, msg=name)


def test_published_command_line():
    command = """
        --eval_every -1 --save_every 486 --num_steps 12170 --max_lr 0.0001
        --data_path VGS-AI/OpenR1-VM --data_num_response 56
        --model_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --total_batch_size 64
        --micro_batch_size 8 --small_group_size 2 --run_name single_node_run --track --compile
        --push_to_hub
    """
    args = parse_args(command.split())
    assert (args.eval_every, args.save_every, args.num_steps) == (-1, 486, 12170)
    assert (args.max_lr, args.data_num_response, args.total_batch_size) == (1e-4, 56, 64)
    assert (args.micro_batch_size, args.small_group_size) == (8, 2)
    assert args.track
    assert args.compile
    assert args.push_to_hub
    assert args.run_name == "single_node_run"
    check_flags(args, world_size=4)


def test_help_shows_underscores(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    text = capsys.readouterr().out
    assert "--total_batch_size" in text
    assert "--total-batch-size" not in text


def test_a_run_from_start_to_end(flags, tiny_policy, rollout_folder, tmp_path, capsys):
    command = flags(num_steps=5, save_every=2, eval_data_path=rollout_folder, eval_every=2)
    train_classifier.main(command)
    run_dir = tmp_path / "run"
    assert sorted(path.name for path in run_dir.iterdir()) == [
        ".run.lock",
        "config.json",
        "evaluation.json",
        "final",
        "metrics.jsonl",
        "step_4",
        "step_5",
    ]
    assert json.loads((run_dir / "config.json").read_text())["max_lr"] == 1e-3
    assert json.loads((run_dir / "evaluation.json").read_text())["step"] == 5
    lines = read_metrics(run_dir)
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if "eval/auroc" in line] == [2, 4, 5]
    rates = [lines[0][f"train/tokens_per_second/{kind}"] for kind in ("all", "valid", "loss")]
    assert rates[0] == rates[1] > rates[2] > 0  # packed: nothing is padding, nothing is shared
    model, info = Qwen2ForClassifier.from_pretrained(run_dir / "final", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == torch.float32
    tokenizer = "tokenizer_config.json"
    for folder in ("final", "step_5"):
        assert (run_dir / folder / tokenizer).read_text() == (tiny_policy / tokenizer).read_text()
    check_equal(load_file(run_dir / "step_5" / "model.safetensors"), final_weights(run_dir))
    card = (run_dir / "final" / "README.md").read_text()
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    assert f"| auroc | {evaluation['auroc']:.4f} |" in card
    assert "5 steps of 8 samples (1.00 epochs of 40 roll-outs)" in card

    before = (run_dir / "metrics.jsonl").read_text()
    capsys.readouterr()
    train_classifier.main(command)
    assert "the run is finished" in capsys.readouterr().out
    assert (run_dir / "metrics.jsonl").read_text() == before


def test_training_learns(flags, rollout_folder, tmp_path):
    train_classifier.main(
        flags(num_steps=30, max_lr=1e-2, total_batch_size=16, eval_data_path=rollout_folder)
    )
    metrics = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert metrics["auroc"] > 0.9


@pytest.mark.parametrize("loss", list(LOSSES))
def test_packing_and_micro_batches_do_not_change_the_result(flags, tmp_path, loss):
    shared = {
        "loss": loss,
        "attention_dropout": 0,
        "max_length": 12,  # some samples lose all their loss tokens, so parts weigh unequally
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


def train_poisoned(argv: list[str], calls_before: int | None) -> None:
    """Trains with a loss that isn't a number in one micro batch of this process."""
    loss, calls = LOSSES["cross_entropy"], 0

    def poisoned(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss.function(*args) * (float("nan") if calls == calls_before else 1)

    LOSSES["cross_entropy"] = loss._replace(function=poisoned)
    train_classifier.main(argv)


def train_poisoned_on_rank_1(argv: list[str]) -> None:
    train_poisoned(argv, 4 if os.environ["RANK"] == "1" else None)


def test_two_processes_equal_one(flags, rollout_folder, tmp_path, monkeypatch):
    """Weights, evaluation and the skipping of a bad step; dropout on, uneven evaluation data."""
    # Two micro batches a step for each of two processes, four for a single one: the fourth of
    # rank 1 is the eighth in all.
    shared = {"micro_batch_size": 2, "packing": "padded", "eval_data_path": rollout_folder}
    monkeypatch.setitem(LOSSES, "cross_entropy", LOSSES["cross_entropy"])  # put back in the end
    train_poisoned(flags(run_name="one", **shared), 8)
    one = tmp_path / "one"
    for parallel in ("ddp", "fsdp"):
        argv = flags(run_name=parallel, parallel=parallel, **shared)
        run_distributed(tmp_path, train_poisoned_on_rank_1, argv)
        two = tmp_path / parallel
        check_close(final_weights(one), final_weights(two))
        for left, right in zip(read_metrics(one), read_metrics(two), strict=True):
            for name in left.keys() - {"time"}:
                if not name.startswith("train/tokens_per_second"):
                    assert left[name] == (
                        None if right[name] is None else pytest.approx(right[name], 1e-3, 1e-5)
                    ), name
        assert [line["train/skipped_steps"] for line in read_metrics(two)[:4]] == [0, 1, 1, 1]
        evaluations = [json.loads((run / "evaluation.json").read_text()) for run in (one, two)]
        assert evaluations[0]["num_tokens"] == evaluations[1]["num_tokens"]
        for name in ("loss", "accuracy", "auroc", "brier", "calibration_error"):
            assert evaluations[0][name] == pytest.approx(evaluations[1][name], abs=1e-3)


def train_and_tell(connection: Connection, argv: list[str]) -> None:
    """Trains, and tells of each step that is done."""
    original = train_classifier.train_step

    def step(*args: Any) -> Any:
        result = original(*args)
        connection.send(result.loss)
        return result

    train_classifier.train_step = step
    train_classifier.main(argv)


def kill_after(step: int, folder: Path, argv: list[str], world_size: int) -> None:
    """Starts a run on several processes and kills them all when a step is done."""
    store = host_store()
    environment = torchrun_environment(store.port, world_size, local_world_size=1)
    with Job(folder, train_and_tell, [(argv,)] * world_size, environment) as job:
        for _ in range(step):
            job.receive(0)
        for rank in range(world_size):
            job.signal(rank, signal.SIGKILL)
        assert [job.exit_code(rank) for rank in range(world_size)] == [-signal.SIGKILL] * world_size


def losses(run_dir: Path) -> dict[int, float]:
    return {x["step"]: x["train/loss"] for x in read_metrics(run_dir) if "train/loss" in x}


@pytest.mark.parametrize("packing", ["packed", "shared_prefix"])
def test_killed_run_continues_to_the_same_weights(flags, tmp_path, packing):
    settings = {"num_steps": 60, "save_every": 3, "max_keep_ckpts": 30, "packing": packing}
    command = flags(**settings)
    process = subprocess.Popen(
        [sys.executable, "-u", SCRIPT, *command], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 8/"):
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    killed = tmp_path / "run"
    assert not (killed / "final").exists()
    assert (killed / "step_3").exists()
    # As if the kill had come while the next checkpoint was being written.
    shutil.copytree(killed / "step_3", killed / ".step_6.tmp", dirs_exist_ok=True)
    (killed / ".step_6.tmp" / "trainer_state.json").unlink()

    train_classifier.main(command)
    train_classifier.main(flags(**settings, output_dir=tmp_path / "other"))
    check_equal(final_weights(killed), final_weights(tmp_path / "other" / "run"))
    assert [path.name for path in killed.glob(".*")] == [".run.lock"]
    assert losses(killed) == losses(tmp_path / "other" / "run")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "hsdp"])
def test_killed_processes_continue_to_the_same_weights(flags, tmp_path, parallel):
    settings = {
        "num_steps": 12,
        "save_every": 2,
        "parallel": parallel,
        "attention_dropout": 0,
        "max_keep_ckpts": 30,
    }
    # hsdp copies weights to two machines of one process each.
    kill_after(7, tmp_path, flags(**settings), world_size=2)
    killed = tmp_path / "run"
    assert (killed / "step_4").exists()
    assert not (killed / "step_8").exists()
    shutil.copytree(killed, tmp_path / "resharded" / "run")
    for output_dir in (tmp_path, tmp_path / "other"):
        argv = flags(**settings, output_dir=output_dir)
        run_distributed(tmp_path, train_classifier.main, argv, local_world_size=1)
    undisturbed = tmp_path / "other" / "run"
    check_equal(final_weights(killed), final_weights(undisturbed))
    assert losses(killed) == losses(undisturbed)

    # The same checkpoint goes on with another number of processes, in another mode.
    mode, world_size = {"ddp": ("hsdp", 4), "fsdp": ("ddp", 1), "hsdp": ("fsdp", 4)}[parallel]
    argv = flags(**{**settings, "parallel": mode}, output_dir=tmp_path / "resharded")
    run_distributed(
        tmp_path, train_classifier.main, argv, world_size=world_size, local_world_size=world_size
    )
    check_close(final_weights(tmp_path / "resharded" / "run"), final_weights(undisturbed))


def test_a_run_told_to_stop_saves_and_goes_on(flags, tmp_path):
    command = flags(num_steps=200)
    process = subprocess.Popen(
        [sys.executable, "-u", SCRIPT, *command],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith("step 3/"):
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "told to stop: saved step" in output
    run_dir = tmp_path / "run"
    assert not (run_dir / "final").exists()
    (saved,) = run_dir.glob("step_*")
    assert f"told to stop: saved step {saved.name.removeprefix('step_')};" in output
    train_classifier.main(command)
    train_classifier.main(flags(num_steps=200, output_dir=tmp_path / "other"))
    check_equal(final_weights(run_dir), final_weights(tmp_path / "other" / "run"))


def test_a_failed_save_is_not_the_end(flags, tmp_path, monkeypatch, capsys):
    original, calls = train_classifier.write_files, 0

    def full_disk(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls in bad_calls:
            raise OSError("no space left on device")
        original(*args)

    monkeypatch.setattr(train_classifier, "write_files", full_disk)
    bad_calls = {2}
    train_classifier.main(flags(save_every=1, max_keep_ckpts=9))
    assert "step_2 failed: OSError: no space left on device; training" in capsys.readouterr().out
    saved = sorted(path.name for path in (tmp_path / "run").glob("step_*"))
    assert saved == ["step_1", "step_3", "step_4"]
    calls, bad_calls = 0, {2, 3}
    with pytest.raises(SystemExit):
        train_classifier.main(flags(save_every=1, run_name="full"))
    assert "step_3 failed: OSError: no space left on device" in capsys.readouterr().err
    assert (tmp_path / "full" / "step_1").exists()


def test_an_evaluation_that_is_not_finite_is_no_crash(flags, rollout_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        evaluation, "success_probabilities", lambda logits: logits[..., 0] * float("nan")
    )
    train_classifier.main(flags(eval_data_path=rollout_folder))
    metrics = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert metrics["auroc"] is None
    assert (tmp_path / "run" / "final").exists()


def test_a_second_start_of_a_run_is_refused(flags, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with lock_file(tmp_path / "run" / train_classifier.LOCK_FILE), pytest.raises(SystemExit):
        train_classifier.main(flags())
    assert f"another process trains in {tmp_path / 'run'}" in capsys.readouterr().err
    train_classifier.main(flags())


def test_bad_rows_are_named_or_left_out(flags, rollout_rows, tmp_path, capsys):
    rows = copy.deepcopy(rollout_rows)
    rows[3]["labels"][1] = 7
    rows[5]["roll_in_ids"][0] = [64]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "bad")
    command = flags(data_path=tmp_path / "bad")
    with pytest.raises(SystemExit):
        train_classifier.main(command)
    assert "row 3, column labels, response 1 is 7" in capsys.readouterr().err
    good = [row for number, row in enumerate(rollout_rows) if number not in (3, 5)]
    datasets.Dataset.from_list(good).save_to_disk(tmp_path / "good")
    train_classifier.main([*command, "--skip_bad_rows"])
    output = capsys.readouterr().out
    assert "--data_path: left out 2 bad rows:" in output
    assert "row 5, column roll_in_ids, response 0 holds token id 64; the vocabulary" in output
    train_classifier.main(flags(data_path=tmp_path / "good", run_name="good"))
    check_equal(final_weights(tmp_path / "run"), final_weights(tmp_path / "good"))


class Stop(Exception):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Lets the run fail after so many steps."""
    original, done = train_classifier.train_step, 0

    def step(*args: object, **kwargs: object) -> object:
        nonlocal done
        if done == steps:
            raise Stop
        done += 1
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(train_classifier, "train_step", step)


def test_changed_config_is_refused(flags, tmp_path, monkeypatch, capsys):
    stop_after(monkeypatch, 3)
    with pytest.raises(Stop):
        train_classifier.main(flags(save_every=2))
    monkeypatch.undo()
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        train_classifier.main(flags(save_every=2, max_lr=5e-3, seed=1, log_every=2))
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert "--max_lr 0.005 (was 0.001), --seed 1 (was 0);" in message
    assert "log_every" not in message
    train_classifier.main(flags(save_every=1, micro_batch_size=2, log_every=2, packing="padded"))
    assert (tmp_path / "run" / "final").exists()


def test_a_retrained_policy_is_another_run(flags, tiny_policy, tmp_path, capsys):
    policy = shutil.copytree(tiny_policy, tmp_path / "policy")
    command = flags(model_path=policy)
    train_classifier.main(command)
    weights = load_file(policy / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, policy / "model.safetensors")
    with pytest.raises(SystemExit):
        train_classifier.main(command)
    assert "--model_path (the content of" in capsys.readouterr().err


def test_a_run_stopped_after_its_last_step_is_completed(
    flags, tiny_policy, rollout_folder, tmp_path, monkeypatch
):
    def stop(*args: object) -> None:
        raise Stop

    policy = shutil.copytree(tiny_policy, tmp_path / "policy")
    command = flags(model_path=policy, eval_data_path=rollout_folder)
    monkeypatch.setattr(train_classifier, "evaluate", stop)
    with pytest.raises(Stop):
        train_classifier.main(command)
    monkeypatch.undo()
    shutil.rmtree(policy)  # a checkpoint needs nothing else to go on
    train_classifier.main(command)
    run_dir = tmp_path / "run"
    check_equal(load_file(run_dir / "step_4" / "model.safetensors"), final_weights(run_dir))
    assert (run_dir / "final" / "tokenizer_config.json").exists()
    assert json.loads((run_dir / "evaluation.json").read_text())["step"] == 4


def test_a_run_without_a_checkpoint_starts_again(flags, tmp_path, monkeypatch):
    stop_after(monkeypatch, 1)
    with pytest.raises(Stop):
        train_classifier.main(flags())
    monkeypatch.undo()
    train_classifier.main(flags(max_lr=5e-4))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["max_lr"] == 5e-4


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
    weights = [load_file(run_dir / f"step_{step}" / "model.safetensors") for step in (1, 3, 4)]
    check_equal(weights[0], weights[1])
    assert not torch.equal(weights[1]["score.0.weight"], weights[2]["score.0.weight"])


def test_too_many_bad_steps_end_the_run(flags, tmp_path, monkeypatch):
    poison_steps(monkeypatch, {2, 3, 4})
    with pytest.raises(SystemExit, match="not finite in 2 steps in a row, the last one step 3"):
        train_classifier.main(flags(micro_batch_size=8, max_bad_steps=2))
    assert not (tmp_path / "run" / "final").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"packing": "padded", "total_batch_size": 10},
            "--total_batch_size 10 is not a multiple of --micro_batch_size",
        ),
        (
            {"packing": "padded", "micro_batch_size": 3, "total_batch_size": 12},
            "--micro_batch_size 3 is not a multiple of --small_group_size 2",
        ),
        (
            {"packing": "padded", "tokens_per_micro_batch": 100},
            "--tokens_per_micro_batch 100 is for packed micro batches",
        ),
        ({"tokens_per_micro_batch": 63}, "63 tokens don't hold 1 sample(s) of --max_length 64"),
        (
            {"tokens_per_micro_batch": 127, "loss": "bradley_terry"},
            "127 tokens don't hold 2 sample(s)",
        ),
        ({"attention_impl": "flex_attention"}, "flex_attention has no backward on a CPU"),
        (
            {"attention_impl": "flash_attention_2", "packing": "shared_prefix"},
            "flash_attention_2 has no masks for shared prefixes",
        ),
        (
            {"small_group_size": 3},
            "--data_num_response 4 is not a multiple of --small_group_size 3",
        ),
        (
            {"small_group_size": 8},
            "--data_num_response 4 is not a multiple of --small_group_size 8",
        ),
        ({"loss": "bradley_terry", "small_group_size": 1}, "must be even"),
        ({"loss": "bradley_terry", "micro_batch_size": 3}, "--micro_batch_size 3 must be even"),
        ({"eval_every": 2}, "--eval_every 2 needs --eval_data_path"),
        ({"num_steps": 0}, "--num_steps 0 must be positive, or -1"),
        ({"max_keep_ckpts": 0}, "--max_keep_ckpts 0 must be at least 1"),
        ({"warmup_steps": 4}, "--warmup_steps 4 must be at least 0 and less than the 4 steps"),
        (
            {"num_steps": -1, "num_epochs": 1, "total_batch_size": 48},
            "40 samples are less than one",
        ),
        ({"seed": -1}, "--seed -1 must not be negative"),
        ({"max_lr": "nan"}, "--max_lr nan must be positive"),
        ({"data_path": "/absent/data"}, "--data_path: /absent/data: no such file"),
        ({"eval_data_path": "/absent/data"}, "--eval_data_path: /absent/data: no such file"),
        ({"data_num_response": 8}, "row 0, column labels has 4 responses, not the 8"),
        ({"model_path": "/absent/model"}, "--model_path /absent/model: "),
        ({"max_lr": 0}, "--max_lr 0.0 must be positive"),
        ({"attention_dropout": 1}, "--attention_dropout 1.0 must be in [0, 1)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(flags, capsys, changes, message):
    with pytest.raises(SystemExit) as exit_info:
        train_classifier.main(flags(**changes))
    assert exit_info.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert lines[0].startswith("train_classifier.py: error: ")
    assert message in lines[0]


def test_a_damaged_policy_is_named(flags, tiny_policy, tmp_path, capsys):
    shutil.copytree(tiny_policy, tmp_path / "policy")
    weights = load_file(tmp_path / "policy" / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, tmp_path / "policy" / "model.safetensors", metadata={"format": "pt"})
    for damage in (lambda file: None, lambda file: file.write_bytes(file.read_bytes()[:1000])):
        damage(tmp_path / "policy" / "model.safetensors")
        with pytest.raises(SystemExit) as exit_info:
            train_classifier.main(flags(model_path=tmp_path / "policy"))
        assert exit_info.value.code == 2
        assert "error: --model_path" in capsys.readouterr().err


def test_sliding_windows_are_refused_in_packed_rows(flags, tiny_policy, tmp_path, capsys):
    policy = shutil.copytree(tiny_policy, tmp_path / "policy")
    config = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps({**config, "use_sliding_window": True}))
    with pytest.raises(SystemExit):
        train_classifier.main(flags(model_path=policy))
    assert "--packing packed: " in capsys.readouterr().err


def test_weights_in_bfloat16(flags, tmp_path):
    command = flags(param_dtype="bfloat16", packing="shared_prefix", num_steps=6, save_every=3)
    train_classifier.main(command)
    weights = final_weights(tmp_path / "run")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    again = flags(
        param_dtype="bfloat16",
        packing="shared_prefix",
        num_steps=6,
        save_every=3,
        output_dir=tmp_path / "resumed",
    )
    shutil.copytree(tmp_path / "run", tmp_path / "resumed" / "run")
    shutil.rmtree(tmp_path / "resumed" / "run" / "final")
    shutil.rmtree(tmp_path / "resumed" / "run" / "step_6")
    train_classifier.main(again)
    check_equal(weights, final_weights(tmp_path / "resumed" / "run"))


def test_push_to_hub_can_be_tried_again(flags, tmp_path, monkeypatch, capsys):
    pushed: list[tuple[Path, str]] = []

    def push(folder: Path, repo_id: str) -> str:
        if not pushed:
            pushed.append((folder, "failed"))
            raise ConnectionError("no network")
        pushed.append((folder, repo_id))
        return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr(train_classifier, "push_folder", push)
    command = flags(num_steps=1, push_to_hub=True, hub_model_id="me/model")
    with pytest.raises(SystemExit, match="push_to_hub failed: no network; the model is in"):
        train_classifier.main(command)
    train_classifier.main(command)
    assert pushed[1:] == [(tmp_path / "run" / "final", "me/model")]
    assert "pushed to https://huggingface.co/me/model" in capsys.readouterr().out


def test_trackers_keep_their_files_in_the_run(flags, tmp_path, monkeypatch):
    monkeypatch.delenv("NEPTUNE_API_TOKEN", raising=False)
    command = flags(num_steps=1, track=True)
    train_classifier.main([*command, "--trackers", "tensorboard"])
    assert list((tmp_path / "run" / "neptune").rglob("*.sqlite3"))
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    state = json.loads((tmp_path / "run" / "step_1" / "trainer_state.json").read_text())
    assert state["trackers"]["neptune"]
