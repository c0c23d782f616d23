"""Floating-point operations that a transformer takes for some tokens."""

from dataclasses import dataclass
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


def scorer_size(model: str) -> ModelSize | None:
    """Returns the size of what a scorer runs; None if it has none that can be read here.

    Of a step PRM or a reward model it is the backbone with its head. The head of a language model
    that scores is two rows of its output matrix.

    Args:
        model: Folder or Hub id of the scorer's model.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        architecture, hidden = (config.architectures or [""])[0], config.hidden_size
        heads = {
            "Qwen2ForProcessRewardModel": hidden * hidden + 2 * hidden,
            "Qwen2ForPrmModel": hidden,
            "ForSequenceClassification": config.num_labels * hidden,
            "ForCausalLM": 2 * hidden,
        }
        head = next((size for end, size in heads.items() if architecture.endswith(end)), None)
        if head is None:
            return model_size(model)
        import torch
        from transformers import AutoModel

        with torch.device("meta"):
            backbone = AutoModel.from_config(config, trust_remote_code=False)
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
    # Imported here: a page of old records needs the sizes that stand in it, and no model.
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from classifier_lib.loading import value_model_class

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        with torch.device("meta"):
            if kind := value_model_class(config):
                return ModelSize.of(kind(config))
            language_model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            return ModelSize.of(language_model)
    except Exception:  # an absent, damaged or foreign config raises anything
        return None
