"""Roll-ins, roll-outs and labels: the chain on a real small policy."""

import asyncio
import collections
import dataclasses
import json
import random
import re
import shutil
import signal
import time

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from classifier_lib.data import GroupedRollouts
from data_prep import label, roll_in, roll_out
from data_prep.generation import EngineRefuses
from data_prep.toy import task
from run_lib.commands import InputError
from search_lib.engines.base import EngineUnavailable
from tests.support.chain import (
    MAX_LENGTH,
    ScriptedEngine,
    contents,
    label_args,
    read_report,
    read_rows,
    roll_in_args,
    roll_out_args,
    use_engine,
)
from tests.support.distributed import Job


def last_box(text: str) -> str | None:
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text.rpartition("</think>")[2])
    return (boxes[-1].strip() or None) if boxes and "</think>" in text else None


# The chain


def test_roll_ins_are_whole_responses_to_the_problems(chain, toy_problems, hasty_policy):
    tokenizer = AutoTokenizer.from_pretrained(hasty_policy)
    (folder,) = chain.roll_in.output.iterdir()
    for split in ("train", "validation"):
        rows = read_rows(folder, split)
        source = read_rows(toy_problems, split)
        assert [row["message_id"] for row in rows] == [row["uuid"] for row in source]
        for row, problem in zip(rows, source, strict=True):
            assert {name: row[name] for name in ("problem", "solution", "answer")} == {
                name: problem[name] for name in ("problem", "solution", "answer")
            }
            prompt = f"{task.BEGIN}{row['problem']}{task.THINK}"
            assert row["prompt_ids"] == tokenizer(prompt)["input_ids"]
            assert len(row["response_ids"]) == 3
            assert len({tuple(ids) for ids in row["response_ids"]}) > 1
            for ids, reason in zip(row["response_ids"], row["finish_reasons"], strict=True):
                ends = [i for i, token in enumerate(ids) if token == tokenizer.eos_token_id]
                assert ends == ([len(ids) - 1] if reason == "stop" else [])
                assert (len(ids) == MAX_LENGTH) >= (reason == "length")
    assert read_report(folder)["totals"]["responses"] == 26 * 3


def test_roll_outs_continue_cut_roll_ins(chain):
    (folder,) = chain.roll_in.output.iterdir()
    for roll_ins, row in zip(read_rows(folder), read_rows(chain.roll_out.output), strict=True):
        assert row["roll_in"] == [number for number in range(3) for _ in range(4)]
        for number, cut, prefix, completion in zip(
            row["roll_in"], row["cut"], row["roll_in_ids"], row["roll_outs_ids"], strict=True
        ):
            response = roll_ins["response_ids"][number]
            assert prefix == row["prompt_ids"] + response[:cut]
            assert cut < len(response) or cut == 0
            assert 1 <= len(completion) <= MAX_LENGTH - cut
        limits = [reason == "length" for reason in row["finish_reasons"]]
        lengths = [
            cut + len(ids) for cut, ids in zip(row["cut"], row["roll_outs_ids"], strict=True)
        ]
        assert all(n == MAX_LENGTH for n, hit in zip(lengths, limits, strict=True) if hit)


def test_labels_and_schema_are_those_of_openr1_vm(chain, hasty_policy):
    tokenizer = AutoTokenizer.from_pretrained(hasty_policy)
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
    labels = collections.Counter()
    num_rows = 0
    for split in ("train", "validation"):
        for path in (chain.label.output / split).iterdir():
            schema = pq.read_schema(path)
            assert dict(zip(schema.names, schema.types, strict=True)) == expected
            column = pq.ParquetFile(path).metadata.row_group(0).column(5)
            assert column.compression == "ZSTD"
        sources = {row["message_id"]: row for row in read_rows(chain.roll_out.output, split)}
        for row in read_rows(chain.label.output, split):
            num_rows += 1
            source = sources.pop(row["message_id"])
            prompt_length = len(source["prompt_ids"])
            assert row["roll_in_ids"] == source["roll_in_ids"]
            assert row["roll_outs_ids"] == source["roll_outs_ids"]
            assert 1 in row["labels"]
            for prefix, completion, reason, value, reward, answer in zip(
                row["roll_in_ids"],
                row["roll_outs_ids"],
                source["finish_reasons"],
                row["labels"],
                row["reward"],
                row["processed_answer"],
                strict=True,
            ):
                text = tokenizer.decode((prefix + completion)[prompt_length:])
                assert answer == last_box(text)
                if reason == "length":
                    assert value == 2
                elif answer is None or answer.isdigit():  # a raw policy boxes other things, too
                    assert value == (answer == row["answer"])
                assert reward == (value == 1)
                labels[value] += 1
        # What is not there has no correct response.
        for source in sources.values():
            for prefix, completion in zip(
                source["roll_in_ids"], source["roll_outs_ids"], strict=True
            ):
                text = tokenizer.decode((prefix + completion)[len(source["prompt_ids"]) :])
                assert last_box(text) != source["answer"] or not text.endswith(task.END)
    assert set(labels) == {0, 1, 2}
    report = read_report(chain.label.output)
    assert report["rows_in"] == 26
    assert report["rows_out"] == num_rows == 26 - report["bad_rows"]["no correct response"]["count"]
    assert [report["totals"][f"{name} responses"] for name in label.LABEL_NAMES] == [
        labels[value] for value in range(3)
    ]


def test_training_reads_the_data_without_copies(chain, tmp_path, monkeypatch):
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
        for view in (sample.roll_in, sample.roll_out):
            assert view.dtype == np.int32
            assert not view.flags.owndata
            assert not view.flags.writeable


def test_the_data_card_has_the_counts(chain):
    text = (chain.label.output / "README.md").read_text()
    card = huggingface_hub.DatasetCard(text)
    assert [file["path"] for file in card.data.configs[0]["data_files"]] == [
        "train/*.parquet",
        "validation/*.parquet",
    ]
    train, validation = (read_rows(chain.label.output, s) for s in ("train", "validation"))
    assert f"| problems | {len(train)} | {len(validation)} |" in text
    tokens = [
        sum(len(ids) for row in rows for ids in row["roll_outs_ids"])
        for rows in (train, validation)
    ]
    assert f"| roll-out tokens | {tokens[0]:,} | {tokens[1]:,} |" in text
    assert f"3 of `{chain.roll_out.model}`" in text


def test_unsolved_problems_stay_when_asked_for(chain, tmp_path):
    args = dataclasses.replace(chain.label, output=tmp_path, keep_unsolved=True, soft_labels=False)
    label.label(args)
    assert len(read_rows(tmp_path)) == 20
    assert len(read_rows(tmp_path, "validation")) == 6
    assert not read_report(tmp_path)["bad_rows"]
    assert pq.read_schema(next(tmp_path.glob("train/*"))).names == label.SCHEMA.names


def test_soft_labels_are_shares_over_the_completions_of_a_prefix(chain, hasty_policy, tmp_path):
    args = dataclasses.replace(
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


def test_several_models_share_a_problem(chain, toy_problems, hasty_policy, tmp_path):
    other = shutil.copytree(hasty_policy, tmp_path / "other")
    output = tmp_path / "roll_ins"
    both = roll_in_args(
        toy_problems, hasty_policy, output, models=(f"{hasty_policy}:2", f"{other}:1")
    )
    roll_in.roll_in(dataclasses.replace(both, splits=("validation",)))
    args = roll_out_args(output, hasty_policy, tmp_path / "roll_outs", num_cuts=1)
    roll_out.roll_out(args)
    rows = read_rows(tmp_path / "roll_outs", "validation")
    assert len(rows) == 6
    assert not list((tmp_path / "roll_outs").glob("train"))
    folders = sorted(output.iterdir())
    joined = [
        [response for row in same for response in row["response_ids"]]
        for same in zip(*(read_rows(folder, "validation") for folder in folders), strict=True)
    ]
    for row, responses in zip(rows, joined, strict=True):
        assert row["roll_in"] == [0, 1, 2]
        assert [prefix[len(row["prompt_ids"]) :] for prefix in row["roll_in_ids"]] == [
            response[:cut] for response, cut in zip(responses, row["cut"], strict=True)
        ]
    origin = json.loads((tmp_path / "roll_outs" / "stage.json").read_text())["origin"]
    assert sorted(model["roll_ins"] for model in origin["roll_ins"]) == [1, 2]

    # One of them over other problems: they can't be joined.
    shutil.rmtree(roll_in.model_folder(output, str(other)))
    roll_in.roll_in(dataclasses.replace(both, models=(f"{other}:1",), splits=("train",)))
    with pytest.raises(InputError, match="differ in their problems"):
        roll_out.roll_out(dataclasses.replace(args, output=tmp_path / "again"))


# Kills


def start_roll_in(connection, args) -> None:
    roll_in.roll_in(args)


def start_roll_out(connection, args) -> None:
    roll_out.roll_out(args)


def start_label(connection, args) -> None:
    label.label(args)


@pytest.mark.parametrize("stage", ["roll_in", "roll_out", "label"])
def test_a_stage_killed_at_random_ends_as_an_undisturbed_one(chain, tmp_path, stage):
    args = getattr(chain, stage)
    expected = contents(args.output)
    output = tmp_path / "output"
    function = {"roll_in": start_roll_in, "roll_out": start_roll_out, "label": start_label}[stage]
    args = dataclasses.replace(args, output=output)
    if stage == "label":  # more files, so that there is something in between
        args = dataclasses.replace(args, rows_per_file=1)
        undisturbed = dataclasses.replace(args, output=tmp_path / "undisturbed")
        label.label(undisturbed)
        expected = contents(undisturbed.output)
    rng = random.Random()
    num_manifests = sum("manifests" in name for name in expected)
    kills = 0
    while True:
        with Job(tmp_path, function, [(args,)], {}) as job:
            # Some files on from where it stands; two kills, then to the end.
            there = len(list(output.rglob("manifests/*.json")))
            wanted = there + rng.randrange(1, max(2, num_manifests // 3))
            while job.processes[0].is_alive():
                if kills < 2 and len(list(output.rglob("manifests/*.json"))) >= wanted:
                    time.sleep(rng.random() / 20)
                    job.signal(0, signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.002)
            if job.exit_code(0) == 0:
                break
            assert job.exit_code(0) == -signal.SIGKILL, job.log(0)
    assert kills
    assert contents(output) == expected


def test_shards_make_the_same_rows_as_one_process(chain, tmp_path):
    for index in (1, 0):
        args = dataclasses.replace(
            chain.roll_in, output=tmp_path / "roll_ins", shard=f"{index}/2", window=4
        )
        roll_in.roll_in(args)
    assert contents(tmp_path / "roll_ins") == contents(chain.roll_in.output)


# Statistics


def test_token_shares_are_near_60_to_40(hasty_policy, toy_problems, tmp_path, monkeypatch):
    """35.7B tokens of which 14.4B carry loss, 40.3 %, in the published data."""
    tokenizer = AutoTokenizer.from_pretrained(hasty_policy)
    use_engine(monkeypatch, ScriptedEngine(tokenizer, length=90))
    roll_in.roll_in(
        roll_in_args(toy_problems, hasty_policy, tmp_path / "a", models=(f"{hasty_policy}:14",))
    )
    roll_out.roll_out(roll_out_args(tmp_path / "a", hasty_policy, tmp_path / "b"))
    totals = read_report(tmp_path / "b")["totals"]
    assert totals["responses"] == 26 * 56
    share = totals["completion tokens"] / (totals["completion tokens"] + totals["prefix tokens"])
    assert share == pytest.approx(0.4, abs=0.02)
    cuts = [cut for row in read_rows(tmp_path / "b") for cut in row["cut"]]
    observed = np.histogram(cuts, bins=np.arange(1, 92, 9))[0]
    weights = np.sqrt(np.arange(1, 91))
    weights[89:] = 0  # 90 is the whole
    expected = len(cuts) * weights.reshape(10, 9).sum(1) / weights.sum()
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert chi_square < 21.7  # the 99 % quantile at 9 degrees of freedom


def test_cuts_at_the_ends_of_steps(chain, tmp_path, hasty_policy):
    args = dataclasses.replace(chain.roll_out, output=tmp_path, cut="step", step_delimiter=" ok")
    roll_out.roll_out(args)
    tokenizer = AutoTokenizer.from_pretrained(hasty_policy)
    (folder,) = chain.roll_in.output.iterdir()
    without = 0
    for roll_ins, row in zip(read_rows(folder), read_rows(tmp_path), strict=True):
        for number, ids in enumerate(roll_ins["response_ids"]):
            has_step = " ok" in tokenizer.decode(ids[:-1])
            without += not has_step
            for of, prefix in zip(row["roll_in"], row["roll_in_ids"], strict=True):
                if of == number and has_step:
                    assert tokenizer.decode(prefix).endswith(" ok")
    for roll_ins in read_rows(folder, "validation"):
        without += sum(" ok" not in tokenizer.decode(ids[:-1]) for ids in roll_ins["response_ids"])
    assert 0 < without < 26 * 3
    assert read_report(tmp_path)["totals"]["roll-ins without a step end"] == without


# Around them


def test_a_server_that_stays_away_loses_no_file(hasty_policy, toy_problems, tmp_path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(hasty_policy)
    engine = ScriptedEngine(tokenizer, 20)
    answer, calls = engine.generate, []

    async def fail_later(*args):
        calls.append(args)
        await asyncio.sleep(0)
        if len(calls) > 13:
            raise EngineUnavailable("http://127.0.0.1:1 stays away")
        return await answer(*args)

    engine.generate = fail_later
    use_engine(monkeypatch, engine)
    args = roll_in_args(toy_problems, hasty_policy, tmp_path, window=4)
    with pytest.raises(EngineUnavailable, match="stays away"):
        roll_in.roll_in(args)
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.glob("train/*"))) == 3
    calls.clear()
    engine.generate = answer
    roll_in.roll_in(args)
    assert len(read_rows(folder)) == 20


def test_an_engine_that_refuses_everything_ends_the_run(hasty_policy, toy_problems, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(hasty_policy)
    with pytest.MonkeyPatch.context() as patch:
        use_engine(patch, ScriptedEngine(tokenizer, 20, refuse="start"))
        args = roll_in_args(toy_problems, hasty_policy, tmp_path)
        with pytest.raises(EngineRefuses, match=r"8 rows in a row, the last one .toy-0-.*says no"):
            roll_in.roll_in(args)
    roll_in.roll_in(args)
    (folder,) = tmp_path.iterdir()
    # None of them was given up.
    assert read_report(folder)["rows_out"] == 26


def test_rows_refused_now_and_then_are_left_out(hasty_policy, toy_problems, tmp_path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(hasty_policy)
    use_engine(monkeypatch, ScriptedEngine(tokenizer, 20, refuse="+9"))
    texts = [row["problem"] for s in ("train", "validation") for row in read_rows(toy_problems, s)]
    refused = ["+9" in text for text in texts]
    streaks = "".join("x" if bad else " " for bad in refused)
    assert "x" * 8 not in streaks
    roll_in.roll_in(roll_in_args(toy_problems, hasty_policy, tmp_path))
    (folder,) = tmp_path.iterdir()
    report = read_report(folder)
    assert report["rows_out"] == refused.count(False)
    assert report["bad_rows"]["refused by the engine"]["count"] == sum(refused)


def test_a_stage_reads_no_half_of_another(chain, hasty_policy, tmp_path):
    half = shutil.copytree(chain.label.output, tmp_path / "half")
    (half / "report.json").unlink()
    with pytest.raises(InputError, match=r"--input .*half is not complete"):
        roll_in.roll_in(roll_in_args(half, hasty_policy, tmp_path / "out"))
    whole = roll_in_args(chain.label.output, hasty_policy, tmp_path / "out", splits=("validation",))
    roll_in.roll_in(whole)


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
