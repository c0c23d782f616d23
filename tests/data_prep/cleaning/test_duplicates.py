import random
import time

import pytest

from data_prep.cleaning.contamination import BenchmarkWords, load_benchmark_words
from data_prep.cleaning.duplicates import (
    MIN_SIMILARITY,
    Match,
    deciding_tokens,
    find_duplicates,
    judge_duplicates,
    shingles,
    similarity,
)
from data_prep.cleaning.filters import Finding
from data_prep.cleaning.normalise import normalise
from search_lib.grading import Grader

RIDE = "A cyclist rides from Ham to Dell at {} km/h and comes back on the same road at {} km/h."
RIDE += " What is {} speed for the whole trip, in kilometres per hour?"


def match_all(problems: list[str]) -> list[Match | None]:
    return find_duplicates([normalise(problem) for problem in problems])


def test_the_same_text_is_an_exact_duplicate_of_the_first() -> None:
    problems = ["Find $x + 1$.", "What is 3?", "find \\(x+1\\).", "Find  $x+1$ ."]
    again = Match(0, "exact_duplicate")
    assert match_all(problems) == [None, None, again, again]


def test_nearly_the_same_text_is_a_near_duplicate() -> None:
    problems = [
        RIDE.format(20, 30, "her average"),
        RIDE.format(20, 30, "her average").replace("comes back", "returns"),
        RIDE.format(20, 30, "her average").replace("comes back", "returns").upper(),
    ]
    assert match_all(problems) == [None, Match(0, "near_duplicate"), Match(0, "exact_duplicate")]


@pytest.mark.parametrize(
    "other",
    [
        RIDE.format(20, 60, "her average"),
        RIDE.format(30, 20, "her average"),
        RIDE.format(20, 30, "her largest"),
        RIDE.format("twenty", 30, "her average"),
        RIDE.format(20, 30, "her average").replace("What is", "What is half"),
        RIDE.format(20, 30, "her average").replace("on the same", "on a longer"),
    ],
)
def test_what_changes_the_question_makes_another_problem(other: str) -> None:
    one = RIDE.format(20, 30, "her average")
    assert similarity(shingles(normalise(one)), shingles(normalise(other))) >= 0.8
    assert match_all([one, other]) == [None, None]


def test_another_operator_or_letter_makes_another_problem() -> None:
    rest = " and all variables are integers between zero and one hundred, as in the last lesson"
    problems = [
        f"Compute {x}{rest}" for x in ("3 + 4", "3 + 5", "3 - 4", "3 < 4", "a - b", "b - a")
    ]
    problems += [f"Compute {x}{rest}" for x in ("$\\sin x$", "$\\cos x$", "$\\sin y$")]
    assert match_all(problems) == [None] * 9


def test_a_hyphen_is_no_minus() -> None:
    assert deciding_tokens("the two-digit number x-1") == ["two", "x", "-", "1"]


def test_similarity_is_jaccard_over_five_characters() -> None:
    assert shingles("abcdefg") == {"abcde", "bcdef", "cdefg"}
    assert shingles("ab") == {"ab"}
    assert similarity(shingles("abcdefg"), shingles("abcdefh")) == 2 / 4


def test_a_group_is_searched_as_if_all_its_pairs_were_compared() -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("bcdefghijklmnop", k=5)) for _ in range(40)]
    problems = []
    for _ in range(300):  # one group, with similarities on both sides of the least
        one = rng.choices(words, k=20) if rng.random() < 0.2 or not problems else problems[-1][:]
        one[rng.randrange(20)] = rng.choice(words)
        problems.append(one)
    texts = [" ".join(one) for one in problems]
    expected: list[int | None] = []
    new: list[int] = []
    for position, text in enumerate(texts):
        alike = (
            first
            for first in new
            if similarity(shingles(texts[first]), shingles(text)) >= MIN_SIMILARITY
        )
        expected.append(next(alike, None))
        if expected[-1] is None:
            new.append(position)
    found = [match and match.first for match in find_duplicates(texts)]
    assert found == expected
    assert 50 < len(new) < 250


def test_problems_of_one_template_are_not_all_compared() -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("bcdefghijklmnop", k=rng.randint(4, 9))) for _ in range(3000)]
    start = time.process_time()
    by_number = [RIDE.format(rng.randint(1, 10**6), 30, "her average") for _ in range(4000)]
    by_words = [" ".join([*rng.choices(words, k=9), RIDE]) for _ in range(4000)]
    assert sum(match is None for match in match_all(by_number)) > 3900
    assert match_all(by_words) == [None] * 4000
    assert time.process_time() - start < 20.0  # 2 s; a minute if all pairs were compared


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
