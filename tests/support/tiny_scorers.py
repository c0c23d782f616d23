"""Small random step PRMs and reward models, laid out as on the hub, each with a tokenizer."""

from pathlib import Path

import torch
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerBase,
    Qwen2ForSequenceClassification,
    Qwen2Tokenizer,
)

from search_lib.scorers.text_models import Qwen2ForPrmModel, Qwen2ForProcessRewardModel
from tests.support.tiny_models import tiny_config

PROBLEM = "What is 1 + 1?"
SOLUTION = "First.\n\nOne and one.\nThat is two.\n\nSo 2"
"""Three steps between blank lines; six lines."""

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
)

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


def byte_tokenizer(
    special: tuple[str, ...], template: str | None, bos: str | None = None
) -> Qwen2Tokenizer:
    """Bytes, with the merges that make a line's end one token with what stands before it."""
    merges = [(".", "Ċ"), ("Ċ", "Ċ"), ("Ġ", "1")]
    symbols = [*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)},
        merges=merges,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token=None,
        bos_token=bos,
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    tokenizer.chat_template = template
    return tokenizer


def qwen_tokenizer() -> Qwen2Tokenizer:
    return byte_tokenizer(("<|im_start|>", "<|im_end|>", "<extra_0>"), CHATML)


def skywork_tokenizer() -> Qwen2Tokenizer:
    return byte_tokenizer(("<|im_start|>", "<|im_end|>"), CHATML, bos="<|endoftext|>")


def rlhflow_tokenizer() -> Qwen2Tokenizer:
    roles = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    return byte_tokenizer(roles, LLAMA3, bos="<|begin_of_text|>")


def shepherd_tokenizer() -> LlamaTokenizer:
    """Of the SentencePiece kind: words begin with a mark for the space before them."""
    merges = [("к", "и"), ("▁", "ки"), ("▁", "+"), ("▁", "-")]
    characters = [chr(code) for code in range(33, 127)] + ["▁", "к", "и"]
    symbols = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    symbols += ["".join(pair) for pair in merges]
    vocab = {symbol: index for index, symbol in enumerate(symbols)}
    return LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)


def save_qwen(folder: Path) -> Path:
    tokenizer = qwen_tokenizer()
    config = tiny_config(len(tokenizer), max_position_embeddings=512)
    return _save(folder, Qwen2ForProcessRewardModel(config), tokenizer)


def save_skywork(folder: Path) -> Path:
    tokenizer = skywork_tokenizer()
    config = tiny_config(len(tokenizer), max_position_embeddings=512)
    return _save(folder, Qwen2ForPrmModel(config), tokenizer)


def save_shepherd(folder: Path) -> Path:
    """With a sliding window, as Mistral has one: a token sees the last 20."""
    tokenizer = shepherd_tokenizer()
    sizes = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 512}
    config = MistralConfig(**sizes, sliding_window=20)
    return _save(folder, MistralForCausalLM(config), tokenizer)


def save_rlhflow(folder: Path) -> Path:
    tokenizer = rlhflow_tokenizer()
    config = LlamaConfig(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=512)
    return _save(folder, LlamaForCausalLM(config), tokenizer)


def save_reward(folder: Path, labels: int, pad_token_id: int | None = None) -> Path:
    tokenizer = qwen_tokenizer()
    config = tiny_config(
        len(tokenizer),
        num_labels=labels,
        pad_token_id=pad_token_id,
        max_position_embeddings=512,
    )
    return _save(folder, Qwen2ForSequenceClassification(config), tokenizer)


STEP_PRMS = {
    "qwen": (save_qwen, qwen_tokenizer),
    "shepherd": (save_shepherd, shepherd_tokenizer),
    "skywork": (save_skywork, skywork_tokenizer),
    "rlhflow": (save_rlhflow, rlhflow_tokenizer),
}
"""What saves a PRM of each layout, and makes its tokenizer."""


def _save(folder: Path, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> Path:
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():  # heads, too: their scores differ from step to step
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3, generator=generator)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
