"""The flags of the scorer that values blocks."""

from dataclasses import dataclass
from typing import Literal

import tyro

from run_lib.commands import GPU_REQUIREMENTS, InputError, at_least, check_installed, naming
from run_lib.settings import free
from search_lib.engines.http_service import check_url

ScorerName = Literal["hf", "sglang", "sglang_server", "none"]


@dataclass(frozen=True)
class ScorerFlags:
    """How blocks are valued, whatever the value model."""

    scorer: ScorerName = free("hf")
    """What values blocks: hf runs transformers in this process, sglang starts an SGLang server for
    this run, sglang_server uses those at --scorer_url (scripts/serve_value_model.sh). none is plain
    sampling without a value model, for --search_type bon and random<w>."""
    scorer_url: tyro.conf.UseAppendAction[tuple[str, ...]] = free(())
    """Of --scorer sglang_server: http://host:port of a value server or its router, or of several
    equal ones, given once for each."""
    value_cache_tokens: int = free(262_144)
    """Tokens whose key-value states the hf value model keeps between blocks: 28 KiB each for
    DeepSeek-VM-1.5B in bfloat16. All beams of all searches in flight should fit; else prefixes are
    computed again, which tokens_scored in metrics.json shows."""

    token_values: bool = free(False)
    """Also saves the value after every token of every block, to within 1/510, in blocks.jsonl:
    about 1 byte a token more. Of --scorer hf: an SGLang server gives one value a block."""

    def check(self) -> None:
        """Raises InputError for a scorer that can't be opened, before anything is loaded."""
        if self.scorer == "sglang":
            check_installed("SGLang", "--scorer sglang", GPU_REQUIREMENTS)
        if self.scorer == "sglang_server" and not self.scorer_url:
            raise InputError(
                "--scorer sglang_server needs --scorer_url, where scripts/serve_value_model.sh "
                "serves"
            )
        if self.scorer != "sglang_server" and self.scorer_url:
            raise InputError(f"--scorer_url is for --scorer sglang_server, not {self.scorer}")
        with naming("--scorer_url"):
            for url in self.scorer_url:
                check_url(url)
        if self.token_values and self.scorer != "hf":
            gives = "no values" if self.scorer == "none" else "one value a block"
            raise InputError(f"--token_values is for --scorer hf; {self.scorer} gives {gives}")
        at_least(0, value_cache_tokens=self.value_cache_tokens)

    @property
    def has_values(self) -> bool:
        """Whether blocks are valued at all."""
        return self.scorer != "none"

    def max_path_length(self, context: int) -> int:
        """Returns the most tokens of a path, for a value model with a context of so many.

        SGLang keeps room for one more token, even where none is generated.
        """
        return context if self.scorer == "hf" else context - 1
