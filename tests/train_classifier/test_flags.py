"""The flags of training: those published, and those that are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from classifier_lib.training.args import TrainArgs, check_flags, resolve_loss
from run_lib.settings import as_json, free_flags
from train_classifier import parse_args

PUBLISHED = """
    --eval_every -1 --save_every 486 --num_steps 12170 --max_lr 0.0001
    --data_path VGS-AI/OpenR1-VM --data_num_response 56
    --model_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --total_batch_size 64
    --micro_batch_size 8 --small_group_size 2 --run_name single_node_run --track --compile
    --push_to_hub
"""


def test_the_published_command_line_is_understood():
    args = parse_args(PUBLISHED.split())
    expected = {
        "eval_every": -1,
        "save_every": 486,
        "num_steps": 12170,
        "max_lr": 1e-4,
        "data_num_response": 56,
        "total_batch_size": 64,
        "micro_batch_size": 8,
        "small_group_size": 2,
        "run_name": "single_node_run",
        "track": True,
        "compile": True,
        "push_to_hub": True,
    }
    found = as_json(args)
    assert {name: found[name] for name in expected} == expected


def test_the_published_command_line_passes_the_checks():
    check_flags(parse_args(PUBLISHED.split()), world_size=4)


def test_the_defaults_are_the_published_ones():
    args = parse_args(["--run_name", "run"])
    published = {
        "data_path": "VGS-AI/OpenR1-VM",
        "model_path": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "data_num_response": 8,
        "micro_batch_size": 4,
        "total_batch_size": 128,
        "num_steps": 4000,
        "eval_every": 200,
        "eval_size": 128,
        "save_every": 200,
        "max_keep_ckpts": 20,
        "max_length": 16384,
        "beta1": 0.9,
        "beta2": 0.95,
        "grad_norm_clip": 5.0,
    }
    assert {name: getattr(args, name) for name in published} == published
    check_flags(args, world_size=4)


@pytest.mark.parametrize(
    ("spelling", "name", "value"),
    [
        ("--p_dropout 0.1", "attention_dropout", 0.1),
        ("--validation_data_path held_out", "eval_data_path", "held_out"),
        ("--logger_tags a b", "logger_tags", ("a", "b")),
        ("", "loss", "cross_entropy"),
        ("--num_labels 3", "loss", "cross_entropy"),
        ("--num_labels 1", "loss", "bce"),
        ("--num_labels 1 --loss mse", "loss", "mse"),
        ("--num_labels 1 --train_bt_model", "loss", "bradley_terry"),
        ("--train_bt_model", "loss", "bradley_terry"),
    ],
)
def test_published_spellings_mean_the_same(spelling, name, value):
    args = resolve_loss(parse_args(["--run_name", "run", *spelling.split()]))
    assert getattr(args, name) == value


def test_help_shows_underscores(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    text = capsys.readouterr().out
    assert "--total_batch_size" in text
    assert "--total-batch-size" not in text


def test_flags_that_train_other_weights_are_bound():
    bound = as_json(TrainArgs(run_name="run")).keys() - free_flags(TrainArgs)
    assert bound == {
        "data_path",
        "model_path",
        "run_name",
        "data_num_response",
        "dataset_size",
        "skip_bad_rows",
        "num_steps",
        "num_epochs",
        "total_batch_size",
        "small_group_size",
        "max_length",
        "loss",
        "max_lr",
        "warmup_steps",
        "disable_lr_schedule",
        "beta1",
        "beta2",
        "grad_norm_clip",
        "weight_decay",
        "attention_dropout",
        "seed",
        "param_dtype",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"packing": "padded", "total_batch_size": 10},
            "--total_batch_size 10 is not a multiple of --micro_batch_size",
        ),
        (
            {"packing": "padded", "micro_batch_size": 3, "total_batch_size": 12},
            "--micro_batch_size 3 is not a multiple of --small_group_size 2",
        ),
        (
            {"packing": "padded", "tokens_per_micro_batch": 100},
            "--tokens_per_micro_batch 100 is for packed micro batches",
        ),
        ({"tokens_per_micro_batch": 63}, "63 tokens don't hold 1 sample(s) of --max_length 64"),
        (
            {"tokens_per_micro_batch": 127, "loss": "bradley_terry"},
            "127 tokens don't hold 2 sample(s)",
        ),
        (
            {"attention_impl": "flex_attention"},
            "--attention_impl flex_attention has no backward on a CPU",
        ),
        (
            {"attention_impl": "flash_attention_2", "packing": "shared_prefix"},
            "--attention_impl flash_attention_2 has no masks for shared prefixes",
        ),
        (
            {"small_group_size": 3},
            "--data_num_response 4 is not a multiple of --small_group_size 3",
        ),
        (
            {"small_group_size": 8},
            "--data_num_response 4 is not a multiple of --small_group_size 8",
        ),
        ({"loss": "bradley_terry", "small_group_size": 1}, "must be even"),
        ({"loss": "bradley_terry", "micro_batch_size": 3}, "--micro_batch_size 3 must be even"),
        ({"num_epochs": 2}, "--num_steps 4 and --num_epochs 2 are two lengths of one run"),
        ({"num_labels": 1, "loss": "cross_entropy"}, "1 is not of --loss cross_entropy, which has"),
        ({"num_labels": 3, "train_bt_model": True}, "3 is not of --loss bradley_terry, which has"),
        ({"num_labels": 2}, "--num_labels 2 is not of --loss cross_entropy, which has 3"),
        (
            {"train_bt_model": True, "loss": "bce"},
            "--train_bt_model is --loss bradley_terry, not bce",
        ),
        ({"dataset_name": "main"}, "--dataset_name is not supported: --data_path takes a Hub id"),
        ({"label-key": "y"}, "--label_key is not supported: labels are read from the column"),
        ({"dataset_size": 0}, "--dataset_size must be at least 1, or -1, got 0"),
        ({"disable_lr_schedule": True, "warmup_steps": 2}, "has no --warmup_steps 2"),
        ({"beta2": 1}, "--beta2 must be in [0, 1), got 1.0"),
        ({"grad_norm_clip": "nan"}, "--grad_norm_clip must be a finite number, got nan"),
        ({"num_steps": 0}, "--num_steps must be at least 1, or -1, got 0"),
        ({"max_keep_ckpts": 0}, "--max_keep_ckpts must be at least 1, got 0"),
        ({"warmup_steps": 4}, "--warmup_steps 4 must be at least 0 and less than the 4 steps"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"weight_decay": "nan"}, "--weight_decay must be a finite number, got nan"),
        ({"max_lr": "inf"}, "--max_lr must be a finite number, got inf"),
        ({"weight_decay": "inf"}, "--weight_decay must be a finite number, got inf"),
        ({"attention_dropout": "nan"}, "--attention_dropout must be a finite number, got nan"),
        (
            {"total_batch_size": 48},
            "--total_batch_size 48 is more than the 40 samples of --data_path ",
        ),
        ({"max_lr": 0}, "--max_lr must be positive, got 0.0"),
        ({"attention_dropout": 1}, "--attention_dropout must be in [0, 1), got 1.0"),
        ({"data_path": "/absent/data"}, "--data_path /absent/data: no such file"),
        ({"eval_data_path": "/absent/data"}, "--eval_data_path /absent/data: no such file"),
        ({"data_num_response": 8}, "row 0, column labels has 4 responses, not 8"),
        ({"data_num_response": 8}, "so see whether data_num_response is that of the data"),
        ({"model_path": "/absent/model"}, "--model_path /absent/model: no model could be found"),
        ({"output_dir": "/dev/null"}, "--output_dir [Errno 20] Not a directory"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(flags, train_error, changes, message):
    assert message in train_error(flags(**changes))


@pytest.fixture
def policy_copy(tiny_policy, tmp_path) -> Path:
    return shutil.copytree(tiny_policy, tmp_path / "policy")


def test_weights_of_another_shape_are_named(flags, policy_copy, train_error):
    weights = load_file(policy_copy / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, policy_copy / "model.safetensors", metadata={"format": "pt"})
    line = train_error(flags(model_path=policy_copy))
    assert f"--model_path {policy_copy} is no whole model: misshapen weights for model.norm" in line


def test_a_damaged_policy_is_named(flags, policy_copy, train_error):
    file = policy_copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    line = train_error(flags(model_path=policy_copy))
    assert f"--model_path {policy_copy}: no model could be loaded: " in line


def test_sliding_windows_are_refused_in_packed_rows(flags, policy_copy, train_error):
    config = json.loads((policy_copy / "config.json").read_text())
    changes = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 16}
    (policy_copy / "config.json").write_text(json.dumps(config | changes))
    assert "--packing packed: " in train_error(flags(model_path=policy_copy))
