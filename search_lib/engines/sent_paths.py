"""Which paths servers should have in their caches, so that a new prompt is sent ahead and alone."""

import asyncio
import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence

MAX_PATHS = 1 << 18
"""Paths that are remembered; 100 bytes each."""


def path_hash(ids: Sequence[int]) -> hashlib.blake2b:
    """Returns the hash of a path, which that of a longer one goes on from."""
    return hashlib.blake2b(array("q", ids), digest_size=16)


class SentPaths:
    """Remembers the paths that were sent, each with the prompt that it extends.

    Requests that share a prefix find it in the server's cache, unless it is new and they run in one
    batch: then each of them computes it.
    """

    def __init__(self) -> None:
        # The digest of the prompt by the digest of the path, oldest use first.
        self._prompts: OrderedDict[bytes, str] = OrderedDict()
        self._sending: dict[bytes, asyncio.Lock] = {}

    async def send_ahead(
        self, path: hashlib.blake2b, send: Callable[[str], Awaitable[int]]
    ) -> tuple[str, int]:
        """Sends a path that extends none so far; of several callers at once, one does.

        Args:
            path: Its hash.
            send: Sends it, as the prompt of this name, and returns how many tokens were computed.

        Returns:
            The name of its prompt, and how many tokens this call has had computed.
        """
        digest, computed = path.digest(), 0
        if digest not in self._prompts:
            try:
                async with self._sending.setdefault(digest, asyncio.Lock()):
                    if digest not in self._prompts:
                        computed = await send(digest.hex())
                        self._remember(digest, digest.hex())
            finally:
                self._sending.pop(digest, None)
        self._prompts.move_to_end(digest)
        return self._prompts[digest], computed

    def add(self, path: hashlib.blake2b, blocks: Iterable[Sequence[int]]) -> None:
        """Remembers a path that was sent, and those that extend it by a block each."""
        prompt = self._prompts.get(path.digest(), path.hexdigest())
        self._remember(path.digest(), prompt)
        for block in blocks:
            longer = path.copy()
            longer.update(array("q", block))
            self._remember(longer.digest(), prompt)

    def _remember(self, digest: bytes, prompt: str) -> None:
        self._prompts[digest] = prompt
        self._prompts.move_to_end(digest)
        if len(self._prompts) > MAX_PATHS:
            self._prompts.popitem(last=False)
