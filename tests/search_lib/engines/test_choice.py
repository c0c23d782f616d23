"""Which engine the flags mean on which machine, and what they say where it can't be had."""

import sys

import pytest
import torch

from run_lib.commands import InputError
from search_lib.engines.choice import settle_engine
from search_lib.engines.flags import EngineFlags
from search_lib.results.run_config import RunConfig


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def sglang(tmp_path, monkeypatch):
    """Puts an SGLang of one file before the installed one."""

    def install(code: str) -> None:
        (tmp_path / "sglang").mkdir()
        (tmp_path / "sglang" / "__init__.py").write_text(code)

    for name in [name for name in sys.modules if name.partition(".")[0] == "sglang"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield install
    sys.modules.pop("sglang", None)


WHOLE = "class Engine: pass"
BROKEN = "raise ImportError('libcuda.so.1:\\nno such file')"
BROKEN_FAULT = "can't be imported (ImportError: libcuda.so.1: no such file)"


@pytest.mark.usefixtures("cuda")
def test_auto_is_sglang_where_there_are_cuda_and_sglang(sglang, capsys):
    sglang(WHOLE)
    assert settle_engine(EngineFlags()).engine == "sglang"
    assert capsys.readouterr().out == (
        "engine: sglang (--engine auto: there are CUDA and SGLang)\n"
    )


def test_auto_is_hf_without_cuda(sglang, capsys):
    sglang(WHOLE)
    assert settle_engine(EngineFlags(gpu_util=0.75)).engine == "hf"
    assert capsys.readouterr().out == "engine: hf (--engine auto: there is no CUDA device)\n"


@pytest.mark.usefixtures("cuda")
def test_auto_is_hf_without_an_sglang_that_works(sglang, capsys, monkeypatch):
    sglang(BROKEN)
    assert settle_engine(EngineFlags()).engine == "hf"
    assert capsys.readouterr().out == f"engine: hf (--engine auto: SGLang {BROKEN_FAULT})\n"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert settle_engine(EngineFlags()).engine == "hf"
    assert capsys.readouterr().out == "engine: hf (--engine auto: SGLang is not installed)\n"


@pytest.mark.parametrize(
    ("flags", "engine"),
    [
        (EngineFlags(sglang_url=("http://a:30000",)), "sglang_server"),
        (EngineFlags(use_sglang_server=True), "sglang_server"),
        (EngineFlags("sglang_server", use_sglang_server=True), "sglang_server"),
        (EngineFlags(tp_size=2), "sglang"),
        (EngineFlags("hf"), "hf"),
    ],
)
def test_a_flag_of_one_engine_means_that_engine(sglang, flags, engine):
    sglang(WHOLE)
    settled = settle_engine(flags)
    assert (settled.engine, settled.use_sglang_server) == (engine, False)


@pytest.mark.parametrize("flags", [EngineFlags("sglang"), EngineFlags(engine_args=("a=b",))])
def test_an_sglang_that_cannot_be_imported_is_one_line(sglang, flags):
    sglang(BROKEN)
    with pytest.raises(InputError) as refusal:
        settle_engine(flags)
    assert str(refusal.value) == (
        f"--engine sglang needs SGLang, which {BROKEN_FAULT}: "
        "pip install -r requirements-gpu.txt -c constraints.txt"
    )


def test_two_engines_at_once_are_refused():
    with pytest.raises(InputError, match=r"^--use_sglang_server is not of --engine hf$"):
        settle_engine(EngineFlags("hf", use_sglang_server=True))


def test_a_run_of_the_published_spelling_is_one_of_that_engine():
    flags = dict.fromkeys(("benchmark", "search_type", "num_blocks", "num_repetitions"), "x")
    flags |= dict.fromkeys(("output_path", "piref_model", "classifier_ckpt_path"), "x")
    saved = {"engine": "hf", "use_sglang_server": True, "problem_ids": [], "fingerprints": {}}
    assert RunConfig._parse(flags | saved).flags["engine"] == "sglang_server"
    saved["use_sglang_server"] = False
    assert RunConfig._parse(flags | saved).flags["engine"] == "hf"
