"""The token-level value model of Value-Guided Search (arXiv 2505.17373), on several backbones.

`Qwen2ForClassifier` is the published one; `Qwen3ForClassifier` and `LlamaForClassifier` have the
same head on other backbones. All they share is in `ValueModel`.

This file imports torch and transformers only, so `save_pretrained` can ship it with the weights and
`AutoModelForTokenClassification.from_pretrained(..., trust_remote_code=True)` works anywhere.
"""

import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    Cache,
    LlamaModel,
    LlamaPreTrainedModel,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Model,
    Qwen2PreTrainedModel,
    Qwen3Model,
    Qwen3PreTrainedModel,
)
from transformers.utils import ModelOutput, can_return_tuple, is_flash_attn_2_available

logger = logging.getLogger(__name__)

SUCCESS_CLASS = 1
"""Terminal class "finished and correct": the only one with reward 1."""


@dataclass
class ClassifierOutput(ModelOutput):
    """Output of a `ValueModel`.

    Attributes:
        loss: Scalar in float32, when `labels` was given.
        logits: [B, T, num_labels], class logits after every token.
        success_probs: [B, T] float32 in [0, 1]; entry t is P(correct) given the tokens up to and
            including t.
        past_key_values: The key-value cache, when `use_cache` was on.
        hidden_states: Hidden states of every layer, when `output_hidden_states` was asked for.
        attentions: Attention weights of every layer, when `output_attentions` was asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    success_probs: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def resolve_attention(name: str) -> str:
    """Returns the attention implementation to use in place of one that can't run here.

    Args:
        name: A transformers `attn_implementation`, e.g. "flash_attention_2" or "sdpa".

    Returns:
        "sdpa", after a warning for the first time, when `name` is "flash_attention_2" and there is
        no CUDA device or no flash-attn package; `name` itself otherwise.
    """
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        _warn_of_sdpa("the flash-attn package" if torch.cuda.is_available() else "a CUDA device")
        return "sdpa"
    return name


@lru_cache
def _warn_of_sdpa(missing: str) -> None:
    logger.warning("flash_attention_2 needs %s: using sdpa instead.", missing)


def success_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Returns P(correct) of every token, in float32.

    Args:
        logits: [..., L] with L = 1 (one success logit), 2 or 3 (class logits).

    Returns:
        [...]: sigmoid for L = 1, else the softmax entry of the success class.
    """
    logits = logits.float()
    if logits.shape[-1] == 1:
        return logits.squeeze(-1).sigmoid()
    return logits.softmax(dim=-1)[..., SUCCESS_CLASS]


def terminal_class_loss(
    logits: torch.Tensor, labels: torch.Tensor, loss_mask: torch.Tensor
) -> torch.Tensor:
    """Computes the loss of the terminal class at every roll-out token (VGS Section 2.1).

    `1/|B| sum_(x,y,z,k) 1/|z| sum_h CE(f(x, y, z[:h]), k)`: mean over the roll-out tokens of a
    sample, then mean over the samples. With fewer than three logits the target is the reward, which
    is 1 for class 1 only; with one logit CE is the binary cross-entropy.

    Args:
        logits: [B, T, L] with L in 1, 2, 3; of any dtype; computed in float32.
        labels: LongTensor [B], terminal class of each sequence.
        loss_mask: [B, T], bool or float, 1 on roll-out tokens.

    Returns:
        Scalar in float32. A sample without loss tokens is left out of the mean; 0 if no sample has
        any.
    """
    logits = logits.float()
    num_labels = logits.shape[-1]
    targets = labels if num_labels == 3 else (labels == SUCCESS_CLASS).long()
    targets = targets[:, None].expand(logits.shape[:2])
    if num_labels == 1:
        losses = F.binary_cross_entropy_with_logits(
            logits.squeeze(-1), targets.float(), reduction="none"
        )
    else:
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    mask = loss_mask.to(torch.float32)
    sample_means = (losses * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return sample_means.sum() / mask.any(dim=1).sum().clamp(min=1)


class ValueModel(PreTrainedModel):
    """A decoder with a two-layer token classification head in place of the LM head.

    Terminal classes: 0 finished and incorrect, 1 finished and correct, 2 unfinished. The value of a
    partial response is the probability of class 1 after its last token, `success_probs[:, t]`.

    State dict: `model.*` as the backbone, `score.0.weight` [hidden, hidden] and `score.2.weight`
    [num_labels, hidden]. `config.attention_dropout` is also the dropout before the head.

    The loss of `forward` is `terminal_class_loss`.

    Attributes:
        backbone_class: The decoder of transformers; each family names its own.

    Raises:
        ValueError: If `config.num_labels` is not 1, 2 or 3.
    """

    # A policy's folder can be loaded as it is: the value head replaces its LM head.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.weight$"]  # noqa: RUF012

    backbone_class: ClassVar[type[PreTrainedModel]]

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        if config.num_labels not in (1, 2, 3):
            raise ValueError(
                f"{type(self).__name__} takes num_labels 1, 2 or 3, not {config.num_labels}"
            )
        self.model = self.backbone_class(config)
        self.dropout = nn.Dropout(config.attention_dropout)
        self.score = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size, bias=False),
            nn.ReLU(),
            nn.Linear(config.hidden_size, config.num_labels, bias=False),
        )
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        attn_implementation: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Loads a model as transformers does, falling back from FlashAttention-2 where it must.

        Args:
            pretrained_model_name_or_path: Hub id or folder.
            *model_args: Passed to the constructor.
            attn_implementation: See `resolve_attention`; None leaves the choice to transformers.
            **kwargs: As for `PreTrainedModel.from_pretrained`. Without a dtype the config's is
                used (bfloat16 for the published checkpoint).

        Returns:
            The model, in evaluation mode.
        """
        if attn_implementation is not None:
            kwargs["attn_implementation"] = resolve_attention(attn_implementation)
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        loss_mask: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> ClassifierOutput:
        """Classifies every prefix of every sequence.

        Args:
            input_ids: [B, T] token ids.
            attention_mask: [B, T] with 1 on real tokens, or a full mask [B, 1, T, S].
            position_ids: [B, T] positions; by default they count up from the cached length.
            past_key_values: Cache of the tokens before `input_ids`.
            inputs_embeds: [B, T, hidden], in place of `input_ids`.
            labels: [B] terminal class of each sequence; asks for the loss.
            loss_mask: [B, T], 1 on roll-out tokens; needed with `labels`.
            use_cache: Whether to return a cache; by default `config.use_cache`.
            **kwargs: Passed to the backbone, e.g. `output_hidden_states`.

        Returns:
            See `ClassifierOutput`.

        Raises:
            ValueError: If `labels` comes without `loss_mask`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.score(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            if loss_mask is None:
                raise ValueError("labels needs loss_mask: 1 on the roll-out tokens, 0 elsewhere")
            loss = terminal_class_loss(logits, labels, loss_mask)
        return ClassifierOutput(
            loss=loss,
            logits=logits,
            success_probs=success_probabilities(logits),
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class Qwen2ForClassifier(Qwen2PreTrainedModel, ValueModel):
    """The value model on a Qwen2 or Qwen2.5 backbone: the published one."""

    backbone_class = Qwen2Model


class Qwen3ForClassifier(Qwen3PreTrainedModel, ValueModel):
    """The value model on a (dense) Qwen3 backbone."""

    backbone_class = Qwen3Model


class LlamaForClassifier(LlamaPreTrainedModel, ValueModel):
    """The value model on a Llama backbone: Llama 2 and 3, SmolLM2 and others of this layout."""

    backbone_class = LlamaModel


VALUE_MODELS: dict[str, type[ValueModel]] = {
    "llama": LlamaForClassifier,
    "qwen2": Qwen2ForClassifier,
    "qwen3": Qwen3ForClassifier,
}
"""Class of a value model by the `model_type` of its backbone."""

for _value_model in VALUE_MODELS.values():
    _value_model.register_for_auto_class("AutoModelForTokenClassification")
