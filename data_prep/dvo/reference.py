r"""Reference: the log-probability of each step under the policy that made the trees.

python -m data_prep.dvo reference --input outputs/dvo/paths --output outputs/dvo/data \
    --model outputs/policy

They are computed once and stored in `reference_logprobs`: training needs no second model in memory.
All other columns, the files and their rows stay the same. A log-probability is that of all tokens
of the step, its delimiter or end token included, at temperature 1.

The paths of a tree are computed together, and each of its tokens once. Killed at any moment, the
same command goes on, and the file in work is computed again. With `--shard i/n` n processes share
the files out. Policies are those that train_dvo.py trains.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from data_prep.dvo.args import DVO_REFERENCE, ReferenceArgs
    from run_lib.commands import check_command_line

    check_command_line(ReferenceArgs, DVO_REFERENCE, __doc__)

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from classifier_lib.attention import FLEX_BLOCK, choose_attention
from classifier_lib.layouts import count_laid_out
from data_prep.dvo.args import DVO_PATHS, DVO_REFERENCE, ReferenceArgs
from data_prep.dvo.rows import Row, TreeSplit, by_tree, check_prompts, name_of
from data_prep.reports import RowReport
from data_prep.stages import STAGE_FILE, Chunk, FinishedStage, Stage
from dvo_lib.batches import Path as StepPath
from dvo_lib.batches import collate_paths
from dvo_lib.columns import PATH_SCHEMA, REFERENCE
from dvo_lib.policy import TokenLogprobs, load_policy, load_policy_config
from run_lib.commands import (
    InputError,
    naming,
    parse_command_line,
    run_command,
)
from run_lib.fingerprints import MODEL_FILES, fingerprint
from run_lib.hub import check_vocabulary, load_tokenizer, quiet_transformers


class Reference:
    """The policy, and how paths go through it.

    Args:
        policy: The policy.
        max_batch_tokens: Most tokens of a batch.
    """

    def __init__(self, policy: TokenLogprobs, max_batch_tokens: int):
        self._policy = policy
        self._max_batch_tokens = max_batch_tokens

    @torch.inference_mode()
    def logprobs(self, paths: Sequence[StepPath]) -> list[list[float]]:
        """Returns the log-probabilities of the steps of each path.

        Args:
            paths: Paths; those of one tree are neighbours.
        """
        implementation = self._policy.model.config._attn_implementation
        device = self._policy.model.device
        multiple = FLEX_BLOCK if implementation == "flex_attention" else None
        found: dict[int, list[float]] = {}
        for indices in self._batches(paths):
            batch = collate_paths([paths[i] for i in indices], "shared_prefix", multiple)
            targets = batch.targets.to(device)  # of references that are 0
            logprobs = self._policy(**batch.model_inputs(implementation, device))
            sums = targets.log_ratios(logprobs)
            by_path = sums.split(targets.steps_per_path.tolist())
            found |= {i: steps.tolist() for i, steps in zip(indices, by_path, strict=True)}
            batch.free()
        return [found[i] for i in range(len(paths))]

    def _batches(self, paths: Sequence[StepPath]) -> list[list[int]]:
        """Returns paths by batch: whole trees where they fit."""
        starts = [i for i, (a, b) in enumerate(pairwise(paths), 1) if a.prompt is not b.prompt]
        bounds = pairwise([0, *starts, len(paths)])
        batches: list[list[int]] = []
        room = 0
        for unit in chain.from_iterable(
            self._fitting(paths, list(range(start, stop))) for start, stop in bounds
        ):
            tokens = count_laid_out([paths[i].branch for i in unit])
            if not batches or tokens > room:
                batches.append([])
                room = self._max_batch_tokens
            batches[-1] += unit
            room -= tokens
        return batches

    def _fitting(self, paths: Sequence[StepPath], tree: list[int]) -> Iterator[list[int]]:
        """Yields a tree in parts that fit a batch, as far as it can be divided."""
        tokens = count_laid_out([paths[i].branch for i in tree])
        if tokens <= self._max_batch_tokens or len(tree) == 1:
            yield tree
        else:
            half = len(tree) // 2
            yield from self._fitting(paths, tree[:half])
            yield from self._fitting(paths, tree[half:])


def as_paths(rows: Sequence[Row]) -> list[StepPath]:
    """Returns rows as paths without reference; those of one tree have the same prompt object."""
    paths = []
    for tree in by_tree(rows):
        prompt = np.array(tree[0]["prompt_ids"], dtype=np.int32)
        for row in tree:
            steps = [np.array(ids, dtype=np.int32) for ids in row["step_ids"]]
            credits, zeros = row["credits"], [0.0] * len(steps)
            paths.append(StepPath(prompt, steps, credits, zeros, row["correct"]))
    return paths


def check_rows(rows: Sequence[Row], config: PretrainedConfig, model: str) -> None:
    """Checks that a policy can read paths.

    Raises:
        InputError: Naming the first path that it can't.
    """
    for row in rows:
        ids = [*row["prompt_ids"], *chain.from_iterable(row["step_ids"])]
        if not min(map(len, (row["prompt_ids"], *row["step_ids"]))):
            raise InputError(f"--input: {name_of(row)} has an empty prompt or step")
        if max(ids) >= config.vocab_size or min(ids) < 0:
            raise InputError(
                f"--model {model} has a vocabulary of {config.vocab_size} tokens, and "
                f"{name_of(row)} holds ids from {min(ids)} to {max(ids)}"
            )
        if len(ids) > config.max_position_embeddings:
            raise InputError(
                f"--model {model} has a context of {config.max_position_embeddings} tokens, and "
                f"{name_of(row)} has {len(ids)}"
            )


def load_reference(args: ReferenceArgs) -> Reference:
    """Loads the policy, with every one of its weights.

    Raises:
        InputError: If there is none.
    """
    quiet_transformers()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with naming("--attention_impl"):
        attention = choose_attention(args.attention_impl, "shared_prefix", device)
    with naming("--model"):
        model = load_policy(args.model, attention, getattr(torch, args.dtype))
    model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` untyped
    return Reference(TokenLogprobs(model.eval()), args.max_batch_tokens)


def make_table(reference: Reference, table: pa.Table, rows: list[Row]) -> pa.Table:
    """Returns a table of paths with their log-probabilities.

    Raises:
        InputError: If one is no finite number, naming the path.
    """
    logprobs = reference.logprobs(as_paths(rows))
    for row, steps in zip(rows, logprobs, strict=True):
        if not np.isfinite(steps).all():
            raise InputError(f"--model gives no finite log-probability for {name_of(row)}")
    place = PATH_SCHEMA.get_field_index(REFERENCE)
    column = pa.array(logprobs, PATH_SCHEMA.field(REFERENCE).type)
    return table.set_column(place, PATH_SCHEMA.field(REFERENCE), column)


def report_of(rows: list[Row]) -> RowReport:
    """Returns a report of some rows."""
    report = RowReport()
    report.totals["steps"] = sum(len(row["steps"]) for row in rows)
    report.totals["step tokens"] = sum(len(ids) for row in rows for ids in row["step_ids"])
    return report


def make_chunks(
    args: ReferenceArgs,
    stage: Stage,
    paths: FinishedStage,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Makes the pending chunks of a stage, and prints how likely the policy finds their steps."""
    pending: list[Chunk] = list(stage.pending())
    if not pending:
        return
    reference = load_reference(args)
    total, num_tokens = 0.0, 0
    with tqdm(total=len(pending), unit="file", disable=None) as progress:
        for chunk in pending:
            table = paths.read(chunk)
            if table is None:
                table = PATH_SCHEMA.empty_table()
            rows = table.to_pylist()
            report = report_of(rows)
            if rows:
                check_rows(rows, config, args.model)
                check_prompts(rows, tokenizer, f"--model {args.model}")
                try:
                    table = make_table(reference, table, rows)
                except torch.OutOfMemoryError as error:
                    raise InputError(
                        "out of memory: the same command with a smaller --max_batch_tokens (now "
                        f"{args.max_batch_tokens}) goes on"
                    ) from error
                total += sum(map(sum, table[REFERENCE].to_pylist()))
                num_tokens += report.totals["step tokens"]
            stage.write(chunk, table, report)
            progress.update()
    if num_tokens:
        print(
            f"log-probability {total / num_tokens:.3f} a token, mean of the {num_tokens:,} tokens "
            "of this run: far from 0 if the policy is not the one that made the trees"
        )


def check_reference(data: str, policy: str, digest: str | None) -> None:
    """Checks that the policy to train is the one whose log-probabilities are in the data.

    Args:
        data: What the policy is trained on; checked if it is an output of this command.
        policy: The policy, for the error.
        digest: Digest of its files; None if that is not known, as on the Hub.

    Raises:
        InputError: If it is another one.
    """
    folder = Path(data)
    if not (folder / STAGE_FILE).is_file():
        return
    with naming("--data_path"):
        reference = FinishedStage(folder, DVO_REFERENCE).settings
    known = reference.get("model_digest")
    if known and digest and known != digest:
        raise InputError(
            f"--model_path {policy} is not the policy whose log-probabilities --data_path {data} "
            f"has: that was {reference['model']}"
        )


def run(args: ReferenceArgs) -> None:
    """Computes the log-probabilities that are missing, and prints the report.

    Raises:
        InputError: If something that was given can't be used.
    """
    args.check()
    with naming("--input"):
        paths = FinishedStage(args.input, DVO_PATHS)
    if "paths_per_side" not in paths.settings:
        raise InputError(f"--input {args.input}: no output of {DVO_PATHS}")
    with naming("--model"):
        config = load_policy_config(args.model)
        tokenizer = load_tokenizer(args.model)
    with naming(f"--model {args.model}:"):
        check_vocabulary(tokenizer, config.vocab_size)
    settings = {
        "model": args.model,
        "model_digest": fingerprint(args.model, MODEL_FILES),
        "dtype": args.dtype,
    }
    # The same numbers of trees: file for file as the paths.
    inputs = {
        split: TreeSplit(source["num_rows"], paths.digest) for split, source in paths.inputs.items()
    }
    rows_per_file = paths.settings["rows_per_file"]
    origin = paths.origin | {"paths": paths.settings}
    with Stage(args.output, settings, inputs, rows_per_file, args.shard, origin) as stage:
        make_chunks(args, stage, paths, config, tokenizer)
        reports = stage.finish()
    for split, report in (reports or {}).items():
        print(f"{args.output / split} (rows in: trees, rows out: paths)\n{report.format()}")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(ReferenceArgs, DVO_REFERENCE, __doc__, argv)
    run_command(DVO_REFERENCE, lambda: run(args))


if __name__ == "__main__":
    main()
