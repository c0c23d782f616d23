"""Step PRMs and reward models by transformers: what is loaded, and how scores are read."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol, cast

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

from classifier_lib.loading import MODEL_FILES, check_positions, check_safetensors
from classifier_lib.scoring import ScoringRequest, ValueScorer, batch_by_length
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


class InputScores(NamedTuple):
    """What a model read.

    Attributes:
        scores: One in [0, 1] for each of the input's `reads`.
        tokens_cached: Tokens at the input's start that did not have to be computed.
    """

    scores: list[float]
    tokens_cached: int


class TextModel(Protocol):
    """A model that reads scores off inputs."""

    def read(self, inputs: Sequence[ScorerInput]) -> list[InputScores]:
        """Returns the scores of each input."""
        ...


class StepProbabilities(nn.Module):
    """A step PRM as a value model is: it has a probability after every token.

    Args:
        model: Of `STEP_CLASSES`.
        reader: Its layout.
    """

    def __init__(self, model: Any, reader: StepReader):
        super().__init__()
        self.model = model
        self._reader = reader

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.model.device

    @property
    def config(self) -> Any:
        """The model's, which tells how its states are laid out."""
        return self.model.config

    def set_attn_implementation(self, name: str) -> None:
        """Changes the model's attention."""
        self.model.set_attn_implementation(name)

    def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:
        """Returns `success_probs`, [batch, tokens]: P that a step which ends there is good.

        Of a language model, only the two rows of its output matrix that belong to the answers run.
        """
        hidden = self.model.base_model(input_ids=input_ids, **options).last_hidden_state
        answers = self._reader.answer_ids
        if answers:
            matrix = self.model.get_output_embeddings()
            bias = None if matrix.bias is None else matrix.bias[answers]
            logits = nn.functional.linear(hidden, matrix.weight[answers], bias)
        else:
            logits = self.model.head(hidden)
        return SimpleNamespace(success_probs=squash(logits, self._reader.layout.good))


class StepModel:
    """A step PRM, which keeps the states of finished steps.

    The last step of a response may not be at its end, so that its tokens can be others in the next
    round: the states up to the step before it are kept.

    Args:
        model: In evaluation mode, of `STEP_CLASSES`.
        reader: Its layout.
        max_batch_tokens: See `ValueScorer`.
        max_cached_tokens: See `ValueScorer`.
    """

    def __init__(
        self, model: Any, reader: StepReader, max_batch_tokens: int, max_cached_tokens: int
    ):
        self._values = ValueScorer(
            cast("Any", StepProbabilities(model, reader)),
            max_batch_tokens,
            max_cached_tokens,
            prefix_values=True,
        )

    def read(self, inputs: Sequence[ScorerInput]) -> list[InputScores]:
        """Returns the probability that each step of each input is good."""
        requests = []
        for one in inputs:
            cut = one.reads[-2] + 1 if len(one.reads) > 1 else one.shared
            requests.append(ScoringRequest(one.ids[:cut], [one.ids[cut:]], last=[True]))
        results = []
        for one, scores in zip(inputs, self._values.score(requests), strict=True):
            (values,) = scores.token_values or ()
            results.append(InputScores(values[one.reads].tolist(), scores.tokens_cached or 0))
        return results


class RewardModel:
    """A reward model with a sequence classification head of one or two labels.

    Its input ends otherwise in every round, and its score stands at the end: no states are kept.

    Args:
        model: In evaluation mode.
        max_batch_tokens: Tokens of one forward pass, padding included. A longer input runs alone.
    """

    def __init__(self, model: PreTrainedModel, max_batch_tokens: int):
        self._model = model
        self._max_batch_tokens = max_batch_tokens
        self._pad_token_id = model.config.pad_token_id

    def read(self, inputs: Sequence[ScorerInput]) -> list[InputScores]:
        """Returns the sigmoid of the reward, or the probability of label 1, of each input."""
        results = [InputScores([], 0)] * len(inputs)
        lengths = [len(one.ids) for one in inputs]
        for batch in batch_by_length(lengths, self._max_batch_tokens):
            values = self._forward([inputs[place] for place in batch])
            for place, value in zip(batch, values, strict=True):
                results[place] = InputScores([value], 0)
        return results

    @torch.inference_mode()
    def _forward(self, inputs: Sequence[ScorerInput]) -> list[float]:
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
        device = self._model.device
        output = self._model(input_ids=ids.to(device), attention_mask=mask.to(device))
        return squash(output.logits, good=1).tolist()


def squash(logits: torch.Tensor, good: int) -> torch.Tensor:
    """Returns scores in [0, 1]: the sigmoid of one logit, or the softmax of two.

    Args:
        logits: [..., 1] or [..., 2].
        good: Which of two stands for a good text.
    """
    logits = logits.float()
    return logits[..., 0].sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)[..., good]


def load_step_prm(
    path: str, reader: StepReader, attention_impl: str, device: torch.device
) -> PreTrainedModel:
    """Loads a step PRM with every one of its weights; code of its own is not run.

    Raises:
        ValueError: If there is none, its files are damaged or don't hold all weights; one line
            that begins with the path.
    """
    loader = STEP_CLASSES[reader.layout.architecture]
    return _load(loader, path, attention_impl, device)


def load_reward_model(path: str, attention_impl: str, device: torch.device) -> PreTrainedModel:
    """Loads a reward model with every one of its weights; code of its own is not run.

    Raises:
        ValueError: See `load_step_prm`.
    """
    return _load(AutoModelForSequenceClassification, path, attention_impl, device)


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
        ValueError: If there is none, a token's position depends on other rows, or its logits are
            bent behind the output matrix; one line that begins with the path.
    """
    config = load_config(path)
    check_positions(path, config)
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
