"""Searches with random weights: the embedded engine and scorer, driven by the runner."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from classifier_lib.flops import model_size
from classifier_lib.loading import load_value_model
from classifier_lib.scoring import ValueScorer
from run_lib.hub import quiet_transformers
from scripts.bench.scheduling import make_jobs
from scripts.bench.train_step import build_model
from scripts.gpu_day.processes import StepFailed
from scripts.gpu_day.scale import Scale, current_scale, forget_peak, peak_gb
from search_lib.engines.base import Sampling
from search_lib.engines.hf import HfEngine
from search_lib.results.cost import RunCost, SearchCost
from search_lib.runner import SearchJob, run_searches
from search_lib.scorers.hf import HfScorer
from search_lib.strategies import Limits, strategy_factory

SAMPLING = Sampling(temperature=1.0, top_p=0.95)


class Row(NamedTuple):
    """All searches together, all of them in flight.

    Attributes:
        searches: Searches, of beam2.
        blocks: Blocks in flight in each.
        block: Tokens of a block.
        response: Tokens of a response.
        seconds: Seconds of all searches, models loaded.
        tokens_generated: New tokens of all blocks.
        tokens_per_second: Rate of these.
        engine_busy_share: Share of the seconds in which the engine had a request.
        tokens_scored: Tokens that the value model computed.
        tokens_cached: Tokens of scored paths that its cache gave.
        policy_tflop: FLOPs of the policy.
        value_model_tflop: FLOPs of the value model.
        peak_gb: Largest memory, both models included; None on a CPU.
    """

    searches: int
    blocks: int
    block: int
    response: int
    seconds: float | None
    tokens_generated: int
    tokens_per_second: float
    engine_busy_share: float
    tokens_scored: int
    tokens_cached: int
    policy_tflop: float
    value_model_tflop: float
    peak_gb: float | None


def measure(report: Callable[[Row], None]) -> None:
    """Reports one row.

    Raises:
        StepFailed: If a search failed.
    """
    quiet_transformers()
    scale = current_scale()
    with tempfile.TemporaryDirectory(prefix="gpu_day_") as folder:
        policy, value_model = save_random_models(scale, Path(folder))
        costs = asyncio.run(search(scale, policy, value_model))
        cost = RunCost.of(costs).document(model_size(policy), model_size(value_model))
    size = scale.search
    report(
        Row(
            len(costs),
            size.blocks,
            size.block,
            size.response,
            cost["wall_seconds"],
            cost["tokens_generated"],
            cost["tokens_generated"] / cost["wall_seconds"],
            cost["engine_busy_share"],
            cost["tokens_scored"],
            cost["tokens_cached"],
            cost["policy_flops"] / 1e12,
            cost["value_model_flops"] / 1e12,
            peak_gb(scale.device),
        )
    )


def save_random_models(scale: Scale, folder: Path) -> tuple[str, str]:
    """Writes a policy and a value model of the same shape, in bfloat16 on a GPU."""
    dtype = torch.bfloat16 if scale.device.type == "cuda" else torch.float32
    classifier = build_model(scale.shape, scale.device, seed=1)
    # With tied embeddings random weights repeat the last token.
    own = classifier.config.to_diff_dict() | {"tie_word_embeddings": False, "use_cache": True}
    with scale.device:
        policy = Qwen2ForCausalLM(Qwen2Config(**own))
    models: dict[str, Any] = {"policy": policy, "value_model": classifier}
    for name, model in models.items():
        model.to(dtype).save_pretrained(folder / name)
    return str(folder / "policy"), str(folder / "value_model")


async def search(scale: Scale, policy: str, value_model: str) -> list[SearchCost]:
    """Runs all searches, and returns what each of them cost."""
    device, size = scale.device, scale.search
    engine = HfEngine.load(policy, "sdpa", device)
    scorer = HfScorer(ValueScorer(load_value_model(value_model, "sdpa", device=device)))
    rng = np.random.default_rng(0)
    prompts = [
        (str(problem), rng.integers(0, scale.shape.vocab_size, size.prompt).tolist())
        for problem in range(1 + size.searches)
    ]
    costs: list[SearchCost] = []

    async def run(some: list[tuple[str, list[int]]], response: int) -> None:
        def on_finished(job: SearchJob, cost: SearchCost) -> None:
            costs.append(cost)

        limits = Limits(response, size.block, stop_token_ids=())
        jobs = make_jobs(some, strategy_factory("beam2", size.blocks, limits), seed=0)
        failures = await run_searches(jobs, engine, scorer, SAMPLING, len(some), on_finished)
        if failures:
            raise StepFailed(f"{len(failures)} searches failed") from failures[0].error

    try:
        await run(prompts[:1], size.block)  # warms up
        costs.clear()
        forget_peak(device)
        await run(prompts[1:], size.response)
    finally:
        await engine.close()
        await scorer.close()
    return costs
