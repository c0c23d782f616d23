"""A run that was killed, stopped or failed goes on to the same weights, and to no others."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import train_classifier
from classifier_lib import evaluation
from classifier_lib.loading import initialize_from_policy, load_value_config, load_value_model
from classifier_lib.training import checkpoint_folders, checkpoints
from classifier_lib.training.run_folder import LOCK_FILE, parse_settings
from run_lib.checksums import CHECKSUMS_FILE
from run_lib.files import lock_file
from tests.support.tiny_models import save_tiny_policy
from tests.support.training import (
    ENVIRONMENT,
    SCRIPT,
    Stop,
    check_equal,
    command_line,
    final_weights,
    losses,
    read_evaluation,
    step_weights,
    stop_after,
)


def start(argv: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", SCRIPT, *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def signal_at_step(process: subprocess.Popen[str], step: int, number: signal.Signals) -> str:
    """Signals a run when it tells of a step; returns what it writes until its end."""
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith(f"step {step}/"):
            process.send_signal(number)
    return output


# Kills and stops.


def test_a_run_of_an_earlier_version_goes_on(flags, tmp_path, capsys):
    train_classifier.main(flags(num_steps=2))
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    for name in ("dataset_size", "disable_lr_schedule", "beta1", "beta2", "grad_norm_clip"):
        del config[name]
    path.write_text(json.dumps(config | {"num_epochs": 5}))
    train_classifier.main(flags(num_steps=2))
    assert "the run is finished" in capsys.readouterr().out
    assert parse_settings(config | {"num_steps": -1, "num_epochs": 5}).flags["num_epochs"] == 5


@pytest.mark.parametrize(("packing", "family"), [("packed", "llama"), ("shared_prefix", "qwen2")])
def test_killed_run_continues_to_the_same_weights(flags, tmp_path, packing, family):
    settings = {"num_steps": 60, "save_every": 3, "max_keep_ckpts": 30, "packing": packing}
    settings["model_path"] = save_tiny_policy(tmp_path / "policy", family=family)
    command = flags(**settings)
    with start(command) as process:
        signal_at_step(process, 8, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
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


def test_a_run_told_to_stop_saves_and_goes_on(flags, tmp_path):
    command = flags(num_steps=60)
    with start(command) as process:
        output = signal_at_step(process, 3, signal.SIGTERM)
    assert process.returncode == 0
    run_dir = tmp_path / "run"
    assert not (run_dir / "final").exists()
    (saved,) = run_dir.glob("step_*")
    assert f"told to stop: saved step {saved.name.removeprefix('step_')};" in output
    train_classifier.main(command)
    train_classifier.main(flags(num_steps=60, output_dir=tmp_path / "other"))
    check_equal(final_weights(run_dir), final_weights(tmp_path / "other" / "run"))


def test_an_interrupted_run_completes_its_checkpoint(flags, tmp_path):
    """Ctrl-C comes while a checkpoint is being written."""
    child = """
import os, signal, sys, threading
import train_classifier
from classifier_lib.training.checkpoints import Checkpointer

is_closing = threading.Event()
close, write = Checkpointer.close, train_classifier.write_files

def close_later(self):
    is_closing.set()
    close(self)

def interrupt(folder, files):
    os.kill(os.getpid(), signal.SIGINT)
    assert is_closing.wait(60)  # the main thread is past its last step
    write(folder, files)

Checkpointer.close = close_later
train_classifier.write_files = interrupt
train_classifier.main(sys.argv[1:])
"""
    argv = flags(num_steps=100_000, save_every=2)
    result = subprocess.run(
        [sys.executable, "-c", child, *argv],
        cwd=Path(SCRIPT).parent,
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert result.returncode == 130
    assert result.stderr.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert json.loads((tmp_path / "run" / "step_2" / "trainer_state.json").read_text())["step"] == 2


@pytest.fixture
def full_disk(monkeypatch) -> Callable[..., None]:
    """Lets some of the writes of checkpoints fail, counted from 1."""
    original = train_classifier.write_files

    def fill(*bad_calls: int) -> None:
        calls = 0

        def write(*args: Any) -> None:
            nonlocal calls
            calls += 1
            if calls in bad_calls:
                raise OSError("no space left on device")
            original(*args)

        monkeypatch.setattr(train_classifier, "write_files", write)

    return fill


def test_a_failed_save_is_not_the_end(flags, tmp_path, full_disk, capsys):
    full_disk(2)
    train_classifier.main(flags(save_every=1, max_keep_ckpts=9))
    assert "step_2 failed: OSError: no space left on device; training" in capsys.readouterr().out
    saved = sorted(path.name for path in (tmp_path / "run").glob("step_*"))
    assert saved == ["step_1", "step_3", "step_4"]


def test_two_consecutive_failed_saves_stop_the_run(flags, tmp_path, full_disk, train_stop):
    full_disk(2, 3)
    line = train_stop(flags(save_every=1))
    assert "step_3 failed: OSError: no space left on device" in line
    assert (tmp_path / "run" / "step_1").exists()


def test_a_full_disk_at_the_start_is_one_line(flags, tmp_path, monkeypatch, train_stop):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        line = train_stop(flags())
        assert f"No space left on device: '{tmp_path / 'run' / 'config.json'}'" in line
    train_classifier.main(flags())


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_in_the_end_loses_nothing(flags, tmp_path, monkeypatch, train_stop):
    final = tmp_path / "run" / "final"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "atomic_folder", no_space)  # the others are published otherwise
        line = train_stop(flags())
        assert f"saving {final} failed: OSError: [Errno 28] No space left on device" in line
    assert not list(final.parent.glob(".*.tmp"))
    train_classifier.main(flags())
    check_equal(step_weights(final.parent, 4), final_weights(final.parent))


def test_a_run_stopped_after_its_last_step_is_completed(
    flags, tiny_policy, rollout_folder, tmp_path, monkeypatch
):
    def stop(*args: object) -> None:
        raise Stop

    policy = shutil.copytree(tiny_policy, tmp_path / "policy")
    command = flags(model_path=policy, eval_data_path=rollout_folder)
    monkeypatch.setattr(evaluation, "evaluate", stop)
    with pytest.raises(Stop):
        train_classifier.main(command)
    monkeypatch.undo()
    shutil.rmtree(policy)  # a checkpoint needs nothing else to go on
    train_classifier.main(command)
    run_dir = tmp_path / "run"
    check_equal(step_weights(run_dir, 4), final_weights(run_dir))
    assert (run_dir / "final" / "tokenizer_config.json").exists()
    assert read_evaluation(run_dir)["step"] == 4


def test_weights_in_bfloat16_resume(flags, tmp_path):
    settings = {"param_dtype": "bfloat16", "packing": "shared_prefix", "num_steps": 6}
    command = flags(save_every=3, **settings)
    train_classifier.main(command)
    weights = final_weights(tmp_path / "run")
    for name in ("final", "step_6"):
        shutil.rmtree(tmp_path / "run" / name)
    train_classifier.main(command)
    check_equal(weights, final_weights(tmp_path / "run"))


# Other starts and other settings.


def test_a_second_start_of_a_run_is_refused(flags, tmp_path, train_error):
    (tmp_path / "run").mkdir()
    with lock_file(tmp_path / "run" / LOCK_FILE, "busy"):
        assert f"another process trains in {tmp_path / 'run'}" in train_error(flags())
    train_classifier.main(flags())


@pytest.fixture
def half_run(flags, monkeypatch) -> None:
    """A run that failed after its third step; it has saved the second one."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stop):
            train_classifier.main(flags(save_every=2))


@pytest.mark.usefixtures("half_run")
def test_changed_settings_are_refused(flags, tmp_path, train_error):
    line = train_error(flags(save_every=2, max_lr=5e-3, seed=1, log_every=2))
    assert line.endswith(
        f"{tmp_path / 'run'} was made with other settings: --max_lr (was 0.001, now 0.005), "
        "--seed (was 0, now 1). Use another --run_name for another run"
    )


@pytest.mark.usefixtures("half_run")
def test_flags_that_leave_the_weights_may_change(flags, tmp_path):
    train_classifier.main(flags(save_every=1, micro_batch_size=2, log_every=2, packing="padded"))
    assert (tmp_path / "run" / "final").exists()


@pytest.mark.usefixtures("half_run")
@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_damaged_settings_are_refused(flags, tmp_path, train_error, content):
    path = tmp_path / "run" / "config.json"
    path.write_text(content)
    assert f"{path} is damaged" in train_error(flags())


@pytest.mark.usefixtures("half_run")
def test_a_run_of_unknown_settings_is_refused(flags, tmp_path, train_error):
    (tmp_path / "run" / "config.json").unlink()
    assert f"{tmp_path / 'run'} is not empty, and no config.json" in train_error(flags())


def retrain(policy: Path) -> None:
    weights = load_file(policy / "model.safetensors")
    changed = {name: tensor + torch.ones(1) for name, tensor in weights.items()}
    save_file(changed, policy / "model.safetensors")


def test_a_retrained_policy_is_another_run(flags, tiny_policy, tmp_path, train_error):
    policy = shutil.copytree(tiny_policy, tmp_path / "policy")
    command = flags(model_path=policy)
    train_classifier.main(command)
    retrain(policy)
    assert "--model_path (its content has changed)" in train_error(command)


def test_a_moved_policy_is_the_same_run(flags, tiny_policy, tmp_path, capsys):
    policy = shutil.copytree(tiny_policy, tmp_path / "policy")
    train_classifier.main(flags(model_path=policy))
    moved = policy.rename(tmp_path / "moved")
    train_classifier.main(flags(model_path=moved))
    assert "the run is finished" in capsys.readouterr().out


def test_a_run_without_a_checkpoint_starts_again(flags, tmp_path, monkeypatch):
    stop_after(monkeypatch, 1)
    with pytest.raises(Stop):
        train_classifier.main(flags())
    monkeypatch.undo()
    train_classifier.main(flags(max_lr=5e-4))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["max_lr"] == 5e-4


def test_a_refused_run_leaves_no_folder(flags, tmp_path, train_error):
    train_error(flags(model_path="/absent/model"))
    assert not (tmp_path / "run").exists()


# Damaged checkpoints.


def damage(file: Path) -> None:
    """Inverts bytes in the middle of a file, as a bad disk does."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(255 - byte for byte in content[middle : middle + 64])
    file.write_bytes(content)


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory, tiny_policy, rollout_folder) -> Path:
    """Folder of a run with the checkpoints of all of its first four steps."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Stop):
            train_classifier.main(command_line(tiny_policy, rollout_folder, folder, **EVERY_STEP))
    return folder / "run"


EVERY_STEP = {"num_steps": 6, "save_every": 1, "max_keep_ckpts": 9}


@pytest.fixture
def damaged_run(stopped_run, tmp_path) -> Path:
    """A copy of that run, whose newest checkpoint is damaged."""
    run_dir = shutil.copytree(stopped_run, tmp_path / "run")
    damage(run_dir / "step_4" / "trainer" / "__0_0.distcp")
    return run_dir


def test_a_damaged_checkpoint_is_not_trained_on(flags, damaged_run, train_stop):
    damage(damaged_run / "step_3" / "model.safetensors")
    assert train_stop(flags(**EVERY_STEP)) == (
        f"train_classifier.py: stopped: {damaged_run / 'step_4'} is damaged: trainer/__0_0.distcp "
        "doesn't match its checksum; step_2 is intact: --resume_from step_2 goes on from there"
    )
    (damaged_run / "step_2" / "trainer_state.json").unlink()
    damage(damaged_run / "step_1" / "config.json")
    line = train_stop(flags(**EVERY_STEP))
    assert line.endswith("checksum; no checkpoint before it is known to be intact")
    line = train_stop(flags(**EVERY_STEP, resume_from="step_2"))
    assert "step_2 is damaged: trainer_state.json is missing; no checkpoint" in line


def test_a_run_goes_on_from_the_checkpoint_asked_for(flags, damaged_run, monkeypatch, capsys):
    other = shutil.copytree(damaged_run, damaged_run.parent / "other" / "run")
    command = flags(**EVERY_STEP, resume_from="step_2")
    stop_after(monkeypatch, 2)
    with pytest.raises(Stop):
        train_classifier.main(command)
    monkeypatch.undo()
    output = capsys.readouterr().out
    assert f"set aside: {damaged_run / 'step_4'} is now step_4.set_aside" in output
    names = ["step_1", "step_2", "step_3", "step_3.set_aside", "step_4", "step_4.set_aside"]
    assert sorted(path.name for path in damaged_run.glob("step_*")) == names

    train_classifier.main(command)  # as torchrun does: nothing is done twice
    assert f"resuming from {damaged_run / 'step_4'}: " in capsys.readouterr().out
    assert len(list(damaged_run.glob("step_*.set_aside"))) == 2
    shutil.rmtree(other / "step_3")
    shutil.rmtree(other / "step_4")
    train_classifier.main(flags(**EVERY_STEP, output_dir=other.parent))
    check_equal(final_weights(damaged_run), final_weights(other))


def test_a_checkpoint_that_is_not_there_cannot_be_resumed(flags, damaged_run, train_error):
    line = train_error(flags(**EVERY_STEP, resume_from="step_9"))
    assert f"--resume_from step_9: {damaged_run} has step_1, step_2, step_3, step_4" in line


def test_a_checkpoint_of_an_earlier_version_is_not_checked(flags, damaged_run, capsys):
    (damaged_run / "step_3" / CHECKSUMS_FILE).unlink()
    train_classifier.main(flags(**EVERY_STEP, resume_from="step_3"))
    warning = f"warning: {damaged_run / 'step_3'} has no SHA256SUMS: its files are not checked"
    assert warning in capsys.readouterr().out


def test_verify_tells_what_is_damaged(damaged_run, capsys):
    run_dir = damaged_run
    with pytest.raises(SystemExit, match="1"):
        checkpoint_folders.main(["verify", str(run_dir)])
    assert capsys.readouterr().out.splitlines() == [
        f"{run_dir / 'step_1'}: intact",
        f"{run_dir / 'step_2'}: intact",
        f"{run_dir / 'step_3'}: intact",
        f"{run_dir / 'step_4'}: DAMAGED",
        "    trainer/__0_0.distcp doesn't match its checksum",
    ]
    (run_dir / "step_3" / "notes.txt").touch()
    checkpoint_folders.main(["verify", str(run_dir / "step_3")])
    assert capsys.readouterr().out.splitlines() == [
        f"{run_dir / 'step_3'}: intact",
        "    notes.txt is extra: it has no checksum",
    ]
    (run_dir / "step_3" / CHECKSUMS_FILE).unlink()
    with pytest.raises(SystemExit, match="1"):
        checkpoint_folders.main(["verify", str(run_dir / "step_3")])
    assert "step_3: not checked, it has no SHA256SUMS" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        checkpoint_folders.main(["verify", str(run_dir / "absent")])


def test_a_damaged_final_model_is_not_loaded(flags, tmp_path, capsys):
    train_classifier.main(flags(num_steps=1))
    final = tmp_path / "run" / "final"
    checkpoint_folders.main(["verify", str(tmp_path / "run")])
    assert f"{final}: intact" in capsys.readouterr().out
    damage(final / "model.safetensors")
    with pytest.raises(ValueError, match=f"^{final} is damaged: model.safetensors doesn't match"):
        load_value_model(str(final), "sdpa", torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match=f"^{final} is damaged: model.safetensors doesn't match"):
        initialize_from_policy(final, 3, 0.0)
    damage(final / "config.json")
    with pytest.raises(ValueError, match=f"^{final} is damaged: config.json doesn't match"):
        load_value_config(str(final))
