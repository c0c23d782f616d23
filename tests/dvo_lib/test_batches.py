"""Paths in three layouts: the log-probabilities of their steps, the loss and its gradient.

Of policies of every family that is trained: what a family does otherwise would show here.
"""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import dvo_lib.policy
from classifier_lib.attention import SEGMENTED_SDPA
from dvo_lib.batches import Path, collate_paths
from dvo_lib.losses import DvoLoss
from dvo_lib.policy import FAMILIES, TokenLogprobs
from tests.support.tiny_models import tiny_config_of

PACKINGS = ("padded", "packed", "shared_prefix")
CPU = torch.device("cpu")
VOCAB_SIZE, BETA = 64, 0.5


def make_paths(seed: int = 0) -> list[Path]:
    """The paths of two trees: each leaves another one behind one of its steps."""
    rng = np.random.default_rng(seed)

    def step() -> np.ndarray:
        return rng.integers(0, VOCAB_SIZE, rng.integers(1, 6))

    paths = []
    for _ in range(2):
        prompt = rng.integers(0, VOCAB_SIZE, 18)
        steps: list[list[np.ndarray]] = [[step(), step(), step(), step()]]
        for kept in (3, 2, 2, 0):
            base = steps[rng.integers(len(steps))]
            steps.append([*base[:kept], step(), *([step()] if kept == 2 else [])])
        for own in steps:
            credits, reference = rng.normal(size=(2, len(own)))
            correct = bool(rng.random() < 0.5)
            paths.append(Path(prompt, own, credits.tolist(), (-abs(reference)).tolist(), correct))
    return paths


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request) -> TokenLogprobs:
    torch.manual_seed(0)
    config = tiny_config_of(request.param, VOCAB_SIZE)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=SEGMENTED_SDPA)
    return TokenLogprobs(model.double())


def logprobs_of(policy: TokenLogprobs, batch) -> torch.Tensor:
    return policy(**batch.model_inputs(SEGMENTED_SDPA, CPU))


def direct_logprobs(policy: TokenLogprobs, path: Path) -> list[float]:
    """The log-probability of each step, from the logits of the path alone."""
    ids = torch.tensor(np.concatenate([path.prompt, *path.steps]))[None]
    logprobs = policy.model(ids).logits[0].log_softmax(-1).detach()
    found, place = [], len(path.prompt)
    for step in path.steps:
        found.append(sum(float(logprobs[place + i - 1, x]) for i, x in enumerate(step)))
        place += len(step)
    return found


@pytest.mark.parametrize("packing", PACKINGS)
def test_log_probabilities_of_steps_are_those_of_each_path_alone(policy, packing):
    paths = make_paths()
    batch = collate_paths(paths, packing)
    found = logprobs_of(policy, batch).detach().split(batch.targets.tokens_per_step.tolist())
    expected = [step for path in paths for step in direct_logprobs(policy, path)]
    assert [float(step.sum()) for step in found] == pytest.approx(expected, rel=1e-5)


def reference_loss(policy: TokenLogprobs, paths: list[Path], normalize: str) -> float:
    losses = []
    for path in paths:
        steps = zip(direct_logprobs(policy, path), path.reference, path.credits, strict=True)
        losses.append([0.5 * (BETA * (own - ref) - credit) ** 2 for own, ref, credit in steps])
    if normalize == "path":
        return float(np.mean([np.mean(path) for path in losses]))
    return float(np.mean(np.concatenate(losses)))


def test_a_tree_is_laid_out_once():
    paths = make_paths()
    shared = collate_paths(paths, "shared_prefix").counts
    flat = collate_paths(paths, "packed").counts
    nodes = {
        (tuple(path.prompt), *(tuple(step) for step in path.steps[: n + 1])): len(path.steps[n])
        for path in paths
        for n in range(len(path.steps))
    }
    prompts = {tuple(path.prompt) for path in paths}
    assert shared.computed == sum(nodes.values()) + sum(map(len, prompts))
    assert shared.computed < 0.6 * flat.computed
    assert shared.loss == flat.loss  # a shared step is trained once for each of its paths


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_head_computes_a_shared_step_once(policy, packing):
    paths = make_paths()
    rows = []
    head = policy.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _head, states, _logits: rows.append(len(states[0])))
    batch = collate_paths(paths, packing)
    num_trained = len(logprobs_of(policy, batch))
    hook.remove()
    prompts = {path.prompt.tobytes(): len(path.prompt) for path in paths}
    once = batch.counts.computed - sum(prompts.values())
    assert num_trained == sum(len(np.concatenate(path.steps)) for path in paths)
    assert rows == [once if packing == "shared_prefix" else num_trained]


def loss_and_gradients(policy, parts, packing, normalize):
    loss = DvoLoss(BETA, normalize)
    batches = [collate_paths(part, packing, multiple=8) for part in parts]
    num_terms = sum(int(loss.count_terms(batch.targets)) for batch in batches)
    policy.zero_grad()
    total = 0.0
    for batch in batches:
        value = loss(logprobs_of(policy, batch), batch.targets) / num_terms
        value.backward()
        total += value.item()
    return total, {name: p.grad.clone() for name, p in policy.named_parameters()}


@pytest.mark.parametrize("normalize", ["path", "step"])
def test_layouts_and_micro_batches_have_one_loss_and_gradient(policy, normalize):
    paths = make_paths()
    expected = loss_and_gradients(policy, [[path] for path in paths], "padded", normalize)
    assert expected[0] == pytest.approx(reference_loss(policy, paths, normalize), rel=1e-5)
    for packing in PACKINGS:
        for size in (10, 4):
            parts = [paths[i : i + size] for i in range(0, len(paths), size)]
            value, gradients = loss_and_gradients(policy, parts, packing, normalize)
            assert value == pytest.approx(expected[0], rel=1e-5)
            for name, gradient in gradients.items():
                torch.testing.assert_close(
                    gradient, expected[1][name], atol=1e-5, rtol=1e-4, msg=name
                )


def test_the_chunks_of_the_head_change_nothing(policy, monkeypatch):
    batch = collate_paths(make_paths(), "packed")
    whole = logprobs_of(policy, batch)
    monkeypatch.setattr(dvo_lib.policy, "CHUNK_TOKENS", 7)
    assert torch.equal(logprobs_of(policy, batch), whole)


def test_the_response_level_is_one_step_of_all_tokens(policy):
    path = make_paths()[0]
    whole = path._replace(
        steps=[np.concatenate(path.steps)], credits=[0.7], reference=[sum(path.reference)]
    )
    batch = collate_paths([whole])
    assert batch.targets.tokens_per_step.tolist() == [sum(map(len, path.steps))]
    by_step = collate_paths([path])
    log_ratio = batch.targets.log_ratios(logprobs_of(policy, batch).detach())
    ratios = by_step.targets.log_ratios(logprobs_of(policy, by_step).detach())
    assert float(log_ratio) == pytest.approx(float(ratios.sum()), rel=1e-5)
