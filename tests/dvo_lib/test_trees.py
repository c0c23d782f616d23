"""Trees on disk: whole or absent, each problem's once."""

import json
from dataclasses import asdict

import pytest

from dvo_lib.trees import RecordedStep, TreeFile, TreeRecord, read_trees, tree_files
from run_lib.commands import InputError
from search_lib.results.cost import SearchCost


def step(parent, terminal=None, reward=None):
    return RecordedStep(parent, [1, 2], "7 \u2028\n\n", 1, 1, 0.5, 1.0, terminal, reward)


def make_tree(problem_id="p", last=None, parent=1):
    nodes = [step(None), step(0), step(0, "answer", 1.0), step(parent, last, last and -1.0)]
    return TreeRecord(problem_id, "How many?", "7", 3, [5], 2, nodes, SearchCost(8, 0.5))


def write(path, trees):
    with TreeFile(path, "--output") as file:
        for tree in trees:
            file.append(tree)


def test_trees_come_back_as_they_were(tmp_path):
    trees = [make_tree("a"), make_tree("b", "no_answer")]  # of one question
    write(tmp_path / "trees.jsonl", trees)
    assert list(read_trees(tmp_path / "trees.jsonl")) == trees


def test_a_torn_tree_is_moved_aside_and_its_problem_is_missing(tmp_path):
    path = tmp_path / "trees.jsonl"
    write(path, [make_tree("a"), make_tree("b")])
    path.write_bytes(path.read_bytes()[:-20])
    assert [tree.problem_id for tree in read_trees(path)] == ["a"]
    with TreeFile(path, "--output") as file:
        assert file.recover({"a", "b"}) == 1
        assert file.finished == {"a"}


def changed(index, name, value):
    content = asdict(make_tree())
    content["nodes"][index][name] = value
    return content


FAULTS = [
    (changed(3, "parent", 3), "nodes[3].parent is 3"),
    (changed(0, "parent", 0), "nodes[0].parent is 0"),
    (changed(2, "parent", None), "nodes[2].parent is None"),
    (changed(1, "token_ids", [1, "2"]), "nodes[1].token_ids[1] is a value of another type: 2"),
    (changed(1, "token_ids", [True]), "nodes[1].token_ids[0] is a value of another type: True"),
    (changed(1, "reward", "1"), "nodes[1].reward is a value of another type: 1"),
    (asdict(make_tree()) | {"nodes": []}, "nodes is empty"),
    (asdict(make_tree()) | {"prompt_ids": None}, "prompt_ids is a value of another type: None"),
]


@pytest.mark.parametrize(("content", "fault"), FAULTS, ids=[fault for _, fault in FAULTS])
def test_a_line_that_is_no_tree_is_named(tmp_path, content, fault):
    path = tmp_path / "trees.jsonl"
    path.write_text(json.dumps(asdict(make_tree("a"))) + "\n" + json.dumps(content) + "\n")
    with pytest.raises(InputError) as refusal:
        list(read_trees(path))
    message = f"{path}, line 2: JSON, but no record of this version: {fault}"
    assert str(refusal.value) == message


def test_a_tree_of_another_problem_is_named(tmp_path):
    write(tmp_path / "trees.jsonl", [make_tree("a")])
    message = "line 1: the tree of problem a is not one of this run's searches"
    with pytest.raises(InputError, match=message):
        list(read_trees(tmp_path / "trees.jsonl", {"b"}))


def test_a_tree_is_closed_where_every_leaf_is_a_terminal():
    assert [make_tree(last=last).is_closed for last in (None, "too_deep")] == [False, True]


def test_a_folder_stands_for_its_trees_and_those_of_its_shards(tmp_path):
    names = ["trees.jsonl", "shard-0-of-2/trees.jsonl", "shard-1-of-2/trees.jsonl"]
    for index, name in enumerate(reversed(names)):
        write(tmp_path / name, [make_tree(str(index))])
    assert tree_files(tmp_path) == [tmp_path / name for name in names]
    assert [tree.problem_id for tree in read_trees(tmp_path)] == ["2", "1", "0"]
    (tmp_path / "empty").mkdir()
    for empty in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(ValueError, match=f"^{empty} is no file of trees, nor a folder with"):
            read_trees(empty)
