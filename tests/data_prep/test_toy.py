"""The toy task: problems, teacher, tokenizer, policy and roll-outs."""

import asyncio
import collections
import dataclasses
import json
import random
import re
import signal
import subprocess
import sys
import unicodedata
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from classifier_lib.commands import InputError
from data_prep.toy import policy, rollouts, task
from data_prep.toy.sampling import draw_cuts, in_order
from data_prep.toy.tokenizer import build_tokenizer
from search_lib.prompts import build_prompt

ROOT = Path(__file__).parents[2]


class HastyTeacher:
    """Answers at random without a calculation, or waits for ever: learnt in seconds."""

    def trace(self, problem: task.ToyProblem, rng: random.Random) -> str:
        if rng.random() < 0.2:
            return task.WAIT * 16
        line = task.trace_line(rng.randrange(10), task.OPERATIONS[0], rng.randrange(10), task.SURE)
        return line * rng.randrange(3) + task.final_answer(rng.randrange(10)) + task.END


@pytest.fixture(scope="module")
def hasty_policy(tmp_path_factory):
    """A policy whose responses fall into all three classes."""
    path = tmp_path_factory.mktemp("toy") / "policy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "Teacher", HastyTeacher)
        policy.write_policy(policy.PolicyConfig(path, num_steps=120, batch_size=8))
    return path


def follow(text: str) -> tuple[list[str], int]:
    """Evaluates a problem text with Python's own arithmetic: lines without marks, and answer."""
    start, *operations = re.fullmatch(r"start (\d)((?: [-+*]\d)+)", text).group(1, 2)
    digit, lines = int(start), []
    for operation in operations[0].split():
        result = eval(f"{digit} {operation}") % 10
        lines.append(f"{digit} {operation} = {result}")
        digit = result
    return lines, digit


# Problems and teacher


def test_answers_and_solutions_follow_the_operations():
    for problem in islice(task.training_problems(random.Random(0)), 200):
        lines, answer = follow(str(problem))
        assert problem.answer == answer
        assert 8 <= len(problem.operations) <= 14
        written = [f"\n{line} ok" for line in lines]
        assert problem.solution == "".join(written) + f"</think>\\boxed{{{answer}}}"


def test_held_out_file_is_what_the_seed_gives():
    path = ROOT / "data_prep" / "toy" / "test_problems.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == task.held_out_rows()
    assert len({row["problem"] for row in rows}) == len({row["id"] for row in rows}) == 200
    assert all(row["answer"] == str(follow(row["problem"])[1]) for row in rows)


def test_training_problems_leave_out_the_held_out_ones():
    # The very stream that the held-out problems come from.
    problems = list(islice(task.training_problems(random.Random(task.HELD_OUT_SEED)), 50))
    assert not set(problems) & set(task.held_out_problems())


def test_teacher_slips_and_hedges_at_its_rates():
    rng, teacher = random.Random(1), task.Teacher()
    hard = {pair for pair, rate in teacher.slip_rate.items() if rate > task.EASY_SLIP_RATE}
    assert {operation.sign for _, operation in hard} == {"*"}
    assert 0.65 < len(hard) / 80 < 0.85
    counts = collections.Counter()
    expected_slips = correct = finished = 0
    num_traces = 3000
    for problem in islice(task.training_problems(rng), num_traces):
        trace = teacher.trace(problem, rng)
        lines = trace.split("</think>")[0].split("\n")[1:]
        digit = problem.start
        for line, operation in zip(lines, problem.operations, strict=False):
            result = int(line.split(" = ")[1][0])
            slip = result != operation.apply(digit)
            if slip:
                assert result == teacher.slip_to[digit, operation]
            expected_slips += teacher.slip_rate[digit, operation]
            counts[slip, task.HEDGE in line] += 1
            digit = result
        finished += trace.endswith(task.END)
        correct += trace.endswith(f"\\boxed{{{problem.answer}}}{task.END}")
    slips = counts[True, True] + counts[True, False]
    assert slips == pytest.approx(expected_slips, rel=0.05)
    assert counts[True, True] / slips == pytest.approx(task.HEDGE_RATE_IF_WRONG, abs=0.02)
    rights = counts[False, True] + counts[False, False]
    assert counts[False, True] / rights == pytest.approx(task.HEDGE_RATE_IF_RIGHT, abs=0.01)
    assert 0.02 < 1 - finished / num_traces < 0.06  # a few per cent fall into a loop
    assert 0.2 < correct / num_traces < 0.4


def test_teacher_is_reproducible():
    problem = task.held_out_problems()[0]
    first = task.Teacher().trace(problem, random.Random(5))
    assert first == task.Teacher().trace(problem, random.Random(5))
    assert task.Teacher(seed=8).slip_to != task.Teacher().slip_to


# Tokenizer


@pytest.fixture(scope="module")
def loaded_tokenizer(tmp_path_factory):
    """The tokenizer as a policy folder gives it back, beside a Qwen2 config."""
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(path)
    Qwen2Config(vocab_size=len(tokenizer)).save_pretrained(path)
    return AutoTokenizer.from_pretrained(path)


def test_tokenizer_survives_the_model_folder(loaded_tokenizer):
    rng, teacher, fresh = random.Random(2), task.Teacher(), build_tokenizer()
    for problem in islice(task.training_problems(rng), 50):
        trace = teacher.trace(problem, rng)
        ids = loaded_tokenizer(trace, add_special_tokens=False)["input_ids"]
        assert ids == fresh(trace, add_special_tokens=False)["input_ids"]
        assert loaded_tokenizer.decode(ids) == trace
        if trace.endswith(task.END):
            assert len(ids) == 6 * len(problem.operations) + 5 <= task.MAX_RESPONSE_TOKENS
        else:
            assert len(ids) > task.MAX_RESPONSE_TOKENS

        prompt = build_prompt(loaded_tokenizer, str(problem), instruction="")
        assert prompt == build_prompt(fresh, str(problem), instruction="")
        assert loaded_tokenizer.decode(prompt) == f"{task.BEGIN}{problem}{task.THINK}"
        assert len(prompt) == 4 + len(problem.operations)


def test_every_symbol_is_one_token(loaded_tokenizer):
    for symbol in (*task.SYMBOLS, task.BEGIN, task.END, task.PAD, "\n", "}", *"0123456789"):
        assert len(loaded_tokenizer(symbol, add_special_tokens=False)["input_ids"]) == 1
    assert len(loaded_tokenizer) == 291
    assert loaded_tokenizer.eos_token == task.END
    # The thought's marks are text: skipping special tokens must not lose them.
    text = f"{task.END_THINK}{task.BOXED}7}}"
    ids = loaded_tokenizer(text + task.END, add_special_tokens=False)["input_ids"]
    assert loaded_tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize(
    "text",
    ["", "don't  panic okay\t\r\n\n", "naïve Übung", "你好 😀 \u200b ∫x²", "a<think>b\\boxed{x}"],
)
def test_any_other_text_falls_back_to_bytes(loaded_tokenizer, text):
    ids = loaded_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert loaded_tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


# Policy


def test_policy_loss_covers_the_trace_alone():
    tokenizer = build_tokenizer()
    input_ids, labels = next(policy.training_batches(tokenizer, batch_size=8, seed=0))
    assert input_ids.dtype == labels.dtype == torch.int64
    think = tokenizer.convert_tokens_to_ids(task.THINK)
    for ids, targets in zip(input_ids.tolist(), labels.tolist(), strict=True):
        prompt_length = ids.index(think) + 1
        end = ids.index(tokenizer.pad_token_id) if tokenizer.pad_token_id in ids else len(ids)
        assert targets[prompt_length:end] == ids[prompt_length:end]
        assert set(targets[:prompt_length] + targets[end:]) == {policy.IGNORED_LABEL}
        assert 53 <= end - prompt_length <= task.MAX_RESPONSE_TOKENS


def test_policy_folder_is_an_ordinary_checkpoint(hasty_policy):
    model = AutoModelForCausalLM.from_pretrained(hasty_policy)
    tokenizer = AutoTokenizer.from_pretrained(hasty_policy)
    assert model.config.model_type == "qwen2"
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert sum(parameter.numel() for parameter in model.parameters()) == 333_312
    assert [path.name for path in hasty_policy.parent.iterdir()] == ["policy"]


def test_policy_is_trained_once_a_setting(tmp_path, capsys):
    config = policy.PolicyConfig(tmp_path / "policy", num_steps=1, batch_size=2)
    policy.write_policy(config)
    weights = config.output_dir / "model.safetensors"
    first = weights.stat().st_mtime_ns, weights.read_bytes()
    policy.write_policy(config)
    assert "cached" in capsys.readouterr().out
    assert (weights.stat().st_mtime_ns, weights.read_bytes()) == first

    policy.write_policy(policy.PolicyConfig(config.output_dir, num_steps=2, batch_size=2))
    assert "num_steps 1, not 2" in capsys.readouterr().out
    assert weights.read_bytes() != first[1]


def test_policy_replaces_nothing_but_a_policy(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="--output_dir"):
        policy.write_policy(policy.PolicyConfig(tmp_path, num_steps=1))


# Roll-outs


def test_cuts_follow_the_square_root_law():
    length, count = 40, 40_000
    cuts = draw_cuts(length, count, random.Random(0))
    assert min(cuts) >= 1
    assert max(cuts) <= length - 1
    observed = np.bincount(cuts, minlength=length)[1:]
    weights = np.sqrt(np.arange(1, length))
    expected = count * weights / weights.sum()
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert chi_square < 64.0  # the 99 % quantile at 38 degrees of freedom is 61.2
    assert np.mean(cuts) / length == pytest.approx(0.6, abs=0.01)
    assert draw_cuts(1, 3, random.Random(0)) == [0, 0, 0]


def test_results_come_in_order_and_few_run_at_once():
    running = most = 0

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(20 - item):  # the later ones are quicker
            await asyncio.sleep(0)
        running -= 1
        return -item

    async def collect() -> list[tuple[int, int]]:
        return [pair async for pair in in_order(work, range(20), window=4)]

    assert asyncio.run(collect()) == [(item, -item) for item in range(20)]
    assert most == 4


@pytest.fixture(scope="module")
def sampled(hasty_policy, tmp_path_factory):
    """The settings of a small run and its output folder, complete."""
    config = rollouts.RolloutsConfig(
        hasty_policy,
        tmp_path_factory.mktemp("rollouts") / "data",
        num_problems=32,
        num_validation_problems=10,
    )
    rollouts.sample(config)
    return config


def last_box(text: str) -> str | None:
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text.rpartition("</think>")[2])
    return (boxes[-1].strip() or None) if boxes and "</think>" in text else None


def read_rows(config: rollouts.RolloutsConfig, split: str) -> list[dict]:
    return pq.read_table(config.output / split).to_pylist()


def test_rollouts_have_the_published_schema(sampled):
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
        "labels": pa.list_(pa.int64()),
    }
    for split in rollouts.SPLITS:
        (path,) = (sampled.output / split).iterdir()
        assert path.name == "00000-of-00001.parquet"
        schema = pq.read_schema(path)
        assert dict(zip(schema.names, schema.types, strict=True)) == expected
    loaded = datasets.load_dataset(
        "parquet", data_dir=str(sampled.output / "train"), cache_dir=str(sampled.output / "cache")
    )
    assert loaded["train"].column_names == list(expected)


def test_rollouts_are_cut_completed_and_labelled_right(sampled):
    tokenizer = AutoTokenizer.from_pretrained(sampled.policy)
    all_labels = collections.Counter()
    for row in [row for split in rollouts.SPLITS for row in read_rows(sampled, split)]:
        prompt = tokenizer(f"{task.BEGIN}{row['problem']}{task.THINK}")["input_ids"]
        assert row["answer"] == str(follow(row["problem"])[1])
        assert row["solution"].endswith(f"\\boxed{{{row['answer']}}}")
        assert 1 in row["labels"]
        assert {
            len(row[name]) for name in ("reward", "roll_in_ids", "roll_outs_ids", "labels")
        } == {8}
        for roll_in, completion, label, reward, answer in zip(
            row["roll_in_ids"],
            row["roll_outs_ids"],
            row["labels"],
            row["reward"],
            row["processed_answer"],
            strict=True,
        ):
            assert roll_in[: len(prompt)] == prompt
            assert completion
            response = (roll_in + completion)[len(prompt) :]
            text = tokenizer.decode(response)
            assert len(response) <= task.MAX_RESPONSE_TOKENS
            assert task.END not in tokenizer.decode(response[:-1])
            if not text.endswith(task.END):
                assert len(response) == task.MAX_RESPONSE_TOKENS
                assert label == 2
            else:
                boxed = last_box(text)
                assert answer == boxed
                if boxed is None or boxed.isdigit():  # a raw policy boxes other things, too
                    assert label == (boxed == row["answer"])
            assert reward == (label == 1)
            all_labels[label] += 1
        for first in (0, 4):  # the cuts of one roll-in: of two, one goes on where the other ends
            cuts = sorted(row["roll_in_ids"][first : first + 4], key=len)
            assert all(cuts[-1][: len(cut)] == cut for cut in cuts)
    assert set(all_labels) == {0, 1, 2}


def test_splits_share_no_problem_and_drop_the_hopeless(sampled):
    train, validation = (read_rows(sampled, split) for split in rollouts.SPLITS)
    assert {int(row["message_id"][-6:]) for row in validation} <= set(range(10))
    assert {int(row["message_id"][-6:]) for row in train} <= set(range(10, 32))
    report = json.loads((sampled.output / "00000-of-00001.json").read_text())["report"]
    assert report["problems"] == 32
    assert (report["train_rows"], report["validation_rows"]) == (len(train), len(validation))
    assert len(train) + len(validation) < 32
    assert sum(report["responses"].values()) == 32 * 8


def test_unsolved_problems_stay_when_asked_for(sampled, tmp_path):
    config = dataclasses.replace(
        sampled, output=tmp_path / "data", keep_unsolved=True, num_problems=12
    )
    rollouts.sample(config)
    kept = [row for split in rollouts.SPLITS for row in read_rows(config, split)]
    assert sorted(int(row["message_id"][-6:]) for row in kept) == list(range(12))
    assert any(1 not in row["labels"] for row in kept)


def test_shards_are_parts_of_the_whole(sampled, tmp_path):
    parts = dataclasses.replace(sampled, output=tmp_path / "data", num_problems=14)
    for shard in ("0/2", "1/2"):
        rollouts.sample(dataclasses.replace(parts, shard=shard))
    for split in rollouts.SPLITS:
        # The first problems are the same ones, and their samples do not depend on the others'.
        whole = [row for row in read_rows(sampled, split) if row["message_id"][-6:] < "000014"]
        parted = sorted(read_rows(parts, split), key=lambda row: row["message_id"])
        assert parted == whole


def test_second_run_is_cached(sampled, capsys):
    files = {path: path.stat().st_mtime_ns for path in sampled.output.rglob("*-of-*")}
    rollouts.sample(sampled)
    assert "cached" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in sampled.output.rglob("*-of-*")} == files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_cuts": 3}, "num_cuts 4, not 3"),
        ({"shard": "0/2"}, "number of shards"),
        ({"shard": "2/2"}, "--shard"),
        ({"num_roll_ins": 0}, "--num_roll_ins"),
        ({"policy": Path("nowhere")}, "--policy"),
    ],
)
def test_bad_settings_are_named(sampled, change, message):
    with pytest.raises(InputError, match=message):
        rollouts.sample(dataclasses.replace(sampled, **change))


def test_a_killed_run_leaves_nothing_that_looks_complete(sampled, tmp_path):
    output = tmp_path / "data"
    command = [sys.executable, "-m", "data_prep.toy.rollouts"]
    command += ["--policy", str(sampled.policy), "--output", str(output)]
    command += ["--num_problems", "2000", "--num_roll_ins", "1", "--num_cuts", "1"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert "/2000 problems" in process.stdout.readline()  # it is half-way
        process.send_signal(signal.SIGKILL)
    assert list(output.rglob("*.tmp"))
    assert not [*output.rglob("*.parquet"), *output.rglob("*.json")]

    rollouts.sample(dataclasses.replace(sampled, output=output, num_problems=4))
    assert not list(output.rglob("*.tmp"))
    assert len(list(output.rglob("*.parquet"))) == 2
