"""The flags of a problem set: which of its problems, and how their answers are written."""

import pytest

from run_lib.commands import InputError
from search_lib.problem_flags import AskingFlags, ProblemFlags


@pytest.fixture
def benchmark(tmp_path):
    path = tmp_path / "five.jsonl"
    path.write_text("".join(f'{{"problem": "{n}", "answer": {n}}}\n' for n in range(5)))
    return str(path)


@pytest.mark.parametrize(
    ("skip", "most", "expected"),
    [
        (None, None, "01234"),
        (None, 2, "01"),
        (0, 2, "01"),
        (2, 2, "23"),
        (3, 9, "34"),
        (4, None, "4"),
    ],
)
def test_problems_are_skipped_before_they_are_counted(benchmark, skip, most, expected):
    _, problems = ProblemFlags(benchmark, skip_problems=skip, max_problems=most).load()
    assert "".join(problem.problem for problem in problems) == expected
    assert "".join(problem.id for problem in problems) == expected


@pytest.mark.parametrize("skip", [5, 6])
def test_what_leaves_no_problem_is_refused(benchmark, skip):
    message = f"--skip_problems {skip} leaves none of the 5 problems of --benchmark {benchmark}"
    with pytest.raises(InputError, match=message):
        ProblemFlags(benchmark, skip_problems=skip, max_problems=1).load()


@pytest.mark.parametrize(
    ("name", "answer_format", "found"),
    [
        ("csqa", None, "choice"),
        ("sciq", "choice", "choice"),
        ("gsm8k", None, "boxed"),
        ("gsm8k", "final_answer", "final_answer"),
        ("FILE", None, "boxed"),
        ("FILE", "choice", "choice"),
        ("obqa=FILE", None, "choice"),
    ],
)
def test_a_benchmark_has_its_usual_answer_format(benchmark, name, answer_format, found):
    flags = AskingFlags(name.replace("FILE", benchmark), answer_format=answer_format)
    assert flags.find_format().name == found


@pytest.mark.parametrize(
    ("name", "answer_format", "message"),
    [
        ("csqa", "boxed", "is not for --benchmark csqa, whose answers are written as choice"),
        ("math", "choice", "for --benchmark math, whose answers are written as boxed or final_ans"),
    ],
)
def test_an_answer_format_that_fits_no_reference_is_refused(name, answer_format, message):
    with pytest.raises(InputError, match=f"^--answer_format {answer_format} .*{message}"):
        AskingFlags(name, answer_format=answer_format).find_format()


def test_a_column_that_is_missing_may_be_that_of_a_known_benchmark(tmp_path):
    path = tmp_path / "copy.jsonl"
    path.write_text('{"question": "x", "answer": "#### 5"}\n')
    with pytest.raises(InputError, match=r"no column 'problem'; .* it is a copy of, as in gsm8k=F"):
        ProblemFlags(str(path)).load()
    _, (problem,) = ProblemFlags(f"gsm8k={path}").load()
    assert problem.answer == "5"
