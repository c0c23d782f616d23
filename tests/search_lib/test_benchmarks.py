"""Reading problem sets, and what is said of those that cannot be read."""

import inspect
import json
import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search_lib import benchmarks
from search_lib.benchmarks import (
    BENCHMARKS,
    MATH_INSTRUCTION,
    BenchmarkSource,
    Problem,
    RepeatedId,
    find_benchmark,
    load_problems,
)
from search_lib.problem_flags import ProblemFlags
from tests.support.paths import ROOT


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_papers_benchmarks_read_their_hub_columns(monkeypatch):
    columns = {
        "Maxwell-Jia/AIME_2024": ("Problem", "Answer"),
        "yentinglin/aime_2025": ("problem", "answer"),
        "MathArena/hmmt_feb_2024": ("problem", "answer"),
        "MathArena/hmmt_feb_2025": ("problem", "answer"),
    }

    def fake_hub(path, config, split):
        assert (config, split) == (None, "train")
        problem, answer = columns.pop(path)
        return datasets.Dataset.from_dict({problem: ["How many?"], answer: [204], "ID": ["x"]})

    monkeypatch.setattr(datasets, "load_dataset", fake_hub)
    for name in ("aime-24", "aime-25", "hmmt-feb-24", "hmmt-feb-25"):
        source = find_benchmark(name)
        assert load_problems(source) == [Problem("0", "How many?", "204")]
        assert source.instruction == MATH_INSTRUCTION
    assert not columns


def test_every_benchmark_stands_in_the_help_and_in_the_documentation():
    help_text = inspect.getsource(ProblemFlags)
    page = (ROOT / "docs" / "search.md").read_text()
    for name in BENCHMARKS:
        assert re.search(rf"\b{name}\b(?!-)", help_text), name
        assert f"`{name}`" in page, name


def test_the_toy_benchmark_is_in_the_repository():
    problems = load_problems(BENCHMARKS["toy"])
    assert len(problems) == 200
    assert BENCHMARKS["toy"].instruction == ""


def test_a_parquet_file_is_read_without_a_word_on_the_terminal(tmp_path, capfd):
    path = str(tmp_path / "some.parquet")
    pq.write_table(pa.table({"problem": ["a"], "answer": [1]}), path)
    assert load_problems(find_benchmark(path)) == [Problem("0", "a", "1")]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_local_files_with_named_columns(tmp_path, suffix):
    rows = [{"id": "a", "q": "1 + 1", "a": 2, "extra": None}, {"id": "b", "q": "x", "a": 5}]
    path = str(tmp_path / f"mine.{suffix}")
    if suffix == "jsonl":
        write_jsonl(tmp_path / "mine.jsonl", rows)
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)
    source = find_benchmark(path, problem_column="q", answer_column="a")
    assert load_problems(source) == [Problem("a", "1 + 1", "2"), Problem("b", "x", "5")]


def test_an_unknown_benchmark_lists_the_known():
    with pytest.raises(ValueError, match=r"^aime-42 is not known; known are aime-24, aime-25"):
        find_benchmark("aime-42")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ('{"problem": "x", "solution": "1"}\n', r"no column 'answer'; it has \['problem', 'sol"),
        ('{"problem": "x", "answer": "1"}\n{"problem":\n', r"bad.jsonl, line 2: not JSON"),
        ("[1]\n", "line 1: not a JSON object"),
        ('{"problem": "x", "answer": 1}\n{"problem": "y", "answer": null}\n', "row 1: no question"),
        ('{"problem": " ", "answer": "1"}\n', "row 0: no question or no answer"),
        ('{"problem": "x", "answer": " "}\n', "row 0: no question or no answer"),
        ('{"problem": "x", "answer": "None"}\n', "row 0: no question or no answer: 'None' stands"),
        ('{"problem": "\\ud800", "answer": "1"}\n', "row 0: the column 'problem' has half of"),
        ('{"problem": "x", "answer": NaN}\n', "row 0: the column 'answer' is nan, not text"),
        ('{"problem": "x", "answer": 1e999}\n', "row 0: the column 'answer' is inf, not text"),
        ('{"problem": "x", "answer": true}\n', "row 0: the column 'answer' is of type bool"),
        ('{"problem": "x", "answer": {"a": 1}}\n', "row 0: the column 'answer' is of type dict"),
        ('{"problem": "x", "answer": []}\n', r"'answer' is of type list\[\] \(0 items\)"),
        ('{"problem": "x", "answer": ["1", 2]}\n', r"is of type list\[str, int\] \(2 items\)"),
        ('{"problem": "x", "answer": [["1"]]}\n', r"is of type list\[list\] \(1 items\)"),
        (
            '{"problem": [{"role": "user", "content": "x"}], "answer": "1"}\n',
            r"row 0: the column 'problem' is of type list\[dict\] \(1 items\), not text",
        ),
        ('{"id": {}, "problem": "x", "answer": 1}\n', "row 0: the column 'id' is of type dict"),
        ("[" * 100_000, "line 1: not JSON"),
        ('{"id": 1, "problem": "x", "answer": 1}\n' * 2, "id '1' occurs twice"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_problems(find_benchmark(str(path)))


def test_lines_end_at_newlines_alone(tmp_path):
    path = tmp_path / "separators.jsonl"
    path.write_bytes("\ufeff".encode() + '{"problem": "a\u2028b\u0085c", "answer": 1}\r\n'.encode())
    assert load_problems(find_benchmark(str(path))) == [Problem("0", "a\u2028b\u0085c", "1")]
    path.write_bytes(b'{"problem": "\xff", "answer": 1}\n')
    with pytest.raises(ValueError, match="line 1: not JSON"):
        load_problems(find_benchmark(str(path)))


def test_missing_files_and_hub_faults_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there is no such file"):
        find_benchmark(str(tmp_path / "absent.jsonl"))

    def no_hub(path, config, split):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    with pytest.raises(
        ValueError, match=r"owner/set \(split test\) could not be loaded: Conn.*off"
    ):
        load_problems(find_benchmark("owner/set", split="test"))
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=r"broken.parquet could not be loaded"):
        load_problems(BenchmarkSource(str(broken)))


def test_the_toy_file_is_where_the_data_package_keeps_it():
    assert benchmarks.TOY_PROBLEMS.is_file()


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("9 * 2 = $<<9*2=18>>18 a day.\n#### 18", "18"),
        ("so\n#### 1,000 \n", "1,000"),
        ("so #### x = 2", "x = 2"),
        (r"So $x=\boxed{2}$ is right.", "2"),
        (r"\boxed{}", r"\boxed{}"),
        ("#### \\frac{1}{2}", "\\frac{1}{2}"),
        ("#### 5\nno, wait", "#### 5\nno, wait"),
        ("##### Answer", "##### Answer"),
        ("####", "####"),
        (["$\\frac{1}{2}$"], "$\\frac{1}{2}$"),
        (["so\n#### 7"], "7"),
        ([3], "3"),
        (27.0, "27.0"),
        ("none", "none"),
    ],
)
def test_answers_as_people_have_them(tmp_path, answer, read):
    path = write_jsonl(tmp_path / "a.jsonl", [{"problem": ["x"], "answer": answer}])
    assert load_problems(find_benchmark(path)) == [Problem("0", "x", read)]


def test_a_row_without_an_id_has_its_number(tmp_path):
    ids = [None, "a", float("nan"), "", 7]
    rows = [{"id": own, "problem": "x", "answer": 1} for own in ids]
    rows.append({"problem": "x", "answer": 1})
    problems = load_problems(find_benchmark(write_jsonl(tmp_path / "ids.jsonl", rows)))
    assert [problem.id for problem in problems] == ["0", "a", "2", "3", "7", "5"]


def test_repeated_ids_are_numbered_on_request(tmp_path):
    ids = ["60", "60", "60#2", "61", "60", "60#2"]
    rows = [{"id": own, "problem": f"x{i}", "answer": 1} for i, own in enumerate(ids)]
    source = find_benchmark(write_jsonl(tmp_path / "ids.jsonl", rows))
    with pytest.raises(RepeatedId, match=r"ids.jsonl: the id '60' occurs twice"):
        load_problems(source)
    problems = load_problems(source, number_repeated=True)
    assert [problem.id for problem in problems] == ["60", "60#3", "60#2", "61", "60#4", "60#2#2"]
    assert [problem.problem for problem in problems] == [f"x{i}" for i in range(6)]


def test_json_arrays_and_lines_and_csv(tmp_path):
    expected = [Problem("a", 'x, "y"\nz', "2"), Problem("1", "é", "5")]
    rows = [{"id": "a", "problem": 'x, "y"\nz', "answer": 2}, {"problem": "é", "answer": "5"}]
    array, lines, table = (tmp_path / name for name in ("a.json", "b.json", "c.csv"))
    array.write_text("\ufeff \n" + json.dumps(rows, indent=2))
    write_jsonl(lines, rows)
    table.write_text('\ufeffid,problem,answer\r\na,"x, ""y""\nz",2\r\n\r\n,é,5\r\n')
    for path in (array, lines, table):
        assert load_problems(find_benchmark(str(path))) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"problem": "x", "answer": 1}, 3]', r"a.json, row 1: not a JSON object"),
        ("a.json", b'[{"problem": ', r"a.json: not JSON"),
        ("a.json", b"[]", "is empty"),
        ("a.json", b"[" * 10**5, "a.json: not JSON"),
        ("a.csv", b"problem,answer\n", "is empty"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"problem,answer\nx,1\ny\n", "row 1: no question or no answer"),
        ("a.csv", b"problem,answer\nx,1,2\n", "a.csv, line 2: more values than columns"),
        ("a.csv", b'problem,answer\n"x,1\n', "a.csv, line 2: unexpected end of data"),
        ("a.csv", b"problem,answer\n\xff,1\n", "a.csv: not UTF-8: .*decode"),
        ("a.csv", b"problem;answer\nx;1\n", r"no column 'problem'; it has \['problem;answer"),
    ],
)
def test_bad_arrays_and_tables_are_refused_by_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_problems(find_benchmark(str(tmp_path / name)))
    assert str(error.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("column", ["id", "problem", "answer"])
def test_half_a_character_is_no_text(tmp_path, column):
    path = tmp_path / "problems.jsonl"
    row = {"id": "a", "problem": "1 + 1", "answer": "2"}
    rows = [row, row | {"id": "b", column: "x\ud83d"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=rf"^{path}, row 1: the column '{column}' has half"):
        load_problems(BenchmarkSource(str(path)))
