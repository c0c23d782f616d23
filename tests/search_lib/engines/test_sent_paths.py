"""Paths that are sent ahead: each new prompt once, whoever asks for it."""

import asyncio

import pytest

from search_lib.engines import sent_paths
from search_lib.engines.sent_paths import SentPaths, path_hash


def send_all(paths, prefixes, send):
    async def body():
        return await asyncio.gather(
            *(paths.send_ahead(path_hash(prefix), send) for prefix in prefixes)
        )

    return asyncio.run(body())


async def send(name):
    await asyncio.sleep(0)
    return 3


def test_a_new_path_is_sent_once_and_what_extends_it_never():
    paths = SentPaths()
    prompt = path_hash([1, 2, 3]).hexdigest()
    assert send_all(paths, [[1, 2, 3]] * 3, send) == [(prompt, 3), (prompt, 0), (prompt, 0)]
    paths.add(path_hash([1, 2, 3]), [[4], [5, 6]])
    assert send_all(paths, [[1, 2, 3, 4], [1, 2, 3, 5, 6]], send) == [(prompt, 0)] * 2
    other = path_hash([1, 2, 3, 5]).hexdigest()
    assert send_all(paths, [[1, 2, 3, 5]], send) == [(other, 3)]


def test_a_path_that_could_not_be_sent_is_sent_by_the_next():
    paths = SentPaths()

    async def fail(name):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        send_all(paths, [[1]], fail)
    assert send_all(paths, [[1]], send) == [(path_hash([1]).hexdigest(), 3)]


def test_the_paths_that_were_used_last_are_remembered(monkeypatch):
    monkeypatch.setattr(sent_paths, "MAX_PATHS", 2)
    paths = SentPaths()
    for prefix in ([1], [2], [1], [3]):
        send_all(paths, [prefix], send)
    assert [sent for _, sent in send_all(paths, [[1], [2]], send)] == [0, 3]
