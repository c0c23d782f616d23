"""What SGLang is asked, and how its replies are read, in whatever process it runs."""

import math
from dataclasses import replace

import pytest

from search_lib.engines.base import Block
from search_lib.engines.http_service import MAX_BODY, BadReply
from search_lib.engines.sglang_protocol import (
    charge,
    place_of,
    priority_sign,
    read_block,
    samples_per_request,
    sampling_params,
)
from search_lib.urgency import Urgency
from tests.support.searches import request


@pytest.mark.parametrize(
    ("ids", "block"),
    [
        ([7, 8, 9], Block([7, 8, 9], "length")),
        ([7, 2], Block([7, 2], "stop")),
        ([7, 8, 2], Block([7, 8, 2], "stop")),
    ],
)
def test_a_reply_is_a_block_of_the_request(ids, block):
    asked, _ = request([5], max_new_tokens=3, stop=(2, 3))
    assert read_block({"output_ids": ids, "meta_info": {}}, asked, 10) == block


@pytest.mark.parametrize(
    ("meta", "cached"),
    [
        ({"cached_tokens": 0}, 0),
        ({"cached_tokens": 3}, 3),
        ({"cached_tokens": 4}, None),  # more than the prefix has
        ({"cached_tokens": True}, None),
        ({"cached_tokens": "2"}, None),
        ({}, None),
    ],
)
def test_a_reply_tells_how_much_of_the_prefix_was_cached(meta, cached):
    asked, _ = request([5, 6, 7], max_new_tokens=3, stop=(2,))
    assert read_block({"output_ids": [7, 2], "meta_info": meta}, asked, 10).prefix_cached == cached


def test_what_was_computed_ahead_is_charged_once():
    blocks = [Block([1], "length", prefix_cached=cached) for cached in (9, None, 9, 9)]
    assert [block.prefix_cached for block in charge(blocks, 0)] == [9, None, 9, 9]
    assert [block.prefix_cached for block in charge(blocks, 7)] == [2, None, 9, 9]
    assert [block.prefix_cached for block in charge(blocks, 10)] == [0, None, 8, 9]


def test_earlier_searches_go_first_and_guesses_last():
    urgencies = [Urgency(3), Urgency(0, guessed=True), Urgency(0), Urgency(10**12), Urgency(4)]
    urgencies.append(Urgency(10**12, guessed=True))
    in_order = sorted(urgencies, key=place_of)
    assert [(one.guessed, one.order) for one in in_order] == [
        (False, 0),
        (False, 3),
        (False, 4),
        (False, 10**12),
        (True, 0),
        (True, 10**12),
    ]
    assert place_of(in_order[-1]) < 2**31  # which a router passes on


def test_priorities_have_the_direction_of_the_server():
    enabled = {"enable_priority_scheduling": True}
    assert priority_sign({}) == 0
    assert priority_sign({"enable_priority_scheduling": False}) == 0
    assert priority_sign(enabled | {"schedule_low_priority_values_first": False}) == -1
    assert priority_sign(enabled | {"schedule_low_priority_values_first": True}) == 1


def test_samples_of_one_request_have_room_in_its_reply():
    plain, _ = request([5], 64, max_new_tokens=16_384)
    assert samples_per_request(plain) >= 64
    for changes in ({"logprobs": True}, {"confidence_top_k": 20}):
        large = replace(plain, **changes)
        entries = 1 + large.confidence_top_k
        longest = len("[-12.345678901234567, 151645, null], ") * entries + len("151645, ")
        assert samples_per_request(large) * longest * large.max_new_tokens < MAX_BODY
        assert samples_per_request(replace(large, max_new_tokens=10**9)) == 1


def test_a_reply_with_log_probabilities_gives_them():
    meta = {"output_token_logprobs": [[-0.5, 7, None], [-0.25, 2, None]]}
    asked, _ = request([5], max_new_tokens=3, stop=(2, 3))
    block = read_block({"output_ids": [7, 2], "meta_info": meta}, replace(asked, logprobs=True), 10)
    assert block == Block([7, 2], "stop", [-0.5, -0.25])


@pytest.mark.parametrize(
    ("logprobs", "message"),
    [
        (None, "no log-probabilities: None"),
        ([-0.5, -0.25], "no log-probabilities"),
        ([[-0.5, 7]], "of other tokens"),
        ([[-0.5, 7], [-0.25, 3]], "of other tokens"),
        ([[-0.5, 7], [None, 2]], "out of range"),
        ([[-0.5, 7], [0.25, 2]], "out of range"),
        ([[-0.5, 7], [float("nan"), 2]], "out of range"),
    ],
)
def test_what_are_no_log_probabilities_of_the_block_is_refused(logprobs, message):
    reply = {"output_ids": [7, 2], "meta_info": {"output_token_logprobs": logprobs}}
    asked, _ = request([5], max_new_tokens=3, stop=(2, 3))
    with pytest.raises(BadReply, match=message):
        read_block(reply, replace(asked, logprobs=True), 10)


TOP = [[-0.5, 7, None], [-1.5, 3, None]]


def test_a_reply_with_the_likeliest_tokens_gives_confidences():
    # As SGLang 0.5.21 replies to top_logprobs_num 2: (log-probability, token, no text) each.
    meta = {
        "output_token_logprobs": [[-1.5, 3, None], [-0.25, 2, None]],
        "output_top_logprobs": [TOP, [[-0.25, 2, None], [-2.25, 9, None]]],
    }
    asked, _ = request([5], max_new_tokens=3, stop=(2,))
    reply = {"output_ids": [3, 2], "meta_info": meta}
    block = read_block(reply, replace(asked, confidence_top_k=2), 10)
    assert (block.logprobs, block.confidences) == (None, [1.0, 1.25])
    rest = (1 - math.exp(-0.5) - math.exp(-1.5)) / 8
    certainty = -(2 * math.log(10) - 2.0 + 8 * math.log(10 * rest)) / 10
    assert block.certainties[0] == pytest.approx(certainty)


@pytest.mark.parametrize(
    ("tops", "message"),
    [
        (None, "no log-probabilities of the 2 likeliest tokens: None"),
        ([TOP, TOP[:1]], "no log-probabilities of the 2 likeliest tokens"),
        ([TOP, [[], []]], "no log-probabilities of the 2 likeliest tokens"),
        ([TOP, None], "no log-probabilities of the 2 likeliest tokens"),
        ([TOP], "log-probabilities of 1 tokens, not of 2"),
        ([TOP, [[0.5, 7], [-1.5, 3]]], "likeliest tokens out of range"),
        ([TOP, [[None, 7], [-1.5, 3]]], "likeliest tokens out of range"),
    ],
)
def test_what_gives_no_confidences_is_refused(tops, message):
    reply = {"output_ids": [7, 2], "meta_info": {"output_top_logprobs": tops}}
    asked, _ = request([5], max_new_tokens=3, stop=(2, 3))
    with pytest.raises(BadReply, match=message):
        read_block(reply, replace(asked, confidence_top_k=2), 10)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (None, "no block: None"),
        ([], r"no block: \[\]"),
        ({"text": "hello"}, "no list of token ids: .*hello"),
        ({"output_ids": None}, "no list of token ids"),
        ({"output_ids": [1, "2", 3]}, "no list of token ids"),
        ({"output_ids": [1, True, 3]}, "no list of token ids"),
        ({"output_ids": [1, 1.5, 3]}, "no list of token ids"),
        ({"output_ids": [1, 10, 4]}, "token 10 in a vocabulary of 10"),
        ({"output_ids": [-1, 4, 4]}, "token -1 in a vocabulary of 10"),
        ({"output_ids": []}, "0 tokens that end neither with a stop token nor at 3"),
        ({"output_ids": [1, 4]}, r"2 tokens .* nor at 3: finish reason None, token ids \[1, 4\]"),
        ({"output_ids": [1, 4, 4, 4]}, "4 tokens that end neither"),
        ({"output_ids": [1, 2, 4]}, "3 tokens that end neither"),
        ({"output_ids": [1, 4, 4, 2]}, "4 tokens that end neither"),
        (
            {
                "output_ids": [1],
                "meta_info": {"finish_reason": {"type": "abort", "message": "OOM"}},
            },
            "aborted: OOM",
        ),
    ],
)
def test_what_is_no_block_of_the_request_is_refused(reply, message):
    asked, _ = request([5], max_new_tokens=3, stop=(2, 3))
    with pytest.raises(BadReply, match=message):
        read_block(reply, asked, 10)


def test_samples_of_a_request_have_seeds_of_their_own():
    seeds = {
        sampling_params(*request([5], seed=seed), i, 9)["sampling_seed"]
        for seed in range(9)
        for i in range(9)
    }
    assert len(seeds) == 81
    assert all(0 <= seed < 2**63 for seed in seeds)
