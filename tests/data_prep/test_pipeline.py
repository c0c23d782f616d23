"""Roll-ins and roll-outs of a real small policy."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from data_prep import roll_in, roll_out
from data_prep.toy import task
from run_lib.commands import InputError
from tests.support.chain import (
    MAX_LENGTH,
    ScriptedEngine,
    roll_in_args,
    roll_out_args,
    use_engine,
)
from tests.support.flags import replace_flags
from tests.support.outputs import contents, only_folder, read_report, read_rows

SPLITS = ("train", "validation")

# Roll-ins


def test_roll_ins_are_of_the_problems(chain, toy_problems):
    for split in SPLITS:
        rows = read_rows(only_folder(chain.roll_in.output), split)
        source = read_rows(toy_problems, split)
        assert [row["message_id"] for row in rows] == [row["uuid"] for row in source]
        for name in ("problem", "solution", "answer"):
            assert [row[name] for row in rows] == [row[name] for row in source]


def test_prompts_end_where_the_thought_begins(chain, tokenizer):
    for row in read_rows(only_folder(chain.roll_in.output)):
        prompt = f"{task.BEGIN}{row['problem']}{task.THINK}"
        assert row["prompt_ids"] == tokenizer(prompt)["input_ids"]


def test_each_problem_has_different_roll_ins(chain):
    for row in read_rows(only_folder(chain.roll_in.output)):
        assert len(row["response_ids"]) == 3
        assert len({tuple(ids) for ids in row["response_ids"]}) > 1


def test_roll_ins_end_with_the_end_token_or_at_the_limit(chain, tokenizer):
    for row in read_rows(only_folder(chain.roll_in.output)):
        for ids, reason in zip(row["response_ids"], row["finish_reasons"], strict=True):
            ends = [i for i, token in enumerate(ids) if token == tokenizer.eos_token_id]
            assert ends == ([len(ids) - 1] if reason == "stop" else [])
            assert (len(ids) == MAX_LENGTH) >= (reason == "length")


def test_the_report_counts_the_roll_ins(chain):
    assert read_report(only_folder(chain.roll_in.output))["totals"]["responses"] == 26 * 3


# Roll-outs


def test_roll_outs_begin_with_cut_roll_ins(chain):
    roll_ins = read_rows(only_folder(chain.roll_in.output))
    for source, row in zip(roll_ins, read_rows(chain.roll_out.output), strict=True):
        assert row["roll_in"] == [number for number in range(3) for _ in range(4)]
        for number, cut, prefix in zip(row["roll_in"], row["cut"], row["roll_in_ids"], strict=True):
            response = source["response_ids"][number]
            assert prefix == row["prompt_ids"] + response[:cut]
            assert cut < len(response) or cut == 0


def test_whole_responses_stay_within_the_limit(chain):
    for row in read_rows(chain.roll_out.output):
        for cut, ids, reason in zip(
            row["cut"], row["roll_outs_ids"], row["finish_reasons"], strict=True
        ):
            assert 1 <= len(ids) <= MAX_LENGTH - cut
            assert reason == "stop" or cut + len(ids) == MAX_LENGTH


def test_shards_make_the_same_rows_as_one_process(chain, tmp_path):
    for index in (1, 0):
        args = dataclasses.replace(
            chain.roll_in, output=tmp_path / "roll_ins", shard=f"{index}/2", window=4
        )
        roll_in.roll_in(args)
    assert contents(tmp_path / "roll_ins") == contents(chain.roll_in.output)


def test_a_stage_reads_no_half_of_another(chain, hasty_policy, tmp_path):
    half = shutil.copytree(chain.label.output, tmp_path / "half")
    (half / "report.json").unlink()
    with pytest.raises(InputError, match=r"--input .*half is not complete"):
        roll_in.roll_in(roll_in_args(half, hasty_policy, tmp_path / "out"))
    whole = roll_in_args(chain.label.output, hasty_policy, tmp_path / "out", splits=("validation",))
    roll_in.roll_in(whole)


# Several models


@pytest.fixture(scope="module")
def two_models(toy_problems, hasty_policy, tmp_path_factory):
    """Roll-ins of the validation problems: two of one model, one of another."""
    folder = tmp_path_factory.mktemp("two_models")
    other = shutil.copytree(hasty_policy, folder / "other")
    args = roll_in_args(
        toy_problems,
        hasty_policy,
        folder / "roll_ins",
        models=(f"{hasty_policy}:2", f"{other}:1"),
        splits=("validation",),
    )
    roll_in.roll_in(args)
    roll_out.roll_out(roll_out_args(args.output, hasty_policy, folder / "roll_outs", num_cuts=1))
    return args, folder / "roll_outs"


def test_roll_outs_are_of_the_roll_ins_of_all_models(two_models):
    args, roll_outs = two_models
    rows = read_rows(roll_outs, "validation")
    assert len(rows) == 6
    folders = sorted(args.output.iterdir())
    joined = [
        [response for row in same for response in row["response_ids"]]
        for same in zip(*(read_rows(folder, "validation") for folder in folders), strict=True)
    ]
    for row, responses in zip(rows, joined, strict=True):
        assert row["roll_in"] == [0, 1, 2]
        assert [prefix[len(row["prompt_ids"]) :] for prefix in row["roll_in_ids"]] == [
            response[:cut] for response, cut in zip(responses, row["cut"], strict=True)
        ]


def test_only_the_splits_asked_for_are_rolled_in(two_models):
    args, roll_outs = two_models
    for folder in (*args.output.iterdir(), roll_outs):
        assert not list(folder.glob("train"))


def test_roll_outs_know_the_models_that_rolled_in(two_models):
    _, roll_outs = two_models
    origin = json.loads((roll_outs / "stage.json").read_text())["origin"]
    assert sorted(model["roll_ins"] for model in origin["roll_ins"]) == [1, 2]


def test_roll_ins_of_other_problems_cannot_be_joined(two_models, hasty_policy, tmp_path):
    args, _ = two_models
    shutil.copytree(args.output, tmp_path / "roll_ins")
    other = args.models[1].removesuffix(":1")
    shutil.rmtree(roll_in.model_folder(tmp_path / "roll_ins", other))
    args = dataclasses.replace(
        args, output=tmp_path / "roll_ins", models=(f"{other}:1",), splits=("train",)
    )
    roll_in.roll_in(args)
    with pytest.raises(InputError, match=r"--input .*roll_ins: .* differ in their problems"):
        roll_out.roll_out(roll_out_args(args.output, hasty_policy, tmp_path / "again"))


# Cuts


@pytest.fixture(scope="module")
def many_cuts(hasty_policy, toy_problems, tokenizer, tmp_path_factory):
    """Roll-outs of 14 roll-ins a problem, each of 90 tokens in all."""
    folder = tmp_path_factory.mktemp("many_cuts")
    with pytest.MonkeyPatch.context() as patch:
        use_engine(patch, ScriptedEngine(tokenizer, length=90))
        models = (f"{hasty_policy}:14",)
        roll_in.roll_in(roll_in_args(toy_problems, hasty_policy, folder / "a", models=models))
        roll_out.roll_out(roll_out_args(folder / "a", hasty_policy, folder / "b"))
    return folder / "b"


def test_token_shares_are_near_60_to_40(many_cuts):
    """35.7B tokens of which 14.4B carry loss, 40.3 %, in the published data."""
    totals = read_report(many_cuts)["totals"]
    assert totals["responses"] == 26 * 56
    share = totals["completion tokens"] / (totals["completion tokens"] + totals["prefix tokens"])
    assert share == pytest.approx(0.4, abs=0.02)


def test_cuts_follow_the_square_root(many_cuts):
    cuts = [cut for row in read_rows(many_cuts) for cut in row["cut"]]
    observed = np.histogram(cuts, bins=np.arange(1, 92, 9))[0]
    weights = np.sqrt(np.arange(1, 91))
    weights[89:] = 0  # 90 is the whole
    expected = len(cuts) * weights.reshape(10, 9).sum(1) / weights.sum()
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert chi_square < 21.7  # the 99 % quantile at 9 degrees of freedom


@pytest.fixture(scope="module")
def step_cuts(chain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("step_cuts")
    roll_out.roll_out(
        replace_flags(chain.roll_out, output=folder, cut="step", step_delimiter=" ok")
    )
    return folder


def test_cuts_are_at_the_ends_of_steps(chain, step_cuts, tokenizer):
    roll_ins = read_rows(only_folder(chain.roll_in.output))
    for source, row in zip(roll_ins, read_rows(step_cuts), strict=True):
        for number, prefix in zip(row["roll_in"], row["roll_in_ids"], strict=True):
            if " ok" in tokenizer.decode(source["response_ids"][number][:-1]):
                assert tokenizer.decode(prefix).endswith(" ok")


def test_roll_ins_without_a_step_are_counted(chain, step_cuts, tokenizer):
    folder = only_folder(chain.roll_in.output)
    without = sum(
        " ok" not in tokenizer.decode(ids[:-1])
        for split in SPLITS
        for row in read_rows(folder, split)
        for ids in row["response_ids"]
    )
    assert 0 < without < 26 * 3
    assert read_report(step_cuts)["totals"]["roll-ins without a step end"] == without
