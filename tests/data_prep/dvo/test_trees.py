"""The command that grows trees: what it writes, its bad inputs, its kills."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_prep.dvo import __main__ as dvo
from data_prep.dvo import trees
from data_prep.dvo.summary import TreeSummary
from data_prep.dvo.trees import TreesArgs, grow_trees
from data_prep.sampling import ResponseSampling
from dvo_lib.trees import RecordedStep, TreeRecord, read_trees
from run_lib.commands import InputError, parse_command_line
from run_lib.settings import as_json, free_flags
from search_lib.engines.flags import EngineFlags
from search_lib.grading import extract_answer
from search_lib.results.cost import SearchCost
from search_lib.strategies.mcts import TreeSettings
from tests.support.flags import replace_flags
from tests.support.paths import ROOT
from tests.support.tiny_models import save_tiny_policy
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def random_policy(tmp_path_factory):
    return save_tiny_policy(tmp_path_factory.mktemp("models") / "policy", dtype=torch.float64)


def make_args(policy: Path, output: Path, **changes) -> TreesArgs:
    args = TreesArgs(
        "toy",
        model=str(policy),
        output=output,
        tree=TreeSettings(iterations=6, breadth=3, depth=3),
        step_delimiter="\n",
        max_step_tokens=6,
        sampling=ResponseSampling(1.0, 1.0, max_length=24),
        engine_flags=EngineFlags("hf", attention_impl="sdpa"),
        max_problems=4,
    )
    return replace_flags(args, **changes)


def grown(output: Path) -> dict[str, TreeRecord]:
    """The trees of a folder, and of its shards, without what depends on the time."""
    return {
        tree.problem_id: replace(tree, cost=SearchCost(tree.cost.tokens_generated, 0.0))
        for path in output.rglob("trees.jsonl")
        for tree in read_trees(path)
    }


@pytest.fixture(scope="module")
def solved(hasty_policy, tmp_path_factory):
    """Flags of trees that are there, of a policy that knows its task."""
    args = make_args(
        hasty_policy,
        tmp_path_factory.mktemp("solved"),
        iterations=40,
        depth=16,
        max_step_tokens=12,
        max_length=96,
    )
    assert grow_trees(args) == 0
    return args


def test_a_path_of_a_tree_is_a_response_and_its_answer_is_graded(solved):
    found = grown(solved.output)
    assert set(found) == {f"toy-00{index}" for index in range(4)}
    num_answers = 0
    for tree in found.values():
        assert (tree.nodes[0].text, tree.nodes[0].parent) == ("", None)
        assert tree.cost.tokens_generated >= sum(len(node.token_ids) for node in tree.nodes)
        for index, node in enumerate(tree.nodes[1:], start=1):
            response = "".join(tree.nodes[step].text for step in tree.path(index))
            answer = extract_answer(response)
            assert (node.terminal == "answer") == (answer is not None)
            if answer is not None:
                assert node.reward == (1.0 if answer == tree.reference else -1.0)
                num_answers += 1
            elif node.terminal is None:
                assert node.text.endswith("\n") or len(node.token_ids) == 12
    assert num_answers > 4


def test_trees_depend_on_neither_the_window_nor_the_shards(solved, tmp_path):
    for shard in ("0/2", "1/2"):
        assert grow_trees(replace(solved, output=tmp_path, window=1, shard=shard)) == 0
    assert grown(tmp_path) == grown(solved.output)
    assert not (tmp_path / "trees.jsonl").exists()


def test_the_end_says_what_the_trees_are_worth(solved, capsys, monkeypatch):
    monkeypatch.setattr(trees, "open_engine", None)  # all are there: no model is loaded
    assert grow_trees(replace(solved, window=7)) == 0
    output = capsys.readouterr().out
    assert "trees.jsonl: 4 trees are there, 0 to grow\n4 trees, " in output
    assert "% right), " in output


def test_killed_at_any_moment_it_goes_on_and_the_trees_are_the_same(random_policy, tmp_path):
    args = make_args(random_policy, tmp_path / "killed", max_problems=40, iterations=8)
    path = args.output / "trees.jsonl"
    flags = [
        f"--{name}={value}"
        for name, value in as_json(args).items()
        if not (value is None or value is False or isinstance(value, list) or name == "window")
    ]
    command = [sys.executable, "-m", "data_prep.dvo", "trees", *flags, "--window=4"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:

        def has_begun() -> bool:
            return process.poll() is not None or (path.exists() and path.stat().st_size > 0)

        wait_for(has_begun, "a tree", 120)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    before = path.read_bytes()
    path.write_bytes(before + before[:100])  # as if within a line
    assert grow_trees(args) == 0
    assert path.read_bytes().startswith(before)
    assert path.read_bytes().count(b"\n") == 40
    whole = replace(args, output=tmp_path / "whole")
    grow_trees(whole)
    assert grown(args.output) == grown(whole.output)
    assert len(grown(args.output)) == 40


def test_problems_with_one_text_are_two_problems(random_policy, tmp_path):
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"problem": "start 1 +2", "answer": "3"}\n' * 2)
    flags = {"benchmark": str(problems), "instruction": ""}
    args = make_args(random_policy, tmp_path / "out", **flags)
    assert grow_trees(args) == 0
    first, second = grown(args.output).values()
    assert first.problem == second.problem
    assert first.seed != second.seed


def test_trees_of_multiple_choice_and_of_later_problems(random_policy, tmp_path):
    choices = {"label": ["1", "2"], "text": ["3", "4"]}
    rows = [
        {"id": str(number), "question": f"start {number} +2", "choices": choices, "answerKey": "2"}
        for number in range(4)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = make_args(random_policy, tmp_path / "out", benchmark=f"csqa={path}", instruction="\n")
    assert grow_trees(replace_flags(args, skip_problems=1, max_problems=2)) == 0
    found = grown(args.output)
    assert {name: tree.reference for name, tree in found.items()} == {"1": "B", "2": "B"}
    assert found["1"].problem == "start 1 +2\n(A) 3\n(B) 4"
    settings = json.loads((args.output / trees.SETTINGS_NAME).read_text())
    assert (settings["answer_format"], settings["skip_problems"]) == ("choice", 1)


def test_trees_of_other_settings_are_refused_by_flag(random_policy, tmp_path):
    args = make_args(random_policy, tmp_path / "out", max_problems=1)
    grow_trees(args)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    with pytest.raises(InputError) as refusal:
        grow_trees(replace_flags(args, output=moved, breadth=2, c_puct=1.0, window=3))
    assert str(refusal.value) == (
        f"{moved}/trees.jsonl was made with other settings: --breadth (was 3, now 2), --c_puct "
        "(was 1.5, now 1.0). Give these trees a folder of their own with --output"
    )
    (moved / "trees_settings.json").unlink()
    with pytest.raises(InputError, match=r"no trees_settings.json beside it says what it is of"):
        grow_trees(replace(args, output=moved))


def test_tags_of_thoughts_are_settings_of_trees(random_policy, tmp_path):
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"problem": "start 3 +4", "answer": "7"}\n')
    flags = {"benchmark": str(problems), "instruction": ""}
    args = make_args(random_policy, tmp_path / "out", **flags)
    grow_trees(args)
    path = tmp_path / "out" / "trees_settings.json"
    settings = json.loads(path.read_text())
    assert settings.pop("think_tags") == "auto"
    path.write_text(json.dumps(settings))  # as earlier versions wrote them
    grow_trees(args)
    with pytest.raises(InputError, match=r"--think_tags \(was 'auto', now \['<a>', '<b>'\]\)"):
        grow_trees(replace_flags(args, think_tags=("<a>", "<b>")))


def test_trees_of_another_answer_format_are_refused(random_policy, tmp_path):
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"problem": "start 3 +4", "answer": "7"}\n')
    flags = {"benchmark": str(problems), "instruction": ""}
    args = make_args(random_policy, tmp_path / "out", **flags)
    grow_trees(args)
    with pytest.raises(InputError, match=r"--answer_format \(was 'boxed', now 'final_answer'\)"):
        grow_trees(replace_flags(args, answer_format="final_answer"))


def test_a_folder_takes_more_problems(random_policy, tmp_path):
    args = make_args(random_policy, tmp_path / "grown", max_problems=2)
    for count in (2, 5):
        assert grow_trees(replace(args, max_problems=count)) == 0
    whole = replace(args, output=tmp_path / "whole", max_problems=5)
    assert grow_trees(whole) == 0
    assert grown(args.output) == grown(whole.output)
    settings = [(x.output / "trees_settings.json").read_bytes() for x in (args, whole)]
    assert settings[0] == settings[1]
    with pytest.raises(InputError, match="which is none of the 4 asked for now"):
        grow_trees(replace(args, max_problems=4))


@pytest.mark.parametrize("changed", [{"answer": "4"}, {"problem": "start 1 +3"}])
def test_a_problem_that_has_a_tree_stays_as_it_is(random_policy, tmp_path, changed):
    file = tmp_path / "problems.jsonl"
    first, second = ({"id": name, "problem": "start 1 +2", "answer": "3"} for name in "ab")

    def write_problems(*problems):
        file.write_text("".join(f"{json.dumps(problem)}\n" for problem in problems))

    write_problems(first, second)
    args = make_args(random_policy, tmp_path / "out", benchmark=str(file), max_problems=1)
    grow_trees(args)
    write_problems(first | changed, second)
    with pytest.raises(InputError, match="the tree of problem a with another question, reference"):
        grow_trees(args)
    write_problems(first, second | changed)  # no tree is of it
    assert grow_trees(replace(args, max_problems=2)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": "nonsense"}, "--benchmark nonsense is not known"),
        ({"max_problems": 0}, "--max_problems must be at least 1"),
        ({"skip_problems": 200}, "--skip_problems 200 leaves none of the 200 problems"),
        ({"model": "/absent"}, "--model /absent: no tokenizer could be loaded"),
        ({"output": Path("/dev/null/out")}, "--output /dev/null/out/trees.jsonl cannot be written"),
        ({"iterations": 0}, "--iterations must be at least 1"),
        ({"beta": 0.0}, "--beta must be positive"),
        ({"step_delimiter": ""}, "--step_delimiter must not be empty"),
        ({"step_delimiter": r"\n\n"}, "--step_delimiter has a backslash and an n"),
        ({"max_step_tokens": 0}, "--max_step_tokens must be at least 1"),
        ({"max_length": 0}, "--max_length must be at least 1"),
        ({"max_length": 120}, "--max_length 120 is too long for 4 problems: toy-000: "),
        ({"window": 0}, "--window must be at least 1"),
        ({"top_p": 1.5}, "--top_p must be in"),
        ({"shard": "2/2"}, "--shard 2/2: expected i/n"),
        (
            {"answer_format": "choice", "instruction": ""},
            "--answer_format choice is not for --benchmark toy, whose answers are written as boxed",
        ),
    ],
)
def test_bad_flags_are_refused_before_the_model_loads(
    random_policy, tmp_path, monkeypatch, changes, message
):
    monkeypatch.setattr(trees, "open_engine", None)
    with pytest.raises(InputError) as refusal:
        grow_trees(replace_flags(make_args(random_policy, tmp_path), **changes))
    assert str(refusal.value).startswith(message)
    assert not list(tmp_path.rglob("*.json*"))


def test_the_defaults_are_the_published_ones_but_for_sound_values():
    flags = ["--benchmark", "toy", "--model", "policy", "--output", "out"]
    args = parse_command_line(TreesArgs, trees.TREES, None, flags)
    expected = {
        **{"iterations": 80, "breadth": 5, "depth": 8, "c_puct": 1.5, "beta": 0.1},
        **{"prior": "uniform", "duplicates": "count", "backup": "soft"},
        **{"step_delimiter": "\n\n", "max_step_tokens": 1024, "temperature": 1.0, "top_p": 1.0},
    }
    assert as_json(args).items() >= expected.items()
    assert "window" in free_flags(TreesArgs)


def test_a_command_that_there_is_not_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        dvo.main(["tree"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m data_prep.dvo: error: the first argument is the command (")
    assert line.endswith("), not 'tree'")


def test_help_names_every_command(capsys):
    dvo.main(["--help"])
    output = capsys.readouterr().out
    assert all(f"  {name} " in output for name in dvo.COMMANDS)


def test_a_summary_counts_trees_answers_and_failures():
    def step(parent, terminal=None, reward=None):
        return RecordedStep(parent, [1], "x", 1, 1, 0.0, 1.0, terminal, reward)

    def tree(name, *steps):
        return TreeRecord(name, "?", "7", 0, [1], 2, [step(None), *steps], SearchCost(1500, 0.1))

    right, wrong = step(0, "answer", 1.0), step(0, "answer", -1.0)
    deep = step(0, "too_deep", -1.0)
    summary = TreeSummary.of([tree("a", right, wrong, deep), tree("b", wrong), tree("c", step(0))])
    assert summary.format().splitlines() == [
        "3 trees, 2 of them closed; a tree has 2.0 expansions and 1.7 steps",
        "terminals: 3 with an answer (33.3% right), 0 no_answer, 1 too_deep, 0 too_long",
        "2 problems without a right answer: b, c",
        "4,500 tokens generated",
    ]
