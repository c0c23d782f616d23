"""One question on the command line: in a terminal, without one, as JSON, and with a record."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import ask
from run_lib.commands import InputError
from scripts import report
from search_lib.answer_formats import ANSWER_FORMATS
from search_lib.asking.ask_args import PROGRAM, AskArgs
from search_lib.asking.flags import read_command_line
from search_lib.asking.saving import save_run
from search_lib.engines.base import Sampling
from search_lib.results.blocks import RunBlocks
from search_lib.results.records import read_records
from search_lib.results.run_config import RunConfig
from tests.support.paths import ROOT
from tests.support.terminals import CTRL_C, run_in_terminal
from tests.support.tiny_models import save_tiny_classifier, save_tiny_policy

QUESTION = "start 2 +4"
SETTINGS = {"num_blocks": 4, "num_repetitions": 2, "block_size": 8, "max_length": 32}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a policy and a value model, where the quickstart puts its own."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_policy(folder / "outputs" / "quickstart" / "policy")
    save_tiny_classifier(folder / "outputs" / "quickstart" / "value_model" / "final")
    return folder / "outputs" / "quickstart"


@pytest.fixture
def args(models):
    return AskArgs(
        str(models / "policy"),
        str(models / "value_model" / "final"),
        question=QUESTION,
        instruction="",
        sampling=Sampling(1.0, 1.0),
        **SETTINGS,
    )


def words_of(args, *more):
    """The command line of these flags."""
    settings = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    models = ["--piref_model", args.piref_model, "--classifier_ckpt_path", args.value_model]
    return ["ask.py", args.question, *models, "--instruction", "", *settings, *map(str, more)]


def test_a_terminal_shows_the_search_and_in_the_end_the_answer_alone(args):
    shown = run_in_terminal(words_of(args, "--reference", "6"), 80, 24)
    assert (shown.status, shown.has_cursor) == (0, True)
    assert "Tree " in shown.output
    assert "tokens/s" in shown.output
    lines = [line for line in shown.lines if line]
    first = next(place for place, line in enumerate(lines) if line.startswith("╭─ Answer"))
    assert lines[0].startswith("engine: hf")
    assert not any("tree  round" in line or "tokens/s" in line for line in lines)
    assert lines[first + 5].startswith(("Vote", "share"))
    assert any(line.startswith("reference  6: ") for line in lines[first:])


def test_ctrl_c_leaves_one_line_and_a_whole_terminal(args):
    words = words_of(args, "--num_repetitions", "20000")
    shown = run_in_terminal(words, 80, 24, when=[("tokens/s", CTRL_C)])
    assert (shown.status, shown.has_cursor) == (130, True)
    lines = [line for line in shown.lines if line]
    assert lines[-1] == "interrupted"
    assert not any("tree  round" in line for line in lines)


def test_json_is_alone_on_standard_output_and_a_report_opens_the_record(args, tmp_path, capsys):
    command = [sys.executable, *words_of(args, "--json", "--save", tmp_path / "new" / "record")]
    with (tmp_path / "answer.json").open("w") as output:
        done = subprocess.run(
            command, cwd=ROOT, stdout=output, stderr=subprocess.PIPE, check=True, text=True
        )
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert (answer["question"], answer["trees"]) == (QUESTION, 2)
    assert "2 of 2 trees: tree " in done.stderr

    folder = tmp_path / "new" / "record"
    assert f"saved: {folder}" in done.stderr
    path, config = RunConfig.find(folder)
    records = list(read_records(path))
    assert [record.reference for record in records] == [None, None]
    assert RunBlocks(path).of(records[0]).prompt_ids
    assert not {"question", "save", "prints_json"} & config.flags.keys()
    assert config.fingerprints["piref_model"]
    report.run([str(folder), "--out", str(tmp_path / "page.html")])
    assert "problems: 1, trees: 2" in capsys.readouterr().out


def test_without_a_terminal_there_are_lines(args, capsys):
    ask.main(replace(args, num_repetitions=1), "a remark")
    first, engine, tree, answer, *_ = capsys.readouterr().out.splitlines()
    assert first == "a remark"
    assert engine.startswith("engine: hf")
    assert tree.startswith("1 of 1 trees: tree 1: ")
    assert answer.startswith("answer: ")


def test_a_disk_that_takes_no_record_leaves_the_answer_and_no_folder(
    args, tmp_path, monkeypatch, capsys
):
    def fail(folder, *rest):
        save_run(folder, *rest)
        raise OSError("disk full")

    monkeypatch.setattr(ask, "save_run", fail)
    with pytest.raises(OSError, match="disk full"):
        ask.main(replace(args, num_repetitions=1, save=tmp_path / "record"))
    assert "answer: " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def read(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["ask.py", *words])
    return read_command_line(AskArgs, PROGRAM, None)


def test_without_a_named_model_it_is_the_quickstarts_with_its_settings(models, monkeypatch):
    monkeypatch.chdir(models.parents[1])
    found, remark = read(monkeypatch, QUESTION, "--num_blocks", "8")
    assert found.piref_model == "outputs/quickstart/policy"
    assert (found.num_blocks, found.max_length, found.question) == (8, 96, QUESTION)
    assert remark == (
        "no model is named: those of the toy task, with its settings (outputs/quickstart)"
    )


def test_where_there_is_no_quickstart_it_is_the_published_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, remark = read(monkeypatch, QUESTION)
    assert found.piref_model == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert remark.endswith("into outputs/quickstart: the published ones")


def test_named_models_have_the_published_settings(models, monkeypatch):
    monkeypatch.chdir(models.parents[1])
    found, remark = read(monkeypatch, QUESTION, "--piref_model", "mine")
    assert (found.piref_model, found.num_blocks, found.max_length) == ("mine", 8, 16384)
    assert (found.classifier_ckpt_path, remark) == ("VGS-AI/DeepSeek-VM-1.5B", None)


def test_a_question_is_read_from_standard_input(args, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b" What\nis it? \n")))
    assert replace(args, question="-").read_question() == "What\nis it?"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b" \n", "the question on standard input is empty"),
     (b"\xff", "standard input is not UTF-8")],
)  # fmt: skip
def test_standard_input_that_holds_no_question_is_refused(content, message, args, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    with pytest.raises(InputError, match=message):
        replace(args, question="-").read_question()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": " "}, "the question is empty; give it as one argument, or - to read it"),
        ({"question": "a\udcff"}, "the question is not UTF-8: "),
        ({"instruction": "a\udcff"}, "--instruction is not UTF-8: "),
        (
            {"question": "start 2" + " +4" * 100},
            "exceed the policy's context of 128 tokens for 1 problem: question ",
        ),
        ({"reference": "((x"}, r"--reference \(\(x can't be compared with an answer"),
        ({"num_blocks": 3}, "--num_blocks 3 is not divisible"),
        ({"think_tags": ("<a>", "")}, "--think_tags"),
        ({"piref_model": "absent"}, "--piref_model absent: no tokenizer could be loaded"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(changes, message, args):
    args = replace(args, **changes)

    def begin():
        args.check()
        ask.prepare(args, ANSWER_FORMATS["boxed"])

    with pytest.raises(InputError, match=message):
        begin()


def test_a_record_takes_the_place_of_nothing(args, tmp_path):
    (tmp_path / "empty").mkdir()
    replace(args, save=tmp_path / "empty").check()
    replace(args, save=tmp_path / "absent").check()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "run_config.json").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("full", "full/run_config.json", "link"):
        with pytest.raises(InputError, match=f"--save {tmp_path}/{name}: there is something"):
            replace(args, save=tmp_path / name).check()
    with pytest.raises(InputError, match=f"--save {os.devnull}: there is something"):
        replace(args, save=Path(os.devnull)).check()
    with pytest.raises(InputError, match=r"--save .*File name too long"):
        replace(args, save=tmp_path / ("x" * 300)).check()
