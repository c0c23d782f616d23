"""DeepConf online, against what it would have abandoned of the same samples after the fact."""

import pytest

from run_lib.commands import InputError
from search_lib.engines.base import Block
from search_lib.strategies import StrategySettings, strategy_factory
from search_lib.strategies.deepconf import DeepConf
from tests.support.fake_searches import LIMITS, PROMPT, STOP, run, sample_blocks

WINDOW = 3


def windows(confidences):
    whole = [confidences[i : i + WINDOW] for i in range(len(confidences) - WINDOW + 1)]
    return [sum(one) / WINDOW for one in whole] or [sum(confidences) / len(confidences)]


def percentile(numbers, percent):
    """Linear between the two ordered numbers around it."""
    ordered = sorted(numbers)
    place = percent / 100 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@pytest.mark.parametrize("keep_percent", [10, 50, 90, 100])
@pytest.mark.parametrize("seed", range(8))
def test_a_replay_abandons_the_same_samples_at_the_same_blocks(seed, keep_percent):
    search = DeepConf(PROMPT, LIMITS, seed, 12, 4, WINDOW, keep_percent)
    blocks = {}

    def recording(expansion):
        answer = sample_blocks(expansion)
        blocks[expansion.path_id] = answer[0][0]
        return answer

    responses = run(search, answer=recording)
    # In the first round whole samples come, then blocks: path ids count rounds times samples.
    whole = [blocks[slot] for slot in range(4)]
    lowest = [min(windows(block.confidences)) for block in whole]
    bar = percentile(lowest, 100 - keep_percent)
    assert search.bar == pytest.approx(bar)
    expected = [b.token_ids for b, low in zip(whole, lowest, strict=True) if low >= bar - 1e-9]
    for slot in range(4, 12):
        tokens, confidences, number = [], [], 1
        while True:
            block = blocks.pop(number * 12 + slot)
            tokens, confidences = tokens + block.token_ids, confidences + block.confidences
            has_ended = tokens[-1] == STOP or len(tokens) == LIMITS.max_length
            is_measured = has_ended or len(confidences) >= WINDOW
            if is_measured and min(windows(confidences)) < bar - 1e-9:
                break  # abandoned: nothing more was asked of it, see below
            if has_ended:
                expected.append(tokens)
                break
            number += 1
    assert blocks.keys() == set(range(4))
    assert [response.token_ids for response in responses] == expected
    assert len(responses) >= 1


def test_abandoned_samples_cost_tokens_and_give_no_response():
    search = DeepConf(PROMPT, LIMITS, 0, 3, 1, WINDOW)
    (first,) = search.ask()
    assert first.max_new_tokens == LIMITS.max_length
    search.tell(first.path_id, [Block([1, 1, STOP], "stop", confidences=[10.0] * 3)], [None])
    later = search.ask()
    assert [one.max_new_tokens for one in later] == [LIMITS.block_size] * 2
    sure, unsure = [12.0] * 4, [12.0, 12.0, 9.0, 8.9]
    for expansion, confidences in zip(later, (sure, unsure), strict=True):
        search.tell(expansion.path_id, [Block([2] * 4, "length", confidences=confidences)], [None])
    (left,) = search.ask()
    search.tell(left.path_id, [Block([STOP], "stop", confidences=[7.0])], [None])
    # Its last window, of 12, 12 and 7, is above the bar of 10.
    assert search.done
    assert [response.token_ids for response in search.result()] == [[1, 1, STOP], [2] * 4 + [STOP]]
    assert sum(node.num_tokens for node in search.nodes) == 3 + 4 + 4 + 1


def test_a_window_that_spans_two_blocks_counts():
    search = DeepConf(PROMPT, LIMITS, 0, 2, 1, WINDOW)
    for confidences in ([10.0] * 12, [10.0, 10.0, 10.0, 9.0]):
        (expansion,) = search.ask()
        block = Block([1] * len(confidences), "length", confidences=confidences)
        search.tell(expansion.path_id, [block], [None])
    # 10, 10 and 9 lie below the bar of 10.
    assert search.done
    assert len(search.result()) == 1


def test_samples_shorter_than_a_window_are_one_by_themselves():
    search = DeepConf(PROMPT, LIMITS, 0, 3, 1, 50)
    (first,) = search.ask()
    search.tell(first.path_id, [Block([1, STOP], "stop", confidences=[10.0, 4.0])], [None])
    later = search.ask()
    assert search.bar == 7.0
    for expansion, confidences in zip(later, ([8.0, 6.0], [6.0, 7.0]), strict=True):
        search.tell(expansion.path_id, [Block([2, STOP], "stop", confidences=confidences)], [None])
    assert [response.token_ids for response in search.result()] == [[1, STOP], [2, STOP]]


def test_blocks_without_confidences_are_refused():
    search = DeepConf(PROMPT, LIMITS, 0, 2, 1, WINDOW)
    (expansion,) = search.ask()
    with pytest.raises(ValueError, match="slot 0 got a block without confidences"):
        search.tell(expansion.path_id, [Block([STOP], "stop")], [None])


@pytest.mark.parametrize(
    ("search_type", "message"),
    [
        ("deepconf", "deepconf needs the number of warm-up samples behind it: deepconf4"),
        ("deepconf0", "deepconf0 warms up with 0 of --num_blocks 8 samples: at least 1, and fewer"),
        ("deepconf8", "deepconf8 warms up with 8 of --num_blocks 8 samples: at least 1, and few"),
    ],
)
def test_a_warm_up_that_does_not_fit_is_refused(search_type, message):
    with pytest.raises(InputError, match=message):
        strategy_factory(search_type, 8, LIMITS, confidence_window=3)


def test_the_share_that_passes_the_bar_is_a_flag():
    settings = StrategySettings(keep_percent=10)
    new = strategy_factory("deepconf4", 8, LIMITS, settings=settings, confidence_window=3)
    by_flag, by_hand = new(PROMPT, 5), DeepConf(PROMPT, LIMITS, 5, 8, 4, 3, 10)
    assert run(by_flag) == run(by_hand)


def test_a_sample_that_is_below_the_bar_by_rounding_goes_on():
    search = DeepConf(PROMPT, LIMITS, 0, 2, 1, WINDOW)
    (first,) = search.ask()
    search.tell(first.path_id, [Block([1, 1, STOP], "stop", confidences=[10.0] * 3)], [None])
    (later,) = search.ask()
    rounded = [10.0 * (1 - 2e-7)] * 4
    search.tell(later.path_id, [Block([1] * 4, "length", confidences=rounded)], [None])
    assert len(search.ask()) == 1
