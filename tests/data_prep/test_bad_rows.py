"""Rows that nothing can be made of are counted and named; bad settings are refused."""

import dataclasses
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from data_prep import label, roll_in, roll_out
from data_prep.sources import read_texts
from run_lib.commands import InputError
from tests.support.chain import (
    ScriptedEngine,
    label_args,
    read_report,
    read_rows,
    roll_in_args,
    roll_out_args,
    use_engine,
)

# Bad rows


def write_problems(folder, changes: dict[int, dict]) -> list[dict]:
    rows = [
        {"problem": f"start {i} +3 *2", "solution": None, "answer": str(i), "uuid": f"row-{i}"}
        for i in range(6)
    ]
    for index, change in changes.items():
        rows[index] |= change
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "0.parquet")
    return rows


def bad_rows(folder) -> dict[str, list[str]]:
    return {
        reason: [example["id"] for example in group["examples"]]
        for reason, group in read_report(folder)["bad_rows"].items()
    }


def test_bad_problems_are_counted_and_named(hasty_policy, tmp_path, monkeypatch):
    write_problems(
        tmp_path / "in",
        {
            0: {"answer": None},
            1: {"problem": "  "},
            3: {"problem": "start" + " +2" * 450},
            4: {"problem": "start 7 *9"},
        },
    )
    tokenizer = AutoTokenizer.from_pretrained(hasty_policy)
    engine = ScriptedEngine(tokenizer, 20, empty="7 *9")
    use_engine(monkeypatch, engine)
    args = roll_in_args(tmp_path / "in", hasty_policy, tmp_path / "out", rows_per_file=6)
    roll_in.roll_in(args)
    (folder,) = (tmp_path / "out").iterdir()
    assert bad_rows(folder) == {
        "no answer": ["row-0"],
        "no problem": ["row-1"],
        "prompt too long": ["row-3"],
        "empty generation": ["row-4"],
    }
    rows = read_rows(folder)
    assert [(row["row"], row["message_id"], row["problem"], row["solution"]) for row in rows] == [
        (2, "row-2", "start 2 +3 *2", ""),
        (5, "row-5", "start 5 +3 *2", ""),
    ]
    report = read_report(folder)
    assert (report["rows_in"], report["rows_out"]) == (6, 2)

    # Drawn again with another seed, an answer may come.
    use_engine(monkeypatch, ScriptedEngine(tokenizer, 20, empty="7 *9", empty_draws=2))
    roll_in.roll_in(dataclasses.replace(args, output=tmp_path / "again"))
    (folder,) = (tmp_path / "again").iterdir()
    assert "empty generation" not in bad_rows(folder)
    # 3 of the first call, one of which is empty once more.
    assert read_report(folder)["totals"]["empty generations drawn again"] == 4

    use_engine(monkeypatch, ScriptedEngine(tokenizer, 20, refuse="7 *9"))
    roll_in.roll_in(dataclasses.replace(args, output=tmp_path / "refused"))
    (folder,) = (tmp_path / "refused").iterdir()
    assert bad_rows(folder)["refused by the engine"] == ["row-4"]


def test_problems_with_one_id_are_told_apart_by_their_rows(hasty_policy, tmp_path, monkeypatch):
    write_problems(tmp_path / "in", {n: {"uuid": "same"} for n in (1, 2, 4)})
    use_engine(monkeypatch, ScriptedEngine(AutoTokenizer.from_pretrained(hasty_policy), 20))
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


def test_ids_fall_back_to_hashes(hasty_policy, tmp_path, monkeypatch):
    write_problems(tmp_path / "in", {1: {"uuid": None}, 2: {"uuid": None, "problem": None}})
    use_engine(monkeypatch, ScriptedEngine(AutoTokenizer.from_pretrained(hasty_policy), 20))
    roll_in.roll_in(roll_in_args(tmp_path / "in", hasty_policy, tmp_path / "out"))
    (folder,) = (tmp_path / "out").iterdir()
    ids = [row["message_id"] for row in read_rows(folder)]
    assert ids[:1] + ids[2:] == ["row-0", "row-3", "row-4", "row-5"]
    assert re.fullmatch("[0-9a-f]{16}", ids[1])
    assert bad_rows(folder) == {"no problem": ["#2"]}


def test_bad_roll_ins_are_counted_and_named(hasty_policy, tmp_path, monkeypatch):
    write_problems(tmp_path / "in", {0: {"answer": ""}, 4: {"problem": "start 7 *9"}})
    tokenizer = AutoTokenizer.from_pretrained(hasty_policy)
    other = shutil.copytree(hasty_policy, tmp_path / "other")
    args = roll_in_args(tmp_path / "in", hasty_policy, tmp_path / "a", rows_per_file=6)
    use_engine(monkeypatch, ScriptedEngine(tokenizer, 20))
    roll_in.roll_in(args)
    use_engine(monkeypatch, ScriptedEngine(tokenizer, 20, refuse="start 2"))
    roll_in.roll_in(dataclasses.replace(args, models=(f"{other}:1",)))
    for folder in (tmp_path / "a").iterdir():
        (path,) = (folder / "train").iterdir()
        rows = pq.read_table(path).to_pylist()
        rows[0]["prompt_ids"] = rows[0]["prompt_ids"][::-1]
        rows[1]["response_ids"][0][0] = 291 if rows[1]["message_id"] == "row-2" else 5
        if rows[-1]["message_id"] == "row-5":
            rows[-1]["response_ids"][0][0] = 291
        table = pa.Table.from_pylist(rows, roll_in.SCHEMA)
        pq.write_table(table, path)
    use_engine(monkeypatch, ScriptedEngine(tokenizer, 20, refuse="7 *9"))
    roll_out.roll_out(roll_out_args(tmp_path / "a", hasty_policy, tmp_path / "b"))
    assert bad_rows(tmp_path / "b") == {
        "left out by roll_in": [],
        "missing roll-ins": ["row-2"],
        "tokenizer does not match": ["row-1", "row-5"],
        "refused by the engine": ["row-4"],
    }
    assert [row["message_id"] for row in read_rows(tmp_path / "b")] == ["row-3"]
    report = read_report(tmp_path / "b")
    assert sum(group["count"] for group in report["bad_rows"].values()) == 5


def test_bad_roll_outs_are_counted_and_named(hasty_policy, chain, tmp_path, monkeypatch):
    copy = shutil.copytree(chain.roll_out.output, tmp_path / "roll_outs")
    path = sorted((copy / "train").iterdir())[0]
    rows = pq.read_table(path).to_pylist()
    rows[0]["answer"] = r"\frac{"
    rows[1]["roll_outs_ids"][7] = []
    rows[2]["prompt_ids"][1] = 3
    rows[3]["roll_outs_ids"][2][0] = 291
    pq.write_table(pa.Table.from_pylist(rows, roll_out.SCHEMA), path)
    label.label(label_args(copy, hasty_policy, tmp_path / "data", keep_unsolved=True))
    assert bad_rows(tmp_path / "data") == {
        "unverifiable answer": [rows[0]["message_id"]],
        "empty generation": [rows[1]["message_id"]],
        "tokenizer does not match": [rows[2]["message_id"], rows[3]["message_id"]],
    }
    assert len(read_rows(tmp_path / "data")) == 16


def test_a_response_without_an_end_token_decodes_only_its_answer(hasty_policy):
    tokenizer = AutoTokenizer.from_pretrained(hasty_policy)
    reader = label.AnswerReader(tokenizer)
    decoded = []
    monkey = pytest.MonkeyPatch()
    monkey.setattr(
        tokenizer,
        "decode",
        lambda ids: decoded.append(len(ids)) or type(tokenizer).decode(tokenizer, ids),
    )
    texts = {
        r"\boxed{1}</think>\boxed{2}</think>a\boxed{3}": "3",
        r"\boxed{1}</think>none": None,
        r"\boxed{1}": None,
        r"</think>\boxed{4} and then \boxed{5}": "5",
    }
    for text, answer in texts.items():
        ids = np.array(tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)
        decoded.clear()
        assert reader.read("x<think>", ids) == answer
        assert decoded == [len(tokenizer.encode("</think>" + text.rpartition("</think>")[2]))] or (
            "</think>" not in text
        )
    monkey.undo()
    # Without a thought in the prompt, all of the text counts.
    plain = np.array(tokenizer.encode(r"so \boxed{6}", add_special_tokens=False), dtype=np.int32)
    assert reader.read("x", plain) == "6"


# Bad settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ("policy",)}, "--models policy: expected a folder or hub id, a colon"),
        ({"models": ("policy:0",)}, "--models policy:0: expected"),
        ({"models": ("a:1", "a:2")}, "--models a is named twice"),
        ({"models": ("/absent:1",)}, "--models /absent: no tokenizer"),
        ({"splits": ("tets",)}, "--splits tets: .* has the splits train, validation only"),
        ({"input": "/absent"}, "--input /absent: no such file"),
        ({"window": 3}, "--window 3 must be at least --rows_per_file 4"),
        ({"rows_per_file": 0}, "--rows_per_file must be at least 1"),
        ({"max_length": 0}, "--max_length must be at least 1"),
        ({"temperature": -1.0}, "--temperature must not be negative"),
        ({"top_p": 0.0}, "--top_p must be in"),
        ({"shard": "2/2"}, "--shard 2/2: expected i/n"),
        ({"seed": 1}, "made with other settings: --seed 1"),
    ],
)
def test_bad_roll_in_flags_are_named(chain, change, message):
    with pytest.raises(InputError, match=message):
        roll_in.roll_in(dataclasses.replace(chain.roll_in, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "/absent"}, "--input /absent: no output of data_prep.roll_in"),
        ({"model": "/absent"}, "--model /absent: no tokenizer"),
        ({"num_cuts": 0}, "--num_cuts must be at least 1"),
        ({"num_completions": 0}, "--num_completions must be at least 1"),
        ({"step_delimiter": ""}, "--step_delimiter must not be empty"),
        ({"window": 3}, "--window 3 must be at least"),
        ({"cut": "uniform"}, r"--cut uniform \(was sqrt\)"),
    ],
)
def test_bad_roll_out_flags_are_named(chain, change, message):
    with pytest.raises(InputError, match=message):
        roll_out.roll_out(dataclasses.replace(chain.roll_out, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": "/absent"}, "--tokenizer /absent: no tokenizer"),
        ({"num_workers": 0}, "--num_workers must be at least 1"),
        ({"rows_per_file": 0}, "--rows_per_file must be at least 1"),
        ({"push_to_hub": "name"}, "--push_to_hub name: expected owner/name"),
        ({"keep_unsolved": True}, r"--keep_unsolved True \(was False\)"),
    ],
)
def test_bad_label_flags_are_named(chain, change, message):
    with pytest.raises(InputError, match=message):
        label.label(dataclasses.replace(chain.label, **change))


def test_a_stage_waits_for_the_one_before(chain, hasty_policy, toy_problems, tmp_path):
    args = roll_in_args(toy_problems, hasty_policy, tmp_path / "roll_ins", shard="0/2")
    roll_in.roll_in(args)
    with pytest.raises(InputError, match=r"is not complete: run data_prep.roll_in"):
        roll_out.roll_out(roll_out_args(tmp_path / "roll_ins", hasty_policy, tmp_path / "b"))
    with pytest.raises(InputError, match=r"no output of data_prep.roll_out"):
        label.label(label_args(tmp_path / "roll_ins", hasty_policy, tmp_path / "c"))
