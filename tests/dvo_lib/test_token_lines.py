"""Lines of token ids: what is read of them, and what is refused."""

import json

import pytest

from data_prep.toy.tokenizer import build_tokenizer
from dvo_lib.token_lines import LineReader
from tests.support.token_lines import SIDES, token_lines, write_token_lines

TOKENIZER = build_tokenizer()


def reader(method="dpo", max_length=100):
    return LineReader(method, TOKENIZER, len(TOKENIZER), max_length)


@pytest.mark.parametrize("method", SIDES)
def test_the_ids_of_a_line_are_read_as_they_are(method, tmp_path):
    lines = token_lines(method, 5, TOKENIZER)
    found = reader(method).read(write_token_lines(tmp_path / "lines.jsonl", lines))
    assert (len(found), found.num_left_out) == (5, 0)
    for name in ("prompt", *SIDES[method]):
        column = found.columns[f"{name}_token_ids"]
        assert [ids.tolist() for ids in column] == [line[f"{name}_token_ids"] for line in lines]
    assert found.columns.get("label") == (
        [line["label"] for line in lines] if method == "kto" else None
    )


def test_longer_lines_are_left_out_whole_and_counted(tmp_path):
    lines = token_lines("dpo", 30, TOKENIZER)
    longest = [
        len(line["prompt_token_ids"])
        + max(len(line["chosen_token_ids"]), len(line["rejected_token_ids"]))
        for line in lines
    ]
    limit = sorted(longest)[15]
    found = reader(max_length=limit).read(write_token_lines(tmp_path / "lines.jsonl", lines))
    fitting = [line for line, length in zip(lines, longest, strict=True) if length <= limit]
    assert found.num_left_out == 30 - len(fitting) > 0
    assert [ids.tolist() for ids in found.columns["chosen_token_ids"]] == [
        line["chosen_token_ids"] for line in fitting
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen_token_ids": [3, 999]}, "line 2: chosen_token_ids holds ids from 3 to 999, and"),
        ({"rejected_token_ids": [-1]}, "line 2: rejected_token_ids holds ids from -1 to -1"),
        ({"chosen_token_ids": []}, "line 2: chosen_token_ids is no list of token ids"),
        ({"chosen_token_ids": [True]}, "line 2: chosen_token_ids is no list of token ids"),
        ({"prompt_token_ids": "1 2"}, "line 2: prompt_token_ids is no list of token ids"),
        ({"prompt": "start 9"}, "line 2: the policy's tokenizer reads another prompt"),
        (
            {"rejected_token_ids": None, "chosen_token_ids": None},
            "line 2: no column chosen_token_ids, rejected_token_ids: --method dpo needs a file of "
            "data_prep.dvo export --format dpo or step_dpo",
        ),
    ],
)
def test_a_line_that_cannot_be_used_is_named(change, message, tmp_path):
    lines = token_lines("dpo", 3, TOKENIZER)
    lines[1] = {k: v for k, v in (lines[1] | change).items() if v is not None}
    path = write_token_lines(tmp_path / "lines.jsonl", lines)
    with pytest.raises(ValueError, match=r"lines\.jsonl") as raised:
        reader().read(path)
    assert str(raised.value).startswith(f"{path}, {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " has no lines"),
        ("[1]\n", ", line 1: no JSON object"),
        ('{"prompt": \n', ", line 1: no JSON: "),
        ("[" * 100_000 + "\n", ", line 1: "),
    ],
)
def test_a_file_of_something_else_is_named(text, message, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"lines\.jsonl") as raised:
        reader().read(path)
    assert str(raised.value).startswith(f"{path}{message}")


def test_a_line_that_is_cut_off_is_named_even_where_it_is_json(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in token_lines("dpo", 2, TOKENIZER)))
    with pytest.raises(ValueError, match="line 2: it is cut off"):
        reader().read(path)


def test_labels_are_true_or_false(tmp_path):
    lines = token_lines("kto", 2, TOKENIZER)
    lines[1]["label"] = 1
    with pytest.raises(ValueError, match="line 2: the label is 1, not true or false"):
        reader("kto").read(write_token_lines(tmp_path / "lines.jsonl", lines))


def test_where_all_lines_are_too_long_it_says_so(tmp_path):
    path = write_token_lines(tmp_path / "lines.jsonl", token_lines("sft", 4, TOKENIZER))
    with pytest.raises(ValueError, match="has 4 lines, all longer than 3 tokens"):
        reader("sft", max_length=3).read(path)
