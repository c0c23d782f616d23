"""Blocks from SGLang servers over HTTP: one, several, or many behind SGLang's router."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from search_lib.engines.base import Block, Sampling
from search_lib.engines.sglang_protocol import gather_or_cancel, read_block, sampling_params
from search_lib.http_service import HttpService, get_json

logger = logging.getLogger(__name__)

ROUTING_TOKENS = 32
"""First tokens of a path that choose its server: enough to tell problems, and of their prompt."""


class SglangServerEngine:
    """Every sample is a request of its own: the servers batch, and share prefixes in their cache.

    Args:
        service: the servers.
        vocab_size: of the policy; other token ids in a reply are a fault.
    """

    def __init__(self, service: HttpService, vocab_size: int):
        self._service = service
        self._vocab_size = vocab_size
        self._running: set[asyncio.Task] = set()

    @classmethod
    def open(
        cls, urls: Sequence[str], model_path: str, vocab_size: int, patience: float
    ) -> "SglangServerEngine":
        """Asks every server who it is, and warns about what differs from what was asked for.

        Args:
            urls: ``http://host:port`` of the servers, or of a router.
            model_path: folder or hub id of the policy.
            vocab_size: see the class.
            patience: see ``HttpService``.

        Raises:
            EngineUnavailable: if nothing listens at one of them.
            ValueError: for a URL that is none.
        """
        service = HttpService(urls, patience)
        for url in service.urls:
            check_server(url, model_path)
        return cls(service, vocab_size)

    async def generate(self, prefix_ids: list[int], n: int, sampling: Sampling) -> list[Block]:
        """Samples ``n`` blocks that continue ``prefix_ids``.

        Cancelled, it closes its connections, upon which the servers drop the requests.

        Raises:
            EngineUnavailable: if the service stays away.
            BadReply: if its replies stay unusable.
            ValueError: if the prefix is empty, or the server refuses it as too long.
        """
        if not prefix_ids:
            raise ValueError("cannot generate from an empty prefix")
        task = asyncio.create_task(
            gather_or_cancel(self._sample(prefix_ids, sampling, sample) for sample in range(n))
        )
        self._running.add(task)
        try:
            return await task
        finally:
            self._running.discard(task)

    async def close(self) -> None:
        """Drops the requests in flight and closes all connections."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._service.close()

    async def _sample(self, prefix_ids: list[int], sampling: Sampling, sample: int) -> Block:
        return await self._service.post(
            "/generate",
            {
                "input_ids": prefix_ids,
                "sampling_params": sampling_params(sampling, sample, self._vocab_size),
            },
            lambda reply: read_block(reply, sampling, self._vocab_size),
            key=str(prefix_ids[:ROUTING_TOKENS]),
        )


def check_server(url: str, model_path: str) -> None:
    """Warns if a server serves another model than asked for, or draws without our seeds.

    Raises:
        EngineUnavailable: if nothing listens there.
    """
    info = get_json(f"{url}/server_info")
    if not isinstance(info, dict):
        info = get_json(f"{url}/get_model_info")  # a router, which passes this on
    if not isinstance(info, dict):
        return
    served: Any = info.get("model_path")
    # The same model may lie elsewhere on the server's machine: its name has to do.
    if isinstance(served, str) and PurePath(served).name != PurePath(model_path).name:
        logger.warning("%s serves %s, not %s", url, served, model_path)
    if info.get("enable_deterministic_inference") is False:
        logger.warning(
            "%s runs without --enable-deterministic-inference: it ignores seeds, and the same "
            "command will not draw the same tokens again",
            url,
        )
