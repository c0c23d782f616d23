"""A policy with its loss: what is trained, what is counted, and its evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from classifier_lib.attention import SEGMENTED_SDPA
from classifier_lib.training.step import build_optimizer, train_step
from dvo_lib.data import TreePaths
from dvo_lib.learner import PolicyLearner, evaluate
from dvo_lib.losses import DvoLoss
from dvo_lib.metrics import PathMetrics
from dvo_lib.policy import TokenLogprobs
from dvo_lib.tree_batches import TreePlan
from run_lib.processes import Processes, ToldToStop
from tests.support.distributed import Played
from tests.support.dvo_paths import DELIMITER, END, implicit_rewards, path_rows, write_paths
from tests.support.tiny_models import tiny_config

VOCAB_SIZE, BETA, NUM_TREES = 32, 0.5, 5
CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)


@pytest.fixture(scope="module")
def rows():
    rows = path_rows(NUM_TREES, VOCAB_SIZE)
    for row in rows[4:8]:  # a tree without a pair
        row["correct"] = True
    return rows


@pytest.fixture(scope="module")
def data(rows, tmp_path_factory) -> TreePaths:
    file = write_paths(tmp_path_factory.mktemp("data") / "paths.parquet", rows)
    return TreePaths(str(file), VOCAB_SIZE)


@pytest.fixture
def learner() -> PolicyLearner:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM._from_config(
        tiny_config(VOCAB_SIZE), attn_implementation=SEGMENTED_SDPA
    )
    policy = TokenLogprobs(model).train()
    return PolicyLearner(policy, DvoLoss(BETA), SEGMENTED_SDPA, ALONE, PathMetrics(BETA, ALONE))


def plan(packing="shared_prefix", tokens=10_000, size=100) -> TreePlan:
    return TreePlan(packing, size, tokens)


def test_the_last_token_of_every_step_is_trained(learner, data):
    kept = []

    def keep(_module, _inputs, logprobs):
        logprobs.retain_grad()
        kept.append(logprobs)

    learner.model.register_forward_hook(keep)
    batch = plan().load(data, range(NUM_TREES))
    learner.loss_sum(batch).backward()
    for token, number in ((END, 4 * NUM_TREES), (DELIMITER, None)):
        is_token = batch.trained_ids[batch.occurrences] == token
        assert number in (None, int(is_token.sum()))
        assert (kept[0].grad[is_token] != 0).all()


def expected_metrics(learner, rows, tmp_path) -> dict[str, float]:
    """The metrics in plain numbers, of the policy run on each path alone."""
    learner.model.model.save_pretrained(tmp_path)
    rewards = np.array(implicit_rewards(tmp_path, rows, BETA))
    correct = np.array([row["correct"] for row in rows])
    trees = np.array([row["problem_id"] for row in rows])
    pairs = [
        rewards[i] > rewards[j]
        for i in range(len(rows))
        for j in range(len(rows))
        if trees[i] == trees[j] and correct[i] and not correct[j]
    ]
    credits = np.concatenate([row["credits"] for row in rows])
    assert len(pairs) == 4 * (NUM_TREES - 1)
    return {
        "implicit_reward/correct": rewards[correct].mean(),
        "implicit_reward/incorrect": rewards[~correct].mean(),
        "implicit_reward/accuracy": np.mean(pairs),
        "credits/mean": credits.mean(),
        "credits/std": credits.std(),
    }


@pytest.mark.parametrize(
    ("packing", "tokens", "size"),
    [("shared_prefix", 10_000, 100), ("shared_prefix", 1, 100), ("padded", 1, 2)],
)
def test_the_metrics_are_those_of_each_path_alone(
    learner, data, rows, tmp_path, packing, tokens, size
):
    metrics = evaluate(learner, data, plan(packing, tokens, size))
    for name, value in expected_metrics(learner, rows, tmp_path).items():
        assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_the_distance_is_half_the_mean_square_of_the_log_ratios(learner, data):
    metrics = evaluate(learner, data, plan())
    shifted = replace(learner, loss=DvoLoss(2 * BETA))
    assert evaluate(shifted, data, plan())["kl"] == metrics["kl"]  # without beta
    batch = plan().load(data, range(NUM_TREES))
    with torch.no_grad():
        logprobs = learner.model(**batch.model_inputs(SEGMENTED_SDPA, CPU))
    ratios = batch.targets.log_ratios(logprobs)
    assert metrics["kl"] == pytest.approx(float(ratios.square().mean() / 2), rel=1e-5)


def test_evaluation_leaves_the_metrics_of_training_alone(learner, data):
    evaluate(learner, data, plan())
    assert learner.metrics.report() == {}
    assert learner.model.training


def test_a_process_without_a_tree_adds_nothing(learner, data):
    """Rank 1 of two takes every second micro batch, and computes along with the last one."""
    second = Played(1, 2, CPU)
    played = replace(learner, processes=second)
    metrics = evaluate(played, data, plan("padded", 1, 1))  # trees 1 and 3, then the first again
    half = PathMetrics(BETA, ALONE)
    for index in (1, 3):
        replace(learner, metrics=half).loss_sum(plan().load(data, [index]))
    expected = half.report()
    assert metrics == pytest.approx(expected, rel=1e-4)


def test_an_evaluation_is_told_to_stop(learner, data):
    with pytest.raises(ToldToStop):
        evaluate(learner, data, plan("padded", 1, 1), lambda: True)
    assert learner.model.training


def test_a_step_reports_what_it_trained_on(learner, data, rows):
    optimizer = build_optimizer(learner.model, 1e-3, 0.0)
    parts = plan(tokens=100).micro_batches(data, range(NUM_TREES), 1)[0]
    assert len(parts) > 1
    batches = [plan().load(data, part) for part in parts]
    result = train_step(learner, optimizer, batches, 0, 0)
    metrics = learner.metrics.report()
    assert metrics["loss"] == pytest.approx(result.loss, rel=1e-6)
    assert result.counts.loss == sum(len(step) for row in rows for step in row["step_ids"])


def test_trees_are_never_split(data):
    for world_size in (1, 2):
        parts = plan(tokens=1).micro_batches(data, range(4), world_size)
        batches = [plan().load(data, part) for process in parts for part in process]
        assert [batch.paths_per_tree.tolist() for batch in batches] == [[4]] * 4
