"""What the two stages that generate have in common: flags, the policy, and draws from it."""

import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import torch
import tyro
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from data_prep.command_line import EngineRefuses
from data_prep.reports import BadRow, RowReport
from data_prep.stages import Chunk, Stage
from data_prep.window import run_rows
from run_lib.commands import InputError, parse_shard
from run_lib.fingerprints import MODEL_FILES, fingerprint
from run_lib.hub import load_config
from run_lib.seeds import derive_seed
from search_lib.engines.base import Block, Engine, Sampling
from search_lib.engines.factory import EngineName, EngineSettings, check_engine, open_engine
from search_lib.prompts import load_tokenizer, stop_token_ids

REFUSED = "refused by the engine"
"""Reason of rows that it gave an error for."""

MAX_DRAWS = 4
"""An empty generation is drawn again with another seed, until there are so many."""

MAX_REFUSALS = 8
"""Rows in a row that the engine refuses before the run ends: the cause is not in the rows."""

LOG_SECONDS = 30
"""Between two lines of progress, where there is no terminal."""

Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class GenerationArgs:
    """Flags of the stages that generate."""

    input: str
    output: Path
    engine: EngineName = "hf"
    """What generates: hf runs transformers in this process, sglang runs SGLang in it, sglang_server
    asks SGLang servers (scripts/serve_policy.sh)."""
    attention_impl: str = "flash_attention_2"
    """Of hf: transformers' attention: flash_attention_2 (sdpa where it is missing), sdpa, eager."""
    sglang_url: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Of sglang_server: http://host:port of a server or router, or of several equal servers, given
    once for each. By default this machine's at port 30000."""
    sglang_patience: float = 3600.0
    """Of sglang_server: seconds until a request to a service that stays away is given up."""
    gpu_util: float = 0.85
    """Of sglang: share of GPU memory for weights and key-value states, in (0, 1)."""
    tp_size: int = 1
    """Of sglang: GPUs that share one copy of the policy."""
    engine_args: tuple[str, ...] = ()
    """Of sglang: key=value for any other argument of its ServerArgs."""
    temperature: float = 0.6
    """Softmax temperature; 0 decodes greedily."""
    top_p: float = 0.95
    """Nucleus mass kept, in (0, 1]."""
    max_length: int = 16384
    """Tokens of a whole response at most, those before a cut included."""
    seed: int = 0
    """Every random draw derives from this, the row's id and the place of the draw in the row."""
    window: int = 32
    """Problems in flight at once: the engine sees the requests of all of them. At most three times
    as many are in memory, those that wait for the rest of their file included."""
    shard: str = "0/1"
    """Part i/n of the work, i from 0. The rows do not depend on n."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        check_engine(self.engine_settings)
        if self.max_length < 1:
            raise InputError(f"--max_length must be at least 1, got {self.max_length}")
        if self.temperature < 0:
            raise InputError(f"--temperature must not be negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top_p must be in (0, 1], got {self.top_p}")
        parse_shard(self.shard)

    @property
    def engine_settings(self) -> EngineSettings:
        """The engine that the flags ask for."""
        default = EngineSettings()
        return EngineSettings(
            self.engine,
            self.attention_impl,
            urls=self.sglang_url or default.urls,
            patience=self.sglang_patience,
            gpu_util=self.gpu_util,
            tp_size=self.tp_size,
            engine_args=self.engine_args,
        )

    def settings(self) -> dict[str, Any]:
        """The flags that the rows depend on, as JSON types."""
        names = ("temperature", "top_p", "max_length", "seed")
        return {name: value for name, value in asdict(self).items() if name in names}


def check_window(window: int, rows_per_file: int) -> None:
    """Raises InputError if a window has no room for a file."""
    if window < rows_per_file:
        raise InputError(f"--window {window} must be at least --rows_per_file {rows_per_file}")


class Policy(NamedTuple):
    """A model that generates, without its weights.

    Args:
        name: folder or hub id.
        tokenizer: of the model.
        stop_ids: token ids that end a response.
        context: tokens of prompt and response at most.
        vocab_size: embeddings of the model.
        digest: of its files; None for a hub id.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]
    context: int
    vocab_size: int
    digest: str | None


def load_policy(name: str, flag: str) -> Policy:
    """What there is to know of a policy before its weights are loaded.

    Raises:
        InputError: if there is no such model, or it has no tokenizer.
    """
    tokenizer = load_tokenizer(name, flag)
    try:
        config = load_config(name)
        context, vocab_size = config.max_position_embeddings, config.vocab_size
    except AttributeError as error:
        raise InputError(f"{flag} {name} is no language model: {error}") from error
    except ValueError as error:
        raise InputError(f"{flag} {error}") from error
    return Policy(
        name,
        tokenizer,
        stop_token_ids(name, tokenizer),
        context,
        vocab_size,
        fingerprint(name, MODEL_FILES),
    )


class EmptyGeneration(ValueError):
    """The policy wrote nothing, time and again."""


class Sampler:
    """Draws from a policy. Safe to call for many rows at once.

    Args:
        engine: of the policy.
        policy: that generates.
        args: temperature, top-p and seed.

    Attributes:
        num_tokens: generated so far.
    """

    def __init__(self, engine: Engine, policy: Policy, args: GenerationArgs):
        self.engine = engine
        self.policy = policy
        self.args = args
        self.num_tokens = 0

    async def generate(
        self,
        prefix: list[int],
        n: int,
        max_new_tokens: int,
        *purpose: int | str,
        is_empty: Callable[[Block], bool],
        report: RowReport,
    ) -> list[Block]:
        """Draws ``n`` continuations of a prefix.

        Args:
            prefix: token ids.
            n: continuations.
            max_new_tokens: of each.
            purpose: names the draw; with the run's seed it is all that the seed depends on.
            is_empty: whether a continuation is nothing, and is to be drawn again.
            report: counts those.

        Raises:
            EmptyGeneration: if one of them is empty ``MAX_DRAWS`` times.
        """
        blocks = await self._draw(prefix, n, max_new_tokens, *purpose)
        for index in range(n):
            for draw in range(1, MAX_DRAWS):
                if not is_empty(blocks[index]):
                    break
                report.totals["empty generations drawn again"] += 1
                (blocks[index],) = await self._draw(
                    prefix, 1, max_new_tokens, *purpose, "again", index, draw
                )
            if is_empty(blocks[index]):
                raise EmptyGeneration(f"{MAX_DRAWS} times nothing behind {len(prefix)} tokens")
        return blocks

    async def _draw(
        self, prefix: list[int], n: int, max_new_tokens: int, *purpose: int | str
    ) -> list[Block]:
        sampling = Sampling(
            self.args.temperature,
            self.args.top_p,
            max_new_tokens,
            self.policy.stop_ids,
            derive_seed(self.args.seed, *purpose),
        )
        try:
            blocks = await self.engine.generate(prefix, n, sampling)
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"out of memory with {len(prefix)} + {max_new_tokens} tokens"
            ) from error
        self.num_tokens += sum(len(block.token_ids) for block in blocks)
        return blocks


class Generated(NamedTuple):
    """A row that a stage has made, or has left out.

    Args:
        columns: the row; None if it is left out.
        report: of the row alone.
    """

    columns: dict[str, Any] | None
    report: RowReport


async def generate_stage(
    stage: Stage,
    policy: Policy,
    flag: str,
    args: GenerationArgs,
    schema: pa.Schema,
    read: Callable[[Chunk], tuple[Sequence[Row], RowReport]],
    build: Callable[[Sampler, Row], Awaitable[Generated]],
) -> None:
    """Makes the missing files of a stage's shard.

    Args:
        stage: that is filled.
        policy: that generates.
        flag: what named it, for the errors.
        args: of the run.
        schema: of the rows made.
        read: gives the rows of a chunk that can be worked on, and a report of the others.
        build: makes a row.

    Raises:
        EngineUnavailable: if a server stays away.
        EngineRefuses: if it is there, but refuses ``MAX_REFUSALS`` rows in a row.
    """
    pending = list(stage.pending())
    done = stage.num_own_chunks - len(pending)
    what = f"{stage.output}, shard {args.shard}"
    if not pending:
        print(f"{what}: all {done} files are there")
        return
    print(f"{what}: {done} files are there, {len(pending)} to make", flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    executor = ThreadPoolExecutor(1, thread_name_prefix="engine")
    engine = open_engine(args.engine_settings, policy.name, flag, device, executor)
    sampler = Sampler(engine, policy, args)
    read_reports: dict[Chunk, RowReport] = {}
    progress = tqdm(total=sum(c.stop - c.start for c in pending), unit="row", disable=None)
    started = last_line = time.monotonic()

    def read_chunk(chunk: Chunk) -> Sequence[Row]:
        rows, read_reports[chunk] = read(chunk)
        return rows

    refusals = 0
    # Whole, but with rows that were refused: not written until the engine has taken another row,
    # so that none is given up because the engine is at fault.
    held: dict[Chunk, list[Generated]] = {}

    def on_chunk(chunk: Chunk, results: list[Generated]) -> None:
        if refusals and any(REFUSED in result.report.bad_rows for result in results):
            held[chunk] = results
        else:
            write_chunk(chunk, results)

    def write_held() -> None:
        while held:
            write_chunk(*held.popitem())

    def write_chunk(chunk: Chunk, results: list[Generated]) -> None:
        nonlocal last_line
        report = read_reports.pop(chunk)
        for result in results:
            report.merge(result.report)
        rows = [result.columns for result in results if result.columns is not None]
        stage.write(chunk, pa.Table.from_pylist(rows, schema), report)
        rate = f"{sampler.num_tokens / (time.monotonic() - started):,.0f} tok/s"
        progress.set_postfix_str(rate, refresh=False)
        progress.update(chunk.stop - chunk.start)
        if progress.disable and time.monotonic() - last_line > LOG_SECONDS:
            last_line = time.monotonic()
            print(f"{what}: {chunk.split} {chunk.name}, {rate}", flush=True)

    async def build_row(row: Row) -> Generated:
        nonlocal refusals
        result = await build(sampler, row)
        refusals = refusals + 1 if REFUSED in result.report.bad_rows else 0
        if not refusals:
            write_held()
        elif refusals == MAX_REFUSALS:
            ((row_id, detail),) = result.report.examples[REFUSED]
            raise EngineRefuses(
                f"the engine refused {refusals} rows in a row, the last one ({row_id}) with: "
                f"{detail}"
            )
        return result

    try:
        await run_rows(pending, read_chunk, build_row, on_chunk, args.window)
        write_held()
    finally:
        progress.close()
        await engine.close()
    seconds = time.monotonic() - started
    print(
        f"{what}: {sampler.num_tokens:,} tokens in {seconds:.1f} s, "
        f"{sampler.num_tokens / seconds:,.0f} tok/s",
        flush=True,
    )


def print_finish(stage: Stage) -> None:
    """Completes a stage whose files are all there, and says how it stands."""
    reports = stage.finish()
    if reports is not None:
        print(f"{stage.output}\n{RowReport.sum(reports.values()).format()}", flush=True)


def left_out(row_id: str, reason: str, detail: str = "") -> Generated:
    """The result for a row that nothing can be made of."""
    report = RowReport()
    report.add(BadRow(row_id, reason, detail))
    return Generated(None, report)
