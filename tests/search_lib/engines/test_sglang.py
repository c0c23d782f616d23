"""The in-process SGLang engine: the real one on a CPU, started once, against transformers."""

import asyncio
import json
import signal
import subprocess
import sys
from dataclasses import asdict, astuple, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import inference_eval
from run_lib.commands import InputError
from search_lib.engines import sglang
from search_lib.engines.base import Block, Sampling
from search_lib.engines.choice import settle_engine
from search_lib.engines.factory import open_engine
from search_lib.engines.flags import EngineFlags
from search_lib.engines.hf import HfEngine
from search_lib.engines.sglang import SglangEngine
from search_lib.engines.sglang_arguments import server_arguments
from search_lib.results.records import read_records
from tests.support.flags import replace_flags
from tests.support.logprobs import (
    assert_confidences_equal_a_forward_pass,
    assert_logprobs_equal_a_forward_pass,
    confidence_requests,
    logprob_requests,
)
from tests.support.searches import as_command, make_args, request, responses
from tests.support.sglang_processes import ROOT, SOON, no_survivors, sglang_environment
from tests.support.tiny_models import save_tiny_classifier, save_tiny_policy

pytestmark = pytest.mark.xdist_group("sglang_policy")

DRAWS = 1500
SKEWED = Sampling(0.7, 0.8)
PREFIXES = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
LONG_PREFIX = [20 + i % 17 for i in range(200)]


def greedy(prefix_ids, n=1, max_new_tokens=8, stop=()):
    return request(prefix_ids, n, temperature=0.0, max_new_tokens=max_new_tokens, stop=stop)


MANY = [request([5 + i] * (1 + i % 4), 2, seed=i % 6) for i in range(12)]
# One decodes greedily beside the others, which must not change what those draw.
MIXED = [*MANY, request([5], temperature=0.0, max_new_tokens=40, stop=())]
ENGINE_ARGS = {
    "chunked-prefill-size=64": None,
    "enable_deterministic_inference=false": None,
    'json_model_override_args={"rope_theta": 5}': None,
    "max_total_token=9": r"no such argument; near it: max_total_tokens",
    "tp_size=2": "tp_size is set with --tp_size",
    "max_total_tokens=many": "--engine_args max_total_tokens=many: Expected `int",
    "disable_radix_cache": "not of the form key=value",
}


def reference_blocks(policy, requests):
    async def body():
        engine = HfEngine.load(str(policy), device="cpu")
        try:
            return await asyncio.gather(*(engine.generate(*asked) for asked in requests))
        finally:
            await engine.close()

    return asyncio.run(body())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_tiny_policy(folder / "policy")
    save_tiny_classifier(folder / "value_model")
    return folder


@pytest.fixture(scope="module")
def long_policy(tmp_path_factory):
    """A policy whose blocks can take a while."""
    folder = save_tiny_policy(tmp_path_factory.mktemp("long_policy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    return folder


@pytest.fixture(scope="module")
def stopping(long_policy):
    """A greedy request that one of its tokens stops."""
    ((block,),) = reference_blocks(long_policy, [greedy(PREFIXES[0])])
    return greedy(PREFIXES[0], stop=(block.token_ids[3],))


@pytest.fixture(scope="module")
def process(long_policy, stopping, tmp_path_factory):
    """The engine's process, which has answered all requests and generates on."""
    folder = tmp_path_factory.mktemp("driver")
    together = {
        "greedy": [greedy(prefix, 2) for prefix in PREFIXES],
        "stopping": [stopping],
        "lengths": [greedy([5], 1, length) for length in (2, 9, 1)],
        "together": MANY,
        "mixed": MIXED,
        "skewed": [request([5, 6], DRAWS, 5, *astuple(SKEWED), max_new_tokens=1, stop=())],
        "logprobs": logprob_requests(),
        "confidences": confidence_requests(0.0, 1.0),
        "scaled confidences": confidence_requests(0.7),
        "refused": [greedy([]), greedy([5] * 4090)],
    }
    alone = {
        "alone": MANY[::-1],
        "other seed": [request([5], 2, seed=77)],
        "siblings": [request(LONG_PREFIX, 4, stop=())],
    }

    def plain(requests):
        return {name: [tuple(map(asdict, asked)) for asked in of] for name, of in requests.items()}

    work = {"engine_args": list(ENGINE_ARGS), "together": plain(together), "alone": plain(alone)}
    (folder / "requests.json").write_text(json.dumps(work))
    command = [
        sys.executable,
        str(ROOT / "tests" / "support" / "sglang_driver.py"),
        str(long_policy),
    ]
    command += [str(folder / name) for name in ("requests.json", "answers.json")]
    with (
        (folder / "log").open("w+") as log,
        subprocess.Popen(
            command, env=sglang_environment(), stdout=subprocess.PIPE, stderr=log, text=True
        ) as driver,
    ):
        try:
            line = driver.stdout.readline()
            log.seek(0)
            assert line == "generating\n", log.read()
            driver.answers = json.loads((folder / "answers.json").read_text())
            yield driver
        finally:
            driver.kill()


@pytest.fixture(scope="module")
def answers(process):
    return process.answers


def blocks_of(answer):
    return [[Block(**block) for block in blocks] for blocks in answer]


def test_greedy_blocks_equal_those_of_transformers(answers, long_policy, stopping):
    requests = [*(greedy(prefix, 2) for prefix in PREFIXES), stopping]
    expected = reference_blocks(long_policy, requests)
    assert blocks_of(answers["greedy"] + answers["stopping"]) == expected
    assert expected[-1][0].finish_reason == "stop"


def test_log_probabilities_are_those_of_a_forward_pass(answers, long_policy):
    blocks = blocks_of(answers["logprobs"])
    assert_logprobs_equal_a_forward_pass(long_policy, logprob_requests(), blocks)


def test_confidences_are_of_the_models_own_distribution(answers, long_policy):
    requests, blocks = confidence_requests(0.0, 1.0), blocks_of(answers["confidences"])
    assert_confidences_equal_a_forward_pass(long_policy, requests, blocks, is_exact=False)


def test_confidences_at_another_temperature_are_refused_where_it_scales_them(answers):
    (refusal,) = answers["scaled confidences"]
    assert refusal.startswith("EngineUnavailable: SGLang scales its log-probabilities by the temp")


def test_each_request_keeps_its_own_length_limit(answers):
    assert [len(block.token_ids) for (block,) in blocks_of(answers["lengths"])] == [2, 9, 1]


def test_a_sample_depends_on_its_seed_and_not_on_its_batch(answers):
    together = blocks_of(answers["together"])
    assert blocks_of(answers["alone"]) == together[::-1]
    assert blocks_of(answers["mixed"])[:-1] == together
    assert together[0][0] != together[0][1]
    assert blocks_of(answers["other seed"])[0] != together[0]


def test_a_new_prefix_is_computed_once_for_all_samples(answers):
    (blocks,) = blocks_of(answers["siblings"])
    assert len({tuple(block.token_ids) for block in blocks}) == len(blocks)
    # Once, and the last token again for each.
    computed = len(blocks) * len(LONG_PREFIX) - sum(block.prefix_cached for block in blocks)
    assert computed == len(LONG_PREFIX) + len(blocks)


def test_samples_follow_the_policys_distribution(answers, long_policy):
    model = AutoModelForCausalLM.from_pretrained(long_policy)
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6]])).logits[0, -1]
    probabilities = (logits / SKEWED.temperature).softmax(-1)
    order = probabilities.argsort(descending=True)
    kept = order[: int((probabilities[order].cumsum(0) < SKEWED.top_p).sum()) + 1]
    expected = np.zeros(len(probabilities))
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    (draws,) = blocks_of(answers["skewed"])
    counts = np.bincount([block.token_ids[0] for block in draws], minlength=len(expected))
    assert counts.sum() == DRAWS
    assert counts[expected == 0].sum() == 0
    assert (np.abs(counts / DRAWS - expected) <= 5 * np.sqrt(expected / DRAWS) + 1e-9).all()


def test_requests_that_no_model_can_serve_are_refused(answers):
    empty, too_long = answers["refused"]
    assert empty == "ValueError: cannot generate from an empty prefix"
    assert too_long.startswith("ValueError: Requested token count exceeds the model's maximum")


@pytest.mark.parametrize("setting", ENGINE_ARGS)
def test_engine_args_are_typed_and_checked(answers, setting):
    refusal = answers["engine_args"][list(ENGINE_ARGS).index(setting)]
    expected = ENGINE_ARGS[setting]
    if expected is None:
        assert refusal is None
    else:
        assert refusal.startswith("InputError: --engine_args ")
        assert expected in refusal


def test_cancelled_requests_leave_the_engine(answers):
    assert answers["states_left"] == 0
    assert answers["seconds_to_abort"] < 5


def test_interrupted_it_ends_with_all_its_processes(process):
    with no_survivors(process.pid):
        process.send_signal(signal.SIGINT)
        assert process.wait(SOON) == -signal.SIGINT


def test_a_search_of_the_likeliest_tokens_gives_the_responses_of_transformers(models, tmp_path):
    """At a temperature, which confidences must not depend on."""
    args = make_args(models, tmp_path / "hf", temperature=0.7, top_p=1e-6, confidence=4)
    inference_eval.main(args)
    ours = replace_flags(args, engine="sglang", output_path=tmp_path / "sglang" / "records.jsonl")
    command = [*as_command(ours), "--engine_args", "max_total_tokens=8192", "sleep_on_idle=1"]
    done = subprocess.run(
        command, env=sglang_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert responses(ours.output_path) == responses(args.output_path)
    theirs = {record.key: record.responses for record in read_records(args.output_path)}
    for record in read_records(ours.output_path):
        for response, other in zip(record.responses, theirs[record.key], strict=True):
            found, expected = vars(response.confidence), vars(other.confidence)
            assert found.pop("self_certainty") <= expected.pop("self_certainty") + 1e-4
            assert found == pytest.approx(expected, abs=1e-4)


@pytest.fixture
def load(monkeypatch):
    """Loads an engine, in place of which is what only keeps the arguments it was started with."""

    class Started:
        def __init__(self, **started_with):
            self.server_args = SimpleNamespace(resolved_dict=lambda: started_with)

    monkeypatch.setattr(sglang, "import_engine", lambda: Started)

    def load_with(arguments):
        engine = SglangEngine.load("policy", 10, arguments)
        return engine, engine._engine.server_args.resolved_dict()

    return load_with


@pytest.mark.parametrize(
    ("arguments", "sign"),
    [
        ({}, -1),
        ({"schedule_low_priority_values_first": True}, 1),
        ({"enable_priority_scheduling": False}, 0),
        ({"schedule_policy": "lpm"}, 0),  # which SGLang refuses together with priorities
    ],
)
def test_the_engine_goes_by_priorities_unless_its_arguments_rule_them_out(arguments, sign, load):
    engine, started_with = load(arguments)
    assert engine._priority_sign == sign
    assert started_with.get("disable_priority_preemption", True)


def test_one_scheduler_has_a_port_that_no_program_is_given_by_chance(load):
    assert load({})[1]["nccl_port"] in range(20_000, 32_000)
    assert load({"nccl_port": 7})[1]["nccl_port"] == 7


def test_several_schedulers_have_ports_of_their_own(load):
    assert "nccl_port" not in load({"dp_size": 2})[1]


def test_a_missing_sglang_is_named_at_the_start(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = "--engine sglang needs SGLang, which is not installed: pip install -r requirem"
    with pytest.raises(InputError, match=message):
        settle_engine(EngineFlags("sglang"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "hf", "engine_args": ("a=b",)}, "--engine_args are of --engine sglang, not"),
        ({"gpu_util": 75.0}, r"--gpu_util must be in \(0, 1\), got 75.0"),
        ({"tp_size": 0}, "--tp_size must be at least 1, got 0"),
        ({"dp_size": -1}, "--dp_size must be at least 1, got -1"),
    ],
)
def test_settings_that_no_engine_can_have_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(EngineFlags("sglang"), **changes).check()


def test_an_sglang_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sglang", None)
    folder = str(save_tiny_policy(tmp_path))
    message = f"^{folder}: SGLang could not be started: ModuleNotFoundError: import of sglang"
    with pytest.raises(ValueError, match=message):
        open_engine(EngineFlags("sglang"), folder, torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "sglang.srt.server_args", None)
    with pytest.raises(InputError, match=r"^--engine_args: SGLang could not be imported: "):
        server_arguments(["a=b"])
