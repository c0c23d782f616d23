"""Isotonic regression against brute force, and what a calibration is refused for."""

import itertools
import json
import random
from dataclasses import asdict

import numpy as np
import pytest

from run_lib.commands import InputError
from search_lib.calibration import Calibration, digest_of, fit_isotonic


def brute_force(values, targets):
    """The least squared error of a non-decreasing function, over all cuts into constant levels."""
    knots = sorted(set(values))
    of_knot = [[t for v, t in zip(values, targets, strict=True) if v == knot] for knot in knots]
    best = None
    for num_cuts in range(len(knots)):
        for cuts in itertools.combinations(range(1, len(knots)), num_cuts):
            levels = [
                [t for knot in of_knot[a:b] for t in knot]
                for a, b in itertools.pairwise([0, *cuts, len(knots)])
            ]
            means = [sum(level) / len(level) for level in levels]
            if any(a > b for a, b in itertools.pairwise(means)):
                continue
            error = sum(
                (t - mean) ** 2 for mean, level in zip(means, levels, strict=True) for t in level
            )
            if best is None or error < best - 1e-12:
                best = error
    return best


def test_the_fit_is_the_best_of_all_that_do_not_decrease():
    draw = random.Random(0)
    for _ in range(200):
        size = draw.randrange(1, 9)
        values = [draw.choice([0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0]) for _ in range(size)]
        targets = [float(draw.random() < 0.5) for _ in range(size)]
        knots, fitted = fit_isotonic(np.array(values), np.array(targets))
        assert (np.diff(knots) > 0).all()
        assert (np.diff(fitted) >= 0).all()
        error = ((np.interp(values, knots, fitted) - targets) ** 2).sum()
        assert error == pytest.approx(brute_force(values, targets), abs=1e-9)


def test_a_level_has_two_knots_at_most():
    random_state = np.random.default_rng(0)
    values = random_state.random(2000)
    knots, fitted = fit_isotonic(values, (random_state.random(2000) < values).astype(float))
    assert len(knots) < 200
    assert max(np.unique(fitted, return_counts=True)[1]) == 2
    calibration = Calibration(knots.tolist(), fitted.tolist(), [], None)
    grid = np.linspace(0, 1, 50)
    assert np.abs(np.array(calibration.apply(grid)) - grid).mean() < 0.06


def test_values_outside_of_the_knots_are_those_of_the_ends():
    calibration = Calibration([0.2, 0.6], [0.1, 0.5], [], None)
    assert calibration.apply([0.0, 0.2, 0.4, 0.6, 1.0]) == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5])


def test_a_problem_it_was_fitted_on_is_refused_whatever_its_id():
    calibration = Calibration([0.5], [0.5], [digest_of("What is\n1 + 1?")], "model")
    calibration.check({"a": "What is 1 + 2?"}, "model")
    calibration.check({"a": "What is 1 + 2?"}, None)
    with pytest.raises(InputError, match=r"^--calibration was fitted on 1 of these 2 problems \(b"):
        calibration.check({"a": "What is 1 + 2?", "b": " What is 1 + 1? "}, "model")
    with pytest.raises(InputError, match=r"^--calibration is of the values of another model"):
        calibration.check({"a": "What is 1 + 2?"}, "other")


@pytest.mark.parametrize(
    "changes",
    [
        {"values": []},
        {"values": [0.1, 0.1]},
        {"values": [0.1, 1.5]},
        {"calibrated": [0.5, 0.4]},
        {"calibrated": [0.5]},
        {"calibrated": [0.5, float("nan")]},
        {"calibrated": [0.5, "x"]},
        {"problems": None},
    ],
)
def test_a_damaged_file_is_named(tmp_path, changes):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(asdict(Calibration([0.1, 0.2], [0.3, 0.5], [], None)) | changes))
    with pytest.raises(InputError, match=r"calibration.json is damaged, or of another version"):
        Calibration.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"^--calibration .*absent.json: there is no such file; "):
        Calibration.load(tmp_path / "absent.json")
