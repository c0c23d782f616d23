"""The flags of the engine that generates, the same for every command that has one."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from run_lib.commands import InputError, at_least, naming
from run_lib.settings import free
from search_lib.engines.addresses import check_url

EngineName = Literal["auto", "hf", "sglang", "sglang_server"]

ATTENTION = ("flash_attention_2", "flash_attention_3", "flex_attention", "sdpa", "eager")


@dataclass(frozen=True)
class EngineFlags:
    """How blocks are generated, whatever the model."""

    key_flag: ClassVar[str] = "--api_key"

    engine: EngineName = "auto"
    """What generates: hf runs transformers in this process, sglang runs SGLang in it, sglang_server
    asks SGLang servers (scripts/serve_policy.sh). auto: sglang where there are CUDA and SGLang,
    else hf; with a flag of one engine, that engine."""
    attention_impl: str = free("flash_attention_2")
    """transformers' attention: flash_attention_2 (sdpa where it is missing), sdpa, eager."""
    sglang_url: tyro.conf.UseAppendAction[tuple[str, ...]] = free(())
    """Of sglang_server: http://host:port of a server or router, or of several equal servers, given
    once for each. By default this machine's at --sglang_port."""
    sglang_patience: float = free(600.0)
    """Of sglang_server: seconds until a request to a service that stays away is given up."""
    api_key: str | None = free(None, secret=True)
    """Of servers that want one, of the policy as of the value model: sent as Authorization: Bearer.
    @FILE has it read from a file, so that no list of processes or of jobs shows it. It is not
    saved."""
    use_sglang_server: bool = free(False)
    """Published spelling of --engine sglang_server."""
    sglang_port: int = free(30000)
    """Of sglang_server: the port where --sglang_url is not given."""
    gpu_util: Annotated[float, tyro.conf.arg(aliases=["--piref_gpu_util"])] = free(0.5)
    """Of sglang: share of GPU memory for weights and key-value states, in (0, 1); the value model
    needs the rest. The published spelling works, too."""
    tp_size: int = free(1)
    """Of sglang: GPUs that share one copy of the policy."""
    dp_size: int = free(1)
    """Of sglang: copies of the policy. Many GPUs do better behind the router of
    scripts/serve_policy.sh, which sends a search where its prefixes are."""
    engine_args: tuple[str, ...] = ()
    """Of sglang: key=value for any other argument of its ServerArgs."""

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses of the servers of sglang_server."""
        return self.sglang_url or (f"http://127.0.0.1:{self.sglang_port}",)

    @property
    def key(self) -> str | None:
        """Key of the servers; None if they need none.

        Raises:
            InputError: If it is in a file that can't be read.
        """
        return read_key(self.key_flag, self.api_key)

    def check_values(self) -> None:
        """Raises InputError for values that no engine can have, whichever `auto` will mean."""
        if self.attention_impl not in ATTENTION and "/" not in self.attention_impl:
            raise InputError(
                f"--attention_impl {self.attention_impl} is not known; known are "
                f"{', '.join(ATTENTION)}, and kernels of the Hub, owner/name"
            )
        at_least(1, tp_size=self.tp_size, dp_size=self.dp_size)
        if not 0 < self.gpu_util < 1:
            raise InputError(f"--gpu_util must be in (0, 1), got {self.gpu_util}")
        check_key(self.key_flag, self.key)

    def check(self) -> None:
        """Raises InputError for values that the engine can't have; `settle_engine` has named it."""
        self.check_values()
        if self.engine_args and self.engine != "sglang":
            raise InputError(f"--engine_args are of --engine sglang, not of {self.engine}")
        if self.engine == "sglang_server":
            with naming("--sglang_url"):
                for url in self.urls:
                    check_url(url)
            at_least(0, sglang_patience=self.sglang_patience)


def read_key(name: str, key: str | None) -> str | None:
    """Returns the key that a flag gives, of @FILE that in the file.

    Raises:
        InputError: If there is no such file.
    """
    if key is None or not key.startswith("@"):
        return key
    with naming(name, OSError):
        return Path(key[1:]).read_text().strip()


def check_key(name: str, key: str | None) -> None:
    """Raises InputError, naming the flag, for a key that no header can carry."""
    if key is not None and not re.fullmatch("[!-~]+", key):
        raise InputError(f"{name} must be visible ASCII characters without blanks")
