"""How the published step PRMs read a response: steps, template, and where a step's score stands.

Steps are the parts of the response between blank lines, as the card of Qwen2.5-Math-PRM has it, or
its lines for Skywork. A response that ends within a step is read as if the step were done: its
last step is what there is of it. An empty response is one empty step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from run_lib.text import some_of
from search_lib.scorers.inputs import Draft, InputEncoder, Piece, ScorerInput, check_chat_template

AGGREGATIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "mean": lambda scores: sum(scores) / len(scores),
    "product": math.prod,
}
"""One value of the scores of all steps."""


def blank_line_steps(response: str) -> list[str]:
    """Returns the parts of a response between blank lines, without white space around them."""
    return [part.strip() for part in response.split("\n\n") if part.strip()] or [""]


def line_steps(response: str) -> list[str]:
    """Returns the lines of a response, empty ones too, but for those at its ends."""
    return response.strip("\n").split("\n")


QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


def _qwen(draft: Draft, problem: str, steps: list[str]) -> list[Piece]:
    solution = "".join(draft.plain(step) + "<extra_0>" + draft.read for step in steps)
    turns = ("system", QWEN_SYSTEM), ("user", draft.plain(problem)), ("assistant", solution)
    return [draft.chat(*turns)]


def _shepherd(draft: Draft, problem: str, steps: list[str]) -> list[Piece]:
    solution = "\n".join(f"{draft.plain(step)} ки{draft.read}" for step in steps)
    return [*draft.start, f"{draft.plain(problem)} {solution}"]


def _skywork(draft: Draft, problem: str, steps: list[str]) -> list[Piece]:
    pieces: list[Piece] = [*draft.bos, draft.plain(problem) + "\n"]
    for step in steps:
        pieces += [draft.plain(step), "\n" + draft.read]
    return pieces


def _rlhflow(draft: Draft, problem: str, steps: list[str]) -> list[Piece]:
    texts = [draft.plain(problem) + " " + draft.plain(steps[0]), *map(draft.plain, steps[1:])]
    # The score of a step is the probability of "+" before it is said.
    turns = [turn for text in texts for turn in (("user", text), ("assistant", draft.read + "+"))]
    return [draft.chat(*turns)]


@dataclass(frozen=True)
class StepLayout:
    """One way to show steps to a step PRM.

    Attributes:
        models: What it is for.
        split: Returns the steps of a response.
        build: Lays out a problem and its steps: (draft, problem, steps) -> pieces, with a
            `Draft.read` for each step.
        architecture: Architecture in the config of its models; None for causal language models.
        tags: Tokens that the tokenizer must have as one, of which no text may hold an added one.
        answers: Words whose logits a language model is asked for, good and bad; none of a model
            that has a head of its own.
        labels: Logits of a step: two, good and bad, or one.
        good: Index of the good one of two.
        has_chat: Whether it uses the tokenizer's chat template.
    """

    models: str
    split: Callable[[str], list[str]]
    build: Callable[[Draft, str, list[str]], list[Piece]]
    architecture: str | None = None
    tags: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    labels: int = 2
    good: int = 0
    has_chat: bool = False


STEP_LAYOUTS: dict[str, StepLayout] = {
    # Card of Qwen/Qwen2.5-Math-PRM-7B: softmax over two logits at each <extra_0>.
    "qwen": StepLayout(
        models="Qwen2.5-Math-PRM",
        split=blank_line_steps,
        build=_qwen,
        architecture="Qwen2ForProcessRewardModel",
        tags=("<extra_0>",),
        good=1,
        has_chat=True,
    ),
    # Card of peiyi9979/math-shepherd-mistral-7b-prm: softmax over + and - at each ки.
    "shepherd": StepLayout(
        models="Math-Shepherd",
        split=blank_line_steps,
        build=_shepherd,
        tags=("ки",),
        answers=("+", "-"),
    ),
    # SkyworkAI/skywork-o1-prm-inference: sigmoid of one logit at the end of each line.
    "skywork": StepLayout(
        models="Skywork-o1-Open-PRM",
        split=line_steps,
        build=_skywork,
        architecture="Qwen2ForPrmModel",
        tags=("\n",),
        labels=1,
    ),
    # RLHFlow/RLHF-Reward-Modeling: each step a user's turn, softmax over + and - as its answer.
    "rlhflow": StepLayout(
        models="RLHFlow's Llama3.1-8B-PRM",
        split=blank_line_steps,
        build=_rlhflow,
        answers=("+", "-"),
        has_chat=True,
    ),
}
"""Layouts by the name that `--prm_layout` gives them."""


def find_layout(model: str, architectures: Sequence[str], name: str | None) -> StepLayout:
    """Returns the layout of a step PRM.

    Args:
        model: Name of the model, for messages.
        architectures: Architectures in its config.
        name: Name of the layout; None to tell it by the architecture.

    Raises:
        ValueError: If the model has another layout, or its architecture doesn't tell which; begins
            with its name.
    """
    holds = f"{model} holds {', '.join(architectures) or 'no architecture'}"
    own = [key for key, layout in STEP_LAYOUTS.items() if layout.architecture in architectures]
    if not own and any(name.endswith("ForCausalLM") for name in architectures):
        own = [key for key, layout in STEP_LAYOUTS.items() if layout.architecture is None]
    if not own:
        known = [layout.models for layout in STEP_LAYOUTS.values()]
        raise ValueError(f"{holds}, which is no step PRM that is known; known are {some_of(known)}")
    if name is None and len(own) > 1:
        raise ValueError(
            f"{holds}, which does not tell its layout: it is {' or '.join(own)} (--prm_layout)"
        )
    name = name or own[0]
    if name not in own:
        raise ValueError(f"{holds}, whose layout is {' or '.join(own)}, not {name}")
    return STEP_LAYOUTS[name]


class StepReader:
    """Lays out responses as a step PRM reads them.

    Args:
        layout: The layout.
        tokenizer: Tokenizer of the PRM.
        context: Most tokens that the PRM reads.

    Raises:
        ValueError: If the tokenizer is not one of such a model; begins with its name.
    """

    def __init__(self, layout: StepLayout, tokenizer: PreTrainedTokenizerBase, context: int):
        self.layout = layout
        self.context = context
        for tag in (*layout.tags, *layout.answers):
            self._single_id(tokenizer, tag)
        if layout.has_chat:
            check_chat_template(tokenizer)
        self.answer_ids = [self._single_id(tokenizer, word) for word in layout.answers]
        self._encoder = InputEncoder(tokenizer, layout.tags)
        self.encode("1 + 1?", "2")  # whether the tokenizer keeps the ends of steps

    def encode(self, problem: str, response: str) -> ScorerInput:
        """Returns the tokens of a response so far, with one score to read for each step."""
        draft = self._encoder.draft()
        steps = self.layout.split(response)
        pieces = self.layout.build(draft, problem.strip(), steps)
        return self._encoder.encode(draft, pieces)

    def _single_id(self, tokenizer: PreTrainedTokenizerBase, word: str) -> int:
        ids = tokenizer.encode(word, add_special_tokens=False)
        if len(ids) != 1:
            raise ValueError(
                f"{tokenizer.name_or_path}: its tokenizer has no token {word!r}, as those of "
                f"{self.layout.models} have"
            )
        return ids[0]
