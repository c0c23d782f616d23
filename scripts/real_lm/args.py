"""The flags of `scripts.real_lm.policy`."""

from dataclasses import dataclass
from pathlib import Path

PROGRAM = "scripts.real_lm.policy"


@dataclass(frozen=True)
class PolicyArgs:
    """Make a policy folder of a GGUF file."""

    gguf: Path
    """The file."""
    output: Path
    """Folder to write to; one that is there is left alone."""
