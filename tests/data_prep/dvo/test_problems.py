"""The problems of the rounds."""

import json

import pyarrow.parquet as pq
import pytest

from data_prep.dvo import problems
from run_lib.commands import InputError
from search_lib.benchmarks import find_benchmark, load_problems


@pytest.fixture
def question_file(tmp_path):
    """Ten problems, two of them with the same text."""
    rows = [
        {"id": f"q{n}", "problem": f"{n % 9} + 1?", "answer": str(n % 9 + 1)} for n in range(10)
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def deal(question_file, output, **flags):
    args = {"num_rounds": 3, "problems_per_round": 3} | flags
    problems.run(problems.ProblemsArgs(str(question_file), output=output, **args))


def ids(path):
    return pq.read_table(path).column("id").to_pylist()


def test_no_problem_is_in_two_rounds(question_file, tmp_path):
    deal(question_file, tmp_path / "out")
    rounds = [ids(tmp_path / "out" / f"round_{number}.parquet") for number in (1, 2, 3)]
    assert [len(part) for part in rounds] == [3, 3, 3]
    assert len(set().union(*rounds)) == 9


def test_problems_with_one_text_are_two(question_file, tmp_path):
    deal(question_file, tmp_path / "out", num_rounds=1, problems_per_round=10)
    assert {"q0", "q9"} <= set(ids(tmp_path / "out" / "round_1.parquet"))


def test_a_round_is_a_benchmark(question_file, tmp_path):
    deal(question_file, tmp_path / "out", num_rounds=1, problems_per_round=10)
    source = find_benchmark(str(tmp_path / "out" / "round_1.parquet"))
    own = load_problems(find_benchmark(str(question_file)))
    assert sorted(load_problems(source), key=lambda problem: problem.id) == own


def test_the_seed_decides_who_is_in_which_round(question_file, tmp_path):
    for seed in (0, 1):
        deal(question_file, tmp_path / str(seed), seed=seed)
    first, second = (ids(tmp_path / seed / "round_1.parquet") for seed in "01")
    assert first != second


def test_too_few_problems_are_refused(question_file, tmp_path):
    with pytest.raises(InputError, match=r"has 10 problems; --num_rounds 4 x .* are 12"):
        deal(question_file, tmp_path / "out", num_rounds=4)
    assert not (tmp_path / "out").exists()


def test_the_same_command_again_leaves_the_files_alone(question_file, tmp_path, capsys):
    deal(question_file, tmp_path / "out")
    deal(question_file, tmp_path / "out")
    assert "is complete already" in capsys.readouterr().out


def test_other_settings_are_refused(question_file, tmp_path):
    deal(question_file, tmp_path / "out")
    with pytest.raises(InputError, match="--seed \\(was 0, now 1\\)"):
        deal(question_file, tmp_path / "out", seed=1)
