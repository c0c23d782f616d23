"""Data in the page: no text ends its element, and long texts are shortened."""

import json

import pytest

from search_lib.results.page.packing import (
    compress,
    cut,
    decompress,
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
    ("longest", "expected"), [(None, (10, 10)), (10, (10, 10)), (6, (4, 8)), (0, (0, 10))]
)
def test_a_long_text_loses_its_middle(longest, expected):
    assert cut(10, longest) == expected


def test_texts_that_fit_stay_whole():
    assert longest_that_fits([1000] * 10, 0.5, budget=5000) is None
    assert longest_that_fits([], 0.5, budget=0) is None
    assert longest_that_fits([0], 0.0, budget=0) is None


def test_texts_are_shortened_to_the_room_that_there_is():
    # 100 and 2 x 200 characters.
    assert longest_that_fits([100, 1000, 500], 0.5, budget=250) == 200
    assert longest_that_fits([5, 5], 1.0, budget=0) == 0
