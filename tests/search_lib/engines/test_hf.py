"""The embedded engine and scorer on small random models, against one sequence at a time."""

import asyncio
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.scoring import ScoringRequest, ValueScorer
from run_lib.fingerprints import MODEL_FILES, fingerprint
from search_lib.engines import running_batch
from search_lib.engines.base import Block
from search_lib.engines.hf import HfEngine
from search_lib.scorers.hf import HfScorer
from tests.support.logprobs import (
    assert_confidences_equal_a_forward_pass,
    assert_logprobs_equal_a_forward_pass,
    confidence_requests,
    logprob_requests,
)
from tests.support.searches import request
from tests.support.tiny_models import CONTEXT, save_tiny_classifier, save_tiny_policy


@pytest.fixture(scope="module")
def policy_path(tmp_path_factory):
    return str(save_tiny_policy(tmp_path_factory.mktemp("policy")))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return Qwen2ForClassifier.from_pretrained(save_tiny_classifier(tmp_path_factory.mktemp("vm")))


def generate_all(policy_path, requests, **options):
    async def body():
        engine = HfEngine.load(policy_path, device="cpu", **options)
        try:
            return await asyncio.gather(*(engine.generate(*asked) for asked in requests))
        finally:
            await engine.close()

    return asyncio.run(body())


@pytest.mark.parametrize(
    "poison",
    [request([5, 10**6, 7], 2), request([5, 10**6], 2), request([5, 6], 2, temperature=-1.0)],
    ids=["prefix", "last token", "sampling"],
)
def test_a_request_that_fails_harms_no_other_of_its_batch(policy_path, poison):
    good = [request([5, 6, 7 + number], 2, seed=number) for number in range(4)]

    async def body():
        engine = HfEngine.load(policy_path, device="cpu")
        try:
            return await asyncio.gather(
                *(engine.generate(*asked) for asked in [*good[:2], poison, *good[2:]]),
                return_exceptions=True,
            )
        finally:
            await engine.close()

    found = asyncio.run(body())
    assert isinstance(found.pop(2), Exception)
    assert found == generate_all(policy_path, good)


@pytest.mark.parametrize("n", [1, 3])
def test_greedy_blocks_equal_the_model_run_by_hand(policy_path, n):
    model = AutoModelForCausalLM.from_pretrained(policy_path)
    prefixes = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
    blocks = generate_all(policy_path, [request(p, n, temperature=0) for p in prefixes])
    for prefix, (block, *siblings) in zip(prefixes, blocks, strict=True):
        ids = list(prefix)
        with torch.no_grad():
            for _ in range(8):
                ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
        assert block == Block(ids[len(prefix) :], "length")
        assert siblings == [block] * (n - 1)


def test_a_sample_depends_on_its_seed_and_not_on_its_batch(policy_path):
    requests = [request([5 + i] * (1 + i % 4), 2, seed=i % 6) for i in range(12)]
    together = generate_all(policy_path, requests)
    assert generate_all(policy_path, requests, max_batch_rows=1) == together
    assert generate_all(policy_path, requests[::-1], max_batch_rows=7) == together[::-1]
    assert together[0][0] != together[0][1]
    other_seed = generate_all(policy_path, [request([5], 2, seed=77)])
    assert other_seed[0] != together[0]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6)])
def test_samples_follow_the_policys_distribution(policy_path, temperature, top_p):
    n = 4000
    (blocks,) = generate_all(
        policy_path,
        [request([5, 6], n, 0, temperature, top_p, max_new_tokens=1, stop=())],
        max_batch_rows=n,
    )
    model = AutoModelForCausalLM.from_pretrained(policy_path)
    with torch.no_grad():
        probabilities = (model(torch.tensor([[5, 6]])).logits[0, -1] / temperature).softmax(-1)
    order = probabilities.argsort(descending=True)
    kept = order[: int((probabilities[order].cumsum(0) < top_p).sum()) + 1]
    expected = torch.zeros_like(probabilities)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    counts = np.bincount([block.token_ids[0] for block in blocks], minlength=len(expected))
    assert counts[expected.numpy() == 0].sum() == 0
    error = np.abs(counts / n - expected.numpy())
    assert (error <= 5 * np.sqrt(expected.numpy() / n) + 1e-9).all()


def test_a_block_ends_with_its_stop_token_whatever_the_checkpoint_says(policy_path):
    ((free,),) = generate_all(policy_path, [request([5, 6, 7], 1, 3, stop=())])
    stop = free.token_ids[3]
    first = free.token_ids.index(stop)
    ((block, *_),) = generate_all(policy_path, [request([5, 6, 7], 1, 3, stop=(stop,))])
    assert block == Block(free.token_ids[: first + 1], "stop")


def test_log_probabilities_are_those_of_a_forward_pass(policy_path):
    requests = logprob_requests()
    answers = generate_all(policy_path, requests)
    assert {block.finish_reason for blocks in answers for block in blocks} == {"stop", "length"}
    assert_logprobs_equal_a_forward_pass(policy_path, requests, answers)


def test_log_probabilities_change_no_token(policy_path):
    requests = logprob_requests()
    with_them = generate_all(policy_path, requests)
    without = generate_all(
        policy_path, [(replace(expansion, logprobs=False), how) for expansion, how in requests]
    )
    assert [[replace(block, logprobs=None) for block in blocks] for blocks in with_them] == without


def test_confidences_are_of_the_models_own_distribution(policy_path):
    requests = confidence_requests(0.0, 0.7, 1.0)
    answers = generate_all(policy_path, requests)
    assert_confidences_equal_a_forward_pass(policy_path, requests, answers, is_exact=True)


def test_confidences_change_no_token_and_not_the_log_probabilities(policy_path):
    requests = logprob_requests()
    asked = [(replace(expansion, confidence_top_k=20), how) for expansion, how in requests]
    found = generate_all(policy_path, asked)
    plain = [[replace(b, confidences=None, certainties=None) for b in blocks] for blocks in found]
    assert plain == generate_all(policy_path, requests)


def test_each_request_keeps_its_own_length_limit(policy_path):
    short, long = generate_all(
        policy_path,
        [
            request([5], 1, max_new_tokens=2, stop=()),
            request([5], 1, max_new_tokens=9, stop=()),
        ],
    )
    assert (len(short[0].token_ids), len(long[0].token_ids)) == (2, 9)


def test_a_request_is_answered_when_its_own_rows_have_ended(policy_path):
    lengths = {"short": 16, "long": 64}
    short_is_there = threading.Event()
    steps = []

    def hold_the_batch(*_):
        steps.append(1)
        if len(steps) == 40:
            assert short_is_there.wait(60)

    async def body():
        engine = HfEngine.load(policy_path, device="cpu")
        engine.model.register_forward_hook(hold_the_batch)

        async def ask(name):
            blocks = await engine.generate(*request([5], 2, max_new_tokens=lengths[name], stop=()))
            if name == "short":
                short_is_there.set()
            return [len(block.token_ids) for block in blocks]

        try:
            return await asyncio.gather(*map(ask, lengths))
        finally:
            await engine.close()

    assert asyncio.run(body()) == [[16, 16], [64, 64]]
    assert len(steps) == 64  # they shared one batch


def test_requests_that_no_model_can_serve_are_refused(policy_path):
    with pytest.raises(ValueError, match="empty prefix"):
        generate_all(policy_path, [request([], 1)])
    with pytest.raises(ValueError, match="exceed the policy's context of 128 tokens"):
        generate_all(policy_path, [request([1] * (CONTEXT - 7), 1)])


def test_the_scorer_values_each_block_of_each_search(classifier):
    values = ValueScorer(classifier)
    requests = [([1, 2], [[3], [4, 5]]), ([6], [[7, 8, 9]])]

    async def body():
        scorer = HfScorer(values)
        try:
            return await asyncio.gather(
                *(scorer.score(p, [Block(b, "stop") for b in blocks]) for p, blocks in requests)
            )
        finally:
            await scorer.close()

    found = asyncio.run(body())
    # What the policy ended goes on nowhere: only the prefixes stay.
    assert sorted(path.length for path in values.cache) == [1, 2]
    expected = ValueScorer(classifier).score([ScoringRequest(*asked) for asked in requests])
    for of_search, expected_of_search in zip(found, expected, strict=True):
        assert of_search.values == pytest.approx(expected_of_search.values, abs=1e-6)
        assert of_search.tokens_cached == expected_of_search.tokens_cached


def test_samples_do_not_depend_on_how_a_request_is_divided(policy_path):
    asked = [request([5, 6, 7], 5, seed=3)]
    ((*blocks,),) = generate_all(policy_path, asked)
    assert len({tuple(block.token_ids) for block in blocks}) == 5
    assert generate_all(policy_path, asked, max_batch_rows=2) == [blocks]


def test_no_batch_has_more_rows_than_allowed(policy_path, monkeypatch):
    rows = []
    draw = running_batch.draw_tokens

    def note(logits, *others):
        rows.append(len(logits))
        return draw(logits, *others)

    monkeypatch.setattr(running_batch, "draw_tokens", note)
    generate_all(policy_path, [request([5], 7), request([6], 1)], max_batch_rows=3)
    assert max(rows) == 3


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logits_that_are_no_numbers_are_an_error(policy_path, tmp_path, temperature):
    weights = load_file(Path(policy_path) / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    shutil.copytree(policy_path, tmp_path / "bad")
    save_file(weights, tmp_path / "bad/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="the policy's logits are not finite"):
        generate_all(str(tmp_path / "bad"), [request([5], 2, temperature=temperature)])


@pytest.mark.parametrize(("new", "kind"), [(None, "no"), (torch.ones(7), "misshapen")])
def test_a_policy_without_all_its_weights_is_refused(policy_path, tmp_path, new, kind):
    weights = load_file(Path(policy_path) / "model.safetensors")
    del weights["model.norm.weight"]
    weights |= {} if new is None else {"model.norm.weight": new}
    folder = shutil.copytree(policy_path, tmp_path / "bad")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = f"^{folder} is no whole model: {kind} weights for model.norm.weight$"
    with pytest.raises(ValueError, match=message):
        HfEngine.load(str(folder), device="cpu")


def test_weights_of_torch_are_read_without_running_what_is_in_them(policy_path, tmp_path):
    """transformers reads such files with `weights_only`."""
    folder = Path(shutil.copytree(policy_path, tmp_path / "bad"))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    before = fingerprint(folder, MODEL_FILES)
    torch.save(weights, folder / "pytorch_model.bin")
    assert fingerprint(folder, MODEL_FILES) != before
    HfEngine.load(str(folder), device="cpu")
    torch.save(RunsWhenRead(tmp_path / "ran"), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=f"^{folder}: no model could be loaded: Unpickling"):
        HfEngine.load(str(folder), device="cpu")
    assert not (tmp_path / "ran").exists()


class RunsWhenRead:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)
