"""Checks that policy, value model, prompts and lengths fit each other, before any weights load."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from classifier_lib.loading import load_value_config
from run_lib.commands import InputError, naming
from run_lib.hub import check_vocabulary, load_config, load_tokenizer
from run_lib.text import some_of
from search_lib.scorers.factory import check_text_scorer
from search_lib.search_args import Args


def check_models(
    args: Args, tokenizer: PreTrainedTokenizerBase, prompts: dict[str, list[int]]
) -> None:
    """Raises InputError unless the models can read every path of every search.

    Args:
        args: Flags of the run.
        tokenizer: Tokenizer of the policy.
        prompts: Token ids of the prompts, by the problem's id.
    """
    with naming("--piref_model"):
        policy = load_config(args.piref_model)
        if (largest := max(tokenizer.get_vocab().values())) >= policy.vocab_size:
            raise InputError(
                f"--piref_model {args.piref_model}: the model has a vocabulary of "
                f"{policy.vocab_size} tokens, its tokenizer a token {largest}"
            )
    contexts = {"policy": policy.max_position_embeddings}
    flags = args.scorer_flags
    if flags.has_value_model:
        with naming("--classifier_ckpt_path"):
            classifier = load_value_config(args.classifier_ckpt_path)
            check_tokens(args.classifier_ckpt_path, classifier.vocab_size, tokenizer)
        contexts["value model"] = flags.max_path_length(classifier.max_position_embeddings)
    elif flags.has_values:
        with naming("--classifier_ckpt_path"):
            context = check_text_scorer(flags, args.classifier_ckpt_path)
        # Its tokens are others than the policy's, and about as many: a path that is too long for it
        # after all ends its search.
        if context is not None:
            contexts["scorer"] = context
    for role, context in contexts.items():
        too_long = [
            f"{problem_id} ({len(prompt)} tokens)"
            for problem_id, prompt in prompts.items()
            if len(prompt) + args.max_length > context
        ]
        if too_long:
            raise InputError(
                f"prompt and --max_length {args.max_length} exceed the {role}'s context of "
                f"{context} tokens for {len(too_long)} problems: {some_of(too_long)}"
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
