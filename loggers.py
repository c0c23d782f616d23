"""Metrics of a run: a local JSONL file always; TensorBoard, Neptune and wandb when asked for.

`metrics.jsonl` gets one line a call, `{"step": int, "time": unix seconds, "name": number, ...}`,
written whole and flushed. The file is only appended to: a resumed run logs again the steps
after its checkpoint, so of two lines with the same step and name the later one counts. A number
that isn't finite is written as null; the trackers don't get it.

A tracker that fails never stops the run: one warning, then it is off for the rest of the run. Each
keeps its files in a folder of its name beside `metrics.jsonl`:

- `tensorboard`: `tensorboard --logdir FOLDER` shows them. Steps that a resumed run repeats hide the
  earlier ones.
- `neptune`: online with NEPTUNE_API_TOKEN or NEPTUNE_API_KEY, else offline (`neptune sync` uploads,
  oldest first). A resumed run is a new Neptune run, forked from the old one at the checkpoint's
  step, as Neptune refuses steps that don't increase. The fork continues the experiment of the same
  name.
- `wandb`: online with WANDB_API_KEY, else offline (`wandb sync` uploads). A resumed run keeps its
  id. Its x axis is the logged "step", which may go back, and not wandb's own, which may not.

NEPTUNE_MODE and WANDB_MODE overrule the choice between online and offline.
"""

import atexit
import json
import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from run_lib.lines import cut_torn_line
from run_lib.text import one_line

METRICS_FILE = "metrics.jsonl"
TIME_LIMIT = 60.0
"""Seconds that a service may take to start, and at the end to upload the rest."""

TrackerState = dict[str, Any]
"""State of the trackers in a checkpoint: {"step": its step, tracker name: identity of its run}.
Plain JSON."""


@dataclass(frozen=True)
class _Settings:
    """Settings that all services get; see `open_trackers`."""

    output_dir: Path
    config: dict[str, Any]
    run_name: str
    neptune_project: str
    resume: TrackerState | None
    tags: Sequence[str]


class _Service(Protocol):
    """A tracker besides the file."""

    run_id: str | None  # stored in checkpoints

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    """Event files for TensorBoard."""

    run_id: str | None = None  # the folder is its identity

    def __init__(self, settings: _Settings):
        from torch.utils.tensorboard import SummaryWriter  # seconds, only for runs that use it

        # Without a checkpoint too: the folder may have a run that was killed before its first one.
        first_step = settings.resume["step"] + 1 if settings.resume else 0
        self._writer = SummaryWriter(
            str(settings.output_dir / "tensorboard"), purge_step=first_step, flush_secs=10
        )
        config = json.dumps(settings.config, indent=2, default=str)
        self._writer.add_text("config", f"```\n{config}\n```", first_step)

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Neptune:
    """A run in Neptune, perhaps offline."""

    def __init__(self, settings: _Settings):
        from neptune_scale import Run

        self.run_id: str | None = uuid.uuid4().hex
        parent = (settings.resume or {}).get("neptune")
        self._errors: list[BaseException] = []
        token = os.environ.get("NEPTUNE_API_TOKEN") or os.environ.get("NEPTUNE_API_KEY")
        self._run = Run(
            project=settings.neptune_project,
            api_token=token,
            run_id=self.run_id,
            experiment_name=settings.run_name,
            fork_run_id=parent,
            fork_step=settings.resume["step"] if settings.resume and parent else None,
            mode=_mode("NEPTUNE_MODE", token, "async"),
            log_directory=settings.output_dir / "neptune",
            enable_console_log_capture=False,
            on_error_callback=lambda error, last_seen: self._errors.append(error),
            on_network_error_callback=_warn_of_network,
        )
        # Before the client's own, which waits without a limit.
        atexit.register(self._run.close, timeout=TIME_LIMIT)
        self._run.log_configs(
            {f"config/{key}": value for key, value in settings.config.items()},
            cast_unsupported=True,
        )
        if settings.tags:
            self._run.add_tags(list(settings.tags))

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._raise_error()
        self._run.log_metrics(metrics, step)

    def close(self) -> None:
        atexit.unregister(self._run.close)
        self._run.close(timeout=0 if self._errors else TIME_LIMIT)
        self._raise_error()

    def _raise_error(self) -> None:
        """Raises the first error of the client's threads."""
        if self._errors:
            raise self._errors[0]


class _Wandb:
    """A run in wandb, perhaps offline."""

    def __init__(self, settings: _Settings):
        # wandb reports its errors to its makers, even from an offline run; before the import.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self.run_id: str | None = (settings.resume or {}).get("wandb") or uuid.uuid4().hex
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or settings.neptune_project.split("/")[-1],
            name=settings.run_name,
            tags=list(settings.tags),
            dir=settings.output_dir,
            id=self.run_id,
            resume="allow",
            mode=_mode("WANDB_MODE", os.environ.get("WANDB_API_KEY"), "online"),
            config=settings.config,
            settings=wandb.Settings(
                console="off",
                quiet=True,
                init_timeout=TIME_LIMIT,
                login_timeout=TIME_LIMIT,
                finish_timeout=TIME_LIMIT,
                finish_timeout_raises=True,
            ),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log({**metrics, "step": step})

    def close(self) -> None:
        self._run.finish()


_SERVICES: dict[str, Callable[[_Settings], _Service]] = {
    "tensorboard": _TensorBoard,
    "neptune": _Neptune,
    "wandb": _Wandb,
}
TRACKERS = tuple(_SERVICES)


class Tracker:
    """Writes metrics; made by `open_trackers`."""

    def __init__(self, path: Path, services: dict[str, _Service]):
        self._services = services
        self._run_ids = {name: service.run_id for name, service in services.items()}
        cut_torn_line(path)
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
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:  # a full disk: later lines may fit again
            _warn(f"{METRICS_FILE} lacks step {step}", error)
        for name, service in list(self._services.items()):
            with _outlived(name):
                service.log(finite, step)
                continue
            # Only a failed one gets here.
            del self._services[name]
            with suppress(Exception):  # it was warned of already
                service.close()

    def state(self, step: int) -> TrackerState:
        """Returns the state that a checkpoint stores, for `open_trackers` to continue from.

        Args:
            step: Step of the checkpoint: the last one whose metrics the continued run keeps.

        Returns:
            A dict of JSON values: "step", and the identity of the run by tracker.
        """
        return {"step": step, **{name: run_id for name, run_id in self._run_ids.items() if run_id}}

    def close(self) -> None:
        """Closes the file, and gives each service up to `TIME_LIMIT` seconds to get everything."""
        self._file.close()
        for name, service in self._services.items():
            with _outlived(name):
                service.close()


def read_metrics(folder: Path) -> dict[int, dict[str, float | None]]:
    """Reads the metrics of a run, in the order of their steps.

    Args:
        folder: Folder of the run.

    Returns:
        By step, the values by name: the last one that was written, if a resumed run wrote several.
        A last line that a killed run left torn is no part of it.

    Raises:
        ValueError: If there is no such file, or a whole line is damaged; begins with its path.
    """
    path = folder / METRICS_FILE
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    steps: dict[int, dict[str, float | None]] = {}
    for number, text in enumerate(whole.splitlines(), start=1):
        try:
            line = json.loads(text)
            steps.setdefault(line["step"], {}).update(line)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: no metrics: {one_line(error)}") from error
    return dict(sorted(steps.items()))


def open_trackers(
    output_dir: Path,
    config: dict[str, Any],
    names: Sequence[str] = (),
    *,
    run_name: str | None = None,
    neptune_project: str = "vgs/train-classifier",
    resume: TrackerState | None = None,
    tags: Sequence[str] = (),
) -> Tracker:
    """Opens the trackers of a run; in a run of several processes rank 0 does.

    Args:
        output_dir: Folder for `metrics.jsonl` and the trackers' own files, made if needed.
        config: Configuration to show in the trackers.
        names: Trackers to have besides the file, out of `TRACKERS`. One that can't be started is
            off, with a warning.
        run_name: Name of the run in the trackers; by default that of the folder.
        neptune_project: "workspace/project" in Neptune; wandb gets the project's name, unless
            WANDB_PROJECT is set.
        resume: `Tracker.state` of the checkpoint that the run continues from; None for a new run.
        tags: Tags of the run in Neptune and wandb.

    Returns:
        The tracker.

    Raises:
        ValueError: If a name is unknown.
    """
    if unknown := sorted(set(names) - set(TRACKERS)):
        raise ValueError(f"unknown trackers {unknown}: there are {', '.join(TRACKERS)}")
    output_dir.mkdir(parents=True, exist_ok=True)
    settings = _Settings(
        output_dir, config, run_name or output_dir.resolve().name, neptune_project, resume, tags
    )
    services = {}
    for name in names:
        with _outlived(name):
            services[name] = _SERVICES[name](settings)
    return Tracker(output_dir / METRICS_FILE, services)


@contextmanager
def _outlived(name: str) -> Iterator[None]:
    """Turns an error of the block into a warning: a tracker must never stop its run."""
    try:
        yield
    except Exception as error:
        _warn(f"{name} is off for the rest of this run", error)


def _warn_of_network(error: BaseException, last_seen: float | None) -> None:
    """Names a lost connection once; Neptune keeps the data in its file and tries again."""
    if last_seen is None:
        _warn("neptune has no connection and tries again until the run ends", error)


def _warn(message: str, error: BaseException) -> None:
    """Prints a warning with the error's type and text, on one line."""
    reason = f"{type(error).__name__}: {one_line(error)}"
    print(f"warning: {message}: {reason}", file=sys.stderr)


def _mode(variable: str, key: str | None, online: str) -> Any:
    """Returns the mode of a service, of the client's own literal type."""
    return os.environ.get(variable) or (online if key else "offline")
