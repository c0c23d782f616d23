"""Loads value models into SGLang's model class in this process; prints what came of each folder.

Run by test_sglang_model.py: a server for each broken checkpoint would take half a minute.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from sglang.srt.distributed import init_distributed_environment, initialize_model_parallel
from sglang.srt.layers.dp_attention import initialize_dp_attention
from sglang.srt.runtime_context import SpawnRanks, publish
from sglang.srt.server_args import ServerArgs
from transformers import Qwen2Config

from classifier_lib.sglang_model.qwen2_classifier import Qwen2ForClassifier

folders = sys.argv[2:]
arguments = ServerArgs(model_path=folders[0], device="cpu", attention_backend="torch_native")
publish(arguments, role="scheduler", ranks=SpawnRanks(world_rank=0))
init_distributed_environment(1, 0, f"file://{sys.argv[1]}", backend="gloo")
initialize_model_parallel()
initialize_dp_attention(server_args=arguments)
for folder in folders:
    try:
        model = Qwen2ForClassifier(Qwen2Config.from_pretrained(folder))
        model.load_weights(load_file(Path(folder) / "model.safetensors").items())
        # The head alone, on a hidden state of ones: the whole is tested over HTTP.
        hidden = torch.ones(3, model.config.hidden_size)
        model.model.forward = lambda *ignored, hidden=hidden: hidden
        batch = type("Batch", (), {"extend_seq_lens": torch.tensor([1, 2])})
        result = model(None, None, batch).embeddings.tolist()
    except ValueError as error:
        result = str(error)
    print(json.dumps(result))
