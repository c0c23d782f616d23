"""Records of tree searches: what paths, credits and a drawing of a tree need. No torch here."""

from dataclasses import dataclass

from search_lib.results.cost import SearchCost
from search_lib.strategies.mcts import MonteCarloTreeSearch


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
    """

    problem_id: str
    problem: str
    reference: str
    seed: int
    prompt_ids: list[int]
    iterations: int
    nodes: list[RecordedStep]
    cost: SearchCost

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
