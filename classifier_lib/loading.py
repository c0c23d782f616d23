"""Loading value models, and policies to make them of, from folders and from the Hub."""

from pathlib import Path

import torch
from transformers import PretrainedConfig

from classifier_lib.modeling import VALUE_MODELS, ValueModel
from run_lib.checksums import check_intact
from run_lib.hub import check_weights, load_config, loading
from run_lib.text import some_of

MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
"""What is read of a model's folder; compared with the checksums of folders that have some."""


def value_model_class(config: PretrainedConfig) -> type[ValueModel] | None:
    """Returns the class of the value model that a config is of; None if it is of another model."""
    kind = VALUE_MODELS.get(config.model_type)
    return kind if kind and kind.__name__ in (config.architectures or []) else None


def has_sliding_window(config: PretrainedConfig) -> bool:
    """Returns whether some layer of a decoder attends to the latest tokens only."""
    config = config.get_text_config(decoder=True)  # of a model that reads pictures, too
    layers = getattr(config, "layer_types", None)
    # Without types of layers all of them have the window.
    window = getattr(config, "sliding_window", None)
    return set(layers) != {"full_attention"} if layers else window is not None


def check_positions(path: str | Path, config: PretrainedConfig) -> None:
    """Raises ValueError if a token's position depends on the length of the longest row."""
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    if rope in ("dynamic", "longrope"):
        raise ValueError(
            f"{path} has {rope} positions: a sequence's would depend on the others of its batch"
        )


def load_value_config(path: str) -> PretrainedConfig:
    """Loads the config of a value model from a folder or the Hub.

    Raises:
        ValueError: If there is none, it is of another model, or a token's position depends on other
            rows; one line that begins with the path.
    """
    config: PretrainedConfig = load_config(path)
    if value_model_class(config) is None:
        # A policy would load, too: with a head of random numbers.
        names = ", ".join(kind.__name__ for kind in VALUE_MODELS.values())
        raise ValueError(f"{path} holds {config.architectures}, not a value model ({names})")
    check_positions(path, config)
    return config


def load_value_model(
    path: str,
    attention_impl: str = "sdpa",
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> ValueModel:
    """Loads a value model for inference, with every one of its weights.

    Args:
        path: Folder or Hub id.
        attention_impl: See `resolve_attention`.
        dtype: Of the parameters; by default float32 on a CPU, bfloat16 elsewhere.
        device: Where the model goes; by default CUDA when there is one, else CPU.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: If there is none, its files are damaged or don't hold all weights; one line
            that begins with the path.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    check_intact(path, *MODEL_FILES)
    check_safetensors(path)
    kind = VALUE_MODELS[load_value_config(path).model_type]
    with loading(path):
        model, info = kind.from_pretrained(
            path,
            attn_implementation=attention_impl,
            dtype=dtype,
            trust_remote_code=False,
            use_cache=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    check_weights(path, info, "is no value model")
    loaded: ValueModel = model.to(device).eval()
    return loaded


def load_policy_config(path: str | Path) -> PretrainedConfig:
    """Loads the config of a model that a value model can be made of.

    Args:
        path: Hub id or folder of a causal LM of a family in `VALUE_MODELS`, or of a value model.

    Raises:
        ValueError: If there is none, it is of another family, a token's position depends on other
            rows, or its weights are not safetensors; one line that begins with the path.
    """
    config: PretrainedConfig = load_config(str(path))
    if config.model_type not in VALUE_MODELS:
        raise ValueError(
            f"{path} holds a {config.model_type} model; value models are made of "
            f"{', '.join(VALUE_MODELS)}"
        )
    check_positions(path, config)
    check_safetensors(path)
    return config


def check_safetensors(path: str | Path) -> None:
    """Raises ValueError if a local folder has weights, but not in the form that is safe to read."""
    folder = Path(path)
    others = sorted(file.name for file in folder.glob("*.bin"))
    if others and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{path} has its weights in {some_of(others)}; only safetensors are read: save the "
            "model again with save_pretrained of transformers"
        )


def initialize_from_policy(
    path: str | Path,
    num_labels: int,
    attention_dropout: float,
    attn_implementation: str = "sdpa",
    dtype: torch.dtype = torch.float32,
) -> ValueModel:
    """Builds a value model for training: the policy's backbone with a new head.

    The head is drawn with `config.initializer_range` from torch's global generator, so the result
    is determined by `torch.manual_seed`. The LM head is dropped.

    Args:
        path: Hub id or folder of a causal LM of a family in `VALUE_MODELS`, or of a value model,
            which is loaded with its own head.
        num_labels: Number of classes, 1, 2 or 3.
        attention_dropout: Dropout probability in attention and before the head.
        attn_implementation: See `resolve_attention`.
        dtype: Dtype of the parameters.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: If `path` holds a model of another family, a value model with another number of
            labels, or a backbone whose weights are incomplete, damaged or of another shape; one
            line that begins with the path.
    """
    config = load_policy_config(path)
    is_classifier = value_model_class(config) is not None
    if is_classifier and config.num_labels != num_labels:
        raise ValueError(
            f"{path} is a value model with {config.num_labels} labels; "
            f"the loss asked for needs {num_labels}"
        )
    config.num_labels = num_labels
    config.attention_dropout = attention_dropout
    config.tie_word_embeddings = False
    config.use_cache = False  # whole sequences in one forward: a cache would only hold memory
    check_intact(path, *MODEL_FILES)
    with loading(path):
        model, info = VALUE_MODELS[config.model_type].from_pretrained(
            path,
            config=config,
            attn_implementation=attn_implementation,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
        )
    new_head = set() if is_classifier else {f"score.{name}" for name in model.score.state_dict()}
    check_weights(path, info, new=new_head)
    loaded: ValueModel = model
    return loaded
