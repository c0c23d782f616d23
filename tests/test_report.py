"""The report of runs: its data, what it lacks, its size, and what is refused."""

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from dvo_lib.trees import RecordedStep
from scripts import report
from search_lib.answer_rules import STRICT
from search_lib.asking.outcome import count_vote
from search_lib.results.page import run_pages
from search_lib.results.page.block_texts import BlockReader, BlockTokens
from search_lib.results.page.build import build_page
from search_lib.results.page.packing import decompress
from search_lib.results.page.run_pages import load_runs
from search_lib.results.selection import parse_selections
from tests.support.paths import ROOT
from tests.support.runs import write_records, write_run
from tests.support.search_trees import record_of
from tests.support.trees import tree_of, write_trees

PLANTED = "</script><script>document.title = 'planted'</script>"
PARENTS = [None, None, None, None, 0, 0, 2, 2]


@pytest.fixture
def guided(tmp_path):
    """A run of two problems of two trees; the first tree of `a` pruned a right path."""
    records = [
        record_of(PARENTS, {4: "1", 7: "2"}, "a", 0),
        record_of(PARENTS, {4: "1", 7: "1"}, "a", 1),
        record_of(PARENTS, {4: "2", 7: "2"}, "b", 0),
        record_of(PARENTS, {4: "3", 7: None}, "b", 1),
    ]
    write_records(tmp_path / "guided", records, search_type="beam2", num_blocks=4)
    return tmp_path / "guided"


def pages_of(*runs):
    return load_runs(parse_selections([str(run) for run in runs]), STRICT)


def parts_of(page):
    """The page's data, and its compressed parts by name."""
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    parts = re.findall(r'<script type="text/plain" id="([^"]+)">([^<]*)</script>', page)
    return data, {name: decompress(content) for name, content in parts}


def whole(text):
    return {"parts": [{"text": text}, {"text": ""}], "left_out": 0}


def test_the_overview_has_curves_votes_and_how_often_a_right_path_was_pruned(guided):
    data, _ = parts_of(build_page(pages_of(guided), "t"))
    (run,) = data["runs"]
    assert run["pruning"] == {"trees": 4, "dropping": 4, "mixed": 1, "pruned": 1}
    # One tree of a: a tie of 1 and 2, or right; two: right. b is wrong.
    assert [point["mean"] for point in run["curves"]["MV"]] == [0.375, 0.5]
    assert [point["mean"] for point in run["curves"]["pass@k"]] == [0.5, 0.5]
    assert run["curves"]["WMV"][1]["costs"]["budget"] == 8
    first, second = data["problems"]
    assert first["runs"] == [
        {"votes": {"MV": 1, "WMV": 1, "BoN": 0.5, "pass@k": 1}, "answer": "1", "right": 3,
         "responses": 4, "trees": 2, "pruned": 1}
    ]  # fmt: skip
    assert (second["id"], second["reference"], second["runs"][0]["right"]) == ("b", "1", 0)


def test_a_problem_has_its_trees_and_the_texts_of_responses(guided):
    _, parts = parts_of(build_page(pages_of(guided), "t"))
    tree = parts["problem-0-0"]["trees"][0]
    assert (tree["parent"], tree["pruned"], tree["right"]) == (PARENTS, 5, [0, 4])
    assert tree["seed"] == str(2**63 - 1)
    assert tree["responses"][1] == {
        "node": 7, "answer": "2", "class": 1, "right": False, "value": 0.08, "finished": True,
        "tokens": 10,
    }  # fmt: skip
    assert parts["texts-0-0-0"] == {"responses": [whole("answer 1"), whole("answer 2")]}


def test_a_problem_that_stopped_early_has_its_own_number_of_trees(tmp_path):
    trees = [[("1", 0.5)], [("1", 0.6)]]
    searches = {"a": ("1", trees), "b": ("1", [*trees, *trees])}
    write_run(tmp_path / "run", searches, num_repetitions=4, stop="decided")
    (page,) = pages_of(tmp_path / "run")
    assert (page.overview()["trees"], page.overview()["mean_trees"]) == (4, 3.0)
    assert [page.row(name)["trees"] for name in "ab"] == [2, 4]
    assert [len(page.problem(name)["trees"]) for name in "ab"] == [2, 4]
    assert page.row("a")["votes"] == {"MV": 1, "WMV": 1, "BoN": 1, "pass@k": 1}


def test_the_winners_of_a_vote_are_those_of_the_table(tmp_path):
    trees = [[("1", 0.30004), ("2", 0.30001)], [("3", 0.1), (None, 0.9)]]
    plain = {"b": ("1", [[("1", None)], [("2", None)]])}
    write_run(tmp_path / "run", {"a": ("1", trees)})
    write_run(tmp_path / "plain", plain)
    (page,), (other,) = pages_of(tmp_path / "run"), pages_of(tmp_path / "plain")
    assert page.row("a")["votes"] == {"MV": 0.3333, "WMV": 1, "BoN": 1, "pass@k": 1}
    assert page.problem("a")["winners"] == {"MV": [0, 1, 2], "WMV": [0], "BoN": [0]}
    assert other.problem("b")["winners"] == {"MV": [0, 1]}


def test_the_answer_of_a_tie_is_the_one_that_asking_the_question_would_give(tmp_path):
    trees = [[("7", 0.4), ("7.0", 0.4)], [("8", 0.4), ("8", 0.4)]]
    write_run(tmp_path / "run", {"a": ("1", trees)})
    (page,) = pages_of(tmp_path / "run")
    assert page.row("a")["answer"] == count_vote(page.graded["a"], page.method)[0].answer == "7"


class Numbers:
    """Tokens as numbers."""

    def pieces(self, token_ids):
        return [f"<{one}>" for one in token_ids]

    def text(self, token_ids):
        return "".join(self.pieces(token_ids))


def test_blocks_whose_texts_were_saved_have_them_by_token_with_values(guided, monkeypatch):
    def saved(record):
        return [
            BlockTokens([index, 99], [0.0, 0.5], Numbers()) for index in range(len(record.tree))
        ]

    monkeypatch.setattr(
        run_pages, "block_reader", lambda records, config, values_of: BlockReader(saved, None)
    )
    pages = pages_of(guided)
    assert pages[0].lacks() == []
    _, parts = parts_of(build_page(pages, "t"))
    part = {"pieces": ["<5>", "<99>"], "values": [0, 128]}
    block = {"parts": [part, {"pieces": [], "values": []}], "left_out": 0}
    assert parts["texts-0-0-0"]["blocks"][5] == block


def test_planted_markup_stays_text(tmp_path):
    record = record_of([None], {0: PLANTED}, PLANTED, problem=PLANTED, reference=PLANTED)
    write_records(tmp_path / "run", [record])
    page = build_page(pages_of(tmp_path / "run"), PLANTED)
    # The scripts of the page alone: its data, two parts, and its own.
    assert page.count("<script") == page.count("</script>") == 4
    data, parts = parts_of(page)
    assert data["problems"][0]["question"] == PLANTED
    assert parts["texts-0-0-0"] == {"responses": [whole(f"answer {PLANTED}")]}


def test_the_page_names_nothing_to_load(guided):
    page = build_page(pages_of(guided), "t")
    addresses = set(re.findall(r"https?://[^\"'\s)]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page


def test_texts_without_room_lose_their_middle_and_the_page_says_so(tmp_path):
    rng = random.Random(0)
    record = record_of(PARENTS, {4: "1", 7: "2"})
    texts = ["".join(rng.choices("abcdefgh", k=50_000)) for _ in record.responses]
    responses = [replace(r, text=text) for r, text in zip(record.responses, texts, strict=True)]
    write_records(tmp_path / "run", [replace(record, responses=responses)])
    page = build_page(pages_of(tmp_path / "run"), "t", budget=20_000)
    data, parts = parts_of(page)
    response = parts["texts-0-0-0"]["responses"][0]
    (start, end), left_out = (part["text"] for part in response["parts"]), response["left_out"]
    assert texts[0].startswith(start)
    assert texts[0].endswith(end)
    assert len(start) + left_out + len(end) == 50_000
    assert data["shortened"] == len(start) + len(end)
    assert len(re.search('id="texts-0-0-0">([^<]*)', page)[1]) <= 20_000


def test_texts_that_compress_worse_than_the_sample_are_shortened_again(tmp_path, monkeypatch):
    rng = random.Random(0)
    plain = record_of(PARENTS, {4: "1"})
    noise = ["".join(rng.choices("abcdefgh", k=20_000)) for _ in range(5)]
    # Of ten searches every second one is in the sample.
    records = [
        replace(plain, repetition=tree, responses=[replace(plain.responses[0], text=text)])
        for tree, text in enumerate(text for one in noise for text in ("a" * 20_000, one))
    ]
    write_records(tmp_path / "run", records)
    packed_problems = []
    problem = run_pages.RunPage.problem
    monkeypatch.setattr(
        run_pages.RunPage,
        "problem",
        lambda page, name: packed_problems.append(name) or problem(page, name),
    )
    page = build_page(pages_of(tmp_path / "run"), "t", budget=20_000)
    texts = re.findall('id="texts-[^"]+">([^<]*)', page)
    assert 10_000 < sum(map(len, texts)) <= 20_000
    data, _ = parts_of(page)
    assert data["shortened"] < 20_000
    assert packed_problems == ["a"]  # once, whatever the length of texts


def test_older_runs_have_a_report_that_says_what_they_lack(tmp_path, capsys):
    plain = {"a": ("1", [[("1", None)], [("2", None)]])}
    write_run(tmp_path / "old", plain, contexts_generated=None, session_seconds=None)
    report.run([str(tmp_path / "old"), "--out", str(tmp_path / "report.html")])
    first, *lacks = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path}/report.html: 0.1 MB; runs: 1, problems: 1, trees: 2"
    assert lacks == [
        "old: Its records have no trees.",
        "old: The texts of its blocks were not saved: the page has whole responses instead, and no "
        "dropped blocks.",
        "old: Its responses have no values: no WMV, no BoN.",
        "old: Its FLOPs are not known.",
        "old: Its time is not known.",
    ]
    data, parts = parts_of((tmp_path / "report.html").read_text())
    assert data["runs"][0]["values"] is None
    assert parts["problem-0-0"]["trees"][0]["parent"] == []


def test_a_run_without_references_has_answers_and_nothing_right_or_wrong(tmp_path, capsys):
    record = record_of(PARENTS, {4: "1", 7: "2"}, reference=None)
    write_records(tmp_path / "run", [record], search_type="beam2", num_blocks=4)
    report.run([str(tmp_path / "run"), "--out", str(tmp_path / "report.html")])
    assert "run: Nobody knows the right answers: nothing is right or wrong here." in (
        capsys.readouterr().out.splitlines()
    )
    data, parts = parts_of((tmp_path / "report.html").read_text())
    (run,), (problem,) = data["runs"], data["problems"]
    assert (run["curves"], run["pruning"], run["values"]) == ({}, None, None)
    assert run["costs"]["budget"] == 4
    assert problem["reference"] is None
    assert problem["runs"] == [
        {"votes": {}, "answer": "2", "right": None, "responses": 2, "trees": 1, "pruned": 0}
    ]
    tree = parts["problem-0-0"]["trees"][0]
    assert [response["right"] for response in tree["responses"]] == [None, None]
    assert parts["problem-0-0"]["winners"] == {"MV": [1, 2], "WMV": [2], "BoN": [2]}


def test_a_run_whose_references_are_known_in_part_is_refused(tmp_path, capsys):
    records = [record_of([None], {0: "1"}), record_of([None], {0: "1"}, "b", reference=None)]
    write_records(tmp_path / "run", records)
    line = f"{tmp_path}/run: 1 of 2 problems have no reference answer"
    assert refusal(capsys, tmp_path / "run") == line


def test_runs_stand_side_by_side_under_their_labels(guided, tmp_path):
    write_run(tmp_path / "plain", {name: ("1", [[("1", 0.5)]] * 2) for name in "ab"})
    data, parts = parts_of(build_page(pages_of(f"VGS={guided}", tmp_path / "plain"), "t"))
    assert [run["label"] for run in data["runs"]] == ["VGS", "plain"]
    assert [len(problem["runs"]) for problem in data["problems"]] == [2, 2]
    assert "problem-1-1" in parts


def refusal(capsys, *argv, out="r.html"):
    with pytest.raises(SystemExit) as ended:
        report.run([*map(str, argv), "--out", str(out)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("scripts.report: error: ")


def test_bad_input_is_one_line(guided, tmp_path, capsys):
    assert refusal(capsys, guided, out="r.pdf") == "--out r.pdf does not end in .html"
    line = f"{tmp_path}/absent: there is no such file of records"
    assert refusal(capsys, tmp_path / "absent") == line
    line = "RUNS guided: a report shows all methods; name the folder only"
    assert refusal(capsys, f"{guided}:MV") == line
    write_run(tmp_path / "other", {"a": ("1", [[("1", 0.9)]])})
    line = f"RUNS {guided} and {tmp_path}/other are of different problems: 2 and 1, 1 in common"
    assert refusal(capsys, guided, tmp_path / "other") == line


@pytest.mark.parametrize(
    ("parents", "node", "message"),
    [([0], 0, "block 0 continues 0"), ([None, 7], 0, "block 1 continues 7"),
     ([None], 3, "there is no block 3")],
)  # fmt: skip
def test_a_tree_that_is_none_is_refused(parents, node, message, tmp_path, capsys):
    record = record_of(parents, {0: "1"})
    record = replace(record, responses=[replace(record.responses[0], node=node)])
    write_records(tmp_path / "run", [record])
    line = f"{tmp_path}/run/r.jsonl: problem a, repetition 0: {message}"
    assert refusal(capsys, tmp_path / "run") == line


def test_paths_of_dvo_are_a_part_of_the_page(guided, tmp_path):
    nodes = [
        RecordedStep(None, [1], "", 1, 2, 0.0, 1.0, None, None),
        RecordedStep(0, [1], "good", 1, 1, 1.0, 0.5, "answer", 1.0),
        RecordedStep(0, [1], "bad", 1, 1, -1.0, 0.5, "answer", -1.0),
    ]
    tree = tree_of(nodes, "a", "Which?", [1])
    trees = write_trees(tmp_path / "trees.jsonl", [tree])
    out = tmp_path / "new" / "report.html"
    report.run([str(guided), "--out", str(out), "--dvo_trees", str(trees)])
    data, parts = parts_of(out.read_text())
    assert data["num_dvo_trees"] == 1
    assert [path["steps"][0]["credit"] for path in parts["dvo-0"]["paths"]] == [1.0, -1.0]


def test_trees_that_are_not_there_are_one_line(guided, tmp_path, capsys):
    line = f"--dvo_trees {tmp_path} is no file of trees, nor a folder with trees.jsonl"
    assert refusal(capsys, guided, "--dvo_trees", tmp_path) == line


def test_it_starts_by_its_path_from_any_folder(tmp_path):
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "report.py", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
