"""How sure the policy was of a response, from its own distributions over the next token.

Token confidence and its windows are those of DeepConf (Fu et al., 2025, "Deep Think with
Confidence", arXiv 2508.15260): minus the mean log-probability of the k most likely tokens, high
where the distribution is peaked. Self-certainty (Kang et al., 2025, "Scalable Best-of-N Selection
for Large Language Models via Self-Certainty", arXiv 2502.18581) takes the whole vocabulary:
`KL(uniform || p) = -1/V sum_j log(V p_j)`. Both are of the model's own distribution, before
temperature and top-p.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TOP_K = 20
"""Most likely tokens of a token's confidence; DeepConf's public code asks for 20."""

BOTTOM_SHARE = 0.1
"""Share of the windows that the bottom confidence is the mean of."""

ROUNDING = {"rel_tol": 1e-5, "abs_tol": 1e-6}
"""By how much two confidences may differ and be equal. How a model in float32 rounds depends on the
batch: confidences of one text differed by 3e-7 of their size at most, and self-certainties near 0
by as much as that of 1. In bfloat16 they differ by more, and texts soon, too."""

_LEAST_REST = 2.0**-24
"""Less probability than that is lost in rounding of float32."""


@dataclass(frozen=True)
class Confidence:
    """How sure the policy was of one response.

    Attributes:
        mean: Mean token confidence.
        lowest: Least mean over a window of consecutive tokens ("lowest group confidence").
        bottom: Mean of the lowest tenth of the windows ("bottom 10 % group confidence").
        tail: Mean over the last window ("tail confidence").
        self_certainty: Mean self-certainty of the tokens. Exact from `hf`; from SGLang a lower
            bound, see `self_certainty_of_top`.
    """

    mean: float
    lowest: float
    bottom: float
    tail: float
    self_certainty: float

    @classmethod
    def of(
        cls,
        confidences: Sequence[float] | np.ndarray,
        certainties: Sequence[float] | np.ndarray,
        window: int,
    ) -> "Confidence":
        """Returns the numbers of a response; one shorter than a window is a window by itself.

        Args:
            confidences: Confidence of each token, at least one.
            certainties: Self-certainty of each token.
            window: Tokens of a window.
        """
        windows = np.sort(window_means(confidences, window))
        num_bottom = max(1, int(BOTTOM_SHARE * len(windows)))
        return cls(
            mean=float(np.mean(confidences)),
            lowest=float(windows[0]),
            bottom=float(windows[:num_bottom].mean()),
            tail=float(np.mean(confidences[-window:])),
            self_certainty=float(np.mean(certainties)),
        )


def is_below(confidence: float, bar: float) -> bool:
    """Returns whether a confidence is less than another one, and that is not a matter of rounding.

    Samples with the same first tokens have equal confidences there, so a bar often is one of those
    that are compared with it.
    """
    return confidence < bar and not math.isclose(confidence, bar, **ROUNDING)


def window_means(confidences: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Returns the mean over every window of consecutive tokens; over all if they are fewer."""
    window = min(window, len(confidences))
    sums = np.concatenate([[0.0], np.cumsum(confidences, dtype=float)])
    return np.asarray((sums[window:] - sums[:-window]) / window)


def self_certainty_of_top(top: Sequence[float], vocab_size: int) -> float:
    """Returns the self-certainty of a token when only its most likely tokens are known.

    The rest of the probability is spread evenly over the other tokens. No other spread has a larger
    mean log-probability, so that this is a lower bound of the self-certainty. Where the rest is
    lost in rounding, the bound is that of the least rest that is not: very sure tokens are alike.

    Args:
        top: Log-probabilities of the most likely tokens.
        vocab_size: Tokens of the vocabulary.
    """
    num_rest = vocab_size - len(top)
    total = sum(top)
    if num_rest:
        rest = max(1.0 - sum(map(math.exp, top)), _LEAST_REST)
        total += num_rest * math.log(rest / num_rest)
    return -total / vocab_size - math.log(vocab_size)
