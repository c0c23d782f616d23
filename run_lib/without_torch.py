"""Tokenizers without torch, for commands that run no model."""

import os
import sys


def leave_out_torch() -> None:
    """Has transformers find no torch in this process, unless it is imported already.

    A tokenizer of transformers needs none, but imports it where it finds it, which takes seconds.
    A command says this ahead of its other imports.
    """
    if "torch" not in sys.modules:
        # transformers would say that it has found none.
        os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
        # How Python spells a module that there is not: to look for it finds nothing.
        sys.modules["torch"] = None  # type: ignore[assignment]
