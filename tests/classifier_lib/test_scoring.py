"""Values with cached prefixes against one whole sequence at a time."""

import copy
import json
import random
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from classifier_lib import scoring
from classifier_lib.loading import load_value_model
from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.scoring import PathStates, ScoringRequest, ValueScorer, batch_by_length
from tests.support.tiny_models import save_tiny_classifier, save_tiny_policy

VOCAB = 290


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return Qwen2ForClassifier.from_pretrained(save_tiny_classifier(tmp_path_factory.mktemp("vm")))


def random_ids(rng: random.Random, longest: int) -> list[int]:
    return [rng.randrange(VOCAB) for _ in range(rng.randint(1, longest))]


def value_of(classifier, ids: list[int]) -> float:
    with torch.no_grad():
        return classifier(torch.tensor([ids])).success_probs[0, -1].item()


def grow_trees(scorer: ValueScorer, classifier, seed: int, tolerance: float = 2e-6) -> int:
    """Scores random trees round by round, checks every value, returns their unique tokens."""
    rng = random.Random(seed)
    frontier = [random_ids(rng, 20) for _ in range(5)]
    unique = sum(map(len, frontier))
    for _ in range(4):
        requests = []
        for prefix in frontier:
            blocks = [random_ids(rng, 9) for _ in range(rng.randint(1, 3))]
            last = [rng.random() < 0.2 for _ in blocks[1:]]
            requests.append(ScoringRequest(prefix, blocks, [False, *last]))
        before = scorer.tokens_computed
        for request, scores in zip(requests, scorer.score(requests), strict=True):
            whole = [request.prefix_ids + block for block in request.blocks]
            expected = [value_of(classifier, path) for path in whole]
            assert scores.values == pytest.approx(expected, abs=tolerance)
            assert 0 <= scores.tokens_cached < sum(map(len, whole))
            before += sum(map(len, whole)) - scores.tokens_cached
        assert scorer.tokens_computed == before
        unique += sum(len(block) for r in requests for block in r.blocks)
        children = [
            r.prefix_ids + block
            for r in requests
            for block, last in zip(r.blocks, r.last, strict=True)
            if not last
        ]
        frontier = rng.sample(children, 5)
    return unique


@pytest.mark.parametrize("max_batch_tokens", [1, 100, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_values_equal_whole_sequences_and_every_token_is_computed_once(
    classifier, max_batch_tokens, seed
):
    scorer = ValueScorer(classifier, max_batch_tokens)
    assert scorer.tokens_computed == 0
    unique = grow_trees(scorer, classifier, seed)
    assert scorer.tokens_computed == unique


@pytest.mark.parametrize("max_batch_tokens", [1, 10_000])
def test_values_of_all_tokens_are_those_of_a_direct_forward(classifier, max_batch_tokens):
    rng = random.Random(0)
    scorer = ValueScorer(classifier, max_batch_tokens, token_values=True)
    requests = [
        ScoringRequest(random_ids(rng, 20), [random_ids(rng, 9) for _ in range(3)])
        for _ in range(4)
    ]
    for request, scores in zip(requests, scorer.score(requests), strict=True):
        plain = ValueScorer(classifier, max_batch_tokens).score([request])[0]
        assert plain.token_values is None
        assert scores.values == pytest.approx(plain.values, abs=2e-6)
        for block, value, values in zip(
            request.blocks, scores.values, scores.token_values, strict=True
        ):
            with torch.no_grad():
                probs = classifier(torch.tensor([request.prefix_ids + block])).success_probs[0]
            assert values[-1] == value
            assert values.tolist() == pytest.approx(probs[-len(block) :].tolist(), abs=2e-6)


@pytest.mark.parametrize("max_cached_tokens", [0, 15, 60, 100])
def test_values_stay_right_when_states_are_dropped(classifier, max_cached_tokens):
    scorer = ValueScorer(classifier, 200, max_cached_tokens)
    unique = sum(grow_trees(scorer, classifier, seed) for seed in range(6))
    assert scorer.tokens_computed > unique
    held = set(scorer.cache)
    assert all(path.parent is None or path.parent in held for path in held)
    assert sum(path.num_tokens for path in held) == scorer.cache.num_tokens <= max_cached_tokens


def test_bfloat16_differs_by_its_rounding_only(classifier):
    rounded = copy.deepcopy(classifier).bfloat16()
    scorer = ValueScorer(rounded, 200, 60)
    grow_trees(scorer, rounded, 0, tolerance=0.03)
    assert {path.states.dtype for path in scorer.cache} == {torch.bfloat16}


@pytest.mark.parametrize("max_cached_tokens", [0, 40, 200])
@pytest.mark.parametrize("max_batch_tokens", [60, 150])
def test_states_that_are_held_never_exceed_the_budget_and_one_batch(
    classifier, monkeypatch, max_batch_tokens, max_cached_tokens
):
    alive: weakref.WeakSet[PathStates] = weakref.WeakSet()
    most = 0

    class Watched(PathStates):
        def __init__(self, *fields):
            nonlocal most
            super().__init__(*fields)
            alive.add(self)
            most = max(most, sum(path.num_tokens for path in alive))

    monkeypatch.setattr(scoring, "PathStates", Watched)
    scorer = ValueScorer(classifier, max_batch_tokens, max_cached_tokens)
    grow_trees(scorer, classifier, 0)
    grow_trees(scorer, classifier, 1)
    assert max_cached_tokens < most <= max_cached_tokens + max_batch_tokens
    assert sum(path.num_tokens for path in alive) == scorer.cache.num_tokens


def test_searches_on_one_problem_share_its_prompt(classifier):
    scorer = ValueScorer(classifier)
    two = [ScoringRequest([1, 2, 3], [[4], [5]]), ScoringRequest([1, 2, 3], [[6]])]
    assert sorted(scores.tokens_cached for scores in scorer.score(two)) == [3, 3]
    (third,) = scorer.score([ScoringRequest([1, 2, 3], [[7]])])
    assert third.tokens_cached == 3
    assert scorer.tokens_computed == 3 + 4


def test_states_of_a_last_block_are_not_kept(classifier):
    scorer = ValueScorer(classifier)
    scorer.score([ScoringRequest([1, 2, 3], [[4, 5], [6, 7, 8, 9]], [True, False])])
    assert sorted(path.length for path in scorer.cache) == [3, 7]
    assert scorer.tokens_computed == 9


def test_a_dropped_path_is_computed_again_from_its_longest_start(classifier):
    root, first, second, third = [1, 2, 3], [4, 5], [6], [7, 8]
    scorer = ValueScorer(classifier, max_cached_tokens=6)
    scorer.score([ScoringRequest(root, [first])])
    scorer.score([ScoringRequest(root + first, [second])])
    assert sorted(path.length for path in scorer.cache) == [3, 5, 6]
    scorer.score([ScoringRequest(root, [[9]])])  # drops the longest path, its end first
    assert sorted(path.length for path in scorer.cache) == [3, 4, 5]
    before = scorer.tokens_computed
    path = root + first + second
    (scores,) = scorer.score([ScoringRequest(path, [third])])
    assert scores.values == pytest.approx([value_of(classifier, path + third)], abs=2e-6)
    assert scorer.tokens_computed - before == len(second + third)


def test_batches_hold_their_token_budget_and_every_sequence_once():
    lengths = [5, 1, 9, 9, 2, 30, 4]
    batches = batch_by_length(lengths, 20)
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= 20 or len(batch) == 1
    assert len(batches) < 7


@pytest.mark.parametrize("request_", [ScoringRequest([], [[1]]), ScoringRequest([1], [[2], []])])
def test_nothing_to_score_is_refused(classifier, request_):
    with pytest.raises(ValueError, match="empty prefix or block"):
        ValueScorer(classifier).score([request_])


def test_marks_that_do_not_fit_the_blocks_are_refused(classifier):
    with pytest.raises(ValueError, match="2 blocks, 1 marks"):
        ValueScorer(classifier).score([ScoringRequest([1], [[2], [3]], [True])])


def load(folder: Path) -> Qwen2ForClassifier:
    return load_value_model(str(folder), "sdpa", torch.bfloat16, torch.device("cpu"))


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_loaded_value_model_is_the_saved_one(tmp_path):
    folder = save_tiny_classifier(tmp_path / "value_model")
    model = load(folder)
    saved = load_file(folder / "model.safetensors")
    loaded = model.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name].bfloat16()) for name in saved)
    assert not model.training
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_cannot_be_used_is_refused_in_one_line(tmp_path):
    def refused(folder: Path) -> str:
        with pytest.raises(ValueError, match=rf"^{folder}.+\Z") as refusal:  # one line
            load(folder)
        return str(refusal.value).removeprefix(str(folder))

    assert refused(tmp_path / "absent").startswith(": no model could be found: no such folder")
    policy = save_tiny_policy(tmp_path / "policy")
    assert refused(policy).startswith(" holds ['Qwen2ForCausalLM'], not a value model (")

    for name in ("torn", "pickled", "headless", "wide", "unknown", "empty"):
        save_tiny_classifier(tmp_path / name)
    weights = {name: tmp_path / name / "model.safetensors" for name in ("torn", "pickled", "empty")}
    weights["torn"].write_bytes(weights["torn"].read_bytes()[:-100])
    assert "could be loaded: SafetensorError" in refused(tmp_path / "torn")
    weights["empty"].unlink()
    assert "no file named model.safetensors" in refused(tmp_path / "empty")
    # A pickle may run code.
    torch.save(load_file(weights["pickled"]), tmp_path / "pickled" / "pytorch_model.bin")
    weights["pickled"].unlink()
    assert "weights in pytorch_model.bin; only safetensors" in refused(tmp_path / "pickled")

    path = tmp_path / "headless" / "model.safetensors"
    layers = {name: w for name, w in load_file(path).items() if "layers.1." not in name}
    save_file(layers, tmp_path / "rest", metadata={"format": "pt"})
    path.write_bytes((tmp_path / "rest").read_bytes())
    message = refused(tmp_path / "headless")
    assert message.startswith(" is no value model: no weights for model.layers.1.input_layernorm.")
    assert message.endswith(", and 7 more")

    change_config(tmp_path / "wide", intermediate_size=96)
    assert refused(tmp_path / "wide").startswith(
        " is no value model: misshapen weights for model.layers.0.mlp.down_proj.weight, "
    )
    change_config(tmp_path / "unknown", hidden_size="wide")
    assert "hidden_size 'wide', which is no number" in refused(tmp_path / "unknown")
