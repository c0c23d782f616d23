"""What a file of trees holds, in a few lines."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self, get_args

from dvo_lib.trees import TreeRecord
from run_lib.text import some_of
from search_lib.strategies.mcts import Terminal


@dataclass
class TreeSummary:
    """Counts over trees.

    Attributes:
        num_trees: Trees.
        num_closed: Those in which every path ends in a terminal.
        iterations: Expansions of all trees.
        num_steps: Steps of all trees.
        tokens: Generated tokens of all trees.
        terminals: Terminals by kind.
        num_right: Answers that are right.
        unsolved: Ids of problems without a right answer.
    """

    num_trees: int = 0
    num_closed: int = 0
    iterations: int = 0
    num_steps: int = 0
    tokens: int = 0
    terminals: Counter[str] = field(default_factory=Counter)
    num_right: int = 0
    unsolved: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, trees: Iterable[TreeRecord]) -> Self:
        """Counts trees, one in memory at a time."""
        summary = cls()
        for tree in trees:
            summary._add(tree)
        return summary

    def _add(self, tree: TreeRecord) -> None:
        self.num_trees += 1
        self.num_closed += tree.is_closed
        self.iterations += tree.iterations
        self.num_steps += len(tree.nodes) - 1
        self.tokens += tree.cost.tokens_generated
        self.terminals.update(node.terminal for node in tree.nodes if node.terminal is not None)
        num_right = sum(node.reward is not None and node.reward > 0 for node in tree.nodes)
        self.num_right += num_right
        if not num_right:
            self.unsolved.append(tree.problem_id)

    def format(self) -> str:
        """Returns the summary as lines for the terminal."""
        answers = self.terminals["answer"]
        share = f" ({self.num_right / answers:.1%} right)" if answers else ""
        failures = [f"{self.terminals[kind]:,} {kind}" for kind in get_args(Terminal)[1:]]
        names = f": {some_of(sorted(self.unsolved))}" if self.unsolved else ""
        return "\n".join(
            [
                f"{self.num_trees:,} trees, {self.num_closed:,} of them closed; a tree has "
                f"{self.iterations / self.num_trees:.1f} expansions and "
                f"{self.num_steps / self.num_trees:.1f} steps",
                f"terminals: {answers:,} with an answer{share}, {', '.join(failures)}",
                f"{len(self.unsolved):,} problems without a right answer{names}",
                f"{self.tokens:,} tokens generated",
            ]
        )
