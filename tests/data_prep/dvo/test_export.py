"""Paths as lines for other trainers, and back."""

import json
import shutil
from itertools import groupby

import pytest

from data_prep.dvo import export, paths, reference
from dvo_lib.columns import REFERENCE
from run_lib.commands import InputError
from search_lib.prompts import stop_token_ids
from tests.support.outputs import read_rows
from tests.support.trees import write_trees

PUBLISHED = (
    *("prompt", "completions", "q_credits", "acc", "question", "ground_truth"),
    *("final_answer", "tag", "all_visit_num", "all_q_value"),
)


@pytest.fixture(scope="module")
def data_folder(path_folder, tiny_policy, tmp_path_factory):
    output = tmp_path_factory.mktemp("data") / "data"
    reference.run(reference.ReferenceArgs(input=path_folder, output=output, model=str(tiny_policy)))
    return output


@pytest.fixture(scope="module")
def texts(toy_tokenizer, tiny_policy):
    ends = stop_token_ids(str(tiny_policy), toy_tokenizer)
    return export.Texts(toy_tokenizer, ends, export.ANY_FORMAT)


def export_lines(data_folder, output, **flags):
    export.run(export.ExportArgs(input=data_folder, output=output, **flags))
    return [json.loads(line) for line in output.read_text().splitlines()]


def make_row(path, steps, values, reward):
    """A path of bare ids: `steps` name them."""
    return {
        "problem_id": "p",
        "path": path,
        "prompt_ids": [1],
        "step_ids": steps,
        "values": values,
        "reward": reward,
        "correct": reward > 0,
    }


def ids_of(lines):
    names = ("prompt_token_ids", "chosen_token_ids", "rejected_token_ids")
    return [tuple(line[name] for name in names) for line in lines]


# DVO


def test_dvo_lines_read_back_into_the_same_paths(data_folder, tmp_path):
    for split in ("train", "validation"):
        path = tmp_path / f"{split}.jsonl"
        lines = export_lines(data_folder, path, format="dvo", split=split)
        assert list(export.read_dvo_lines(path)) == read_rows(data_folder, split)
        assert all(tuple(line)[: len(PUBLISHED)] == PUBLISHED for line in lines)


def test_dvo_lines_hold_what_was_published(data_folder, tmp_path, toy_tokenizer):
    lines = export_lines(data_folder, tmp_path / "out.jsonl", format="dvo")
    for line, row in zip(lines, read_rows(data_folder), strict=True):
        assert line["prompt"] == toy_tokenizer.decode(row["prompt_ids"]) == row["problem"]
        assert "".join(line["completions"]) == toy_tokenizer.decode(
            [i for ids in row["step_ids"] for i in ids]
        )
        assert line["final_answer"] == line["completions"][-1].split(": ")[1].split("<")[0]
        assert line["q_credits"] == pytest.approx(
            [
                after - before
                for before, after in zip(row["values"], line["all_q_value"], strict=True)
            ]
        )
        assert line["acc"] == (line["all_q_value"][-1] > 0)


def test_a_file_of_dvo_lines_makes_the_lines_of_its_folder(data_folder, tiny_policy, tmp_path):
    export_lines(data_folder, tmp_path / "dvo.jsonl", format="dvo")
    for name in ("dpo", "dvo"):
        flags = {"format": name, "tokenizer": str(tiny_policy)}
        again = export_lines(tmp_path / "dvo.jsonl", tmp_path / f"again-{name}.jsonl", **flags)
        assert again == export_lines(data_folder, tmp_path / f"{name}-2.jsonl", format=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_ids": None}, "line 2: no path"),
        ({"values": [0.0] * 9}, r"line 2: no path: lists of \[\d+, 9\] steps"),
        ({"tag": "x"}, "line 2: no path"),
        (None, "line 2: no column 'prompt_ids'"),
    ],
)
def test_lines_that_hold_no_path_are_named(data_folder, tmp_path, change, message):
    file = tmp_path / "dvo.jsonl"
    lines = export_lines(data_folder, file, format="dvo")
    if change is None:  # as published elsewhere
        lines[1] = {name: lines[1][name] for name in PUBLISHED} | {"problem_id": "p"}
    else:
        lines[1] |= change
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(InputError, match=message):
        list(export.read_dvo_lines(file))


# Formats of TRL


def test_completions_are_the_text_of_their_ids_without_the_end_token(data_folder, tmp_path, texts):
    tokenizer = texts.tokenizer
    lines = export_lines(data_folder, tmp_path / "out.jsonl", format="kto")
    rows = read_rows(data_folder)
    for line, row in zip(lines, rows, strict=True):
        assert list(line)[:2] == ["prompt", "completion"]
        assert line["label"] is row["correct"]
        assert line["prompt_token_ids"] == row["prompt_ids"]
        assert line["completion_token_ids"] == [i for ids in row["step_ids"] for i in ids]
        assert line["completion"] + tokenizer.eos_token == "".join(row["steps"])
        ids = tokenizer.encode(line["prompt"] + line["completion"], add_special_tokens=False)
        assert ids == line["prompt_token_ids"] + line["completion_token_ids"][:-1]


def test_rft_is_the_right_paths(data_folder, tmp_path):
    rft = export_lines(data_folder, tmp_path / "rft.jsonl", format="rft")
    kto = export_lines(data_folder, tmp_path / "kto.jsonl", format="kto")
    right = [line for line in kto if line.pop("label")]
    assert rft == right
    assert 0 < len(rft) < len(kto)


def test_dpo_pairs_paths_of_one_tree_each_once(data_folder, tmp_path):
    lines = export_lines(data_folder, tmp_path / "out.jsonl", format="dpo")
    rows = read_rows(data_folder)
    found = {key: list(group) for key, group in groupby(lines, lambda line: line["problem_id"])}
    for problem_id, tree in groupby(rows, lambda row: row["problem_id"]):
        paths = list(tree)
        sides = [
            [[i for ids in row["step_ids"] for i in ids] for row in paths if row["correct"] is side]
            for side in (True, False)
        ]
        pairs = found.get(problem_id, [])
        assert len(pairs) == min(map(len, sides))
        assert [line["chosen_token_ids"] for line in pairs] == sides[0][: len(pairs)]
        assert [line["rejected_token_ids"] for line in pairs] == sides[1][: len(pairs)]


def test_step_dpo_pairs_the_steps_with_which_paths_part(texts):
    tree = [
        make_row(0, [[11], [12], [13]], [0.0, 0.2, 0.5], 1.0),
        make_row(1, [[11], [12], [14]], [0.0, 0.2, 0.5], -1.0),
        make_row(2, [[11], [15], [16]], [0.0, 0.2, -0.5], -1.0),
        make_row(3, [[11], [15], [17]], [0.0, 0.2, -0.5], -1.0),  # the same pair as above
        make_row(4, [[18]], [0.0], -1.0),
    ]
    assert ids_of(export.step_dpo_lines(tree, texts)) == [
        ([1, 11, 12], [13], [14]),
        ([1, 11], [12], [15]),
        ([1], [11], [18]),
    ]


def test_step_dpo_never_prefers_a_step_of_less_value(texts):
    # Step 21 leads to more right answers than 20, of which a right path has one.
    tree = [
        make_row(0, [[20], [1]], [0.0, -0.5], 1.0),
        make_row(1, [[21], [2]], [0.0, 0.5], -1.0),
    ]
    assert list(export.step_dpo_lines(tree, texts)) == []


def test_step_dpo_takes_the_four_pairs_of_the_largest_differences(texts):
    values = [0.1, -0.8, 0.0, -0.3, 0.4, -0.2]
    wrong = [make_row(n, [[20 + n], [2]], [0.0, v], -1.0) for n, v in enumerate(values, start=1)]
    tree = [make_row(0, [[20], [1]], [0.0, 0.5], 1.0), *wrong]
    assert ids_of(export.step_dpo_lines(tree, texts)) == [
        ([1], [20], [20 + n]) for n in (2, 3, 4, 6)
    ]


def test_step_dpo_lines_of_a_data_set_are_steps_of_its_trees(data_folder, tmp_path, texts):
    lines = export_lines(data_folder, tmp_path / "out.jsonl", format="step_dpo")
    steps = {
        (row["problem_id"], tuple(ids)) for row in read_rows(data_folder) for ids in row["step_ids"]
    }
    for line in lines:
        assert line["prompt"].startswith("What is problem")
        for side in ("chosen", "rejected"):
            ids = line[f"{side}_token_ids"]
            assert (line["problem_id"], tuple(ids)) in steps
            assert line[side] == texts.completion(ids)


# Files


def test_a_finished_export_stays_and_another_is_refused(data_folder, tmp_path):
    output = tmp_path / "out.jsonl"
    export_lines(data_folder, output, format="dpo")
    before = output.stat().st_mtime_ns
    export_lines(data_folder, output, format="dpo")
    assert output.stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"--format \(was 'dpo', now 'kto'\)"):
        export_lines(data_folder, output, format="kto")


def test_no_file_is_left_without_lines(data_folder, tmp_path, texts):
    rows = [row for row in read_rows(data_folder) if row["correct"]]
    args = export.ExportArgs(input=data_folder, output=tmp_path / "x.jsonl", format="dpo")
    with pytest.raises(InputError, match="paths make no line of --format dpo"):
        export.write_lines(args, iter(rows), texts)
    assert not list(tmp_path.iterdir())


def test_paths_without_a_reference_need_the_name_of_the_policy(path_folder, tiny_policy, tmp_path):
    with pytest.raises(InputError, match="--tokenizer is needed"):
        export_lines(path_folder, tmp_path / "x.jsonl", format="dvo")
    lines = export_lines(
        path_folder, tmp_path / "x.jsonl", format="dvo", tokenizer=str(tiny_policy)
    )
    assert lines[0][REFERENCE] is None


def test_another_policys_tokenizer_is_refused(data_folder, tmp_path, texts):
    rows = read_rows(data_folder)
    rows[0]["problem"] = "another one"
    args = export.ExportArgs(input=data_folder, output=tmp_path / "x", format="dvo", tokenizer="t")
    with pytest.raises(InputError, match="--tokenizer t: its tokenizer reads another prompt"):
        export.write_lines(args, iter(rows), texts)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("so\n\nFinal Answer: 12\n", "12"),
        ("Answer: 3\nno\nAnswer: 4", "4"),
        ("so **Answer:** $\\boxed{5}$.", "5"),
        ("thus \\boxed{7}.", "7"),
        ("nothing", None),
    ],
)
def test_answers_are_found_where_nothing_says_how(texts, response, answer):
    row = {"prompt_ids": [5], "step_ids": [texts.tokenizer.encode(response)]}
    assert texts.answer(row) == answer


@pytest.fixture(scope="module")
def known_folder(trees, tiny_policy, tmp_path_factory):
    """Paths of trees whose settings are known: an answer would stand in a box."""
    folder = tmp_path_factory.mktemp("known")
    write_trees(folder / "trees.jsonl", trees)
    settings = {"model": str(tiny_policy), "answer_format": "boxed"}
    (folder / "trees_settings.json").write_text(json.dumps(settings))
    paths.run(paths.PathsArgs(input=(folder,), output=folder / "paths"))
    return folder / "paths"


def test_paths_know_the_policy_and_the_answers_of_their_trees(known_folder, data_folder, tmp_path):
    lines = export_lines(known_folder, tmp_path / "dvo.jsonl", format="dvo")
    assert {line["final_answer"] for line in lines} == {None}
    again = export_lines(tmp_path / "dvo.jsonl", tmp_path / "again.jsonl", format="dvo")
    assert again == lines
    others = export_lines(data_folder, tmp_path / "others.jsonl", format="dvo")
    assert None not in {line["final_answer"] for line in others}


def test_the_reference_hands_on_what_the_trees_said(known_folder, tiny_policy, tmp_path):
    moved = shutil.copytree(tiny_policy, tmp_path / "moved")
    output = tmp_path / "data"
    reference.run(reference.ReferenceArgs(input=known_folder, output=output, model=str(moved)))
    assert export.recorded(output) == {"model": str(moved), "answer_format": "boxed"}


def test_of_trees_that_differ_nothing_is_known(known_folder, tmp_path):
    folder = shutil.copytree(known_folder, tmp_path / "paths")
    stage = json.loads((folder / "stage.json").read_text())
    (settings,) = stage["origin"]["trees_settings"]
    stage["origin"]["trees_settings"].append(settings | {"answer_format": "choice"})
    (folder / "stage.json").write_text(json.dumps(stage))
    assert export.recorded(folder) == {"model": settings["model"]}
