"""DVO training on two processes gives the weights of one, and so does a run that was killed."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import train_dvo
from tests.support.distributed import run_distributed
from tests.support.dvo_paths import command_line
from tests.support.training import (
    ENVIRONMENT,
    check_close,
    check_equal,
    final_weights,
    losses,
    read_metrics,
)

SETTINGS = {"num_steps": 6, "save_every": 3, "eval_every": 3}


@pytest.fixture(scope="module")
def one(tmp_path_factory, dvo_policy, paths_file) -> Path:
    folder = tmp_path_factory.mktemp("one")
    argv = command_line(dvo_policy, paths_file, folder, **SETTINGS, eval_data_path=paths_file)
    train_dvo.main(argv)
    return folder / "run"


@pytest.fixture(scope="module", params=["ddp", "fsdp", "hsdp"])
def two(request, tmp_path_factory, dvo_policy, paths_file) -> Path:
    """The same run on two processes; hsdp copies the weights to two machines of one each."""
    folder = tmp_path_factory.mktemp(request.param)
    changes = {**SETTINGS, "eval_data_path": paths_file, "parallel": request.param}
    argv = command_line(dvo_policy, paths_file, folder, **changes)
    run_distributed(folder, train_dvo.main, argv, local_world_size=1)
    return folder / "run"


def test_two_processes_train_the_weights_of_one(one, two):
    check_close(final_weights(one), final_weights(two))


def test_two_processes_log_the_metrics_of_one(one, two):
    for left, right in zip(read_metrics(one), read_metrics(two), strict=True):
        for name in left.keys() - {"time"}:
            if "tokens_per_second" not in name and "step_time" not in name:
                assert left[name] == pytest.approx(right[name], rel=1e-3, abs=1e-5), name


def test_a_checkpoint_of_two_processes_goes_on_in_one(two, one, dvo_policy, paths_file, tmp_path):
    """Sharded, with tied weights, or not."""
    run_dir = tmp_path / "run"
    shutil.copytree(two, run_dir)
    for name in ("final", "step_6"):
        shutil.rmtree(run_dir / name)
    argv = command_line(dvo_policy, paths_file, tmp_path, **SETTINGS, eval_data_path=paths_file)
    train_dvo.main(argv)
    check_close(final_weights(run_dir), final_weights(one))


LONG = {"num_steps": 40, "save_every": 3, "max_keep_ckpts": 30}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, dvo_policy, paths_file) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    train_dvo.main(command_line(dvo_policy, paths_file, folder, **LONG))
    return folder / "run"


def test_a_killed_run_continues_to_the_same_weights(flags, tmp_path, undisturbed):
    command = flags(**LONG)
    script = [sys.executable, "-u", str(Path(train_dvo.__file__)), *command]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 8/"):
                process.kill()
    assert process.returncode == -signal.SIGKILL
    killed = tmp_path / "run"
    assert (killed / "step_3").exists()
    assert not (killed / "final").exists()

    train_dvo.main(command)
    check_equal(final_weights(killed), final_weights(undisturbed))
    assert losses(killed) == losses(undisturbed)


def test_a_run_told_to_stop_saves_its_last_step(flags, tmp_path, undisturbed, monkeypatch, capsys):
    original = train_dvo.train_step

    def step(*args: Any) -> Any:
        if args[4] == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train_dvo, "train_step", step)
        train_dvo.main(flags(**LONG))
    assert "told to stop: saved step 4; the same command goes on" in capsys.readouterr().out
    train_dvo.main(flags(**LONG))
    check_equal(final_weights(tmp_path / "run"), final_weights(undisturbed))


def test_a_finished_run_is_left_alone(one, dvo_policy, paths_file, capsys):
    argv = command_line(dvo_policy, paths_file, one.parent, **SETTINGS, eval_data_path=paths_file)
    train_dvo.main(argv)
    assert capsys.readouterr().out == f"the run is finished: {one / 'final'}\n"


def test_other_settings_are_refused(one, dvo_policy, paths_file, train_error):
    line = train_error(command_line(dvo_policy, paths_file, one.parent, **SETTINGS | {"beta": 1}))
    assert "was made with other settings: --beta (was 0.5, now 1.0). Use another" in line
