"""The command lines of the stages: their flags, how they end, and what they import."""

import json
import shutil
import subprocess
import sys

import pytest

from data_prep import label, roll_in, roll_out
from data_prep.args import ROLL_IN, ROLL_OUT
from data_prep.roll_in import RollInArgs
from data_prep.roll_out import RollOutArgs
from run_lib.commands import parse_command_line
from search_lib.answer_formats import ANSWER_FORMATS
from search_lib.benchmarks import MATH_INSTRUCTION
from tests.support.outputs import only_folder
from tests.support.paths import ROOT

INPUT = ["--input", "in", "--output", "out"]


def parse_roll_in(*flags: str) -> RollInArgs:
    return parse_command_line(RollInArgs, ROLL_IN, "", [*INPUT, "--models", "a:1", *flags])


def parse_roll_out(*flags: str) -> RollOutArgs:
    return parse_command_line(RollOutArgs, ROLL_OUT, "", [*INPUT, "--model", "a", *flags])


@pytest.mark.parametrize("parse", [parse_roll_in, parse_roll_out])
@pytest.mark.parametrize("flag", ["--gpu_util", "--piref_gpu_util"])
def test_the_share_of_gpu_memory_has_two_spellings(parse, flag):
    assert parse(flag, "0.6").engine_flags.gpu_util == 0.6


@pytest.mark.parametrize("parse", [parse_roll_in, parse_roll_out])
def test_stages_have_defaults_of_their_own_for_the_engine(parse):
    flags = parse().engine_flags
    assert (flags.sglang_patience, flags.gpu_util) == (3600.0, 0.85)


@pytest.mark.parametrize("parse", [parse_roll_in, parse_roll_out])
def test_sampling_has_the_flags_of_a_search(parse):
    sampling = parse("--temperature", "1", "--top_p", "0.9", "--max_length", "96").sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_length) == (1.0, 0.9, 96)


def test_roll_ins_are_asked_for_their_answer_as_trees_are():
    args = parse_roll_in("--answer_format", "final_answer")
    assert args.prompt_text == ANSWER_FORMATS["final_answer"].instruction
    assert parse_roll_in().prompt_text == MATH_INSTRUCTION
    assert parse_roll_in("--answer_format", "choice", "--instruction", "").prompt_text == ""


def test_the_settings_of_roll_ins_are_the_flags_that_their_rows_depend_on(chain):
    document = json.loads((only_folder(chain.roll_in.output) / "stage.json").read_text())
    assert list(document["settings"]) == [
        *("temperature", "top_p", "max_length", "seed", "instruction"),
        *("think_tags", "answer_format"),
        *("model", "model_digest", "roll_ins", "rows_per_file"),
    ]


def test_the_settings_of_roll_outs_are_the_flags_that_their_rows_depend_on(chain):
    document = json.loads((chain.roll_out.output / "stage.json").read_text())
    assert list(document["settings"]) == [
        *("temperature", "top_p", "max_length", "seed", "model", "model_digest"),
        *("num_cuts", "num_completions", "cut", "step_delimiter", "rows_per_file"),
    ]


@pytest.mark.parametrize(
    ("main", "flags", "line"),
    [
        (roll_in.main, ["--models", "a"], "data_prep.roll_in: error: --models a: expected a "),
        (roll_out.main, ["--model", "a"], "data_prep.roll_out: error: --input in: no output of "),
        (label.main, ["--tokenizer", "a"], "data_prep.label: error: --input in: no output of "),
    ],
)
def test_commands_end_with_one_line_on_bad_input(main, flags, line, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*INPUT, *flags])
    assert ended.value.code == 2
    (written,) = capsys.readouterr().err.splitlines()
    assert written.startswith(line)


@pytest.mark.parametrize("name", ["cleaned", ".filtered"])
def test_the_output_of_another_stage_is_no_roll_in(chain, tmp_path, capsys, name):
    shutil.copytree(chain.label.output, tmp_path / name)
    with pytest.raises(SystemExit) as ended:
        roll_out.main(["--input", str(tmp_path), "--output", "out", "--model", "a"])
    assert ended.value.code == 2
    (written,) = capsys.readouterr().err.splitlines()
    assert "no output of data_prep.roll_in" in written


def test_an_attention_that_nobody_knows_is_named_before_anything_is_written(tmp_path, capsys):
    output = tmp_path / "out"
    flags = ["--input", "in", "--output", str(output), "--models", "a:1"]
    with pytest.raises(SystemExit):
        roll_in.main([*flags, "--attention_impl", "nosuch"])
    assert "error: --attention_impl nosuch is not known; known are " in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("data_prep.label", {"data_prep.roll_out", "data_prep.roll_in"}),
        ("data_prep.roll_out", {"data_prep.roll_in", "data_prep.label"}),
    ],
)
def test_stages_do_not_import_the_ones_before(module, unneeded):
    program = f"import sys, {module}; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert not unneeded & set(done.stdout.split())
