"""Step PRMs and reward models by transformers: what is loaded, and how scores are read."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Model,
    Qwen2PreTrainedModel,
)

from classifier_lib.loading import MODEL_FILES, check_safetensors
from run_lib.checksums import check_intact
from run_lib.hub import check_weights, load_config, loading
from search_lib.scorers.inputs import ScorerInput
from search_lib.scorers.step_layouts import StepReader


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """Weights of Qwen2.5-Math-PRM, whose own code is not run: `model.*`, `score.0`, `score.2`."""

    def __init__(self, config: Qwen2Config):
        super().__init__(config)
        self.model = Qwen2Model(config)
        size = config.hidden_size
        self.score = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2))
        self.post_init()

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns the logits of bad and good: [..., hidden] -> [..., 2]."""
        return self.score(hidden)


class Qwen2ForPrmModel(Qwen2PreTrainedModel):
    """Weights of Skywork-o1-Open-PRM, whose own code is not run: `model.*`, `v_head.summary`."""

    def __init__(self, config: Qwen2Config):
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.v_head = nn.ModuleDict({"summary": nn.Linear(config.hidden_size, 1)})
        self.post_init()

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns the value of each token: [..., hidden] -> [..., 1]."""
        return self.v_head["summary"](hidden)


STEP_CLASSES: dict[str | None, Any] = {
    "Qwen2ForProcessRewardModel": Qwen2ForProcessRewardModel,
    "Qwen2ForPrmModel": Qwen2ForPrmModel,
    None: AutoModelForCausalLM,
}
"""What loads the models of a layout, by the layout's architecture."""


class TextModel(Protocol):
    """A model that reads scores off inputs."""

    @property
    def device(self) -> torch.device:
        """Where it is."""
        ...

    def scores(self, inputs: Sequence[ScorerInput]) -> list[list[float]]:
        """Returns the scores of each input, in [0, 1], by one forward pass."""
        ...


class StepModel:
    """A step PRM.

    Args:
        model: In evaluation mode, of `STEP_CLASSES`.
        reader: Its layout.
    """

    def __init__(self, model: Any, reader: StepReader):
        self._model = model
        self._reader = reader

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._model.device

    @torch.inference_mode()
    def scores(self, inputs: Sequence[ScorerInput]) -> list[list[float]]:
        """Returns the probability that each step is good.

        The head runs on the tokens that are read only; of a language model it is the two rows of
        the output matrix that belong to the answers.
        """
        # Padding is token 0, which any vocabulary has. It needs no mask: attention is causal.
        ids = pad_sequence([torch.tensor(one.ids) for one in inputs], batch_first=True)
        rows = [row for row, one in enumerate(inputs) for _ in one.reads]
        columns = [read for one in inputs for read in one.reads]
        output = self._model.base_model(input_ids=ids.to(self.device), use_cache=False)
        hidden = output.last_hidden_state[rows, columns]
        if self._reader.answer_ids:
            head = self._model.get_output_embeddings()
            logits = hidden @ head.weight[self._reader.answer_ids].T
            if head.bias is not None:
                logits = logits + head.bias[self._reader.answer_ids]
        else:
            logits = self._model.head(hidden)
        probabilities = squash(logits, self._reader.layout.good).tolist()
        values = iter(probabilities)
        return [[next(values) for _ in one.reads] for one in inputs]


class RewardModel:
    """A reward model with a sequence classification head of one or two labels.

    Args:
        model: In evaluation mode.
    """

    def __init__(self, model: PreTrainedModel):
        self._model = model
        self._pad_token_id = model.config.pad_token_id

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._model.device

    @torch.inference_mode()
    def scores(self, inputs: Sequence[ScorerInput]) -> list[list[float]]:
        """Returns the sigmoid of the reward, or the probability of label 1, of each input."""
        pad = self._pad_token_id
        if pad is None:
            # transformers reads the last token that is no padding, so padding must be a token that
            # none of the texts has.
            used = {index for one in inputs for index in one.ids}
            pad = next(index for index in range(len(used) + 1) if index not in used)
            self._model.config.pad_token_id = pad
        ids = pad_sequence([torch.tensor(one.ids) for one in inputs], True, pad)
        lengths = torch.tensor([len(one.ids) for one in inputs])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        output = self._model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
        return [[score] for score in squash(output.logits, good=1).tolist()]


def squash(logits: torch.Tensor, good: int) -> torch.Tensor:
    """Returns scores in [0, 1]: the sigmoid of one logit, or the softmax of two.

    Args:
        logits: [..., 1] or [..., 2].
        good: Which of two stands for a good text.
    """
    logits = logits.float()
    return logits[..., 0].sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)[..., good]


def load_step_model(
    path: str, reader: StepReader, attention_impl: str, device: torch.device
) -> StepModel:
    """Loads a step PRM with every one of its weights; code of its own is not run.

    Raises:
        ValueError: If there is none, its files are damaged or don't hold all weights; one line
            that begins with the path.
    """
    loader = STEP_CLASSES[reader.layout.architecture]
    return StepModel(_load(loader, path, attention_impl, device), reader)


def load_reward_model(path: str, attention_impl: str, device: torch.device) -> RewardModel:
    """Loads a reward model with every one of its weights; code of its own is not run.

    Raises:
        ValueError: See `load_step_model`.
    """
    loader = AutoModelForSequenceClassification
    return RewardModel(_load(loader, path, attention_impl, device))


def _load(loader: Any, path: str, attention_impl: str, device: torch.device) -> PreTrainedModel:
    check_intact(path, *MODEL_FILES)
    check_safetensors(path)
    with loading(path):
        model, info = loader.from_pretrained(
            path,
            attn_implementation=attention_impl,
            dtype=torch.float32 if device.type == "cpu" else torch.bfloat16,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
        )
    check_weights(path, info, "is no such scorer")
    return model.to(device).eval()


def load_step_config(path: str) -> PretrainedConfig:
    """Loads the config of a step PRM.

    Raises:
        ValueError: If there is none, or its logits are bent behind the output matrix; one line that
            begins with the path.
    """
    config = load_config(path)
    bent = ("final_logit_softcapping", "logits_scaling", "logit_scale")
    if names := [name for name in bent if getattr(config, name, None)]:
        raise ValueError(f"{path} has {names[0]}, which no step PRM has that is known")
    return config


def load_reward_config(path: str) -> PretrainedConfig:
    """Loads the config of a reward model.

    Raises:
        ValueError: If there is none, or it is of another model; one line that begins with the path.
    """
    config = load_config(path)
    architectures = config.architectures or []
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise ValueError(
            f"{path} holds {', '.join(architectures) or 'no architecture'}, which has no sequence "
            "classification head"
        )
    if config.num_labels not in (1, 2):
        raise ValueError(
            f"{path} has {config.num_labels} labels; a reward model has one, the reward, or two, "
            "of which the second means good"
        )
    return config
