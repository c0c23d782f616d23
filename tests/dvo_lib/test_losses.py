"""DVO's loss against ten plain lines, and on a Markov decision process solved by hand."""

import pytest
import torch

from dvo_lib.losses import DvoLoss, StepTargets
from search_lib.engines.base import Block, Expansion
from search_lib.strategies import Limits
from search_lib.strategies.mcts import MonteCarloTreeSearch, TreeSettings

BETA = 0.5


def make_targets(seed: int = 0) -> tuple[torch.Tensor, StepTargets, list[list[list[float]]]]:
    """Random paths; their log-probabilities also as paths of steps of tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens_per_step = torch.tensor([2, 1, 3, 4, 1, 2])
    steps_per_path = torch.tensor([3, 1, 2])
    logprobs = -torch.rand(int(tokens_per_step.sum()), generator=generator, dtype=torch.float64)
    targets = StepTargets(
        tokens_per_step,
        steps_per_path,
        torch.randn(6, generator=generator, dtype=torch.float64),
        -torch.rand(6, generator=generator, dtype=torch.float64),
        torch.tensor([True, False, True]),
    )
    steps = [tokens.tolist() for tokens in logprobs.split(tokens_per_step.tolist())]
    return logprobs, targets, [steps[:3], steps[3:4], steps[4:]]


def reference_loss(paths: list[list[list[float]]], targets: StepTargets, normalize: str) -> float:
    credit, reference = iter(targets.credits.tolist()), iter(targets.reference.tolist())
    losses = []
    for path in paths:
        errors = [BETA * (sum(step) - next(reference)) - next(credit) for step in path]
        losses.append([0.5 * error**2 for error in errors])
    if normalize == "path":
        return sum(sum(path) / len(path) for path in losses)
    return sum(map(sum, losses))


@pytest.mark.parametrize(("normalize", "terms"), [("path", 3), ("step", 6)])
def test_the_loss_equals_ten_plain_lines(normalize, terms):
    logprobs, targets, paths = make_targets()
    loss = DvoLoss(BETA, normalize)
    expected = reference_loss(paths, targets, normalize)
    assert float(loss(logprobs, targets)) == pytest.approx(expected, rel=1e-5)
    assert int(loss.count_terms(targets)) == terms


@pytest.mark.parametrize("normalize", ["path", "step"])
def test_the_gradient_is_that_of_finite_differences(normalize):
    logprobs, targets, paths = make_targets()
    logprobs.requires_grad_()
    DvoLoss(BETA, normalize)(logprobs, targets).backward()
    step, found = 1e-6, []
    for path in paths:
        for tokens in path:
            for token in range(len(tokens)):
                tokens[token] += step
                above = reference_loss(paths, targets, normalize)
                tokens[token] -= 2 * step
                found.append((above - reference_loss(paths, targets, normalize)) / (2 * step))
                tokens[token] += step
    assert logprobs.grad.tolist() == pytest.approx(found, rel=1e-4, abs=1e-6)


def test_a_step_without_tokens_has_no_term():
    targets = StepTargets(
        torch.tensor([2, 0]),
        torch.tensor([1, 1]),
        torch.zeros(2),
        torch.zeros(2),
        torch.tensor([True, False]),
    )
    assert int(DvoLoss(normalize="step").count_terms(targets)) == 1


# A decision process of two steps: first one of three actions, then one of two. The reference policy
# takes each with the probability beside it; a reward in [-1, 1] comes at the end.
FIRST = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
SECOND = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.5, 0.5]], dtype=torch.float64)
REWARDS = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)


def soft_mean(values: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    return BETA * (probabilities * (values / BETA).exp()).sum(-1).log()


def plain_mean(values: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    return (probabilities * values).sum(-1)


def process_targets(mean) -> tuple[StepTargets, torch.Tensor, torch.Tensor]:
    """All six paths as samples, of one token a step; and the credits of both levels."""
    after_first = mean(REWARDS, SECOND)
    first_credits = after_first - mean(after_first, FIRST)
    second_credits = REWARDS - after_first[:, None]
    pairs = [(a, b) for a in range(3) for b in range(2)]
    step_credits = [x for a, b in pairs for x in (first_credits[a], second_credits[a, b])]
    reference = [x for a, b in pairs for x in (FIRST[a].log(), SECOND[a, b].log())]
    targets = StepTargets(
        torch.ones(12, dtype=torch.long),
        torch.full((6,), 2),
        torch.stack(step_credits),
        torch.stack(reference),
        REWARDS.flatten() > 0,
    )
    return targets, first_credits, second_credits


def path_logprobs(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the twelve steps, from the logits of both decisions."""
    first, second = first.log_softmax(-1), second.log_softmax(-1)
    return torch.stack([x for a in range(3) for b in range(2) for x in (first[a], second[a, b])])


def train_policy(targets: StepTargets) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Minimizes the loss over all policies, from the reference; returns loss and policy."""
    first, second = FIRST.log().requires_grad_(), SECOND.log().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [first, second], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )
    loss_of = DvoLoss(BETA)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(path_logprobs(first, second), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(closure().detach()), first.detach().softmax(-1), second.detach().softmax(-1)


def test_with_soft_values_the_optimum_is_the_soft_optimal_policy():
    targets, _, _ = process_targets(soft_mean)
    loss, first, second = train_policy(targets)
    after_first = soft_mean(REWARDS, SECOND)
    best_first = FIRST * ((after_first - soft_mean(after_first, FIRST)) / BETA).exp()
    best_second = SECOND * ((REWARDS - after_first[:, None]) / BETA).exp()
    assert best_first.sum().item() == pytest.approx(1.0)  # a policy, as Proposition 1 says
    assert loss < 1e-9
    torch.testing.assert_close(first, best_first, rtol=0, atol=1e-3)
    torch.testing.assert_close(second, best_second, rtol=0, atol=1e-3)


def test_with_mean_values_no_policy_reaches_the_credits():
    targets, first_credits, second_credits = process_targets(plain_mean)
    # The probabilities that the credits ask for add up to more than one (Jensen), but where all
    # actions are worth the same.
    asked_first = (FIRST * (first_credits / BETA).exp()).sum().item()
    asked_second = (SECOND * (second_credits / BETA).exp()).sum(-1).tolist()
    assert asked_first == pytest.approx(2.0260, abs=1e-4)
    assert asked_second == pytest.approx([3.0081, 4.2631, 1.0], abs=1e-4)
    loss, _, _ = train_policy(targets)
    assert loss == pytest.approx(0.4064, abs=1e-4)


def draw_in_proportion(expansion: Expansion) -> tuple[list[Block], list[float | None]]:
    """Draws ten steps of the decision process, each as often as its probability says."""
    path = expansion.prefix_ids[1:]
    probabilities = SECOND[path[0]] if path else FIRST
    actions = [a for a, p in enumerate(probabilities) for _ in range(round(10 * float(p)))]
    rewards = [float(REWARDS[path[0], a] > 0) for a in actions] if path else [None] * 10
    return [Block([a], "step") for a in actions], rewards


@pytest.mark.parametrize(("backup", "mean"), [("soft", soft_mean), ("mean", plain_mean)])
def test_a_tree_with_counted_steps_has_the_values_of_the_process(backup, mean):
    settings = TreeSettings(breadth=10, duplicates="count", backup=backup, beta=BETA)
    search = MonteCarloTreeSearch([7], Limits(9, 1, ()), 0, settings)
    while not search.done:
        (expansion,) = search.ask()
        search.tell(expansion.path_id, *draw_in_proportion(expansion))
    after_first = mean(REWARDS, SECOND)
    values = [node.value for node in search.nodes[:4]]
    assert values == pytest.approx([float(mean(after_first, FIRST)), *after_first.tolist()])
