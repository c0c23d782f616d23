"""Tokenizers in the layouts of real families, in small."""

import json
from functools import cache

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CORPUS = ["Find the sum of </s> and </ s > or <|eot_id|> and <| im_end |> in 1 + 1 = 2."] * 9

_WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

LLAMA3_TEMPLATE = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
    "{% if strftime_now is defined %}Today Date: {{ strftime_now('%d %b %Y') }}{% endif %}"
    "<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN3_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
SENTENCEPIECE = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
LLAMA2_TEMPLATE = "{{ bos_token }}[INST] {{ messages[0].content | trim }} [/INST]"


def _train(backend: Tokenizer, **options: object) -> Tokenizer:
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(show_progress=False, **options))
    return backend


@cache
def llama3() -> PreTrainedTokenizerFast:
    """The BPE of tiktoken, whose words need no merges, and a first token that it always adds."""
    backend = Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    _train(backend, vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    roles = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
    backend.add_special_tokens([AddedToken(role, normalized=False) for role in roles])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{roles[0]} $A", special_tokens=[(roles[0], backend.token_to_id(roles[0]))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=roles[0], eos_token=roles[1]
    )
    tokenizer.chat_template = LLAMA3_TEMPLATE
    return tokenizer


@cache
def qwen3() -> PreTrainedTokenizerFast:
    """Byte-level BPE over composed characters; the tags of thoughts are tokens, none special."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    _train(backend, vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    roles = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    backend.add_special_tokens([AddedToken(role, normalized=False) for role in roles])
    backend.add_tokens([AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.chat_template = QWEN3_TEMPLATE
    return tokenizer


def _llama2(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """BPE of sentencepiece: bytes for what it doesn't know, control tokens among its own tokens.

    As in files that were made of every pair of tokens, its merges lead to a control token.
    """
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    _train(backend, vocab_size=400, special_tokens=pieces)
    content = json.loads(backend.to_str())
    content["added_tokens"] = []  # the trainer makes the bytes special, too
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    to_the_end = [["<", "/"], ["s", ">"], ["</", "s>"]]
    for merge in to_the_end:
        vocab.setdefault("".join(merge), len(vocab))
    merges[:] = to_the_end + [merge for merge in merges if merge not in to_the_end]
    backend = Tokenizer.from_str(json.dumps(content))
    backend.add_special_tokens(
        [AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = LLAMA2_TEMPLATE
    return tokenizer


@cache
def llama2_legacy() -> PreTrainedTokenizerFast:
    """Spaces made by a normalizer, which begins each part between control tokens with one."""
    backend = Tokenizer(models.BPE(**SENTENCEPIECE))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return _llama2(backend)


@cache
def llama2_metaspace() -> PreTrainedTokenizerFast:
    """Spaces made by a pre-tokenizer, which begins the text with one."""
    backend = Tokenizer(models.BPE(**SENTENCEPIECE))
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    return _llama2(backend)


LAYOUTS = {
    "Llama 3": llama3,
    "Qwen3": qwen3,
    "Llama 2, legacy": llama2_legacy,
    "Llama 2, metaspace": llama2_metaspace,
}
