"""The trainers of TRL, on token ids: supervised training, DPO and KTO.

TRL tokenizes the texts of a data set, and puts the end token behind every completion. Here rows are
token ids already (`dvo_lib.token_lines`), and go to the collators of TRL as they are.
"""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, List, Value
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from classifier_lib.training.step import learning_rate
from dvo_lib.token_lines import Method, TokenLines

DESIRABLE_WEIGHT = 1.33
"""Weight of right responses in KTO against 1 of wrong ones, as in the DVO paper (Appendix C)."""

IGNORED = -100
"""Label of a token without loss."""


@dataclass(frozen=True)
class TrlSettings:
    """What a training depends on, besides its data and policy.

    Attributes:
        method: The method.
        beta: Strength of the reference in DPO and KTO.
        max_lr: Largest learning rate.
        warmup_ratio: Share of the steps that is linear warm-up.
        num_steps: Optimizer steps.
        total_batch_size: Lines in one, over all processes.
        micro_batch_size: Lines in a micro batch of a process.
        accumulation: Micro batches of a process in a step.
        seed: Seed of the order of the data.
    """

    method: Method
    beta: float
    max_lr: float
    warmup_ratio: float
    num_steps: int
    total_batch_size: int
    micro_batch_size: int
    accumulation: int
    seed: int


@dataclass
class TokenCounts:
    """Tokens that a training has used.

    Attributes:
        trained: Tokens with a loss; in a pair those of both completions.
        read: All tokens of the forward passes that have a gradient: prompts included, padding not.
    """

    trained: int = 0
    read: int = 0

    def add(self, inputs: dict[str, torch.Tensor]) -> None:
        """Adds a micro batch as it comes from a collator of TRL."""
        mask = inputs["labels"] != IGNORED if "labels" in inputs else inputs["completion_mask"]
        self.trained += int(mask.sum())
        self.read += int(inputs["attention_mask"].sum())


class OnTokenIds:
    """Changes a trainer of TRL: its rows are complete, and nothing is reported to the Hub.

    The learning rate is that of `train_dvo.py`, so that a comparison is one of losses.

    Attributes:
        counts: Tokens of this process so far.
    """

    lr_scheduler: Any

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.counts = TokenCounts()
        self.remove_callback(PrinterCallback)  # type: ignore[attr-defined]

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Returns the schedule: linear warm-up, then cosine to a tenth."""
        warmup_steps = int(self.args.warmup_steps * num_training_steps)  # type: ignore[attr-defined]
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer,  # type: ignore[attr-defined]
            lambda step: learning_rate(step, num_training_steps, warmup_steps, 1.0),
        )
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], *more: Any) -> torch.Tensor:
        """Trains on a micro batch, and counts its tokens."""
        self.counts.add(inputs)
        loss: torch.Tensor = super().training_step(model, inputs, *more)  # type: ignore[misc]
        return loss

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Writes none."""

    def _send_telemetry(self) -> None:
        pass


class SftOnTokenIds(OnTokenIds, SFTTrainer):
    """Supervised training on completions."""


class DpoOnTokenIds(OnTokenIds, DPOTrainer):
    """Direct Preference Optimization."""


class KtoOnTokenIds(OnTokenIds, KTOTrainer):
    """Kahneman-Tversky Optimization."""


def build_trainer(
    settings: TrlSettings,
    lines: TokenLines,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    **arguments: Any,
) -> Any:
    """Makes the trainer of a method; its `counts` hold the tokens of its steps.

    Args:
        settings: The settings.
        lines: What it trains on.
        model: The policy. DPO and KTO take a copy of it for the reference.
        tokenizer: Its tokenizer; of it only the padding token is used.
        output: Folder of the checkpoints.
        **arguments: Further `TrainingArguments`: how often it logs and saves.
    """
    is_on_gpu = torch.cuda.is_available()
    common: dict[str, Any] = {
        "output_dir": str(output),
        # The rows of all passes, in the order in which they come.
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "learning_rate": settings.max_lr,
        "warmup_steps": settings.warmup_ratio,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": settings.seed,
        "bf16": is_on_gpu,
        "use_cpu": not is_on_gpu,
        "max_length": None,  # longer lines were left out
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        **arguments,
    }
    lines = in_order(lines, settings)
    if settings.method == "sft":
        return SftOnTokenIds(
            model,
            args=SFTConfig(**common),
            train_dataset=_sft_rows(lines),
            processing_class=tokenizer,
        )
    common |= {"beta": settings.beta, "disable_dropout": True}
    reference = copy.deepcopy(model).requires_grad_(False)
    if settings.method == "dpo":
        return DpoOnTokenIds(
            model,
            reference,
            DPOConfig(**common),
            train_dataset=_id_rows(lines),
            processing_class=tokenizer,
        )
    return KtoOnTokenIds(
        model,
        reference,
        KTOConfig(desirable_weight=DESIRABLE_WEIGHT, **common),
        train_dataset=_kto_rows(lines, settings.micro_batch_size),
        processing_class=tokenizer,
    )


def in_order(lines: TokenLines, settings: TrlSettings) -> TokenLines:
    """Returns the lines of all steps: pass after pass, each in an order of its own.

    Batches are whole, so that a step is the same for any number of processes: the trainer itself
    would have a smaller one at the end of a pass, and fill it up where it has several processes.
    """
    count = settings.num_steps * settings.total_batch_size
    passes = [
        np.random.default_rng([settings.seed, number]).permutation(len(lines))
        for number in range(math.ceil(count / len(lines)))
    ]
    order = np.concatenate(passes)[:count]
    columns = {name: [column[i] for i in order] for name, column in lines.columns.items()}
    return TokenLines(columns, lines.num_left_out)


def _sft_rows(lines: TokenLines) -> Dataset:
    pairs = list(
        zip(lines.columns["prompt_token_ids"], lines.columns["completion_token_ids"], strict=True)
    )
    return Dataset.from_dict(
        {
            "input_ids": [np.concatenate(pair) for pair in pairs],
            "labels": [
                np.concatenate([np.full_like(prompt, IGNORED), completion])
                for prompt, completion in pairs
            ],
        }
    )


def _id_rows(lines: TokenLines) -> Dataset:
    return Dataset.from_dict(
        {name.replace("_token", ""): column for name, column in lines.columns.items()}
    )


def _kto_rows(lines: TokenLines, micro_batch_size: int) -> Dataset:
    """Returns rows for KTO, with the mismatched completions of which it estimates the KL.

    As in TRL, a row of a micro batch gets the completion of the row before it. In a file the paths
    of a tree are neighbours, with one prompt for all, and no completion would be mismatched: it is
    the order of `in_order` that makes them so.
    """
    completions = lines.columns["completion_token_ids"]
    mismatched = [
        completions[start + (place - 1) % micro_batch_size]
        for start in range(0, len(completions), micro_batch_size)
        for place in range(micro_batch_size)
    ]
    return _id_rows(lines).add_column("KL_completion_ids", mismatched, feature=List(Value("int32")))
