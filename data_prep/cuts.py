"""Where a roll-in is cut: prefix lengths, from which it is then completed anew."""

import math
import random
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from data_prep.args import CutLaw


def draw_cuts(length: int, count: int, law: CutLaw, rng: random.Random) -> list[int]:
    """Draws cuts at any token: prefix lengths in [1, length), independent, so they may coincide.

    Something is left to generate behind every cut. A roll-in of one token can only be cut before
    it, at 0.

    Args:
        length: Tokens of the roll-in.
        count: Cuts.
        law: `"sqrt"` draws length i with a probability proportional to sqrt(i), as for OpenR1-VM
            (mean 0.6 of the length); `"uniform"` draws each alike.
        rng: Source of the draws.
    """
    if length == 1:
        return [0] * count
    lengths = range(1, length)
    weights = [math.sqrt(i) if law == "sqrt" else 1.0 for i in lengths]
    return rng.choices(lengths, weights, k=count)


def draw_step_cuts(ends: Sequence[int], count: int, rng: random.Random) -> list[int]:
    """Draws cuts at the ends of steps, each alike; all different as long as there are enough.

    Args:
        ends: Ends of steps as `step_ends` returns them; at least one.
        count: Cuts.
        rng: Source of the draws.
    """
    cuts: list[int] = []
    while len(cuts) < count:
        cuts += rng.sample(ends, min(len(ends), count - len(cuts)))
    return cuts


def step_ends(
    token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, delimiter: str
) -> list[int]:
    """Returns the prefix lengths, short of the whole, after which a step has just ended.

    A step ends with the token that completes the delimiter, which may begin in earlier tokens.
    """
    texts = tokenizer.batch_decode([[token_id] for token_id in token_ids])
    ends = []
    open_text = ""  # the text in which a delimiter may have begun
    for length, text in enumerate(texts, start=1):
        open_text += text
        if delimiter in open_text:
            ends.append(length)
            open_text = open_text[open_text.rindex(delimiter) + len(delimiter) :]
        open_text = open_text[-(len(delimiter) - 1) :] if len(delimiter) > 1 else ""
    return [end for end in ends if end < len(token_ids)]
