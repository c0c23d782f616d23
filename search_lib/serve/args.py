"""The flags of the server of answers."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from run_lib.addresses import is_loopback
from run_lib.commands import InputError, at_least, check_installed, positive
from run_lib.settings import free
from search_lib.asking.flags import QuestionFlags
from search_lib.engines.flags import EngineFlags, check_key, read_key

PROGRAM = "python -m search_lib.serve"

KEY_VARIABLE = "VGS_API_KEY"

API_REQUIREMENTS = "pip install 'value-guided-search[api]'"
"""How to get what the server needs, for messages."""

SPARE_REQUESTS = 64
"""Requests that may be read while all places are taken: they are told so in the order they came."""


@dataclass(frozen=True)
class UpstreamFlags(EngineFlags):
    """How blocks are generated, where `--api_key` is that of the clients."""

    key_flag: ClassVar[str] = "--upstream_api_key"

    sglang_patience: float = free(30.0)
    """Of sglang_server: seconds until a request to a service that stays away is given up, and
    clients get a 503."""
    api_key: Annotated[str | None, tyro.conf.arg(name="upstream_api_key")] = free(None, secret=True)
    """Of servers of the models that want one: sent as Authorization: Bearer. @FILE has it read from
    a file."""


@dataclass(frozen=True)
class ServeFlags(QuestionFlags):
    """Serves answers; the flags of the search are those of requests that name none."""

    engine_flags: UpstreamFlags = UpstreamFlags()
    host: str = free("127.0.0.1")
    """Address to listen on. Any but one of this machine alone needs --api_key."""
    port: int = free(8000)
    """Port to listen on; 0 for one that is free."""
    api_key: str | None = free(None, secret=True)
    """Key that clients must send, as Authorization: Bearer; @FILE has it read from a file. By
    default that of the environment variable VGS_API_KEY. Other users of this machine see a key on
    the command line in the list of processes."""
    served_model_name: str | None = free(None)
    """Name of the policy in requests; by default the last part of --piref_model."""
    max_body_bytes: int = free(1_000_000)
    """Most bytes of a request."""
    max_prompt_tokens: int | None = free(None)
    """Most tokens of a prompt; by default what the models' contexts leave beside the response."""
    max_budget: int = free(1024)
    """Most blocks of a request: num_blocks x num_repetitions x n."""
    max_requests: int = free(64)
    """Requests that are answered at once. Their searches share the window of --max_concurrent."""
    max_queued: int = free(256)
    """Requests that wait for others to end; further ones get a 429."""
    request_timeout: float = free(600.0)
    """Seconds that a request may take, waiting included; then it gets a 504."""

    @property
    def is_local(self) -> bool:
        """Whether the address can be reached from this machine alone."""
        return is_loopback(self.host)

    @property
    def key(self) -> str | None:
        """The key that clients must send; None if they need none."""
        if self.api_key is None:
            return os.environ.get(KEY_VARIABLE)
        return read_key("--api_key", self.api_key)

    @property
    def max_open(self) -> int:
        """Requests that are read, answered or wait."""
        return self.max_requests + self.max_queued + SPARE_REQUESTS

    @property
    def policy_name(self) -> str:
        """Name of the policy in requests."""
        return self.served_model_name or Path(self.piref_model).resolve().name

    def check(self) -> None:
        """Raises InputError for values that no server can have, or a package that is missing."""
        super().check()
        check_key(KEY_VARIABLE if self.api_key is None else "--api_key", self.key)
        if not self.is_local and self.key is None:
            raise InputError(
                f"--host {self.host} can be reached from other machines: it needs --api_key, or "
                f"the environment variable {KEY_VARIABLE}"
            )
        if not 0 <= self.port < 65_536:
            raise InputError(f"--port must be in 0 to 65535, got {self.port}")
        if not self.policy_name.isprintable():
            raise InputError(f"--served_model_name {self.policy_name!r} is not printable")
        at_least(
            1,
            max_body_bytes=self.max_body_bytes,
            max_prompt_tokens=self.max_prompt_tokens,
            max_budget=self.max_budget,
            max_requests=self.max_requests,
        )
        at_least(0, max_queued=self.max_queued)
        positive(request_timeout=self.request_timeout)
        if self.num_blocks * self.num_repetitions > self.max_budget:
            raise InputError(
                f"--num_blocks {self.num_blocks} x --num_repetitions {self.num_repetitions} is "
                f"more than --max_budget {self.max_budget}"
            )
        for package in ("fastapi", "uvicorn", "prometheus_client"):
            check_installed(package, PROGRAM, API_REQUIREMENTS)
