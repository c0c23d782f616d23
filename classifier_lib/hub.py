"""Model folders as the Hugging Face Hub has them: tokenizer, model card, upload."""

from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from classifier_lib.commands import InputError
from classifier_lib.modeling import Qwen2ForClassifier

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Loads a tokenizer from a folder or the Hub.

    Raises:
        ValueError: If there is none or its files are damaged; one line that begins with the path.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # whatever a damaged file comes up with
        raise ValueError(
            f"{path}: no tokenizer could be loaded: {load_failure(path, error)}"
        ) from error
    # Of a folder with a Qwen2 config.json and no tokenizer, transformers makes one that knows the
    # end of text only, and turns every text into nothing.
    if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
        raise ValueError(f"{path}: no tokenizer could be loaded: its files are missing")
    return tokenizer


def load_config(path: str) -> Any:
    """Loads the transformers configuration of a model from a folder or the Hub.

    Raises:
        ValueError: If there is none or it is damaged; one line that begins with the path.
    """
    try:
        return AutoConfig.from_pretrained(path)
    except Exception as error:  # whatever a damaged file comes up with
        raise ValueError(f"{path}: no model could be found: {load_failure(path, error)}") from error


def load_value_config(path: str) -> PretrainedConfig:
    """Loads the config of a value model from a folder or the Hub.

    Raises:
        ValueError: If there is none, or it is of another model; one line that begins with the path.
    """
    config = load_config(path)
    if Qwen2ForClassifier.__name__ not in (config.architectures or []):
        # A policy would load, too: with a head of random numbers.
        raise ValueError(
            f"{path} holds {config.architectures}, not a value model "
            f"({Qwen2ForClassifier.__name__})"
        )
    return config


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Raises ValueError if a model of this many embeddings can't be one for the tokenizer.

    Any token id below that number runs, and those of another family give nonsense. Padding rows are
    the difference: up to 300 for Qwen2.5, more for larger models.
    """
    needed = max(tokenizer.get_vocab().values()) + 1
    if not needed <= vocab_size <= needed + max(1024, needed // 20):
        raise ValueError(
            f"the model has a vocabulary of {vocab_size} tokens, the tokenizer one of {needed}: "
            "they don't belong together"
        )


def load_failure(path: str, error: Exception) -> str:
    """Returns in one line why transformers could load nothing from a folder or Hub id."""
    place = "" if Path(path).is_dir() else "no such folder, and from the Hub: "
    return f"{place}{type(error).__name__}: {' '.join(str(error).split())}"


def read_tokenizer(model_path: str | Path) -> dict[str, bytes]:
    """Returns the tokenizer files of a model folder or Hub repository by name; {} if it has none.

    They are copied as they are: loading and saving them again may change a tokenizer.
    """
    folder = Path(model_path)
    if not folder.is_dir():
        patterns = list(TOKENIZER_FILES)
        folder = Path(huggingface_hub.snapshot_download(str(model_path), allow_patterns=patterns))
    files = [folder / name for name in TOKENIZER_FILES]
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Writes files by name into a folder."""
    for name, content in files.items():
        (folder / name).write_bytes(content)


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

| setting | value |
|---|---|
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


def _hub_id(source: str) -> str | None:
    """Returns the Hub id that a model or data set came from; None if it was a path."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return None
    return None if source.count("/") != 1 or Path(source).exists() else source


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
        rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in scores.items())
        text = (
            f"On {evaluation['num_tokens']:,} roll-out tokens of `{config['eval_data_path']}`:\n\n"
            f"| metric | value |\n|---|---|\n{rows}"
        )
    metadata = huggingface_hub.ModelCardData(
        library_name="transformers",
        pipeline_tag="token-classification",
        tags=["value-model", "value-guided-search"],
        base_model=_hub_id(config["model_path"]),
        datasets=[dataset] if (dataset := _hub_id(config["data_path"])) else None,
    )
    return CARD.format(
        metadata=metadata.to_yaml(),
        **{name: config[name] for name in ("model_path", "data_path", "run_name", "loss")},
        repo_id=repo_id,
        steps=f"{num_steps:,}",
        batch=f"{config['total_batch_size']:,}",
        epochs=f"{num_steps * config['total_batch_size'] / num_samples:.2f}",
        samples=f"{num_samples:,}",
        settings="\n".join(f"| {name} | {config[name]} |" for name in CARD_SETTINGS),
        evaluation=text,
    )


def push_folder(folder: Path, repo_id: str) -> str:
    """Uploads a model folder to the Hugging Face Hub, creating the repository if needed.

    Returns:
        Address of the repository.
    """
    api = huggingface_hub.HfApi()
    url = api.create_repo(repo_id, exist_ok=True)
    api.upload_folder(repo_id=url.repo_id, folder_path=folder)
    return str(url)


def create_dataset(repo_id: str) -> str:
    """Creates a data set repository if there is none, and returns its id.

    Raises:
        InputError: If the Hub doesn't let us.
    """
    try:
        return (
            huggingface_hub.HfApi().create_repo(repo_id, repo_type="dataset", exist_ok=True).repo_id
        )
    except Exception as error:  # the Hub's client has no common base for what can go wrong
        raise InputError(f"--push_to_hub {load_failure(repo_id, error)}") from error


def push_dataset(folder: Path, repo_id: str) -> str:
    """Uploads the card and the Parquet files of a data set, in place of those that are there.

    Returns:
        Address of the repository.
    """
    commit = huggingface_hub.HfApi().upload_folder(
        repo_id=create_dataset(repo_id),
        repo_type="dataset",
        folder_path=folder,
        allow_patterns=["README.md", "*/*.parquet"],
        delete_patterns="*/*.parquet",
    )
    return str(commit.repo_url)
