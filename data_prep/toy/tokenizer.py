"""The toy task's tokenizer: one token a symbol, in the layout of a real Qwen2 tokenizer.

A folder that holds a Qwen2 `config.json` makes `AutoTokenizer` return `Qwen2Tokenizer`, with
Qwen2's own pre-tokenizer, for any tokenizer that was saved there. A word-level tokenizer with a
custom pre-tokenizer comes back with other ids and no error. So this one *is* a Qwen2 tokenizer: 256
byte tokens without merges, and every longer symbol of the task as an added token, which is matched
before any normaliser or pre-tokenizer runs. Text outside the task falls back to bytes.
"""

from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

from data_prep.toy.task import BEGIN, END, PAD, SYMBOLS, THINK

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}" + THINK + "{% endif %}"
)


def build_tokenizer() -> Qwen2Tokenizer:
    """Builds the tokenizer (291 tokens); `save_pretrained` writes it as any other."""
    tokenizer = Qwen2Tokenizer(
        vocab={byte: index for index, byte in enumerate(sorted(ByteLevel.alphabet()))},
        merges=[],
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=END,  # as Qwen2 does; every byte is known, so it never comes up
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(s, normalized=False, special=False) for s in SYMBOLS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
