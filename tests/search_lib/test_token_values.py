"""Values of tokens that are added to the blocks of a search later."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from classifier_lib.loading import load_value_model
from run_lib.commands import InputError
from search_lib.results.blocks import SearchBlocks, TreeBlock
from search_lib.strategies.base import Node
from search_lib.token_values import TreeValues
from tests.support.tiny_models import CONTEXT, save_tiny_classifier

PROMPT = [5, 6, 7]
PARENTS = [None, None, 0, 0, 2, 1]
TOKENS = [[10, 11, 12], [13], [14, 15], [16, 17, 18, 19], [20], [21, 22]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_classifier(tmp_path_factory.mktemp("model")))


def tree(values, tokens=TOKENS):
    return SearchBlocks(
        PROMPT,
        [
            TreeBlock(Node(parent, len(ids), value, "length"), np.array(ids, np.uint32), None)
            for parent, ids, value in zip(PARENTS, tokens, values, strict=True)
        ],
    )


def test_they_are_those_of_each_path_alone(model):
    search = tree([None] * 6)
    classifier = load_value_model(model, dtype=torch.float32, device=torch.device("cpu"))
    for index, values in enumerate(TreeValues(model).of(search)):
        path = torch.tensor([PROMPT + search.response_ids(index).tolist()])
        with torch.no_grad():
            alone = classifier(path).success_probs[0, -len(TOKENS[index]) :]
        assert values.tolist() == pytest.approx(alone.tolist(), abs=1e-5)


def test_every_token_of_a_tree_is_computed_once(model):
    values = TreeValues(model)
    values.of(tree([None] * 6))
    assert values._values.tokens_computed == len(PROMPT) + sum(map(len, TOKENS))


def test_it_says_how_far_they_are_from_those_of_the_search(model):
    ends = [float(of_block[-1]) for of_block in TreeValues(model).of(tree([None] * 6))]
    values = TreeValues(model)
    values.of(tree([ends[0], ends[1] - 0.25, None, *ends[3:]]))
    assert values.close() == (
        f"{model}: values of tokens of 1 trees; at the ends of blocks within 0.25 of the searches'"
    )


def test_the_value_model_of_another_policy_is_refused(model):
    search = tree([None] * 6)
    with pytest.raises(InputError, match=r"knows .* tokens, and a search has token 99999: it is"):
        TreeValues(model).of(tree([None] * 6, [*TOKENS[:5], [21, 99_999]]))
    with pytest.raises(InputError, match=r"and a search has token 99999"):
        TreeValues(model).of(replace(search, prompt_ids=[5, 99_999]))


def test_a_path_that_is_too_long_for_the_model_is_refused(model):
    search = tree([None] * 6, [*TOKENS[:4], [20] * (CONTEXT - 7), TOKENS[5]])
    with pytest.raises(InputError, match=r"reads 128 tokens, .* response with its prompt has 129"):
        TreeValues(model).of(search)
