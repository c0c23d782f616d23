r"""Paths: draws responses from trees, with the credit of each step.

python -m data_prep.dvo paths --input outputs/dvo/trees.jsonl --output outputs/dvo/paths

A row is a path, in the columns of `dvo_lib.columns.PATH_SCHEMA`; the paths of a tree are
consecutive rows of one file, the right ones first. Of each tree at most `--paths_per_side` right
paths are drawn and as many wrong ones, in proportion to the visits along them. A tree without a
right one gives nothing; the report counts such trees.

Problems, not paths, are divided between `train` and `validation`: by a hash of the question, so
that a question is on the same side in every round, whatever the seed.

V of the state before a step is in [-1, 1], as rewards are. `--targets mcts` takes it from the tree.
`--targets value_model` asks a value model for P(correct) at the end of the prompt and of each step,
and V = 2 P - 1. In both cases the state behind the last step has V = 0, and its step the reward.

A chunk of trees becomes one file. Killed at any moment, the same command goes on.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from data_prep.dvo.args import DVO_PATHS, PathsArgs
    from run_lib.commands import check_command_line

    check_command_line(PathsArgs, DVO_PATHS, __doc__)

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from data_prep.dvo.args import DVO_PATHS, PathsArgs
from data_prep.dvo.rows import TreeSplit
from data_prep.reports import BadRow, RowReport
from data_prep.stages import Chunk, Stage
from dvo_lib.columns import PATH_SCHEMA, REFERENCE
from dvo_lib.paths import draw_paths, path_credits
from dvo_lib.trees import TreeRecord, read_tree_settings, read_trees, tree_files
from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.seeds import derive_seed

if TYPE_CHECKING:  # needs torch, as nothing else here
    from data_prep.dvo.values import StateValues


@dataclass(frozen=True)
class PathRow:
    """A path with the values of its states; see `PATH_SCHEMA`.

    Attributes:
        tree: Its tree.
        nodes: Nodes from the first step to the last.
        values: V of the state before each step.
        reward: Reward of its last step.
    """

    tree: TreeRecord
    nodes: list[int]
    values: list[float]
    reward: float

    def as_row(self, number: int, level: str) -> dict[str, Any]:
        """Returns the columns of the path.

        Args:
            number: Number of the path among those of its tree.
            level: "step", or "response": all steps as one, with the credit `r - V(prompt)`.
        """
        steps = [self.tree.nodes[node] for node in self.nodes]
        ids, texts = [step.token_ids for step in steps], [step.text for step in steps]
        visits, values = [step.visits for step in steps], self.values
        if level == "response":
            ids, texts = [list(chain.from_iterable(ids))], ["".join(texts)]
            visits, values = visits[-1:], values[:1]
        return {
            "problem_id": self.tree.problem_id,
            "problem": self.tree.problem,
            "answer": self.tree.reference,
            "path": number,
            "prompt_ids": self.tree.prompt_ids,
            "step_ids": ids,
            "steps": texts,
            "visits": visits,
            "values": values,
            "credits": path_credits(values, self.reward),
            "reward": self.reward,
            "correct": self.reward > 0,
            REFERENCE: None,
        }


def make_rows(
    trees: Sequence[TreeRecord], args: PathsArgs, model: "StateValues | None" = None
) -> tuple[pa.Table, RowReport]:
    """Draws the paths of some trees.

    Args:
        trees: The trees.
        args: The command line.
        model: Values of states; by default the trees' own.

    Returns:
        The paths in the columns of `PATH_SCHEMA`, and a report of all trees.
    """
    report = RowReport()
    drawn: list[tuple[TreeRecord, list[list[int]]]] = []
    for tree in trees:
        paths = _draw(tree, args, model)
        if isinstance(paths, BadRow):
            report.add(paths)
        else:
            drawn.append((tree, paths))
    kept = [tree for tree, _ in drawn]
    if model is None:
        values = [dict(enumerate(node.value for node in tree.nodes)) for tree in kept]
    else:
        states = [
            {0, *chain.from_iterable(path[:-1] for path in paths)} if args.level == "step" else {0}
            for _, paths in drawn
        ]
        values = model.of(kept, states)
    rows = []
    for (tree, paths), of_tree in zip(drawn, values, strict=True):
        for number, path in enumerate(paths):
            before = [0, *path[:-1]] if args.level == "step" else [0]
            reward = tree.nodes[path[-1]].reward or 0.0  # of a terminal, so never None
            row = PathRow(tree, path, [of_tree[node] for node in before], reward)
            rows.append(row.as_row(number, args.level))
    report.totals["trees with paths"] = len(drawn)
    report.totals["right paths"] = sum(row["correct"] for row in rows)
    report.totals["wrong paths"] = sum(not row["correct"] for row in rows)
    report.totals["steps"] = sum(len(row["steps"]) for row in rows)
    report.totals["step tokens"] = sum(len(ids) for row in rows for ids in row["step_ids"])
    return pa.Table.from_pylist(rows, schema=PATH_SCHEMA), report


def _draw(
    tree: TreeRecord, args: PathsArgs, model: "StateValues | None"
) -> list[list[int]] | BadRow:
    """Returns the nodes of each path of a tree, or the reason why it has none."""
    if len(tree.prompt_ids) < 2:
        return BadRow(tree.problem_id, "prompt of fewer than two tokens")
    rng = np.random.default_rng(derive_seed(args.seed, tree.problem_id))
    drawn = draw_paths(tree, rng, args.paths_per_side, args.min_visits, args.wrong_paths)
    paths = [path.nodes for path in drawn]
    if not paths:
        rewards = [node.reward for node in tree.nodes if node.terminal == "answer"]
        if not any(reward is not None and reward > 0 for reward in rewards):
            return BadRow(tree.problem_id, "no right answer", f"{len(rewards)} answers")
        return BadRow(tree.problem_id, "right answers on too few visits")
    if not all(tree.nodes[node].token_ids for path in paths for node in path):
        return BadRow(tree.problem_id, "step without tokens")
    return (model.fault(tree, paths) if model else None) or paths


def split_of(problem: str, validation_share: float) -> str:
    """Returns the split of a question: the same one whatever the seed and the round."""
    words = " ".join(problem.split())
    is_validation = derive_seed("validation", words) < validation_share * 2**63
    return "validation" if is_validation else "train"


def split_trees(files: Sequence[Path], validation_share: float) -> tuple[dict[str, int], str]:
    """Reads all trees once.

    Returns:
        The number of trees by split, without empty splits, and a digest of the files.

    Raises:
        InputError: If there are no trees, none is left to train on, or one is there twice.
    """
    counts = {"train": 0, "validation": 0}
    seen: set[tuple[str, str, int]] = set()
    for tree in chain.from_iterable(map(read_trees, files)):
        key = tree.problem_id, tree.problem, tree.seed
        if key in seen:
            raise InputError(
                f"--input: the tree of {tree.problem_id} with the seed {tree.seed} is there twice"
            )
        seen.add(key)
        counts[split_of(tree.problem, validation_share)] += 1
    if not counts["train"]:
        names = ", ".join(map(str, files))
        raise InputError(f"--input {names}: no tree to train on, of {len(seen)}")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {split: count for split, count in counts.items() if count}, digest.hexdigest()


def pending_trees(
    stage: Stage, files: Sequence[Path], validation_share: float
) -> Iterator[tuple[Chunk, list[TreeRecord]]]:
    """Yields the chunks that are not complete, with their trees; reads the files once."""
    pending = set(stage.pending())
    chunks: dict[str, deque[Chunk]] = {}
    for chunk in stage.chunks:
        chunks.setdefault(chunk.split, deque()).append(chunk)
    held: dict[str, list[TreeRecord]] = {split: [] for split in chunks}
    for tree in chain.from_iterable(map(read_trees, files)) if pending else ():
        split = split_of(tree.problem, validation_share)
        if not chunks.get(split):  # the file has grown since
            continue
        held[split].append(tree)
        if len(held[split]) == chunks[split][0].num_rows:
            chunk, trees = chunks[split].popleft(), held[split]
            held[split] = []
            if chunk in pending:
                yield chunk, trees


def load_model(args: PathsArgs) -> "StateValues | None":
    """Loads the value model, if one is asked for.

    Raises:
        InputError: If there is none.
    """
    if args.classifier_ckpt_path is None:
        return None
    import torch

    from classifier_lib.loading import load_value_model
    from data_prep.dvo.values import StateValues
    from run_lib.hub import quiet_transformers

    quiet_transformers()
    with naming("--classifier_ckpt_path"):
        model = load_value_model(args.classifier_ckpt_path, dtype=getattr(torch, args.dtype))
    return StateValues(model, args.classifier_ckpt_path, args.max_batch_tokens)


def print_report(output: Path, reports: Mapping[str, RowReport]) -> None:
    """Prints the counts of each split: rows in are trees, rows out are paths."""
    for split, report in reports.items():
        print(f"{output / split} (rows in: trees, rows out: paths)\n{report.format()}", flush=True)


def run(args: PathsArgs) -> None:
    """Draws the paths that are missing, and prints the report.

    Raises:
        InputError: If something that was given can't be used.
    """
    args.check()
    with naming("--input", OSError):
        files = list(chain.from_iterable(map(tree_files, args.input)))
        counts, digest = split_trees(files, args.validation_share)
    inputs = {split: TreeSplit(count, digest) for split, count in counts.items()}
    known = [found for path in files if (found := read_tree_settings(path))]
    origin = {
        "trees": [str(path) for path in files],
        "trees_settings": [found for i, found in enumerate(known) if found not in known[:i]],
    }
    with Stage(args.output, args.settings, inputs, args.rows_per_file, origin=origin) as stage:
        num_pending = sum(chunk.num_rows for chunk in stage.pending())
        model = load_model(args) if num_pending else None
        with tqdm(total=num_pending, unit="tree", disable=None) as progress:
            for chunk, trees in pending_trees(stage, files, args.validation_share):
                table, report = make_rows(trees, args, model)
                stage.write(chunk, table, report)
                progress.update(chunk.num_rows)
        reports = stage.finish()
    if reports is not None:
        print_report(args.output, reports)
        if not sum(report.rows_out for report in reports.values()):
            raise InputError(f"--input: no tree gives a path: see {args.output}/report.json")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(PathsArgs, DVO_PATHS, __doc__, argv)
    run_command(DVO_PATHS, lambda: run(args))


if __name__ == "__main__":
    main()
