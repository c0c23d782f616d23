"""A plug-in that lets SGLang honour per-request seeds on a CPU.

SGLang does so only with `enable_deterministic_inference`, which it offers for attention kernels
whose results don't depend on the batch, together with matrix products (in Triton) that don't
either. The tests need the seeds alone. SGLang finds this through
`sglang_stand_ins-0.dist-info/entry_points.txt`.
"""


def register() -> None:
    from sglang.srt import batch_invariant_ops
    from sglang.srt.arg_groups import choices

    batch_invariant_ops.enable_batch_invariant_mode = lambda: None
    choices.add_deterministic_attention_backend_choices(["torch_native"])
    choices.add_radix_supported_deterministic_attention_backend_choices(["torch_native"])
