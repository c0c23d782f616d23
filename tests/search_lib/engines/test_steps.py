"""Blocks that end at a step: on a byte tokenizer with some longer tokens."""

import asyncio

import pytest
from tokenizers import AddedToken

from data_prep.toy.tokenizer import build_tokenizer
from search_lib.engines.base import Block, Expansion, Sampling
from search_lib.engines.steps import StepEngine, delimiter_token_ids

LONGER = (".\n\n", "\n\n\n", "\n\nSo", ".\n")


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in LONGER])
    return tokenizer


class WrittenEngine:
    """Gives one written block, up to its first stop token or the length limit."""

    def __init__(self, token_ids: list[int]):
        self.token_ids = token_ids

    async def generate(self, expansion: Expansion, sampling: Sampling) -> list[Block]:
        for length, token in enumerate(self.token_ids[: expansion.max_new_tokens], start=1):
            if token in expansion.stop_token_ids:
                ids, reason = self.token_ids[:length], "stop"
                break
        else:
            ids, reason = self.token_ids[: expansion.max_new_tokens], "length"
        logprobs = [-float(place) for place in range(len(ids))] if expansion.logprobs else None
        certainties = [float(place) for place in range(len(ids))] if logprobs else None
        return [Block(ids, reason, logprobs, certainties, certainties)] * expansion.n

    async def close(self) -> None:
        pass


def generate(tokenizer, token_ids, delimiter="\n\n", limit=30, logprobs=False):
    ends = (tokenizer.eos_token_id,)
    expansion = Expansion(0, [1], 1, limit, ends, 0, logprobs)
    engine = StepEngine(WrittenEngine(token_ids), tokenizer, delimiter)
    (block,) = asyncio.run(engine.generate(expansion, Sampling()))
    return block


def encode(tokenizer, *parts: str) -> list[int]:
    """Encodes the parts one by one, so that a test chooses where tokens end."""
    return [token for part in parts for token in tokenizer.encode(part, add_special_tokens=False)]


def test_the_ids_that_end_a_step_are_all_whose_text_holds_the_delimiter(tokenizer):
    ids = delimiter_token_ids(tokenizer, "\n\n")
    assert sorted(tokenizer.convert_ids_to_tokens(ids)) == sorted(LONGER[:3])


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        (["a", ".\n\n", "b"], 2),
        (["a", "\n\nSo", "b"], 2),
        (["a", "\n", "\n", "bcd"], 3),
        (["a", ".\n", "\n", "bcd"], 3),
        (["a", ".\n", "\n\nSo", "b"], 3),
        (["\n", "\n", "b"], 2),
        (["ab", "\n\n\n"], 3),
    ],
)
def test_a_step_ends_with_the_token_that_completes_the_delimiter(tokenizer, parts, kept):
    ids = encode(tokenizer, *parts)
    assert generate(tokenizer, ids) == Block(ids[:kept], "step")


@pytest.mark.parametrize("parts", [["a", "<|end|>"], ["<|end|>"], ["a", "\n", "<|end|>"]])
def test_a_block_that_the_policy_ends_is_no_step(tokenizer, parts):
    ids = encode(tokenizer, *parts)
    assert generate(tokenizer, ids) == Block(ids, "stop")


def test_a_delimiter_before_the_end_of_the_response_ends_the_step(tokenizer):
    ids = encode(tokenizer, "a", "\n", "\n", "b", "<|end|>")
    assert generate(tokenizer, ids) == Block(ids[:3], "step")


def test_a_step_without_a_delimiter_ends_at_the_limit(tokenizer):
    ids = encode(tokenizer, "abc\nd")
    assert generate(tokenizer, ids, limit=4) == Block(ids[:4], "length")


def test_a_delimiter_of_any_text_ends_steps(tokenizer):
    ids = encode(tokenizer, "1 ok, 2")
    block = generate(tokenizer, ids, delimiter=" ok,")
    assert tokenizer.decode(block.token_ids) == "1 ok,"


def test_the_numbers_of_tokens_are_those_of_the_tokens_that_stay(tokenizer):
    ids = encode(tokenizer, "a", "\n", "\n", "bcd")
    block = generate(tokenizer, ids, logprobs=True)
    assert block.logprobs == [0.0, -1.0, -2.0]
    assert block.confidences == block.certainties == [0.0, 1.0, 2.0]


def test_an_empty_delimiter_is_refused(tokenizer):
    with pytest.raises(ValueError, match="delimiter of steps is empty"):
        StepEngine(WrittenEngine([]), tokenizer, "")
