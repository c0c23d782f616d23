"""Values of closed trees against the policy's true ones, in small decision processes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from run_lib.commands import InputError
from scripts.tree_values import Args, State, draw_process, grow, main, measure
from search_lib.strategies.mcts import TreeSettings

ARGS = Args(problems=60)
MEAN = TreeSettings(breadth=20, backup="mean")
SOFT = TreeSettings(breadth=20, backup="soft")


def test_the_true_values_are_those_solved_by_hand():
    below = State(np.array([0.25, 0.75]), [1.0, -1.0])
    process = State(np.array([0.4, 0.6]), [below, 1.0])
    assert process.value(None) == pytest.approx(0.4 * -0.5 + 0.6)
    soft = 0.5 * math.log(0.25 * math.exp(2) + 0.75 * math.exp(-2))
    both = 0.4 * math.exp(soft / 0.5) + 0.6 * math.exp(2)
    assert process.value(0.5) == pytest.approx(0.5 * math.log(both))
    assert process.behind([0]) is below
    with pytest.raises(ValueError, match="a whole response"):
        process.behind([1])


def test_trees_are_closed():
    process = draw_process(np.random.default_rng(0), early_end=0.5)
    assert grow(process, 0, MEAN).nodes[0].closed


@pytest.mark.parametrize("settings", [MEAN, SOFT], ids=["mean", "soft"])
def test_counted_duplicates_come_nearer_to_the_policys_true_values(settings):
    count, drop = (
        [found.mean() for found in measure(ARGS, "equal", replace(settings, duplicates=how))]
        for how in ("count", "drop")
    )
    margins = (0.7, 0.7) if settings is MEAN else (0.7, 0.9)
    for counted, dropped, margin in zip(count, drop, margins, strict=True):
        assert counted < margin * dropped


@pytest.mark.parametrize("settings", [MEAN, SOFT], ids=["mean", "soft"])
def test_counted_duplicates_converge_with_breadth(settings):
    narrow, wide = (
        measure(ARGS, "equal", replace(settings, breadth=breadth))[0].mean() for breadth in (2, 20)
    )
    assert wide < narrow / 2


def test_only_counted_duplicates_converge_where_responses_differ_in_length():
    errors = {
        (how, breadth): measure(ARGS, "varied", replace(MEAN, duplicates=how, breadth=breadth))[
            0
        ].mean()
        for how in ("count", "drop")
        for breadth in (5, 20)
    }
    assert errors["count", 20] < 0.6 * errors["count", 5]
    # A branch of longer responses holds more terminals, and all count the same.
    assert errors["drop", 20] > 0.8 * errors["drop", 5]


def test_a_row_for_every_setting(capsys):
    main(Args(problems=2, breadths=(1, 2)))
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 2 * 2 * 2 * 2
    with pytest.raises(InputError, match="--breadths must be at least 1"):
        main(Args(breadths=(0,)))
