r"""Serves a policy with value-guided search to any client of OpenAI's protocol.

    python -m search_lib.serve --piref_model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
        --classifier_ckpt_path VGS-AI/DeepSeek-VM-1.5B --num_blocks 8 --num_repetitions 16

Without --piref_model and --classifier_ckpt_path, the toy models of scripts/quickstart.sh, if they
are there. Then

    curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{"model":
        "policy:beam2-8x4", "messages": [{"role": "user", "content": "start 1 +3 *2"}]}'

The name of a model is that of the policy, with its search behind a colon (TYPE-BxT: type, blocks of
a tree, trees); alone it has the search of the flags. The reply has the vote, values and cost of the
search beside the answer. Ctrl-C or SIGTERM ends the server: requests get a few seconds to end.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from search_lib.asking.flags import read_command_line
    from search_lib.serve.args import PROGRAM, ServeFlags

    ARGUMENTS, REMARK = read_command_line(ServeFlags, PROGRAM, __doc__)

import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from run_lib.commands import InputError, naming, run_command
from run_lib.hub import load_tokenizer, quiet_transformers
from search_lib.asking.asker import open_asker
from search_lib.conversations import ConversationTemplate
from search_lib.engines.choice import settle_engine
from search_lib.jobs import Policy
from search_lib.model_checks import Contexts
from search_lib.open_models import OpenModels
from search_lib.prompts import stop_token_ids
from search_lib.serve.args import PROGRAM, ServeFlags
from search_lib.serve.front import build
from search_lib.serve.plans import Planner
from search_lib.serve.server import log_to_stdout, open_socket, serve, url_of


def main(args: ServeFlags) -> None:
    """Loads the models, and serves until it is told to end."""
    # An address that is taken is told at once, and nobody is let in before the models are there.
    with open_socket(args.host, args.port) as listener:
        args = replace(args, engine_flags=settle_engine(args.engine_flags))
        with naming("--piref_model"):
            tokenizer = load_tokenizer(args.piref_model)
            policy = Policy(tokenizer, stop_token_ids(args.piref_model, tokenizer))
            thoughts = args.find_format().thoughts
            template = ConversationTemplate(tokenizer, args.find_instruction(), thoughts)
        context = Contexts(args, tokenizer).smallest
        if args.max_length >= context:
            raise InputError(
                f"--max_length {args.max_length} leaves no room for a prompt in a context of "
                f"{context} tokens"
            )
        log_to_stdout()
        with OpenModels() as models, ThreadPoolExecutor(1) as reader:
            planner = Planner(args, policy, template, context, reader)
            models.run(answer_clients(args, models, planner, policy, listener))
    print("the server has ended", flush=True)


async def answer_clients(
    args: ServeFlags,
    models: OpenModels,
    planner: Planner,
    policy: Policy,
    listener: socket.socket,
) -> None:
    """Opens the models, and answers clients; all in one event loop."""

    def announce() -> None:
        names = planner.names
        print(f"ready: {url_of(listener)}/v1 (models {names.policy}, {names.default})", flush=True)

    log_folder = Path(tempfile.gettempdir())
    if args.scorer_flags.scorer == "sglang":
        log_folder = Path(tempfile.mkdtemp(prefix="value_server_"))
    async with open_asker(args, policy, args.find_format(), models, log_folder) as asker:
        gate, deadlines = build(args, asker, planner, policy)
        await serve(gate, listener, deadlines, args.max_open, announce)


if __name__ == "__main__":
    quiet_transformers()
    if REMARK is not None:
        print(REMARK, flush=True)
    run_command(PROGRAM, lambda: main(ARGUMENTS), at_once=True, interrupted="interrupted")
