"""Evaluations with a strategy, a scorer and a vote of the user's own."""

import json
import shutil

import pytest

import inference_eval
from run_lib.commands import InputError
from search_lib.results import shards, summary
from search_lib.results.records import read_records
from search_lib.results.shards import shard_path
from search_lib.voting import VOTES
from tests.support.paths import ROOT
from tests.support.plugins import forgotten_plugins
from tests.support.searches import make_args

EXAMPLE = ROOT / "docs" / "plugin_example.py"


@pytest.fixture(autouse=True)
def _forget():
    with forgotten_plugins():
        yield


def methods(folder):
    document = json.loads((folder / "metrics.json").read_text())
    return {row["method"] for row in document["metrics"]}


def test_the_example_runs_from_the_flags_to_the_table_and_is_counted_again(models, tmp_path):
    changes = {"search_type": "exploring2", "vote": ("Trimmed",), "max_problems": 1}
    args = make_args(models, tmp_path, plugin=EXAMPLE, **changes)
    assert inference_eval.main(args) == 0
    assert "Trimmed" in methods(tmp_path)
    (tmp_path / "metrics.json").unlink()
    summary.main([str(tmp_path), "--plugin", str(EXAMPLE)])
    assert "Trimmed" in methods(tmp_path)


def test_shards_merge_with_the_votes_of_the_plugin(models, tmp_path):
    path = tmp_path / "records.jsonl"
    changes = {"search_type": "exploring2", "vote": ("Trimmed",), "max_problems": 1}
    args = make_args(models, tmp_path, plugin=EXAMPLE, shard="0/1", num_repetitions=1, **changes)
    assert inference_eval.main(args) == 0
    shard = shard_path(path, 0, 1)
    with forgotten_plugins():
        del VOTES["Trimmed"]
        with pytest.raises(InputError, match=f"no vote 'Trimmed'.*this run had --plugin {EXAMPLE}"):
            shards.merge((shard,), path)
        assert not path.exists()
    shards.merge((shard,), path, plugin=EXAMPLE)
    assert "Trimmed" in methods(tmp_path)


def test_a_scorer_of_a_plugin_reads_texts(models, tmp_path):
    changes = {"scorer": "brevity", "classifier_ckpt_path": "by length", "max_problems": 1}
    args = make_args(models, tmp_path, plugin=EXAMPLE, num_repetitions=1, **changes)
    assert inference_eval.main(args) == 0
    (record,) = read_records(args.output_path)
    for response in record.responses:
        text = response.text.rstrip("\N{REPLACEMENT CHARACTER}")  # a character that has not ended
        assert response.value == pytest.approx(1 / (1 + len(text) / 100))


def test_a_run_does_not_go_on_with_another_content_of_its_plugin(models, tmp_path):
    plugin = tmp_path / "mine.py"
    shutil.copy(EXAMPLE, plugin)
    args = make_args(models, tmp_path, search_type="exploring2", max_problems=1, plugin=plugin)
    assert inference_eval.main(args) == 0
    plugin.write_text(plugin.read_text() + "# changed\n")
    with pytest.raises(InputError, match=r"--plugin \(its content has changed\)"):
        inference_eval.main(args)
