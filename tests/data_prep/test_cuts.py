"""Where roll-ins are cut."""

import random

import numpy as np
import pytest

from data_prep.cuts import draw_cuts, draw_step_cuts, step_ends
from data_prep.toy.tokenizer import build_tokenizer


@pytest.mark.parametrize(("law", "mean"), [("sqrt", 0.6), ("uniform", 0.5)])
def test_cuts_follow_their_law(law, mean):
    length, count = 40, 40_000
    cuts = draw_cuts(length, count, law, random.Random(0))
    assert min(cuts) >= 1
    assert max(cuts) <= length - 1
    observed = np.bincount(cuts, minlength=length)[1:]
    weights = np.sqrt(np.arange(1, length)) if law == "sqrt" else np.ones(length - 1)
    expected = count * weights / weights.sum()
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert chi_square < 64.0  # the 99 % quantile at 38 degrees of freedom is 61.2
    assert np.mean(cuts) / length == pytest.approx(mean, abs=0.01)


def test_a_single_token_is_cut_before_it():
    assert draw_cuts(1, 3, "sqrt", random.Random(0)) == [0, 0, 0]
    assert draw_cuts(2, 3, "uniform", random.Random(0)) == [1, 1, 1]


@pytest.mark.parametrize("delimiter", ["\n", "\n\n", " ok", "ab", "aba"])
def test_steps_end_with_the_token_that_completes_the_delimiter(delimiter):
    tokenizer = build_tokenizer()
    rng = random.Random(delimiter)
    for _ in range(50):
        text = "".join(rng.choice(["\n", "\n\n", " ok", "a", "b", "3 +4", "é"]) for _ in range(30))
        ids = tokenizer.encode(text, add_special_tokens=False)
        # From the definition: delimiters from left to right, each ends in some token.
        places, start = [], text.find(delimiter)
        while start >= 0:
            places.append(start + len(delimiter))
            start = text.find(delimiter, start + len(delimiter))
        lengths = [len(tokenizer.decode(ids[:n]).rstrip("\ufffd")) for n in range(len(ids) + 1)]
        expected = sorted({next(n for n, m in enumerate(lengths) if m >= p) for p in places})
        assert step_ends(ids, tokenizer, delimiter) == [e for e in expected if e < len(ids)]


def test_step_cuts_differ_as_long_as_they_can():
    rng = random.Random(0)
    counts = np.zeros(10)
    for _ in range(2000):
        cuts = draw_step_cuts([2, 5, 9], 2, rng)
        assert len(set(cuts)) == 2
        counts[cuts] += 1
    assert counts[[2, 5, 9]].sum() == 4000
    assert counts[[2, 5, 9]] / 4000 == pytest.approx(1 / 3, abs=0.03)
    assert sorted(draw_step_cuts([2, 5], 5, rng)) in ([2, 2, 2, 5, 5], [2, 2, 5, 5, 5])
