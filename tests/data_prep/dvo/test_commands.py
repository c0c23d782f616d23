"""The commands in a row, as their user types them."""

import json

import pytest

from data_prep.dvo import export, paths, reference, sft


def test_trees_become_lines_for_a_trainer(tree_file, tiny_policy, tmp_path, capsys):
    drawn, data, lines = tmp_path / "paths", tmp_path / "data", tmp_path / "lines.jsonl"
    paths.main(["--input", str(tree_file.parent), "--output", str(drawn), "--seed", "3"])
    reference.main(["--input", str(drawn), "--output", str(data), "--model", str(tiny_policy)])
    export.main(["--input", str(data), "--output", str(lines), "--format", "kto"])
    output = capsys.readouterr().out
    num_lines = len(lines.read_text().splitlines())
    assert f"rows out   {num_lines}\n" in output
    assert "no right answer" in output
    assert f"{lines}: {num_lines} lines of kto, from {num_lines} paths of " in output
    settings = json.loads((tmp_path / "lines.jsonl.config.json").read_text())
    assert (settings["format"], settings["tokenizer"]) == ("kto", str(tiny_policy))


@pytest.mark.parametrize("module", [paths, reference, export, sft])
def test_bad_input_is_one_line(module, tmp_path, capsys):
    flags = ["--input", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    if module is reference:
        flags += ["--model", "x"]
    if module is export:
        flags += ["--format", "dvo", "--tokenizer", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        module.main(flags)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(f"data_prep.dvo {module.__name__.rpartition('.')[2]}: error: --")
    assert error.count("\n") == 1
