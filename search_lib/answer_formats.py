r"""How a policy is asked to write its answer, and how the answer is read and compared.

| name | in the response | compared |
|---|---|---|
| `boxed` | `\boxed{42}` | as mathematics |
| `final_answer` | a line `Final Answer: 42`, or `Answer: 42` | as mathematics |
| `choice` | a line `Final Answer: (B)`, with one of the letters A to E | letter by letter |

An answer stands behind the thought: a response of a policy that thinks has none in its thought.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

from search_lib import grading
from search_lib.grading.answers import Comparison, boxed_answers, extract_answer
from search_lib.thoughts import USUAL_THOUGHTS, Thoughts

AnswerFormatName = Literal["boxed", "final_answer", "choice"]

# Policies write the phrase in bold, too.
_ANSWER_LINE = re.compile(r"(?:Final [Aa]nswer|\bAnswer)[*_]{0,2}:([^\n]*)")
_LETTER = re.compile(
    r"(?:[Oo]ption\s)?\s*\$?(?:\\text\{)?(?:\(([A-E])\)|([A-E])(?=[).:,}$]|\s*$))", re.ASCII
)
_REFERENCE_LETTER = re.compile(r"\s*\(?([A-Ea-e])[).:]?\s*")


class Comparer(Protocol):
    """Compares answers; safe to call from many threads."""

    def equivalent(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Returns for each (reference, answer) whether they are equal."""
        ...

    def readable(self, answers: Sequence[str]) -> list[bool]:
        """Returns for each reference whether an answer can equal it."""
        ...


class LetterComparer:
    """Compares the letters of options; a reference may have brackets and be a small letter."""

    def equivalent(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Returns for each (reference, answer) whether they are the same letter."""
        return [_reference_letter(reference) == answer for reference, answer in pairs]

    def readable(self, answers: Sequence[str]) -> list[bool]:
        """Returns for each reference whether it is a letter."""
        return [_reference_letter(answer) is not None for answer in answers]


@dataclass(frozen=True)
class AnswerFormat:
    """One way to write an answer.

    Attributes:
        name: Value of `--answer_format`.
        instruction: Added to the question; None for that of the benchmark.
        find: Returns the answer behind a thought, or None: (text, whether the text is complete, or
            was cut where its last line may go on).
        is_mathematics: Whether answers are compared as mathematics, or else letter by letter.
        thoughts: How the policy thinks before it answers.
    """

    name: AnswerFormatName
    instruction: str | None
    find: Callable[[str, bool], str | None]
    is_mathematics: bool = True
    thoughts: Thoughts = USUAL_THOUGHTS

    def open_comparer(
        self, num_workers: int = 1, comparison: Comparison = "strict"
    ) -> AbstractContextManager[Comparer]:
        """Opens what compares answers of this format; see `Grader` for the arguments."""
        if not self.is_mathematics:
            return nullcontext(LetterComparer())
        return grading.Grader(num_workers, comparison=comparison)

    def find_answer(self, prompt: str, response: str, is_complete: bool = True) -> str | None:
        """Returns the answer of a response, or None.

        Args:
            prompt: The decoded prompt: it may open a thought.
            response: The text so far, without the token that ended it.
            is_complete: Whether its last line is whole; if not, an answer that ends with its line
                is none yet.
        """
        mark = self.thoughts.mark(prompt, response)
        if mark is not None:
            _, found, response = response.rpartition(mark)
            if not found:
                return None
        return self.find(response, is_complete)


def find_box(text: str, is_complete: bool) -> str | None:
    """Returns the contents of the last box; see `extract_answer`."""
    return extract_answer(text, None)


def find_answer_line(text: str, is_complete: bool) -> str | None:
    """Returns what stands behind the last `Final Answer:` or `Answer:` with something behind it.

    It goes to the end of its line, without bold marks and the full stop; of a box the contents.
    """
    lines = [match for match in _ANSWER_LINE.finditer(text) if _clean(match[1])]
    if not lines or (lines[-1].end() == len(text) and not is_complete):
        return None
    contents = lines[-1][1]
    return extract_answer(contents, None) if boxed_answers(contents) else _clean(contents)


def find_letter(text: str, is_complete: bool) -> str | None:
    """Returns the letter of the option that the last answer line names."""
    contents = find_answer_line(text, is_complete)
    found = _LETTER.match(contents) if contents is not None else None
    return found[1] or found[2] if found else None


def _clean(contents: str) -> str:
    return contents.strip().strip("*_").strip().removesuffix(".")


def _reference_letter(reference: str) -> str | None:
    found = _REFERENCE_LETTER.fullmatch(reference)
    return found[1].upper() if found else None


ANSWER_FORMATS: dict[str, AnswerFormat] = {
    answer_format.name: answer_format
    for answer_format in (
        AnswerFormat("boxed", None, find_box),
        AnswerFormat(
            "final_answer",
            " Please think step by step, with a blank line between two steps. Conclude with the "
            'answer alone behind the phrase "Final Answer:".',
            find_answer_line,
        ),
        AnswerFormat(
            "choice",
            # On a line of its own: the last option stands before it.
            "\nPlease think step by step, with a blank line between two steps. Conclude with the "
            'letter of the right option behind the phrase "Final Answer:", as in "Final Answer: '
            '(A)".',
            find_letter,
            is_mathematics=False,
        ),
    )
}
