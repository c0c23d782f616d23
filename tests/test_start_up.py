"""What commands import: nothing heavy before their flags are read, and no model without need."""

import ast
from pathlib import Path

import pyarrow as pa
import pytest

from data_prep.columns import ROLL_IN_SCHEMA, ROLL_OUT_SCHEMA
from data_prep.dvo.rows import TreeSplit
from data_prep.reports import RowReport
from data_prep.stages import Stage
from data_prep.toy.tokenizer import build_tokenizer
from run_lib.checksums import write_checksums
from tests.support.paths import ROOT
from tests.support.runs import write_run
from tests.support.start_up import Started, start
from tests.support.trees import grow_tree, write_trees

# Wrong flags of every command; of the value of a flag where its command checks values.
WRONG = {
    "ask.py": "1+1 --num_blocks 0",
    "inference_eval.py": "--num_blocks 0",
    "train_classifier.py": "--run_name r --max_lr 0",
    "train_dvo.py": "--run_name r --data_path d --model_path m --beta 0",
    "classifier_lib/evaluation.py": "--model m --data d --batch_size 0",
    "classifier_lib/score.py": "--model m --input i --output o --max_batch_tokens 0",
    "classifier_lib/serve.py": "--port 1",
    "classifier_lib/training/checkpoints.py": "verify",
    "data_prep/clean.py": "--input i --output o --ngram 0",
    "data_prep/label.py": "--input i --output o --tokenizer t --num_workers 0",
    "data_prep/roll_in.py": "--input i --output o --models m:1 --window 1",
    "data_prep/roll_out.py": "--input i --output o --model m --num_cuts 0",
    "data_prep/dvo/__main__.py": "nothing",
    "data_prep/dvo/export.py": "--input i --output o --format ppo",
    "data_prep/dvo/paths.py": "--input i --output o --targets value_model",
    "data_prep/dvo/problems.py": "--benchmark toy --output o --num_rounds 0",
    "data_prep/dvo/reference.py": "--input i --output o --model m --max_batch_tokens 0",
    "data_prep/dvo/sft.py": "--input i --output o --min_steps 9",
    "data_prep/dvo/trees.py": "--benchmark toy --model m --output o --window 0",
    "data_prep/toy/policy.py": "--output_dir o --seed x",
    "data_prep/toy/problems.py": "--output o --num_problems 0",
    "scripts/agreement.py": "",
    "scripts/bench/data_loading.py": "--seed x",
    "scripts/bench/dvo_train.py": "--rounds 0",
    "scripts/bench/labelling.py": "--distinct 1",
    "scripts/bench/scheduling.py": "--policy p",
    "scripts/bench/scoring.py": "--max_length 1",
    "scripts/bench/serving.py": "--rounds 0",
    "scripts/bench/train_step.py": "--total_batch_size 1",
    "scripts/bench/trees.py": "--trees 0",
    "scripts/bench/voting.py": "--seed x",
    "scripts/compare.py": "one",
    "scripts/dvo_table.py": "",
    "scripts/frontier.py": "a b --output plot.txt",
    "scripts/gpu_day/run.py": "day.json --steps none",
    "scripts/gpu_day/table.py": "absent.json",
    "scripts/mean_of_runs.py": "",
    "scripts/plot_training.py": "--curves a --output plot.txt",
    "scripts/real_lm/policy.py": "",
    "scripts/report.py": "a --out page.txt",
    "scripts/reproduce/beam_width.py": "--gpus x",
    "scripts/reproduce/block_size.py": "--gpus x",
    "scripts/reproduce/dvo_table1.py": "--gpus x",
    "scripts/reproduce/dvts.py": "--gpus x",
    "scripts/reproduce/flops_to_mv.py": "--gpus x",
    "scripts/reproduce/main_table.py": "--gpus x",
    "scripts/reproduce/random_blocks.py": "--gpus x",
    "scripts/sweep.py": "plan.yaml --output o --shard 1",
    "scripts/tree_values.py": "--problems 0",
    "scripts/trl_train.py": "--method kto --run_name r --data_path d --model_path m --beta 0",
    "search_lib/results/calibration.py": "absent --output o.json",
    "search_lib/results/shards.py": "merge absent.jsonl --output_path merged",
    "search_lib/results/summary.py": "absent",
    "search_lib/serve/__main__.py": "--host 0.0.0.0",
}

NO_FLAGS = {
    "data_prep/toy/task.py",
    "scripts/lib/with_key.py",
    "search_lib/grading/worker.py",
}

HUB = {"tokenizers", "huggingface_hub"}
"""What reads a tokenizer.json."""
EARLY = {"scripts/report.py": HUB, "scripts/sweep.py": HUB}
"""What commands import of `HEAVY` before they read their flags: these make pages of texts."""
MOST_MODULES = 700
"""Of a command that only reads its flags: most have half as many, torch alone a thousand."""
TABLES = {"pyarrow", "pandas"}
"""pyarrow looks for pandas as it makes a table of rows."""
TOKENIZERS = {*TABLES, *HUB, "transformers"}

# What commands without a model import to do their work; no one of them torch.
ALLOWED = {
    "toy problems": TABLES,
    "clean": TABLES,
    "label": TOKENIZERS,
    "dvo problems": TABLES,
    "dvo paths": {*TABLES, *HUB},
    "dvo sft": TOKENIZERS,
    "dvo export": TOKENIZERS,
    "verify": set(),
    "summary": {"huggingface_hub"},
    "merge": {"huggingface_hub"},
    "calibration": set(),
    "compare": set(),
    "frontier": {"matplotlib"},
    "mean of runs": set(),
    "report": HUB,
    "sweep": {"pyarrow", *HUB},
    "plan": set(),
}


def commands() -> set[str]:
    """Files that can be run, relative to the repository."""
    found = set()
    for path in [*ROOT.glob("*.py"), *(p for f in PACKAGES for p in (ROOT / f).rglob("*.py"))]:
        tests = [node.test for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)]
        if any("__main__" in ast.unparse(test) for test in tests):
            found.add(str(path.relative_to(ROOT)))
    return found


PACKAGES = ("run_lib", "classifier_lib", "search_lib", "dvo_lib", "data_prep", "scripts")


def words(file: str) -> list[str]:
    """How a command is started: from its file if that is at the top, else as a module."""
    is_script = "/" not in file
    return [
        file if is_script else file.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    ]


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> dict[str, list[Started]]:
    """Every command with --help, and then with wrong flags."""
    wanted = {
        file: [[*words(file), "--help"], [*words(file), *wrong.split()]]
        for file, wrong in WRONG.items()
    }
    return start(wanted, tmp_path_factory.mktemp("started"))


@pytest.fixture(scope="module")
def worked(tmp_path_factory) -> dict[str, list[Started]]:
    """Commands that have done their work on little data."""
    folder = tmp_path_factory.mktemp("worked")
    write_inputs(folder)
    run, output = folder / "run", ["--output", folder / "output"]
    wanted = {
        "toy problems": ["data_prep.toy.problems", "--output", folder / "toy.parquet"],
        "clean": ["data_prep.clean", "--input", folder / "toy.parquet", *output],
        "label": ["data_prep.label", "--input", folder / "roll_outs", "--output", folder / "data"],
        "dvo problems": ["data_prep.dvo", "problems", "--output", folder / "problems"],
        "dvo paths": ["data_prep.dvo", "paths", "--input", folder, "--output", folder / "paths"],
        "dvo sft": ["data_prep.dvo", "sft", "--input", folder / "roll_ins"],
        "dvo export": ["data_prep.dvo", "export", "--input", folder / "paths"],
        "verify": ["classifier_lib.training.checkpoints", "verify", folder / "policy"],
        "summary": ["search_lib.results.summary", run],
        "calibration": ["search_lib.results.calibration", run, "--output", folder / "c.json"],
        "merge": ["search_lib.results.shards", "merge", folder / "shard" / "r.jsonl"],
        "compare": ["scripts.compare", run, folder / "other"],
        "frontier": ["scripts.frontier", run, "--output", folder / "plot.png"],
        "mean of runs": ["scripts.mean_of_runs", "--runs", run, folder / "other"],
        "report": ["scripts.report", run, "--out", folder / "page.html"],
        "sweep": ["scripts.sweep", "scripts/sweeps/toy.yaml", "--dry_run", *output],
        "plan": ["scripts.reproduce.main_table", "--toy", "--dry_run", "--out", folder / "plan"],
    }
    policy = ["--tokenizer", folder / "policy"]
    wanted["toy problems"] += ["--num_problems", "12"]
    wanted["clean"] += ["--num_validation", "2", "--num_test", "2"]
    wanted["label"] += policy
    wanted["dvo problems"] += [
        "--benchmark",
        "toy",
        "--num_rounds",
        "2",
        "--problems_per_round",
        "9",
    ]
    wanted["dvo sft"] += ["--output", folder / "sft.jsonl", *policy]
    wanted["dvo export"] += ["--output", folder / "dvo.jsonl", "--format", "rft", *policy]
    wanted["merge"] += ["--output_path", folder / "merged" / "r.jsonl"]
    lines = {name: [words] for name, words in wanted.items()}
    return start(lines, tmp_path_factory.mktemp("started"))


def write_inputs(folder: Path) -> None:
    """What the commands of `worked` read, but for what those before them write."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder / "policy")
    write_checksums(folder / "policy")
    write_trees(folder / "trees.jsonl", [grow_tree(number, tokenizer) for number in range(8)])

    prompt, text = "start 1 +3", "1 +3 = 4 ok\n\nso</think>\\boxed{4}<|end|>"
    prompt_ids, response_ids = (
        tokenizer.encode(part, add_special_tokens=False) for part in (prompt, text)
    )
    row = {"message_id": "a", "problem": prompt, "solution": "", "answer": "4"}
    row |= {"prompt_ids": prompt_ids, "finish_reasons": ["stop"]}
    roll_in = row | {"row": 0, "response_ids": [response_ids]}
    cut = {"roll_in": [0], "cut": [1], "roll_in_ids": [[*prompt_ids, response_ids[0]]]}
    roll_out = row | cut | {"roll_outs_ids": [response_ids[1:]]}
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_length": 96}
    settings = {"model": str(folder / "policy"), **sampling}
    settings |= {"num_cuts": 1, "num_completions": 1, "cut": "sqrt", "seed": 0}
    roll_ins = {"roll_ins": [settings | {"roll_ins": 1, "input": "problems", "left_out": {}}]}
    for name, rows, schema, origin in (
        ("roll_ins", [roll_in], ROLL_IN_SCHEMA, {}),
        ("roll_outs", [roll_out], ROLL_OUT_SCHEMA, roll_ins),
    ):
        inputs = {"train": TreeSplit(len(rows), "digest")}
        with Stage(folder / name, settings, inputs, rows_per_file=2, origin=origin) as stage:
            for chunk in stage.chunks:
                stage.write(chunk, pa.Table.from_pylist(rows, schema), RowReport())
            stage.finish()

    trees = [[("4", 0.75)], [("5", 0.25)]]
    searches = {"a": ("4", trees), "b": ("5", trees)}
    write_run(folder / "run", searches)
    write_run(folder / "other", searches, seed=3)
    write_run(folder / "shard", searches, shard="0/1")


def test_every_command_has_a_line_here():
    assert commands() == {*WRONG, *NO_FLAGS}


@pytest.mark.parametrize("file", WRONG)
def test_help_needs_no_model_and_no_table(file, started):
    found, _ = started[file]
    assert (found.status, found.error) == (0, "")
    assert set(found.heavy) <= EARLY.get(file, set())
    assert found.num_modules < MOST_MODULES


@pytest.mark.parametrize("file", WRONG)
def test_wrong_flags_are_refused_without_a_model_or_a_table(file, started):
    _, found = started[file]
    assert found.status == 2
    assert "Traceback" not in found.error
    assert set(found.heavy) <= EARLY.get(file, set())
    assert found.num_modules < MOST_MODULES


@pytest.mark.parametrize("name", ALLOWED)
def test_work_without_a_model_needs_no_torch(name, worked):
    (found,) = worked[name]
    assert found.status == 0, found.error
    assert set(found.heavy) <= ALLOWED[name]
