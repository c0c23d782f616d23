import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.tensor import DTensor
from transformers import Qwen2Config

from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.training.checkpoint_folders import (
    TRAINER_STATE,
    CheckpointError,
    find_checkpoints,
    remove_leftovers,
)
from classifier_lib.training.checkpoints import (
    SHARDS,
    Checkpointer,
    load_checkpoint,
    read_state,
    write_model,
)
from classifier_lib.training.parallel import ParallelMode, full_weights, parallelize
from run_lib.checksums import files_without_checksum, find_faults
from run_lib.commands import InputError
from run_lib.processes import Processes, distributed
from tests.support.distributed import run_distributed

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

ALONE = Processes(0, 1, torch.device("cpu"))
Weights = dict[str, torch.Tensor]


def build(
    config: Qwen2Config, mode: ParallelMode = "ddp", processes: Processes = ALONE, seed: int = 0
) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = parallelize(Qwen2ForClassifier(config), mode, processes)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    """The same steps on every process."""
    ids = torch.arange(12).view(2, 6)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=torch.tensor([0, 1]), loss_mask=torch.ones(2, 6)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def whole_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Weights:
    """Copies of weights and optimizer state by name, the same on every process."""
    state = get_optimizer_state_dict(model, optimizer)["state"]
    tensors: Weights = {f"{name}.{key}": t for name, v in state.items() for key, t in v.items()}
    tensors |= model.state_dict()
    return {
        name.removeprefix("module."): (
            tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        ).clone()
        for name, tensor in tensors.items()
    }


def check_equal(left: Weights, right: Weights) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def write_nothing(folder: Path) -> None:
    pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_a_model_folder_and_resumes(tiny_config, tmp_path):
    model, optimizer = build(tiny_config)
    take_steps(model, optimizer)
    checkpointer = Checkpointer(tmp_path, ALONE, 1)
    state = {"step": 2, "sampler": {"epoch": 1}, "tracker_id": None}

    def write_tokenizer(folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")

    folder = checkpointer.save(model, optimizer, state, write_tokenizer, wait=True)
    assert [folder] == [tmp_path / "step_2"] == find_checkpoints(tmp_path)

    model.save_pretrained(tmp_path / "expected")
    for file in (tmp_path / "expected").iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    extra = ["SHA256SUMS", "tokenizer.json", "trainer", "trainer_state.json"]
    assert names(folder) == sorted([*names(tmp_path / "expected"), *extra])
    loaded = Qwen2ForClassifier.from_pretrained(folder)
    check_equal(loaded.state_dict(), model.state_dict())

    other, other_optimizer = build(tiny_config, seed=1)
    other_optimizer.param_groups[0]["lr"] = 0.5
    assert load_checkpoint(folder, other, other_optimizer) == state
    assert other_optimizer.param_groups[0]["lr"] == 0.5
    check_equal(whole_state(other, other_optimizer), whole_state(model, optimizer))
    assert whole_state(other, other_optimizer)["model.norm.weight.step"] == 2
    other_optimizer.param_groups[0]["lr"] = 1e-2
    for pair in ((model, optimizer), (other, other_optimizer)):
        take_steps(*pair)
    check_equal(whole_state(other, other_optimizer), whole_state(model, optimizer))


def test_weights_keep_their_type(tiny_config, tmp_path):
    model = Qwen2ForClassifier(tiny_config).to(torch.bfloat16)
    weights = full_weights(model, ALONE)
    assert weights is not None
    write_model(tmp_path, model.config, weights, Qwen2ForClassifier)
    assert Qwen2ForClassifier.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert weights  # not emptied


def test_before_the_first_step_nothing_is_lost(tiny_config, tmp_path):
    """As when all steps so far were skipped."""
    model, optimizer = build(tiny_config)
    folder = Checkpointer(tmp_path, ALONE, 1).save(model, optimizer, {"step": 3}, write_nothing)
    other, other_optimizer = build(tiny_config, seed=1)
    with pytest.raises(
        CheckpointError, match=r"step_4 can't be resumed: it has no trainer_state\.json"
    ):
        load_checkpoint(tmp_path / "step_4", other, other_optimizer)
    expected = build(tiny_config)
    Checkpointer(tmp_path, ALONE, 1).save(*expected, {"step": 4}, write_nothing, wait=True)
    load_checkpoint(tmp_path / "step_4", other, other_optimizer)
    fresh = build(tiny_config)
    for pair in (fresh, (model, optimizer), (other, other_optimizer)):
        take_steps(*pair)
        check_equal(whole_state(*pair), whole_state(*fresh))
    assert folder.name == "step_3"


def test_training_goes_on_while_a_checkpoint_is_written(tiny_config, tmp_path, monkeypatch):
    """Nothing is written before training has changed all weights; still the old ones are saved."""
    changed = threading.Event()
    write_shards = dcp.FileSystemWriter.write_data

    def write_late(*args: Any) -> Any:
        assert changed.wait(60)
        return write_shards(*args)

    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", write_late)
    model, optimizer = build(tiny_config)
    take_steps(model, optimizer)
    before = whole_state(model, optimizer)
    checkpointer = Checkpointer(tmp_path, ALONE, 1)
    state: dict[str, Any] = {"step": 2, "sampler": {"epoch": 1}}
    folder = checkpointer.save(model, optimizer, state, write_nothing)
    state["sampler"]["epoch"] = 2
    take_steps(model, optimizer, 1)
    after = whole_state(model, optimizer)
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert not folder.exists()
    changed.set()
    checkpointer.wait()

    other = build(tiny_config, seed=1)
    assert load_checkpoint(folder, *other) == {"step": 2, "sampler": {"epoch": 1}}
    check_equal(whole_state(*other), before)
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, before[name])


def test_a_failed_save_is_reported_and_leaves_the_last_one(tiny_config, tmp_path):
    pair = build(tiny_config)
    checkpointer = Checkpointer(tmp_path, ALONE, 1)
    checkpointer.save(*pair, {"step": 1}, write_nothing, wait=True)

    def fill_the_disk(folder: Path) -> None:
        assert (folder / "model.safetensors").exists()
        raise OSError(28, "No space left on device")

    message = "saving .*step_2 failed: OSError: .* No space left on device"
    checkpointer.save(*pair, {"step": 2}, fill_the_disk)
    with pytest.raises(CheckpointError, match=message):
        checkpointer.wait()
    assert names(tmp_path) == ["step_1"]
    checkpointer.wait()  # the error is reported once

    checkpointer.save(*pair, {"step": 2}, fill_the_disk)
    with pytest.raises(CheckpointError, match=message):
        checkpointer.save(*pair, {"step": 3}, write_nothing)
    with pytest.raises(ValueError, match="not JSON compliant"):
        checkpointer.save(*pair, {"step": 3, "loss": float("nan")}, write_nothing)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="NotADirectoryError"):
        Checkpointer(tmp_path / "file", ALONE, 1).save(*pair, {"step": 1}, write_nothing)
    assert names(tmp_path) == ["file", "step_1"]


def test_a_full_disk_behind_an_error_of_torch_is_named(tiny_config, tmp_path, monkeypatch):
    def write(*_: Any) -> None:
        try:
            fail_to_write()
        finally:
            raise RuntimeError("unexpected pos 704 vs 598")  # as torch does

    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", write)
    checkpointer = Checkpointer(tmp_path, ALONE, 1)
    checkpointer.save(*build(tiny_config), {"step": 1}, write_nothing)
    assert error_of(checkpointer.wait).endswith("OSError: [Errno 28] No space left on device")


def test_one_failed_save_is_a_warning_and_a_second_one_an_error(tiny_config, tmp_path, capsys):
    pair = build(tiny_config)
    checkpointer = Checkpointer(tmp_path, ALONE, 1)

    def save(step: int, write: Callable[..., None]) -> None:
        checkpointer.save(*pair, {"step": step}, write)
        checkpointer.wait_or_warn()

    for step in (1, 3):  # the good save in between makes the next failure the first again
        save(step, fail_to_write)
        warning = f"warning: saving {tmp_path / f'step_{step}'} failed: OSError: [Errno 28]"
        assert capsys.readouterr().out.startswith(warning)
        save(step + 1, write_nothing)
    save(5, fail_to_write)
    with pytest.raises(CheckpointError, match="step_6 failed"):
        save(6, fail_to_write)


def test_old_checkpoints_go_when_the_new_one_is_whole(tiny_config, tmp_path):
    pair = build(tiny_config)
    checkpointer = Checkpointer(tmp_path, ALONE, 2)
    seen = []

    def look(folder: Path) -> None:
        seen.append(names(tmp_path))

    for step in (8, 9, 10, 10):
        checkpointer.save(*pair, {"step": step}, look)
    checkpointer.wait()
    assert seen == [
        [".step_8.tmp"],
        [".step_9.tmp", "step_8"],
        [".step_10.tmp", "step_8", "step_9"],
        [".step_10.tmp", "step_10", "step_9"],
    ]
    assert names(tmp_path) == ["step_10", "step_9"]
    assert find_checkpoints(tmp_path) == [tmp_path / "step_9", tmp_path / "step_10"]
    (tmp_path / ".step_11.tmp" / "trainer").mkdir(parents=True)
    (tmp_path / ".config.json.tmp").touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["step_10", "step_9"]


def fail_to_write(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def error_of(action: Callable[[], Any]) -> str:
    with pytest.raises(CheckpointError) as info:
        action()
    return str(info.value)


def save_on_two(config: Qwen2Config, run_dir: Path) -> tuple[Weights, list[str]]:
    with distributed() as processes:
        for mode in ("ddp", "fsdp", "hsdp"):
            pair = build(config, mode, processes)  # type: ignore[arg-type]
            take_steps(*pair)
            checkpointer = Checkpointer(run_dir / mode, processes, 1)
            state = {"step": 2, "mode": mode}
            checkpointer.save(*pair, state, write_nothing)
            before = whole_state(*pair)
            take_steps(*pair)
            checkpointer.wait()
            assert (run_dir / mode / "step_2").exists()

        # A disk that fails one process fails the save on all of them.
        checkpointer = Checkpointer(run_dir / "failing", processes, 1)
        errors = []
        write_shards = dcp.FileSystemWriter.write_data
        if processes.rank == 1:
            dcp.FileSystemWriter.write_data = fail_to_write  # type: ignore[assignment,method-assign]
        checkpointer.save(*pair, {"step": 4}, write_nothing)
        errors.append(error_of(checkpointer.wait))
        dcp.FileSystemWriter.write_data = write_shards  # type: ignore[method-assign]
        checkpointer.save(*pair, {"step": 4}, fail_to_write)
        errors.append(
            error_of(lambda: checkpointer.save(*pair, {"step": 5}, write_nothing, wait=True))
        )
        unwritable = Checkpointer(run_dir / "ddp" / "step_2" / "config.json", processes, 1)
        errors.append(error_of(lambda: unwritable.save(*pair, {"step": 5}, write_nothing)))
        checkpointer.save(*pair, {"step": 5}, write_nothing, wait=True)
        return before, errors


def load_on_four(config: Qwen2Config, run_dir: Path) -> list[Weights]:
    with distributed() as processes:
        loaded = []
        for saved, mode in (("ddp", "fsdp"), ("ddp", "hsdp"), ("fsdp", "hsdp"), ("hsdp", "ddp")):
            pair = build(config, mode, processes, seed=1)  # type: ignore[arg-type]
            state = load_checkpoint(run_dir / saved / "step_2", *pair)
            assert state == {"step": 2, "mode": saved}
            loaded.append(whole_state(*pair))
        return loaded


def test_any_number_of_processes_resumes(tiny_config, tmp_path):
    run_dir = tmp_path / "run"
    # As of two machines, so that hsdp has two copies of each shard.
    saved = run_distributed(tmp_path, save_on_two, tiny_config, run_dir, local_world_size=1)
    state, errors = saved[0]
    assert saved[1][1] == errors
    where = f"saving {run_dir / 'failing' / 'step_4'} failed:"
    assert errors[0] == f"{where} rank 1: OSError: [Errno 28] No space left on device"
    assert errors[1] == f"{where} OSError: [Errno 28] No space left on device"
    assert "NotADirectoryError" in errors[2]
    assert names(run_dir / "failing") == ["step_5"]

    for mode in ("ddp", "fsdp", "hsdp"):
        folder = run_dir / mode / "step_2"
        pair = build(tiny_config, seed=1)
        assert load_checkpoint(folder, *pair)["mode"] == mode
        check_equal(whole_state(*pair), state)
        model = Qwen2ForClassifier.from_pretrained(folder)
        check_equal(model.state_dict(), pair[0].state_dict())
        assert json.loads((folder / "config.json").read_text())["architectures"] == [
            "Qwen2ForClassifier"
        ]
        assert find_faults(folder) == {}
        assert files_without_checksum(folder) == []
    # Both processes have written a part of what they hold alike.
    shards = list((run_dir / "ddp" / "step_2" / "trainer").glob("*.distcp"))
    sizes = [path.stat().st_size for path in shards]
    assert len(sizes) == 2
    assert min(sizes) > 0.8 * max(sizes)

    loaded = run_distributed(
        tmp_path, load_on_four, tiny_config, run_dir, world_size=4, local_world_size=2
    )
    for rank in range(4):
        assert len(loaded[rank]) == 4
        for tensors in loaded[rank]:
            check_equal(tensors, state)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_state_is_named(tmp_path, content):
    (tmp_path / TRAINER_STATE).write_text(content)
    with pytest.raises(InputError, match=f"{tmp_path / TRAINER_STATE} is damaged"):
        read_state(tmp_path)


def test_damaged_shards_are_named(tiny_config, tmp_path):
    pair = build(tiny_config)
    folder = Checkpointer(tmp_path, ALONE, 1).save(*pair, {"step": 1}, write_nothing, wait=True)
    (folder / SHARDS / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=f"{folder} can't be resumed: "):
        load_checkpoint(folder, *pair)


def test_shards_that_are_on_another_disk_are_noticed(tiny_config, tmp_path):
    """What rank 0 would find if the machines had folders of their own under one path."""
    model, optimizer = build(tiny_config)
    checkpointer = Checkpointer(tmp_path, ALONE, 2)

    def lose_shards(folder: Path) -> None:
        for file in (folder / SHARDS).glob("*.distcp"):
            file.unlink()

    checkpointer.save(model, optimizer, {"step": 1}, lose_shards)
    with pytest.raises(CheckpointError, match="the folder must be shared by all machines"):
        checkpointer.wait()
    assert not find_checkpoints(tmp_path)
