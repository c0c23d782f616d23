"""Plugins within one test."""

from collections.abc import Iterator
from contextlib import contextmanager

from search_lib import plugins
from search_lib.scorers.registry import SCORERS
from search_lib.strategies import STRATEGIES
from search_lib.voting import VOTES


@contextmanager
def forgotten_plugins() -> Iterator[None]:
    """What is added within is gone after it."""
    registries: list[dict] = [STRATEGIES, SCORERS, VOTES]
    before = [dict(registry) for registry in registries]
    loaded = set(plugins._loaded)
    try:
        yield
    finally:
        for registry, entries in zip(registries, before, strict=True):
            registry.clear()
            registry.update(entries)
        plugins._loaded.clear()
        plugins._loaded.update(loaded)
