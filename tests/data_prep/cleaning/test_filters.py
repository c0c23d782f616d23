"""Each rule alone, from both sides: what it must object to, and what looks alike and must stay."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.cleaning import filters
from data_prep.cleaning.filters import GRADER_RULES, TEXT_RULES, find_faults
from data_prep.cleaning.normalise import normalise, plain, words
from search_lib.grading import Grader

SAMPLE = Path(__file__).parents[1] / "openr1_math_sample.jsonl"

# rule -> (objects to, keeps); a text is a problem, or an answer where the rule is about answers
PROBLEMS: dict[str, tuple[list[str], list[str]]] = {
    "missing_problem": (["", " \n", "Solve"], ["Compute 5!", "$\\frac{1}{2}+1=?$"]),
    "proof": (
        [
            "Prove that $\\sqrt 2$ is irrational.",
            "Example 4 Prove: $a^2 + b^2 \\ge 2ab$.",
            "Let $n$ be odd. Show that 8 divides $n^2 - 1$, no matter what $n$ is.",
            "Given a triangle, please prove its angles add up to 180 degrees.",
        ],
        [
            "Find the least $n$, and prove that it is the least.",
            "Show your work: what is 7 times 8?",
            "Polls show that 30% of 50 people agree. How many are they?",
            "It can be shown that the sum converges. Compute it.",
        ],
    ),
    "multiple_choice": (
        [
            "How much is 2 + 2? (A) 3 (B) 4 (C) 5",
            r"Which is larger? $\text{(A)}\ 2^3 \qquad \text{(B)}\ 3^2$",
            r"Which is it? $(\mathrm{A})\ 1 \quad (\mathrm{B})\ 2 \quad (\mathrm{C})\ 3$",
            "How much is 2 + 2?\nA) 3\nB) 4\nC) 5",
            "How much is 2 + 2?\n\nA. $3$\n\nB. $4$\n\nC. $5$",
            "Which of the following is even? A. 3 B. 4 C. 5 D. 7",
            "Two plus two is ( ). A: 3; B: 4; C: 5",
            "两数之和?（A）3 （B）4 （C）5",
        ],
        [
            "Let $P(A) = 0.5$, $P(B) = 0.4$ and $P(C) = 0.1$. Find $P(A)P(B)P(C)$.",
            "The towns A, B and C lie on a line. How far is A from C?",
            "The points (A), (B) and (C) lie on a line. How far is A from C?",
            "A: (0,0), B: (1,2), C: (3,4) are the corners. What is the area?",
            "Which of the following numbers is even: 3, 4, 5?",
        ],
    ),
    "multi_part": (
        [
            "A cube has side 3. (a) Find its volume. (b) Find its surface.",
            "A cube has side 3.\na) What is its volume?\nb) What is its surface?",
            "A cube has side 3. (1) Find its volume; (2) if it grows, find its surface.",
            "A cube has side 3.\n1. Find its volume.\n2. Find its surface.",
            "A cube has side 3. (i) How large is its volume? (ii) Find its surface.",
            "A cube has side 3. Part 1: Find its volume. Part 2: Find its surface.",
            "Evaluate: (a) $3 + 4$ (b) $5 \\cdot 6$",
            "Simplify each expression.\n1) $x + x$\n2) $x \\cdot x$",
        ],
        [
            "Find all $n$ such that (a) $n < 9$ and (b) $n$ is a prime of the form $4k + 1$.",
            "Let $f(a) = 2$ and $f(b) = 3$. Find $f(a) + f(b)$. What holds for $c$ is irrelevant.",
            "$x + y = 3$ (1)\n$x - y = 1$ (2)\nFind $x$.",
            "Solve the system (1) $x + y = 3$ (2) $x - y = 1$.",
            "Find all pairs for which $x + y = 3$ (1) and $x - y = 1$ (2).",
            "Find the distance between $(x, a)$ and $(y, b)$.",
            "How many integers lie in $[0, 1)$ or in $[1, 2)$?",
            "1. Find the area of a square with side 3.",
            "Part 1 of the way takes 5 minutes, part 2 takes 7. How long is the way?",
            "“How are you?” asks Ann. How old is she if she was 3 five years ago?",
        ],
    ),
    "has_link": (
        [
            "See https://example.org/x for the rules. How many are there?",
            "Rules: [here](rules/nim). How many are there?",
            "Rules: \\url{example}. How many are there?",
            "Taken from example.com/problems. How many are there?",
            '<a href="x">Rules</a>: how many are there?',
        ],
        [
            "Find the number of integers $a$ with $1<a \\leq 50$.",
            "Find the least $c$ with $c <a id$ for $a = 3$.",
            "How many $a$ have $0 <a = b$ and $b< a <A $?",
            "Find $[2x](x/3)$ for $x = 2.5$.",
            "A website has 30 visitors. How many are 10% of them?",
            "Find $[x](x+1)$ for $x = 2.5$, e.g. by hand.",
            "![](https://example.org/a.png) How many are there?",  # an image, not a link
        ],
    ),
    "has_image": (
        [
            "![a](b) How large is $x$?",
            "How large is $x$? \\includegraphics[width=3cm]{a}",
            "\\begin{asy}draw(unitcircle);\\end{asy} How large is it?",
            "How large is $x$ in the figure?",
            "The chord is drawn as shown. How long is it?",
            "The diagram shows a square. How large is it?",
            "The graph of $y = f(x)$ is shown below. Find $f(2)$.",
            "As shown in Figure 3, the lines meet. Where?",
            "As shown on the right, the lines meet. Where?",
            "How many squares does the following figure have?",
            "The picture below has 3 squares. How large are they?",
            "The triangle shown below has sides 3 and 4. What is its area?",
            "A beam of light is reflected with an equal angle as shown. How long is its path?",
            "A hexagon is divided into five rhombuses, as shown. How large are they?",
            "In the picture, how many squares are there?",
            "The picture is divided into 4 parts, as shown in the figure. How large are they?",
        ],
        [
            "In the series $1+3-5-7+9 \\ldots$ the signs alternate, as shown. What is its sum?",
            "Eight friends take selfies, with three of them in the picture. How many are there?",
            "Which integers lie in the image of the function, as the image is finite?",
            "The rows are shown below. $\\begin{array}{c}1\\\\2\\end{array}$ Find their sum.",
            "Find $m$. Note: The diagram was not given during the contest.",
            "What is the area of the figure formed by three squares?",
            "What is the area in the figure bounded by the lines $x = 1$ and $y = 1$ and the axes?",
            "What is the image of 3 in the image of $f$?",
            "Give $\\pi$ to four significant figures.",
            "How many 3-figure numbers are there? Add the figures of the largest.",
            "How many edges are in the graph of an octahedron?",
            "How many regions has the Venn diagram of 3 sets?",
            "As shown by Euler, the sum converges. What is it?",
            "She rides a figure 8 of two circles with radius 3. How long is it?",
            "Draw the picture of a house with 5 lines. How many strokes does it take?",
        ],
    ),
    "broken_latex": (
        [
            "Find $\\frac{1}{2$.",
            "Find $x}$.",
            "Find $x + 1.",
            "\\begin{cases} x = 1 \\end{array} Find $x$.",
            "$\\begin{cases} x = 1$. Find $x$.",
            "If $x = \\sqrt{2}, find the largest value of $x + y = 3$ in the plane.",
        ],
        [
            "A pen costs 15$. What do 3 pens for 15$ and a book for 20$ cost?",
            "She pays $300/month for a loan, $200-$250 for food, and $80.",
            "A house costs $80k.",
            "Find $\\left\\{ x : x > 1 \\right.$ and \\{ too.",
            "A pen costs $5. What do 3 cost?",
            "A pen costs \\$5, a book \\$7. What do both cost?",
            "$$\\begin{cases} x = 1 \\\\ y = 2 \\end{cases}$$ Find $x + y$.",
        ],
    ),
    "incomplete_problem": (
        [
            "A merchant mixes 12 kg of tea, and sells the",
            "Find the number of pairs (x, y) such that",
            "A rectangle has sides 3 and 4. The circle that touches...",
            "Using the result of problem 7, find $x$.",
            "If $x + 1 = 3$, then",
            "Find $x$ in the previous problem if $y = 3$.",
            "Translate the above text into English.",
            "The prices are listed in the following table. What is their mean?",
            "A circle with radius 5 and its centre at the origin,",
        ],
        [
            "There are only finitely many such $k$. Find the sum of all such $k$,",
            "Compute 3 + 4 =",
            "Find the value of a",
            "Compute 1 + 2 + 4 + 8 + ...",
            "Find the next number: 1, 2, 4, 8, ...",
            "Every question gives one point more than the previous question. Find the sum of 3.",
            "We translate the graph of $y = x$ by 3. Where does it cross the axis?",
            "How many ways are there to fill the cells in a table of 3 rows and 3 columns?",
            "The table shows ages: Ann 3, Bob 4, Cid 5. What is their mean?",
        ],
    ),
}
PROBLEMS["multiple_choice"][0].extend(
    [
        "The smallest such number is A 42 B 468 C 12 D 5",
        "How much is $2 + 2$?\nA $3$ B $4$",
        "The value is A. 3 B. -4 C. $\\frac{1}{2}$",
    ]
)
PROBLEMS["multiple_choice"][1].extend(
    [
        "Class A 42 children, class B 46 children. How many are there?",
        "Line A 3 crosses line B 4, where?",
    ]
)
PROBLEMS["translation_note"] = (
    [
        "Find $\\frac{1}{2}+1$.\n翻译结果如下：\nFind $\\frac{1}{2}+1$.",
        "Find $x$. 将上面的文本翻译成英文。",
        "求出下列各式的值。 Find the value of each of these expressions, for x = 3 and y = 4.",
        "Find $x$. 注: $x > 0$",
        "What is $1+1$? 答案：2",
        "Here is the translation: find $x$ with $x + 1 = 3$.",
        "The translation is as follows: find $x$ with $x + 1 = 3$.",
        "다음 문제를 푸시오. Find the value of $x$ with $x + 1 = 3$ and tell how you found it.",
    ],
    [
        "已知 $x + 1 = 3$，求 $x$ 的值。",
        "Zu Chongzhi (祖冲之) found $\\frac{355}{113}$. What is its numerator?",
        "Find $x$ （in cm） ， if $x + 1 = 3$．",
        "The translation of the plane by 3 maps $A$ to $B$. How long is $AB$?",
        "Find $\\alpha + \\beta$ and the angle АВС.",
    ],
)

ANSWERS: dict[str, tuple[list[str], list[str]]] = {
    "proof": (["proof"], ["5"]),
    "missing_answer": (["", "null", "not found", "N/A"], ["0", "\\emptyset"]),
    "multiple_choice": (
        ["C", "(B)", "(A) 12", "\\textbf{(D)}", "B. 5", "B 468"],
        ["c", "n", "AB", "(1, 2)"],
    ),
    "multi_part": (
        ["1) 3; 2) 5", "(a) 3, (b) 5", "i) 3\nii) 5", "(1) $x=3$; (2) $y=5$"],
        ["(1, 2)", "3, 5", "1.5", "[0, 1)", "a = 3"],
    ),
    "broken_latex": (
        ["$221,$8$", "\\frac{3}{", "x = 3$", "$x$, $y"],
        ["$80", "80$", "$1,200.50", "$80 per week", "$x$", "\\$5", "\\{1, 2\\}"],
    ),
    "undetermined_answer": (
        ["Answers may vary", "\\text{not enough information}", "cannot be determined"],
        ["5", "x"],
    ),
    "yes_no_answer": (["Yes", "\\text{no}", "False.", "Yes, since 3 > 2"], ["no solution", "0"]),
    "approximate_answer": (
        ["about 3", "\\approx 3.1", "3.14...", "approximately $20$ km", "1.41\\ldots"],
        ["3.14", "\\frac{1}{3}", "1, 2, \\ldots, n"],
    ),
    "alternative_answers": (
        ["3 or 5", "x = 1 \\text{ or } x = 2", "x < 1 \\lor x > 2"],
        ["3, 5", "\\operatorname{ord}(3)", "\\pm 3"],
    ),
    "several_quantities": (
        [
            r"2 \text{ hours and } 30 \text{ minutes}",
            r"2 \mathrm{~h}~30~\mathrm{min}",
            *("2h 30 min", "3 cm, 4 cm", "1 m 20 cm", r"\frac{1}{2} \text{ cm}^2, 3 \text{ cm}^2"),
        ],
        [
            "5 cm",
            r"60 \text{ km/h}",
            "2m + 3s",
            "(2s, 3s)",
            "12 and 30",
            r"5 \text{ cm}^2",
            "2^m 3^s",
        ],
    ),
    "point_names": (
        ["AB", r"\triangle ABC", r"$\overline{AB}$", r"\text{AC}", "A'B_1", "AB, CD"],
        ["A", "ab", "2AB", r"\frac{AB}{CD}", "A + B", "(A, B)", "AB = 5"],
    ),
    "text_answer": (
        [
            "Monday",
            "\\text{red}",
            "the first player",
            "all real numbers",
            "Tom: 5, Bob: 6",
            "n is odd",
        ],
        [
            *(
                "5",
                "12 apples",
                "60 \\text{ km/h}",
                "5 cm per second",
                "12\\pi \\text{ square units}",
            ),
            *("x^2 + xyz", "\\sin x + \\ln 2", "\\overline{ABCD}", "\\max(a, b)", "3:45"),
            *("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "x \\in \\mathbb{R}", "\\alpha\\beta"),
        ],
    ),
}


def cases(table: dict[str, tuple[list[str], list[str]]]) -> list:
    return [
        pytest.param(name, content, objects, id=f"{name}-{'drop' if objects else 'keep'}-{number}")
        for name, sides in table.items()
        for objects, contents in zip((True, False), sides, strict=True)
        for number, content in enumerate(contents)
    ]


@pytest.mark.parametrize(("name", "problem", "objects"), cases(PROBLEMS))
def test_problem_rule(name: str, problem: str, objects: bool) -> None:
    row = {"problem": problem, "answer": "7", "question_type": "math-word-problem"}
    assert (getattr(filters, name)(row) is not None) == objects


@pytest.mark.parametrize(("name", "answer", "objects"), cases(ANSWERS))
def test_answer_rule(name: str, answer: str, objects: bool) -> None:
    row = {"problem": "What is it?", "answer": answer, "question_type": "other"}
    assert (getattr(filters, name)(row) is not None) == objects


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("proof", {"question_type": "proof", "problem": "Find $x$."}),
        ("multiple_choice", {"question_type": "MCQ"}),
        ("multi_part", {"problem": "What is $x$? And what is $y$?", "answer": "3, 4"}),
        ("multi_part", {"problem": "How many cats and how many dogs?", "answer": "3 and 4"}),
        ("missing_problem", {"problem": None}),
        ("missing_answer", {"answer": None}),
        ("missing_answer", {}),
    ],
)
def test_rules_on_other_columns(name: str, row: dict) -> None:
    assert getattr(filters, name)(row) is not None


@pytest.mark.parametrize(
    ("problem", "answer"),
    [
        ("Compute $d(6)$, $d(16)$, and $d(72)$.", "$\\frac{1}{3},1,\\frac{1}{9}$"),
        ("Compute $d(3 / 5), d(5 / 8)$, and $d(7 / 18)$.", "$\\frac{1}{3}, 1, 9$"),
        ("What are the values of $a, h$ and $k$ ?", "2, -1, -18"),
        ("Determine b and c so that $x^6 = T^3 + bT + c$ for all $x$.", "-3, 0"),
        ("Determine all real numbers $a, b$ and $c$ for which $a = b = c$.", "1, 2, 3"),
        ("Find the coordinates of the points $A$ and $B$.", "(1, 2), (3, 4)"),
        ("Find the smallest and largest possible value of $N$.", "2500,7500"),
        ("Find the center and the radius of the circle.", "(1, 2), 3"),
        ("What are the mean, median and mode of these numbers?", "2, 3, 1"),
        ("Solve the system of equations $x + y = 3$, $x - y = 1$.", "2, 1"),
        ("Find the least $n$. Then compute $n^2$ for it.", "3 and 9"),
        ("Express $x$ in terms of $y$. If $y = 1$, find the value of $z$.", "$2y$ and $3$"),
    ],
)
def test_values_in_an_order_that_the_list_does_not_keep_are_several_parts(
    problem: str, answer: str
) -> None:
    assert filters.multi_part({"problem": problem, "answer": answer}) is not None


@pytest.mark.parametrize(
    ("problem", "answer"),
    [
        ("Find all integers $n$ such that $f(n)$ and $g(n)$ are primes.", "3, 5"),
        (
            "Find all primes $p$ and all integers $x$ and $y$ with $x^y = p$.",
            "(1,8,1), (2,7,1)",
        ),
        ("Determine all pairs $(f, g)$ of functions with $f(g(x)) = x$.", "$f(n)=n$, $g(n)=1$"),
        ("Find the points of intersection of $y = x^2$ and $y = x + 2$.", "(-1, 1), (2, 4)"),
        ("Find the values of $x$ and $y$ with $x + y = 1$.", "x = 3, y = -2"),
        ("Solve the system of equations $xy = 1$, $x = y$.", "(1, 1), (-1, -1)"),
        ("Compute the two values of $a + b + c$. In your answer, list both.", "3, 4"),
        ("What is $a + b$? Give all possible values.", "3, 4"),
        ("Find the distance between $A$ and $B$.", "10,080"),
    ],
)
def test_a_set_of_values_is_one_answer(problem: str, answer: str) -> None:
    assert filters.multi_part({"problem": problem, "answer": answer}) is None


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "What is $x$? And what is $y$?", "answer": "3"},
        {"problem": "What is $x$? And what is $y$?", "answer": "1,234"},
        {"problem": "What is $(x, y)$? What, if not that?", "answer": "(3, 4)"},
        {"problem": "Solve $x^2 = 4$. Find all solutions.", "answer": "-2, 2"},
    ],
)
def test_one_question_in_two_sentences_is_one(row: dict) -> None:
    assert filters.multi_part(row) is None


def test_no_rule_trips_over_nulls_or_other_types() -> None:
    for row in ({}, dict.fromkeys(filters.READ_COLUMNS), dict.fromkeys(filters.READ_COLUMNS, 5)):
        for rule in TEXT_RULES:
            assert rule(row) is None or isinstance(rule(row), str)


def test_rules_say_what_they_object_to() -> None:
    row = {"problem": "Two lines meet,  as\nshown in the figure  below. Find $x$."}
    assert filters.has_image(row) == "shown in the figure"
    assert filters.text_answer({"answer": "on Monday"}) == "on"


HOSTILE = ["(a) ", "1) ", "[0, 1) ", "A. x\n", "\n", "?", "$", "\\text{", "{", "1", "a", "a.-"]
HOSTILE += ["graph of ", "how many ", "1.1 ", "![", "[a](", "\\begin{a}", "\\", "<img", " find "]


@pytest.mark.parametrize("part", HOSTILE, ids=ascii)
def test_rules_are_linear_on_hostile_text(part: str) -> None:
    content = part * (60_000 // len(part)) + " x"
    start = time.process_time()
    for rule in TEXT_RULES:
        rule({"problem": content, "answer": content})
    normalise(content)
    assert time.process_time() - start < 3.0  # 0.1 to 0.3 s; minutes if one were quadratic


# With math-verify


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(time_limit_s=10.0) as shared:
        yield shared


def objections(rule, rows: list[dict], grader: Grader) -> list[bool]:
    return [found is not None for found in rule(rows, grader)]


def test_unverifiable_answer(grader: Grader) -> None:
    answers = ["12", r"\frac{1}{2}", r"\frac{1}{", "(1, 3]", "①③", "x^2 + 1"]
    rows = [{"answer": answer} for answer in answers]
    expected = [False, False, True, False, True, False]
    assert objections(filters.unverifiable_answer, rows, grader) == expected


def test_boxes_that_differ(grader: Grader) -> None:
    solutions = [
        None,
        "no box",
        r"\boxed{5}",
        r"First way: \boxed{5}. Second way: \boxed{ 5 }, or \boxed{\frac{10}{2}}. \boxed{}",
        r"\boxed{x = \boxed{5}}",
        r"a step \boxed{3}, the end \boxed{5}",
        r"\boxed{5}, then \boxed{3}",
        r"\boxed{6}",
    ]
    rows = [{"solution": solution, "answer": "5"} for solution in solutions]
    several = objections(filters.several_boxed_answers, rows, grader)
    assert several == [False] * 5 + [True, True, False]
    contradicting = objections(filters.contradicting_box, rows, grader)
    assert contradicting == [False] * 5 + [True, False, True]
    assert filters.contradicting_box(rows[-1:], grader) == ["5 and 6"]


def test_sample_is_kept_or_left_out_as_expected(grader: Grader) -> None:
    rows = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    # The other outcomes compare rows with each other or with benchmarks: see test_clean.
    known = {rule.__name__ for rule in (*TEXT_RULES, *GRADER_RULES)}
    expected = [row["expected"] if row["expected"] in known else "keep" for row in rows]
    found = [finding.rule if finding else "keep" for finding in find_faults(rows, grader)]
    assert found == expected
    assert known - {"not_text"} <= {row["expected"] for row in rows}


# Spellings


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find  $x + 1$.", r"find \( x+1 \) ."),
        ("Find $x \\leq 3$", "find x≤3"),
        (r"$\dfrac{1}{2}\,\text{cm}$", r"\frac{1}{2}cm"),
        (r"$\left( 1, \quad 2 \right)$", "(1,2)"),
        ("compute 3 × 4", "Compute $3 \\times 4$"),
        ("x²", "$x^2$"),
        ("\ufb01nd \uff11\uff12", "find 12"),
        ("a – b", "a-b"),
    ],
)
def test_spellings_of_the_same(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1 2", "12"), ("2½", "21/2"), ("x²", "x2"), ("a b", "ab"), ("3+4", "3+5"), ("x-1", "x+1")],
)
def test_what_differs_stays_different(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


def test_plain_and_words() -> None:
    assert plain("a  $\\textbf{(A)}\\ 5 \\qquad$ b\n\n \n c") == "a (A) 5 b\nc"
    assert words(normalise("Find $\\frac{12}{x_1}$, then: stop")) == [
        *("find", "frac", "12", "x", "1", "then", "stop"),
    ]
