"""What README, docs and scripts promise: their commands parse, their snippets run."""

import functools
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest
import tyro

import ask
import inference_eval
import train_classifier
import train_dvo
from classifier_lib import score
from classifier_lib.training.args import TrainArgs, check_flags
from data_prep import clean, label, roll_in, roll_out
from data_prep.dvo import export, paths, reference, sft, trees
from data_prep.toy import problems
from dvo_lib import args as dvo_args
from run_lib.commands import parse_command_line
from scripts import compare, frontier, mean_of_runs, report, sweep, trl_train
from scripts.bench import scheduling
from scripts.gpu_day import table
from scripts.reproduce.dvo_runs import DvoPlanArgs
from scripts.reproduce.searches import SearchPlanArgs
from search_lib.asking.ask_args import AskArgs
from search_lib.results import calibration, shards, summary
from search_lib.search_args import Args as SearchArgs
from search_lib.serve.args import ServeFlags
from search_lib.strategies import describe_strategies
from search_lib.voting import VOTES
from tests.support.documentation import DOCUMENTATION, PAGES, README, commands, joined
from tests.support.paths import ROOT
from tests.support.tiny_models import save_tiny_classifier


@pytest.mark.parametrize("script", sorted(ROOT.glob("scripts/**/*.sh")), ids=lambda path: path.name)
def test_every_shell_script_parses(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_ci_runs_the_two_commands_of_the_readme_and_nothing_else():
    first_block = re.search(r"```bash\n(.*?)```", README, re.DOTALL)[1]
    promised = [line.split("#")[0].strip() for line in first_block.splitlines()]
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    run = [line for line in ci if line and not line.startswith(("#", "set ", "cd "))]
    assert promised == run == ["scripts/quickstart.sh", "scripts/test.sh"]


def test_the_evaluation_commands_of_the_documentation_parse():
    script = re.sub(
        "^# ?", "", (ROOT / "scripts" / "search_slurm.sh").read_text(), flags=re.MULTILINE
    )
    found = [
        *commands(DOCUMENTATION, "inference_eval.py"),
        *commands(DOCUMENTATION, "scripts/search_slurm.sh"),
        *commands(inference_eval.__doc__, "inference_eval.py"),
        *commands(script, "scripts/search_slurm.sh"),
    ]
    assert len(found) == 13
    for arguments in found:
        args = parse_command_line(SearchArgs, "inference_eval.py", None, arguments)
        args.find_format()
        assert args.num_repetitions > 1 or not args.scorer_flags.has_values


def test_the_questions_of_the_documentation_parse():
    found = re.findall(r"python ask\.py (.*)", joined(DOCUMENTATION + ask.__doc__))
    assert len(found) >= 5
    for arguments in found:
        args = parse_command_line(AskArgs, "ask.py", None, shlex.split(arguments))
        assert args.question


def test_the_training_commands_of_the_documentation_parse():
    text = DOCUMENTATION + train_classifier.__doc__
    for script in sorted(ROOT.glob("scripts/**/*.sh")):
        text += re.sub("^# ?", "", script.read_text(), flags=re.MULTILINE)
    on_one_machine = commands(text, "train_classifier.py")
    on_many = [
        *commands(text, "scripts/train_multinode.sh"),
        *commands(text, "scripts/train_slurm.sh"),
    ]
    assert (len(on_one_machine), len(on_many)) == (7, 3)
    for found, world_size in ((on_one_machine, 4), (on_many, 16 * 8)):
        for arguments in found:
            check_flags(train_classifier.parse_args(arguments), world_size)


def test_the_dvo_training_commands_of_the_documentation_parse():
    found = commands(DOCUMENTATION + train_dvo.__doc__, "train_dvo.py")
    assert len(found) >= 2
    for arguments in found:
        dvo_args.check_flags(train_dvo.parse_args(arguments), world_size=8)


@pytest.fixture
def published_script(tmp_path: Path) -> Callable[..., list[str]]:
    """Runs a script with a Python that prints its arguments; returns those of the program."""
    (tmp_path / "scripts").mkdir()
    shutil.copytree(ROOT / "scripts" / "lib", tmp_path / "scripts" / "lib")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)

    def run(name: str, program: str, *arguments: str) -> list[str]:
        script = shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts" / name)
        done = subprocess.run([script, *arguments], check=True, capture_output=True, text=True)
        line = done.stdout.splitlines()
        return line[line.index(str(tmp_path / program)) + 1 :]

    return run


def test_beam2_runs_the_published_evaluation_and_passes_arguments_on(published_script):
    def parse(*more: str) -> SearchArgs:
        arguments = published_script("beam2.sh", "inference_eval.py", *more)
        return parse_command_line(SearchArgs, "inference_eval.py", None, arguments)

    published = """--benchmark aime-24 --piref_gpu_util 0.75
        --piref_model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --seed 7996 --batch_size 10
        --num_blocks 8 --block_size 4096 --temperature 0.6
        --classifier_ckpt_path VGS-AI/DeepSeek-VM-1.5B --num_repetitions 16
        --output_path outputs/aime-24/inference_outputs.jsonl
        --attention_impl flash_attention_2 --search_type beam2"""
    expected = parse_command_line(SearchArgs, "inference_eval.py", None, published.split())
    assert parse() == expected
    assert parse("--seed", "1").seed == 1


def test_train_runs_the_published_training_and_passes_arguments_on(published_script):
    def parse(*more: str) -> TrainArgs:
        return train_classifier.parse_args(
            published_script("train.sh", "train_classifier.py", *more)
        )

    published = """--eval_every -1 --save_every 486 --num_steps 12170 --max_lr 0.0001
        --data_path VGS-AI/OpenR1-VM --data_num_response 56
        --model_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --total_batch_size 64
        --micro_batch_size 8 --small_group_size 2 --run_name single_node_run --track --compile
        --push_to_hub"""
    assert parse() == train_classifier.parse_args(published.split())
    args = parse("--run_name", "mine", "--no_push_to_hub")
    assert (args.run_name, args.hub.push_to_hub) == ("mine", False)


STAGES = {
    "clean": clean.CleanArgs,
    "roll_in": roll_in.RollInArgs,
    "roll_out": roll_out.RollOutArgs,
    "label": label.LabelArgs,
}


def test_the_data_commands_of_the_documentation_parse():
    slurm = (ROOT / "scripts" / "data_slurm.sh").read_text()
    text = DOCUMENTATION + re.sub("^# ?", "", slurm, flags=re.MULTILINE)
    text = text.replace("scripts/data_slurm.sh ", " -m data_prep.")
    for stage in STAGES:
        text += import_module(f"data_prep.{stage}").__doc__ or ""
        text = text.replace(f"python -m data_prep.{stage} ", f" -m data_prep.{stage} ")
    for stage, stage_args in STAGES.items():
        found = commands(text, f"data_prep.{stage}")
        assert len(found) == 4  # on a CPU, the paper's, under Slurm, in the docstring
        for arguments in found:
            parse_command_line(stage_args, stage, None, arguments)


OTHERS = {
    "classifier_lib.score": score.ScoreArgs,
    "data_prep.dvo trees": trees.TreesArgs,
    "data_prep.dvo paths": paths.PathsArgs,
    "data_prep.dvo reference": reference.ReferenceArgs,
    "data_prep.dvo export": export.ExportArgs,
    "data_prep.dvo sft": sft.SftArgs,
    "data_prep.toy.problems": problems.ProblemsConfig,
    "scripts.bench.scheduling": scheduling.Args,
    "scripts.compare": compare.Args,
    "scripts.frontier": frontier.Args,
    "scripts.gpu_day.table": table.Args,
    "scripts.mean_of_runs": mean_of_runs.Args,
    "scripts.report": report.Args,
    "scripts.sweep": sweep.Args,
    "scripts.reproduce.main_table": SearchPlanArgs,
    "scripts.reproduce.flops_to_mv": SearchPlanArgs,
    "scripts.reproduce.block_size": SearchPlanArgs,
    "scripts.reproduce.beam_width": SearchPlanArgs,
    "scripts.reproduce.dvts": SearchPlanArgs,
    "scripts.reproduce.random_blocks": SearchPlanArgs,
    "scripts.reproduce.dvo_table1": DvoPlanArgs,
    "scripts.trl_train": trl_train.TrlArgs,
    "search_lib.results.calibration": calibration.Args,
    "search_lib.results.summary": summary.Args,
    "search_lib.serve": ServeFlags,
}


@pytest.mark.parametrize("module", OTHERS)
def test_the_other_commands_of_the_documentation_parse(module):
    docstrings = trees.__doc__ + sft.__doc__ + trl_train.__doc__
    found = commands(DOCUMENTATION + docstrings, module)
    assert found
    for arguments in found:
        parse_command_line(OTHERS[module], module, None, arguments)


def test_the_merge_of_shards_of_the_documentation_parses():
    parsed = []

    @functools.wraps(shards.merge)
    def merge(*args, **kwargs):
        parsed.append((args, kwargs))

    found = re.findall(r"python -m search_lib.results.shards (merge .*)", joined(DOCUMENTATION))
    for arguments in found:
        tyro.extras.subcommand_cli_from_dict(
            {"merge": merge}, args=shlex.split(arguments), use_underscores=True
        )
    assert len(parsed) == len(found) == 1


def test_every_command_of_the_documentation_is_parsed_by_a_test():
    programs = {
        *("ask.py", "inference_eval.py", "train_classifier.py", "train_dvo.py"),
        *("scripts/train_multinode.sh", "scripts/dvo_baselines.sh"),
        *("scripts/dvo_quickstart.sh", "scripts/dvo_rounds.sh"),
        *("scripts/search_slurm.sh", "scripts/quickstart.sh", "scripts/test.sh"),
        *("scripts/gpu_day.sh", "scripts/real_lm.sh"),
        *(f"data_prep.{stage}" for stage in STAGES),
        *("search_lib.results.shards", *(name.split()[0] for name in OTHERS)),
    }
    for block in re.findall(r"```bash\n(.*?)```", DOCUMENTATION, re.DOTALL):
        for line in joined(block).splitlines():
            if not line.startswith(("echo ", "export ", "source ")):
                assert programs & set(line.split()), line


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_with_a_command_for_the_models_of_the_quickstart(page):
    first_block = re.search(r"```(\w*)\n(.*?)```", PAGES[page], re.DOTALL)
    assert first_block[1] == "bash"
    # That script makes its own.
    assert "quickstart" in first_block[2] or "scripts/real_lm.sh" in first_block[2]


def test_the_table_of_strategies_is_whole():
    forms = re.findall(r"^\| `([a-z]+(?:<\w>)?)` \|", PAGES["search.md"], re.MULTILINE)
    assert set(describe_strategies()) <= set(forms)


def test_the_table_of_votes_is_whole():
    (table,) = re.findall(r"^\| `--vote` .*?\n\n", PAGES["votes.md"], re.MULTILINE | re.DOTALL)
    names = [
        re.findall(r"`(.+?)(?:\[\w+\])?`", line.split("|")[1]) for line in table.split("\n")[:-2]
    ]
    assert set(chain.from_iterable(names)) >= VOTES.keys()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *PAGES])
def test_links_lead_to_files_and_headings(page):
    path = ROOT / page if (ROOT / page).exists() else ROOT / "docs" / page
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", path.read_text()):
        name, _, heading = target.partition("#")
        assert (path.parent / name).is_file(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", (path.parent / name).read_text(), re.MULTILINE)
            assert heading in [line.lower().replace(" ", "-") for line in headings], target


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", [README, PAGES["fidelity.md"]])
def test_the_value_model_snippet_runs_as_printed(tmp_path, page):
    snippet = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    folder = save_tiny_classifier(tmp_path, vocab_size=151_936)
    assert snippet.count("VGS-AI/DeepSeek-VM-1.5B") == 1
    names: dict = {}
    exec(snippet.replace("VGS-AI/DeepSeek-VM-1.5B", str(folder)), names)
    assert 0 < names["scores"] < 1


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], {}, "no value model: give a folder or hub id as the first argument"),
        (
            ["m"],
            {"NUM_SERVERS": "2", "TP_SIZE": "2", "CUDA_VISIBLE_DEVICES": "0,1,2"},
            "2 servers of TP_SIZE=2 GPUs each, and there are 3 GPUs",
        ),
        (["m"], {"LOG_DIR": "/dev/null/logs"}, "LOG_DIR /dev/null/logs cannot be made"),
    ],
)
def test_serve_value_model_names_what_does_not_fit(arguments, environment, message):
    result = subprocess.run(
        [ROOT / "scripts" / "serve_value_model.sh", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == f"serve_value_model.sh: error: {message}"


def test_the_search_on_a_value_server_that_its_script_shows_parses():
    text = (ROOT / "scripts" / "serve_value_model.sh").read_text()
    (arguments,) = commands(re.sub("^# ?", "", text, flags=re.MULTILINE), "inference_eval.py")
    flags = parse_command_line(SearchArgs, "inference_eval.py", None, arguments).scorer_flags
    assert (flags.scorer, flags.scorer_url) == ("sglang_server", ("http://localhost:30100",))
