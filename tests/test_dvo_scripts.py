"""The scripts of DVO: what they call, in which order, with which flags."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import train_dvo
from data_prep import roll_in
from data_prep.dvo import export, paths, reference, sft, trees
from run_lib.commands import parse_command_line
from scripts import trl_train
from scripts.reproduce import dvo_runs
from search_lib.search_args import Args as SearchArgs
from tests.support.documentation import DOCUMENTATION, joined
from tests.support.paths import ROOT

Run = Callable[..., tuple[int, list[list[str]], str]]


@pytest.fixture
def run_script(tmp_path: Path) -> Run:
    """Runs a script with a Python that tells its arguments; returns status, these, and errors."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{sys.executable} -S\nimport sys\nprint('call', sys.argv[1:])\n")
    python.chmod(0o755)

    def run(name: str, *arguments: str, **environment: str) -> tuple[int, list[list[str]], str]:
        done = subprocess.run(
            [tmp_path / "scripts" / name, *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        calls = re.findall(r"^call (.*)$", done.stdout, re.MULTILINE)
        return done.returncode, list(map(ast.literal_eval, calls)), done.stderr

    return run


def flags_of(call: list[str], program: str) -> list[str]:
    """The arguments behind the name of a program, which may be of two words."""
    words = program.split()
    start = call.index(words[0])
    assert call[start : start + len(words)] == words
    return call[start + len(words) :]


def programs(calls: list[list[str]]) -> list[str]:
    """What each call runs."""
    names = []
    for call in calls:
        words = [word for word in call if word.endswith(".py") or word.startswith(("data", "scr"))]
        if words[0] == "data_prep.dvo":
            words[0] += f" {call[call.index(words[0]) + 1]}"
        names.append(words[0])
    return names


def test_the_baselines_are_trained_on_data_of_the_same_trees(run_script):
    arguments = ("data", "policy", "out", "--max_lr", "1e-4")
    status, calls, _ = run_script("dvo_baselines.sh", *arguments, NPROC_PER_NODE="2")
    assert (status, len(calls)) == (0, 8)
    methods = {"rft": "sft", "dpo": "dpo", "kto": "kto", "step_dpo": "dpo"}
    for (name, method), exporting, training in zip(
        methods.items(), calls[::2], calls[1::2], strict=True
    ):
        flags = flags_of(exporting, "data_prep.dvo export")
        made = parse_command_line(export.ExportArgs, "export", None, flags)
        assert (made.input, made.tokenizer, made.format) == (Path("data"), "policy", name)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
        assert training[:6] == launcher
        args = trl_train.parse_args(flags_of(training, "scripts.trl_train"))
        assert (args.method, args.data_path, args.model_path) == (method, made.output, "policy")
        assert (args.folder, args.max_lr) == (Path("out") / name, 1e-4)


def test_some_of_the_baselines_can_be_chosen(run_script):
    status, calls, _ = run_script("dvo_baselines.sh", "data", "policy", "out", BASELINES="kto")
    assert (status, len(calls)) == (0, 2)
    assert calls[0][-4:-2] == ["--format", "kto"]


def test_the_baselines_need_data_and_a_policy(run_script):
    error = "dvo_baselines.sh: error: "
    message = f"{error}expected DATA POLICY OUTPUT, the first three arguments\n"
    assert run_script("dvo_baselines.sh", "data", "policy") == (2, [], message)
    assert run_script("dvo_baselines.sh", "data", "policy", "out", BASELINES="ppo") == (
        2,
        [],
        f"{error}BASELINES: ppo is none of rft, dpo, kto and step_dpo\n",
    )


ROUND = [f"data_prep.dvo {stage}" for stage in ("trees", "paths", "reference")] + ["train_dvo.py"]


@pytest.fixture
def rounds(run_script: Run) -> list[list[str]]:
    """Calls of two rounds of the toy task, without evaluations."""
    status, calls, _ = run_script(
        "dvo_rounds.sh",
        *("base", "problems.parquet", "out"),
        **{"ROUNDS": "2", "PROBLEMS": "50", "SAMPLES": "8", "STEP_DELIMITER": "\n"},
        **{"ANSWER_FORMAT": "boxed", "INSTRUCTION": "", "TREE_FLAGS": "--depth 16"},
        **{"SFT_DATA_FLAGS": "--max_steps 16", "TRAIN_FLAGS": "--max_lr 1e-4", "EVALUATE": ""},
    )
    assert status == 0
    return calls


def test_rounds_begin_with_supervised_training(rounds):
    sft = ["data_prep.roll_in", "data_prep.dvo sft", "scripts.trl_train"]
    assert programs(rounds) == ["data_prep.dvo problems", *sft, *ROUND, *ROUND]


def test_a_rounds_start_makes_its_trees_and_is_its_reference(rounds):
    starts = {1: "out/sft/final", 2: "out/round_1/final"}
    for number, policy in starts.items():
        growing, drawing, adding, training = rounds[4 * number : 4 * number + 4]
        grown = parse_command_line(
            trees.TreesArgs, "trees", None, flags_of(growing, "data_prep.dvo trees")
        )
        assert (grown.model, grown.benchmark) == (policy, f"out/problems/round_{number}.parquet")
        assert (grown.step_delimiter, grown.instruction, grown.tree.depth) == ("\n", "", 16)
        drawn = parse_command_line(
            paths.PathsArgs, "paths", None, flags_of(drawing, "data_prep.dvo paths")
        )
        assert drawn.input == (grown.output,)
        added = parse_command_line(
            reference.ReferenceArgs, "r", None, flags_of(adding, "data_prep.dvo reference")
        )
        assert (added.input, added.model) == (drawn.output, policy)
        args = train_dvo.parse_args(flags_of(training, "train_dvo.py"))
        assert (args.data_path, args.model_path) == (str(added.output), policy)
        assert (args.run_name, args.max_lr) == (f"round_{number}", 1e-4)


def test_the_supervised_training_is_on_the_policys_own_answers(rounds):
    sampling, choosing, training = rounds[1:4]
    sampled = parse_command_line(
        roll_in.RollInArgs, "roll_in", None, flags_of(sampling, "data_prep.roll_in")
    )
    assert (sampled.models, sampled.prompt_text) == (("base:8",), "")
    chosen = parse_command_line(sft.SftArgs, "sft", None, flags_of(choosing, "data_prep.dvo sft"))
    assert (chosen.step_delimiter, chosen.max_steps) == ("\n", 16)
    args = trl_train.parse_args(flags_of(training, "scripts.trl_train"))
    assert (args.data_path, args.model_path, args.max_lr) == (chosen.output, "base", 2e-5)


def test_every_policy_is_evaluated_three_times_on_every_benchmark(run_script):
    status, calls, _ = run_script(
        "dvo_rounds.sh", "base", "train.parquet", "out", ROUNDS="1", EVALUATE="gsm8k math"
    )
    assert status == 0
    found = [
        parse(SearchArgs, call, "inference_eval.py")
        for call in calls
        if "inference_eval.py" in call
    ]
    policies = ["base", "out/sft/final", "out/round_1/final"]
    expected = [(p, b, s) for p in policies for b in ("gsm8k", "math") for s in (1, 2, 3)]
    assert [(args.piref_model, args.benchmark, args.seed) for args in found] == expected
    assert {args.sampling.temperature for args in found} == {0.7}
    assert programs(calls).count("scripts.mean_of_runs") == 6


def parse(args: type, call: list[str], program: str):
    """The flags of a call of a program."""
    return parse_command_line(args, program, None, flags_of(call, program))


@pytest.mark.parametrize("toy", [False, True], ids=["paper", "toy"])
def test_the_plan_of_table_1_fits_its_scripts(run_script, toy):
    plan = dvo_runs.DvoPlanArgs(toy=toy)
    *_, backbone = dvo_runs.scale_of(plan).backbones
    runs = dvo_runs.DvoRuns(plan, backbone)
    commands = runs.commands()
    rounds, baselines = [c for c in commands if c.words[0].startswith("scripts/")]
    status, calls, _ = run_script("dvo_rounds.sh", *rounds.words[1:], **rounds.environment)
    assert status == 0
    names = programs(calls)
    assert names.count("train_dvo.py") == runs.scale.rounds
    grown = parse(trees.TreesArgs, calls[names.index(ROUND[0])], ROUND[0])
    assert (grown.tree.duplicates, grown.tree.backup) == ("drop", "mean")
    drawn = parse(paths.PathsArgs, calls[names.index(ROUND[1])], ROUND[1])
    assert (drawn.wrong_paths, drawn.paths_per_side) == ("answers", 4)
    if not toy:
        assert (grown.tree.iterations, grown.tree.breadth, grown.tree.depth) == (80, 5, 8)
        assert f"{backbone.model}:64" in calls[names.index("data_prep.roll_in")]
        assert calls[0][calls[0].index("--problems_per_round") + 1] == "10000"

    # The table looks for evaluations where they are written, those of its first line, too.
    written = {Path(call[-1]).parent for call in calls if "inference_eval.py" in call}
    for policy in (backbone.start, runs.dvo):
        for benchmark in runs.scale.benchmarks:
            assert {runs.evaluation(policy, benchmark, seed) for seed in (1, 2, 3)} <= written
    # The baselines are evaluated as DVO is.
    of_dvo = [call for call in calls if str(runs.folder / runs.dvo / "final") in call]
    of_baselines = [list(c.words) for c in commands if "inference_eval.py" in c.words]
    planned = [parse(SearchArgs, call, "inference_eval.py") for call in of_baselines]
    expected = [parse(SearchArgs, call, "inference_eval.py") for call in of_dvo]
    same = {"piref_model": "", "output_path": Path()}
    for name in ("rft", "dpo", "kto", "step_dpo"):
        own = [args for args in planned if args.piref_model == f"{runs.folder}/{name}/final"]
        assert [replace(args, **same) for args in own] == [replace(a, **same) for a in expected]

    # They start where DVO starts, on paths of the trees of its first round.
    folders = [f"{runs.folder}/{name}" for name in ("round_1_data", "sft/final")]
    assert baselines.words[1:4] == [*folders, str(runs.folder)]
    status, calls, _ = run_script("dvo_baselines.sh", *baselines.words[1:], **baselines.environment)
    assert (status, len(calls)) == (0, 8)
    for training in calls[1::2]:
        args = trl_train.parse_args(flags_of(training, "scripts.trl_train"))
        trl_train.check_flags(args, int(baselines.environment["NPROC_PER_NODE"]))


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["base"], {}, "expected POLICY PROBLEMS OUTPUT"),
        (["a", "b", "c"], {"ROUNDS": "0"}, "ROUNDS must be a number from 1, got 0"),
    ],
)
def test_rounds_need_a_policy_and_problems(run_script, arguments, environment, message):
    result = run_script("dvo_rounds.sh", *arguments, **environment)
    assert result == (2, [], f"dvo_rounds.sh: error: {message}\n")


def test_the_baselines_of_the_documentation_parse():
    header = re.sub(
        "^# ?", "", (ROOT / "scripts" / "dvo_baselines.sh").read_text(), flags=re.MULTILINE
    )
    text = joined(DOCUMENTATION + header)
    found = re.findall(r"scripts/dvo_baselines\.sh (?:\S+ ){2}\S+(.*)", text)
    assert len(found) == 3
    needed = "--method kto --run_name r --data_path d --model_path m"
    for flags in found:
        trl_train.parse_args([*needed.split(), *flags.split()]).check()
