"""The embedded engine's batch: the same tokens whatever shares it and whatever is kept."""

import asyncio
import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from classifier_lib.states import layer_sizes
from search_lib.engines.hf import HfEngine
from search_lib.engines.rows import GenerationRequest
from search_lib.engines.running_batch import RunningBatch
from tests.support.searches import request
from tests.support.tiny_models import save_tiny_policy, tiny_config_of

ROUNDS = 4


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """In float64, so that another batch tips no near-tie."""
    folder = save_tiny_policy(tmp_path_factory.mktemp("policy"), dtype=torch.float64)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def of_family(family, **settings):
    torch.manual_seed(0)
    config = tiny_config_of(family, 291, **settings)
    return AutoModelForCausalLM.from_config(config).double().eval()


def by_hand(model, expansion, sampling):
    """The blocks of one request by plain forward passes, one token of one sample at a time."""
    model.set_attn_implementation("sdpa")
    blocks = []
    for sample in range(expansion.n):
        uniforms = np.random.default_rng((expansion.seed, sample)).random(expansion.max_new_tokens)
        ids = list(expansion.prefix_ids)
        for uniform in uniforms:
            with torch.no_grad():
                logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()
            if sampling.temperature:
                cumulative = (logits / sampling.temperature).double().softmax(-1).cumsum(-1)
                drawn = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
                ids.append(int(drawn))
            else:
                ids.append(int(logits.argmax()))
            if ids[-1] in expansion.stop_token_ids:
                break
        blocks.append(ids[len(expansion.prefix_ids) :])
    return blocks


PLAIN = ((1, 6), (1, 2))
TWINS = ((6, 9), (2, 4))
MIXED = ((3, 7), (1, 2))
"""Kinds of trees: the least and most tokens of a prompt, and what numbers of blocks it asks for."""


def tree_requests(seed, temperature, kind):
    """A search's requests for one round after the other; each is told the blocks of the last."""
    rng = random.Random(seed)
    prompt_lengths, numbers = kind
    paths = [[rng.randrange(200) for _ in range(rng.randint(*prompt_lengths))]]
    stop = tuple(range(200, 260))
    for round_number in range(ROUNDS):
        asked = [
            request(path, rng.choice(numbers), 100 * seed + round_number, temperature, 1.0, 5, stop)
            for path in paths
        ]
        blocks = yield asked
        paths = [
            expansion.prefix_ids + block
            for (expansion, _), of_request in zip(asked, blocks, strict=True)
            for block in of_request
        ]
        rng.shuffle(paths)
        del paths[2:]


def grow(model, num_trees, temperature, window=100, kind=PLAIN, **options):
    """Grows trees, a window of them at a time; returns their requests with the blocks."""

    async def body():
        engine = HfEngine(model, **options)
        slots = asyncio.Semaphore(window)

        async def tree(seed):
            found = []
            async with slots:
                rounds = tree_requests(seed, temperature, kind)
                asked = next(rounds)
                while asked:
                    blocks = await asyncio.gather(*(engine.generate(*one) for one in asked))
                    found += zip(asked, blocks, strict=True)
                    try:
                        asked = rounds.send([[b.token_ids for b in bs] for bs in blocks])
                    except StopIteration:
                        return found

        try:
            return list(itertools.chain(*await asyncio.gather(*map(tree, range(num_trees)))))
        finally:
            await engine.close()

    return asyncio.run(body())


@pytest.mark.parametrize("kind", [PLAIN, TWINS, MIXED])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_are_those_of_one_sample_at_a_time_without_a_cache(policy, temperature, kind):
    found = grow(policy, 4, temperature, kind=kind, max_kept_tokens=1000)
    for asked, blocks in found:
        assert [block.token_ids for block in blocks] == by_hand(policy, *asked)
    assert {block.finish_reason for _, blocks in found for block in blocks} == {"stop", "length"}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("max_kept_tokens", [0, 30, 1000])
@pytest.mark.parametrize(("window", "rows"), [(100, 256), (3, 256), (100, 5), (1, 1)])
def test_tokens_are_the_same_whatever_runs_together_and_is_kept(
    policy, temperature, max_kept_tokens, window, rows
):
    expected = grow(policy, 8, temperature, max_kept_tokens=1000)
    limits = {"max_kept_tokens": max_kept_tokens, "max_batch_rows": rows}
    assert grow(policy, 8, temperature, window, **limits) == expected


@pytest.fixture(scope="module")
def alone(policy):
    """What trees of twins ask for and get, one sample at a time."""
    return grow(policy, 6, 1.0, kind=TWINS, max_batch_rows=1)


@pytest.mark.parametrize("max_kept_tokens", [0, 40, 1000])
@pytest.mark.parametrize(("window", "rows"), [(100, 256), (2, 256), (100, 6)])
def test_twins_have_the_tokens_of_samples_alone(policy, alone, max_kept_tokens, window, rows):
    limits = {"max_kept_tokens": max_kept_tokens, "max_batch_rows": rows}
    assert grow(policy, 6, 1.0, window, TWINS, **limits) == alone


def shapes_of_steps(model, asked):
    """Shapes of the tokens of each forward pass over a request."""
    shapes = []

    def note(_, args, kwargs):
        shapes.append(tuple(kwargs.get("input_ids", args and args[0]).shape))

    async def body():
        engine = HfEngine(model)
        hook = model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            await engine.generate(*asked)
        finally:
            hook.remove()

    asyncio.run(body())
    return shapes


@pytest.mark.parametrize(
    ("n", "max_new_tokens", "shape"),
    [(4, 3, (2, 2)), (4, 9, (2, 2)), (3, 3, (3, 1)), (4, 10, (4, 1))],
)
def test_two_samples_share_a_row_where_they_are_even_and_short(policy, n, max_new_tokens, shape):
    asked = request(list(range(10)), n, max_new_tokens=max_new_tokens, stop=())
    assert shapes_of_steps(policy, asked) == [(1, 9)] + [shape] * max_new_tokens


def run_joining(model, *joining, step_tokens=1):
    """Runs one batch that requests join, each group after some steps; returns all blocks."""
    sizes = layer_sizes(model)
    batch = RunningBatch(model, sizes, 100, 100, step_tokens)
    requests, found = [], {}
    for steps, group in [*joining, (20, [])]:
        for _ in range(steps):
            found |= dict(batch.step()) if len(found) < len(requests) else {}
        new = [GenerationRequest(expansion, sampling, 0) for expansion, sampling in group]
        if new:
            batch.join(new)
        requests += new
    return [[block.token_ids for block in found[one]] for one in requests]


STOP = tuple(range(100, 260))
"""So many that twins end at different steps."""


@pytest.mark.parametrize("step_tokens", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_twins_part_when_a_sample_without_one_joins(policy, seed, step_tokens):
    twins = [request(list(range(n)), 2, seed + n, 1.0, 1.0, 8, STOP) for n in (9, 11)]
    alone = request([3, 4], 1, seed, 1.0, 1.0, 8, STOP)
    later = request(list(range(12)), 2, seed, 1.0, 1.0, 8, STOP)
    found = run_joining(policy, (0, twins), (2, [alone]), (1, [later]), step_tokens=step_tokens)
    assert found == [by_hand(policy, *one) for one in (*twins, alone, later)]


@pytest.fixture
def memory_without_numbers():
    torch.use_deterministic_algorithms(True)  # new memory is filled with NaN
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("memory_without_numbers")
@pytest.mark.parametrize("kind", [PLAIN, MIXED])
def test_padding_may_be_memory_that_holds_no_numbers(policy, kind):
    for asked, blocks in grow(policy, 4, 1.0, kind=kind):
        assert [block.token_ids for block in blocks] == by_hand(policy, *asked)


@pytest.mark.usefixtures("memory_without_numbers")
def test_a_row_without_a_past_may_be_there_before_the_memory(policy):
    asked = [request([5]), request([6, 7, 8])]
    found = run_joining(policy, *((0, [one]) for one in asked))
    assert found == [by_hand(policy, *one) for one in asked]


FAMILIES = {
    "sliding windows": ("mistral", {"sliding_window": 6}),
    "some sliding windows": (
        "qwen2",
        {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1},
    ),
    "one head of keys": ("llama", {"num_key_value_heads": 1}),
    "a head of keys each": ("gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 2}),
    "keys larger than values": (
        "deepseek_v3",
        {
            "first_k_dense_replace": 2,
            "q_lora_rank": None,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "num_key_value_heads": 4,
        },
    ),
}


@pytest.mark.parametrize("trees", [PLAIN, TWINS])
@pytest.mark.parametrize("kind", FAMILIES)
def test_models_of_other_families_have_the_same_tokens_too(kind, trees):
    family, settings = FAMILIES[kind]
    model = of_family(family, **settings)
    found = grow(model, 3, 1.0, kind=trees, max_kept_tokens=1000)
    assert grow(model, 3, 1.0, kind=trees, max_kept_tokens=0, max_batch_rows=1) == found
    for asked, blocks in found[::5]:
        assert [block.token_ids for block in blocks] == by_hand(model, *asked)


def test_each_token_of_a_tree_is_computed_once(policy):
    computed = []

    def note(_, args, kwargs):
        computed.append(kwargs.get("input_ids", args and args[0]).numel())

    expected = request([5, 6, 7, 8], 3, 1, stop=())
    engine = HfEngine(policy)
    hook = policy.register_forward_pre_hook(note, with_kwargs=True)

    async def body():
        blocks = await engine.generate(*expected)
        path = expected[0].prefix_ids + blocks[1].token_ids
        more = await engine.generate(*request(path, 2, 2, stop=()))
        return blocks, more

    try:
        blocks, more = asyncio.run(body())
    finally:
        hook.remove()
    # The prompt once, then each new token, of which the last is the start of the next request.
    assert computed == [3] + [3] * 8 + [2] * 8
    assert [block.prefix_cached for block in blocks] == [0, 3, 3]
    assert [block.prefix_cached for block in more] == [11, 11]


def test_prefix_tokens_that_are_not_kept_do_not_count_as_cached(policy):
    async def body(max_kept_tokens):
        engine = HfEngine(policy, max_kept_tokens=max_kept_tokens)
        asked, sampling = request([5, 6, 7, 8], 1, stop=())
        (first,) = await engine.generate(asked, sampling)
        path = asked.prefix_ids + first.token_ids
        (cut,) = await engine.generate(*request(path[:-2], 1, 5, stop=()))
        (whole,) = await engine.generate(*request(path, 1, 5, stop=()))
        return first.prefix_cached, cut.prefix_cached, whole.prefix_cached

    assert asyncio.run(body(0)) == (0, 0, 0)
    assert asyncio.run(body(1000)) == (0, 3, 11)


def test_samples_of_one_batch_may_be_drawn_in_several_ways(policy):
    asked = [request([5, 6, 7], 2, 1, temperature) for temperature in (0.0, 1.0, 0.5)]
    asked += [(replace(expansion, logprobs=True), how) for expansion, how in asked[1:]]

    async def body(rows):
        engine = HfEngine(policy, max_batch_rows=rows)
        return await asyncio.gather(*(engine.generate(*one) for one in asked))

    assert asyncio.run(body(256)) == asyncio.run(body(1))


def test_a_policy_whose_layers_have_other_states_is_refused():
    model = of_family("mamba2", num_heads=8, head_dim=8, expand=2, n_groups=1, state_size=8)
    with pytest.raises(ValueError, match="Mamba2ForCausalLM has layers without keys and values"):
        HfEngine(model)
