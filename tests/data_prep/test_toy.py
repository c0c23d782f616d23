"""The toy task: problems, teacher, tokenizer, policy and roll-outs."""

import collections
import dataclasses
import json
import random
import re
import subprocess
import sys
import unicodedata
from itertools import islice

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from data_prep.toy import policy, problems, task
from data_prep.toy.tokenizer import build_tokenizer
from run_lib.commands import InputError
from search_lib.prompts import build_prompt
from tests.support.paths import ROOT


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


def test_held_out_problems_are_200_different_ones_with_their_answers():
    rows = task.held_out_rows()
    assert len({row["problem"] for row in rows}) == len({row["id"] for row in rows}) == 200
    assert all(row["answer"] == str(follow(row["problem"])[1]) for row in rows)


def test_training_problems_leave_out_the_held_out_ones():
    # The very stream that the held-out problems come from.
    problems = list(islice(task.training_problems(random.Random(task.HELD_OUT_SEED)), 50))
    assert not set(problems) & set(task.held_out_problems())


def test_three_quarters_of_the_products_are_hard():
    slip_rate = task.Teacher().slip_rate
    hard = {pair for pair, rate in slip_rate.items() if rate > task.EASY_SLIP_RATE}
    assert {operation.sign for _, operation in hard} == {"*"}
    assert 0.65 < len(hard) / 80 < 0.85


NUM_TRACES = 3000


@dataclasses.dataclass
class Traces:
    """Counts over the teacher's traces.

    Attributes:
        lines: Lines by whether they are wrong and whether they are hedged.
        expected_slips: Wrong lines by the teacher's rates.
        slips: (operation, digit written) of the wrong lines by digit.
        finished: Traces with an end.
        correct: Traces with the right answer.
    """

    lines: collections.Counter
    expected_slips: float = 0.0
    slips: set = dataclasses.field(default_factory=set)
    finished: int = 0
    correct: int = 0


@pytest.fixture(scope="module")
def traces() -> Traces:
    rng, teacher = random.Random(1), task.Teacher()
    counts = Traces(collections.Counter())
    for problem in islice(task.training_problems(rng), NUM_TRACES):
        trace = teacher.trace(problem, rng)
        lines = trace.split("</think>")[0].split("\n")[1:]
        digit = problem.start
        for line, operation in zip(lines, problem.operations, strict=False):
            result = int(line.split(" = ")[1][0])
            slip = result != operation.apply(digit)
            if slip:
                counts.slips.add((digit, operation, result))
            counts.expected_slips += teacher.slip_rate[digit, operation]
            counts.lines[slip, task.HEDGE in line] += 1
            digit = result
        counts.finished += trace.endswith(task.END)
        counts.correct += trace.endswith(f"\\boxed{{{problem.answer}}}{task.END}")
    return counts


def test_teacher_slips_at_its_rates(traces):
    slips = traces.lines[True, True] + traces.lines[True, False]
    assert slips == pytest.approx(traces.expected_slips, rel=0.05)


def test_teacher_slips_to_the_same_digit_always(traces):
    slip_to = task.Teacher().slip_to
    assert all(slip_to[digit, operation] == result for digit, operation, result in traces.slips)


def test_teacher_hedges_at_its_rates(traces):
    wrong = traces.lines[True, True] + traces.lines[True, False]
    right = traces.lines[False, True] + traces.lines[False, False]
    assert traces.lines[True, True] / wrong == pytest.approx(task.HEDGE_RATE_IF_WRONG, abs=0.02)
    assert traces.lines[False, True] / right == pytest.approx(task.HEDGE_RATE_IF_RIGHT, abs=0.01)


def test_a_few_traces_fall_into_a_loop(traces):
    assert 0.02 < 1 - traces.finished / NUM_TRACES < 0.06


def test_a_third_of_the_traces_is_correct(traces):
    assert 0.2 < traces.correct / NUM_TRACES < 0.4


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


def test_traces_survive_the_model_folder(loaded_tokenizer):
    rng, teacher, fresh = random.Random(2), task.Teacher(), build_tokenizer()
    for problem in islice(task.training_problems(rng), 50):
        trace = teacher.trace(problem, rng)
        ids = loaded_tokenizer(trace, add_special_tokens=False)["input_ids"]
        assert ids == fresh(trace, add_special_tokens=False)["input_ids"]
        assert loaded_tokenizer.decode(ids) == trace


def test_traces_have_as_many_tokens_as_symbols(loaded_tokenizer):
    rng, teacher = random.Random(2), task.Teacher()
    for problem in islice(task.training_problems(rng), 50):
        trace = teacher.trace(problem, rng)
        num_tokens = len(loaded_tokenizer(trace, add_special_tokens=False)["input_ids"])
        if trace.endswith(task.END):
            assert num_tokens == 6 * len(problem.operations) + 5 <= task.MAX_RESPONSE_TOKENS
        else:
            assert num_tokens > task.MAX_RESPONSE_TOKENS


def test_prompts_survive_the_model_folder(loaded_tokenizer):
    fresh = build_tokenizer()
    for problem in islice(task.training_problems(random.Random(2)), 50):
        prompt = build_prompt(loaded_tokenizer, str(problem), instruction="")
        assert prompt == build_prompt(fresh, str(problem), instruction="")
        assert loaded_tokenizer.decode(prompt) == f"{task.BEGIN}{problem}{task.THINK}"
        assert len(prompt) == 4 + len(problem.operations)


def test_every_symbol_is_one_token(loaded_tokenizer):
    for symbol in (*task.SYMBOLS, task.BEGIN, task.END, task.PAD, "\n", "}", *"0123456789"):
        assert len(loaded_tokenizer(symbol, add_special_tokens=False)["input_ids"]) == 1
    assert len(loaded_tokenizer) == 291


def test_the_marks_of_a_thought_are_no_special_tokens(loaded_tokenizer):
    assert loaded_tokenizer.eos_token == task.END
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


def test_a_complete_policy_is_left_alone(tmp_path, capsys):
    config = policy.PolicyConfig(tmp_path / "policy", num_steps=1, batch_size=2)
    policy.write_policy(config)
    weights = config.output_dir / "model.safetensors"
    first = weights.stat().st_mtime_ns, weights.read_bytes()
    policy.write_policy(config)
    assert "cached" in capsys.readouterr().out
    assert (weights.stat().st_mtime_ns, weights.read_bytes()) == first


def test_a_policy_of_other_settings_is_trained_again(tmp_path, capsys):
    config = policy.PolicyConfig(tmp_path / "policy", num_steps=1, batch_size=2)
    policy.write_policy(config)
    weights = config.output_dir / "model.safetensors"
    first = weights.read_bytes()
    policy.write_policy(dataclasses.replace(config, num_steps=2))
    assert "made with other settings: --num_steps (was 1, now 2)" in capsys.readouterr().out
    assert weights.read_bytes() != first


def test_policy_replaces_nothing_but_a_policy(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="--output_dir"):
        policy.write_policy(policy.PolicyConfig(tmp_path, num_steps=1))


def test_policy_command_ends_with_one_line_on_bad_input(tmp_path, capsys):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(SystemExit) as ended:
        policy.main(["--output_dir", str(tmp_path)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"data_prep.toy.policy: error: --output_dir {tmp_path} holds something")


# Problems for the pipeline


def test_problems_are_written_in_the_columns_of_openr1_math(tmp_path):
    config = problems.ProblemsConfig(tmp_path / "new" / "problems.parquet", num_problems=12)
    problems.write_problems(config)
    rows = pq.read_table(config.output).to_pylist()
    assert [row["uuid"] for row in rows] == [f"toy-0-{number:06d}" for number in range(12)]
    for row in rows:
        assert row["answer"] == str(follow(row["problem"])[1])
        assert row["solution"].endswith(f"\\boxed{{{row['answer']}}}")
        assert row["question_type"] == "math-word-problem"


def test_problems_are_the_same_bytes_again(tmp_path):
    config = problems.ProblemsConfig(tmp_path / "problems.parquet", num_problems=12)
    problems.write_problems(config)
    first = config.output.read_bytes()
    problems.write_problems(config)
    assert config.output.read_bytes() == first


def test_problems_command_ends_with_one_line_on_bad_input(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        problems.main(["--output", str(tmp_path / "p"), "--num_problems", "0"])
    assert ended.value.code == 2
    line = "data_prep.toy.problems: error: --num_problems must be at least 1, got 0\n"
    assert capsys.readouterr().err == line


def test_problems_command_imports_no_torch():
    modules = "import sys, data_prep.toy.problems; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", modules], cwd=ROOT, check=True)
