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

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import torch

from classifier_lib.data import LABELS, ROLL_IN, ROLL_OUT, GroupedRollouts
from run_lib.commands import run_command
from scripts.bench import print_report
from scripts.bench.args import DATA_LOADING, NUM_CUTS
from scripts.bench.args import DataLoadingArgs as Args
from scripts.bench.training_rows import draw_rows

VOCAB_SIZE = 151_936
DISTINCT_ROWS = 24
PUBLISHED, OURS = "row decoded (published)", "slice (ours)"
POLL_SECONDS = 0.002


def write_rows(distinct: pa.Table, num_rows: int, folder: Path) -> None:
    """Writes a `save_to_disk` folder of rows, repeating the distinct ones."""
    copies = -(-num_rows // len(distinct))
    repeated = datasets.concatenate_datasets([datasets.Dataset(distinct)] * copies)
    repeated.select(range(num_rows)).save_to_disk(folder)


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
    context.set_forkserver_preload(["classifier_lib.data", "datasets"])
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
