"""What a question has come to: a picture for the terminal, plain lines, and a JSON object."""

from collections.abc import Collection
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from run_lib.settings import as_json
from run_lib.text import one_line, printable
from search_lib.asking.asker import Question
from search_lib.asking.flags import QuestionFlags
from search_lib.asking.outcome import Outcome
from search_lib.asking.screen import Glyphs, num_of, vote_lines

TAB = 4


def harmless(text: str) -> str:
    """Returns the lines of a text, without anything else that a terminal would obey."""
    return "\n".join(map(printable, text.strip("\n").expandtabs(TAB).splitlines()))


def describe_share(outcome: Outcome) -> str:
    """Returns a sentence on how sure the vote is."""
    num_responses = sum(len(record.responses) for record in outcome.records)
    if not outcome.candidates:
        return f"none of {num_responses} responses has an answer"
    first = outcome.candidates[0]
    share = f"{100 * first.share:.1f} % of the vote ({outcome.vote})"
    value = "" if outcome.chosen.value is None else f", value {outcome.chosen.value:.2f}"
    return f"{share}, {first.num_responses} of {num_responses} responses{value}"


def describe_reference(outcome: Outcome, reference: str) -> str:
    """Returns a sentence on the right answer."""
    verdict = "right" if outcome.is_right else "the answer is another one"
    if outcome.answer is None:
        verdict = "there is no answer"
    return f"{one_line(reference)}: {verdict}"


def describe_cost(outcome: Outcome) -> str:
    """Returns a sentence on tokens and time."""
    cost = outcome.cost
    scored = "" if not cost.tokens_scored else f", {cost.tokens_scored:,} scored"
    return f"{cost.tokens_generated:,} tokens generated{scored}, {outcome.seconds:.1f} s"


def describe_response(outcome: Outcome) -> str:
    """Returns what the chosen response is."""
    chosen = outcome.chosen
    (tree,) = [record for record in outcome.records if chosen in record.responses][:1]
    end = "" if chosen.finished else ", cut off at the length limit"
    return f"tree {tree.repetition + 1}, {chosen.num_tokens:,} tokens{end}"


def picture(outcome: Outcome, question: Question, console: Console) -> RenderableType:
    """Returns the end of a question for a terminal.

    Args:
        outcome: The end.
        question: What was asked.
        console: The terminal.
    """
    glyphs = Glyphs.of(console)
    width = max(20, console.size.width - 1)
    if outcome.answer is None:
        answer, colour = Text("no answer", style="bold"), "yellow"
    else:
        answer, colour = Text(one_line(outcome.answer), style="bold"), "green"
        if outcome.is_right is False:
            colour = "red"
    facts = [("share", describe_share(outcome))]
    if question.reference is not None:
        facts.append(("reference", describe_reference(outcome, question.reference)))
    facts.append(("cost", describe_cost(outcome)))
    facts += [("failed", failure) for failure in outcome.failures]
    facts.append(("response", describe_response(outcome)))
    parts: list[RenderableType] = [
        Panel(answer, title="Answer", title_align="left", border_style=colour, padding=(1, 2))
    ]
    if outcome.candidates:
        rows = 1 + min(len(outcome.candidates), 6)
        parts += [Text(), *vote_lines(outcome.candidates, outcome.vote, glyphs, rows, width)]
    parts.append(Text())
    for name, fact in facts:
        line = Text(f"{name:<11}", style="dim")
        line.append(glyphs.line(fact), style="red" if name == "failed" else "not dim")
        parts.append(line)
    parts += [Text(), Text(harmless(outcome.chosen.text))]
    return Group(*parts)


def plain_lines(outcome: Outcome, question: Question) -> list[str]:
    """Returns the end of a question for a file or a pipe."""
    answer = "none" if outcome.answer is None else one_line(outcome.answer)
    lines = [f"answer: {answer}", f"share: {describe_share(outcome)}"]
    lines += [
        f"  {one_line(one.answer)}: {100 * one.share:.1f} %, {num_of(one.num_responses)}"
        for one in outcome.candidates[1:]
    ]
    if question.reference is not None:
        lines.append(f"reference: {describe_reference(outcome, question.reference)}")
    lines.append(f"cost: {describe_cost(outcome)}")
    lines += [f"failed: {failure}" for failure in outcome.failures]
    return [*lines, f"response: {describe_response(outcome)}", "", harmless(outcome.chosen.text)]


def document(
    outcome: Outcome, question: Question, flags: QuestionFlags, left_out: Collection[str]
) -> dict[str, Any]:
    """Returns the end of a question as JSON types.

    Args:
        outcome: The end.
        question: What was asked.
        flags: Its models and its search.
        left_out: Flags that are no settings.
    """
    first = outcome.candidates[0] if outcome.candidates else None
    chosen, cost = outcome.chosen, outcome.cost
    settings = {name: value for name, value in as_json(flags).items() if name not in left_out}
    models = {
        "policy": settings.pop("piref_model"),
        "scorer": flags.scorer_flags.scorer,
        "value_model": flags.value_model,
    }
    del settings["classifier_ckpt_path"]
    return {
        "question": question.text,
        "answer": outcome.answer,
        "reference": question.reference,
        "is_right": outcome.is_right,
        "vote_name": outcome.vote,
        "vote": [
            {
                "answer": one.answer,
                "responses": one.num_responses,
                "weight": one.weight,
                "share": one.share,
            }
            for one in outcome.candidates
        ],
        "value": chosen.value,
        "share": first.share if first else None,
        "response": chosen.text,
        "finished": chosen.finished,
        "seed": flags.seed,
        "trees": len(outcome.records),
        "failures": outcome.failures,
        "cost": {
            "tokens_generated": cost.tokens_generated,
            "tokens_scored": cost.tokens_scored,
            "tokens_cached": cost.tokens_cached,
            "seconds": outcome.seconds,
        },
        "models": models,
        "settings": settings,
    }
