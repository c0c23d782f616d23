"""Models are opened within an event loop, and Ctrl-C does not wait for them."""

import asyncio
import gc
import signal
from contextlib import suppress
from types import SimpleNamespace

import pytest

from search_lib import open_models
from search_lib.open_models import OpenModels
from search_lib.search_flags import SearchFlags


@pytest.fixture
def handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def open_interrupted(monkeypatch, folder, swallowed):
    """Opens models while Ctrl-C is pressed; returns what was reached after that."""
    reached = []

    def open_engine(*_):
        with suppress(swallowed):
            signal.raise_signal(signal.SIGINT)
        reached.append("engine")
        return SimpleNamespace(close=close)

    async def close():
        reached.append("closed")

    async def search():
        await models.open(SearchFlags(), folder)
        await asyncio.sleep(0)
        reached.append("search")

    monkeypatch.setattr(open_models, "open_engine", open_engine)
    monkeypatch.setattr(open_models, "open_scorer", lambda *_: None)
    with OpenModels() as models, pytest.raises(KeyboardInterrupt):
        models.run(search())
    return reached


def test_ctrl_c_does_not_wait_for_models_to_be_opened(handler, monkeypatch, tmp_path):
    assert open_interrupted(monkeypatch, tmp_path, ValueError) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_a_library_swallows_ends_the_run_after_that(handler, monkeypatch, tmp_path):
    assert open_interrupted(monkeypatch, tmp_path, KeyboardInterrupt) == ["engine", "closed"]


def test_where_ctrl_c_is_ignored_it_stays_so(handler, monkeypatch):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open_models.interrupts_at_once():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_garbage_is_not_looked_for_among_what_stays_while_models_are_open(monkeypatch, tmp_path):
    async def close():
        pass

    monkeypatch.setattr(open_models, "open_engine", lambda *_: SimpleNamespace(close=close))
    monkeypatch.setattr(open_models, "open_scorer", lambda *_: None)
    before = gc.get_freeze_count()
    with OpenModels() as models:
        models.run(models.open(SearchFlags(), tmp_path))
        assert gc.get_freeze_count() > before + 10_000
    assert gc.get_freeze_count() == 0
