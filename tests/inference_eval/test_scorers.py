"""Evaluations with scorers that have a tokenizer of their own."""

import json
import re
import socket
import subprocess
import sys

import pytest
import torch

import inference_eval
from run_lib.commands import InputError
from run_lib.hub import load_tokenizer
from run_lib.ports import free_port
from search_lib.open_models import OpenModels
from search_lib.results.blocks import RunBlocks
from search_lib.results.records import read_records
from search_lib.scorers.factory import step_reader
from search_lib.scorers.flags import ScorerFlags
from search_lib.scorers.text_models import StepModel, load_step_prm
from tests.support.documentation import PAGES
from tests.support.searches import make_args
from tests.support.tiny_scorers import save_qwen, save_reward
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def prm(tmp_path_factory):
    return str(save_qwen(tmp_path_factory.mktemp("prm")))


def test_a_step_prm_values_every_path_and_is_counted(models, prm, tmp_path):
    changes = {"scorer": "prm", "classifier_ckpt_path": prm, "step_aggregation": "min"}
    args = make_args(models, tmp_path, **changes)
    assert inference_eval.main(args) == 0
    reader = step_reader(ScorerFlags("prm"), prm)
    loaded = load_step_prm(prm, reader, "sdpa", torch.device("cpu"))
    model = StepModel(loaded, reader, 2000, 0)
    inputs = []
    blocks = RunBlocks(args.output_path)
    for record in read_records(args.output_path):
        texts = path_texts(record, blocks.of(record), load_tokenizer(str(models / "policy")))
        inputs += [reader.encode(record.problem, text) for text in texts]
        reads = model.read(inputs[-len(texts) :])
        assert [node.value for node in record.tree] == pytest.approx(
            [min(read.scores) for read in reads], abs=1e-5
        )
    lengths = [len(one.ids) for one in inputs]
    cost = json.loads((tmp_path / "metrics.json").read_text())["cost"]
    assert cost["tokens_scored"] + cost["tokens_cached"] == sum(lengths)
    assert cost["tokens_cached"] > 0
    assert cost["value_model_flops"] > 0
    with pytest.raises(InputError, match=r"--step_aggregation \(was 'min', now 'last'\)"):
        inference_eval.main(make_args(models, tmp_path, **(changes | {"step_aggregation": "last"})))


def test_a_run_that_follows_one_with_a_step_prm_has_its_policy(models, prm, tmp_path):
    few = {"max_problems": 1, "num_repetitions": 1}
    by_prm = {"scorer": "prm", "classifier_ckpt_path": prm}
    with OpenModels() as shared:
        for name, changes in (("prm", by_prm), ("values", {})):
            args = make_args(models, tmp_path / name, **few, **changes)
            assert inference_eval.evaluate(args, shared) == 0


def path_texts(record, blocks, tokenizer):
    """What the policy had written at the end of each block."""
    texts = []
    for node, block in enumerate(record.tree):
        ids = blocks.response_ids(node)
        ended = block.finish_reason == "stop"
        text = tokenizer.decode(ids[:-1] if ended else ids)
        texts.append(text if ended else text.rstrip("\N{REPLACEMENT CHARACTER}"))
    return texts


@pytest.fixture
def example_server(tmp_path):
    """The server that docs/scorers.md prints."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGES["scorers.md"], re.DOTALL)
    script, port = tmp_path / "my_scorer.py", free_port()
    script.write_text(code)
    with subprocess.Popen(
        [sys.executable, script, str(port)], stderr=subprocess.DEVNULL
    ) as process:

        def listens():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait_for(listens, "the server of docs/scorers.md", 60)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def test_the_server_of_the_documentation_guides_a_search(models, example_server, tmp_path):
    folder = tmp_path / "run"
    changes = {"scorer": "http", "scorer_url": (example_server,), "classifier_ckpt_path": "doubts"}
    args = make_args(models, folder, **changes)
    assert inference_eval.main(args) == 0
    responses = [
        response for record in read_records(args.output_path) for response in record.responses
    ]
    assert [response.value for response in responses] == pytest.approx(
        [1 / (1 + response.text.count("hm")) for response in responses]
    )
    cost = json.loads((folder / "metrics.json").read_text())["cost"]
    assert cost["tokens_scored"] is None  # not known
    # A scorer of another kind is another run, even under the same name.
    with pytest.raises(InputError, match=r"--scorer \(was 'http', now 'vllm_score'\)"):
        inference_eval.main(make_args(models, folder, **(changes | {"scorer": "vllm_score"})))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scorer": "mine"}, "unknown --scorer 'mine'; known: hf, sglang, .*http, none"),
        ({"scorer": "prm"}, r"--classifier_ckpt_path .* holds Qwen2ForClassifier, which is no ste"),
        ({"scorer": "reward"}, "--classifier_ckpt_path .* which has no sequence classification h"),
        (
            {
                "scorer": "http",
                "scorer_url": ("http://127.0.0.1:9",),
                "classifier_ckpt_path": "VGS-AI/DeepSeek-VM-1.5B",
            },
            "--scorer http needs --classifier_ckpt_path: a name for the scorer, by which the run",
        ),
        (
            {"scorer": "http", "scorer_url": ("http://127.0.0.1:9",), "classifier_ckpt_path": "m"},
            r"--scorer_url http://127.0.0.1:9: .*refused",
        ),
    ],
)
def test_what_is_no_scorer_is_refused(models, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        inference_eval.main(make_args(models, tmp_path, **changes))


def test_a_length_beyond_the_scorers_context_is_refused(models, tmp_path):
    folder = save_reward(tmp_path / "reward", 1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 40}))
    changes = {"scorer": "reward", "classifier_ckpt_path": str(folder)}
    with pytest.raises(InputError, match="exceed the scorer's context of 40 tokens for 3 prob"):
        inference_eval.main(make_args(models, tmp_path, **changes))
