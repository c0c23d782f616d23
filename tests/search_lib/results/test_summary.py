"""A run counted again: by either rules, each in files of its own; and what a zero comes from."""

import json

import pytest

from run_lib.files import write_json
from run_lib.settings import as_json
from search_lib.results import summary
from search_lib.results.cost import RunCost, SearchCost
from search_lib.results.records import Record, RecordedResponse, RecordFile
from search_lib.results.run_config import CONFIG_NAME, RunConfig
from search_lib.search_args import Args
from search_lib.strategies import Node

IDS = ["a/b\n", "\x1b[31mc"]
TEXTS = {
    ("a/b\n", 0): [r"</think>\boxed{7}", r"a box in a thought: \boxed{8}"],
    ("a/b\n", 1): [r"</think>\boxed{7.0}", r"</think>nothing"],
    ("\x1b[31mc", 0): [r"\boxed{7}", r"\boxed{9}"],
    ("\x1b[31mc", 1): [r"</think>\boxed{9}", r"\boxed{9}"],
}
STRICT_ANSWERS = {
    r"</think>\boxed{7}": "7",
    r"</think>\boxed{7.0}": "7.0",
    r"</think>\boxed{9}": "9",
}


def write_run(folder, texts=TEXTS, reference="7", **flags):
    """A run of two problems and two repetitions; returns its file of records."""
    args = Args("mine.jsonl", "no policy", "no model", num_blocks=2, num_repetitions=2)
    settled = {"output_path": "out.jsonl", "answer_format": "boxed"}
    config = RunConfig(as_json(args) | settled | flags, {}, IDS)
    write_json(folder / CONFIG_NAME, config.document())
    with RecordFile(folder / "out.jsonl") as records:
        for (problem_id, repetition), of_search in texts.items():
            responses = [
                RecordedResponse(text, STRICT_ANSWERS.get(text), 0.5, "</think>" in text, 1, 0)
                for text in of_search
            ]
            tree = [Node(None, 1, 0.5, "stop")]
            cost = SearchCost(1, 0.0)
            records.append(Record(problem_id, repetition, "?", reference, 0, responses, tree, cost))
    return folder / "out.jsonl"


def accuracy(path, method, budget):
    document = json.loads(path.read_text())
    (row,) = [r for r in document["metrics"] if (r["method"], r["budget"]) == (method, budget)]
    return row["estimate"]["mean"]


def test_choices_are_counted_letter_by_letter(tmp_path, monkeypatch):
    monkeypatch.setitem(STRICT_ANSWERS, "</think>B", "B")
    monkeypatch.setitem(STRICT_ANSWERS, "</think>C", "C")
    texts = {key: ["</think>B", "</think>C"] for key in TEXTS}
    write_run(tmp_path, texts, reference="(b)", answer_format="choice")
    summary.main([str(tmp_path)])
    assert accuracy(tmp_path / "metrics.json", "pass@1", 2) == 0.5
    with pytest.raises(SystemExit):
        summary.main([str(tmp_path), "--answers", "published"])


def test_records_are_counted_by_either_rules_and_neither_replaces_the_other(tmp_path, capsys):
    write_run(tmp_path)
    summary.main([str(tmp_path)])
    strict = (tmp_path / "metrics.json").read_bytes()
    assert "2 of 2 problems complete, 2 blocks x up to 2 trees, strict answers" in (
        capsys.readouterr().out
    )
    summary.main([str(tmp_path / "out.jsonl"), "--answers", "published"])
    assert "trees, published answers" in capsys.readouterr().out
    assert (tmp_path / "metrics.json").read_bytes() == strict
    assert json.loads(strict)["answers"] == "strict"
    assert json.loads((tmp_path / "metrics.published.json").read_text())["answers"] == "published"
    assert accuracy(tmp_path / "metrics.json", "pass@1", 4) == 2 / 8
    assert accuracy(tmp_path / "metrics.published.json", "pass@1", 4) == 3 / 8
    assert accuracy(tmp_path / "metrics.json", "MV", 4) == 1 / 2


def test_the_rules_are_those_of_the_run_unless_named(tmp_path):
    write_run(tmp_path, answers="published")
    summary.main([str(tmp_path)])
    assert {path.name for path in tmp_path.glob("[ma]*")} == {
        "metrics.published.json",
        "answers.published.jsonl",
    }
    summary.main([str(tmp_path), "--answers", "strict"])
    assert (tmp_path / "metrics.json").exists()


def test_answers_tell_the_class_of_every_response_and_whether_it_is_right(tmp_path):
    write_run(tmp_path)
    summary.main([str(tmp_path)])
    summary.main([str(tmp_path), "--answers", "published"])
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    of_problem = {row["problem_id"]: row for row in map(json.loads, lines)}
    assert of_problem["a/b\n"] == {
        "problem_id": "a/b\n",
        "reference": "7",
        "answers": [["7", None], ["7.0", None]],
        "classes": [[0, None], [0, None]],
        "correct": [[True, False], [True, False]],
    }
    assert of_problem["\x1b[31mc"]["classes"] == [[None, None], [1, None]]
    lines = (tmp_path / "answers.published.jsonl").read_text().splitlines()
    of_problem = {row["problem_id"]: row for row in map(json.loads, lines)}
    assert of_problem["a/b\n"]["answers"] == [["7", "8"], ["7.0", None]]
    assert of_problem["a/b\n"]["classes"] == [[0, 1], [0, 2]]
    assert of_problem["\x1b[31mc"]["correct"] == [[True, False], [False, False]]


def test_a_run_of_an_earlier_version_is_counted_strictly(tmp_path):
    path = write_run(tmp_path)
    document = json.loads((tmp_path / CONFIG_NAME).read_text())
    del document["answers"]
    write_json(tmp_path / CONFIG_NAME, document)
    summary.main([str(path)])
    assert json.loads((tmp_path / "metrics.json").read_text())["answers"] == "strict"


@pytest.mark.parametrize(
    ("text", "reference", "sentence"),
    [
        (
            "cut off",
            "7",
            "accuracy 0, as nothing could be compared: 0 of 4 responses have an answer, 4 ended at "
            "the length limit, and 2 of 2 references can be compared with an answer",
        ),
        (
            r"</think>\boxed{9}",
            "x" * 3000,
            "accuracy 0, as nothing could be compared: 4 of 4 responses have an answer, 0 ended at "
            "the length limit, and 0 of 2 references can be compared with an answer",
        ),
        (r"</think>\boxed{9}", "7", "accuracy 0, as no answer is right: 4 of 4 responses have"),
        (r"</think>\boxed{7}", "7", None),
    ],
)
def test_a_zero_says_what_it_comes_from(tmp_path, capsys, text, reference, sentence):
    write_run(tmp_path, {key: [text] for key in TEXTS}, reference)
    summary.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert (sentence or "accuracy 0") in out or sentence is None
    assert ("accuracy 0" in out) == (sentence is not None)


def test_the_tokens_from_caches_are_printed_where_they_are_known():
    known = SearchCost(9, 0.0, 9, 30, 9, 10, policy_tokens_cached=90, policy_tokens_prefilled=10)
    line = "tokens from caches: 90.0 % of the policy's prefixes, 25.0 % of the value model's paths"
    assert summary.format_caches(RunCost.of([known])) == line
    unscored = SearchCost(9, 0.0, 9, 0, 0, 0, policy_tokens_cached=90, policy_tokens_prefilled=10)
    line = "tokens from caches: 90.0 % of the policy's prefixes"
    assert summary.format_caches(RunCost.of([unscored])) == line
    assert not summary.format_caches(RunCost.of([known, SearchCost(9, 0.0)]))


def test_what_is_no_run_is_one_line(tmp_path, capsys):
    def error(*argv):
        with pytest.raises(SystemExit) as ended:
            summary.main(list(map(str, argv)))
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "there is no such file of records" in error(tmp_path)
    path = write_run(tmp_path)
    with RecordFile(path) as records:
        records.append(Record("x\n\x1b", 0, "", "7", 0, [], [], SearchCost(1, 0.0)))
    line = error(tmp_path)
    assert r"out.jsonl, line 5: problem x \x1b, repetition 0 is not one of this run's" in line
    (tmp_path / CONFIG_NAME).unlink()
    assert f"no {CONFIG_NAME} beside it says what run it is of" in error(path)
