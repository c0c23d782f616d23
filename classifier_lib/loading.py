"""Loading value models from folders and from the Hub."""

import torch
from transformers import PretrainedConfig

from classifier_lib.modeling import Qwen2ForClassifier
from run_lib.hub import load_config, load_failure


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


def load_value_model(
    path: str, attention_impl: str, dtype: torch.dtype, device: torch.device
) -> Qwen2ForClassifier:
    """Loads a value model for inference, with every one of its weights.

    Args:
        path: Folder or Hub id.
        attention_impl: See `resolve_attention`.
        dtype: Of the parameters.
        device: Where the model goes.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: If there is none, its files are damaged or don't hold all weights; one line
            that begins with the path.
    """
    try:
        model, info = Qwen2ForClassifier.from_pretrained(
            path,
            attn_implementation=attention_impl,
            dtype=dtype,
            use_cache=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
        )
    except Exception as error:  # whatever a damaged file comes up with
        raise ValueError(
            f"{path}: no model could be loaded: {load_failure(path, error)}"
        ) from error
    # transformers would go on with random weights.
    misshapen = {name for name, *_ in info["mismatched_keys"]}
    for what, names in (("no", info["missing_keys"]), ("misshapen", misshapen)):
        if names:
            named = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise ValueError(f"{path} is no value model: {what} weights for {named}")
    return model.to(device).eval()
