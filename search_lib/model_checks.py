"""Checks that policy, value model, prompts and lengths fit each other, before any weights load."""

from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from classifier_lib.loading import load_value_config
from run_lib.commands import InputError, naming
from run_lib.hub import check_vocabulary, load_config, load_tokenizer
from run_lib.text import some_of
from search_lib.scorers.factory import check_text_scorer
from search_lib.search_flags import SearchFlags


class Contexts:
    """The contexts of the models of a search, by what they are to it.

    Args:
        flags: Name the models.
        tokenizer: Tokenizer of the policy.

    Raises:
        InputError: Unless the models can read each other's tokens; names the flag.
    """

    def __init__(self, flags: SearchFlags, tokenizer: PreTrainedTokenizerBase):
        with naming("--piref_model"):
            policy = load_config(flags.piref_model)
            if (largest := max(tokenizer.get_vocab().values())) >= policy.vocab_size:
                raise InputError(
                    f"--piref_model {flags.piref_model}: the model has a vocabulary of "
                    f"{policy.vocab_size} tokens, its tokenizer a token {largest}"
                )
        self._of = {"policy": policy.max_position_embeddings}
        scorer = flags.scorer_flags
        if scorer.has_value_model:
            with naming("--classifier_ckpt_path"):
                classifier = load_value_config(flags.classifier_ckpt_path)
                check_tokens(flags.classifier_ckpt_path, classifier.vocab_size, tokenizer)
            self._of["value model"] = scorer.max_path_length(classifier.max_position_embeddings)
        elif scorer.has_values:
            with naming("--classifier_ckpt_path"):
                context = check_text_scorer(scorer, flags.classifier_ckpt_path)
            # Its tokens are others than the policy's, and about as many: a path that is too long
            # for it after all ends its search.
            if context is not None:
                self._of["scorer"] = context

    @property
    def smallest(self) -> int:
        """Most tokens of a path, prompt included, that all models can read."""
        return min(self._of.values())

    def check(self, prompts: Mapping[str, list[int]], max_length: int) -> None:
        """Raises InputError unless all models can read every path of every search.

        Args:
            prompts: Token ids of the prompts, by the problem's id.
            max_length: Most tokens of a response.
        """
        for role, context in self._of.items():
            too_long = [
                f"{problem_id} ({len(prompt)} tokens)"
                for problem_id, prompt in prompts.items()
                if len(prompt) + max_length > context
            ]
            if too_long:
                problems = f"{len(too_long)} problem{'s' * (len(too_long) != 1)}"
                raise InputError(
                    f"prompt and --max_length {max_length} exceed the {role}'s context of "
                    f"{context} tokens for {problems}: {some_of(too_long)}"
                )


def check_tokens(model: str, vocab_size: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that a value model can be one for the policy's tokens.

    The published value model carries no tokenizer of its own; then its number of embeddings is all
    there is to compare.

    Args:
        model: Folder or Hub id of the value model.
        vocab_size: Embeddings of the value model.
        tokenizer: Tokenizer of the policy.

    Raises:
        ValueError: If it can't; begins with the name of the model.
    """
    try:
        check_vocabulary(tokenizer, vocab_size)
    except ValueError as error:
        raise ValueError(f"{model}: {error}") from error
    has_own = (Path(model) / "tokenizer.json").is_file()
    if has_own and load_tokenizer(model).get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"{model} comes with another tokenizer than the policy's: the same ids mean other "
            "tokens"
        )
