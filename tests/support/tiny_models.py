"""Small random models in Hugging Face form, laid out as on the hub."""

import json
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    Qwen2Config,
)

from classifier_lib.modeling import VALUE_MODELS
from data_prep.toy.tokenizer import build_tokenizer

CONTEXT = 128


VOCAB_SIZE = 64
"""Of the models for made-up roll-outs, which are without a tokenizer."""


def build_tiny_config(**changes: object) -> Qwen2Config:
    """Config of a value model or policy for made-up roll-outs."""
    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "num_labels": 3,
    }
    return Qwen2Config(**{**settings, **changes})


def tiny_config(vocab_size: int, **overrides) -> Qwen2Config:
    return Qwen2Config(**_sizes(vocab_size) | overrides)


def tiny_config_of(family: str, vocab_size: int, **overrides) -> PretrainedConfig:
    """The same sizes in another family, by its `model_type`."""
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "sliding_window"))
    sizes = _sizes(vocab_size) | {"head_dim": 8}
    return AutoConfig.for_model(family, **special | sizes | overrides)


FAMILY_SETTINGS: dict[str, dict[str, object]] = {
    # What sets it apart from the others, within a few dozen tokens.
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "qwen2": {},
    "qwen3": {"head_dim": 16},
}
"""Settings of the families of value models by `model_type`."""


def tiny_value_config(family: str, vocab_size: int = VOCAB_SIZE, **overrides) -> PretrainedConfig:
    """Config of a value model of any family."""
    settings = FAMILY_SETTINGS[family] | {"num_labels": 3}
    return tiny_config_of(family, vocab_size, **settings | overrides)


def _sizes(vocab_size: int) -> dict[str, object]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.2,
    }


def save_tiny_policy(
    folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, family: str = "qwen2"
) -> Path:
    """A random policy with the toy task's tokenizer.

    In float64 another batch tips no near-tie between tokens, on any machine.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    special = FAMILY_SETTINGS.get(family, {})
    config = tiny_config_of(family, len(tokenizer), tie_word_embeddings=True, **special)
    model = AutoModelForCausalLM.from_config(config)
    model.to(dtype)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, do_sample=True, top_k=3, temperature=0.1
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_classifier(
    folder: Path, seed: int = 1, vocab_size: int | None = None, family: str = "qwen2"
) -> Path:
    """A random value model; without a tokenizer, as the published one."""
    torch.manual_seed(seed)
    config = tiny_value_config(family, vocab_size or len(build_tokenizer()))
    VALUE_MODELS[family](config).save_pretrained(folder)
    return folder


def add_code(folder: Path, marker: Path, model_type: str | None) -> Path:
    """Gives a folder of a policy code of its own, for all that loads, which writes a marker.

    Args:
        folder: Folder of the policy.
        marker: File that the code writes.
        model_type: A type that transformers doesn't know, so that the code is needed; or None.
    """
    for name in ("configuration", "modeling", "tokenization"):
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration.C",
        "AutoModelForCausalLM": "modeling.M",
        "AutoModelForTokenClassification": "modeling.M",
    }
    config["model_type"] = model_type or config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "tokenizer_config.json"
    if path.is_file():
        content = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["t.T", "t.T"]}}
        if model_type:
            content["tokenizer_class"] = "T"
        path.write_text(json.dumps(content).replace("t.T", "tokenization.T"))
    return folder
