from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import Qwen2Config

from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.training.parallel import (
    ParallelMode,
    clip_gradients,
    full_weights,
    gradient_sync,
    parallelize,
    unwrap,
)
from run_lib.processes import Processes, distributed
from tests.support.distributed import run_distributed

STEPS, MICRO_BATCHES, ROWS, LENGTH = 3, 2, 2, 7
MAX_NORM = 0.1
ALONE = Processes(0, 1, torch.device("cpu"))


def build_model(config: Qwen2Config, checkpointing: bool = False) -> Qwen2ForClassifier:
    torch.manual_seed(0)
    # In double precision: Adam turns gradients that are zero but for rounding into whole steps.
    model = Qwen2ForClassifier(config).double()
    # As large as trained ones, so that clipping has something to do.
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def train(
    config: Qwen2Config, mode: ParallelMode, processes: Processes, world_size: int, **options: Any
) -> tuple[list[float], list[float], dict[str, torch.Tensor] | None]:
    """Trains on the share that this process has of a global batch; returns losses and norms."""
    model = parallelize(build_model(config, **options), mode, processes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-6)
    generator = torch.Generator().manual_seed(1)
    losses, norms = [], []
    for _ in range(STEPS):
        shape = (world_size * MICRO_BATCHES, ROWS)
        ids = torch.randint(config.vocab_size, (*shape, LENGTH), generator=generator)
        labels = torch.randint(3, shape, generator=generator)
        mine = [
            i
            for i in range(shape[0])
            if i // MICRO_BATCHES % processes.world_size == processes.rank
        ]
        step_loss = torch.zeros(())
        for i in mine:
            with gradient_sync(model, last=i == mine[-1]):
                loss = model(
                    input_ids=ids[i], labels=labels[i], loss_mask=torch.ones(ROWS, LENGTH)
                ).loss / len(ids)
                (loss * processes.world_size).backward()
            step_loss += loss.detach()
        losses.append(float(processes.sum(step_loss)))
        norms.append(clip_gradients(model, MAX_NORM))
        optimizer.step()
        optimizer.zero_grad()
    return losses, norms, full_weights(model, processes)


def train_in_all_modes(config: Qwen2Config) -> list[Any]:
    with distributed() as processes:
        results = []
        for mode, local_world_size in (("ddp", 2), ("fsdp", 2), ("hsdp", 1), ("hsdp", 2)):
            part = Processes(
                processes.rank, 2, processes.device, local_world_size, processes.checkpoint_group
            )
            results.append(train(config, mode, part, 2))  # type: ignore[arg-type]
        results.append(train(config, "fsdp", processes, 2, checkpointing=True))

        model = parallelize(build_model(config), "fsdp", processes)
        assert isinstance(model, Qwen2ForClassifier)
        parameter = model.model.layers[0].mlp.up_proj.weight
        assert isinstance(parameter, DTensor)
        assert parameter.to_local().numel() * 2 == parameter.numel()
        with pytest.raises(ValueError, match="2 processes in all are not a multiple of the 3"):
            parallelize(
                build_model(config), "hsdp", Processes(processes.rank, 2, processes.device, 3)
            )
        return results


def train_alone(config: Qwen2Config) -> list[Any]:
    with distributed() as processes:
        return [train(config, mode, processes, 2) for mode in ("ddp", "fsdp", "hsdp")]


def test_all_modes_train_the_same(tiny_config, tmp_path):
    expected = train(tiny_config, "ddp", ALONE, 2)
    assert min(expected[1]) > MAX_NORM  # all steps are clipped
    results, others = run_distributed(tmp_path, train_in_all_modes, tiny_config)
    results += run_distributed(tmp_path, train_alone, tiny_config, world_size=1)[0]
    assert len(results) == 8
    for losses, norms, weights in results:
        assert losses == pytest.approx(expected[0], abs=1e-6)
        assert norms == pytest.approx(expected[1], rel=1e-9)
        assert weights.keys() == expected[2].keys()
        for name, weight in weights.items():
            assert torch.allclose(weight, expected[2][name], rtol=0, atol=1e-9), name
    for result, other in zip(results, others, strict=False):
        # Every process reports the same; only rank 0 has the weights.
        assert other[:2] == result[:2]
        assert other[2] is None


def test_alone_the_model_stays_as_it_is(tiny_config):
    model = build_model(tiny_config)
    for mode in ("ddp", "fsdp", "hsdp"):
        assert parallelize(model, mode, ALONE) is model
    assert unwrap(model) is model
    weights = full_weights(model, ALONE)
    assert weights is not None
    assert weights.keys() == model.state_dict().keys()
    with torch.no_grad():
        model.score[0].weight.zero_()
    assert weights["score.0.weight"].any()  # a copy
