"""Runs that stop problems: against their replay, killed, and shared out."""

import json
import multiprocessing
import zlib

import numpy as np
import pytest
import torch

import inference_eval
from run_lib.commands import InputError
from search_lib.answer_formats import AnswerFormat
from search_lib.results.records import read_records
from search_lib.results.run_config import CONFIG_NAME
from search_lib.results.run_trees import RunTrees
from search_lib.results.shards import merge
from search_lib.results.stopping import STOPPING_RULES, replay
from tests.support.flags import replace_flags
from tests.support.searches import PLAIN, keys, make_args
from tests.support.waiting import wait_for

SMALL = {"num_repetitions": 8, "max_problems": 6, "max_length": 16, "max_concurrent": 5}


def find_answer(self, prompt, response, is_complete=True):
    """A random policy has no answers: they are made of its texts, mostly one of two."""
    return "0012"[zlib.crc32(response.encode()) % 4]


@pytest.fixture(autouse=True)
def _answers(monkeypatch):
    monkeypatch.setattr(AnswerFormat, "find_answer", find_answer)


@pytest.fixture(scope="module")
def never(models, tmp_path_factory):
    """All trees of the problems, and the number that `--stop beta` takes of each."""
    args = make_args(models, tmp_path_factory.mktemp("never"), **SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnswerFormat, "find_answer", find_answer)
        assert inference_eval.main(args) == 0
    run = RunTrees.load(args.output_path)
    order = np.arange(8)[None]
    needed = [
        int(replay(votes, STOPPING_RULES["beta"], (0.9,), order, 2).num_trees[0, 0])
        for votes in run.votes
    ]
    assert 1 < min(needed) < max(needed) == 8
    return args.output_path, dict(zip(run.graded, needed, strict=True))


def beta(models, folder, **changes):
    return make_args(models, folder, **(SMALL | {"stop": "beta", "stop_confidence": 0.9} | changes))


def keys_of(needed):
    return sorted((own, tree) for own, count in needed.items() for tree in range(count))


def check_trees(path, never):
    """The records are those of the trees that the rule takes, with the texts of all trees."""
    assert sorted(keys(path)) == keys_of(never[1])
    all_trees = {record.key: record.responses for record in read_records(never[0])}
    for record in read_records(path):
        texts = [response.text for response in record.responses]
        assert texts == [response.text for response in all_trees[record.key]]
        assert record.is_enough == (record.repetition + 1 == never[1][record.problem_id] < 8)


@pytest.mark.parametrize("speculate", [False, True])
def test_a_run_has_the_trees_of_its_replay_with_the_same_texts(
    models, never, tmp_path, capsys, speculate
):
    needed = never[1]
    args = beta(models, tmp_path, speculate=speculate)
    assert inference_eval.main(args) == 0
    check_trees(args.output_path, never)
    document = json.loads((tmp_path / "metrics.json").read_text())
    trees = list(needed.values())
    assert document["stopping"] == {
        "rule": "beta",
        "confidence": 0.9,
        "trees": trees,
        "mean_trees": pytest.approx(sum(trees) / 6),
        "mean_budget": pytest.approx(4 * sum(trees) / 6),
        "saved_budget": pytest.approx(1 - sum(trees) / 48),
    }
    out = capsys.readouterr().out
    assert f"{48 - sum(trees)} searches were not needed" in out
    assert "6 of 6 problems complete" in out
    # The run is whole: nothing is left to run, and no model is loaded.
    assert inference_eval.main(args) == 0
    assert f"{sum(trees)} searches are there, 0 to run" in capsys.readouterr().out


def run_alone(args):
    torch.set_num_threads(1)  # a forked process has no threads of OpenMP
    inference_eval.main(args)


def test_killed_it_goes_on_to_the_trees_of_an_undisturbed_run(models, never, tmp_path):
    args = beta(models, tmp_path)
    path = args.output_path
    process = multiprocessing.get_context("fork").Process(target=run_alone, args=(args,))
    process.start()
    try:
        wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") >= 4, "4 records", 120)
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
    before = keys(path)
    assert len(before) < len(keys_of(never[1]))
    assert inference_eval.main(args) == 0
    assert keys(path)[: len(before)] == before
    check_trees(path, never)


def test_shards_have_whole_problems_and_merge_to_the_run_of_one_machine(models, never, tmp_path):
    args = beta(models, tmp_path)
    for shard in ("0/2", "1/2"):
        assert inference_eval.main(replace_flags(args, shard=shard)) == 0
    paths = [tmp_path / f"shard-{index}-of-2" / "records.jsonl" for index in range(2)]
    assert [{own for own, _ in keys(path)} for path in paths] == [
        set(list(never[1])[index::2]) for index in range(2)
    ]
    merge(tuple(paths), args.output_path)
    assert keys(args.output_path) == keys_of(never[1])
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert document["stopping"]["trees"] == list(never[1].values())
    # A search that stopped its problem is missed like any other, and those before it.
    lines = paths[0].read_bytes().splitlines(keepends=True)
    last = [record.is_enough for record in read_records(paths[0])].index(True)
    paths[0].write_bytes(b"".join(lines[:last] + lines[last + 1 :]))
    args.output_path.unlink()
    with pytest.raises(InputError, match=r"shard 0/2 .* lacks [1-9] searches: problem "):
        merge(tuple(paths), args.output_path)


def test_runs_from_before_the_flag_go_on_and_others_are_not_mixed(models, tmp_path, capsys):
    args = make_args(models, tmp_path, search_type="bon", **PLAIN)
    assert inference_eval.main(args) == 0
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    del config["stop"], config["stop_confidence"]
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config))
    assert inference_eval.main(args) == 0
    message = r"other settings: --stop \(was 'never', now 'decided'\)"
    with pytest.raises(InputError, match=message):
        inference_eval.main(replace_flags(args, stop="decided"))
