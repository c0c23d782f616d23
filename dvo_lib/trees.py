"""Records of tree searches: what paths, credits and a drawing of a tree need. No torch here."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from run_lib.files import read_json
from search_lib.results.cost import SearchCost
from search_lib.results.record_log import RecordLog, read_whole
from search_lib.strategies.mcts import MonteCarloTreeSearch

TREES_NAME, SETTINGS_NAME, SHARD_FOLDERS = "trees.jsonl", "trees_settings.json", "shard-*"
"""In the output of `data_prep.dvo trees`: the trees, the settings beside them, and its shards."""


@dataclass(frozen=True)
class RecordedStep:
    """One node of a tree; node 0 is the prompt. See `StepNode`.

    Attributes:
        parent: Index of the node that it continues; None at the prompt.
        token_ids: Tokens of the step, the delimiter or end token included.
        text: The same, decoded, special tokens included.
        count: How often it was drawn in its expansion; 1 where duplicates are dropped.
        visits: N, terminals at or below it.
        value: Q in [-1, 1]; 0 without a terminal below.
        prior: Its weight in exploration.
        terminal: Why nothing continues it; None for an inner node.
        reward: +1 or -1 of a terminal, else None.
    """

    parent: int | None
    token_ids: list[int]
    text: str
    count: int
    visits: int
    value: float
    prior: float
    terminal: str | None
    reward: float | None


@dataclass(frozen=True)
class TreeRecord:
    """The tree of one problem.

    Attributes:
        problem_id: Id of the problem in its set.
        problem: The question.
        reference: The reference answer.
        seed: Seed of the tree.
        prompt_ids: Token ids of the prompt.
        iterations: Expansions that were made.
        nodes: The tree, parents before children.
        cost: Tokens and time of the search.

    Raises:
        ValueError: If the nodes are no tree; begins with the node at fault.
    """

    problem_id: str
    problem: str
    reference: str
    seed: int
    prompt_ids: list[int]
    iterations: int
    nodes: list[RecordedStep]
    cost: SearchCost

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ValueError("nodes is empty")
        for index, node in enumerate(self.nodes):
            is_root = index == 0 and node.parent is None
            if not is_root and (node.parent is None or not 0 <= node.parent < index):
                raise ValueError(f"nodes[{index}].parent is {node.parent}")

    @property
    def key(self) -> str:
        """Key of this tree among those of a run: two problems with one text are two."""
        return self.problem_id

    @property
    def name(self) -> str:
        """What this tree is called in messages."""
        return f"the tree of problem {self.problem_id}"

    @property
    def is_closed(self) -> bool:
        """Whether every path ends in a terminal, so that nothing was left to expand."""
        inner = {node.parent for node in self.nodes}
        leaves = [node for index, node in enumerate(self.nodes) if index not in inner]
        return all(leaf.terminal is not None for leaf in leaves)

    def path(self, node: int) -> list[int]:
        """Returns the nodes from the prompt to a node, both included."""
        path = [node]
        while (parent := self.nodes[path[-1]].parent) is not None:
            path.append(parent)
        return path[::-1]


def recorded_steps(search: MonteCarloTreeSearch, texts: list[str]) -> list[RecordedStep]:
    """Returns the nodes of a search as they are recorded.

    Args:
        search: The search.
        texts: The text of each node.
    """
    return [
        RecordedStep(
            node.parent,
            node.token_ids,
            text,
            node.count,
            node.visits,
            node.value,
            node.prior,
            node.terminal,
            node.reward,
        )
        for node, text in zip(search.nodes, texts, strict=True)
    ]


class TreeFile(RecordLog[TreeRecord]):
    """A file of trees that is being written.

    Args:
        path: The file; its folder is made.
        flag: The flag that names it or its folder, for messages.
    """

    def __init__(self, path: Path, flag: str):
        super().__init__(TreeRecord, path, flag)


def tree_files(path: Path) -> list[Path]:
    """Returns the files of trees that a path names.

    Args:
        path: A file, or an output folder of `data_prep.dvo trees`, whose shards count, too.

    Raises:
        ValueError: If it is neither; begins with the path.
    """
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = [*path.glob(TREES_NAME), *sorted(path.glob(f"{SHARD_FOLDERS}/{TREES_NAME}"))]
    if not files:
        raise ValueError(f"{path} is no file of trees, nor a folder with {TREES_NAME}")
    return files


def read_trees(path: Path, problem_ids: Collection[str] | None = None) -> Iterator[TreeRecord]:
    """Yields the whole trees of a file or folder, one in memory at a time.

    Args:
        path: See `tree_files`. Torn lines, and repeated trees of a file, are passed over.
        problem_ids: Problems that it may hold; None if any may be there.

    Raises:
        ValueError: If there are no trees, at once; begins with the path.
        InputError: At a line that is whole and no tree of this version, or of another problem;
            names the file and the line.
    """
    files = tree_files(path)
    return chain.from_iterable(read_whole(TreeRecord, file, problem_ids) for file in files)


def read_tree_settings(file: Path) -> dict[str, Any] | None:
    """Returns the flags that the trees of a file were grown with; None if they aren't known."""
    settings: dict[str, Any] | None = read_json(file.with_name(SETTINGS_NAME))
    return settings
