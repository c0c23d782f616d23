"""Data in the page: no text ends its element, and long texts are shortened."""

import json
import random

import pytest

from search_lib.results.page.packing import (
    compress,
    decompress,
    excerpt,
    longest_that_fits,
    to_json,
)

HOSTILE = '</script><script>alert(1)</script><!-- & \u2028 \ud800 "'


def test_json_holds_no_markup_and_the_same_text():
    text = to_json({"text": HOSTILE})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"text": HOSTILE}


def test_a_number_that_json_does_not_know_is_refused():
    with pytest.raises(ValueError, match="Out of range"):
        to_json([float("nan")])


def test_compressed_text_is_the_same_again():
    assert decompress(compress({"text": HOSTILE, "more": ["é", 0.25, None]})) == {
        "text": HOSTILE,
        "more": ["é", 0.25, None],
    }


@pytest.mark.parametrize(
    ("longest", "expected"),
    [(None, ["abcdefghij"]), (10, ["abcdefghij"]), (6, ["abcd", 4, "ij"]), (0, ["", 10, ""])],
)
def test_a_long_text_loses_its_middle(longest, expected):
    assert excerpt("abcdefghij", longest) == expected


def test_texts_that_fit_stay_whole():
    assert longest_that_fits(["a" * 1000] * 10, budget=10_000) is None
    assert longest_that_fits([], budget=0) is None
    assert longest_that_fits([""], budget=0) is None


def test_texts_are_shortened_to_the_room_that_there_is():
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefghij ", k=5000)) for _ in range(100)] + ["short"]
    longest = longest_that_fits(texts, budget=100_000)
    packed = sum(len(compress(excerpt(text, longest))) for text in texts)
    assert 80_000 < packed < 110_000
