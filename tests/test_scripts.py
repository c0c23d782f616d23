"""What the README and the scripts promise: their commands parse, their snippets run."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Annotated

import pytest
import tyro

import inference_eval
import train_classifier
from scripts import compare_runs
from search_lib.errors import InputError
from tests.tiny_models import save_tiny_classifier

ROOT = Path(inference_eval.__file__).parent
README = (ROOT / "README.md").read_text()


def commands(text: str, program: str) -> list[list[str]]:
    """The arguments of every call of a program in shell text."""
    joined = text.replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if re.search(rf"(?<=[ ]){program} +--", line)]
    return [shlex.split(line.split(program, 1)[1]) for line in lines]


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
    found = commands(README, "inference_eval.py") + commands(
        inference_eval.__doc__, "inference_eval.py"
    )
    assert len(found) == 3
    for arguments in found:
        args = tyro.cli(
            Annotated[inference_eval.Args, tyro.conf.FlagCreatePairsOff],
            args=arguments,
            use_underscores=True,
        )
        assert args.num_repetitions > 1


def test_the_training_commands_of_the_documentation_parse():
    found = commands(README, "train_classifier.py") + commands(
        train_classifier.__doc__, "train_classifier.py"
    )
    assert len(found) == 3
    for arguments in found:
        assert train_classifier.parse_args(arguments).num_steps > 0


def test_the_value_model_snippet_runs_as_printed(tmp_path):
    snippet = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    folder = save_tiny_classifier(tmp_path, vocab_size=151_936)
    assert snippet.count("VGS-AI/DeepSeek-VM-1.5B") == 1
    names: dict = {}
    exec(snippet.replace("VGS-AI/DeepSeek-VM-1.5B", str(folder)), names)
    assert 0 < names["scores"] < 1


def write_run(folder: Path, accuracies: dict[int, list[float]]) -> Path:
    rows = [
        {
            "method": "MV",
            "budget": budget,
            "estimate": {
                "mean": sum(values) / len(values),
                "over_problems": 0.1,
                "over_searches": None,
                "num_problems": len(values),
                "num_repetitions": 1,
            },
            "per_problem": values,
        }
        for budget, values in accuracies.items()
    ]
    folder.mkdir()
    ids = [f"{folder.name[0]}{index}" for index in range(len(next(iter(accuracies.values()))))]
    document = {"problem_ids": ids, "metrics": rows}
    (folder / "metrics.json").write_text(json.dumps(document))
    return folder


def test_runs_are_compared_in_a_table_and_a_plot(tmp_path, capsys):
    low = write_run(tmp_path / "run1", {4: [0.0, 1.0, 0.0, 0.0], 8: [0.0, 1.0, 0.0, 1.0]})
    high = write_run(tmp_path / "run2", {4: [1.0, 1.0, 0.0, 0.0]})
    curves = (f"baseline={low}:MV", f"ours={high}:MV")
    compare_runs.main(compare_runs.Args(curves, tmp_path / "plots" / "p.png", "baseline"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["budget", "4", "8"]
    assert lines[2].split() == ["baseline", "25.0", "±", "10.0", "50.0", "±", "10.0"]
    assert lines[3].split() == ["ours", "50.0", "±", "10.0"]
    assert "budget    4: +25.0 ± 49.0" in lines
    assert (tmp_path / "plots" / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("curves", "baseline", "message"),
    [
        (("nonsense",), "a", "'nonsense' is not of the form label=folder:method"),
        (("a={}/absent:MV",), "a", "a: there is no .*metrics.json; has the run ended"),
        (("a={}/run:VGS",), "a", r"a: .* has no method 'VGS'; it has \['MV'\]"),
        (("a={}/run:MV",), "b", r"--baseline 'b' is none of the curves \['a'\]"),
        (("a={}/run:MV", "b={}/other:MV"), "a", "b has 2 problems, a has 1, 0 in common"),
    ],
)
def test_runs_that_cannot_be_compared_are_named(tmp_path, curves, baseline, message):
    write_run(tmp_path / "run", {4: [1.0]})
    write_run(tmp_path / "other", {4: [1.0, 0.0]})
    filled = tuple(curve.format(tmp_path) for curve in curves)
    with pytest.raises(InputError, match=message):
        compare_runs.main(compare_runs.Args(filled, tmp_path / "p.png", baseline))
