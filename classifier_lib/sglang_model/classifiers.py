"""The value models for SGLang 0.5.21; SGLang finds one by the name in a checkpoint's config.

A server started with `--is-embedding` returns, for a sequence, the probabilities of the terminal
classes after its last token: entry 1 is the value. The radix cache and chunked prefill stay on.
"""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from sglang.srt.layers.pooler import EmbeddingPoolerOutput, PoolingType, pool_hidden_states
from sglang.srt.models.llama import LlamaModel
from sglang.srt.models.qwen2 import Qwen2ForCausalLM, Qwen2Model
from sglang.srt.models.qwen3 import Qwen3Model
from sglang.srt.utils import add_prefix
from torch import nn
from torch.nn import functional as F
from transformers import PretrainedConfig

from run_lib.text import some_of

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Layers that SGLang computes as one, and their names in a checkpoint."""


class ValueModel(nn.Module):
    """A backbone of SGLang with the two-layer classification head of `classifier_lib.modeling`.

    The backbone is split over tensor-parallel ranks, the head is on each of them.

    Args:
        config: Configuration of the checkpoint.
        quant_config: SGLang's quantisation of the backbone's linear layers.
        prefix: Prefix of the names of the weights.

    Attributes:
        backbone_class: The decoder of SGLang; each family names its own.

    Raises:
        ValueError: If `config.num_labels` is not 1, 2 or 3.
    """

    backbone_class: ClassVar[type[nn.Module]]

    def __init__(self, config: PretrainedConfig, quant_config: Any = None, prefix: str = ""):
        super().__init__()
        if config.num_labels not in (1, 2, 3):
            raise ValueError(
                f"{type(self).__name__} takes num_labels 1, 2 or 3, not {config.num_labels}"
            )
        self.config = config
        self.model = self.backbone_class(config, quant_config, add_prefix("model", prefix))
        self.score = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size, bias=False),
            nn.ReLU(),
            nn.Linear(config.hidden_size, config.num_labels, bias=False),
        )

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: Any,
        input_embeds: torch.Tensor | None = None,
        get_embedding: bool = True,
    ) -> EmbeddingPoolerOutput:
        """Computes the new tokens of a batch of sequences, and classifies each at its last one.

        The cached part of a sequence, and its chunks that were computed before, stand ahead of its
        new tokens: the last of these is the last of the sequence.

        Args:
            input_ids: [new tokens of all sequences].
            positions: [new tokens], their positions.
            forward_batch: SGLang's description of the batch.
            input_embeds: [new tokens, hidden], in place of `input_ids`.
            get_embedding: True on a server started with `--is-embedding`.

        Returns:
            Probabilities of the three terminal classes [sequences, 3] in float32, for any number of
            labels.

        Raises:
            ValueError: On a server started without `--is-embedding`.
        """
        if not get_embedding:
            raise ValueError(
                "a value model generates nothing: start the server with --is-embedding"
            )
        hidden = self.model(input_ids, positions, forward_batch, input_embeds)
        last = pool_hidden_states(PoolingType.LAST, hidden, forward_batch)
        logits = self.score(last).float()
        if logits.shape[-1] == 1:
            logits = F.pad(logits, (1, 0))  # a sigmoid is the softmax over it and 0
        probabilities = logits.softmax(dim=-1)
        return EmbeddingPoolerOutput(F.pad(probabilities, (0, 3 - probabilities.shape[-1])))

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Loads a checkpoint, all of it and nothing else; SGLang would go on with random numbers.

        Args:
            weights: Names and tensors; a policy's LM head is left out, as by transformers.

        Raises:
            ValueError: Naming weights that are missing, unknown or of another shape.
        """
        missing = {
            name.replace(fused, part)
            for name, _ in self.named_parameters()
            for fused, parts in [_fused_layer(name)]
            for part in parts
        }
        unknown: list[str] = []
        head = dict(self.score.named_parameters(prefix="score"))

        def known() -> Iterator[tuple[str, torch.Tensor]]:
            """Yields the weights that the model has; notes the others."""
            for name, weight in weights:
                if name == "lm_head.weight":
                    continue
                if name not in missing:
                    unknown.append(name)
                    continue
                if name in head and weight.shape != head[name].shape:
                    raise ValueError(
                        f"not a value model of {self.config.num_labels} labels: {name} is of the "
                        f"shape {list(weight.shape)}, not {list(head[name].shape)}"
                    )
                missing.remove(name)
                yield name, weight

        # The names of fused layers are those of all three families.
        Qwen2ForCausalLM._legacy_load_weights(self, known())
        for what, names in (("no", sorted(missing)), ("unknown", sorted(unknown))):
            if names:
                raise ValueError(f"not a value model: {what} weights for {some_of(names)}")


def _fused_layer(name: str) -> tuple[str, tuple[str, ...]]:
    """Returns the fused layer of a parameter and its parts; the name itself where there is none."""
    for fused, parts in FUSED.items():
        if fused in name:
            return fused, parts
    return name, (name,)


class Qwen2ForClassifier(ValueModel):
    """The value model on a Qwen2 backbone."""

    backbone_class = Qwen2Model


class Qwen3ForClassifier(ValueModel):
    """The value model on a Qwen3 backbone."""

    backbone_class = Qwen3Model


class LlamaForClassifier(ValueModel):
    """The value model on a Llama backbone."""

    backbone_class = LlamaModel


EntryClass = [Qwen2ForClassifier, Qwen3ForClassifier, LlamaForClassifier]
