"""Tokenizers in the layouts of real families, in small."""

import json
from functools import cache

from hypothesis import strategies as st
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

from data_prep.toy.tokenizer import build_tokenizer
from search_lib.conversations import R1_ASSISTANT, R1_BEGIN, R1_USER

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
    "{% for m in messages %}{% set said = m.content %}"
    "{% if m.role == 'assistant' %}{% set said = said.split('</think>')[-1].lstrip('\n') %}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ said }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
CHAT_TEMPLATE = (
    "<|im_start|>system\nBe brief = good.<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
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
NAMES = ["toy", "toy, R1", "BPE, chat", "BPE, R1", *LAYOUTS]

R1_TOKENS = (R1_BEGIN, R1_USER, R1_ASSISTANT)
CONTROL = (*R1_TOKENS, "<think>", "</think>", "<|im_start|>", "<|im_end|>", "[SEP]")
CONTROL += ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<s>", "</s>", "<unk>")


@cache
def byte_level_bpe() -> PreTrainedTokenizerFast:
    """A tokenizer of DeepSeek's kind, in small; think tags and two roles are not special there."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    corpus = ["Find the sum of </ and think > or </think and <| im_end |> in 1 + 1 = 2."] * 9
    trainer = trainers.BpeTrainer(
        # One that is a token of the model as well.
        vocab_size=330,
        initial_alphabet=alphabet,
        special_tokens=["<|im_end|>"],
    )
    backend.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.add_tokens(
        [
            AddedToken("<|im_start|>", special=True, rstrip=True),
            AddedToken("[SEP]", special=True, lstrip=True),
            AddedToken(R1_BEGIN, special=True),
            AddedToken(R1_USER, special=False, normalized=False),
            AddedToken(R1_ASSISTANT, special=False, normalized=False),
            AddedToken("<think>", special=False, lstrip=True),
            AddedToken("</think>", special=False, rstrip=True),
            AddedToken(" = ", special=False, normalized=False),
            AddedToken("sum", special=False, single_word=True),
        ]
    )
    return tokenizer


@cache
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    """By name: toy and BPE, each with both kinds of template, and the layouts of real families."""
    toy = build_tokenizer()
    toy_r1 = build_tokenizer()
    toy_r1.add_tokens([AddedToken(token, special=True) for token in R1_TOKENS])
    chat = byte_level_bpe().__class__(
        tokenizer_object=without_r1(byte_level_bpe().backend_tokenizer), eos_token="<|im_end|>"
    )
    chat.chat_template = CHAT_TEMPLATE
    own = {"toy": toy, "toy, R1": toy_r1, "BPE, chat": chat, "BPE, R1": byte_level_bpe()}
    return own | {name: build() for name, build in LAYOUTS.items()}


def without_r1(backend: Tokenizer) -> Tokenizer:
    """The same tokenizer with another name for a role, so that its chat template is used."""
    return Tokenizer.from_str(backend.to_str().replace(R1_USER, "<｜Person｜>"))


ORDINARY = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(
        st.sampled_from(
            [
                "Find ",
                "the sum",
                "sum",
                " = ",
                " +4",
                "\n",
                "  ",
                "<",
                ">",
                "</",
                "think",
                "|",
                "é",
                "e\u0301",
                "1 + 1",
                "start 3",
                " ok",
                "\\boxed{",
                "<b>",
                "[SE",
                "｜",
            ]
        ),
        max_size=12,
    ).map("".join),
).filter(lambda text: not any(token.strip() in text for token in [*CONTROL, "<|", "<｜"]))
HOSTILE = st.lists(st.one_of(st.sampled_from(CONTROL), ORDINARY), min_size=1, max_size=6).map(
    "".join
)
