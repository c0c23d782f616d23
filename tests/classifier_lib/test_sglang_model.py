"""The value model in the real SGLang, on a CPU, against transformers."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from classifier_lib import serve
from classifier_lib.loading import load_value_model
from classifier_lib.modeling import SUCCESS_CLASS, VALUE_MODELS, Qwen2ForClassifier, ValueModel
from run_lib.commands import InputError
from search_lib.engines.http_service import get_json
from search_lib.scorers.value_server import ValueServer
from tests.support.paths import ROOT
from tests.support.sglang_processes import sglang_environment
from tests.support.tiny_models import (
    CONTEXT,
    save_tiny_classifier,
    save_tiny_policy,
    tiny_value_config,
)
from tests.support.value_servers import TOLERANCE, ask, class_probabilities

pytestmark = pytest.mark.xdist_group("sglang")


@pytest.fixture(scope="module")
def reference(value_model_folder) -> Qwen2ForClassifier:
    return Qwen2ForClassifier.from_pretrained(value_model_folder).eval()


IDS = [5, 6, *range(60)]
"""What `load_in_sglang.py` asks for."""


def rows_of(url: str, paths: list[list[int]]) -> list[list[float]]:
    reply = ask(f"{url}/v1/embeddings", {"model": "any", "input": paths})
    return [item["embedding"] for item in reply["data"]]


def test_class_probabilities_equal_those_of_transformers(value_server, reference):
    generator = torch.Generator().manual_seed(0)
    # Up to the longest that SGLang takes; a prefill has 16 tokens here.
    paths = [
        torch.randint(reference.config.vocab_size, (length,), generator=generator).tolist()
        for length in (1, 2, 15, 16, 17, 32, 33, 64, CONTEXT - 1)
    ]
    rows = rows_of(value_server.url, paths)
    for path, row in zip(paths, rows, strict=True):
        assert row[:3] == pytest.approx(class_probabilities(reference, path), abs=TOLERANCE)


def test_another_family_has_the_values_of_transformers(tmp_path, monkeypatch):
    # Of the two others the one whose layers depend more on SGLang's batches; for both of them, the
    # layers alone are compared below.
    folder = save_tiny_classifier(tmp_path / "value_model", family="qwen3")
    reference = load_value_model(str(folder), device=torch.device("cpu"))
    for name, value in sglang_environment().items():
        monkeypatch.setenv(name, value)
    server = ValueServer(str(folder), tmp_path / "server.log", ["--chunked-prefill-size", "16"])
    try:
        server.wait_until_ready()
        prompt = list(range(40))
        for cached, path in ((0, prompt), (40, [*prompt, *range(5, 50)]), (40, [*prompt, 3])):
            (row,) = rows_of(server.url, [path])
            assert row[3] == cached
            assert row[:3] == pytest.approx(class_probabilities(reference, path), abs=TOLERANCE)
    finally:
        server.stop()


def test_a_cached_prefix_is_not_computed_again_and_changes_no_value(value_server, reference):
    prompt = [5, *range(100, 140)]
    blocks = [[7, 8, 9], [10] * 20, [11]]
    (row,) = rows_of(value_server.url, [prompt])
    assert row[3] == 0  # chunks of one path are no cache
    paths = [prompt + block for block in blocks]
    for path, row in zip(paths, rows_of(value_server.url, paths), strict=True):
        assert row[3] == len(prompt)
        assert row[:3] == pytest.approx(class_probabilities(reference, path), abs=TOLERANCE)
    longer = paths[1] + [12] * 30
    (row,) = rows_of(value_server.url, [longer])
    assert row[3] == len(paths[1])
    assert row[:3] == pytest.approx(class_probabilities(reference, longer), abs=TOLERANCE)


def test_the_port_of_its_processes_is_one_that_no_program_is_given_by_chance(value_server):
    port = get_json(f"{value_server.url}/get_server_info")["nccl_port"]
    assert port < 32_768


BROKEN = {
    "missing": (
        lambda weights: weights.pop("model.layers.1.self_attn.k_proj.bias"),
        "not a value model: no weights for model.layers.1.self_attn.k_proj.bias",
    ),
    "unknown": (
        lambda weights: weights.update({"score.2.bias": torch.zeros(3)}),
        "not a value model: unknown weights for score.2.bias",
    ),
    "a policy's": (
        lambda weights: [weights.pop("score.0.weight"), weights.pop("score.2.weight")],
        "not a value model: no weights for score.0.weight, score.2.weight",
    ),
    "another head": (
        lambda weights: weights.update({"score.2.weight": torch.zeros(1, 32)}),
        "not a value model of 3 labels: score.2.weight is of the shape [1, 32], not [3, 32]",
    ),
}


def build_models() -> dict[str, ValueModel]:
    """Value models by name: every number of labels, every family, and its biases."""
    settings = {f"qwen2, {labels} labels": ("qwen2", {"num_labels": labels}) for labels in (1, 2)}
    settings |= {family: (family, {}) for family in VALUE_MODELS}
    for family in ("llama", "qwen3"):
        settings[f"{family}, biases"] = (family, {"attention_bias": True})
    models = {}
    for name, (family, changes) in settings.items():
        torch.manual_seed(0)
        models[name] = VALUE_MODELS[family](tiny_value_config(family, **changes)).eval()
        for parameter_name, parameter in models[name].named_parameters():
            if parameter_name.endswith("bias"):
                torch.nn.init.normal_(parameter)
    return models


def test_weights_are_loaded_strictly_and_every_head_gives_three_classes(tmp_path):
    models = build_models()
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    # What transformers ignores, too: the head that a policy had before.
    weights = models["qwen2"].state_dict()
    extra = {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(weights | extra, tmp_path / "qwen2" / "model.safetensors", {"format": "pt"})
    for name, (change, _) in BROKEN.items():
        shutil.copytree(tmp_path / "qwen2", tmp_path / name)
        changed = dict(weights)
        change(changed)
        save_file(changed, tmp_path / name / "model.safetensors", {"format": "pt"})

    folders = [str(tmp_path / name) for name in (*models, *BROKEN)]
    search_path = os.pathsep.join([str(ROOT), sglang_environment()["PYTHONPATH"]])
    script = ROOT / "tests" / "support" / "load_in_sglang.py"
    output = subprocess.run(
        [sys.executable, script, tmp_path / "meeting", *folders],
        env=sglang_environment() | {"PYTHONPATH": search_path, "SGLANG_USE_CPU_ENGINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    results = [json.loads(line) for line in output.splitlines()[-len(folders) :]]

    for model, row in zip(models.values(), results, strict=False):
        with torch.no_grad():
            value = model(torch.tensor([IDS])).success_probs[0, -1].item()
        assert len(row) == 3
        assert sum(row) == pytest.approx(1.0, abs=1e-6)
        assert row[SUCCESS_CLASS] == pytest.approx(value, abs=TOLERANCE)
    assert results[len(models) :] == [message for _, message in BROKEN.values()]


def test_a_server_that_cannot_serve_says_why(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"^--model .*absent: no model could be found: no such"):
        serve.main(["--model", str(tmp_path / "absent")])
    policy = save_tiny_policy(tmp_path / "policy")
    with pytest.raises(InputError, match=r"holds \['Qwen2ForCausalLM'\], not a value model"):
        serve.main(["--model", str(policy)])
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    Qwen2ForClassifier(tiny_value_config("qwen2", **windows)).save_pretrained(tmp_path / "windows")
    with pytest.raises(InputError, match="windows has sliding-window attention, which SGLang's ba"):
        serve.main(["--model", str(tmp_path / "windows")])
    # SGLang itself would only log that it could not import the model.
    model = str(save_tiny_classifier(tmp_path / "value_model"))
    registry = SimpleNamespace(ModelRegistry=SimpleNamespace(models={}))
    monkeypatch.setitem(sys.modules, "sglang.srt.models.registry", registry)
    for name in ("sglang", "sglang.srt", "sglang.srt.models"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[], __spec__=None))
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, f"{serve.MODEL_PACKAGE}.classifiers", None)
    monkeypatch.setattr(serve.os, "environ", {})
    message = r"this version of SGLang can't load .* \(made for 0.5.21\): ModuleNotFoundError: "
    with pytest.raises(InputError, match=message):
        serve.main(["--model", model])
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    message = "serving a value model needs SGLang: pip install -r requirements-gpu.txt"
    with pytest.raises(InputError, match=message):
        serve.main(["--model", model])


def test_other_machines_need_a_key(value_model_folder):
    command = [sys.executable, "-m", "classifier_lib.serve", "--model", value_model_folder]
    result = subprocess.run(
        [*command, "--hos", "0.0.0.0"],  # as SGLang understands it
        env=sglang_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "classifier_lib.serve: error: --host 0.0.0.0 can be reached from other machines: "
        "that needs --api-key"
    )


def test_a_server_ends_with_the_process_that_started_it():
    """However that ends."""
    child = (
        "from classifier_lib.serve import end_with_parent; import time; end_with_parent();"
        "print('running', flush=True); time.sleep(600)"
    )
    parent = (
        "import subprocess, sys, time;"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    )
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            assert process.stdout.readline() == b"running\n"
        finally:
            process.send_signal(signal.SIGKILL)
        # A pipe ends when the last process that holds it has ended.
        readable, _, _ = select.select([process.stdout], [], [], 30)
        assert readable
        assert process.stdout.read() == b""
