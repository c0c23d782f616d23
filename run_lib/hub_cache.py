"""Files of the Hugging Face Hub that are on this machine already: found without transformers."""

from pathlib import Path

import huggingface_hub
from huggingface_hub.utils import HFValidationError


def find_cached(model: str, name: str) -> Path | None:
    """Returns a file of a repository in the Hub's cache; None if it isn't there."""
    try:
        found = huggingface_hub.try_to_load_from_cache(model, name)
    except HFValidationError:  # a folder that is gone
        return None
    return Path(found) if isinstance(found, str) else None
