"""Requests that are made again soon."""

import pytest

from search_lib.engines import http_service


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http_service, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(http_service, "LONGEST_DELAY", 0.1)
