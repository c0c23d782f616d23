from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from classifier_lib.attention import SEGMENTED_SDPA
from classifier_lib.batches import Batch, collate
from classifier_lib.data import GroupedRollouts
from classifier_lib.learner import Learner
from classifier_lib.losses import LOSSES, TrainingLoss
from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.training import step as step_module
from classifier_lib.training.step import (
    GRADIENT_CLIP,
    StepResult,
    build_optimizer,
    default_warmup_steps,
    learning_rate,
    train_step,
)
from run_lib.processes import Processes
from tests.support.distributed import Played

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)
MAX_LENGTH = 24  # cuts some samples


def test_learning_rate_warms_up_and_falls_to_a_tenth():
    rates = [learning_rate(step, 1000, 100, 2e-4) for step in range(1000)]
    assert 0 < rates[0] < rates[50] < rates[99] < rates[100] == 2e-4
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(2e-5)
    assert rates[100 + 450] == pytest.approx(1.1e-4, rel=0.01)
    assert learning_rate(0, 1, 0, 1.0) == 1.0


def test_default_warmup():
    assert default_warmup_steps(12170) == 609
    assert default_warmup_steps(1000) == 100
    assert default_warmup_steps(20) == 10
    assert default_warmup_steps(1) == 0


def test_decay_on_matrices_only(tiny_config):
    optimizer = build_optimizer(Qwen2ForClassifier(tiny_config), 1e-3, 0.1)
    decayed, plain = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in plain["params"]} == {1}
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.9, 0.95), 1e-6)


def build_model(config: Qwen2Config, dropout: float = 0.0) -> Qwen2ForClassifier:
    torch.manual_seed(0)
    config = Qwen2Config(**{**config.to_dict(), "attention_dropout": dropout})
    config.initializer_range = 0.5  # gradients that are clipped
    return Qwen2ForClassifier._from_config(config, attn_implementation=SEGMENTED_SDPA).train()


@pytest.fixture(scope="module")
def micro_batches(rollout_folder) -> list[Batch]:
    """The same 12 samples as ever, in micro batches of all layouts."""
    data = GroupedRollouts(str(rollout_folder), 4)
    parts = ((range(4), "padded"), (range(4, 6), "packed"), (range(6, 12), "shared_prefix"))
    return [collate([data[i] for i in part], MAX_LENGTH, packing) for part, packing in parts]


@pytest.fixture(scope="module")
def whole_batch(rollout_folder) -> Batch:
    data = GroupedRollouts(str(rollout_folder), 4)
    return collate([data[i] for i in range(12)], MAX_LENGTH)


def take_step(
    model: Qwen2ForClassifier,
    batches: list[Batch],
    loss: TrainingLoss = LOSSES["cross_entropy"],
    processes: Processes = ALONE,
    seed: int = 0,
    step: int = 0,
) -> StepResult:
    learner = Learner(model, loss, SEGMENTED_SDPA, processes)
    return train_step(learner, build_optimizer(model, 1e-3, 0.1), batches, seed, step)


def test_padding_needs_no_attention_mask(tiny_config, whole_batch):
    """As `Batch.model_inputs` takes for granted."""
    model = Qwen2ForClassifier(tiny_config).eval()
    inputs = whole_batch.model_inputs("sdpa", CPU)
    assert "attention_mask" not in inputs
    width = whole_batch.input_ids.shape[1]
    real = torch.arange(width)[None, :] < whole_batch.lengths[:, None]
    assert not real.all()
    with torch.no_grad():
        masked = model(**inputs, attention_mask=real.long()).logits
        bare = model(**inputs).logits
    torch.testing.assert_close(
        whole_batch.loss_logits(bare), whole_batch.loss_logits(masked), atol=1e-6, rtol=1e-5
    )


def test_a_step_is_that_of_the_whole_batch(tiny_config, micro_batches, whole_batch):
    model, expected = build_model(tiny_config), build_model(tiny_config)
    inputs = {"input_ids": whole_batch.input_ids, "labels": whole_batch.targets.labels}
    loss_mask = torch.zeros(whole_batch.input_ids.numel())
    loss_mask[whole_batch.loss_index] = 1
    loss = expected(**inputs, loss_mask=loss_mask.view_as(whole_batch.input_ids)).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), 5.0)
    assert norm > 5.0  # or the test says nothing of clipping
    build_optimizer(expected, 1e-3, 0.1).step()

    result = take_step(model, micro_batches)
    assert result.loss == pytest.approx(loss.item(), rel=1e-5)
    assert result.grad_norm == pytest.approx(norm.item(), rel=1e-4)
    assert not result.skipped
    assert result.num_truncated == whole_batch.num_truncated > 0
    counts = result.counts
    assert counts.loss == whole_batch.counts.loss
    assert counts.valid == whole_batch.counts.valid
    for kind in ("all", "computed", "attended"):
        assert getattr(counts, kind) == sum(getattr(batch.counts, kind) for batch in micro_batches)
    before = build_model(tiny_config).state_dict()
    for name, weight in model.state_dict().items():
        # The first step of Adam is about the learning rate, whatever the gradient.
        torch.testing.assert_close(weight, expected.state_dict()[name], atol=2e-5, rtol=0)
        assert not torch.equal(weight, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert GRADIENT_CLIP == 5.0  # VGS appendix E


def test_betas_are_the_optimizers(tiny_config):
    optimizer = build_optimizer(build_model(tiny_config), 1e-3, 0.1, (0.5, 0.6))
    assert {group["betas"] for group in optimizer.param_groups} == {(0.5, 0.6)}


def test_the_largest_norm_may_be_another(tiny_config, micro_batches, monkeypatch):
    norms = []

    def clip(model: object, norm: float) -> float:
        norms.append(norm)
        return 1.0

    monkeypatch.setattr(step_module, "clip_gradients", clip)
    model = build_model(tiny_config)
    learner = Learner(model, LOSSES["cross_entropy"], SEGMENTED_SDPA, ALONE)
    train_step(learner, build_optimizer(model, 1e-3, 0.1), micro_batches, 0, 0, max_norm=0.25)
    assert norms == [0.25]


def not_finite_loss(logits: torch.Tensor, targets: object) -> torch.Tensor:
    return logits.float().sum() * float("inf")


def not_finite_gradient(logits: torch.Tensor, targets: object) -> torch.Tensor:
    return (logits.float() * 0).sqrt().sum()


@pytest.mark.parametrize("function", [not_finite_loss, not_finite_gradient])
def test_a_step_that_is_not_finite_changes_nothing(tiny_config, micro_batches, function: Callable):
    model = build_model(tiny_config)
    loss = LOSSES["cross_entropy"]._replace(function=function)
    optimizer = build_optimizer(model, 1e-3, 0.1)
    learner = Learner(model, loss, SEGMENTED_SDPA, ALONE)
    result = train_step(learner, optimizer, micro_batches, 0, 0)
    assert result is not None
    assert result.skipped
    before = build_model(tiny_config).state_dict()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not optimizer.state
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("num_computed", [0, 1, 2])
def test_no_step_is_taken_when_asked_to_stop(tiny_config, micro_batches, num_computed):
    """Asked to stop after so many micro batches of three."""
    model = build_model(tiny_config)
    optimizer = build_optimizer(model, 1e-3, 0.1)
    loss, computed = LOSSES["cross_entropy"], 0

    def count(*args: Any) -> torch.Tensor:
        nonlocal computed
        computed += 1
        return loss.function(*args)

    learner = Learner(model, loss._replace(function=count), SEGMENTED_SDPA, ALONE)

    def stop_requested() -> bool:
        return computed == num_computed

    assert train_step(learner, optimizer, micro_batches, 0, 0, stop_requested) is None
    assert computed == num_computed
    assert not optimizer.state
    assert all(parameter.grad is None for parameter in model.parameters())
    assert train_step(learner, optimizer, micro_batches, 0, 0) is not None


def test_a_batch_without_preferences_is_no_error(tiny_config, rollout_folder):
    data = GroupedRollouts(str(rollout_folder), 4)
    config = Qwen2Config(**{**tiny_config.to_dict(), "num_labels": 1})
    wrong = [i for i in range(len(data)) if data[i].label != 1][:4]
    result = take_step(
        build_model(config),
        [collate([data[i] for i in wrong], MAX_LENGTH)],
        LOSSES["bradley_terry"],
    )
    assert (result.loss, result.grad_norm, result.skipped) == (0, 0, False)


def test_dropout_follows_from_seed_and_step(tiny_config, micro_batches):
    def loss(**where: int) -> float:
        torch.manual_seed(99)
        return take_step(build_model(tiny_config, dropout=0.3), micro_batches, **where).loss

    assert loss() == loss()
    assert len({loss(), loss(seed=1), loss(step=1)}) == 3


def test_dropout_follows_the_micro_batch_wherever_it_is(tiny_config, micro_batches):
    batches = [micro_batches[0]] * 4  # that differ in their dropout only

    def loss(rank: int, world_size: int) -> float:
        return take_step(
            build_model(tiny_config, dropout=0.3),
            batches[rank::world_size],
            processes=Played(rank, world_size, CPU),
        ).loss

    parts = [loss(rank, 4) for rank in range(4)]
    assert len(set(parts)) == 4
    assert loss(0, 1) == pytest.approx(sum(parts) / 4, rel=1e-6)
    for rank in range(2):
        assert loss(rank, 2) == pytest.approx((parts[rank] + parts[rank + 2]) / 2, rel=1e-6)
