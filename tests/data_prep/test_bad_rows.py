"""Rows that can't be used are counted and named; bad settings are refused."""

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import label, roll_in, roll_out
from data_prep.columns import ROLL_IN_SCHEMA, ROLL_OUT_SCHEMA
from data_prep.reports import BadRow, RowReport
from data_prep.sources import read_texts
from run_lib.commands import InputError
from run_lib.settings import as_json
from tests.support.chain import (
    ScriptedEngine,
    label_args,
    roll_in_args,
    roll_out_args,
    use_engine,
    write_problems,
)
from tests.support.flags import replace_flags
from tests.support.outputs import bad_rows, only_folder, read_report, read_rows

# Bad rows


def roll_in_problems(problems, policy, output, engine, **changes) -> Path:
    """Rolls in with an engine of the test's, all problems in one file; returns the folder."""
    with pytest.MonkeyPatch.context() as patch:
        use_engine(patch, engine)
        roll_in.roll_in(roll_in_args(problems, policy, output, rows_per_file=6, **changes))
    return only_folder(output)


@pytest.fixture(scope="module")
def bad_problems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_problems")
    changes = {
        0: {"answer": None},
        1: {"problem": "  "},
        3: {"problem": "start" + " +2" * 450},
        4: {"problem": "start 7 *9"},
    }
    write_problems(folder, changes)
    return folder


@pytest.fixture(scope="module")
def bad_roll_ins(bad_problems, hasty_policy, tokenizer, tmp_path_factory):
    engine = ScriptedEngine(tokenizer, 20, empty="7 *9")
    return roll_in_problems(bad_problems, hasty_policy, tmp_path_factory.mktemp("out"), engine)


def test_bad_problems_are_counted_and_named(bad_roll_ins):
    assert bad_rows(bad_roll_ins) == {
        "no answer": ["row-0"],
        "no problem": ["row-1"],
        "prompt too long": ["row-3"],
        "empty generation": ["row-4"],
    }
    report = read_report(bad_roll_ins)
    assert (report["rows_in"], report["rows_out"]) == (6, 2)


def test_the_problems_between_bad_ones_are_rolled_in(bad_roll_ins):
    rows = read_rows(bad_roll_ins)
    assert [(row["row"], row["message_id"], row["problem"], row["solution"]) for row in rows] == [
        (2, "row-2", "start 2 +3 *2", ""),
        (5, "row-5", "start 5 +3 *2", ""),
    ]


def test_empty_responses_are_drawn_again(bad_problems, hasty_policy, tokenizer, tmp_path):
    engine = ScriptedEngine(tokenizer, 20, empty="7 *9", empty_draws=2)
    folder = roll_in_problems(bad_problems, hasty_policy, tmp_path, engine)
    assert "empty generation" not in bad_rows(folder)
    # 3 of the first call, one of which is empty once more.
    assert read_report(folder)["totals"]["empty generations drawn again"] == 4


def test_a_refused_problem_is_named(bad_problems, hasty_policy, tokenizer, tmp_path):
    engine = ScriptedEngine(tokenizer, 20, refuse="7 *9")
    folder = roll_in_problems(bad_problems, hasty_policy, tmp_path, engine)
    assert bad_rows(folder)["refused by the engine"] == ["row-4"]


def test_a_problem_that_can_not_be_plain_text_is_named(hasty_policy, tokenizer, tmp_path):
    policy = shutil.copytree(hasty_policy, tmp_path / "policy")
    template = "{{ messages[0].content | length }} {{ messages[0].content }}<think>"
    (policy / "chat_template.jinja").write_text(template)
    write_problems(tmp_path / "in", {2: {"problem": "start 7 </think> *9"}})
    folder = roll_in_problems(
        tmp_path / "in", policy, tmp_path / "out", ScriptedEngine(tokenizer, 20)
    )
    assert bad_rows(folder) == {"control tokens": ["row-2"]}
    assert len(read_rows(folder)) == 5


def test_problems_with_one_id_are_told_apart_by_their_rows(
    hasty_policy, tokenizer, tmp_path, monkeypatch
):
    write_problems(tmp_path / "in", {n: {"uuid": "same"} for n in (1, 2, 4)})
    use_engine(monkeypatch, ScriptedEngine(tokenizer, 20))
    roll_in.roll_in(roll_in_args(tmp_path / "in", hasty_policy, tmp_path / "a"))
    roll_out.roll_out(roll_out_args(tmp_path / "a", hasty_policy, tmp_path / "b"))
    ids = ["row-0", "same", "same", "row-3", "same", "row-5"]
    assert [row["message_id"] for row in read_rows(tmp_path / "b")] == ids


def test_bytes_that_are_no_text_are_replaced(tmp_path):
    binary = pa.array([b"start 1 \xff", None, b"\xc3\xa9"])
    table = pa.table({"problem": binary.cast(pa.string(), safe=False), "answer": ["1", "2", "3"]})
    assert read_texts(table) == [
        {"problem": "start 1 \ufffd", "answer": "1"},
        {"problem": None, "answer": "2"},
        {"problem": "é", "answer": "3"},
    ]


def test_ids_of_several_lines_are_shown_on_one():
    report = RowReport()
    report.add(BadRow("../a\nb\x1b[31m", "no answer", "What is\n1?"))
    assert report.format().splitlines()[-1].strip() == r"../a\nb\x1b[31m: What is 1?"


def test_ids_fall_back_to_hashes(hasty_policy, tokenizer, tmp_path):
    write_problems(tmp_path / "in", {1: {"uuid": None}, 2: {"uuid": None, "problem": None}})
    engine = ScriptedEngine(tokenizer, 20)
    folder = roll_in_problems(tmp_path / "in", hasty_policy, tmp_path / "out", engine)
    ids = [row["message_id"] for row in read_rows(folder)]
    assert ids[:1] + ids[2:] == ["row-0", "row-3", "row-4", "row-5"]
    assert re.fullmatch("[0-9a-f]{16}", ids[1])
    assert bad_rows(folder) == {"no problem": ["#2"]}


@pytest.fixture(scope="module")
def damaged_roll_ins(hasty_policy, tokenizer, tmp_path_factory):
    """Roll-ins of two models, of which only row-3 and row-4 are as they were made."""
    folder = tmp_path_factory.mktemp("damaged")
    write_problems(folder / "in", {0: {"answer": ""}, 4: {"problem": "start 7 *9"}})
    other = shutil.copytree(hasty_policy, folder / "other")
    for model, refuse in ((hasty_policy, ""), (other, "start 2")):
        engine = ScriptedEngine(tokenizer, 20, refuse=refuse)
        output = folder / "a" / model.name
        roll_in_problems(folder / "in", model, output, engine, models=(f"{model}:3",))
        only_folder(output).rename(folder / "a" / f"of {model.name}")
        output.rmdir()
    for stage in (folder / "a").iterdir():
        (path,) = (stage / "train").iterdir()
        rows = pq.read_table(path).to_pylist()
        rows[0]["prompt_ids"] = rows[0]["prompt_ids"][::-1]
        rows[1]["response_ids"][0][0] = 291 if rows[1]["message_id"] == "row-2" else 5
        if rows[-1]["message_id"] == "row-5":
            rows[-1]["response_ids"][0][0] = 291
        pq.write_table(pa.Table.from_pylist(rows, ROLL_IN_SCHEMA), path)
    return folder / "a"


def test_bad_roll_ins_are_counted_and_named(
    damaged_roll_ins, hasty_policy, tokenizer, tmp_path, monkeypatch
):
    use_engine(monkeypatch, ScriptedEngine(tokenizer, 20, refuse="7 *9"))
    roll_out.roll_out(roll_out_args(damaged_roll_ins, hasty_policy, tmp_path))
    assert bad_rows(tmp_path) == {
        "left out by roll_in": [],
        "missing roll-ins": ["row-2"],
        "tokenizer does not match": ["row-1", "row-5"],
        "refused by the engine": ["row-4"],
    }
    assert [row["message_id"] for row in read_rows(tmp_path)] == ["row-3"]
    report = read_report(tmp_path)
    assert sum(group["count"] for group in report["bad_rows"].values()) == 5


def test_bad_roll_outs_are_counted_and_named(hasty_policy, chain, tmp_path):
    copy = shutil.copytree(chain.roll_out.output, tmp_path / "roll_outs")
    path = sorted((copy / "train").iterdir())[0]
    rows = pq.read_table(path).to_pylist()
    rows[0]["answer"] = r"\frac{"
    rows[1]["roll_outs_ids"][7] = []
    rows[2]["prompt_ids"][1] = 3
    rows[3]["roll_outs_ids"][2][0] = 291
    pq.write_table(pa.Table.from_pylist(rows, ROLL_OUT_SCHEMA), path)
    label.label(label_args(copy, hasty_policy, tmp_path / "data", keep_unsolved=True))
    assert bad_rows(tmp_path / "data") == {
        "unverifiable answer": [rows[0]["message_id"]],
        "empty generation": [rows[1]["message_id"]],
        "tokenizer does not match": [rows[2]["message_id"], rows[3]["message_id"]],
    }
    assert len(read_rows(tmp_path / "data")) == 16


# Bad settings


def named_flags(error: InputError) -> set[str]:
    return set(re.findall(r"(?:^|[\s(])--(\w+)", str(error)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ("policy",)}, "--models policy: expected a folder or hub id, a colon"),
        ({"models": ("policy:0",)}, "--models policy:0: expected"),
        ({"models": ("a:1", "a:2")}, "--models a is named twice"),
        ({"models": ("/absent:1",)}, "^--models /absent: no tokenizer"),
        ({"splits": ("tets",)}, "--splits tets: .* has the splits train, validation only"),
        ({"input": "/absent"}, "^--input /absent: no such file"),
        ({"window": 3}, "--window 3 must be at least --rows_per_file 4"),
        ({"rows_per_file": 0}, "--rows_per_file must be at least 1"),
        ({"max_length": 0}, "--max_length must be at least 1"),
        ({"temperature": -1.0}, "--temperature must not be negative"),
        ({"top_p": 0.0}, "--top_p must be in"),
        ({"shard": "2/2"}, "--shard 2/2: expected i/n"),
        ({"seed": 1}, r"made with other settings: --seed \(was 0, now 1\)[.] "),
    ],
)
def test_bad_roll_in_flags_are_named(chain, change, message):
    with pytest.raises(InputError, match=message) as caught:
        roll_in.roll_in(replace_flags(chain.roll_in, **change))
    assert named_flags(caught.value) <= as_json(chain.roll_in).keys()


def test_another_number_of_roll_ins_is_named_by_its_flag(chain, hasty_policy):
    args = replace_flags(chain.roll_in, models=(f"{hasty_policy}:4",))
    with pytest.raises(InputError, match=r": --models \(was '.*policy:3', now '.*policy:4'\)[.] "):
        roll_in.roll_in(args)


def copy_without(policy, folder, *names) -> Path:
    return shutil.copytree(policy, folder, ignore=shutil.ignore_patterns(*names))


def retrain(policy) -> None:
    """Changes the weights of a model, of which the digest takes the end."""
    weights = policy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def test_retrained_roll_in_weights_are_named_by_their_flag(toy_problems, hasty_policy, tmp_path):
    model = shutil.copytree(hasty_policy, tmp_path / "model")
    args = roll_in_args(toy_problems, model, tmp_path / "out", splits=("validation",))
    roll_in.roll_in(args)
    retrain(model)
    with pytest.raises(InputError, match=r": --models \(its content has changed\)[.] "):
        roll_in.roll_in(args)


def test_missing_roll_in_weights_are_named_by_their_flag(toy_problems, hasty_policy, tmp_path):
    model = copy_without(hasty_policy, tmp_path / "model", "model.safetensors")
    args = roll_in_args(toy_problems, model, tmp_path / "out")
    with pytest.raises(InputError, match=f"^--models {re.escape(str(model))}: "):
        roll_in.roll_in(args)


def test_a_missing_prompt_template_is_named_by_its_flag(toy_problems, hasty_policy, tmp_path):
    model = copy_without(hasty_policy, tmp_path / "model", "chat_template.jinja")
    args = roll_in_args(toy_problems, model, tmp_path / "out")
    with pytest.raises(InputError, match=f"^--models {re.escape(str(model))}: .*chat template"):
        roll_in.roll_in(args)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "/absent"}, "^--input /absent: no output of data_prep.roll_in"),
        ({"model": "/absent"}, "^--model /absent: no tokenizer"),
        ({"num_cuts": 0}, "--num_cuts must be at least 1"),
        ({"num_completions": 0}, "--num_completions must be at least 1"),
        ({"step_delimiter": ""}, "--step_delimiter must not be empty"),
        ({"window": 3}, "--window 3 must be at least 4, .* of data_prep.roll_in"),
        ({"cut": "uniform"}, r"--cut \(was 'sqrt', now 'uniform'\)"),
    ],
)
def test_bad_roll_out_flags_are_named(chain, change, message):
    with pytest.raises(InputError, match=message):
        roll_out.roll_out(replace_flags(chain.roll_out, **change))


def test_missing_roll_out_weights_are_named_by_their_flag(chain, hasty_policy, tmp_path):
    model = copy_without(hasty_policy, tmp_path / "model", "model.safetensors")
    args = replace_flags(chain.roll_out, model=str(model), output=tmp_path / "out")
    with pytest.raises(InputError, match=f"^--model {re.escape(str(model))}: "):
        roll_out.roll_out(args)


def test_other_roll_ins_are_named_by_their_flag(chain, hasty_policy, toy_problems, tmp_path):
    """Roll-outs have no flag `--rows_per_file`: it follows from the roll-ins."""
    output = shutil.copytree(chain.roll_out.output, tmp_path / "roll_outs")
    roll_in.roll_in(roll_in_args(toy_problems, hasty_policy, tmp_path / "a", rows_per_file=5))
    args = replace_flags(chain.roll_out, input=str(tmp_path / "a"), output=output)
    with pytest.raises(InputError, match=r"settings: --input \(its content has changed\)[.] "):
        roll_out.roll_out(args)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": Path("/absent")}, "^--input /absent: no output of data_prep.roll_out"),
        ({"tokenizer": "/absent"}, "^--tokenizer /absent: no tokenizer"),
        ({"num_workers": 0}, "--num_workers must be at least 1"),
        ({"rows_per_file": 0}, "--rows_per_file must be at least 1"),
        ({"push_to_hub": "name"}, "--push_to_hub name: expected owner/name"),
        ({"keep_unsolved": True}, r"--keep_unsolved \(was False, now True\)"),
    ],
)
def test_bad_label_flags_are_named(chain, change, message):
    with pytest.raises(InputError, match=message):
        label.label(replace_flags(chain.label, **change))


def test_a_stage_waits_for_the_one_before(hasty_policy, toy_problems, tmp_path):
    args = roll_in_args(toy_problems, hasty_policy, tmp_path / "roll_ins", shard="0/2")
    roll_in.roll_in(args)
    with pytest.raises(InputError, match=r"--input .* is not complete: run data_prep.roll_in"):
        roll_out.roll_out(roll_out_args(tmp_path / "roll_ins", hasty_policy, tmp_path / "b"))


def test_a_stage_refuses_the_output_of_another(chain, hasty_policy, tmp_path):
    with pytest.raises(InputError, match=r"--input .*: no output of data_prep.roll_out"):
        label.label(label_args(chain.roll_in.output, hasty_policy, tmp_path))
