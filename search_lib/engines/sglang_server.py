"""Blocks from SGLang servers over HTTP: one, several, or many behind SGLang's router."""

import logging
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

from run_lib.text import printable
from search_lib.engines.http_service import HttpService, get_json
from search_lib.engines.sglang_protocol import Result, SglangSamples, priority_sign, read_list

logger = logging.getLogger(__name__)

ROUTING_TOKENS = 32
"""First tokens of a path that choose its server: enough to tell problems, and of their prompt."""
ROUTED_SIGN = -1
"""The sign of priorities behind a router, which doesn't tell it: that of SGLang's default. Servers
without priority scheduling ignore them."""


class SglangServerEngine(SglangSamples):
    """The servers batch the samples, and share prefixes in their cache.

    Args:
        service: The servers.
        vocab_size: Vocabulary of the policy.
        priority_sign: See `SglangSamples`.
        is_batched: See `SglangSamples`; routers take one sample a request.
    """

    def __init__(
        self,
        service: HttpService,
        vocab_size: int,
        priority_sign: int = 0,
        is_batched: bool = True,
    ):
        super().__init__(vocab_size, priority_sign, is_batched)
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
        servers = [check_server(url, model_path, api_key) for url in service.urls]
        signs = {ROUTED_SIGN if server is None else priority_sign(server) for server in servers}
        sign = signs.pop() if len(signs) == 1 else 0
        return cls(service, vocab_size, sign, is_batched=None not in servers)

    async def close(self) -> None:
        """Drops the requests in flight and closes all connections; the servers drop them, too."""
        await super().close()
        await self._service.close()

    async def _ask(
        self, request: dict[str, Any], parse: Callable[[list[Any]], list[Result]]
    ) -> list[Result]:
        samples = request["input_ids"]
        key = str(samples[0][:ROUTING_TOKENS])
        if len(samples) > 1:
            return await self._service.post(
                "/generate", request, lambda reply: parse(read_list(reply, len(samples))), key
            )
        # Without lists, which routers refuse.
        alone = {name: request[name][0] for name in ("input_ids", "sampling_params")}
        return await self._service.post(
            "/generate", request | alone, lambda reply: parse(read_list([reply], 1)), key
        )


def check_server(url: str, model_path: str, api_key: str | None = None) -> dict[str, Any] | None:
    """Warns if a server serves another model than asked for, or draws without our seeds.

    Returns:
        Its arguments, by the names of `ServerArgs`; None of a router, which has none to tell.

    Raises:
        EngineUnavailable: If nothing listens there, or it wants another key.
    """
    server = get_json(f"{url}/server_info", api_key)
    is_server = isinstance(server, dict)
    info = server if is_server else get_json(f"{url}/get_model_info", api_key)  # passed on
    if not isinstance(info, dict):
        return None
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
    return server if is_server else None
