r"""Rules about the reference: one answer, with which a program can compare others.

The grader reads one number with a unit as the number. So "5 cm" and "12 apples" are fine.
"""

import re
from collections.abc import Iterable, Sequence

from data_prep.cleaning.filters.rows import Row, beginning, passage, text
from data_prep.cleaning.normalise import normalise, plain, unwrap_styles
from search_lib.grading import Grader
from search_lib.grading.answers import NO_ANSWER_WORDS, boxed_answers


def missing_answer(row: Row) -> str | None:
    """No reference answer, or a word that stands for none."""
    answer = text(row, "answer")
    return answer if not answer or answer.casefold() in NO_ANSWER_WORDS else None


# Ambiguous ones ----------------------------------------------------------------------------------

_UNDETERMINED = re.compile(
    r"\banswers? (?:may |will |can )?var(?:y|ies)\b|not enough (?:information|data)|insufficient|"
    r"(?:cannot|can't|can not|not) be (?:uniquely )?determined|undetermined|indeterminate|"
    r"not (?:unique|specified|given|provided)|\b(?:see|refer to) |many (?:answers|possib)|"
    r"for example|\be\.g\.|\bomitted\b|\bany (?:number|value|real|integer|positive|such|of)\b",
    re.IGNORECASE,
)
_YES_NO = re.compile(
    r"(?:yes|no|true|false|correct|incorrect|possible|impossible|not possible|always|never|"
    r"sometimes|valid|invalid)(?:[.,:;!]|$)",
    re.IGNORECASE,
)
_APPROXIMATE = re.compile(
    r"\\approx|≈|\\simeq|\\doteq|^\\sim\b|\b(?:about|approximately|approx|around|roughly|nearly|"
    r"almost|circa)\b|\bca\.|\d\.\d+ ?(?:\.\.\.|\\l?dots|…)",
    re.IGNORECASE,
)
_ALTERNATIVES = re.compile(r"\bor\b|\\lor\b|\\vee\b", re.IGNORECASE)


def undetermined_answer(row: Row) -> str | None:
    """The reference says that there isn't one: "answers may vary", "not enough information"."""
    return passage(_UNDETERMINED, plain(text(row, "answer")))


def yes_no_answer(row: Row) -> str | None:
    """Yes or no, true or false: right by luck half of the time."""
    match = _YES_NO.match(plain(text(row, "answer")))
    return None if match is None else match[0]


def approximate_answer(row: Row) -> str | None:
    """The reference calls itself approximate, so nothing can be held against it.

    A decimal number is fine: the problem may ask for a rounded one.
    """
    return passage(_APPROXIMATE, plain(text(row, "answer")))


def alternative_answers(row: Row) -> str | None:
    """Alternatives joined by "or": a response may give one of them, or all."""
    return passage(_ALTERNATIVES, unwrap_styles(text(row, "answer")))


# Words -------------------------------------------------------------------------------------------

_COMMAND = re.compile(r"\\(?:begin|end) ?\{[^{}]{0,40}\}|\\[A-Za-z]+|\\.")
_LETTER_RUN = re.compile(r"[^\W\d_]{2,}")
_NUMBER_AND_NOUN = re.compile(
    r"(?=[^A-Za-z]*\d)[^A-Za-z]+[A-Za-z]+(?:[\s./]+[A-Za-z]+){0,3}[\s.^{}\d]*"
)
_FUNCTIONS = (
    "and sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh log exp sqrt max min "
    "sup inf gcd lcm mod deg dim ker det frac"
)
_UNITS = (
    "unit units sq square cubic cm mm km meter meters metre metres inch inches foot feet yards "
    "miles degree degrees radians second seconds minute minutes hour hours day days week weeks "
    "month months year years percent dollar dollars cent cents gram grams kg liter liters litre "
    "litres per"
)
_ABBREVIATIONS = "hr hrs min sec ms yr ft yd mi gm mg lb oz ml cl mph"
_KNOWN_WORDS = frozenset(f"{_FUNCTIONS} {_UNITS}".split())
_PROSE = "no is in it to of on if we be he so as at by an any"
_SHORT_WORDS = frozenset(_PROSE.split())
# Products of variables, points, and endings of a number.
_SYMBOLS = re.compile(
    r"[^\W\d_]{2}|[abcdkmnpqrstuvwxyz]{3}|[abcdxyz]{4}|[A-Z]{2,6}|[\u0370-\u03ff]+"
)


def text_answer(row: Row) -> str | None:
    """The reference is words, which can be put in many ways: "Monday", "the first player wins".

    A number with its unit or noun ("12 apples", "5 cm per hour") is read as the number. Products of
    variables, points and the names of functions are no words.
    """
    answer = _COMMAND.sub(" ", plain(text(row, "answer")))
    if _NUMBER_AND_NOUN.fullmatch(answer):
        return None
    for run in _LETTER_RUN.findall(answer):
        known = run in _KNOWN_WORDS or (_SYMBOLS.fullmatch(run) and run not in _SHORT_WORDS)
        if not known:
            return beginning(run)
    return None


# Several quantities and names -------------------------------------------------------------------

_UNIT_WORDS = frozenset(f"{_UNITS} {_ABBREVIATIONS}".split())
_UNIT = "|".join(sorted(_UNIT_WORDS, key=len, reverse=True))
_POWER = r"\b[ }]*(?:\^ ?\{?\d\}?)?[ .]*"
_SEVERAL_QUANTITIES = re.compile(
    rf"\d[ }}]*(?:(?:{_UNIT}){_POWER}(?:[,;] ?)?|[dhms]{_POWER})(?:and\b ?)?"
    rf"\d[\d.,/ }}]*(?:{_UNIT}|[dhms])\b"
)
_NAME = r"(?:[A-Z]['′_\d]*){2,}"
_POINT_NAMES = re.compile(rf"{_NAME}(?:,{_NAME})*")
_GEOMETRY = re.compile(
    r"\\(?:overline|overrightarrow|vec|triangle|angle|widehat|square)|[\s{}()$~]"
)


def several_quantities(row: Row) -> str | None:
    """Two numbers with a unit each: "2 hours and 30 minutes", "3 cm, 4 cm"."""
    answer = _COMMAND.sub(" ", plain(text(row, "answer")))
    return passage(_SEVERAL_QUANTITIES, " ".join(answer.split()))


def point_names(row: Row) -> str | None:
    """Nothing but capital letters, such as a segment AB: read as a product, so the same as BA.

    A single letter may be a variable.
    """
    answer = _GEOMETRY.sub("", unwrap_styles(text(row, "answer")))
    return beginning(answer) if _POINT_NAMES.fullmatch(answer) else None


# By the grader ------------------------------------------------------------------------------------


def unverifiable_answer(rows: Sequence[Row], grader: Grader) -> list[str | None]:
    """For each row its answer, if the grader can't read it."""
    answers = [text(row, "answer") for row in rows]
    return [
        None if readable else beginning(answer)
        for answer, readable in zip(answers, grader.readable(answers), strict=True)
    ]


def several_boxed_answers(rows: Sequence[Row], grader: Grader) -> list[str | None]:
    """For each row the two boxes of its solution that differ, the first with another one."""
    boxes = [_boxes(row) for row in rows]
    pairs = [(index, first, box) for index, (first, *rest) in _filled(boxes) for box in rest]
    return _differing(len(rows), pairs, grader)


def contradicting_box(rows: Sequence[Row], grader: Grader) -> list[str | None]:
    """For each row its answer and the box of its solution, if they differ."""
    boxes = [_boxes(row) for row in rows]
    pairs = [(index, text(rows[index], "answer"), first) for index, (first, *_) in _filled(boxes)]
    return _differing(len(rows), pairs, grader)


def _boxes(row: Row) -> list[str]:
    """Returns the different boxes of a solution, empty ones (the end of a proof) left out."""
    by_spelling = {normalise(box): box for box in boxed_answers(text(row, "solution"))}
    return [box for spelling, box in by_spelling.items() if spelling]


def _filled(boxes: list[list[str]]) -> Iterable[tuple[int, list[str]]]:
    return ((index, of_row) for index, of_row in enumerate(boxes) if of_row)


def _differing(
    num_rows: int, pairs: Sequence[tuple[int, str, str]], grader: Grader
) -> list[str | None]:
    """Returns for each row the first of its pairs of answers that are different."""
    found: list[str | None] = [None] * num_rows
    equal = grader.equivalent([(left, right) for _, left, right in pairs])
    for (index, left, right), verdict in zip(pairs, equal, strict=True):
        if not verdict and found[index] is None:
            found[index] = f"{beginning(left)} and {beginning(right)}"
    return found
