"""The model card of a training run, from its own numbers."""

from collections.abc import Iterable
from typing import Any

import huggingface_hub

from run_lib.hub import hub_id

CARD = """\
---
{metadata}
---

# {run_name}

A token-level value model for Value-Guided Search (arXiv 2505.17373): after every token of a
response it gives the probability that the response ends in a correct answer. Classes: 0 finished
and incorrect, 1 finished and correct, 2 unfinished; the value is the probability of class 1.

```python
from transformers import AutoModelForTokenClassification

model = AutoModelForTokenClassification.from_pretrained("{repo_id}", trust_remote_code=True)
values = model(input_ids).success_probs  # [batch, tokens]
```

## Training

{steps} steps of {batch} samples ({epochs} epochs of {samples} roll-outs), loss `{loss}`, from
`{model_path}` on `{data_path}`. All settings are in `config.json` of the run:

{settings}

## Evaluation

{evaluation}
"""


CARD_SETTINGS = (
    "total_batch_size",
    "max_lr",
    "weight_decay",
    "attention_dropout",
    "max_length",
    "packing",
    "parallel",
    "param_dtype",
    "seed",
)


def model_card(
    config: dict[str, Any],
    num_steps: int,
    num_samples: int,
    evaluation: dict[str, Any] | None,
    repo_id: str,
) -> str:
    """Returns the model card of a training run, from its own numbers.

    Args:
        config: Configuration of the run.
        num_steps: Optimizer steps.
        num_samples: Roll-outs in the data.
        evaluation: Metrics of `evaluation.evaluate` on held-out data; None if there are none.
        repo_id: Repository that the model goes to.
    """
    text = "Not evaluated on held-out roll-outs."
    if evaluation:
        scores = {
            name: evaluation[name]
            for name in ("loss", "accuracy", "auroc", "brier", "calibration_error")
            if evaluation.get(name) is not None
        }
        text = (
            f"On {evaluation['num_tokens']:,} roll-out tokens of `{config['eval_data_path']}`:\n\n"
            f"{metrics_table(scores)}"
        )
    return CARD.format(
        metadata=card_metadata(
            config, "token-classification", ["value-model", "value-guided-search"]
        ),
        **{name: config[name] for name in ("model_path", "data_path", "run_name", "loss")},
        repo_id=repo_id,
        steps=f"{num_steps:,}",
        batch=f"{config['total_batch_size']:,}",
        epochs=f"{num_steps * config['total_batch_size'] / num_samples:.2f}",
        samples=f"{num_samples:,}",
        settings=settings_table(config, CARD_SETTINGS),
        evaluation=text,
    )


def card_metadata(config: dict[str, Any], pipeline_tag: str, tags: list[str]) -> str:
    """Returns what stands at the head of a card, in YAML.

    Args:
        config: Configuration of the run.
        pipeline_tag: The task, by the Hub's name of it.
        tags: Words that the model is found by.
    """
    metadata = huggingface_hub.ModelCardData(
        library_name="transformers",
        pipeline_tag=pipeline_tag,
        tags=tags,
        base_model=hub_id(config["model_path"]),
        datasets=[dataset] if (dataset := hub_id(config["data_path"])) else None,
    )
    return str(metadata.to_yaml())


def settings_table(config: dict[str, Any], names: Iterable[str]) -> str:
    """Returns a table of settings of a run."""
    rows = (f"| {name} | {config[name]} |" for name in names)
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def metrics_table(metrics: dict[str, float]) -> str:
    """Returns a table of metrics."""
    rows = (f"| {name} | {value:.4f} |" for name, value in metrics.items())
    return "\n".join(["| metric | value |", "|---|---|", *rows])
