"""Attention within packed rows, each implementation against a dense mask."""

import copy
import logging

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.nn.attention import flex_attention as flex_module
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import Qwen2Config
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward

from classifier_lib import attention, modeling
from classifier_lib.attention import (
    FLEX_BLOCK,
    SEGMENTED_SDPA,
    choose_attention,
    flex_block_mask,
    leave_out_flex_dropout,
    row_inputs,
    segmented_sdpa_forward,
)
from classifier_lib.batches import collate
from classifier_lib.data import Rollout
from classifier_lib.layouts import RowLayout
from classifier_lib.modeling import Qwen2ForClassifier

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HEADS, KEY_HEADS, HEAD_DIM = 4, 2, 8


def random_layout(
    seed: int, packing: str, num_roll_ins: int = 3, longest: int = 20, multiple: int | None = None
) -> RowLayout:
    """Four cuts of each of some roll-ins, with a prompt in common."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(0, 64, 3)
    rollouts = []
    for _ in range(num_roll_ins):
        roll_in = np.concatenate([prompt, rng.integers(0, 64, longest)])
        for cut in rng.integers(3, len(roll_in) + 1, 4):
            roll_out = rng.integers(0, 64, rng.integers(1, longest + 1))
            rollouts.append(Rollout(roll_in[:cut], roll_out, 0))
    layout = collate(rollouts, 10**6, packing, multiple).layout
    assert layout is not None
    return layout


def random_states(length: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, heads, length, HEAD_DIM, generator=generator)
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    ]


def build_model(config: Qwen2Config, implementation: str, dropout: float) -> Qwen2ForClassifier:
    torch.manual_seed(0)
    # A copy, as the implementation is written into it.
    config = Qwen2Config(**{**config.to_dict(), "attention_dropout": dropout})
    return Qwen2ForClassifier._from_config(config, attn_implementation=implementation)


class Layer(torch.nn.Module):
    """What transformers' functions read of an attention layer."""

    num_key_value_groups = HEADS // KEY_HEADS
    is_causal = True


# Choosing.


@pytest.mark.parametrize(
    ("name", "packing", "device", "has_flash", "expected"),
    [
        ("auto", "padded", CPU, False, "sdpa"),
        ("auto", "packed", CPU, False, SEGMENTED_SDPA),
        ("auto", "shared_prefix", CPU, False, SEGMENTED_SDPA),
        ("auto", "padded", CPU, True, "sdpa"),
        ("auto", "packed", CPU, True, SEGMENTED_SDPA),
        ("auto", "padded", CUDA, True, "flash_attention_2"),
        ("auto", "packed", CUDA, True, "flash_attention_2"),
        ("auto", "shared_prefix", CUDA, True, "flex_attention"),
        ("auto", "padded", CUDA, False, "sdpa"),
        ("auto", "packed", CUDA, False, SEGMENTED_SDPA),
        ("auto", "shared_prefix", CUDA, False, "flex_attention"),
        ("sdpa", "padded", CUDA, True, "sdpa"),
        ("sdpa", "packed", CUDA, True, SEGMENTED_SDPA),
        ("sdpa", "shared_prefix", CPU, False, SEGMENTED_SDPA),
        ("flash_attention_2", "padded", CUDA, True, "flash_attention_2"),
        ("flash_attention_2", "packed", CUDA, True, "flash_attention_2"),
        ("flash_attention_2", "padded", CPU, False, "sdpa"),
        ("flash_attention_2", "packed", CPU, False, SEGMENTED_SDPA),
        ("flash_attention_2", "packed", CUDA, False, SEGMENTED_SDPA),
        ("flex_attention", "padded", CUDA, False, "flex_attention"),
        ("flex_attention", "packed", CUDA, False, "flex_attention"),
        ("flex_attention", "shared_prefix", CUDA, True, "flex_attention"),
    ],
)
def test_choices(monkeypatch, name, packing, device, has_flash, expected):
    for module in (attention, modeling):
        monkeypatch.setattr(module, "is_flash_attn_2_available", lambda: has_flash)
    assert choose_attention(name, packing, device) == expected


@pytest.mark.parametrize("has_flash", [False, True])
def test_refusals(monkeypatch, has_flash):
    for module in (attention, modeling):
        monkeypatch.setattr(module, "is_flash_attn_2_available", lambda: has_flash)
    for device in (CPU, CUDA):
        with pytest.raises(ValueError, match="flash_attention_2 has no masks for shared prefixes"):
            choose_attention("flash_attention_2", "shared_prefix", device)
    for packing in ("padded", "packed", "shared_prefix"):
        with pytest.raises(ValueError, match="flex_attention has no backward on a CPU: use sdpa"):
            choose_attention("flex_attention", packing, CPU)


# Segments, one after the other.


def outputs_and_gradients(
    function, states: list[torch.Tensor], weights: torch.Tensor, mask, **kwargs
) -> list[torch.Tensor]:
    states = [x.clone().requires_grad_() for x in states]
    outputs = function(Layer(), *states, mask, scaling=HEAD_DIM**-0.5, **kwargs)[0]
    (outputs * weights).sum().backward()
    return [outputs, *(x.grad for x in states)]


@pytest.mark.parametrize("packing", ["packed", "shared_prefix"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("multiple", [None, 50])
def test_segmented_sdpa_equals_eager_with_a_dense_mask(packing, seed, multiple):
    layout = random_layout(seed, packing, multiple=multiple)
    states = random_states(layout.length)
    weights = torch.randn(1, layout.length, HEADS, HEAD_DIM)
    hidden = torch.zeros(layout.length, layout.length).masked_fill(
        ~layout.dense_mask(), float("-inf")
    )
    ours = outputs_and_gradients(segmented_sdpa_forward, states, weights, None, row_layout=layout)
    eager = outputs_and_gradients(eager_attention_forward, states, weights, hidden[None, None])
    for value, expected in zip(ours, eager, strict=True):
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)


def test_a_layout_serves_layers_of_different_dtypes():
    layout = random_layout(0, "shared_prefix")
    states = random_states(layout.length)
    expected, _ = segmented_sdpa_forward(Layer(), *states, None, row_layout=layout)
    for dtype, atol in ((torch.float64, 1e-6), (torch.bfloat16, 0.05), (torch.float32, 0)):
        inputs = [x.to(dtype) for x in states]
        outputs, _ = segmented_sdpa_forward(Layer(), *inputs, None, row_layout=layout)
        assert outputs.dtype == dtype
        torch.testing.assert_close(outputs.float(), expected, atol=atol, rtol=0)


def test_segmented_sdpa_is_sdpa_for_a_padded_batch():
    states = random_states(11)
    weights = torch.randn(1, 11, HEADS, HEAD_DIM)
    for mask in (None, torch.rand(1, 1, 11, 11) < 0.7 + torch.eye(11)):
        ours = outputs_and_gradients(segmented_sdpa_forward, states, weights, mask)
        theirs = outputs_and_gradients(sdpa_attention_forward, states, weights, mask)
        for value, expected in zip(ours, theirs, strict=True):
            assert torch.equal(value, expected)


def test_a_model_with_segmented_sdpa_takes_padded_batches(tiny_config):
    models = [build_model(tiny_config, name, 0.0).eval() for name in (SEGMENTED_SDPA, "sdpa")]
    assert models[0].config._attn_implementation == SEGMENTED_SDPA
    ids = torch.randint(64, (2, 9))
    real = torch.ones(2, 9, dtype=torch.long)
    real[0, 6:] = 0
    with torch.no_grad():
        for inputs in ({}, {"attention_mask": real}):
            assert torch.equal(*(model(ids, **inputs).logits for model in models))


@pytest.mark.parametrize("packing", ["packed", "shared_prefix"])
def test_segmented_sdpa_drops_attention_weights(packing):
    layout = random_layout(0, packing)
    query, key, value = random_states(layout.length)
    value = torch.ones_like(value)  # of which any average is one
    kept, _ = segmented_sdpa_forward(Layer(), query, key, value, None, 0.0, row_layout=layout)
    torch.testing.assert_close(kept, torch.ones_like(kept))
    torch.manual_seed(0)
    dropped, _ = segmented_sdpa_forward(Layer(), query, key, value, None, 0.5, row_layout=layout)
    assert (dropped[0, :, :, 0] - 1).abs().gt(0.01).float().mean() > 0.8
    assert dropped.mean().item() == pytest.approx(1, abs=0.1)
    assert dropped.max() > 1.2


def test_dropout_is_for_training_only(tiny_config):
    model = build_model(tiny_config, SEGMENTED_SDPA, 0.5)
    model.dropout.p = 0.0  # the other place
    rollouts = [Rollout(np.arange(5), np.arange(9), 1), Rollout(np.arange(4), np.arange(3), 1)]
    inputs = collate(rollouts, 100, "shared_prefix").model_inputs(SEGMENTED_SDPA, CPU)

    def logits(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            return model(**inputs).logits

    model.train()
    assert torch.equal(logits(0), logits(0))
    assert not torch.allclose(logits(0), logits(1))
    model.eval()
    assert torch.equal(logits(0), logits(1))


# FlexAttention.

FLEX_LAYOUTS = [
    # Lengths: below a block, some blocks, and whole blocks through padding.
    ("packed", 1, 20, None),
    ("packed", 4, 60, None),
    ("packed", 3, 130, FLEX_BLOCK),
    ("shared_prefix", 1, 20, None),
    ("shared_prefix", 4, 60, None),
    ("shared_prefix", 2, 300, None),
    ("shared_prefix", 3, 130, FLEX_BLOCK),
    ("shared_prefix", 1, 400, FLEX_BLOCK),
]


def listed_blocks(counts: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Which blocks [queries, keys] a block mask lists."""
    blocks = torch.zeros(indices.shape[-2:], dtype=torch.bool)
    for row, (count, columns) in enumerate(zip(counts[0, 0], indices[0, 0], strict=True)):
        assert sorted(columns.tolist()) == list(range(indices.shape[-1]))
        blocks[row, columns[:count].long()] = True
    return blocks


def blocks_of(mask: torch.Tensor) -> torch.Tensor:
    """A dense mask in blocks [queries, keys, FLEX_BLOCK, FLEX_BLOCK], padded with False."""
    missing = -len(mask) % FLEX_BLOCK
    num_blocks = (len(mask) + missing) // FLEX_BLOCK
    padded = F.pad(mask, (0, missing, 0, missing))
    return padded.view(num_blocks, FLEX_BLOCK, num_blocks, FLEX_BLOCK).transpose(1, 2)


def mask_everywhere(block_mask: BlockMask, length: int) -> torch.Tensor:
    positions = torch.arange(length)
    return block_mask.mask_mod(0, 0, positions[:, None], positions[None, :])


def one_sequence(length: int) -> RowLayout:
    rollout = Rollout(np.zeros(length - 100, dtype=int), np.ones(100, dtype=int), 0)
    layout = collate([rollout], 10**6, "packed").layout
    assert layout is not None
    return layout


@pytest.mark.parametrize(("packing", "num_roll_ins", "longest", "multiple"), FLEX_LAYOUTS)
@pytest.mark.parametrize("seed", range(3))
def test_block_masks_cover_what_is_attended(seed, packing, num_roll_ins, longest, multiple):
    check_block_mask(random_layout(seed, packing, num_roll_ins, longest, multiple))


@pytest.mark.parametrize("length", [127, 128, 129, 257, 300, 512])
def test_block_masks_of_one_sequence(length):
    check_block_mask(one_sequence(length))


def check_block_mask(layout: RowLayout) -> None:
    block_mask = flex_block_mask(layout, CPU)
    dense = layout.dense_mask()
    blocks = blocks_of(dense)
    assert block_mask.seq_lengths == (layout.length, layout.length)
    assert block_mask.BLOCK_SIZE == (FLEX_BLOCK, FLEX_BLOCK)
    assert torch.equal(mask_everywhere(block_mask, layout.length), dense)
    # Beyond the row nothing is attended to, and nothing is read out of bounds.
    assert torch.equal(
        mask_everywhere(block_mask, FLEX_BLOCK * len(blocks))[: layout.length],
        F.pad(dense, (0, FLEX_BLOCK * len(blocks) - layout.length)),
    )

    partial = listed_blocks(block_mask.kv_num_blocks, block_mask.kv_indices)
    whole = listed_blocks(block_mask.full_kv_num_blocks, block_mask.full_kv_indices)
    assert not (partial & whole).any()
    assert blocks.all(dim=(2, 3))[whole].all()
    assert not blocks[~(partial | whole)].any()
    # The lists by key, for the backward pass, are the same.
    by_key = listed_blocks(block_mask.q_num_blocks, block_mask.q_indices)
    assert torch.equal(by_key, partial.T)
    by_key = listed_blocks(block_mask.full_q_num_blocks, block_mask.full_q_indices)
    assert torch.equal(by_key, whole.T)

    # Little is computed for nothing: no block above the diagonal, few empty ones below it.
    empty = ~blocks.any(dim=3).any(dim=2)
    assert not (partial & torch.ones_like(partial).triu(1)).any()
    assert (partial & empty).sum() <= 0.2 * partial.sum()
    # What is full is known to be, but for the last block of a row and its like.
    full = blocks.all(dim=(2, 3))
    assert (full & ~whole).sum() <= 0.2 * full.sum()


def test_a_long_row_is_sparse():
    """Of the blocks on and below the diagonal, a row of many sequences needs few."""
    layout = random_layout(0, "packed", 10, 130)
    num_blocks = -(-layout.length // FLEX_BLOCK)
    assert num_blocks > 20
    block_mask = flex_block_mask(layout, CPU)
    num_computed = int(block_mask.kv_num_blocks.sum() + block_mask.full_kv_num_blocks.sum())
    assert num_computed < 0.35 * num_blocks * (num_blocks + 1) / 2
    whole = flex_block_mask(one_sequence(1024), CPU).full_kv_num_blocks[0, 0]
    assert whole.tolist() == list(range(8))  # all below the diagonal


@pytest.mark.parametrize(
    ("packing", "num_roll_ins", "longest", "multiple"),
    [("packed", 4, 60, None), ("shared_prefix", 4, 60, None), ("shared_prefix", 2, 130, 128)],
)
def test_flex_attention_equals_sdpa_with_a_dense_mask(
    monkeypatch, packing, num_roll_ins, longest, multiple
):
    # As it is, without compiling anything.
    monkeypatch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    layout = random_layout(1, packing, num_roll_ins, longest, multiple)
    assert layout.length > 4 * FLEX_BLOCK
    query, key, value = random_states(layout.length)
    with torch.no_grad():
        outputs = flex_attention(
            query, key, value, block_mask=flex_block_mask(layout, CPU), enable_gqa=True
        )
    expected = F.scaled_dot_product_attention(
        query, key, value, attn_mask=layout.dense_mask(), enable_gqa=True
    )
    torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-4)


def test_flex_attention_has_no_dropout_of_attention_weights(tiny_config, caplog):
    for name, expected in (("sdpa", 0.25), ("flex_attention", 0.0)):
        model = build_model(tiny_config, name, 0.25)
        with caplog.at_level(logging.WARNING):
            leave_out_flex_dropout(model)
        assert {layer.self_attn.attention_dropout for layer in model.model.layers} == {expected}
        assert model.dropout.p == model.config.attention_dropout == 0.25
        messages = [record.getMessage() for record in caplog.records]
        assert messages == ([] if name == "sdpa" else [messages[0]])
    assert "only the head has dropout 0.25" in messages[0]
    caplog.clear()
    leave_out_flex_dropout(build_model(tiny_config, "flex_attention", 0.0))
    assert not caplog.records  # nothing to leave out


# FlashAttention, and what packed rows give to a model.


def test_flash_inputs_of_a_packed_row():
    rollouts = [
        Rollout(np.arange(3), np.arange(4), 0),
        Rollout(np.arange(1), np.arange(1), 0),
        Rollout(np.arange(5), np.arange(6), 0),
    ]
    for multiple, bounds in ((None, [0, 7, 9, 20]), (16, [0, 7, 9, 20, 32])):
        batch = collate(rollouts, 100, "packed", multiple)
        inputs = batch.model_inputs("flash_attention_2", CPU)
        assert inputs["cu_seq_lens_q"].tolist() == inputs["cu_seq_lens_k"].tolist() == bounds
        assert inputs["cu_seq_lens_q"].dtype == torch.int32
        longest = max(12 if multiple else 0, 11)
        assert inputs["max_length_q"] == inputs["max_length_k"] == longest
        assert "attention_mask" not in inputs
        starts = (inputs["position_ids"][0] == 0).nonzero().flatten()
        assert starts.tolist() == bounds[:-1]


def test_what_an_implementation_cannot_do_is_refused():
    shared = random_layout(0, "shared_prefix")
    for name in ("flash_attention_2", "sdpa", "eager"):
        with pytest.raises(ValueError, match=f"{name} can't attend within rows of this layout"):
            row_inputs(shared, name, CPU)
    with pytest.raises(ValueError, match="sdpa can't attend"):
        row_inputs(random_layout(0, "packed"), "sdpa", CPU)


def test_compiled_layers_serve_every_layout(tiny_config):
    """torch.compile must not look into a layout, or it would compile for each one anew."""
    counter = CompileCounter()
    torch._dynamo.reset()
    config = copy.deepcopy(tiny_config)
    model = Qwen2ForClassifier._from_config(config, attn_implementation=SEGMENTED_SDPA)
    for layer in model.model.layers:
        layer.compile(backend=counter)
    frames = []
    for num_samples in (2, 3, 4, 5, 6):
        rng = np.random.default_rng(num_samples)
        roll_in = rng.integers(0, 64, 40)
        rollouts = [
            Rollout(roll_in[:cut], rng.integers(0, 64, 9), 0)
            for cut in rng.integers(20, 40, num_samples)
        ]
        batch = collate(rollouts, 100, "shared_prefix")
        model(**batch.model_inputs(SEGMENTED_SDPA, torch.device("cpu"))).logits.sum().backward()
        frames.append(counter.frame_count)
    assert frames[-1] == frames[1] > 0  # the second layout makes its length dynamic
