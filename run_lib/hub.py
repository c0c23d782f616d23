"""Model folders as the Hugging Face Hub has them: tokenizer, model card, upload."""

from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from run_lib.commands import InputError

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


def hub_id(source: str) -> str | None:
    """Returns the Hub id that a model or data set came from; None if it was a path."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return None
    return None if source.count("/") != 1 or Path(source).exists() else source


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
