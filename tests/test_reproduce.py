"""The scripts that reproduce tables and figures: their plans, their cost, their tables."""

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

import inference_eval
from classifier_lib.flops import ModelSize, model_size
from classifier_lib.modeling import VALUE_MODELS, Qwen2ForClassifier
from run_lib.commands import parse_command_line
from run_lib.files import write_json
from scripts.reproduce import (
    beam_width,
    block_size,
    cost,
    dvo_table1,
    dvts,
    flops_to_mv,
    main_table,
    plan,
    random_blocks,
    searches,
)
from search_lib.results.metrics import MetricRow
from search_lib.results.run_config import CONFIG_NAME
from search_lib.results.statistics import Estimate
from search_lib.scorers.text_models import Qwen2ForProcessRewardModel
from search_lib.search_args import Args as SearchFlags
from search_lib.strategies import Limits, strategy_factory
from tests.support.refusals import refusal
from tests.support.tiny_models import save_tiny_classifier, save_tiny_policy, tiny_config

SEARCHES = {
    "main_table": main_table,
    "block_size": block_size,
    "beam_width": beam_width,
    "dvts": dvts,
    "random_blocks": random_blocks,
    "flops_to_mv": flops_to_mv,
}


def printed(text: str) -> list[list[str]]:
    """The words of each command of a printed plan, as a shell reads them."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


def dry_run(script, capsys, *argv) -> str:
    script.main(["--dry_run", *map(str, argv)])
    return capsys.readouterr().out


def parse(words: list[str]) -> SearchFlags:
    assert words[:2] == ["python", "inference_eval.py"]
    return parse_command_line(SearchFlags, "inference_eval.py", None, words[2:])


@pytest.mark.parametrize("scale", [[], ["--toy"]], ids=["paper", "toy"])
@pytest.mark.parametrize("script", SEARCHES.values(), ids=SEARCHES)
def test_the_printed_searches_are_ones_that_can_run(script, scale, capsys, tmp_path):
    found = [parse(words) for words in printed(dry_run(script, capsys, *scale, "--out", tmp_path))]
    assert found
    for args in found:
        args.check()
        args.find_format()
        limits = Limits(args.max_length, args.block_size, (0,))
        strategy_factory(args.search_type, args.num_blocks, limits, args.value_model is not None)
    folders = [args.output_path.parent for args in found]
    assert len(set(folders)) == len(folders)


def test_the_main_table_has_the_published_budgets_on_the_four_sets(capsys):
    found = [parse(words) for words in printed(dry_run(main_table, capsys))]
    found = [args for args in found if args.scorer_flags.scorer != "prm"]
    sets = ["aime-24", "aime-25", "hmmt-feb-24", "hmmt-feb-25"]
    budgets = {"1.5B": 256, "7B": 128, "14B": 64}
    assert [
        (args.piref_model, args.search_type, args.benchmark, args.num_blocks * args.num_repetitions)
        for args in found
    ] == [
        (f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{size}", kind, name, budget)
        for size, budget in budgets.items()
        for kind in ("bon", "beam2")
        for name in sets
    ]
    guided = [args for args in found if args.search_type == "beam2"]
    assert {(args.num_blocks, args.block_size) for args in guided} == {(8, 4096)}
    assert {args.classifier_ckpt_path for args in guided} == {"VGS-AI/DeepSeek-VM-1.5B"}
    assert {(a.sampling.temperature, a.sampling.top_p, a.max_length) for a in found} == {
        (0.6, 0.95, 16384)
    }


def test_the_searches_by_a_prm_are_those_of_vgs_but_for_the_scorer(capsys):
    plain, by_prm = {}, {}
    for words in printed(dry_run(main_table, capsys, "--only", "1.5B")):
        args = parse(words)
        of_kind = by_prm if args.scorer_flags.scorer == "prm" else plain
        if args.search_type == "beam2":
            of_kind[args.benchmark] = args
    assert list(by_prm) == ["aime-25", "hmmt-feb-25"]
    for name, args in by_prm.items():
        assert args.classifier_ckpt_path == str(searches.PRM_FOLDER)
        vgs = plain[name]
        changed = {"scorer_flags", "classifier_ckpt_path", "output_path"}
        assert replace(args, **{field: getattr(vgs, field) for field in changed}) == vgs


@pytest.mark.parametrize(
    ("script", "name", "values"),
    [
        (block_size, "block_size", {1024, 2048, 4096, 8192}),
        (beam_width, "search_type", {"beam2", "beam4", "beam8", "bon"}),
        (dvts, "num_blocks", {8, 32, 256}),
        (random_blocks, "search_type", {"beam2", "random2"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_ablation_changes_one_thing_at_one_budget(script, name, values, capsys):
    found = [parse(words) for words in printed(dry_run(script, capsys))]
    assert {getattr(args, name) for args in found} == values
    assert {args.num_blocks * args.num_repetitions for args in found} == {256}
    kept = {"search_type", "num_blocks", "block_size"} - {name}
    for flag in kept:
        assert len({getattr(args, flag) for args in found}) == 1


def test_further_flags_of_a_search_are_last_but_for_its_path(capsys):
    flags = "--engine sglang_server --max_concurrent 7"
    for words in printed(dry_run(main_table, capsys, f"--search_flags={flags}")):
        args = parse(words)
        assert (args.engine_flags.engine, args.max_concurrent) == ("sglang_server", 7)


def test_several_runs_of_a_budget_have_a_folder_of_their_own(capsys):
    found = [parse(words) for words in printed(dry_run(dvts, capsys, "--num_runs", 2))]
    assert {args.num_blocks * args.num_repetitions for args in found} == {512}
    assert {args.output_path.parent.name for args in found} == {"trees-64", "trees-16", "trees-2"}


def test_a_plan_can_be_narrowed(capsys):
    found = printed(dry_run(main_table, capsys, "--only", "7B/aime-25"))
    assert [parse(words).search_type for words in found] == ["bon", "beam2"]
    line = refusal(main_table.main, main_table.PROGRAM, ["--dry_run", "--only", "8B"], capsys)
    assert line.endswith(
        "--only 8B: no command has that in its title "
        "(1.5B/aime-24/bon, N = 256, 1.5B/aime-25/bon, N = 256, and 24 more)"
    )


def test_flags_of_searches_that_there_are_not_are_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main_table.main(["--search_flags=--nosuch 3"])
    assert ended.value.code == 2
    assert "--nosuch" in capsys.readouterr().err
    line = refusal(main_table.main, main_table.PROGRAM, ["--num_runs", "0"], capsys)
    assert line.endswith("--num_runs must be at least 1, got 0")
    line = refusal(main_table.main, main_table.PROGRAM, ["--gpu_flops", "0"], capsys)
    assert line.endswith("--gpu_flops must be positive, got 0.0")


def test_the_published_column_of_the_main_table():
    assert main_table.PUBLISHED == {
        ("1.5B", "aime-25"): ("38.9 ±1.9", "46.7 ±0.7"),
        ("1.5B", "hmmt-feb-25"): ("24.3 ±2.9", "32.8 ±0.8"),
        ("1.5B", "the two of 2025"): ("31.6", "39.8"),
        ("1.5B", "aime-25, by PRM"): ("38.9 ±1.9", "-"),
        ("1.5B", "hmmt-feb-25, by PRM"): ("24.3 ±2.9", "-"),
        ("1.5B", "the two of 2025, by PRM"): ("31.6", "31.6"),
        ("1.5B", "all four"): ("39.7", "45.7"),
        ("7B", "all four"): ("50.5", "56.4"),
        ("14B", "all four"): ("59.6", "61.0"),
    }


def test_the_published_means_are_those_of_the_published_sets():
    for place in (0, 1):
        sets = [
            float(main_table.PUBLISHED["1.5B", name][place].split()[0])
            for name in searches.PAPER.means["the two of 2025"]
        ]
        mean = float(main_table.PUBLISHED["1.5B", "the two of 2025"][place])
        assert np.mean(sets) == pytest.approx(mean, abs=0.0501)


def test_the_published_column_of_dvo(capsys):
    lines = dry_run(dvo_table1, capsys).splitlines()
    found = {
        match[1]: match[2].replace("-", "").split()
        for line in lines
        if (match := re.fullmatch(r"# (\S+(?: \+ \S+)?) +(- .*)", line))
    }
    assert found["llama-3-8b"] == ["74.6", "22.5", "23.5"]
    assert found["llama-3-8b + Step-DPO"] == ["76.6", "23.3", "23.5"]
    assert found["llama-3-8b + DVO"] == ["80.6", "26.5", "27.9"]
    assert found["deepseek-math-7b + DVO"] == ["85.2", "47.6", "46.3"]
    assert found["llama-3-70b + DVO"] == ["90.7", "40.3", "38.9"]
    assert len(found) == 18


def test_sizes_without_a_hub_are_those_of_the_models():
    config = tiny_config(57, num_labels=3)
    names = cost.Shape.__annotations__.keys() - {"head_dim"}
    shape = cost.Shape(**{name: getattr(config, name) for name in names})
    assert shape.value_model == ModelSize.of(Qwen2ForClassifier(config))
    assert shape.step_prm == ModelSize.of(Qwen2ForProcessRewardModel(config))
    llama = LlamaConfig(**{name: getattr(config, name) for name in names})
    assert shape.policy == ModelSize.of(AutoModelForCausalLM.from_config(llama))


@pytest.mark.parametrize(
    ("model", "billions", "embedding"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 7.62, 3584 * 152_064),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", 14.77, 5120 * 152_064),
        ("deepseek-ai/deepseek-math-7b-instruct", 6.91, 4096 * 102_400),
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8.03, 4096 * 128_256),
    ],
)
def test_the_papers_policies_have_as_many_parameters_as_their_cards_say(model, billions, embedding):
    total = cost.KNOWN[model].num_matmul_parameters + embedding
    assert total / 1e9 == pytest.approx(billions, abs=0.006)


@pytest.mark.parametrize("family", VALUE_MODELS)
def test_a_folder_has_the_size_of_its_model(family, tmp_path):
    folder = str(save_tiny_classifier(tmp_path / "values", family=family))
    assert cost.find_size(folder) == model_size(folder)
    assert cost.find_size(str(tmp_path / "absent")) is None


def test_gpu_hours_of_a_search_by_hand():
    policy, value_model = (
        cost.KNOWN["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"],
        cost.KNOWN["VGS-AI/DeepSeek-VM-1.5B"],
    )
    # 1.54 billion parameters, without the embedding; the output matrix has 0.23 of them.
    assert policy.num_matmul_parameters == 1_543_569_408
    head = 1536 * 1536 + 3 * 1536
    assert value_model.num_matmul_parameters == 1_543_569_408 - 151_936 * 1536 + head
    args = searches.SearchPlanArgs()
    run = searches.SearchRun(args, searches.PAPER.policies[0], "aime-24", searches.PAPER.vgs)
    responses, tokens = 30 * 256, 11_219
    contexts = sum(200 + place for place in range(1, tokens + 1))
    by_hand = sum(
        2 * size.num_matmul_parameters * responses * tokens + 4 * (28 * 1536) * responses * contexts
        for size in (policy, value_model)
    )
    assert run.flops == pytest.approx(by_hand)
    command = run.command
    assert plan.gpu_hours(command, 5e13, None) == pytest.approx(by_hand / 5e13 / 3600)
    trained = replace(command, training_flops=7.2e17)
    more = plan.gpu_hours(trained, 5e13, 2e14) - plan.gpu_hours(command, 5e13, 2e14)
    assert more == pytest.approx(1.0)


def test_a_printed_command_is_the_one_that_runs():
    words = ["scripts/dvo_rounds.sh", "a b", *["--some_flag", "a value"] * 9, "--x=$HOME"]
    environment = {"DELIMITER": "\n", "FLAGS": "--a 1 --b 2", "EMPTY": ""}
    command = plan.Command("t", words, 0.0, bool, environment=environment)
    shell = command.shell
    assert max(map(len, shell.splitlines())) <= plan.WIDTH
    assert shell.startswith("DELIMITER=$'\\n' FLAGS='--a 1 --b 2' EMPTY='' ")
    assert shlex.split(shell.replace("\\\n", " "))[3:] == words


def write(path: Path, status: int = 0, needs=()) -> plan.Command:
    """A command that makes a file, and ends with a status."""
    program = f"import sys; open({str(path)!r}, 'a').write('x'); sys.exit({status})"
    return plan.Command(path.name, ["python", "-c", program], 0.0, path.exists, needs=needs)


def test_a_command_that_fails_or_lacks_something_does_not_stop_the_others(tmp_path, capfd):
    absent = tmp_path / "absent"
    commands = [
        write(tmp_path / "first", status=3),
        write(tmp_path / "second", needs=[absent]),
        write(tmp_path / "third"),
    ]
    args = plan.PlanArgs(out=tmp_path)
    assert plan.carry_out("p", args, commands, lambda draw: f"table {draw}") == 1
    out, err = capfd.readouterr()
    assert err.splitlines() == [
        "p: first: failed with status 3",
        f"p: second: left out, there is no {absent}",
    ]
    assert out.splitlines()[-1] == "table True"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "third"]


def test_what_is_there_does_not_run_again(tmp_path, capsys):
    (tmp_path / "done").touch()
    args = plan.PlanArgs(out=tmp_path)
    assert plan.carry_out("p", args, [write(tmp_path / "done")], lambda draw: "table") == 0
    assert "[1/1] done: is there" in capsys.readouterr().out
    assert (tmp_path / "done").read_text() == ""


def point(accuracies: list[float], over_problems: float, over_searches: float | None) -> MetricRow:
    mean = float(np.mean(accuracies))
    estimate = Estimate(mean, over_problems, over_searches, len(accuracies), 2)
    return MetricRow("MV", 1, 4, 4, estimate, accuracies)


def test_the_mean_of_sets_has_the_interval_of_independent_means():
    first, second = point([1.0, 0.0], 0.3, 0.06), point([1.0, 1.0], 0.4, 0.08)
    mean = searches.mean_point([first, second])
    assert mean.estimate.mean == 0.75
    assert mean.estimate.over_problems == pytest.approx(0.25)
    assert mean.estimate.over_searches == pytest.approx(0.05)
    assert mean.per_problem == [1.0, 0.0, 1.0, 1.0]
    once = point([1.0, 1.0], 0.4, None)
    assert searches.mean_point([first, once]).estimate.over_searches is None
    assert searches.mean_point([first, None]) is None


def test_the_first_budget_that_is_as_accurate():
    samples = np.array([1.0, 2.0, 3.0, 4.0])
    mv = flops_to_mv.Curve(samples, 10 * samples, np.array([0.2, 0.3, 0.35, 0.5]))
    vgs = flops_to_mv.Curve(np.array([2.0, 4.0]), np.array([16.0, 32.0]), np.array([0.3, 0.4]))
    policy = searches.Policy("toy", "policy", 4)
    assert flops_to_mv.format_savings(policy, (mv, vgs)) == [
        ["toy, MV of 1", "20.0", "10", "2", "16", "160 %", "200 %", "-"],
        ["toy, MV of 2", "30.0", "20", "2", "16", "80 %", "100 %", "-"],
        ["toy, MV of 4", "50.0", "40", "never", "-", "-", "-", "-"],
    ]


def test_the_published_saving_stands_beside_the_budget(capsys):
    lines = dry_run(flops_to_mv, capsys).splitlines()
    for name, budget in (("1.5B", 256), ("7B", 128), ("14B", 64)):
        (line,) = (line for line in lines if line.startswith(f"# {name}, MV of {budget} "))
        assert line.split()[-8:] == ["-"] * 6 + ["25-50", "%"]


@pytest.fixture(scope="module")
def toy_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy_models")
    return save_tiny_policy(folder / "policy"), save_tiny_classifier(folder / "values")


@pytest.fixture
def runs(toy_models, tmp_path, monkeypatch):
    """Reduces --toy to one set of a problem, and runs searches in this process; names them."""
    policy, values = toy_models
    toy = replace(
        searches.TOY,
        policies=[searches.Policy("toy", str(policy), 4)],
        benchmarks={"toy-1": ["--benchmark", "toy", "--max_problems", "1"]},
        means={"all": ["toy-1"]},
        value_model=str(values),
        vgs=searches.Setting("beam2", 2, 8),
        flags=[*searches.TOY.flags, "--max_length", "24"],
        sources=[policy, values],
    )
    monkeypatch.setattr(searches, "TOY", toy)
    started = []

    def run(command: plan.Command) -> int:
        args = parse(list(command.words))
        started.append(str(args.output_path.parent.relative_to(tmp_path)))
        return inference_eval.main(args)

    monkeypatch.setattr(plan.Command, "run", run)
    return started


def test_toy_runs_from_end_to_end_and_only_once(runs, tmp_path, capsys):
    out = ["--toy", "--out", str(tmp_path)]
    missing = "# missing, or not complete: 2, toy/toy-1/bon, toy/toy-1/beam2-2x8"
    assert dry_run(main_table, capsys, *out).endswith(f"{missing}\n")
    assert not list(tmp_path.iterdir())

    main_table.main(out)
    assert runs == ["toy/toy-1/bon/trees-4", "toy/toy-1/beam2-2x8/trees-2"]
    table = capsys.readouterr().out
    line = r"^toy, N = 4, (toy-1|all) +\d+\.0 ±- \(-\) +- +\d+\.0 ±- \(-\) +-$"
    assert len(re.findall(line, table, re.M)) == 2
    assert "missing" not in table

    # The other scripts take them, and make what they lack.
    flops_to_mv.main(out)
    random_blocks.main(out)
    assert runs[2:] == ["toy/toy-1/random2-2x8/trees-2"]
    assert capsys.readouterr().out.endswith(f"plot: {tmp_path}/random_blocks-toy.png\n")
    for name in ("flops_to_mv", "random_blocks"):
        assert (tmp_path / f"{name}-toy.png").read_bytes().startswith(b"\x89PNG")
    main_table.main(out)
    assert len(runs) == 3
    assert "2 commands, 2 of them done" in dry_run(main_table, capsys, *out)

    # A run of another temperature is none of the plan's, and its number not in the table.
    path = tmp_path / runs[0] / CONFIG_NAME
    config = path.read_text()
    assert '"temperature": 1.0' in config
    path.write_text(config.replace('"temperature": 1.0', '"temperature": 0.5'))
    assert dry_run(main_table, capsys, *out).endswith("complete: 1, toy/toy-1/bon\n")
    path.write_text(config)
    assert "missing" not in dry_run(main_table, capsys, *out)

    # Nor is one whose problems are not all there.
    metrics = tmp_path / runs[0] / "metrics.published.json"
    write_json(metrics, json.loads(metrics.read_text()) | {"problem_ids": []})
    assert dry_run(main_table, capsys, *out).endswith("complete: 1, toy/toy-1/bon\n")
    metrics.unlink()
    assert dry_run(main_table, capsys, *out).endswith("complete: 1, toy/toy-1/bon\n")


def test_measured_figures_stand_beside_the_published_ones(monkeypatch):
    accuracies = {
        ("aime-24", "MV"): [1.0, 0.0],
        ("aime-24", "WMV"): [1.0, 1.0],
        ("aime-25", "MV"): [0.0, 0.0],
        ("aime-25", "WMV"): None,
        ("hmmt-feb-25", "MV"): [0.0, 1.0],
    }

    def given(run: searches.SearchRun, method: str) -> MetricRow | None:
        found = accuracies.get((run.benchmark, method))
        return found and point(found, 0.3, 0.1)

    monkeypatch.setattr(searches.SearchRun, "point", given)
    policy, *_ = searches.PAPER.policies
    args = searches.SearchPlanArgs()
    settings = searches.SAMPLES, searches.PAPER.vgs
    samples, vgs = (searches.runs_of(args, policy, setting) for setting in settings)
    by_prm = searches.runs_of(args, policy, searches.PAPER.vgs._replace(by_prm=True))
    rows = [*main_table.rows_of(samples, vgs), *main_table.rows_of(samples, by_prm)]
    scale = replace(searches.PAPER, policies=[policy])
    lines = main_table.format_rows(scale, {"1.5B": rows}).splitlines()
    found = [[cell for cell in line.split("  ") if cell.strip()] for line in lines[2:11]]
    assert [[cell.strip() for cell in cells] for cells in found] == [
        ["1.5B, N = 256, aime-24", "50.0 ±30.0 (10.0)", "-", "100.0 ±30.0 (10.0)", "-"],
        ["1.5B, N = 256, aime-25", "0.0 ±30.0 (10.0)", "38.9 ±1.9", "-", "46.7 ±0.7"],
        ["1.5B, N = 256, hmmt-feb-24", "-", "-", "-", "-"],
        ["1.5B, N = 256, hmmt-feb-25", "50.0 ±30.0 (10.0)", "24.3 ±2.9", "-", "32.8 ±0.8"],
        ["1.5B, N = 256, the two of 2025", "25.0 ±21.2 (7.1)", "31.6", "-", "39.8"],
        ["1.5B, N = 256, all four", "-", "39.7", "-", "45.7"],
        ["1.5B, N = 256, aime-25, by PRM", "0.0 ±30.0 (10.0)", "38.9 ±1.9", "-", "-"],
        ["1.5B, N = 256, hmmt-feb-25, by PRM", "50.0 ±30.0 (10.0)", "24.3 ±2.9", "-", "-"],
        ["1.5B, N = 256, the two of 2025, by PRM", "25.0 ±21.2 (7.1)", "31.6", "-", "31.6"],
    ]


def test_models_that_are_not_there_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main_table.main(["--toy", "--only", "toy-1/bon"])
    assert ended.value.code == 1
    line = capsys.readouterr().err
    assert line.endswith("left out, there is no outputs/quickstart/policy\n")
    with pytest.raises(SystemExit):
        main_table.main(["--only", "1.5B/aime-25/beam2-8x4096-prm"])
    line = capsys.readouterr().err
    assert line.endswith("left out, there is no outputs/Qwen2.5-Math-PRM-7B\n")


def test_it_runs_with_this_python(tmp_path):
    program = f"import sys; open({str(tmp_path / 'name')!r}, 'w').write(sys.executable)"
    assert plan.Command("t", ["python", "-c", program], 0.0, bool).run() == 0
    assert (tmp_path / "name").read_text() == sys.executable
