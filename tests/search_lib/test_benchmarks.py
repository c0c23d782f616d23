"""Reading problem sets, and what is said of those that cannot be read."""

import json

import datasets
import pytest

from search_lib import benchmarks
from search_lib.benchmarks import (
    BENCHMARKS,
    MATH_INSTRUCTION,
    BenchmarkSource,
    Problem,
    find_benchmark,
    load_problems,
)


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

    def fake_hub(path, split):
        assert split == "train"
        problem, answer = columns.pop(path)
        return datasets.Dataset.from_dict({problem: ["How many?"], answer: [204], "ID": ["x"]})

    monkeypatch.setattr(datasets, "load_dataset", fake_hub)
    for name in ("aime-24", "aime-25", "hmmt-feb-24", "hmmt-feb-25"):
        source = find_benchmark(name)
        assert load_problems(source) == [Problem("0", "How many?", "204")]
        assert source.instruction == MATH_INSTRUCTION
    assert not columns


def test_the_toy_benchmark_is_in_the_repository():
    problems = load_problems(BENCHMARKS["toy"])
    assert len(problems) == 200
    assert BENCHMARKS["toy"].instruction == ""


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

    def no_hub(path, split):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    with pytest.raises(
        ValueError, match=r"owner/set \(split test\) could not be loaded: Conn.*off"
    ):
        load_problems(find_benchmark("owner/set", split="test"))
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=r"broken.parquet .* could not be loaded"):
        load_problems(BenchmarkSource(str(broken)))


def test_the_toy_file_is_where_the_data_package_keeps_it():
    assert benchmarks.TOY_PROBLEMS.is_file()
