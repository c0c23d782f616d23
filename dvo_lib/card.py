"""The model card of a policy, from the numbers of its run."""

from typing import Any

from classifier_lib.training.card import card_metadata, metrics_table, settings_table

CARD = """\
---
{metadata}
---

# {run_name}

A language model trained with Direct Value Optimization (arXiv 2502.13723): on every step of a
response, beta times the logarithm of its probability over that under the base policy is fitted to
the step's credit, by which a tree search found the expected reward to change.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{repo_id}")
tokenizer = AutoTokenizer.from_pretrained("{repo_id}")
```

## Training

{steps} steps of {batch} trees ({epochs} epochs of {trees} trees with {paths} paths), from the base
policy `{model_path}` on `{data_path}`. All settings are in `config.json` of the run:

{settings}

## Evaluation

{evaluation}
"""

CARD_SETTINGS = (
    "beta",
    "normalize",
    "total_batch_size",
    "max_lr",
    "warmup_ratio",
    "weight_decay",
    "packing",
    "parallel",
    "seed",
)


def policy_card(
    config: dict[str, Any],
    num_steps: int,
    num_trees: int,
    num_paths: int,
    evaluation: dict[str, float] | None,
) -> str:
    """Returns the model card of a DVO run, from its own numbers.

    Args:
        config: Configuration of the run.
        num_steps: Optimizer steps.
        num_trees: Trees in the data.
        num_paths: Their paths.
        evaluation: Metrics of `learner.evaluate` on held-out trees; None if there are none.
    """
    text = "Not evaluated on held-out trees."
    if evaluation is not None:
        text = f"On the trees of `{config['eval_data_path']}`:\n\n{metrics_table(evaluation)}"
    return CARD.format(
        metadata=card_metadata(config, "text-generation", ["direct-value-optimization"]),
        **{name: config[name] for name in ("model_path", "data_path", "run_name")},
        repo_id=config["hub_model_id"] or config["run_name"],
        steps=f"{num_steps:,}",
        batch=f"{config['total_batch_size']:,}",
        epochs=f"{num_steps * config['total_batch_size'] / num_trees:.2f}",
        trees=f"{num_trees:,}",
        paths=f"{num_paths:,}",
        settings=settings_table(config, CARD_SETTINGS),
        evaluation=text,
    )
