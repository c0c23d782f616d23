"""Floating-point operations that a transformer takes for some tokens."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class TokenCounts(NamedTuple):
    """Tokens of a batch, by kind.

    Attributes:
        all: Tokens that go through the model, padding included.
        computed: The same without padding.
        valid: Tokens of the samples; shared tokens are counted for each of them.
        loss: Tokens that carry loss.
        attended: Pairs of a computed token and one it attends to, itself included.
    """

    all: int
    computed: int
    valid: int
    loss: int
    attended: int


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a model that its FLOPs follow from.

    Attributes:
        num_matmul_parameters: Parameters that every token is multiplied with: all but the
            embedding, the norms and the biases.
        attention_width: Layers x heads x head dimension.
    """

    num_matmul_parameters: int
    attention_width: int

    @classmethod
    def of(cls, model: Any) -> "ModelSize":
        """Returns the size of a dense transformer of transformers that isn't sharded yet."""
        config = model.config
        head_dim = getattr(config, "head_dim", None)
        head_dim = head_dim or config.hidden_size // config.num_attention_heads
        return cls(
            sum(
                parameter.numel()
                # A language model's output matrix counts, also where it is the embedding, too.
                for name, parameter in model.named_parameters(remove_duplicate=False)
                if parameter.ndim >= 2 and "embed_tokens" not in name
            ),
            config.num_hidden_layers * config.num_attention_heads * head_dim,
        )

    def training_flops(self, counts: TokenCounts) -> float:
        """Returns the FLOPs of a forward and a backward pass; padding and recomputation left out.

        `6 N tokens + 12 width pairs`: a multiply-add is two FLOPs, the backward pass costs two
        forward passes, and a pair of tokens takes part in a score and in a weighted sum.
        """
        return 3 * self.forward_flops(counts.computed, counts.attended)

    def forward_flops(self, computed: int, attended: int) -> float:
        """Returns the FLOPs of a forward pass: `2 N tokens + 4 width pairs`."""
        return 2.0 * self.num_matmul_parameters * computed + 4.0 * self.attention_width * attended


GATED = ("llama", "mistral", "olmo2", "qwen2", "qwen3", "smollm3")
"""Types of models whose layers have four matrices of attention, three of a feed-forward layer."""

VALUE_MODEL = "ForClassifier"
"""What the architecture of a value model ends with, in its config.json."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a dense transformer with gated feed-forward layers, by their names in config.json.

    Attributes:
        hidden_size: Width of the residual stream.
        intermediate_size: Width of a feed-forward layer.
        num_hidden_layers: Layers.
        num_attention_heads: Heads of the queries.
        num_key_value_heads: Heads of keys and values.
        vocab_size: Rows of the output matrix.
        head_dim: Width of a head; None for `hidden_size / num_attention_heads`.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    head_dim: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape | None":
        """Returns the sizes in a config.json; None if it lacks one, or its layers are others."""
        names = cls.__annotations__
        found = {name: config[name] for name in names if config.get(name) is not None}
        is_whole = {*found, "head_dim"} == set(names)
        return cls(**found) if is_whole and config.get("model_type") in GATED else None

    @property
    def _width(self) -> int:
        """Width of the attention of all layers."""
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        return self.num_hidden_layers * self.num_attention_heads * head_dim

    @property
    def _layers(self) -> int:
        """Parameters of all matrices but embedding and output."""
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        heads = self.num_attention_heads + self.num_key_value_heads
        attention = 2 * self.hidden_size * heads * head_dim
        feed_forward = 3 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * (attention + feed_forward)

    @property
    def policy(self) -> ModelSize:
        """Size of the language model."""
        return self.with_head(self.hidden_size * self.vocab_size)

    @property
    def value_model(self) -> ModelSize:
        """Size of a value model on this backbone: its head has two layers, and three classes."""
        return self.two_layers(3)

    @property
    def step_prm(self) -> ModelSize:
        """Size of a Qwen2.5-Math-PRM: a value model's with two classes."""
        return self.two_layers(2)

    def two_layers(self, classes: int) -> ModelSize:
        """Size of the backbone with a head of two layers."""
        return self.with_head(self.hidden_size * (self.hidden_size + classes))

    def with_head(self, parameters: int) -> ModelSize:
        """Size of the backbone with a head of so many parameters."""
        return ModelSize(self._layers + parameters, self._width)


def scorer_size(model: str) -> ModelSize | None:
    """Returns the size of what a scorer runs; None if it has none that can be read here.

    Of a step PRM or a reward model it is the backbone with its head. The head of a language model
    that scores is two rows of its output matrix.

    Args:
        model: Folder or Hub id of the scorer's model.
    """
    try:
        config = _read_config(model)
        architecture, hidden = (config.get("architectures") or [""])[0], config["hidden_size"]
        heads = {
            "Qwen2ForProcessRewardModel": hidden * hidden + 2 * hidden,
            "Qwen2ForPrmModel": hidden,
            "ForSequenceClassification": _num_labels(config) * hidden,
            "ForCausalLM": 2 * hidden,
        }
        head = next((size for end, size in heads.items() if architecture.endswith(end)), None)
        if head is None:
            return model_size(model)
        if shape := Shape.of(config):
            return shape.with_head(head)
        import torch
        from transformers import AutoConfig, AutoModel

        with torch.device("meta"):
            other = AutoConfig.from_pretrained(model, trust_remote_code=False)
            backbone = AutoModel.from_config(other, trust_remote_code=False)
        if not hasattr(backbone, "embed_tokens"):
            return None  # an encoder: its parts have other names, and it attends both ways
        size = ModelSize.of(backbone)
        return ModelSize(size.num_matmul_parameters + head, size.attention_width)
    except Exception:  # an absent, damaged or foreign config raises anything
        return None


def model_size(model: str) -> ModelSize | None:
    """Returns the size of a model from its config; None if it has none that can be read here.

    Args:
        model: Folder or Hub id of a value model or a language model.
    """
    try:
        config = _read_config(model)
        if shape := Shape.of(config):
            architecture = (config.get("architectures") or [""])[0]
            is_value_model = architecture.endswith(VALUE_MODEL)
            return shape.two_layers(_num_labels(config)) if is_value_model else shape.policy
        # Imported here: the sizes of most models need neither.
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        with torch.device("meta"):
            other = AutoConfig.from_pretrained(model, trust_remote_code=False)
            language_model = AutoModelForCausalLM.from_config(other, trust_remote_code=False)
            return ModelSize.of(language_model)
    except Exception:  # an absent, damaged or foreign config raises anything
        return None


def _read_config(model: str) -> dict[str, Any]:
    """Returns the content of the config.json of a folder, or of the Hub, its cache first."""
    path = Path(model) / "config.json"
    if not Path(model).is_dir():
        import huggingface_hub as hub

        from run_lib.hub_cache import find_cached

        found = find_cached(model, "config.json")
        if found is None:
            # Fails at once without a network, where a download would try for half a minute.
            hub.get_hf_file_metadata(hub.hf_hub_url(model, "config.json"))
            found = Path(hub.hf_hub_download(model, "config.json"))
        path = found
    return dict(json.loads(path.read_bytes()))


def _num_labels(config: Mapping[str, Any]) -> int:
    """Returns the labels of a model; its config.json says if they aren't the usual two."""
    return len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)
