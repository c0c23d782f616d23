"""Runs of `scripts.trl_train`: what they leave, how they go on after a kill, what they refuse."""

import math
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_prep.sampling import load_policy
from run_lib.settings import free_flags
from scripts import trl_train
from tests.support.distributed import Job
from tests.support.refusals import refusal
from tests.support.tiny_models import save_tiny_policy
from tests.support.token_lines import token_lines, write_token_lines
from tests.support.training import check_equal, final_weights, read_metrics

NUM_LINES, NUM_EPOCHS, NUM_STEPS = 12, 2, 6


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def lines(policy: Path) -> list[dict[str, Any]]:
    return token_lines("dpo", NUM_LINES, AutoTokenizer.from_pretrained(policy))


@pytest.fixture(scope="module")
def flags(policy, lines, tmp_path_factory) -> Callable[..., list[str]]:
    """Command line of a short run, with some flags changed."""
    data = write_token_lines(tmp_path_factory.mktemp("data") / "dpo.jsonl", lines)

    def make(output_dir: Path, **changes: object) -> list[str]:
        values: dict[str, object] = {
            "method": "dpo",
            "data_path": data,
            "model_path": policy,
            "output_dir": output_dir,
            "run_name": "run",
            "num_epochs": NUM_EPOCHS,
            "total_batch_size": 4,
            "micro_batch_size": 2,
            "max_lr": 1e-3,
            "save_every": 2,
            **changes,
        }
        return [text for name, value in values.items() for text in (f"--{name}", str(value))]

    return make


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    trl_train.main(flags(folder))
    return folder / "run"


def test_the_final_policy_generates_as_the_first_one_did(finished, policy):
    final = finished / "final"
    assert load_policy(str(final), "--piref_model").stop_ids == (
        load_policy(str(policy), "--piref_model").stop_ids
    )
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (final / name).read_bytes() == (policy / name).read_bytes()
    trained = AutoModelForCausalLM.from_pretrained(final)
    start = AutoModelForCausalLM.from_pretrained(policy)
    assert trained.config.to_diff_dict() == start.config.to_diff_dict()
    assert not trained.lm_head.weight.equal(start.lm_head.weight)


def test_metrics_tell_the_steps_and_the_tokens(finished, lines):
    metrics = read_metrics(finished)
    assert [line["step"] for line in metrics] == list(range(1, NUM_STEPS + 1))
    assert metrics[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics[-1]["train/loss"] < 0.69
    assert metrics[-1]["train/epoch"] == NUM_EPOCHS
    trained = sum(len(line["chosen_token_ids"]) + len(line["rejected_token_ids"]) for line in lines)
    prompts = sum(2 * len(line["prompt_token_ids"]) for line in lines)
    assert metrics[-1]["train/tokens/trained"] == NUM_EPOCHS * trained
    assert metrics[-1]["train/tokens/read"] == NUM_EPOCHS * (trained + prompts)


def test_a_finished_run_is_left_alone(finished, flags, capsys):
    trl_train.main(flags(finished.parent))
    assert capsys.readouterr().out == f"the run is finished: {finished / 'final'}\n"


def train_and_die(connection: Any, argv: list[str]) -> None:
    """Trains until the second checkpoint is written but not yet marked as complete."""
    for name in ("RANK", "LOCAL_RANK"):
        del os.environ[name]
    mark = trl_train.RunLog.on_save

    def on_save(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        mark(self, args, state, control, **more)

    trl_train.RunLog.on_save = on_save  # type: ignore[method-assign]
    trl_train.main(argv)


def test_a_killed_run_goes_on_to_the_same_weights(finished, flags, tmp_path):
    with Job(tmp_path, train_and_die, [(flags(tmp_path),)], {"OMP_NUM_THREADS": "1"}) as job:
        assert job.exit_code(0) == -signal.SIGKILL, job.log(0)
    killed = tmp_path / "run"
    assert {path.name for path in killed.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    trl_train.main(flags(tmp_path))
    check_equal(final_weights(killed), final_weights(finished))
    steps = [line["step"] for line in read_metrics(killed)]
    assert steps == [1, 2, 3, 4, 3, 4, 5, 6]
    tokens = [read_metrics(run)[-1]["train/tokens/read"] for run in (killed, finished)]
    assert tokens[0] == tokens[1]


def test_a_run_told_to_stop_saves_its_last_step(finished, flags, tmp_path, monkeypatch, capsys):
    log = trl_train.RunLog.on_log

    def on_log(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        log(self, args, state, control, **more)

    with monkeypatch.context() as patch:
        patch.setattr(trl_train.RunLog, "on_log", on_log)
        trl_train.main(flags(tmp_path))
    # Heard at the end of the next step.
    assert "told to stop: saved step 4; the same command goes on" in capsys.readouterr().out
    assert not (tmp_path / "run" / "final").exists()
    trl_train.main(flags(tmp_path))
    check_equal(final_weights(tmp_path / "run"), final_weights(finished))


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs a command that is refused; returns the one line that says why."""
    return lambda argv: refusal(trl_train.main, "scripts.trl_train", argv, capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_epochs": 0}, "--num_epochs must be at least 1, got 0"),
        ({"beta": 0}, "--beta must be positive, got 0.0"),
        ({"warmup_ratio": 1}, "--warmup_ratio must be in [0, 1), got 1.0"),
        (
            {"micro_batch_size": 3},
            "--total_batch_size 4 is not a multiple of --micro_batch_size 3 x 1 processes",
        ),
        (
            {"method": "kto", "micro_batch_size": 1},
            "--micro_batch_size 1: kto needs at least 2",
        ),
        ({"method": "kto"}, "line 1: no column completion_token_ids, label: --method kto needs"),
        ({"max_length": 999}, "--max_length 999 is more than the context of"),
        ({"max_length": 3}, "has 12 lines, all longer than 3 tokens"),
        (
            {"total_batch_size": 32},
            "--total_batch_size 32 is more than --num_epochs 2 x the 12 lines of --data_path",
        ),
        ({"data_path": "none.jsonl"}, "--data_path [Errno 2] No such file or directory: 'none.js"),
        ({"model_path": "./none"}, "--model_path ./none: no tokenizer could be loaded"),
    ],
)
def test_bad_input_is_one_line(flags, error, tmp_path, changes, message):
    assert message in error(flags(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_other_settings_are_refused(finished, flags, error):
    line = error(flags(finished.parent, beta=0.5))
    assert "was made with other settings: --beta (was 0.1, now 0.5). Use another --run_name" in line


def test_the_checkpoints_of_somebody_else_are_left_alone(flags, error, tmp_path):
    (tmp_path / "run" / "checkpoint-7").mkdir(parents=True)
    assert "no config.json beside it says what it is of; it was left alone" in error(
        flags(tmp_path)
    )
    assert (tmp_path / "run" / "checkpoint-7").is_dir()


@pytest.mark.parametrize("settings", [{"log_every": 1}, {"log_every": 100, "save_every": 2}])
def test_a_loss_that_is_not_finite_ends_the_run(flags, tmp_path, capsys, settings):
    with pytest.raises(SystemExit) as ended:
        trl_train.main(flags(tmp_path, max_lr=1e30, **{"save_every": 100, **settings}))
    assert ended.value.code == 1
    assert re.search("stopped: the (loss|norm of the gradient) of step ", capsys.readouterr().err)
    assert not (tmp_path / "run" / "final").exists()
    assert not list((tmp_path / "run").glob(f"*/{trl_train.COMPLETE_FILE}"))


def test_the_last_step_has_a_line_of_metrics(flags, tmp_path):
    trl_train.main(flags(tmp_path, log_every=100, save_every=100))
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [NUM_STEPS]


def test_flags_that_train_other_weights_are_bound():
    args = trl_train.TrlArgs
    assert set(args.__dataclass_fields__) - free_flags(args) == {
        *("method", "run_name", "data_path", "model_path", "beta", "num_epochs", "seed"),
        *("total_batch_size", "micro_batch_size", "max_lr", "warmup_ratio", "max_length"),
    }
