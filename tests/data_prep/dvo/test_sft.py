"""The policy's own right responses in steps: what is taken, and why the others are left out."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from data_prep.columns import ROLL_IN_SCHEMA
from data_prep.dvo import sft
from data_prep.dvo.rows import TreeSplit
from data_prep.reports import RowReport
from data_prep.stages import Stage
from dvo_lib.token_lines import LineReader
from run_lib.commands import InputError

RIGHT = "first\n\nsecond\n\nFinal Answer: 7"
END = "<|end|>"


def make_row(tokenizer, number, texts, reasons=None, answer="7"):
    """A row of roll-ins; a text ends its response itself, if it does so."""
    problem = f"What is problem {number} worth?"
    return {
        "row": number,
        "message_id": f"id-{number}",
        "problem": problem,
        "solution": "",
        "answer": answer,
        "prompt_ids": tokenizer.encode(problem, add_special_tokens=False),
        "response_ids": [tokenizer.encode(text, add_special_tokens=False) for text in texts],
        "finish_reasons": reasons or ["stop"] * len(texts),
    }


def write_roll_ins(folder, rows, policy, split="train", **settings):
    """The rows as `data_prep.roll_in` leaves them."""
    inputs = {split: TreeSplit(len(rows), "digest")}
    with Stage(folder, {"model": str(policy), **settings}, inputs, rows_per_file=2) as stage:
        for chunk in stage.chunks:
            part = rows[chunk.start : chunk.stop]
            table = pa.Table.from_pylist(part, schema=ROLL_IN_SCHEMA)
            stage.write(chunk, table, RowReport())
        stage.finish()
    return folder


@pytest.fixture
def choose(tiny_policy, toy_tokenizer, tmp_path):
    """Runs the command on rows; returns its lines and the number of responses by reason."""

    def run(rows, **flags):
        folder = write_roll_ins(tmp_path / "roll_ins", rows, tiny_policy)
        args = sft.SftArgs(
            input=folder, output=tmp_path / "sft.jsonl", answer_format="final_answer"
        )
        sft.run(replace(args, **flags))
        lines = [json.loads(line) for line in args.output.read_text().splitlines()]
        report = json.loads((tmp_path / "sft.jsonl.report.json").read_text())
        assert report["rows_out"] == len(lines)
        reasons = {reason: group["count"] for reason, group in report["bad_rows"].items()}
        assert report["rows_in"] == len(lines) + sum(reasons.values())
        return lines, reasons

    return run


@pytest.mark.parametrize(
    ("think_tags", "kept"), [("none", ["id-0", "id-1"]), (["<a>", "<b>"], ["id-1"])]
)
def test_thoughts_are_those_of_the_roll_ins(tiny_policy, toy_tokenizer, tmp_path, think_tags, kept):
    thinks = make_row(toy_tokenizer, 0, ["<a>" + RIGHT + END])
    ends_it = make_row(toy_tokenizer, 1, ["<a><b>" + RIGHT + END])
    folder = write_roll_ins(
        tmp_path / "roll_ins", [thinks, ends_it], tiny_policy, think_tags=think_tags
    )
    args = sft.SftArgs(input=folder, output=tmp_path / "sft.jsonl", answer_format="final_answer")
    sft.run(args)
    lines = [json.loads(line) for line in args.output.read_text().splitlines()]
    assert [line["problem_id"] for line in lines] == kept


def test_a_line_is_the_response_as_it_was_sampled(choose, toy_tokenizer, tiny_policy, tmp_path):
    row = make_row(toy_tokenizer, 0, [RIGHT + END])
    ((line,), reasons) = choose([row])
    assert not reasons
    assert line == {
        "prompt": row["problem"],
        "completion": RIGHT,
        "problem_id": "id-0",
        "prompt_token_ids": row["prompt_ids"],
        "completion_token_ids": row["response_ids"][0],
    }
    assert line["completion_token_ids"][-1] == toy_tokenizer.eos_token_id
    # The trainer takes it.
    reader = LineReader("sft", toy_tokenizer, len(toy_tokenizer), 128)
    assert len(reader.read(tmp_path / "sft.jsonl")) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("first\n\nsecond\n\nFinal Answer: 8" + END, "wrong answer"),
        ("first\n\nsecond\n\nseven" + END, "no answer"),
        ("Final Answer: 7" + END, "too few steps"),
        ("a\n\n" * 8 + "Final Answer: 7" + END, "too many steps"),
        ("first\n\nFinal Answer: 7\n\nor so" + END, "goes on behind an answer"),
        ("first\n\nFinal Answer: 7\n\n" + END, "goes on behind an answer"),
        (RIGHT + END, "the same as another response"),
        (END, "no answer"),
    ],
)
def test_a_response_of_the_wrong_form_is_left_out(choose, toy_tokenizer, text, reason):
    lines, reasons = choose([make_row(toy_tokenizer, 0, [RIGHT + END, text])])
    assert [line["completion"] for line in lines] == [RIGHT]
    assert reasons == {reason: 1}


def test_a_response_that_was_cut_is_left_out(choose, toy_tokenizer):
    row = make_row(toy_tokenizer, 0, [RIGHT + END, RIGHT + "0"], ["stop", "length"])
    lines, reasons = choose([row])
    assert (len(lines), reasons) == (1, {"not ended by itself": 1})


def test_steps_are_counted_as_in_trees(choose, toy_tokenizer):
    texts = [f"{'a, ' * n}Final Answer: 7{END}" for n in range(5)]
    lines, reasons = choose(
        [make_row(toy_tokenizer, 0, texts)], step_delimiter=", ", min_steps=3, max_steps=4
    )
    assert [line["completion"].count("a, ") for line in lines] == [2, 3]
    assert reasons == {"too few steps": 2, "too many steps": 1}


def test_the_same_text_may_answer_two_problems(choose, toy_tokenizer):
    rows = [make_row(toy_tokenizer, number, [RIGHT + END]) for number in range(3)]
    lines, reasons = choose(rows)
    assert [line["problem_id"] for line in lines] == ["id-0", "id-1", "id-2"]
    assert not reasons


def test_a_reference_that_cannot_be_compared_is_counted(choose, toy_tokenizer):
    text = f"so\n\nFinal Answer: (B){END}"
    rows = [
        make_row(toy_tokenizer, 0, [text], answer="b"),
        make_row(toy_tokenizer, 1, [text] * 2, answer="7"),
    ]
    lines, reasons = choose(rows, answer_format="choice")
    assert (len(lines), reasons) == (1, {"unverifiable answer": 2})


def test_of_more_responses_some_are_drawn_by_the_seed(choose, toy_tokenizer, tmp_path):
    texts = [f"step {n}\n\nFinal Answer: 7{END}" for n in range(9)]
    rows = [make_row(toy_tokenizer, number, texts) for number in range(4)]
    drawn = {}
    for seed in (0, 0, 1):
        for name in ("sft.jsonl", "sft.jsonl.report.json"):
            (tmp_path / name).unlink(missing_ok=True)
        lines, reasons = choose(rows, per_problem=3, seed=seed)
        assert reasons == {"more than --per_problem": 24}
        texts_drawn = [line["completion"] for line in lines]
        assert drawn.setdefault(seed, texts_drawn) == texts_drawn
    assert drawn[0] != drawn[1]
    assert len(set(map(tuple, [drawn[0][:3], drawn[0][3:6], drawn[0][6:9]]))) > 1


def test_a_complete_file_is_left_alone(choose, toy_tokenizer, capsys):
    rows = [make_row(toy_tokenizer, 0, [RIGHT + END])]
    choose(rows)
    choose(rows)
    assert "sft.jsonl is complete already" in capsys.readouterr().out


def test_other_settings_are_refused(choose, toy_tokenizer):
    rows = [make_row(toy_tokenizer, 0, [RIGHT + END])]
    choose(rows)
    with pytest.raises(InputError, match=r"--min_steps \(was 2, now 3\)"):
        choose(rows, min_steps=3)


def test_where_nothing_is_left_the_reasons_are_named(choose, toy_tokenizer, tmp_path):
    rows = [make_row(toy_tokenizer, 0, ["Final Answer: 7" + END, "no\n\nidea" + END, END])]
    message = "no response is left of 3: 2 no answer, 1 too few steps"
    with pytest.raises(InputError, match=message):
        choose(rows)
    assert not (tmp_path / "sft.jsonl").exists()


def test_roll_ins_of_another_policy_are_named(choose, toy_tokenizer):
    row = make_row(toy_tokenizer, 0, [RIGHT + END])
    row["prompt_ids"] = row["prompt_ids"][1:]
    with pytest.raises(InputError, match="problem id-0: the roll-ins are of another policy"):
        choose([row])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"split": "test"}, "--split test: .* has train only"),
        ({"min_steps": 9}, "--min_steps 9 is more than --max_steps 8"),
        ({"per_problem": 0}, "--per_problem must be at least 1, got 0"),
        ({"step_delimiter": "\\n"}, "--step_delimiter has a backslash and an n"),
        ({"step_delimiter": ""}, "--step_delimiter must not be empty"),
    ],
)
def test_bad_flags_are_named(choose, toy_tokenizer, flags, message):
    with pytest.raises(InputError, match=message):
        choose([make_row(toy_tokenizer, 0, [RIGHT + END])], **flags)
