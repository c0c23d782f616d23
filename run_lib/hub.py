"""Folders and repositories in the form of the Hugging Face Hub: load, check, upload."""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
from huggingface_hub.utils import HFValidationError, validate_repo_id

from run_lib.checksums import check_intact
from run_lib.commands import RunStopped
from run_lib.text import one_line, shorten, some_of

if TYPE_CHECKING:  # takes seconds, and who only uploads does without
    from transformers import PreTrainedTokenizerBase

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


class NotPushed(RunStopped):
    """A folder did not get to the Hub; it is where it was."""


def quiet_transformers() -> None:
    """Turns off what transformers says on loading weights, which no command wants in its output.

    These are bars, and reports of many lines on missing weights: `check_weights` names them in one.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@contextlib.contextmanager
def loading(path: str | Path, failure: str = "no model could be loaded") -> Iterator[None]:
    """Gives one kind of error to whatever transformers comes up with for a folder or a Hub id.

    The code of a model folder is never run: loaders within the block say `trust_remote_code=False`,
    as transformers asks on the terminal otherwise.

    Args:
        path: What the block loads from.
        failure: What it means for the user that the block failed.

    Raises:
        ValueError: In place of any error of the block; one line that begins with the path.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path}: {failure}: {_reason(path, error)}") from error


def _reason(path: str | Path, error: Exception) -> str:
    if "trust_remote_code" in str(error):  # transformers has no error of its own for this
        return "it comes with code of its own, which is not run"
    place = "" if os.path.exists(path) else "no such folder, and from the Hub: "
    return f"{place}{type(error).__name__}: {one_line(error)}"


def load_tokenizer(path: str) -> "PreTrainedTokenizerBase":
    """Loads a tokenizer from a folder or the Hub.

    Raises:
        ValueError: If there is none, its files are damaged, or it needs code of its own; one line
            that begins with the path.
    """
    from transformers import AutoTokenizer

    check_intact(path, *TOKENIZER_FILES)
    with loading(path, "no tokenizer could be loaded"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, trust_remote_code=False
        )
        ids = tokenizer.encode("the answer is 1", add_special_tokens=False)
    # Of a folder with a Qwen2 config.json and no tokenizer, transformers makes one that knows some
    # control tokens only, and turns every text into nothing.
    if not ids:
        raise ValueError(f"{path}: no tokenizer could be loaded: its files are missing")
    return tokenizer


def load_config(path: str) -> Any:
    """Loads the transformers configuration of a model from a folder or the Hub.

    Raises:
        ValueError: If there is none, it is damaged, no model has its sizes, or it needs code of its
            own; one line that begins with the path.
    """
    from transformers import AutoConfig, PretrainedConfig

    check_intact(path, "config.json")
    with loading(path, "no model could be found"):
        content, _ = PretrainedConfig.get_config_dict(path)
    # Before transformers makes a list of 10^12 layers.
    if fault := _impossible_size(content):
        raise ValueError(f"{path}: config.json has {fault}")
    with loading(path, "no model could be found"):
        return AutoConfig.from_pretrained(path, trust_remote_code=False)


_MOST = {
    "vocab_size": 10**8,
    "hidden_size": 10**6,
    "intermediate_size": 10**7,
    "num_hidden_layers": 10**4,
    "num_attention_heads": 10**4,
    "num_key_value_heads": 10**4,
}
"""More than any model has."""


def _impossible_size(config: dict[str, Any]) -> str | None:
    """Returns the first size in a config.json that no model has, as it follows "has"."""
    sizes = {name: config[name] for name in _MOST if config.get(name) is not None}
    for name, size in sizes.items():
        if type(size) is not int or not 1 <= size <= _MOST[name]:
            return f"{name} {shorten(repr(size), 40)}, which is no number from 1 to {_MOST[name]:,}"
    divided = [("num_attention_heads", "num_key_value_heads")]
    if not config.get("head_dim"):
        divided.append(("hidden_size", "num_attention_heads"))
    for name, by in divided:
        if sizes.get(name, 0) % sizes.get(by, 1):
            return f"{name} {sizes[name]}, which is no multiple of {by} {sizes[by]}"
    return None


def check_weights(
    path: str | Path,
    info: Mapping[str, Any],
    failure: str = "is no whole model",
    new: Collection[str] = (),
) -> None:
    """Checks that a model was loaded whole: transformers goes on with random weights.

    Args:
        path: What it was loaded from.
        info: What `from_pretrained` tells with `output_loading_info`; to name weights of another
            shape it needs `ignore_mismatched_sizes`, too.
        failure: What it means for the user that some are missing.
        new: Weights that may be missing.

    Raises:
        ValueError: Naming weights that are missing or of another shape; begins with the path.
    """
    missing = sorted(set(info["missing_keys"]) - set(new))
    misshapen = sorted({name for name, *_ in info["mismatched_keys"]})
    for what, names in (("no", missing), ("misshapen", misshapen)):
        if names:
            raise ValueError(f"{path} {failure}: {what} weights for {some_of(names)}")


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", vocab_size: int) -> None:
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


def read_tokenizer(model_path: str | Path) -> dict[str, bytes]:
    """Returns the tokenizer files of a model folder or Hub repository by name; {} if it has none.

    They are copied as they are: loading and saving them again may change a tokenizer.

    Raises:
        ValueError: If the Hub gives none; one line that begins with the path.
    """
    folder = Path(model_path)
    if not folder.is_dir():
        patterns = list(TOKENIZER_FILES)
        with loading(model_path, "no tokenizer could be loaded"):
            copy = huggingface_hub.snapshot_download(str(model_path), allow_patterns=patterns)
        folder = Path(copy)
    files = [folder / name for name in TOKENIZER_FILES]
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def hub_id(source: str) -> str | None:
    """Returns the Hub id that a model or data set came from; None if it was a path."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return None
    return None if source.count("/") != 1 or Path(source).exists() else source


def push_folder(folder: Path, repo_id: str, leave_out: Sequence[str] = ()) -> str:
    """Uploads a model folder to the Hugging Face Hub, creating the repository if needed.

    Args:
        folder: The folder.
        repo_id: The repository.
        leave_out: Patterns of files that stay here.

    Returns:
        Address of the repository.

    Raises:
        NotPushed: If that fails, for whatever reason of the network or the Hub, or the folder is
            damaged.
    """
    try:
        check_intact(folder, "*.json", "*.safetensors")  # people edit their cards
        api = huggingface_hub.HfApi()
        url = api.create_repo(repo_id, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, ignore_patterns=list(leave_out))
    except Exception as error:
        raise NotPushed(
            f"{folder} could not be pushed to {repo_id}: {type(error).__name__}: {error}"
        ) from error
    return str(url)


def create_dataset(repo_id: str) -> str:
    """Creates a data set repository if there is none, and returns its id.

    Raises:
        ValueError: If the Hub refuses; one line that begins with the id.
    """
    with loading(repo_id, "no repository could be made"):
        return (
            huggingface_hub.HfApi().create_repo(repo_id, repo_type="dataset", exist_ok=True).repo_id
        )


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
