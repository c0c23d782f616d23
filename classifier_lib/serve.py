"""Serves a value model with SGLang, for `--scorer sglang_server`.

    python -m classifier_lib.serve --model VGS-AI/DeepSeek-VM-1.5B --port 30001 [SGLang's arguments]

`POST /v1/embeddings` with `{"input": [[token ids], ...]}` answers with four numbers for each
sequence: the probabilities of the classes 0 to 2 after its last token, of which 1 is the value, and
the number of its tokens that were in the cache and not computed again. Several servers behind a
router: `scripts/serve_value_model.sh`.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    import sys

    from classifier_lib.args import SERVE, check_serving, parse_serving
    from run_lib.commands import run_command

    parse_serving(sys.argv[1:], __doc__)
    run_command(SERVE, check_serving)

import ctypes
import importlib
import os
import signal
import sys
from functools import partial
from typing import Any

import torch

from classifier_lib.args import SERVE, check_serving, parse_serving
from classifier_lib.loading import has_sliding_window, load_value_config
from classifier_lib.modeling import VALUE_MODELS
from run_lib.addresses import is_loopback
from run_lib.commands import InputError, naming, run_command
from run_lib.ports import free_port

MODEL_PACKAGE = "classifier_lib.sglang_model"


def server_arguments(model: str, on_gpu: bool) -> list[str]:
    """Returns SGLang's arguments for a value model; more behind them take precedence.

    Args:
        model: Folder or Hub id.
        on_gpu: Whether there is a CUDA device.
    """
    arguments = ["--model-path", model, "--is-embedding"]
    arguments += ["--skip-tokenizer-init"]  # a value model comes without a tokenizer
    # A cached prefix ends at a whole page: of larger ones, a block's first tokens would have to
    # be computed together with the end of the prefix, again.
    arguments += ["--page-size", "1"]
    if on_gpu:
        return [*arguments, "--dtype", "bfloat16"]
    arguments += ["--device", "cpu", "--attention-backend", "torch_native", "--dtype", "float32"]
    arguments += ["--sleep-on-idle"]  # a scheduler that waits would keep a core busy
    # SGLang sizes its cache by the memory of a GPU.
    return [*arguments, "--max-total-tokens", "65536", "--max-running-requests", "64"]


def check_registered() -> None:
    """Raises InputError, with the reason, if SGLang doesn't know the value models.

    SGLang itself only logs the reason.
    """
    from sglang.srt.models.registry import ModelRegistry

    if all(kind.__name__ in ModelRegistry.models for kind in VALUE_MODELS.values()):
        return
    try:
        importlib.import_module(f"{MODEL_PACKAGE}.classifiers")
        reason = f"SGLANG_EXTERNAL_MODEL_PACKAGE was not {MODEL_PACKAGE} when it was imported"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    raise InputError(
        f"this version of SGLang can't load {MODEL_PACKAGE} (made for 0.5.21): {reason}"
    )


def check_served(model: str) -> None:
    """Raises ValueError, beginning with its name, unless SGLang's values are those of a model."""
    if has_sliding_window(load_value_config(model)):
        raise ValueError(
            f"{model} has sliding-window attention, which SGLang's backbones leave out; "
            "--scorer hf has it"
        )


def main(arguments: list[str]) -> None:
    """Serves until it is stopped.

    Raises:
        InputError: If SGLang is missing or can't serve the model.
    """
    args, rest = parse_serving(arguments, __doc__)
    check_serving()
    with naming("--model"):
        check_served(args.model)
    if args.end_with_parent:
        end_with_parent()

    on_gpu = torch.cuda.is_available()
    os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] = MODEL_PACKAGE
    if not on_gpu:
        os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    check_registered()
    serve([*server_arguments(args.model, on_gpu), *rest])


def serve(arguments: list[str]) -> None:
    """Runs SGLang's server, whose replies also give the number of cached tokens.

    Raises:
        InputError: If other machines could reach it, and it asks for no key.
    """
    from sglang.srt.entrypoints.engine import init_tokenizer_manager
    from sglang.srt.entrypoints.http_server import launch_server
    from sglang.srt.managers.io_struct import BatchEmbeddingOutput
    from sglang.srt.managers.tokenizer_manager import TokenizerManager
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    class CountingTokenizerManager(TokenizerManager):
        """Puts the number of cached tokens behind the class probabilities.

        SGLang's replies give it for generated texts only.
        """

        async def _handle_batch_output(self, output: Any) -> None:
            if isinstance(output, BatchEmbeddingOutput):
                output.embeddings = [
                    [*probabilities, cached]
                    for probabilities, cached in zip(
                        output.embeddings, output.cached_tokens, strict=True
                    )
                ]
            await super()._handle_batch_output(output)

    server_args = prepare_server_args(arguments)
    if not (server_args.api_key or is_loopback(server_args.host)):
        raise InputError(
            f"--host {server_args.host} can be reached from other machines: that needs --api-key"
        )
    if server_args.nccl_port is None and server_args.dp_size == 1:
        # SGLang would choose one that anybody may be given until its scheduler binds it. Of several
        # data-parallel schedulers each has one of its own.
        server_args.nccl_port = free_port(server_args.port)
    server_args.resolve_once()
    try:
        launch_server(
            server_args,
            partial(init_tokenizer_manager, TokenizerManagerClass=CountingTokenizerManager),
        )
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


def end_with_parent() -> None:
    """Has the kernel kill this process when its parent has ended; SGLang's own do likewise."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        raise SystemExit(1)  # it ended just before


if __name__ == "__main__":
    run_command(SERVE, lambda: main(sys.argv[1:]))
