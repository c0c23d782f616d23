"""Loads value models into SGLang's classes in this process; prints what came of each folder.

Run by test_sglang_model.py: a server for each broken checkpoint would take half a minute.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from sglang.srt.distributed import init_distributed_environment, initialize_model_parallel
from sglang.srt.layers.dp_attention import initialize_dp_attention
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode
from sglang.srt.runtime_context import SpawnRanks, publish
from sglang.srt.server_args import ServerArgs
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig

from classifier_lib.sglang_model.classifiers import EntryClass

IDS = [5, 6, *range(60)]
"""The sequence that the models are asked for."""


def attend(layer: RadixAttention, query, key, value, *ignored, **ignored_too) -> torch.Tensor:
    """Attention of one whole sequence, in place of SGLang's over its cache."""
    query, key, value = (
        states.view(len(states), -1, layer.head_dim).transpose(0, 1)
        for states in (query, key, value)
    )
    output = scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=layer.scaling, enable_gqa=True
    )
    return output.transpose(0, 1).flatten(1)


def main(meeting: str, folders: list[str]) -> None:
    arguments = ServerArgs(model_path=folders[0], device="cpu", attention_backend="torch_native")
    publish(arguments, role="scheduler", ranks=SpawnRanks(world_rank=0))
    init_distributed_environment(1, 0, f"file://{meeting}", backend="gloo")
    initialize_model_parallel()
    initialize_dp_attention(server_args=arguments)
    RadixAttention.forward = attend
    kinds = {kind.__name__: kind for kind in EntryClass}
    ids, positions = torch.tensor(IDS), torch.arange(len(IDS))
    length = torch.tensor([len(IDS)])
    for folder in folders:
        try:
            config = AutoConfig.from_pretrained(folder)
            model = kinds[config.architectures[0]](config)
            model.load_weights(load_file(Path(folder) / "model.safetensors").items())
            batch = ForwardBatch(
                ForwardMode.EXTEND,
                batch_size=1,
                input_ids=ids,
                req_pool_indices=torch.zeros(1),
                seq_lens=length,
                out_cache_loc=positions,
                seq_lens_sum=len(IDS),
                extend_seq_lens=length,
            )
            result = model(ids, positions, batch).embeddings[0].tolist()
        except ValueError as error:
            result = str(error)
        print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
