"""Training on several processes gives the weights of one, whatever happens to them."""

import os
import shutil
import signal
from functools import partialmethod
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

import train_classifier
from classifier_lib.evaluation import TokenMetrics
from classifier_lib.losses import LOSSES
from classifier_lib.training import checkpoints
from classifier_lib.training.run_folder import LOCK_FILE
from run_lib.commands import InputError, RunStopped
from run_lib.files import lock_file
from run_lib.processes import StopRequest, distributed
from tests.support.distributed import Job, host_store, run_distributed, torchrun_environment
from tests.support.tiny_models import save_tiny_policy
from tests.support.training import (
    check_close,
    check_equal,
    command_line,
    final_weights,
    losses,
    read_evaluation,
    read_metrics,
    step_weights,
)


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


# Two micro batches a step for each of two processes, four for a single one: the fourth of rank 1 is
# the eighth in all.
SHARED = {"micro_batch_size": 2, "packing": "padded"}


@pytest.fixture(scope="module")
def one(tmp_path_factory, tiny_policy, rollout_folder) -> Path:
    """A run of one process with a bad step; dropout on, uneven evaluation data."""
    folder = tmp_path_factory.mktemp("one")
    argv = command_line(
        tiny_policy, rollout_folder, folder, **SHARED, eval_data_path=rollout_folder
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOSSES, "cross_entropy", LOSSES["cross_entropy"])  # put back in the end
        train_poisoned(argv, 8)
    return folder / "run"


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def two(request, tmp_path_factory, tiny_policy, rollout_folder) -> Path:
    """The same run on two processes."""
    folder = tmp_path_factory.mktemp(request.param)
    changes = {**SHARED, "eval_data_path": rollout_folder, "parallel": request.param}
    argv = command_line(tiny_policy, rollout_folder, folder, **changes)
    run_distributed(folder, train_poisoned_on_rank_1, argv)
    return folder / "run"


def test_two_processes_train_the_weights_of_one(one, two):
    check_close(final_weights(one), final_weights(two))


def test_two_processes_log_the_metrics_of_one(one, two):
    for left, right in zip(read_metrics(one), read_metrics(two), strict=True):
        for name in left.keys() - {"time"}:
            if not name.startswith(("train/tokens_per_second", "train/step_time")):
                assert left[name] == (
                    None if right[name] is None else pytest.approx(right[name], 1e-3, 1e-5)
                ), name


def test_a_bad_step_of_one_process_is_skipped_by_all(two):
    assert [line["train/skipped_steps"] for line in read_metrics(two)[:4]] == [0, 1, 1, 1]


def test_two_processes_evaluate_as_one(one, two):
    evaluations = [read_evaluation(run) for run in (one, two)]
    assert evaluations[0]["num_tokens"] == evaluations[1]["num_tokens"]
    for name in ("loss", "accuracy", "auroc", "brier", "calibration_error"):
        assert evaluations[0][name] == pytest.approx(evaluations[1][name], abs=1e-3)


def error_of_training(argv: list[str]) -> str:
    """The error of this process, which raises no other."""
    args = train_classifier.parse_args(argv)
    with distributed() as processes, StopRequest() as stop:
        with pytest.raises((InputError, RunStopped)) as info:
            train_classifier.train(args, processes, stop)
        return str(info.value)


def test_changed_settings_are_refused_by_all(two, tiny_policy, rollout_folder, tmp_path):
    argv = command_line(tiny_policy, rollout_folder, two.parent, **SHARED, max_lr=0.5)
    errors = run_distributed(tmp_path, error_of_training, argv)
    assert errors[0] == errors[1]
    assert "was made with other settings: --max_lr (was 0.001, now 0.5)" in errors[0]


def test_a_second_start_is_refused_by_all(flags, tmp_path):
    (tmp_path / "run").mkdir()
    with lock_file(tmp_path / "run" / LOCK_FILE, "busy"):
        errors = run_distributed(tmp_path, error_of_training, flags())
    assert errors == [f"another process trains in {tmp_path / 'run'}"] * 2


def test_a_damaged_checkpoint_is_refused_by_all(two, tiny_policy, rollout_folder, tmp_path):
    """Each process compares its share of the files."""
    run_dir = shutil.copytree(two, tmp_path / "run")
    shutil.rmtree(run_dir / "final")
    for file in (run_dir / "step_4" / "trainer").glob("*.distcp"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    argv = command_line(
        tiny_policy, rollout_folder, tmp_path, **SHARED, eval_data_path=rollout_folder
    )
    errors = run_distributed(tmp_path, error_of_training, argv)
    faults = [f"trainer/__{rank}_0.distcp doesn't match its checksum" for rank in range(2)]
    where = f"{run_dir / 'step_4'} is damaged: {', '.join(faults)}"
    assert errors == [f"{where}; no checkpoint before it is known to be intact"] * 2


def train_and_die(connection: Connection, argv: list[str], step: int, published: str) -> None:
    """Trains, each checkpoint complete before the next step, and kills this process.

    Args:
        connection: Unused.
        argv: The command line.
        step: Step at whose start that happens.
        published: Checkpoint before whose publication it happens on rank 0.
    """
    take_step, publish, save = (
        train_classifier.train_step,
        checkpoints.publish_folder,
        checkpoints.Checkpointer.save,
    )

    def step_or_die(*args: Any) -> Any:
        if args[4] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return take_step(*args)

    def publish_or_die(temporary: Path, path: Path) -> None:
        if path.name == published:
            os.kill(os.getpid(), signal.SIGKILL)
        publish(temporary, path)

    train_classifier.train_step = step_or_die
    checkpoints.publish_folder = publish_or_die
    checkpoints.Checkpointer.save = partialmethod(save, wait=True)  # type: ignore[method-assign]
    train_classifier.main(argv)


def kill_two(folder: Path, argv: list[str], step: int = -1, published: str = "") -> None:
    """Lets a run on two processes be killed, see `train_and_die`."""
    store = host_store()
    environment = torchrun_environment(store.port, 2, local_world_size=1)
    with Job(folder, train_and_die, [(argv, step, published)] * 2, environment) as job:
        assert job.exit_code(0) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("parallel", "family"), [("ddp", "qwen2"), ("fsdp", "qwen3"), ("hsdp", "llama")]
)
def test_killed_processes_continue_to_the_same_weights(flags, tmp_path, parallel, family):
    settings = {
        "model_path": save_tiny_policy(tmp_path / "policy", family=family),
        "num_steps": 10,
        "save_every": 2,
        "parallel": parallel,
        "attention_dropout": 0,
        "max_keep_ckpts": 30,
    }
    argv, killed = flags(**settings), tmp_path / "run"
    # hsdp copies weights to two machines of one process each.
    kill_two(tmp_path, argv, step=5)
    assert sorted(path.name for path in killed.glob("step_*")) == ["step_2", "step_4"]
    shutil.copytree(killed, tmp_path / "resharded" / "run")
    kill_two(tmp_path, argv, published="step_8")
    assert sorted(path.name for path in killed.glob("step_*")) == ["step_2", "step_4", "step_6"]
    assert (killed / ".step_8.tmp" / "model.safetensors").exists()
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


def train_told_to_stop(argv: list[str], calls_before: int, batches_before: int) -> int:
    """Trains, and tells rank 1 to stop.

    Args:
        argv: The command line.
        calls_before: Micro batches of the process before that, in training.
        batches_before: Micro batches before that, in evaluation.

    Returns:
        The micro batches that this process has computed.
    """
    loss, calls, update, batches = LOSSES["cross_entropy"], 0, TokenMetrics.update, 0

    def stop_if(is_time: bool) -> None:
        if is_time and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    def counted_loss(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        stop_if(calls == calls_before)
        return loss.function(*args)

    def counted_update(self: TokenMetrics, *args: Any) -> None:
        nonlocal batches
        batches += 1
        stop_if(batches == batches_before)
        update(self, *args)

    LOSSES["cross_entropy"] = loss._replace(function=counted_loss)
    TokenMetrics.update = counted_update  # type: ignore[method-assign]
    train_classifier.main(argv)
    return calls


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_give_up_a_step_that_one_is_told_to_stop_in(flags, rollout_folder, tmp_path, parallel):
    settings = {
        "num_steps": 2,
        "total_batch_size": 16,
        "micro_batch_size": 1,
        "small_group_size": 1,
        "packing": "padded",
        "parallel": parallel,
        "eval_data_path": rollout_folder,
    }
    argv, run_dir = flags(**settings), tmp_path / "run"
    # In the third of eight micro batches of the second step: all know of it two later.
    assert run_distributed(tmp_path, train_told_to_stop, argv, 8 + 3, 0) == [8 + 4] * 2
    assert [path.name for path in run_dir.glob("step_*")] == ["step_1"]
    # In the second of twenty micro batches of the last evaluation.
    run_distributed(tmp_path, train_told_to_stop, argv, 0, 2)
    assert (run_dir / "step_2").exists()
    assert not (run_dir / "evaluation.json").exists()
    assert not (run_dir / "final").exists()

    argv = flags(**settings, output_dir=tmp_path / "other")
    run_distributed(tmp_path, train_classifier.main, argv)
    check_equal(step_weights(run_dir, 2), final_weights(tmp_path / "other" / "run"))
