"""Labels of a real small policy's roll-outs, and the data set made of them."""

import collections
import dataclasses
import random
import re

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from classifier_lib.data import GroupedRollouts
from data_prep import label, roll_in, roll_out
from data_prep.columns import LABEL_SCHEMA
from data_prep.toy import task
from run_lib.commands import InputError
from search_lib.answer_formats import ANSWER_FORMATS
from search_lib.engines.base import Block, Expansion, Sampling
from tests.support.chain import (
    label_args,
    roll_in_args,
    roll_out_args,
    use_engine,
    write_problems,
)
from tests.support.flags import replace_flags
from tests.support.outputs import read_report, read_rows

SPLITS = ("train", "validation")


def last_box(text: str) -> str | None:
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text.rpartition("</think>")[2])
    return (boxes[-1].strip() or None) if boxes and "</think>" in text else None


# Labels


@dataclasses.dataclass
class Completion:
    """A response with its label, from the stages of the chain.

    Attributes:
        text: The response as text.
        reason: Why it ended.
        reference: Answer of the problem.
        answer, label, reward: The result of `data_prep.label`.
    """

    text: str
    reason: str
    reference: str
    answer: str | None
    label: int
    reward: float


@pytest.fixture(scope="module")
def completions(chain, tokenizer) -> list[Completion]:
    found = []
    for split in SPLITS:
        sources = {row["message_id"]: row for row in read_rows(chain.roll_out.output, split)}
        for row in read_rows(chain.label.output, split):
            source = sources[row["message_id"]]
            found += [
                Completion(text, reason, row["answer"], *labelled)
                for text, reason, *labelled in zip(
                    response_texts(source, tokenizer),
                    source["finish_reasons"],
                    row["processed_answer"],
                    row["labels"],
                    row["reward"],
                    strict=True,
                )
            ]
    return found


def response_texts(row: dict, tokenizer) -> list[str]:
    start = len(row["prompt_ids"])
    return [
        tokenizer.decode((prefix + completion)[start:])
        for prefix, completion in zip(row["roll_in_ids"], row["roll_outs_ids"], strict=True)
    ]


def test_the_schema_is_that_of_openr1_vm(chain):
    ids = pa.list_(pa.list_(pa.int32()))
    expected = {
        "message_id": pa.string(),
        "problem": pa.string(),
        "solution": pa.string(),
        "answer": pa.string(),
        "reward": pa.list_(pa.float64()),
        "roll_in_ids": ids,
        "roll_outs_ids": ids,
        "processed_answer": pa.list_(pa.string()),
        "labels": pa.list_(pa.int32()),
        "soft_labels": pa.list_(pa.float64()),
    }
    for path in chain.label.output.glob("*/*.parquet"):
        schema = pq.read_schema(path)
        assert dict(zip(schema.names, schema.types, strict=True)) == expected


def test_files_are_compressed(chain):
    for path in chain.label.output.glob("*/*.parquet"):
        column = pq.ParquetFile(path).metadata.row_group(0).column(5)
        assert column.compression == "ZSTD"


def test_labelled_rows_have_the_tokens_of_the_roll_outs(chain):
    sources = {row["message_id"]: row for row in read_rows(chain.roll_out.output)}
    for row in read_rows(chain.label.output):
        for name in ("roll_in_ids", "roll_outs_ids"):
            assert row[name] == sources[row["message_id"]][name]


def test_answers_are_the_last_boxes_behind_the_thoughts(completions):
    assert all(one.answer == last_box(one.text) for one in completions)


def test_labels_are_those_of_the_value_model(completions):
    assert {one.label for one in completions} == {0, 1, 2}
    for one in completions:
        if one.reason == "length":
            assert one.label == 2
        elif one.answer is None or one.answer.isdigit():  # a raw policy boxes other things, too
            assert one.label == (one.answer == one.reference)


def test_the_reward_is_one_for_correct_responses_alone(completions):
    assert all(one.reward == (one.label == 1) for one in completions)


def test_problems_without_a_correct_response_are_dropped(chain, tokenizer):
    for split in SPLITS:
        kept = {row["message_id"]: row for row in read_rows(chain.label.output, split)}
        assert all(1 in row["labels"] for row in kept.values())
        for row in read_rows(chain.roll_out.output, split):
            if row["message_id"] not in kept:
                for text in response_texts(row, tokenizer):
                    assert last_box(text) != row["answer"] or not text.endswith(task.END)


def test_the_report_counts_the_labels(chain, completions):
    report = read_report(chain.label.output)
    num_rows = sum(len(read_rows(chain.label.output, split)) for split in SPLITS)
    assert report["rows_in"] == 26
    assert report["rows_out"] == num_rows == 26 - report["bad_rows"]["no correct response"]["count"]
    labels = collections.Counter(one.label for one in completions)
    assert [report["totals"][f"{name} responses"] for name in label.LABEL_NAMES] == [
        labels[value] for value in range(3)
    ]


def test_training_reads_the_data(chain, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    rows = read_rows(chain.label.output)
    data = GroupedRollouts(str(chain.label.output / "train"), num_responses=12, vocab_size=291)
    assert len(data) == 12 * len(rows)
    for index in random.Random(0).sample(range(len(data)), 20):
        row, response = divmod(index, 12)
        sample = data[index]
        assert sample.roll_in.tolist() == rows[row]["roll_in_ids"][response]
        assert sample.roll_out.tolist() == rows[row]["roll_outs_ids"][response]
        assert sample.label == rows[row]["labels"][response]


def test_training_reads_the_data_without_copies(chain, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    data = GroupedRollouts(str(chain.label.output / "train"), num_responses=12, vocab_size=291)
    for sample in (data[0], data[len(data) - 1]):
        for view in (sample.roll_in, sample.roll_out):
            assert view.dtype == np.int32
            assert not view.flags.owndata
            assert not view.flags.writeable


def test_the_data_card_names_the_files(chain):
    card = huggingface_hub.DatasetCard((chain.label.output / "README.md").read_text())
    assert [file["path"] for file in card.data.configs[0]["data_files"]] == [
        "train/*.parquet",
        "validation/*.parquet",
    ]


def test_the_data_card_has_the_counts(chain):
    text = (chain.label.output / "README.md").read_text()
    train, validation = (read_rows(chain.label.output, split) for split in SPLITS)
    assert f"| problems | {len(train)} | {len(validation)} |" in text
    tokens = [
        sum(len(ids) for row in rows for ids in row["roll_outs_ids"])
        for rows in (train, validation)
    ]
    assert f"| roll-out tokens | {tokens[0]:,} | {tokens[1]:,} |" in text


def test_the_data_card_names_the_policies(chain):
    text = (chain.label.output / "README.md").read_text()
    assert f"3 of `{chain.roll_out.model}`" in text


def test_unsolved_problems_stay_when_asked_for(chain, tmp_path):
    args = dataclasses.replace(chain.label, output=tmp_path, keep_unsolved=True, soft_labels=False)
    label.label(args)
    assert len(read_rows(tmp_path)) == 20
    assert len(read_rows(tmp_path, "validation")) == 6
    assert not read_report(tmp_path)["bad_rows"]
    assert pq.read_schema(next(tmp_path.glob("train/*"))).names == LABEL_SCHEMA.names


def test_soft_labels_are_shares_over_the_completions_of_a_prefix(chain, hasty_policy, tmp_path):
    args = replace_flags(
        chain.roll_out, output=tmp_path / "roll_outs", num_cuts=2, num_completions=3
    )
    roll_out.roll_out(args)
    label.label(
        label_args(tmp_path / "roll_outs", hasty_policy, tmp_path / "data", soft_labels=True)
    )
    values = set()
    for row in read_rows(tmp_path / "data"):
        by_prefix = collections.defaultdict(list)
        for prefix, value in zip(row["roll_in_ids"], row["labels"], strict=True):
            by_prefix[tuple(prefix)].append(value == 1)
        assert {len(outcomes) % 3 for outcomes in by_prefix.values()} == {0}
        assert len(by_prefix) <= 6
        for prefix, soft in zip(row["roll_in_ids"], row["soft_labels"], strict=True):
            assert soft == pytest.approx(np.mean(by_prefix[tuple(prefix)]))
            values.add(round(soft, 2))
    assert values - {0.0, 1.0}


def test_the_finished_data_set_is_uploaded(chain, tmp_path, monkeypatch):
    uploads = []

    class Api:
        def create_repo(self, repo_id, **options):
            assert options == {"repo_type": "dataset", "exist_ok": True}
            return huggingface_hub.RepoUrl(f"https://huggingface.co/datasets/{repo_id}")

        def upload_folder(self, **options):
            uploads.append(options)
            return huggingface_hub.CommitInfo(
                commit_url="https://huggingface.co/datasets/me/rollouts/commit/1",
                commit_message="",
                commit_description="",
                oid="1",
            )

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    args = dataclasses.replace(
        chain.label, output=tmp_path, rows_per_file=20, push_to_hub="me/rollouts"
    )
    label.label(dataclasses.replace(args, shard="0/2"))
    label.label(dataclasses.replace(args, shard="1/2"))
    (upload,) = uploads
    assert (upload["repo_id"], upload["folder_path"]) == ("me/rollouts", tmp_path)
    sent = huggingface_hub.utils.filter_repo_objects(
        [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()],
        allow_patterns=upload["allow_patterns"],
    )
    assert sorted(sent) == [
        "README.md",
        "train/00000-of-00001.parquet",
        "validation/00000-of-00001.parquet",
    ]


# Reading answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1}</think>\boxed{2}</think>a\boxed{3}", "3"),
        (r"\boxed{1}</think>none", None),
        (r"</think>\boxed{4} and then \boxed{5}", "5"),
    ],
)
def test_only_the_answer_of_a_response_is_decoded(tokenizer, monkeypatch, text, answer):
    reader = label.AnswerReader(tokenizer, ANSWER_FORMATS["boxed"])
    ids = np.array(tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)
    num_read = len(tokenizer.encode("</think>" + text.rpartition("</think>")[2]))
    decode = tokenizer.decode
    decoded = []
    monkeypatch.setattr(tokenizer, "decode", lambda ids: decoded.append(len(ids)) or decode(ids))
    assert reader.read("x<think>", ids) == answer
    assert decoded == [num_read]


class OneResponse:
    """An engine whose every block is the same."""

    def __init__(self, ids: list[int]):
        self.ids = ids

    async def generate(self, expansion: Expansion, sampling: Sampling) -> list[Block]:
        return [Block(self.ids, "stop")] * expansion.n

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("think_tags", "opening", "answer"),
    [(("<a>", "<b>"), "<a>\n", None), ("none", "", "7"), ("auto", "<think>", "7")],
)
def test_the_tags_of_roll_ins_hold_for_labels(
    tokenizer, hasty_policy, tmp_path, monkeypatch, think_tags, opening, answer
):
    write_problems(tmp_path / "in", {})
    ids = tokenizer.encode(r"</think>\boxed{7}<b>so", add_special_tokens=False)
    use_engine(monkeypatch, OneResponse([*ids, tokenizer.eos_token_id]))
    roll_ins, roll_outs = tmp_path / "roll_ins", tmp_path / "roll_outs"
    args = roll_in_args(tmp_path / "in", hasty_policy, roll_ins, think_tags=think_tags)
    roll_in.roll_in(args)
    roll_out.roll_out(roll_out_args(roll_ins, hasty_policy, roll_outs))
    label.label(label_args(roll_outs, hasty_policy, tmp_path / "data", keep_unsolved=True))
    for row in read_rows(roll_outs):
        assert tokenizer.decode(row["prompt_ids"]).endswith(opening)
    for row in read_rows(tmp_path / "data"):
        assert set(row["processed_answer"]) == {answer}
    if think_tags != "auto":
        with pytest.raises(InputError, match=r"--think_tags \(was .*, now 'auto'\)"):
            roll_in.roll_in(roll_in_args(tmp_path / "in", hasty_policy, roll_ins))


@pytest.mark.parametrize(
    ("answer_format", "written", "answer"),
    [
        ("boxed", r"\boxed{7}", "7"),
        ("final_answer", "Final Answer: 7", "7"),
        ("choice", "Final Answer: (B)", "B"),
    ],
)
def test_answers_are_read_as_the_roll_ins_were_asked_to_write_them(
    tokenizer, hasty_policy, tmp_path, monkeypatch, answer_format, written, answer
):
    write_problems(tmp_path / "in", {row: {"answer": answer} for row in range(6)})
    ids = tokenizer.encode(f"</think>{written}", add_special_tokens=False)
    use_engine(monkeypatch, OneResponse([*ids, tokenizer.eos_token_id]))
    roll_ins, roll_outs = tmp_path / "roll_ins", tmp_path / "roll_outs"
    asked = {"answer_format": answer_format}
    roll_in.roll_in(roll_in_args(tmp_path / "in", hasty_policy, roll_ins, **asked))
    roll_out.roll_out(roll_out_args(roll_ins, hasty_policy, roll_outs))
    label.label(label_args(roll_outs, hasty_policy, tmp_path / "data"))
    rows = read_rows(tmp_path / "data")
    assert len(rows) == 6
    for row in rows:
        assert set(row["processed_answer"]) == {answer}
        assert set(row["labels"]) == {label.CORRECT}


@pytest.mark.parametrize(("prompt", "answer"), [("x<think>", None), ("x", "6")])
def test_without_a_thought_in_the_prompt_all_of_the_text_counts(tokenizer, prompt, answer):
    ids = np.array(tokenizer.encode(r"so \boxed{6}", add_special_tokens=False), dtype=np.int32)
    assert label.AnswerReader(tokenizer, ANSWER_FORMATS["boxed"]).read(prompt, ids) == answer
