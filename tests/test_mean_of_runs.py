"""Mean and spread of runs that differ in their seed, and what is refused."""

import numpy as np
import pytest

from run_lib.files import write_json
from run_lib.settings import as_json
from scripts import mean_of_runs
from search_lib.results.run_config import CONFIG_NAME, RunConfig
from search_lib.search_args import Args
from tests.support import metrics

IDS = ["a", "b", "c", "d"]
RIGHT = {1: [1, 1, 0, 0], 2: [1, 0, 0, 0], 3: [1, 1, 1, 0]}
"""Whether each problem's answer is right, by seed."""


def write_run(folder, seed, problem_ids=IDS, **flags):
    """A run of one sample a problem; returns its folder."""
    args = Args("mine.jsonl", "policy", "value_model", seed=seed, answer_format="boxed")
    named = {"output_path": f"{seed}.jsonl", "classifier_ckpt_path": None}
    write_json(folder / CONFIG_NAME, RunConfig(as_json(args) | named | flags, {}, IDS).document())
    (folder / f"{seed}.jsonl").touch()
    return metrics.write_run(folder, {1: RIGHT[seed]}, ("MV", "pass@1"), problem_ids)


@pytest.fixture
def runs(tmp_path):
    folders = [tmp_path / str(seed) for seed in RIGHT]
    for folder in folders:
        folder.mkdir()
    return [write_run(folder, seed) for folder, seed in zip(folders, RIGHT, strict=True)]


def refusal(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        mean_of_runs.run(["--runs", *map(str, argv)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_mean_spread_and_intervals_side_by_side(runs, capsys):
    mean_of_runs.run(["--runs", *runs])
    header, _, line, _, note, _ = capsys.readouterr().out.splitlines()
    assert " ".join(header.split()) == "budget seed 1 seed 2 seed 3 mean std"
    # Accuracies of 50, 25 and 75 %, whose sample standard deviation is 25.
    scores = np.array(list(RIGHT.values()))
    over_problems = 196.0 * scores.mean(0).std(ddof=1) / 2
    over_searches = 196.0 * (scores.var(0, ddof=1).sum() / 3) ** 0.5 / 4
    interval = f"±{over_problems:.1f} ({over_searches:.1f})"
    assert " ".join(line.split()) == f"MV 1 50.0 25.0 75.0 50.0 {interval} 25.00"
    assert note.startswith("accuracy in %; mean of 3 runs ± 95 % interval over 4 problems")


def test_runs_of_other_settings_are_refused_by_flag(runs, tmp_path, capsys):
    write_run(tmp_path / "2", 2, temperature=0.7, max_concurrent=3)
    line = refusal(capsys, *runs)
    assert line.endswith(
        f"--runs {runs[0]}/1.jsonl and {runs[1]}/2.jsonl differ in more than their seeds: "
        "--temperature (0.6 and 0.7)"
    )


def test_a_run_with_a_value_model_is_another(runs, tmp_path, capsys):
    write_run(tmp_path / "2", 2, classifier_ckpt_path="value_model")
    assert "--classifier_ckpt_path (None and 'value_model')" in refusal(capsys, *runs)


def test_a_run_counts_once(runs, capsys):
    line = refusal(capsys, runs[0], runs[1], runs[0])
    assert line.endswith(f"--runs {runs[0]}/1.jsonl and {runs[0]}/1.jsonl have one --seed, 1")


def test_one_run_has_no_spread(runs, capsys):
    assert "--runs needs at least two" in refusal(capsys, runs[0])


def test_a_run_that_has_not_ended_is_named(runs, tmp_path, capsys):
    write_run(tmp_path / "2", 2, problem_ids=["a"])
    assert f"{runs[1]}: 1 of 4 problems are complete" in refusal(capsys, *runs)
    write_json(tmp_path / "2" / "metrics.json", {"problem_ids": IDS})
    assert f"{runs[1]}/metrics.json is damaged, or of another version" in refusal(capsys, *runs)
    (tmp_path / "2" / "metrics.json").unlink()
    assert f"{runs[1]}: there is no metrics.json; has the run ended?" in refusal(capsys, *runs)
    assert "absent: there is no such file of records" in refusal(capsys, tmp_path / "absent")


def test_a_run_that_lacks_a_cell_of_another_is_named(runs, tmp_path, capsys):
    for seed in (3, 1):  # the first run lacks what the second has, too
        metrics.write_run(tmp_path / str(seed), {1: [1.0] * 4})
        line = refusal(capsys, *runs)
        assert line.endswith(
            f"--runs {tmp_path}/{seed}/{seed}.jsonl: its metrics.json has no pass@1 at budget 1"
        )
