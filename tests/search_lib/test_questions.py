"""Rows of the benchmarks' data sets, in the columns that the Hub has them in."""

import json
import random

import datasets
import pytest

from search_lib.answer_formats import ANSWER_FORMATS
from search_lib.benchmarks import BENCHMARKS, Problem, find_benchmark, load_problems

GSM8K = {"question": "How much?", "answer": "12 * 100 = <<12*100=1200>>1,200\n#### 1,200"}
MATH = {
    "problem": "What is $x$?",
    "level": "Level 1",
    "type": "Algebra",
    "solution": r"As $y=\boxed{1}$, $x=\boxed{\frac{1}{2}}$.",
}
AIME_26 = {"problem_idx": 1, "answer": 277, "problem": "How far?"}
CONTEST = {"problem_idx": 1, "answer": r"\frac{1}{2}", "problem_type": ["Algebra"], "problem": "x?"}
MATH_500 = MATH | {
    "solution": r"So it is $\boxed{7}$.",
    "answer": "7",
    "subject": "Algebra",
    "level": 1,
    "unique_id": "test/algebra/1.json",
}
AMC = {"id": 0, "question": "How many miles?", "answer": "27.0", "url": "here"}
OLYMPIAD = {
    "id": 1766,
    "question": "Find all pairs.",
    "solution": ["First case.", "Second case."],
    "final_answer": ["$(0,2),(0,-2)$"],
    "context": None,
    "image_1": None,
    "modality": "Text-only",
    "is_multiple_answer": True,
    "unit": None,
    "answer_type": "Tuple",
    "error": None,
}
MINERVA = {"question": "How fast, in m/s?", "answer": "4e33"}
AGIEVAL = {"query": "Q: What is $x$?\nOr Q: y?\nA: The answer is", "answer": "-2"}
OBQA = {
    "id": "7-980",
    "question_stem": "The sun is responsible for",
    "choices": {"text": ["puppies", "plants growing", "flowers"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
CSQA = {
    "id": "1afa",
    "question": "Where is a river?",
    "question_concept": "river",
    "choices": {"label": list("ABCDE"), "text": ["a", "b", "c", "d", "waterfall"]},
    "answerKey": "E",
}
ARC = {
    "id": "MCAS_1",
    "question": "Which one?",
    "choices": {"text": ["dry", "wet", "hot", "cold"], "label": ["1", "2", "3", "4"]},
    "answerKey": "3",
}
SCIQ = {
    "question": "What is it?",
    "distractor3": "w3",
    "distractor1": "w1",
    "distractor2": "w2",
    "correct_answer": "right",
    "support": "It is right.",
}

READ = {
    "gsm8k": (GSM8K, Problem("0", "How much?", "1,200")),
    "math": (MATH, Problem("0", "What is $x$?", r"\frac{1}{2}")),
    "aime-26": (AIME_26, Problem("0", "How far?", "277")),
    "hmmt-nov-25": (CONTEST, Problem("0", "x?", r"\frac{1}{2}")),
    "hmmt-feb-26": (CONTEST, Problem("0", "x?", r"\frac{1}{2}")),
    "brumo-25": (CONTEST, Problem("0", "x?", r"\frac{1}{2}")),
    "math-500": (MATH_500, Problem("0", "What is $x$?", "7")),
    "amc-23": (AMC, Problem("0", "How many miles?", "27.0")),
    "olympiadbench": (OLYMPIAD, Problem("1766", "Find all pairs.", "$(0,2),(0,-2)$")),
    "minerva": (MINERVA, Problem("0", "How fast, in m/s?", "4e33")),
    "agieval-math": (AGIEVAL, Problem("0", "What is $x$?\nOr Q: y?", "-2")),
    "obqa": (
        OBQA,
        Problem(
            "7-980", "The sun is responsible for\n(A) puppies\n(B) plants growing\n(C) flowers", "B"
        ),
    ),
    "csqa": (
        CSQA,
        Problem("1afa", "Where is a river?\n(A) a\n(B) b\n(C) c\n(D) d\n(E) waterfall", "E"),
    ),
    "arc-challenge": (
        ARC,
        Problem("MCAS_1", "Which one?\n(A) dry\n(B) wet\n(C) hot\n(D) cold", "C"),
    ),
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", READ)
def test_a_copy_is_read_as_its_benchmark(tmp_path, name, suffix):
    row, expected = READ[name]
    path = tmp_path / f"copy.{suffix}"
    if suffix == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        datasets.Dataset.from_list([row]).to_parquet(str(path))
    assert load_problems(find_benchmark(f"{name}={path}")) == [expected]


def test_the_hub_is_asked_for_configuration_and_split(monkeypatch):
    asked = {}

    def fake_hub(path, config, split):
        asked[path] = config, split
        of_path = {BENCHMARKS[name].path: row for name, (row, _) in READ.items()}
        return datasets.Dataset.from_list([of_path.get(path, SCIQ)])

    monkeypatch.setattr(datasets, "load_dataset", fake_hub)
    for name in (*READ, "sciq"):
        load_problems(find_benchmark(name))
    assert asked == {
        "openai/gsm8k": ("main", "test"),
        "DigitalLearningGmbH/MATH-lighteval": (None, "test"),
        "MathArena/aime_2026": (None, "train"),
        "MathArena/hmmt_nov_2025": (None, "train"),
        "MathArena/hmmt_feb_2026": (None, "train"),
        "MathArena/brumo_2025": (None, "train"),
        "HuggingFaceH4/MATH-500": (None, "test"),
        "math-ai/amc23": (None, "test"),
        "Hothan/OlympiadBench": ("OE_TO_maths_en_COMP", "train"),
        "math-ai/minervamath": (None, "test"),
        "hails/agieval-math": (None, "test"),
        "allenai/openbookqa": ("main", "test"),
        "tau/commonsense_qa": (None, "validation"),
        "allenai/ai2_arc": ("ARC-Challenge", "test"),
        "allenai/sciq": (None, "test"),
    }
    load_problems(find_benchmark("sciq=owner/mirror", split="train"))
    assert asked["owner/mirror"] == (None, "train")


def test_a_copy_of_minerva_with_worked_solutions_is_read_by_their_boxes(tmp_path):
    path = tmp_path / "minerva_math.jsonl"
    row = {"problem": "How fast?", "solution": r"It is \boxed{4e33} m/s.", "idx": 0}
    path.write_text(json.dumps(row) + "\n")
    source = find_benchmark(f"minerva={path}", None, "problem", "solution")
    assert load_problems(source) == [Problem("0", "How fast?", "4e33")]


def test_several_values_and_whole_numbers_with_a_point_can_be_compared():
    pairs = [
        (READ["olympiadbench"][1].answer, "(0, -2), (0, 2)"),
        ("$69$,$84$", "84, 69"),
        (READ["amc-23"][1].answer, "27"),
        (READ["minerva"][1].answer, r"4 \times 10^{33}"),
    ]
    with ANSWER_FORMATS["boxed"].open_comparer() as comparer:
        assert comparer.equivalent(pairs) == [True] * 4
        assert comparer.equivalent([("$69$,$84$", "69")]) == [False]


def test_the_place_of_the_right_option_depends_on_the_question_alone(tmp_path):
    rows = [SCIQ | {"question": f"What is number {number}?"} for number in range(40)]
    shuffled = random.Random(0).sample(rows[5:], 35)
    found = []
    for name, part in (("a", rows), ("b", shuffled)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
        problems = load_problems(find_benchmark(f"sciq={path}"))
        found.append({problem.problem: problem.answer for problem in problems})
    assert found[1].items() <= found[0].items()
    assert set(found[0].values()) == set("ABCD")
    for problem, letter in found[0].items():
        question, *options = problem.splitlines()
        assert question.startswith("What is number ")
        assert f"({letter}) right" in options
        assert [option[4:] for option in options if "right" not in option] == ["w1", "w2", "w3"]


def test_options_may_be_a_list_of_objects(tmp_path):
    choices = [{"label": "A", "text": " dry "}, {"label": "B", "text": "wet"}]
    path = tmp_path / "arc.jsonl"
    path.write_text(json.dumps(ARC | {"choices": choices, "answerKey": "B"}))
    (problem,) = load_problems(find_benchmark(f"arc-challenge={path}"))
    assert problem == Problem("MCAS_1", "Which one?\n(A) dry\n(B) wet", "B")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answerKey": "5"}, "row 0: the answer '5' is none of the options 1, 2, 3, 4"),
        ({"answerKey": ""}, "row 0: no question or no answer"),
        ({"choices": None}, "row 0: the column 'choices' has no labels and texts"),
        ({"choices": {"label": ["1"], "text": []}}, "row 0: the column 'choices' has no labels"),
        ({"choices": {"label": ["3"], "text": ["dry"]}}, "row 0: 1 options: 2 to 5 can be read"),
        (
            {"choices": {"label": list("123456"), "text": list("abcdef")}},
            "row 0: 6 options: 2 to 5 can be read",
        ),
        ({"choices": {"label": ["1", "3"], "text": ["dry", " "]}}, "row 0: 2 options: .*none empt"),
    ],
)
def test_options_that_cannot_be_read_are_named(tmp_path, changes, message):
    path = tmp_path / "arc.jsonl"
    path.write_text(json.dumps(ARC | changes))
    with pytest.raises(ValueError, match=message):
        load_problems(find_benchmark(f"arc-challenge={path}"))


def test_an_original_alone_makes_a_copy(tmp_path):
    path = tmp_path / "a=b.jsonl"
    path.write_text('{"problem": "x", "answer": "5"}\n')
    assert load_problems(find_benchmark(str(path))) == [Problem("0", "x", "5")]
    with pytest.raises(ValueError, match=r"gsm8k=absent.jsonl: there is no such file"):
        find_benchmark("gsm8k=absent.jsonl")
    with pytest.raises(ValueError, match=r"^csqa=copy is not known; known are .* gsm8k=FILE"):
        find_benchmark("csqa=copy")


def test_separators_of_thousands_are_no_other_answer():
    with ANSWER_FORMATS["final_answer"].open_comparer() as comparer:
        pairs = [("1,200", answer) for answer in ("1200", "$1,200", "1,200.00", "1.2", "200")]
        assert comparer.equivalent(pairs) == [True, True, True, False, False]
