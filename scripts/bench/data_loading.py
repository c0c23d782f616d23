"""Reading training samples: slices of the Arrow file against decoding the sample's whole row.

    python -m scripts.bench.data_loading --quick     # 24 and 240 rows, under a minute, 0.8 GB
    python -m scripts.bench.data_loading             # 24 and 2,400 rows, 7.7 GB of disk

The published way reads `dataset[row]`, which decodes the 56 responses of the row (14k tokens each),
and keeps one of them; ours is `GroupedRollouts[i]`. Both end in the int64 tensor of the sample,
whose sum is taken, so that every token is read. Samples are drawn at random; the published way
reads the first of those that ours reads.

The table has, for a small and a large data set:

- samples/s, the median of alternating rounds in one process; the files are in the page cache;
- seconds to open it in a fresh process: as it is, and with the check of all token ids, which reads
  the whole file;
- the largest anonymous memory of that process in MiB, beyond that of the imports, while it opens
  the data set (in ours with that check) and reads samples. Pages of the file don't count: they
  belong to the page cache. From /proc, so on Linux only.

The ratio is that of samples/s on the large data set. Rows are written by `draw_row`, after the data
recipe of VGS: its docstring tells how lengths are drawn.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from run_lib.commands import check_command_line
    from scripts.bench.args import DATA_LOADING, DataLoadingArgs

    ARGUMENTS = check_command_line(DataLoadingArgs, DATA_LOADING, __doc__)

import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import torch

from classifier_lib.data import LABELS, ROLL_IN, ROLL_OUT, GroupedRollouts
from run_lib.commands import run_command
from scripts.bench import print_report
from scripts.bench.args import DATA_LOADING, FULL_LENGTH, NUM_CUTS
from scripts.bench.args import DataLoadingArgs as Args

PROMPT_TOKENS = (150, 200)
"""Range of prompt lengths at that length."""
BETWEEN_PROBLEMS, WITHIN_PROBLEM = 0.45, 0.25
"""Standard deviations of the logarithm of response lengths."""
VOCAB_SIZE = 151_936
DISTINCT_ROWS = 24
PUBLISHED, OURS = "row decoded (published)", "slice (ours)"
POLL_SECONDS = 0.002


def draw_row(
    rng: np.random.Generator,
    quantile: float,
    max_length: int,
    num_roll_ins: int,
    vocab_size: int,
) -> dict[str, Any]:
    """Draws the token columns of one problem by the data recipe of VGS.

    Response lengths are log-normal and end at the limit. The median of the median problem is the
    limit itself, so that half of all responses reach it; the logarithm has a standard deviation of
    0.45 between problems and 0.25 within one. A roll-in is such a response, cut at index i with
    probability proportional to sqrt(i); its completion ends at a length drawn from the same
    distribution, beyond the cut. With prompts of 150 to 200 tokens, at 16,384 tokens a sample, that
    gives 14.3k tokens a sample, 5.8k of them with loss, as published (35.7e9 and 14.4e9 for 2.5e6).

    Args:
        rng: Source of all draws.
        quantile: In (0, 1), how long this problem's responses are among the problems. Quantiles
            evenly spaced make a few rows representative.
        max_length: The limit, in response tokens; prompts are scaled with it.
        num_roll_ins: Roll-ins of the row.
        vocab_size: Token ids are drawn uniformly below it.

    Returns:
        `roll_in_ids`, `roll_outs_ids` (lists of int32 arrays) and `labels`, four of each a roll-in.
    """
    median = max_length * math.exp(BETWEEN_PROBLEMS * NormalDist().inv_cdf(quantile))
    log_length = NormalDist(math.log(median), WITHIN_PROBLEM)

    def draw_length(beyond: int) -> int:
        """Draws a length of more than `beyond` tokens, up to the limit."""
        least = log_length.cdf(math.log(beyond))
        share = least + (1 - least) * rng.uniform(1e-9, 1 - 1e-9)
        length = math.ceil(math.exp(log_length.inv_cdf(min(share, 1 - 1e-12))))
        return min(max(length, beyond + 1), max_length)

    def draw_tokens(count: int) -> np.ndarray:
        """Draws token ids."""
        return rng.integers(0, vocab_size, count, dtype=np.int32)

    prompt = draw_tokens(math.ceil(rng.integers(*PROMPT_TOKENS) * max_length / FULL_LENGTH))
    roll_ins, roll_outs = [], []
    for _ in range(num_roll_ins):
        response = draw_tokens(draw_length(beyond=1))
        for share in rng.random(NUM_CUTS):
            cut = max(int(len(response) * share ** (2 / 3)), 1)
            roll_ins.append(np.concatenate([prompt, response[:cut]]))
            roll_outs.append(draw_tokens(draw_length(beyond=cut) - cut))
    labels = rng.integers(0, 3, len(roll_ins)).tolist()
    return {ROLL_IN: roll_ins, ROLL_OUT: roll_outs, LABELS: labels}


def draw_rows(
    num_rows: int, max_length: int, num_roll_ins: int, vocab_size: int, seed: int
) -> datasets.Dataset:
    """Returns rows of problems evenly spaced in length (see `draw_row`)."""
    rng = np.random.default_rng(seed)
    rows = [
        draw_row(rng, (i + 0.5) / num_rows, max_length, num_roll_ins, vocab_size)
        for i in range(num_rows)
    ]
    tokens = pa.list_(pa.list_(pa.int32()))
    schema = pa.schema({ROLL_IN: tokens, ROLL_OUT: tokens, LABELS: pa.list_(pa.int64())})
    return datasets.Dataset(pa.Table.from_pylist(rows, schema))


def write_rows(distinct: datasets.Dataset, num_rows: int, folder: Path) -> None:
    """Writes a `save_to_disk` folder of rows, repeating the distinct ones."""
    copies = -(-num_rows // len(distinct))
    datasets.concatenate_datasets([distinct] * copies).select(range(num_rows)).save_to_disk(folder)


class Reader(NamedTuple):
    """An opened data set.

    Attributes:
        num_samples: Samples in it.
        read: Returns the tokens of a sample, int64.
    """

    num_samples: int
    read: Callable[[int], torch.Tensor]


def open_published(folder: str) -> Reader:
    """Opens a data set as the published code does."""
    data = datasets.load_from_disk(folder)
    num_responses = len(data[0][LABELS])

    def read(index: int) -> torch.Tensor:
        """Returns the tokens of a sample, out of its decoded row."""
        row, response = divmod(index, num_responses)
        decoded = data[row]
        return torch.tensor(decoded[ROLL_IN][response] + decoded[ROLL_OUT][response])

    return Reader(len(data) * num_responses, read)


def open_ours(folder: str, num_responses: int, vocab_size: int | None) -> Reader:
    """Opens a data set for training, with a check of the token ids if given a vocabulary."""
    data = GroupedRollouts(folder, num_responses, vocab_size)

    def read(index: int) -> torch.Tensor:
        """Returns the tokens of a sample, copied once."""
        sample = data[index]
        return torch.from_numpy(np.concatenate([sample.roll_in, sample.roll_out], dtype=np.int64))

    return Reader(len(data), read)


def seconds_per_sample(reader: Reader, indices: Sequence[int]) -> tuple[float, int]:
    """Returns (seconds a sample, sum of the tokens of all of them)."""
    total = 0
    start = time.perf_counter()
    for index in indices:
        total += int(reader.read(index).sum())
    return (time.perf_counter() - start) / len(indices), total


def compare_speed(args: Args, num_published: int, folder: str) -> tuple[float, float]:
    """Returns (published, ours) in samples a second.

    Raises:
        RuntimeError: If the two ways read different tokens.
    """
    published = open_published(folder)
    ours = open_ours(folder, args.num_roll_ins * NUM_CUTS, None)
    rng = np.random.default_rng(args.seed)
    seconds: dict[str, list[float]] = {PUBLISHED: [], OURS: []}
    for _ in range(args.rounds):
        indices = rng.integers(0, ours.num_samples, args.our_samples).tolist()
        few = indices[:num_published]
        taken, expected = seconds_per_sample(published, few)
        seconds[PUBLISHED].append(taken)
        seconds[OURS].append(seconds_per_sample(ours, indices)[0])
        if seconds_per_sample(ours, few)[1] != expected:
            raise RuntimeError("the two ways read different tokens")
    return 1 / statistics.median(seconds[PUBLISHED]), 1 / statistics.median(seconds[OURS])


class Start(NamedTuple):
    """Costs of a fresh process.

    Attributes:
        seconds: To open the data set.
        memory: Largest anonymous memory beyond that of the imports, in MiB.
    """

    seconds: float
    memory: float


def anonymous_mib(pid: int | str) -> float:
    """Returns the resident anonymous memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _start(connection: Connection, opener: Callable[..., Reader], arguments: Any, few: int) -> None:
    """Opens a data set and reads samples, in a process of its own."""
    datasets.disable_progress_bars()
    connection.send(anonymous_mib("self"))
    connection.recv()
    start = time.perf_counter()
    reader = opener(*arguments)
    seconds = time.perf_counter() - start
    rng = np.random.default_rng(0)
    seconds_per_sample(reader, rng.integers(0, reader.num_samples, few).tolist())
    connection.send(seconds)


def measure_start(opener: Callable[..., Reader], arguments: Any, num_samples: int) -> Start:
    """Opens a data set and reads samples in a fresh process, watching its memory."""
    here, there = multiprocessing.Pipe()
    # Forked from a process that has only done the slow imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["classifier_lib.data"])
    process = context.Process(target=_start, args=(there, opener, arguments, num_samples))
    process.start()
    there.close()
    try:
        before = peak = here.recv()
        here.send("go")
        while not here.poll(POLL_SECONDS):
            peak = max(peak, anonymous_mib(process.pid or "self"))
        return Start(here.recv(), peak - before)
    finally:
        process.join()


def compare(args: Args, num_rows: int, folder: Path) -> tuple[list[list[str]], float]:
    """Returns the lines of the table for one data set, and ours / published in samples a second."""
    num_published = args.published_samples or (4 if args.quick else 8)
    num_responses = args.num_roll_ins * NUM_CUTS
    gigabytes = sum(file.stat().st_size for file in folder.rglob("*.arrow")) / 1e9
    size = [f"{num_rows:,}", f"{gigabytes:.2f}"]
    source = str(folder)
    published = measure_start(open_published, (source,), num_published)
    structure = measure_start(open_ours, (source, num_responses, None), args.our_samples)
    checked = measure_start(open_ours, (source, num_responses, VOCAB_SIZE), args.our_samples)
    speed, our_speed = compare_speed(args, num_published, source)
    seconds = [f"{start.seconds:.2f}" for start in (published, structure, checked)]
    memory = [f"{start.memory:.0f}" for start in (published, checked)]
    return [
        [PUBLISHED, *size, f"{speed:,.1f}", seconds[0], "-", memory[0]],
        [OURS, *size, f"{our_speed:,.0f}", *seconds[1:], memory[1]],
    ], our_speed / speed


def main(args: Args) -> None:
    """Prints the table and the ratio."""
    datasets.disable_progress_bars()
    large = args.rows or (240 if args.quick else 2400)
    distinct = draw_rows(
        min(DISTINCT_ROWS, args.small_rows),
        args.max_length,
        args.num_roll_ins,
        VOCAB_SIZE,
        args.seed,
    )
    lines: list[list[str]] = []
    ratio = 0.0
    for num_rows in (args.small_rows, large):
        with tempfile.TemporaryDirectory(prefix="bench_data_") as folder:
            write_rows(distinct, num_rows, Path(folder))
            more, ratio = compare(args, num_rows, Path(folder))
            lines += more
    columns = ["way", "rows", "GB", "samples/s", "open s", "with ids s", "anon MiB"]
    print_report(columns, lines, [], ratio)


if __name__ == "__main__":
    run_command(DATA_LOADING, lambda: main(ARGUMENTS))
