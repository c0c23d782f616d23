import pytest

from data_prep.cleaning.contamination import BenchmarkWords, load_benchmark_words
from data_prep.cleaning.duplicates import (
    DuplicateFinder,
    Match,
    judge_duplicates,
    words_and_signs,
)
from data_prep.cleaning.filters import Finding
from data_prep.cleaning.normalise import normalise
from search_lib.grading import Grader

RIDE = "A cyclist rides from Ham to Dell at 20 km/h and comes back on the same road at 30 km/h."
RIDE += " What is her average speed for the whole trip, in kilometres per hour?"
LETTERS = "Determine the number of ways to arrange the letters of the word {}."


def match_all(problems: list[str]) -> list[Match | None]:
    finder = DuplicateFinder()
    return [finder.add(normalise(problem)) for problem in problems]


def test_the_same_text_is_an_exact_duplicate_of_the_first() -> None:
    problems = ["Find $x + 1$.", "What is 3?", "find \\(x+1\\).", "Find  $x+1$ ."]
    again = Match(0, "exact_duplicate")
    assert match_all(problems) == [None, None, again, again]


def test_what_repeats_a_near_duplicate_repeats_the_first() -> None:
    other = RIDE.replace(" and", ", and")
    assert match_all([RIDE, other, other.upper()]) == [
        None,
        Match(0, "near_duplicate"),
        Match(0, "exact_duplicate"),
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (RIDE, RIDE.replace(".", ",").replace("trip,", "trip")),
        (RIDE, RIDE.replace("for the whole", "for whole")),
        ("How many two-digit primes are there?", "How many two digit primes are there"),
        ("Find $x^{2}$ for $x_{1} = 2$", "Find $x^2$ for $x_1=2$."),
        ("Is $1,000$ a cube?", "Is 1000 a cube?"),
        (r"Add $1 + 2 + \ldots + 9$.", "Add $1 + 2 + ... + 9$."),
        ("Find the x-axis.", "Find the x axis."),
        ('What is a "palindrome" of 3 digits?', "What is a palindrome of 3 digits?"),
    ],
)
def test_another_layout_of_a_text_is_a_near_duplicate(one: str, other: str) -> None:
    assert match_all([one, other]) == [None, Match(0, "near_duplicate")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LETTERS.format("TEPEE"), LETTERS.format("THAT")),
        (RIDE, RIDE.replace("30", "60")),
        (RIDE, RIDE.replace("20", "40").replace("30", "20").replace("40", "30")),
        (RIDE, RIDE.replace("average", "largest")),
        (RIDE, RIDE.replace("What is", "What is half")),
        (RIDE, RIDE.replace("What is", "What isn't")),
        (RIDE, RIDE.replace("Ham to Dell", "Dell to Ham")),
        ("Ann is not older than Bob, who is 3.", "Ann is older than Bob, who is not 3."),
        ("How long do 3 men need?", "How long do 3 cows need?"),
        ("Solve $a x = 1$.", "Solve $x = 1$."),
        ("Find $5!$", "Find $5$"),
        ("Find $5!!$", "Find $5!$"),
        ("Find $-x$.", "Find $x$."),
        ("Divide in the ratio 3:4.", "Divide in the ratio 3 4."),
        ("Round $.5$ up.", "Round $5$ up."),
        ("Find $f'(x)$.", "Find $f(x)$."),
        ("Find $(a+b)c$.", "Find $a+bc$."),
        (r"Find $\frac{a}{b c}$.", r"Find $\frac{a b}{c}$."),
        ("Find 20% of 5.", "Find 20 of 5."),
        ("Compute 3 + 4.", "Compute 3 - 4."),
        (r"Compute $\sin x$.", r"Compute $\cos x$."),
    ],
)
def test_another_word_number_or_sign_makes_another_problem(one: str, other: str) -> None:
    assert match_all([one, other]) == [None, None]


def test_a_hyphen_is_no_minus() -> None:
    assert words_and_signs("the two-digit number x-1") == ["two", "digit", "number", "x", "-", "1"]


def test_first_stays_unless_the_references_conflict() -> None:
    matches = [None, None, Match(0, "exact_duplicate"), Match(1, "near_duplicate"), None]
    matches += [Match(1, "exact_duplicate"), Match(4, "near_duplicate")]
    answers = [r"\frac{1}{2}", "3", "0.5", "4", "7", "3", "07"]
    with Grader() as grader:
        findings = judge_duplicates(matches, answers, grader)
    conflict = Finding("conflicting_answers", "3 and 4")
    assert findings == [
        *(None, conflict, Finding("exact_duplicate", ""), conflict, None, conflict),
        Finding("near_duplicate", ""),
    ]


# Benchmarks

TULIPS = "A gardener plants 7 rows of tulips, and each row has 3 tulips more than the one before."
CLOSING = r"is $\frac mn$, where $m$ and $n$ are relatively prime positive integers. Find $m+n$."
DICE = f"""Ann rolls four fair six-sided dice and adds the two largest numbers that come up. Given
that their sum is at least nine, the probability that at least three dice show the same {CLOSING}"""
COINS = f"A coin is tossed until it shows heads twice running. The chance of 5 tosses {CLOSING}"
URNS = f"""Two urns hold three red and two blue balls each. One ball moves from the first to the
second urn, and then one back. The probability that no urn has changed its colours {CLOSING}"""


def benchmark_words(*problems: str, ngram: int = 13) -> BenchmarkWords:
    return BenchmarkWords({"mine": [(str(i), text) for i, text in enumerate(problems, 1)]}, ngram)


@pytest.mark.parametrize(
    ("problem", "found"),
    [
        (TULIPS, True),
        ("Warm-up:  a GARDENER plants $7$ rows of tulips and each row has 3 tulips more.", True),
        ("A gardener plants 8 rows of tulips, and each row has 3 tulips.", False),
        ("A gardener plants 7 rows of tulips, and each row has 2.", False),  # 1 of 7 runs
        ("Compute the sum of $2^{10}$ and 5, please.", True),  # all of a short problem
        ("Compute the sum of $2^{11}$.", False),
        ("", False),
    ],
)
def test_enough_of_one_benchmark_problem_is_found(problem: str, found: bool) -> None:
    index = benchmark_words(TULIPS, "Compute the sum of $2^{10}$.", ngram=12)
    assert (index.find(normalise(problem)) is not None) == found


@pytest.mark.parametrize("benchmark", [(DICE,), (DICE, URNS), (DICE, URNS, TULIPS)])
def test_a_closing_sentence_is_no_evidence(benchmark: tuple[str, ...]) -> None:
    index = benchmark_words(*benchmark)
    assert index.find(normalise(COINS)) is None
    assert index.find(normalise(f"Compute the chance. It {CLOSING}")) is None
    changed = DICE.replace("relatively prime", "coprime").replace("Find $m+n$", "Find $m + 7n$")
    for copy in (
        DICE,
        f"This one is from a contest of last year. {DICE}",
        changed,
        DICE.replace(CLOSING, "is to be found as a reduced fraction."),
        DICE.replace("at least nine", "at least ten"),
    ):
        assert (index.find(normalise(copy)) or "").startswith("mine, problem 1: ")


def test_a_problem_in_two_benchmarks_stays_evidence() -> None:
    shortened = DICE.replace(CLOSING, "is to be found.")
    index = BenchmarkWords(
        {"mine": [("1", DICE), ("2", URNS)], "yours": [("7", DICE), ("8", shortened)]}, 13
    )
    assert index.find(normalise(DICE)).startswith("mine, problem 1: ")
    assert index.find(normalise(shortened)).startswith(("mine, problem 1: ", "yours, problem 8: "))
    assert index.find(normalise(COINS)) is None


def test_a_problem_without_words_of_its_own_is_found() -> None:
    short = "One ball moves from the first to the second urn, and then one back."
    index = benchmark_words(short, URNS)
    assert index.find(normalise(f"{short} How many are left?")).startswith("mine, problem 1: ")
    assert index.find(normalise(URNS)) is not None


def test_length_of_the_run_is_the_one_asked_for() -> None:
    text = normalise("a gardener plants 7 rows of tulips and each row has 4 tulips")
    shown = "mine, problem 1: a gardener plants 7 rows of"
    assert benchmark_words(TULIPS, ngram=6).find(text) == shown
    assert benchmark_words(TULIPS, ngram=12).find(text) is None


def test_digest_tells_other_problems_apart() -> None:
    one, same, other = (benchmark_words(*texts) for texts in ([DICE], [DICE], [DICE, "Another."]))
    assert one.digests == same.digests != other.digests


def test_a_benchmark_is_known_by_its_name() -> None:
    assert load_benchmark_words(["toy"], 13).digests.keys() == {"toy"}


def test_benchmarks_that_cannot_be_read_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"^nonsense"):
        load_benchmark_words(["nonsense"], 13)
    with pytest.raises(ValueError, match=r"^/.*none.jsonl: .*no such file"):
        load_benchmark_words([str(tmp_path / "none.jsonl")], 13)
