import json
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from loggers import open_trackers


def read_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_are_written_at_once_and_continued(tmp_path):
    folder = tmp_path / "run"
    tracker = open_trackers(folder, {})
    tracker.log({"loss": 1.5}, step=1)
    assert read_lines(folder)[0]["loss"] == 1.5  # flushed before close
    tracker.log({"loss": float("nan"), "lr": 0.1}, step=2)
    tracker.close()
    again = open_trackers(folder, {}, tracker_id=tracker.tracker_id)
    again.log({"loss": 0.5}, step=2)
    again.close()
    assert [(line["step"], line["loss"]) for line in read_lines(folder)] == [
        (1, 1.5),
        (2, None),
        (2, 0.5),
    ]
    assert again.tracker_id == tracker.tracker_id


@pytest.mark.parametrize(("torn", "kept"), [('{"step": 3}\n{"st', 1), ('{"st', 0), ("", 0)])
def test_a_torn_line_is_cut_off(tmp_path, torn, kept):
    (tmp_path / "metrics.jsonl").write_text(torn)
    tracker = open_trackers(tmp_path, {})
    tracker.log({"loss": 1.0}, step=4)
    tracker.close()
    lines = read_lines(tmp_path)
    assert len(lines) == kept + 1
    assert lines[-1]["step"] == 4


def test_neptune_offline_keeps_its_files_beside_the_run(tmp_path, monkeypatch):
    monkeypatch.delenv("NEPTUNE_API_TOKEN", raising=False)
    config = {"max_lr": 0.1, "eval_data_path": None}
    tracker = open_trackers(tmp_path, config, "team/project", "my_run")
    tracker.log({"loss": 1.0, "grad_norm": float("inf")}, step=1)
    tracker.close()
    (database,) = (tmp_path / "neptune").rglob("*.sqlite3")
    with sqlite3.connect(database) as connection:
        tables = connection.execute("select name from sqlite_master where type='table'").fetchall()
    assert tables
    assert tracker.tracker_id in str(database)


class FailingRun:
    """Stands in for a Neptune whose service is gone."""

    def __init__(self, **kwargs: object):
        self.calls = 0

    def log_configs(self, data: dict) -> None:
        pass

    def log_metrics(self, data: dict, step: int) -> None:
        self.calls += 1
        raise ConnectionError("service is gone")

    def close(self) -> None:
        raise ConnectionError("service is gone")


def unable_to_start(**kwargs: object) -> None:
    raise ConnectionError("service is gone")


@pytest.mark.parametrize("run_class", [FailingRun, unable_to_start])
def test_a_failing_tracker_warns_once_and_never_stops_the_run(
    tmp_path, monkeypatch, capsys, run_class
):
    monkeypatch.setitem(sys.modules, "neptune_scale", SimpleNamespace(Run=run_class))
    tracker = open_trackers(tmp_path, {}, "team/project", "my_run")
    for step in range(3):
        tracker.log({"loss": 1.0}, step)
    tracker.close()
    assert len(read_lines(tmp_path)) == 3
    assert capsys.readouterr().err.count("service is gone") == 1
