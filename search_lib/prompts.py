"""Prompts of problems, and the tokens that end a response."""

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from run_lib.hub import loading
from search_lib.benchmarks import Problem
from search_lib.conversations import ControlTokensInProblem, ConversationTemplate, Message
from search_lib.thoughts import USUAL_THOUGHTS, Thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptTemplate:
    """The prompt template of a policy for problems: conversations of one message.

    Args:
        tokenizer: Tokenizer of the policy.
        instruction: Appended to the question (`benchmarks.MATH_INSTRUCTION` for mathematics).
        thoughts: How the policy thinks before it answers.

    Raises:
        ValueError: If the tokenizer has neither kind of template, or its own can't be used: it
            fails, doesn't end, or doesn't show the question as it is. Begins with its name.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        instruction: str,
        thoughts: Thoughts = USUAL_THOUGHTS,
    ):
        self._conversations = ConversationTemplate(tokenizer, instruction, thoughts)

    def prompt_ids(self, problem: str) -> list[int]:
        """Returns the token ids of the prompt of a problem.

        Raises:
            ControlTokensInProblem: If the problem has the text of a control token, and can't be
                found in its chat template or encoded without the token.
            ValueError: If the chat template fails. Both begin with the tokenizer's name.
        """
        return self._conversations.prompt_ids([Message("user", problem)])


def build_prompt(tokenizer: "PreTrainedTokenizerBase", problem: str, instruction: str) -> list[int]:
    """Returns the token ids of one prompt; for many, see `PromptTemplate`."""
    return PromptTemplate(tokenizer, instruction).prompt_ids(problem)


def build_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    problems: Iterable[Problem],
    instruction: str,
    thoughts: Thoughts = USUAL_THOUGHTS,
) -> dict[str, list[int]]:
    """Returns the prompt of each problem, by its id.

    Args:
        tokenizer: Tokenizer of the policy.
        problems: The problems of a benchmark.
        instruction: See `PromptTemplate`.
        thoughts: See `PromptTemplate`.

    Raises:
        ControlTokensInProblem: See `PromptTemplate.prompt_ids`; ends with the problem's id.
        ValueError: See `PromptTemplate`; of one problem it ends with its id.
    """
    template = PromptTemplate(tokenizer, instruction, thoughts)
    prompts = {}
    for problem in problems:
        try:
            prompts[problem.id] = template.prompt_ids(problem.problem)
        except ControlTokensInProblem as error:
            raise ControlTokensInProblem(f"{error} (problem {problem.id})") from error
        except ValueError as error:
            raise ValueError(f"{error} (problem {problem.id})") from error
    return prompts


def prompt_holds(tokenizer: "PreTrainedTokenizerBase", prompt_ids: list[int], problem: str) -> bool:
    """Returns whether a tokenizer reads a problem in a prompt's ids; if not, they are another's."""
    if max(prompt_ids, default=0) >= len(tokenizer):
        return False
    # Tokenizers of the Qwen family compose characters, those of sentencepiece take this mark for a
    # space, and chat templates trim.
    text, wanted = (
        unicodedata.normalize("NFC", each).replace("▁", " ")
        for each in (str(tokenizer.decode(prompt_ids)), problem.strip())
    )
    return wanted in text


def stop_token_ids(policy: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Returns all ids that end a response: the tokenizer's and those of the generation config.

    Raises:
        ValueError: If there are none, as every response would run into the length limit, or the
            generation config is damaged; begins with the name of the policy.
    """
    configured: Any = None
    # Not as a GenerationConfig: that is a second's import of torch, for one entry.
    with loading(policy, "no generation config could be loaded"):
        if file := _find_generation_config(policy):
            content = json.loads(file.read_bytes())
            if not isinstance(content, dict):
                raise TypeError(f"{file.name} is not a JSON object")
            configured = content.get("eos_token_id")
    ids = configured if isinstance(configured, list) else [configured]
    ids = [index for index in (tokenizer.eos_token_id, *ids) if index is not None]
    if not ids:
        raise ValueError(f"{policy} names no end-of-sequence token")
    for index in ids:
        if type(index) is not int or not 0 <= index < 2**31:
            raise ValueError(f"{policy} names the end-of-sequence token {index!r}, not a token id")
    return tuple(sorted(set(ids)))


def _find_generation_config(policy: str) -> Path | None:
    """Returns the generation config of a folder, or of the Hub; None if there is none."""
    from transformers.utils import GENERATION_CONFIG_NAME, cached_file

    try:
        file = cached_file(policy, GENERATION_CONFIG_NAME)
    except OSError:  # mostly for want of one
        if (Path(policy) / GENERATION_CONFIG_NAME).exists():
            raise
        return None
    return Path(file) if file else None
