"""Runs of DVO training from start to end."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

import train_dvo
from dvo_lib.args import DvoArgs
from dvo_lib.columns import REFERENCE
from run_lib.checksums import find_faults
from run_lib.hub import check_vocabulary, load_config, load_tokenizer
from run_lib.settings import as_json, free_flags
from search_lib.benchmarks import Problem
from search_lib.engines.base import Block, Expansion, Sampling
from search_lib.engines.factory import open_engine
from search_lib.engines.flags import EngineFlags
from search_lib.prompts import build_prompts, stop_token_ids
from tests.support.dvo_paths import (
    END,
    command_line,
    implicit_rewards,
    step_logprobs,
    write_paths,
)
from tests.support.hub import Api, install
from tests.support.tiny_models import save_tiny_policy, tiny_config_of
from tests.support.training import check_close, final_weights, read_evaluation, read_metrics

BETA = 0.5


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, dvo_policy, paths_file):
    """A run that learns eight trees by heart, evaluated on them."""
    folder = tmp_path_factory.mktemp("whole")
    argv = command_line(
        dvo_policy,
        paths_file,
        folder,
        num_steps=60,
        total_batch_size=8,
        max_lr=1e-2,
        tokens_per_micro_batch=1000,
        eval_data_path=paths_file,
        eval_every=30,
    )
    train_dvo.main(argv)
    return folder / "run"


def test_a_run_leaves_its_files(whole_run):
    assert sorted(path.name for path in whole_run.iterdir()) == [
        ".run.lock",
        "config.json",
        "evaluation.json",
        "final",
        "metrics.jsonl",
        "step_60",
    ]
    assert find_faults(whole_run / "final") == {}


def test_the_loss_decreases_from_that_of_the_reference(whole_run, rows):
    losses = [x["train/loss"] for x in read_metrics(whole_run) if "train/loss" in x]
    # With log-ratios of zero all that is left of the error is the credit.
    zero = np.mean([np.mean(np.square(row["credits"])) / 2 for row in rows])
    assert losses[0] == pytest.approx(zero, rel=1e-4)
    assert losses[-1] < 0.2 * losses[0]


def test_the_last_step_has_a_line_of_metrics(flags, tmp_path):
    train_dvo.main(flags(num_steps=3, log_every=2))
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 3]


def test_the_policy_moves_towards_the_credits(whole_run, rows):
    before = [row[REFERENCE] for row in rows]
    after = step_logprobs(whole_run / "final", rows)
    log_ratios = np.concatenate([np.subtract(a, b) for a, b in zip(after, before, strict=True)])
    credits = np.concatenate([row["credits"] for row in rows])
    assert np.corrcoef(BETA * log_ratios, credits)[0, 1] > 0.9


def test_the_evaluation_is_that_of_the_final_policy(whole_run, rows):
    rewards = np.array(implicit_rewards(whole_run / "final", rows, BETA))
    correct = np.array([row["correct"] for row in rows])
    evaluation = read_evaluation(whole_run)
    assert evaluation["step"] == 60
    for name, kept in (("correct", correct), ("incorrect", ~correct)):
        expected = pytest.approx(rewards[kept].mean(), abs=1e-4)
        assert evaluation[f"implicit_reward/{name}"] == expected
    assert evaluation["implicit_reward/accuracy"] > 0.8
    assert [x["step"] for x in read_metrics(whole_run) if "eval/loss" in x] == [30, 60]


def test_what_is_logged(whole_run, rows):
    first = read_metrics(whole_run)[0]
    credits = np.concatenate([row["credits"] for row in rows])
    assert first["train/credits/mean"] == pytest.approx(credits.mean(), rel=1e-5)
    assert first["train/credits/std"] == pytest.approx(credits.std(), rel=1e-5)
    assert first["train/kl"] == pytest.approx(0, abs=1e-8)
    names = ("grad_norm", "lr", "implicit_reward/accuracy", "tokens_per_second/all")
    assert {f"train/{name}" for name in names} <= first.keys()


def test_the_final_folder_is_a_causal_lm_with_its_tokenizer(whole_run, dvo_policy):
    final = whole_run / "final"
    model = AutoModelForCausalLM.from_pretrained(final)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in final_weights(whole_run)
    settings = GenerationConfig.from_pretrained(final)
    assert (settings.eos_token_id, settings.do_sample, settings.top_k) == (END, True, 3)
    name = "tokenizer_config.json"
    assert (final / name).read_bytes() == (dvo_policy / name).read_bytes()
    before = json.loads((dvo_policy / "config.json").read_text())
    after = json.loads((final / "config.json").read_text())
    assert {name for name in before if before[name] != after.get(name)} == set()


def test_the_card_has_the_numbers_of_the_run(whole_run):
    card = (whole_run / "final" / "README.md").read_text()
    accuracy = read_evaluation(whole_run)["implicit_reward/accuracy"]
    assert f"| implicit_reward/accuracy | {accuracy:.4f} |" in card
    assert "60 steps of 8 trees (60.00 epochs of 8 trees with 32 paths), from the base" in card


def test_checkpoints_and_the_final_policy_are_pushed(flags, tmp_path, monkeypatch):
    install(monkeypatch)
    monkeypatch.setattr(Api, "is_reached", True)
    pushed = ["--push_checkpoints", "--push_to_hub"]
    train_dvo.main([*flags(num_steps=2, save_every=1, hub_model_id="me/model"), *pushed])
    assert [path.name for path in Api.pushed] == ["step_1", "step_2", "final"]
    assert 'from_pretrained("me/model")' in (Api.pushed[-1] / "README.md").read_text()


def test_layouts_train_the_same_weights(flags, tmp_path):
    runs = []
    for packing in ("padded", "packed", "shared_prefix"):
        train_dvo.main(flags(packing=packing, output_dir=tmp_path / packing))
        runs.append(tmp_path / packing / "run")
    counts = [read_metrics(run)[0]["train/loss_tokens"] for run in runs]
    assert counts[0] == counts[1] == counts[2]
    for run in runs[1:]:
        check_close(final_weights(runs[0]), final_weights(run))


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def of_family(request, tmp_path_factory, rows) -> tuple[Path, Path]:
    """A policy of another family, with the toy's tokenizer, and the folder of a run of it."""
    folder = tmp_path_factory.mktemp(request.param)
    policy = save_tiny_policy(folder / "policy", family=request.param)
    reference = step_logprobs(policy, rows)
    own = [row | {REFERENCE: steps} for row, steps in zip(rows, reference, strict=True)]
    data = write_paths(folder / "paths.parquet", own)
    train_dvo.main(command_line(policy, data, folder, num_steps=2))
    return policy, folder / "run"


def test_policies_of_other_families_are_trained(of_family):
    policy, run_dir = of_family
    assert read_metrics(run_dir)[0]["train/kl"] == pytest.approx(0, abs=1e-8)
    before, after = map(AutoModelForCausalLM.from_pretrained, (policy, run_dir / "final"))
    assert type(before) is type(after)
    for name, tensor in before.state_dict().items():
        assert not torch.equal(tensor, after.state_dict()[name]), name


def test_the_final_folder_is_a_policy_for_searches(of_family):
    """As --piref_model of inference_eval.py: its tokenizer, end token, prompts and hf engine."""
    name = str(of_family[1] / "final")
    tokenizer = load_tokenizer(name)
    ends = stop_token_ids(name, tokenizer)
    assert ends == stop_token_ids(str(of_family[0]), tokenizer) == (tokenizer.eos_token_id,)
    check_vocabulary(tokenizer, load_config(name).vocab_size)
    prompts = build_prompts(tokenizer, [Problem("p0", "1 + 1 = ?", "2")], "")
    engine = open_engine(EngineFlags("hf"), name, torch.device("cpu"))

    async def generate() -> list[Block]:
        try:
            expansion = Expansion(0, prompts["p0"], 4, 6, ends, 0)
            return await engine.generate(expansion, Sampling())
        finally:
            await engine.close()

    for block in asyncio.run(generate()):
        assert block.finish_reason == ("stop" if block.token_ids[-1] in ends else "length")


def test_a_policy_with_a_sliding_window_is_refused(flags, tmp_path, train_error):
    tiny_config_of("mistral", 32, sliding_window=16).save_pretrained(tmp_path / "policy")
    line = train_error(flags(model_path=tmp_path / "policy"))
    assert f"--model_path {tmp_path / 'policy'} has sliding-window attention" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_path": "/absent"}, "--data_path /absent: no such file or folder"),
        ({"eval_data_path": "/absent"}, "--eval_data_path /absent: no such file or folder"),
        ({"model_path": "/absent/model"}, "--model_path /absent/model: no model could be found"),
        ({"total_batch_size": 9}, "--total_batch_size 9 is more than the 8 trees of --data_path "),
        ({"total_batch_size": 0}, "--total_batch_size must be at least 1, got 0"),
        ({"beta": 0}, "--beta must be positive, got 0.0"),
        ({"max_lr": "nan"}, "--max_lr must be a finite number, got nan"),
        ({"warmup_ratio": 1}, "--warmup_ratio must be in [0, 1), got 1.0"),
        ({"save_every": 0}, "--save_every must be at least 1, or -1, got 0"),
        (
            {"packing": "padded", "micro_batch_size": 3},
            "--total_batch_size 4 is not a multiple of --micro_batch_size 3 x 1 processes",
        ),
    ],
)
def test_bad_input_is_one_line(flags, train_error, changes, message):
    assert message in train_error(flags(**changes))


def test_paths_without_reference_say_what_to_run(flags, rows, tmp_path, train_error):
    file = write_paths(tmp_path / "bad.parquet", [row | {REFERENCE: None} for row in rows])
    line = train_error(flags(data_path=file))
    assert f"--data_path {file}: row 0, column reference_logprobs is null: run data_prep" in line
    assert not (tmp_path / "run").exists()


def test_a_value_model_is_no_policy(flags, value_model_folder, train_error):
    assert "is no whole policy: no weights for lm_head.weight" in train_error(
        flags(model_path=value_model_folder)
    )


def test_flags_that_train_other_weights_are_bound():
    args = DvoArgs(run_name="run", data_path="data", model_path="policy")
    assert as_json(args).keys() - free_flags(DvoArgs) == {
        *("run_name", "data_path", "model_path", "beta", "normalize", "num_epochs", "num_steps"),
        *("total_batch_size", "max_lr", "warmup_ratio", "weight_decay", "grad_norm_clip", "seed"),
    }


def test_an_epoch_is_all_trees(flags, tmp_path):
    train_dvo.main(flags(num_steps=None, num_epochs=2))
    assert read_metrics(tmp_path / "run")[-1]["train/epoch"] == 2
