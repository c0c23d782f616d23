"""The notebook runs from top to bottom, and keeps outputs that can be shown."""

import re

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.support.paths import ROOT
from tests.support.tiny_models import save_tiny_classifier, save_tiny_policy

PATH = ROOT / "notebooks" / "value_model.ipynb"
README = (ROOT / "README.md").read_text()


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook: NotebookNode) -> list[str]:
    return [output.text for output in outputs(notebook) if output.output_type == "stream"]


def pictures(notebook: NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_the_notebook_runs_from_top_to_bottom_offline(tmp_path, monkeypatch):
    # It looks for the quickstart's models beside its own folder.
    models, folder = tmp_path / "outputs" / "quickstart", tmp_path / "notebooks"
    save_tiny_policy(models / "policy")
    save_tiny_classifier(models / "value_model" / "final")
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(folder)}}).execute()

    _, scored, searched = printed(notebook)
    assert re.search(r"\nvalue 0\.\d\d\n$", scored)
    counts, table = searched.split("\n\nvalue  answer\n")
    assert re.fullmatch(r"\d+ blocks, \d+ tokens", counts)
    values = [float(row.split()[0]) for row in table.splitlines()]
    assert len(values) == 4
    assert values == sorted(values, reverse=True)
    assert pictures(notebook) == 2


def test_the_notebook_keeps_the_outputs_of_one_whole_run():
    notebook = nbformat.read(PATH, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert {output.output_type for output in outputs(notebook)} == {"stream", "display_data"}
    assert pictures(notebook) == 2


def test_the_kept_outputs_show_nothing_of_the_machine_that_made_them():
    text = "".join(printed(nbformat.read(PATH, as_version=4)))
    assert "../outputs/quickstart/" in text
    assert not re.search(r"(^|\s)/\w|[Ww]arning", text)


def test_without_the_toy_models_the_notebook_takes_the_published_ones():
    source = PATH.read_text()
    for name in ("VGS-AI/DeepSeek-VM-1.5B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"):
        assert name in source
        assert name in README
