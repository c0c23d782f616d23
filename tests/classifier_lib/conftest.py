"""Fixtures of the scoring command: its models, and a finished run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

from classifier_lib import score
from data_prep.toy.tokenizer import build_tokenizer
from tests.support.refusals import refusal
from tests.support.score_command import WINDOW, id_rows, make_args, write_rows


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As DeepSeek's, this one begins every text with a token, unless told not to."""
    tokenizer = build_tokenizer()
    begin = str(tokenizer.bos_token)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    folder = tmp_path_factory.mktemp("score") / "tokenizer"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def finished(value_model_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Rows of ids and their values, in tokens mode."""
    rows = write_rows(tmp_path / "rows.jsonl", id_rows(40))
    output = tmp_path / "values.jsonl"
    score.score_file(make_args(value_model_folder, rows, output, at="tokens"), window_rows=WINDOW)
    return rows, output


@pytest.fixture
def score_error(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs a command line that is refused; returns the one line that says why."""
    return lambda argv: refusal(score.main, "classifier_lib.score", argv, capsys)
