import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

import loggers
from loggers import TRACKERS, Tracker, open_trackers
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    for service in ("NEPTUNE", "WANDB"):
        for name in ("API_TOKEN", "API_KEY", "MODE"):
            monkeypatch.delenv(f"{service}_{name}", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("NEPTUNE_LOGGER_LEVEL", "error")


def read_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def log_losses(tracker: Tracker, losses: dict[int, float]) -> None:
    for step, loss in losses.items():
        tracker.log({"train/loss": loss}, step)


def test_lines_are_written_at_once_and_continued(tmp_path):
    folder = tmp_path / "run"
    tracker = open_trackers(folder, {})
    tracker.log({"loss": 1.5}, step=1)
    assert read_lines(folder)[0]["loss"] == 1.5  # flushed before close
    tracker.log({"loss": float("nan"), "lr": 0.1}, step=2)
    tracker.close()
    again = open_trackers(folder, {}, resume=tracker.state(1))
    again.log({"loss": 0.5}, step=2)
    again.close()
    assert [(line["step"], line["loss"]) for line in read_lines(folder)] == [
        (1, 1.5),
        (2, None),
        (2, 0.5),
    ]


@pytest.mark.parametrize(("torn", "kept"), [('{"step": 3}\n{"st', 1), ('{"st', 0), ("", 0)])
def test_a_torn_line_is_cut_off(tmp_path, torn, kept):
    (tmp_path / "metrics.jsonl").write_text(torn)
    tracker = open_trackers(tmp_path, {})
    tracker.log({"loss": 1.0}, step=4)
    tracker.close()
    lines = read_lines(tmp_path)
    assert len(lines) == kept + 1
    assert lines[-1]["step"] == 4


def test_an_unknown_tracker_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"'tensorbord'.*tensorboard, neptune, wandb"):
        open_trackers(tmp_path, {}, ["neptune", "tensorbord"])


def read_tensorboard(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


@pytest.mark.parametrize("checkpoint_step", [2, None])
def test_tensorboard_hides_the_steps_that_are_repeated(tmp_path, checkpoint_step):
    tracker = open_trackers(tmp_path, {"max_lr": 0.1}, ["tensorboard"])
    log_losses(tracker, {1: 1.0, 2: 0.5, 3: 0.25, 4: 0.125})
    tracker.log({"grad_norm": float("inf")}, step=4)
    tracker.close()
    assert [event.value for event in read_tensorboard(tmp_path).Scalars("train/loss")] == [
        1.0,
        0.5,
        0.25,
        0.125,
    ]
    resume = tracker.state(checkpoint_step) if checkpoint_step else None
    again = open_trackers(tmp_path, {"max_lr": 0.1}, ["tensorboard"], resume=resume)
    log_losses(again, {3: 8.0})
    again.close()
    events = read_tensorboard(tmp_path)
    kept = [(1, 1.0), (2, 0.5)] if checkpoint_step else []
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        *kept,
        (3, 8.0),
    ]
    assert events.Tags()["scalars"] == ["train/loss"]
    assert b'"max_lr": 0.1' in events.Tensors("config/text_summary")[-1].tensor_proto.string_val[0]


def read_neptune(folder: Path, run_id: str):
    """Returns the creation of a run, its configuration and its losses by step."""
    from neptune_scale.sync.operations_repository import OperationsRepository

    (path,) = (path for path in (folder / "neptune").rglob("*.sqlite3") if run_id in str(path))
    repository = OperationsRepository(path)
    assert repository.get_metadata().run_id == run_id
    creation, *updates = (item.operation for item in repository.get_operations(2**26))
    repository.close(cleanup_files=False)
    config, losses = {}, {}
    for update in updates:
        config.update(update.assign)
        if "train/loss" in update.append:
            step = update.step.whole + update.step.micro / 1e6
            losses[step] = update.append["train/loss"].float64
    return creation, config, losses


@pytest.mark.parametrize(
    ("variables", "mode", "token"),
    [
        ({"NEPTUNE_API_KEY": "key"}, "async", "key"),
        ({"NEPTUNE_API_KEY": "key", "NEPTUNE_API_TOKEN": "token"}, "async", "token"),
        ({}, "offline", None),
    ],
)
def test_neptune_takes_its_key_under_both_names(tmp_path, monkeypatch, variables, mode, token):
    class Run:
        made: ClassVar[list[Any]] = []

        def __init__(self, **settings):
            self.settings, self.tags = settings, []
            Run.made.append(self)

        def log_configs(self, config, cast_unsupported):
            pass

        def add_tags(self, tags):
            self.tags += tags

        def close(self, timeout):
            pass

    monkeypatch.setattr("neptune_scale.Run", Run)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    open_trackers(tmp_path, {}, ["neptune"], tags=("a", "b")).close()
    (run,) = Run.made
    assert (run.settings["mode"], run.settings["api_token"]) == (mode, token)
    assert run.tags == ["a", "b"]


def test_neptune_goes_on_in_a_fork(tmp_path):
    config = {"max_lr": 0.1, "eval_data_path": None, "nested": {"path": "x"}}
    tracker = open_trackers(
        tmp_path, config, ["neptune"], run_name="my_run", neptune_project="team/project"
    )
    log_losses(tracker, {1: 1.0, 2: 0.5, 3: 0.25})
    tracker.log({"train/loss": float("inf")}, step=4)
    tracker.close()
    state = json.loads(json.dumps(tracker.state(2)))
    creation, saved_config, losses = read_neptune(tmp_path, state["neptune"])
    assert creation.experiment_id == "my_run"
    assert not creation.HasField("fork_point")
    assert saved_config["config/max_lr"].float64 == 0.1
    assert losses == {1: 1.0, 2: 0.5, 3: 0.25}

    again = open_trackers(
        tmp_path,
        config,
        ["neptune"],
        run_name="my_run",
        neptune_project="team/project",
        resume=state,
    )
    log_losses(again, {3: 8.0})
    again.close()
    new_id = again.state(3)["neptune"]
    creation, _, losses = read_neptune(tmp_path, new_id)
    assert new_id != state["neptune"]
    assert creation.experiment_id == "my_run"
    assert creation.fork_point.parent_project == "team/project"
    assert creation.fork_point.parent_run_id == state["neptune"]
    assert creation.fork_point.step.whole == 2
    assert losses == {3: 8.0}


def test_what_fails_in_the_threads_of_neptune_turns_it_off(tmp_path, capsys):
    tracker = open_trackers(tmp_path, {}, ["neptune"])
    tracker._services["neptune"]._errors.append(ConnectionError("no such project"))
    log_losses(tracker, {1: 1.0, 2: 0.5})
    tracker.close()
    assert len(read_lines(tmp_path)) == 2
    assert capsys.readouterr().err.count("no such project") == 1


def test_wandb_keeps_its_id(tmp_path):
    tracker = open_trackers(tmp_path, {"max_lr": 0.1}, ["wandb"], run_name="my_run")
    log_losses(tracker, {1: 1.0, 2: 0.5, 3: 0.25})
    tracker.close()
    state = json.loads(json.dumps(tracker.state(2)))
    again = open_trackers(tmp_path, {"max_lr": 0.1}, ["wandb"], run_name="my_run", resume=state)
    log_losses(again, {3: 8.125})  # a step that wandb had already
    again.close()
    assert again.state(2) == state
    first, second = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{state['wandb']}.wandb"))
    # The service of wandb writes a file to its end after it has answered that the run is finished.
    for file, texts in ((first, (b"my_run", b"max_lr", b"train/loss")), (second, (b"8.125",))):
        wait_for(lambda f=file, t=texts: all(text in f.read_bytes() for text in t), str(file), 30)


def fail(*args: object, **kwargs: object) -> None:
    raise ConnectionError("service\nis gone")


FAILURES = [
    ("tensorboard", "torch.utils.tensorboard.SummaryWriter.__init__"),
    ("tensorboard", "torch.utils.tensorboard.SummaryWriter.add_scalar"),
    ("tensorboard", "torch.utils.tensorboard.SummaryWriter.close"),
    ("neptune", "neptune_scale.Run.__init__"),
    ("neptune", "neptune_scale.Run.log_metrics"),
    ("neptune", "neptune_scale.Run.close"),
    ("wandb", "wandb.init"),
    ("wandb", "wandb.Run.log"),
]


@pytest.mark.parametrize(("name", "failing"), FAILURES)
def test_a_failing_tracker_warns_once_and_never_stops_the_run(
    tmp_path, monkeypatch, capsys, name, failing
):
    monkeypatch.setattr(failing, fail)
    tracker = open_trackers(tmp_path, {}, [name])
    log_losses(tracker, {1: 1.0, 2: 0.5, 3: 0.25})
    tracker.close()
    assert [line["train/loss"] for line in read_lines(tmp_path)] == [1.0, 0.5, 0.25]
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert warning.startswith(f"warning: {name} is off")
    assert "is gone" in warning


def test_missing_packages_warn_and_the_other_trackers_go_on(tmp_path, monkeypatch, capsys):
    for package in ("neptune_scale", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it weren't installed
    tracker = open_trackers(tmp_path, {}, TRACKERS)
    log_losses(tracker, {1: 1.0})
    tracker.close()
    assert len(read_lines(tmp_path)) == 1
    assert len(read_tensorboard(tmp_path).Scalars("train/loss")) == 1
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == [
        "neptune",
        "wandb",
    ]
    assert tracker.state(7) == {"step": 7}


def test_a_lost_connection_to_neptune_is_named_once(capsys):
    for last_seen in (None, 1.0, 2.0):
        loggers._warn_of_network(ConnectionError("no route"), last_seen)
    assert capsys.readouterr().err.count("warning: neptune has no connection") == 1


def test_metrics_are_read_by_step_and_the_later_line_counts(tmp_path):
    lines = [
        '{"step": 2, "a": 1.0, "b": 3.0}',
        '{"step": 1, "a": 5.0}',
        '{"step": 2, "a": null}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3, "a']))
    assert loggers.read_metrics(tmp_path) == {
        1: {"step": 1, "a": 5.0},
        2: {"step": 2, "a": None, "b": 3.0},
    }


def test_damaged_metrics_are_named_by_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: no metrics: "):
        loggers.read_metrics(tmp_path)
