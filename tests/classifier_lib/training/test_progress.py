"""The progress of a run: what a checkpoint stores of it, and when it has diverged."""

import pytest

from classifier_lib.flops import TokenCounts
from classifier_lib.training.progress import Diverged, Progress
from classifier_lib.training.step import StepResult

COUNTS = TokenCounts(0, 0, 0, 0, 0)
GOOD = StepResult(0.5, 1.0, COUNTS, num_truncated=2, num_without_loss=1, skipped=False)
BAD = StepResult(float("nan"), 1.0, COUNTS, num_truncated=1, num_without_loss=1, skipped=True)


def sampler(position: int) -> dict[str, int]:
    return {"epoch": 0, "position": position, "num_groups": 9}


def after(*results: StepResult, max_bad: int = 3) -> Progress:
    progress = Progress(sampler(0))
    for position, result in enumerate(results, start=1):
        progress.add(result, sampler(position), max_bad)
    return progress


def test_steps_and_skipped_ones_are_counted():
    progress = after(GOOD, BAD, BAD, GOOD, BAD)
    assert progress.state() == {
        "step": 5,
        "sampler": sampler(5),
        "num_bad": 3,
        "bad_in_a_row": 1,
        "all_without_loss": 5,
    }
    assert progress.num_truncated == 7
    assert progress.num_without_loss == progress.all_without_loss == 5


def test_a_resumed_run_has_the_state_of_its_checkpoint():
    state = after(GOOD, BAD).state()
    resumed = Progress.resume({**state, "left_out": [], "trackers": None})
    assert resumed.state() == state
    assert resumed.saved_step == 2
    del state["all_without_loss"]  # as in earlier versions
    assert Progress.resume(state).all_without_loss == 0


def test_consecutive_bad_steps_end_the_run():
    progress = after(BAD, BAD, GOOD, BAD, BAD)
    with pytest.raises(Diverged, match="not finite in 3 consecutive steps, the last one step 6"):
        progress.add(BAD, sampler(6), 3)
