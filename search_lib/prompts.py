"""Prompt templates by model family."""

import unicodedata

from transformers import GenerationConfig, PreTrainedTokenizerBase

THOUGHT_BEGIN = "<think>"
THOUGHT_END = "</think>"

R1_BEGIN = "<｜begin▁of▁sentence｜>"
R1_USER = "<｜User｜>"
R1_ASSISTANT = "<｜Assistant｜>"


def build_prompt(tokenizer: PreTrainedTokenizerBase, problem: str, instruction: str) -> list[int]:
    """Returns the token ids of a prompt that ends where the policy's thought begins.

    A tokenizer with DeepSeek-R1's role tokens gets the template of the VGS paper; any other one
    its own chat template.

    Args:
        tokenizer: Tokenizer of the policy.
        problem: The question.
        instruction: Appended to the question (`benchmarks.MATH_INSTRUCTION` for mathematics).

    Raises:
        ValueError: If the tokenizer has neither; begins with its name.
    """
    question = problem + instruction
    if all(_is_token(tokenizer, token) for token in (R1_BEGIN, R1_USER, R1_ASSISTANT)):
        text = f"{R1_BEGIN}{R1_USER}{question}{R1_ASSISTANT}<think>\n"
    elif tokenizer.chat_template:
        text = str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
            )
        )
    else:
        raise ValueError(
            f"{tokenizer.name_or_path}: its tokenizer has no chat template and is not of the "
            "DeepSeek-R1 family: no prompt template fits it"
        )
    return tokenizer.encode(text, add_special_tokens=False)


def prompt_holds(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], problem: str) -> bool:
    """Returns whether a tokenizer reads a problem in a prompt's ids; if not, they are another's."""
    if max(prompt_ids, default=0) >= len(tokenizer):
        return False
    # Tokenizers of the Qwen family compose characters, and chat templates trim.
    text = unicodedata.normalize("NFC", str(tokenizer.decode(prompt_ids)))
    return unicodedata.normalize("NFC", problem.strip()) in text


def _is_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    # Not by get_vocab: that copies 150,000 entries for every prompt.
    index = tokenizer.convert_tokens_to_ids(token)
    return isinstance(index, int) and tokenizer.convert_ids_to_tokens(index) == token


def thought_mark(prompt: str, response: str) -> str | None:
    """Returns the mark that must stand before an answer of this response: the end of its thought.

    Returns None for a response that thinks in the open: its prompt opens no thought, and neither
    does it. Its whole text is searched for the answer.
    """
    thinks = prompt.rstrip().endswith(THOUGHT_BEGIN) or THOUGHT_BEGIN in response
    return THOUGHT_END if thinks or THOUGHT_END in response else None


def stop_token_ids(policy: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Returns all ids that end a response: the tokenizer's and those of the generation config.

    Raises:
        ValueError: If there are none, as every response would run into the length limit; begins
            with the name of the policy.
    """
    ids = {tokenizer.eos_token_id} - {None}
    try:
        configured = GenerationConfig.from_pretrained(policy).eos_token_id
    except OSError:
        configured = None
    ids |= set(configured if isinstance(configured, list) else [configured]) - {None}
    if not ids:
        raise ValueError(f"{policy} names no end-of-sequence token")
    return tuple(sorted(ids))
