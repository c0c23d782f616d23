"""Training rows on paper: lengths by the published data recipe, random tokens."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa

from classifier_lib.data import LABELS, ROLL_IN, ROLL_OUT
from scripts.bench.args import FULL_LENGTH, NUM_CUTS

PROMPT_TOKENS = (150, 200)
"""Range of prompt lengths at that length."""
BETWEEN_PROBLEMS, WITHIN_PROBLEM = 0.45, 0.25
"""Standard deviations of the logarithm of response lengths."""


def draw_row(
    rng: np.random.Generator,
    quantile: float,
    max_length: int,
    num_roll_ins: int,
    vocab_size: int,
) -> dict[str, Any]:
    """Draws the token columns of one problem by the data recipe of VGS.

    Response lengths are log-normal and end at the limit. The median of the median problem is the
    limit itself, so that half of all responses reach it; the logarithm has a standard deviation of
    0.45 between problems and 0.25 within one. A roll-in is such a response, cut at index i with
    probability proportional to sqrt(i); its completion ends at a length drawn from the same
    distribution, beyond the cut. With prompts of 150 to 200 tokens, at 16,384 tokens a sample, that
    gives 14.3k tokens a sample, 5.8k of them with loss, as published (35.7e9 and 14.4e9 for 2.5e6).

    Args:
        rng: Source of all draws.
        quantile: In (0, 1), how long this problem's responses are among the problems. Quantiles
            evenly spaced make a few rows representative.
        max_length: The limit, in response tokens; prompts are scaled with it.
        num_roll_ins: Roll-ins of the row.
        vocab_size: Token ids are drawn uniformly below it.

    Returns:
        `roll_in_ids`, `roll_outs_ids` (lists of int32 arrays) and `labels`, four of each a roll-in.
    """
    median = max_length * math.exp(BETWEEN_PROBLEMS * NormalDist().inv_cdf(quantile))
    log_length = NormalDist(math.log(median), WITHIN_PROBLEM)

    def draw_length(beyond: int) -> int:
        """Draws a length of more than `beyond` tokens, up to the limit."""
        least = log_length.cdf(math.log(beyond))
        share = least + (1 - least) * rng.uniform(1e-9, 1 - 1e-9)
        length = math.ceil(math.exp(log_length.inv_cdf(min(share, 1 - 1e-12))))
        return min(max(length, beyond + 1), max_length)

    def draw_tokens(count: int) -> np.ndarray:
        """Draws token ids."""
        return rng.integers(0, vocab_size, count, dtype=np.int32)

    prompt = draw_tokens(math.ceil(rng.integers(*PROMPT_TOKENS) * max_length / FULL_LENGTH))
    roll_ins, roll_outs = [], []
    for _ in range(num_roll_ins):
        response = draw_tokens(draw_length(beyond=1))
        for share in rng.random(NUM_CUTS):
            cut = max(int(len(response) * share ** (2 / 3)), 1)
            roll_ins.append(np.concatenate([prompt, response[:cut]]))
            roll_outs.append(draw_tokens(draw_length(beyond=cut) - cut))
    labels = rng.integers(0, 3, len(roll_ins)).tolist()
    return {ROLL_IN: roll_ins, ROLL_OUT: roll_outs, LABELS: labels}


def draw_rows(
    num_rows: int, max_length: int, num_roll_ins: int, vocab_size: int, seed: int
) -> pa.Table:
    """Returns rows of problems evenly spaced in length (see `draw_row`)."""
    rng = np.random.default_rng(seed)
    rows = [
        draw_row(rng, (i + 0.5) / num_rows, max_length, num_roll_ins, vocab_size)
        for i in range(num_rows)
    ]
    tokens = pa.list_(pa.list_(pa.int32()))
    schema = pa.schema({ROLL_IN: tokens, ROLL_OUT: tokens, LABELS: pa.list_(pa.int64())})
    return pa.Table.from_pylist(rows, schema)
