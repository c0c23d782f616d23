"""Blocks from SGLang servers over HTTP: one, several, or many behind SGLang's router."""

import logging
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from run_lib.text import printable
from search_lib.engines.base import Block, Expansion, Sampling
from search_lib.engines.http_service import HttpService, get_json
from search_lib.engines.sglang_protocol import (
    SglangSamples,
    logprob_arguments,
    read_block,
    sampling_params,
)

logger = logging.getLogger(__name__)

ROUTING_TOKENS = 32
"""First tokens of a path that choose its server: enough to tell problems, and of their prompt."""


class SglangServerEngine(SglangSamples):
    """The servers batch the samples, and share prefixes in their cache.

    Args:
        service: The servers.
        vocab_size: Vocabulary of the policy.
    """

    def __init__(self, service: HttpService, vocab_size: int):
        super().__init__(vocab_size)
        self._service = service

    @classmethod
    def open(
        cls,
        urls: Sequence[str],
        model_path: str,
        vocab_size: int,
        patience: float,
        api_key: str | None = None,
    ) -> "SglangServerEngine":
        """Asks every server for its model, and warns of all that differs from what was asked for.

        Args:
            urls: `http://host:port` of the servers, or of a router.
            model_path: Folder or Hub id of the policy.
            vocab_size: Vocabulary of the policy.
            patience: See `HttpService`.
            api_key: See `HttpService`.

        Raises:
            EngineUnavailable: If nothing listens at one of them, or it wants another key.
            ValueError: For a URL that is none.
        """
        service = HttpService(urls, patience, api_key=api_key)
        for url in service.urls:
            check_server(url, model_path, api_key)
        return cls(service, vocab_size)

    async def close(self) -> None:
        """Drops the requests in flight and closes all connections; the servers drop them, too."""
        await super().close()
        await self._service.close()

    async def _sample(self, expansion: Expansion, sampling: Sampling, sample: int) -> Block:
        return await self._service.post(
            "/generate",
            {
                "input_ids": expansion.prefix_ids,
                "sampling_params": sampling_params(expansion, sampling, sample, self._vocab_size),
                **logprob_arguments(expansion),
            },
            lambda reply: read_block(reply, expansion, self._vocab_size),
            key=str(expansion.prefix_ids[:ROUTING_TOKENS]),
        )


def check_server(url: str, model_path: str, api_key: str | None = None) -> None:
    """Warns if a server serves another model than asked for, or draws without our seeds.

    Raises:
        EngineUnavailable: If nothing listens there, or it wants another key.
    """
    info = get_json(f"{url}/server_info", api_key)
    if not isinstance(info, dict):
        info = get_json(f"{url}/get_model_info", api_key)  # a router, which passes this on
    if not isinstance(info, dict):
        return
    served: Any = info.get("model_path")
    # The same model may lie elsewhere on the server's machine: its name has to do.
    if isinstance(served, str) and PurePath(served).name != PurePath(model_path).name:
        logger.warning("%s serves %s, not %s", url, printable(served), model_path)
    if info.get("enable_deterministic_inference") is False:
        logger.warning(
            "%s runs without --enable-deterministic-inference: it ignores seeds, and the same "
            "command will not draw the same tokens again",
            url,
        )
