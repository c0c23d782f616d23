"""Prompt templates by model family, and problems in them as plain text."""

import json
import re
import secrets
import threading
import unicodedata
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from run_lib.hub import loading
from run_lib.text import one_line
from search_lib.benchmarks import Problem
from search_lib.thoughts import USUAL_THOUGHTS, Thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

R1_BEGIN = "<｜begin▁of▁sentence｜>"
R1_USER = "<｜User｜>"
R1_ASSISTANT = "<｜Assistant｜>"

TEMPLATE_SECONDS = 20.0
"""A chat template is a program; one that takes this long doesn't end."""
TEMPLATE_DATE = datetime(2024, 7, 26)
"""What a chat template that writes the date takes for today: Llama 3's own default. With the real
one, prompts would change overnight, and with them a run that goes on the next day."""
MAX_TEMPLATE_LENGTH = 1_000_000
"""Most characters of a template around the question; real ones have some thousands."""

_MARKUP = re.compile(r"\s*(<[|｜].*[|｜]>|</?(think|tool_call|tool_response)>)\s*", re.DOTALL)
"""Control tokens that many tokenizers have among the tokens that aren't special."""


class ControlTokensInProblem(ValueError):
    """A problem holds control tokens, and can't be encoded without them."""


class PromptTemplate:
    """The prompt template of a policy, which ends where the policy's thought begins.

    A tokenizer with DeepSeek-R1's role tokens gets the template of the VGS paper; any other one
    its own chat template, and behind that the tag that begins a thought, if prompts are to open one
    and the template doesn't. Control tokens are the template's and the instruction's: where a
    problem has the text of one, it is encoded as plain text.

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
        self._tokenizer = tokenizer
        self._instruction = instruction
        self._fill = _find_template(tokenizer, thoughts)
        self._control = control_tokens(tokenizer, thoughts)
        stand_in = f"problem{secrets.token_hex(8)}"
        frame = try_template(self._fill, stand_in + instruction, tokenizer.name_or_path)
        # The prompt around the problem: the parts before, between and after its occurrences.
        self._frame = frame.split(stand_in)
        if len(self._frame) == 1:
            raise ValueError(
                f"{tokenizer.name_or_path}: its chat template leaves out the question or changes it"
            )
        self._expected = self._control_ids(tokenizer.encode(frame, add_special_tokens=False))

    def prompt_ids(self, problem: str) -> list[int]:
        """Returns the token ids of the prompt of a problem.

        Raises:
            ControlTokensInProblem: If the problem has the text of a control token, and can't be
                found in its chat template or encoded without the token.
            ValueError: If the chat template fails. Both begin with the tokenizer's name.
        """
        text = self._fill(problem + self._instruction)
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        if self._control_ids(ids) != self._expected:
            ids = _encode_plainly(self._tokenizer, text, self._frame, self._control)
            if self._control_ids(ids) != self._expected:
                raise ControlTokensInProblem(
                    f"{self._tokenizer.name_or_path}: its tokenizer can't encode the control "
                    "tokens in a problem as plain text"
                )
        return ids

    def _control_ids(self, ids: list[int]) -> list[int]:
        return [index for index in ids if index in self._control]


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


def _find_template(
    tokenizer: "PreTrainedTokenizerBase", thoughts: Thoughts
) -> Callable[[str], str]:
    """Returns the function that puts a question into the template of a tokenizer."""
    opening = f"{thoughts.begin.rstrip()}\n"
    if all(_is_token(tokenizer, token) for token in (R1_BEGIN, R1_USER, R1_ASSISTANT)):
        r1_opening = "" if thoughts.opened is False else opening
        return lambda question: f"{R1_BEGIN}{R1_USER}{question}{R1_ASSISTANT}{r1_opening}"
    if not tokenizer.chat_template:
        raise ValueError(
            f"{tokenizer.name_or_path}: its tokenizer has no chat template and is not of the "
            "DeepSeek-R1 family: no prompt template fits it"
        )

    settings: dict[str, Any] = {"strftime_now": TEMPLATE_DATE.strftime}
    if thoughts.opened is not None:
        # Templates of models that may think or not (Qwen3, SmolLM3) ask for this.
        settings["enable_thinking"] = thoughts.opened

    def fill(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        try:
            text = str(
                tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, **settings
                )
            )
        except Exception as error:  # a template is a program
            raise ValueError(
                f"{tokenizer.name_or_path}: its chat template fails: {type(error).__name__}: "
                f"{one_line(error)}"
            ) from error
        is_open = text.rstrip().endswith(thoughts.begin.rstrip())
        return text + opening if thoughts.opened and not is_open else text

    return fill


def try_template(fill: Callable[[str], str], question: str, name: str) -> str:
    """Fills a template for the first time; ValueError if it doesn't end or its text is immense."""
    outcome: Future[str] = Future()

    def work() -> None:
        try:
            outcome.set_result(fill(question))
        except ValueError as error:
            outcome.set_exception(error)

    # Left alone if it doesn't end; a daemon doesn't keep the process alive.
    threading.Thread(target=work, name="chat-template", daemon=True).start()
    try:
        text = outcome.result(timeout=TEMPLATE_SECONDS)
    except TimeoutError as error:
        raise ValueError(
            f"{name}: its chat template has not ended after {TEMPLATE_SECONDS:g} s"
        ) from error
    if len(text) > MAX_TEMPLATE_LENGTH:
        raise ValueError(f"{name}: its chat template makes a text of {len(text):,} characters")
    return text


def control_tokens(tokenizer: "PreTrainedTokenizerBase", thoughts: Thoughts) -> dict[int, str]:
    """Returns the texts of the tokens that no problem may hold, by id.

    They are the special tokens, and role tokens and tags that aren't declared as such. Further
    added tokens are words like any other (the toy task's symbols), and so is a special token of one
    character.
    """
    tags = {thoughts.begin.strip(), thoughts.end.strip()}
    return {
        index: token.content
        for index, token in tokenizer.added_tokens_decoder.items()
        if (token.special and len(token.content) > 1)
        or _MARKUP.fullmatch(token.content)
        or token.content.strip() in tags
    }


def _encode_plainly(
    tokenizer: "PreTrainedTokenizerBase", text: str, frame: list[str], control: dict[int, str]
) -> list[int]:
    """Encodes a prompt whose problem has the text of control tokens.

    The control tokens of the template are given new names that no problem can hold, in the text
    and in a copy of the tokenizer. All else is encoded as ever, in one piece.

    Args:
        tokenizer: Tokenizer of the policy.
        text: The prompt.
        frame: The prompt around the problem: the parts before, between and after its occurrences.
        control: Texts of the control tokens, by id.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    problem = _find_problem(text, frame)
    if backend is None or problem is None:
        raise ControlTokensInProblem(
            f"{tokenizer.name_or_path}: its chat template changes a problem that has the text of "
            "control tokens, or its tokenizer is not one of the tokenizers package"
        )
    nonce = secrets.token_hex(8)
    names = {content: f"<{nonce}-{index}>" for index, content in control.items()}
    longest_first = sorted(names, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    parts = [pattern.sub(lambda match: names[match[0]], part) for part in frame]
    renamed = rename_tokens(backend.to_str(), names)
    return renamed.encode(problem.join(parts), add_special_tokens=False).ids


def _find_problem(text: str, frame: list[str]) -> str | None:
    """Returns what a template has made of the problem, such as without white space around it.

    Args:
        text: The prompt.
        frame: See `_encode_plainly`.

    Returns:
        The text that fills the frame; None if none does.
    """
    first, *rest = map(re.escape, frame)
    # A template may have the problem several times.
    pattern = f"{first}(.*){rest[0]}" + "".join(rf"\1{part}" for part in rest[1:])
    found = re.fullmatch(pattern, text, re.DOTALL)
    return found[1] if found else None


def rename_tokens(backend: str, names: dict[str, str]) -> Tokenizer:
    """Returns a tokenizer in which tokens have other texts and the same ids.

    Args:
        backend: The tokenizer, serialized.
        names: New text by old text.
    """
    content = json.loads(backend)
    for token in content["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    # Some are tokens of the model, too. Where merges lead to one, they would give it to its text.
    model = content["model"]
    vocab = model["vocab"]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _makes(merge, names)]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(text, text): index for text, index in vocab.items()}
    else:
        model["vocab"] = [[names.get(text, text), *more] for text, *more in vocab]
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    # What adds tokens around a text knows them by their old names, and isn't used.
    content["post_processor"] = content["truncation"] = content["padding"] = None
    return Tokenizer.from_str(json.dumps(content))


def _makes(merge: list[str] | str, names: Collection[str]) -> bool:
    """Returns whether a merge of two tokens makes one of these, or is of one."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    return "".join(parts) in names or any(part in names for part in parts)


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


def _is_token(tokenizer: "PreTrainedTokenizerBase", token: str) -> bool:
    # Not by get_vocab: that copies 150,000 entries for every prompt.
    index = tokenizer.convert_tokens_to_ids(token)
    return isinstance(index, int) and tokenizer.convert_ids_to_tokens(index) == token


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
