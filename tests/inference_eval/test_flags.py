"""The command line of an evaluation: published spellings and defaults, and what is saved of it."""

import json
from pathlib import Path

import pytest

import inference_eval
from run_lib.commands import InputError, parse_command_line
from run_lib.settings import as_json, free_flags
from search_lib.engines.base import Sampling
from search_lib.engines.flags import EngineFlags
from search_lib.search_args import Args
from tests.support.flags import replace_flags
from tests.support.searches import make_args


def test_the_published_command_parses_and_means_the_same():
    command = """--benchmark aime-24 --piref_gpu_util 0.75
        --piref_model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --seed 7996 --batch_size 10
        --num_blocks 8 --block_size 4096 --max_length 16384 --temperature 0.6 --top_p 0.95
        --classifier_ckpt_path VGS-AI/DeepSeek-VM-1.5B --num_repetitions 16
        --output_path inference_outputs.jsonl --attention_impl flash_attention_2
        --search_type beam2 --neptune_project cornell-rl/oss-infer-eval"""
    assert parse_command_line(Args, "inference_eval.py", None, command.split()) == Args(
        benchmark="aime-24",
        piref_model="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        seed=7996,
        max_concurrent=10,
        num_blocks=8,
        block_size=4096,
        max_length=16384,
        sampling=Sampling(temperature=0.6, top_p=0.95),
        classifier_ckpt_path="VGS-AI/DeepSeek-VM-1.5B",
        num_repetitions=16,
        output_path=Path("inference_outputs.jsonl"),
        engine_flags=EngineFlags(gpu_util=0.75, attention_impl="flash_attention_2"),
        search_type="beam2",
        neptune_project="cornell-rl/oss-infer-eval",
    )


@pytest.mark.parametrize("flag", ["--batch_size", "--max_concurrent"])
def test_the_window_has_two_names(flag):
    args = parse_command_line(Args, "inference_eval.py", None, [flag, "10"])
    assert args.max_concurrent == 10


def test_the_defaults_are_the_published_ones():
    args = parse_command_line(Args, "inference_eval.py", None, [])
    published = {
        "seed": 1337,
        "gpu_util": 0.5,
        "max_concurrent": 32,
        "benchmark": "aime-24",
        "piref_model": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "classifier_ckpt_path": "VGS-AI/DeepSeek-VM-1.5B",
        "temperature": 0.6,
        "top_p": 0.95,
        "max_length": 16384,
    }
    assert as_json(args).items() >= published.items()


@pytest.mark.parametrize("flag", ["--piref_gpu_util", "--gpu_util"])
def test_the_share_of_a_gpu_has_two_names(flag):
    args = parse_command_line(Args, "inference_eval.py", None, [flag, "0.4"])
    assert args.engine_flags.gpu_util == 0.4


def test_a_new_flag_is_saved_without_a_list_to_keep():
    args = Args("toy", "policy", "value_model")
    flags = as_json(args)
    assert flags["temperature"] == 0.6
    assert flags["sglang_url"] == []
    assert flags["output_path"] == "inference_outputs.jsonl"
    assert not {"sampling", "engine_flags", "scorer_flags"} & flags.keys()
    assert json.loads(json.dumps(flags)) == flags


def test_flags_that_change_no_result_are_declared_where_they_stand():
    assert free_flags(Args) == {
        *("max_concurrent", "value_cache_tokens", "attention_impl", "scorer", "scorer_url"),
        *("sglang_url", "sglang_patience", "sglang_port", "tp_size", "dp_size", "gpu_util"),
        *("neptune_project", "logger_tags", "api_key", "use_sglang_server", "answers"),
        *("save_blocks", "token_values", "vote", "calibration", "speculate"),
    }


def test_a_key_is_neither_saved_nor_shown(models, tmp_path, capsys):
    command = ["--api_key", "s3cret"]
    parsed = parse_command_line(Args, "inference_eval.py", None, command)
    assert parsed.engine_flags.api_key == "s3cret"
    assert "s3cret" not in repr(parsed)
    args = make_args(models, tmp_path, api_key="s3cret")
    assert inference_eval.main(args) == 0
    assert inference_eval.main(replace_flags(args, api_key="another")) == 0
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    shown = capsys.readouterr()
    assert "s3cret" not in written + shown.out + shown.err
    assert "api_key" not in (tmp_path / "run_config.json").read_text()
    with pytest.raises(InputError, match=r"^--api_key must be visible ASCII[^3]*$"):
        inference_eval.main(replace_flags(args, api_key="s3 cret"))
    with pytest.raises(InputError, match=r"^--api_key .*No such file.*absent"):
        inference_eval.main(replace_flags(args, api_key=f"@{tmp_path}/absent"))
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match=r"^--api_key must be visible ASCII"):
        inference_eval.main(replace_flags(args, api_key=f"@{tmp_path}/empty"))
