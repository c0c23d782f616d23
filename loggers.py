"""Metrics of a run: a local JSONL file always, Neptune when it is asked for.

`metrics.jsonl` gets one line a call, `{"step": int, "time": unix seconds, "name": number, ...}`,
written whole and flushed. The file is only appended to: a resumed run logs again the steps
after its checkpoint, so of two lines with the same step and name the later one counts. A number
that isn't finite is written as null.
"""

import json
import math
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"


class Tracker:
    """Writes metrics; made by `open_trackers`.

    Attributes:
        tracker_id: Identity of the run in Neptune; hand it to `open_trackers` to continue the run.
    """

    def __init__(self, path: Path, neptune_run: Any, tracker_id: str):
        self.tracker_id = tracker_id
        self._neptune_run = neptune_run
        _cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Logs the metrics of one step.

        Args:
            metrics: Numbers by name.
            step: Step that they belong to.
        """
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        values = {name: finite.get(name) for name in metrics}
        line = {"step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        if self._neptune_run is not None and finite:
            try:
                self._neptune_run.log_metrics(finite, step=step)
            except Exception as error:
                self._drop_neptune(error)

    def close(self) -> None:
        """Closes the file and waits for Neptune to have everything."""
        self._file.close()
        if self._neptune_run is not None:
            try:
                self._neptune_run.close()
            except Exception as error:
                self._drop_neptune(error)

    def _drop_neptune(self, error: Exception) -> None:
        """Goes on without Neptune: a tracker must never stop the run it tracks."""
        self._neptune_run = None
        _warn(error)


def open_trackers(
    output_dir: Path,
    config: dict[str, Any],
    neptune_project: str | None = None,
    run_name: str | None = None,
    tracker_id: str | None = None,
) -> Tracker:
    """Opens the trackers of a run; in a run of several processes rank 0 does.

    Args:
        output_dir: Folder for `metrics.jsonl`, made if needed. Without a Neptune API token Neptune
            works offline and keeps its files in `neptune/` there.
        config: Configuration to show in Neptune.
        neptune_project: "workspace/project"; None for no Neptune.
        run_name: Name of the experiment in Neptune.
        tracker_id: Identity of the run to continue; a new one by default.

    Returns:
        The tracker. If Neptune can't be started it warns once and only the file is written.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    tracker_id = tracker_id or uuid.uuid4().hex
    neptune_run = None
    if neptune_project is not None:
        try:
            neptune_run = _start_neptune(
                output_dir, config, neptune_project, run_name or output_dir.name, tracker_id
            )
        except Exception as error:  # a tracker must never stop the run it tracks
            _warn(error)
    return Tracker(output_dir / METRICS_FILE, neptune_run, tracker_id)


def _start_neptune(
    output_dir: Path, config: dict[str, Any], project: str, run_name: str, tracker_id: str
) -> Any:
    from neptune_scale import Run  # half a second that runs without a tracker don't pay

    run = Run(
        project=project,
        run_id=tracker_id,
        experiment_name=run_name,
        mode="async" if os.environ.get("NEPTUNE_API_TOKEN") else "offline",
        log_directory=output_dir / "neptune",
        enable_console_log_capture=False,
    )
    values = {key: value if value is not None else "" for key, value in config.items()}
    run.log_configs({f"config/{key}": value for key, value in values.items()})
    return run


def _warn(error: Exception) -> None:
    print(f"warning: Neptune is off for the rest of this run: {error!r}", file=sys.stderr)


def _cut_torn_line(path: Path) -> None:
    """Cuts off the line that a killed process left unfinished."""
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
