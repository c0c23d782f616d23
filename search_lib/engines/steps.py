"""Blocks that end where a step of reasoning ends: at a delimiter in the text."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from search_lib.engines.base import Block, Engine, Expansion, Sampling


class StepEngine:
    """Lets another engine's blocks end with the token that completes the delimiter.

    Tokens whose own text holds the delimiter are stop tokens of the engine. Where the delimiter
    spans several tokens, the engine goes on, and the tokens behind it are cut off. So a step is the
    same text in either case; the second one costs the tokens that are cut.

    Args:
        engine: Generates the blocks.
        tokenizer: Tokenizer of the policy.
        delimiter: Text that ends a step, and is part of it.

    Raises:
        ValueError: If the delimiter is empty.
    """

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerBase, delimiter: str):
        if not delimiter:
            raise ValueError("the delimiter of steps is empty")
        self._engine = engine
        self._tokenizer = tokenizer
        self._delimiter = delimiter
        self._delimiter_ids = delimiter_token_ids(tokenizer, delimiter)

    async def generate(self, expansion: Expansion, sampling: Sampling) -> list[Block]:
        """Samples the steps that continue a path; raises what the engine raises."""
        ends = expansion.stop_token_ids
        new = tuple(token for token in self._delimiter_ids if token not in ends)
        blocks = await self._engine.generate(
            replace(expansion, stop_token_ids=ends + new), sampling
        )
        return [self._cut(block, ends) for block in blocks]

    async def close(self) -> None:
        """Closes the engine."""
        await self._engine.close()

    def _cut(self, block: Block, ends: Sequence[int]) -> Block:
        """Ends a block with the token that completes the first delimiter."""
        ids = block.token_ids
        is_ended = block.finish_reason == "stop" and ids[-1] in ends
        text_ids = ids[:-1] if is_ended else ids
        if not self._holds_delimiter(text_ids):
            return block
        # The shortest beginning that holds it: longer ones do, too.
        low, high = 1, len(text_ids)
        while low < high:
            middle = (low + high) // 2
            if self._holds_delimiter(text_ids[:middle]):
                high = middle
            else:
                low = middle + 1
        return replace(
            block,
            token_ids=ids[:low],
            finish_reason="step",
            logprobs=block.logprobs and block.logprobs[:low],
            confidences=block.confidences and block.confidences[:low],
            certainties=block.certainties and block.certainties[:low],
        )

    def _holds_delimiter(self, token_ids: list[int]) -> bool:
        return self._delimiter in str(self._tokenizer.decode(token_ids))


def delimiter_token_ids(tokenizer: PreTrainedTokenizerBase, delimiter: str) -> tuple[int, ...]:
    """Returns the ids of all tokens whose own text holds the delimiter."""
    texts = tokenizer.batch_decode([[index] for index in range(len(tokenizer))])
    return tuple(index for index, text in enumerate(texts) if delimiter in text)
