"""The two models of a run, opened when a search first needs them and kept for the next run."""

import asyncio
import gc
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self, TypeVar

import torch

from run_lib.commands import naming
from search_lib.batching import ModelThread
from search_lib.engines.base import Engine
from search_lib.engines.factory import open_engine
from search_lib.scorers.base import Scorer
from search_lib.scorers.factory import Place, open_scorer
from search_lib.scorers.texts import TextScorer
from search_lib.search_flags import SearchFlags

SERVER_LOG_NAME = "value_server.log"

Result = TypeVar("Result")


class _Opened(NamedTuple):
    """An engine or a scorer, and the flags that it was opened with."""

    flags: tuple[object, ...]
    model: Any


class OpenModels:
    """Opens the engine and the scorer of runs, one of each at a time.

    Runs in a row with the same models find them loaded; others replace them. All use one event
    loop: an SGLang engine belongs to the first one that it serves.
    """

    def __init__(self) -> None:
        self._loop = asyncio.Runner()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # On a CPU the two models take turns in one thread, on a GPU they overlap.
        self._shared = ModelThread() if self._device.type == "cpu" else None
        self._engine: _Opened | None = None
        self._scorer: _Opened | None = None

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs work that uses the models to its end."""
        return self._loop.run(work)

    async def open(
        self, flags: SearchFlags, log_folder: Path
    ) -> tuple[Engine, Scorer | TextScorer | None]:
        """Returns the engine and the scorer of a run; None where nothing scores.

        Args:
            flags: Name the models.
            log_folder: Where a value server that it starts writes what it says.

        Raises:
            InputError: Naming the flag of a model that can't be opened.
        """
        confidences, of_server = flags.confidence is not None, flags.engine_flags
        of_engine = (of_server, flags.piref_model, confidences)
        of_scorer = (flags.scorer_flags, flags.value_model)
        were_open = self._engine, self._scorer
        if self._engine is None or self._engine.flags != of_engine:
            # The scorer first: SGLang's engine ends every child of this process with it.
            await self.close()
            with naming("--piref_model"), interrupts_at_once():
                engine = open_engine(
                    of_server, flags.piref_model, self._device, self._shared, confidences
                )
            self._engine = _Opened(of_engine, engine)
        if self._scorer is None or self._scorer.flags != of_scorer:
            gc.unfreeze()
            await self._close_scorer()
            place = Place(
                self._device,
                of_server.attention_impl,
                log_folder / SERVER_LOG_NAME,
                self._shared,
                of_server.key,
            )
            with naming("--classifier_ckpt_path"), interrupts_at_once():
                scorer = open_scorer(flags.scorer_flags, flags.classifier_ckpt_path, place)
            self._scorer = _Opened(of_scorer, scorer)
        if (self._engine, self._scorer) != were_open:
            # All that is there by now stays. To look for garbage in it again and again would hold
            # up the searches, a tenth of a second each time.
            gc.collect()
            gc.freeze()
        return self._engine.model, self._scorer.model

    async def close(self) -> None:
        """Frees both models; requests still waiting fail."""
        gc.unfreeze()
        await self._close_scorer()
        opened, self._engine = self._engine, None
        if opened is not None:
            await opened.model.close()

    async def _close_scorer(self) -> None:
        opened, self._scorer = self._scorer, None
        if opened is not None and opened.model is not None:
            await opened.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._loop:
            self.run(self.close())
        if self._shared is not None:
            self._shared.close()


@contextmanager
def interrupts_at_once() -> Iterator[None]:
    """Has Ctrl-C raise KeyboardInterrupt within the block, which holds up the event loop.

    Left to the loop, it would do nothing before the block ends: a download takes minutes. The loop
    gets it, too, as there are libraries that swallow the error.
    """
    handler = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not callable(handler):  # ignored, for one
        yield
        return

    hook = sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        sys.unraisablehook = lambda _: None  # prints what a destructor swallows
        handler(number, frame)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = hook
