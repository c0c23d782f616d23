"""Paths in files: what is drawn, how problems are divided, and values from either source."""

import json
from dataclasses import replace
from itertools import groupby

import pyarrow.parquet as pq
import pytest
import torch

from classifier_lib.modeling import Qwen2ForClassifier
from data_prep.dvo import paths
from dvo_lib.columns import PATH_SCHEMA
from run_lib.commands import InputError
from tests.support.outputs import bad_rows, contents, read_report, read_rows
from tests.support.tiny_models import save_tiny_classifier
from tests.support.trees import write_trees

SPLITS = ("train", "validation")


def all_rows(folder):
    return [row for split in SPLITS for row in read_rows(folder, split)]


def run(path_args, output, **changes):
    args = replace(path_args, output=output, **changes)
    paths.run(args)
    return all_rows(output)


def test_rows_are_the_paths_of_their_tree(path_folder, trees):
    by_id = {tree.problem_id: tree for tree in trees}
    rows = all_rows(path_folder)
    assert len(rows) > 40
    for row in rows:
        tree = by_id[row["problem_id"]]
        node, nodes = 0, []
        for ids in row["step_ids"]:
            (node,) = (
                index
                for index, step in enumerate(tree.nodes)
                if step.parent == node and step.token_ids == ids
            )
            nodes.append(tree.nodes[node])
        assert nodes[-1].terminal == "answer"
        assert row["steps"] == [step.text for step in nodes]
        assert row["visits"] == [step.visits for step in nodes]
        assert row["values"] == [tree.nodes[0].value, *(step.value for step in nodes[:-1])]
        assert row["reward"] == nodes[-1].reward
        assert row["correct"] == (row["reward"] > 0)
        assert (row["prompt_ids"], row["answer"]) == (tree.prompt_ids, tree.reference)
        assert row["reference_logprobs"] is None


def test_files_have_the_schema(path_folder):
    for file in path_folder.rglob("*.parquet"):
        assert pq.read_schema(file).equals(PATH_SCHEMA)


def test_paths_of_a_tree_are_neighbours_and_numbered(path_folder):
    for split in SPLITS:
        groups = groupby(read_rows(path_folder, split), lambda row: row["problem_id"])
        numbers = [[row["path"] for row in group] for _, group in groups]
        assert all(found == list(range(len(found))) for found in numbers)
        assert len(numbers) == len({row["problem_id"] for row in read_rows(path_folder, split)})


def test_both_sides_have_their_limit_and_every_tree_a_right_path(path_args, tmp_path):
    rows = run(path_args, tmp_path / "paths", paths_per_side=1)
    sides = [
        [row["correct"] for row in group]
        for _, group in groupby(rows, lambda row: row["problem_id"])
    ]
    assert {tuple(side) for side in sides} <= {(True,), (True, False)}
    assert (True, False) in map(tuple, sides)


def test_the_report_counts_what_is_left_out(path_folder, trees):
    report = read_report(path_folder)
    rows = all_rows(path_folder)
    assert report["rows_in"] == len(trees)
    assert report["rows_out"] == len(rows)
    totals = report["totals"]
    assert totals["right paths"] == sum(row["correct"] for row in rows)
    assert totals["right paths"] + totals["wrong paths"] == len(rows)
    assert {"id-0", "id-1"} <= set(bad_rows(path_folder)["no right answer"])
    left_out = report["bad_rows"]["no right answer"]["count"]
    assert totals["trees with paths"] == len(trees) - left_out


def test_right_answers_on_few_visits_are_counted_apart(path_args, tmp_path):
    run(path_args, tmp_path / "paths", min_visits=5)
    assert bad_rows(tmp_path / "paths").keys() == {
        "no right answer",
        "right answers on too few visits",
    }


def test_a_question_is_in_one_split_whatever_its_id_and_the_seed(path_args, tmp_path, trees):
    again = [replace(tree, problem_id=f"again-{tree.problem_id}") for tree in trees]
    file = write_trees(tmp_path / "trees.jsonl", again)
    sides = []
    for seed in (0, 1):
        output = tmp_path / f"paths-{seed}"
        run(path_args, output, input=(*path_args.input, file), seed=seed)
        sides.append({s: {row["problem"] for row in read_rows(output, s)} for s in SPLITS})
    assert sides[0] == sides[1]
    assert not sides[0]["train"] & sides[0]["validation"]
    assert all(sides[0].values())


def test_the_same_seed_gives_the_same_bytes_in_any_order_of_work(path_args, path_folder, tmp_path):
    output = tmp_path / "paths"
    run(path_args, output)
    assert contents(output) == contents(path_folder)
    (output / "manifests" / "train-00001-of-00004.json").unlink()  # as a kill leaves it
    (output / "report.json").unlink()
    run(path_args, output)
    assert contents(output) == contents(path_folder)


def test_another_seed_draws_other_paths(path_args, path_folder, tmp_path):
    assert run(path_args, tmp_path / "paths", seed=1) != all_rows(path_folder)


def test_other_settings_or_trees_are_refused(path_args, tmp_path, trees):
    output = tmp_path / "paths"
    run(path_args, output)
    with pytest.raises(InputError, match=r"--min_visits \(was 1, now 2\)"):
        run(path_args, output, min_visits=2)
    with pytest.raises(InputError, match=r"--input \(its content has changed\)"):
        run(path_args, output, input=(write_trees(tmp_path / "trees.jsonl", trees[:-1]),))


# Values by a value model


@torch.inference_mode()
def direct_values(model, row):
    """V at the end of the prompt and of each step but the last, each sequence alone."""
    found, ids = [], list(row["prompt_ids"])
    for step in row["step_ids"]:
        probability = model(torch.tensor([ids])).success_probs[0, -1].item()
        found.append(2 * probability - 1)
        ids += step
    return found


@pytest.fixture(scope="module")
def valued_rows(path_args, value_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("valued") / "paths"
    changes = {"targets": "value_model", "classifier_ckpt_path": str(value_model)}
    return run(path_args, output, **changes)


def test_values_of_a_model_are_those_of_direct_calls(valued_rows, value_model, path_folder):
    model = Qwen2ForClassifier.from_pretrained(value_model).eval()
    for row in valued_rows:
        assert row["values"] == pytest.approx(direct_values(model, row), abs=1e-5)
    spread = {round(value, 3) for row in valued_rows for value in row["values"]}
    assert len(spread) > 20
    of_trees = all_rows(path_folder)
    assert [row["step_ids"] for row in valued_rows] == [row["step_ids"] for row in of_trees]


@pytest.mark.parametrize("level", ["step", "response"])
@pytest.mark.parametrize("targets", ["mcts", "value_model"])
def test_credits_add_up_to_the_reward_minus_the_value_of_the_prompt(
    path_args, value_model, tmp_path, targets, level
):
    model = str(value_model) if targets == "value_model" else None
    changes = {"targets": targets, "classifier_ckpt_path": model, "level": level}
    for row in run(path_args, tmp_path / "paths", **changes):
        assert sum(row["credits"]) == pytest.approx(row["reward"] - row["values"][0])
        assert len(row["credits"]) == len(row["values"]) == len(row["step_ids"])
        assert all(abs(value) <= 1 for value in row["values"])


def test_the_response_level_is_each_path_as_one_step(path_args, path_folder, tmp_path):
    by_step = all_rows(path_folder)
    for row, steps in zip(
        run(path_args, tmp_path / "paths", level="response"), by_step, strict=True
    ):
        assert row["step_ids"] == [[token for ids in steps["step_ids"] for token in ids]]
        assert row["steps"] == ["".join(steps["steps"])]
        assert row["credits"] == [steps["reward"] - steps["values"][0]]


def test_trees_longer_than_the_value_models_context_are_left_out(path_args, tmp_path, trees):
    model = save_tiny_classifier(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["max_position_embeddings"] = 34
    (model / "config.json").write_text(json.dumps(config))
    changes = {"targets": "value_model", "classifier_ckpt_path": str(model)}
    rows = run(path_args, tmp_path / "paths", **changes)
    assert rows
    assert bad_rows(tmp_path / "paths")["too long for the value model"]
    states = [len(row["prompt_ids"]) + sum(map(len, row["step_ids"][:-1])) for row in rows]
    assert max(states) <= 34


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paths_per_side": 0}, "--paths_per_side must be at least 1"),
        ({"validation_share": 1.0}, "--validation_share must be in"),
        ({"targets": "value_model"}, "--classifier_ckpt_path go together"),
        ({"classifier_ckpt_path": "x"}, "--classifier_ckpt_path go together"),
    ],
)
def test_flags_that_no_run_can_have_are_named(path_args, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(path_args, tmp_path / "paths", **changes)
    assert not (tmp_path / "paths").exists()


def test_a_value_model_of_another_vocabulary_is_refused(path_args, tmp_path):
    model = save_tiny_classifier(tmp_path / "model", vocab_size=80)
    changes = {"targets": "value_model", "classifier_ckpt_path": str(model)}
    with pytest.raises(InputError, match=r"vocabulary of 80 tokens, and the tree of id-\d+ holds"):
        run(path_args, tmp_path / "paths", **changes)


def test_a_tree_that_is_there_twice_is_named(path_args, tmp_path):
    with pytest.raises(InputError, match="the tree of id-0 with the seed 3 is there twice"):
        run(path_args, tmp_path / "paths", input=path_args.input * 2)


@pytest.mark.parametrize("name", ["", "x.jsonl"])
def test_inputs_without_trees_are_named(path_args, tmp_path, name):
    with pytest.raises(InputError, match=f"--input {tmp_path / name} is no file of trees"):
        run(path_args, tmp_path / "paths", input=(tmp_path / name,))


def test_the_settings_of_the_trees_stay_with_their_paths(path_args, tmp_path, trees):
    folders = [tmp_path / f"shard-{index}-of-3" for index in range(3)]
    for index, folder in enumerate(folders):
        folder.mkdir()
        write_trees(folder / "trees.jsonl", trees[index::3])
        settings = {"model": "policy", "answer_format": "boxed" if index else "choice"}
        (folder / "trees_settings.json").write_text(json.dumps(settings))
    output = tmp_path / "paths"
    run(path_args, output, input=(tmp_path,))
    origin = json.loads((output / "stage.json").read_text())["origin"]
    assert origin["trees"] == [str(folder / "trees.jsonl") for folder in folders]
    assert origin["trees_settings"] == [
        {"model": "policy", "answer_format": "choice"},
        {"model": "policy", "answer_format": "boxed"},
    ]


def test_trees_without_any_right_answer_are_an_error(path_args, tmp_path, trees):
    file = write_trees(tmp_path / "trees.jsonl", trees[:2])
    with pytest.raises(InputError, match="no tree gives a path"):
        run(path_args, tmp_path / "paths", input=(file,), validation_share=0.0)
