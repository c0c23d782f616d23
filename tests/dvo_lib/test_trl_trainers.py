"""TRL's trainers see our token ids and nothing else, and their losses are those of the papers."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from classifier_lib.training.step import learning_rate
from dvo_lib.token_lines import LineReader, TokenLines
from dvo_lib.trl_trainers import (
    DESIRABLE_WEIGHT,
    TokenCounts,
    TrlSettings,
    build_trainer,
    in_order,
)
from tests.support.tiny_models import CONTEXT, save_tiny_policy
from tests.support.token_lines import SIDES, token_lines, write_token_lines

NUM_LINES, MICRO_BATCH, BETA = 12, 4, 0.3


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def tokenizer(policy):
    return AutoTokenizer.from_pretrained(policy)


@pytest.fixture(scope="module")
def made(policy, tokenizer, tmp_path_factory):
    """By method the lines, and a trainer of them before its first step."""
    folder = tmp_path_factory.mktemp("trl")
    found = {}
    for method in SIDES:
        lines = token_lines(method, NUM_LINES, tokenizer)
        path = write_token_lines(folder / f"{method}.jsonl", lines)
        read = LineReader(method, tokenizer, len(tokenizer), CONTEXT).read(path)
        model = AutoModelForCausalLM.from_pretrained(policy)
        settings = TrlSettings(method, BETA, 1e-3, 0.1, 3, MICRO_BATCH, MICRO_BATCH, 1, seed=3)
        on_cpu = {"use_cpu": True, "bf16": False}
        trainer = build_trainer(settings, read, model, tokenizer, folder / method, **on_cpu)
        found[method] = lines, trainer
    return found


def batches(trainer):
    return list(trainer.get_train_dataloader())


def sequences(batch, ids="input_ids", attention="attention_mask", mask="completion_mask"):
    """(prompt, completion) of each row of a batch."""
    trained = batch[mask] != -100 if mask == "labels" else batch[mask].bool()
    found = []
    for row, length, is_trained in zip(batch[ids], batch[attention].sum(1), trained, strict=True):
        start = int(is_trained.nonzero()[0])
        assert is_trained.tolist() == [start <= i < length for i in range(len(row))]
        found.append((row[:start].tolist(), row[start:length].tolist()))
    return found


def pairs(lines, side):
    return [(line["prompt_token_ids"], line[f"{side}_token_ids"]) for line in lines]


def test_supervised_batches_hold_the_ids_and_train_on_completions(made):
    lines, trainer = made["sft"]
    seen = [pair for batch in batches(trainer) for pair in sequences(batch, mask="labels")]
    assert sorted(seen) == sorted(pairs(lines, "completion"))
    for batch in batches(trainer):
        is_trained = batch["labels"] != -100
        assert torch.equal(batch["labels"][is_trained], batch["input_ids"][is_trained])


def test_dpo_batches_hold_the_ids_of_pairs(made):
    lines, trainer = made["dpo"]
    seen = []
    for batch in batches(trainer):
        rows = sequences(batch)
        half = len(rows) // 2
        seen += zip(rows[:half], rows[half:], strict=True)
    expected = zip(pairs(lines, "chosen"), pairs(lines, "rejected"), strict=True)
    assert sorted(seen) == sorted(expected)


def test_kto_batches_hold_the_ids_and_the_completions_of_others(made):
    lines, trainer = made["kto"]
    seen = []
    for batch in batches(trainer):
        rows = sequences(batch)
        seen += zip(rows, batch["label"].tolist(), strict=True)
        mismatched = sequences(
            batch, "KL_input_ids", "KL_attention_mask", mask="KL_completion_mask"
        )
        completions = [completion for _, completion in rows]
        assert mismatched == [
            (prompt, other)
            for (prompt, _), other in zip(rows, completions[-1:] + completions[:-1], strict=True)
        ]
    labels = [line["label"] for line in lines]
    assert sorted(seen) == sorted(zip(pairs(lines, "completion"), labels, strict=True))
    # Neighbours in a file have one prompt.
    assert [row for row, _ in seen] != pairs(lines, "completion")


@pytest.mark.parametrize("method", SIDES)
def test_an_end_token_is_only_where_the_ids_have_one(made, tokenizer, method):
    lines, trainer = made[method]
    has_end = [
        line[f"{side}_token_ids"][-1] == tokenizer.eos_token_id
        for line in lines
        for side in SIDES[method]
    ]
    seen = 0
    for batch in batches(trainer):
        is_token = batch["attention_mask"].bool()
        seen += int((batch["input_ids"][is_token] == tokenizer.eos_token_id).sum())
    assert seen == sum(has_end) == len(has_end) // 2


@torch.no_grad()
def completion_logprob(model, prompt, completion):
    ids = torch.tensor([prompt + completion])
    logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum()


@pytest.fixture
def moved(policy):
    """The policy after it has moved away from the reference."""
    model = AutoModelForCausalLM.from_pretrained(policy)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.02 * torch.randn(weights.shape, generator=generator)
    return model


def loss_of(trainer, batch, model=None):
    """The trainer's loss of a batch, with other weights of the policy for a moment."""
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    if model is not None:
        trainer.model.load_state_dict(model.state_dict())
    try:
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, dict(batch)))
    finally:
        trainer.model.load_state_dict(start)


def test_the_supervised_loss_is_the_mean_over_the_tokens_of_completions(made, policy):
    _, trainer = made["sft"]
    batch = batches(trainer)[0]
    model = AutoModelForCausalLM.from_pretrained(policy)
    rows = sequences(batch, mask="labels")
    total = sum(completion_logprob(model, *row) for row in rows)
    expected = -total / sum(len(completion) for _, completion in rows)
    assert loss_of(trainer, batch) == pytest.approx(float(expected), rel=1e-5)


def test_the_dpo_loss_is_that_of_its_paper(made, policy, moved):
    _, trainer = made["dpo"]
    batch = batches(trainer)[0]
    assert loss_of(trainer, batch) == pytest.approx(math.log(2), abs=1e-6)
    reference = AutoModelForCausalLM.from_pretrained(policy)
    rows = sequences(batch)
    ratios = torch.stack(
        [completion_logprob(moved, *row) - completion_logprob(reference, *row) for row in rows]
    )
    chosen, rejected = ratios.chunk(2)
    expected = -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()
    assert abs(float(expected) - math.log(2)) > 0.01
    assert loss_of(trainer, batch, moved) == pytest.approx(float(expected), rel=1e-4)


def test_the_kto_loss_weighs_right_responses_as_the_paper_does(made, policy, moved):
    _, trainer = made["kto"]
    batch = batches(trainer)[0]
    reference = AutoModelForCausalLM.from_pretrained(policy)

    def ratios(rows):
        return torch.stack(
            [completion_logprob(moved, *row) - completion_logprob(reference, *row) for row in rows]
        )

    own = ratios(sequences(batch))
    others = ratios(
        sequences(batch, "KL_input_ids", "KL_attention_mask", mask="KL_completion_mask")
    )
    kl = others.mean().clamp(min=0)
    right = DESIRABLE_WEIGHT * (1 - torch.sigmoid(BETA * (own - kl)))
    wrong = 1 - torch.sigmoid(BETA * (kl - own))
    expected = torch.where(batch["label"], right, wrong).mean()
    assert loss_of(trainer, batch, moved) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("method", SIDES)
def test_tokens_are_counted_without_padding(made, method):
    lines, trainer = made[method]
    counts = TokenCounts()
    for batch in batches(trainer):
        counts.add(batch)
    completions = [ids for side in SIDES[method] for ids in pairs(lines, side)]
    assert counts.trained == sum(len(completion) for _, completion in completions)
    assert counts.read == counts.trained + sum(len(prompt) for prompt, _ in completions)


def test_the_learning_rate_is_that_of_dvo_training(made):
    _, trainer = made["sft"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = trainer.create_scheduler(25, optimizer)
    for step in range(25):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(learning_rate(step, 25, 2, 1e-3))
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_the_reference_is_a_model_of_its_own_without_gradients(made, method):
    _, trainer = made[method]
    assert trainer.ref_model is not trainer.model
    assert not any(weights.requires_grad for weights in trainer.ref_model.parameters())
    own = {weights.data_ptr() for weights in trainer.model.parameters()}
    assert not own & {weights.data_ptr() for weights in trainer.ref_model.parameters()}


def test_every_pass_has_all_lines_in_another_order_and_batches_are_whole():
    lines = TokenLines({"prompt_token_ids": list(range(12))})
    settings = TrlSettings("sft", 0.1, 1e-3, 0.1, 3 * 12 // 8, 8, 4, 2, seed=0)
    order = in_order(lines, settings).columns["prompt_token_ids"]
    assert len(order) == 32
    passes = [order[:12], order[12:24], order[24:]]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(12))
    assert len(set(passes[2])) == 8
    assert passes[0] != passes[1]
