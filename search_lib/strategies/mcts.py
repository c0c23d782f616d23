"""Monte Carlo tree search over steps of reasoning: the targets of DVO (its section 4.4.1).

Selection, expansion and terminals are those of the published code, and so are the values with
`duplicates="drop"` and `backup="mean"`. An iteration expands one leaf; there are no roll-outs to
the end. A value comes from terminals alone: each is backed up once, when it is made.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from run_lib.commands import InputError, at_least, positive
from run_lib.seeds import derive_seed
from search_lib.engines.base import Block, Expansion
from search_lib.strategies.base import Limits, Value, check_blocks

Terminal = Literal["answer", "no_answer", "too_deep", "too_long"]


@dataclass(frozen=True)
class TreeSettings:
    """How a tree grows, and what its values mean."""

    iterations: int = 80
    """Expansions of one tree."""
    breadth: int = 5
    """Steps sampled in an expansion: a node's most children."""
    depth: int = 8
    """Deepest step that is continued; one deeper is a failure unless it holds the answer."""
    c_puct: float = 1.5
    """Weight of exploration against the value."""
    prior: Literal["uniform", "likelihood"] = "uniform"
    """Weight of a step in exploration. uniform: 1, as in effect published. likelihood: exp of its
    mean token log-probability."""
    duplicates: Literal["count", "drop"] = "count"
    """Equal steps of an expansion are one node. count: it counts as often as it was drawn in the
    value of the node above. drop, as published: it counts once."""
    backup: Literal["mean", "soft"] = "soft"
    """Value of a node. soft: beta log of the mean of exp(Q / beta) over its steps, as eq. 4 of the
    DVO paper asks for. mean: of Q over its steps; with dropped duplicates, as published, of the
    rewards of all terminals below."""
    beta: float = 0.1
    """Temperature of the soft value, the beta of training."""

    def check(self) -> None:
        """Raises InputError for values that no tree can have."""
        at_least(1, iterations=self.iterations, breadth=self.breadth, depth=self.depth)
        if not 0 <= self.c_puct < math.inf:
            raise InputError(f"--c_puct must be finite and not negative, got {self.c_puct}")
        positive(beta=self.beta)


@dataclass
class StepNode:
    """A step in the tree; node 0 is the prompt.

    Attributes:
        parent: Index of the node that it continues; None at the prompt.
        depth: Steps from the prompt.
        token_ids: Tokens of the step, the delimiter or end token included.
        count: How often it was drawn in its expansion; 1 where duplicates are dropped.
        prior: Its weight in exploration.
        terminal: Why nothing continues it: it holds the answer; the policy ended the response
            without one; it is deeper than allowed; no token is left. None for an inner node.
        reward: +1 or -1 of a terminal, else None.
        visits: Terminals at or below it.
        reward_sum: Rewards of these, added up.
        value: In [-1, 1]; 0 without a terminal below.
        children: Indices of its children; None until it is expanded.
        closed: Whether every path below it ends in a terminal.
    """

    parent: int | None
    depth: int
    token_ids: list[int]
    count: int = 1
    prior: float = 1.0
    terminal: Terminal | None = None
    reward: float | None = None
    visits: int = 0
    reward_sum: float = 0.0
    value: float = 0.0
    children: list[int] | None = None
    closed: bool = False


class _Step(NamedTuple):
    """One sampled step and what is known of it."""

    block: Block
    value: Value


def by_tokens(block: Block) -> Hashable:
    """Returns the key under which steps are equal if they have the same tokens."""
    return tuple(block.token_ids)


@dataclass
class MonteCarloTreeSearch:
    """PUCT over steps: selection from the root, then expansion of one leaf.

    Selection follows the child with the largest
    `value + c_puct * prior * sqrt(visits of the parent) / (1 + visits)`, the first one of equals,
    and never enters a closed subtree. A closed root ends the tree.

    Attributes:
        prompt_ids: Token ids of the prompt.
        limits: Lengths and end tokens; `block_size` is the most tokens of a step.
        seed: Seed of this tree.
        settings: How it grows; checked.
        equal_by: Steps of one expansion with the same key are duplicates.
        nodes: The tree, parents before children.
        iterations: Expansions so far.
    """

    prompt_ids: list[int]
    limits: Limits
    seed: int
    settings: TreeSettings = TreeSettings()
    equal_by: Callable[[Block], Hashable] = by_tokens
    nodes: list[StepNode] = field(default_factory=lambda: [StepNode(None, 0, [])])
    iterations: int = 0
    _asked: Expansion | None = None

    @property
    def done(self) -> bool:
        """Whether the tree is closed, or its iterations are used up."""
        used_up = self.iterations == self.settings.iterations and self._asked is None
        return self.nodes[0].closed or used_up

    def ask(self) -> list[Expansion]:
        """Selects the leaf of the next iteration; nothing while one is being expanded."""
        if self._asked is not None or self.done:
            return []
        leaf = self._select()
        path = self.path_ids(leaf)
        self.iterations += 1
        self._asked = Expansion(
            path_id=leaf,
            prefix_ids=self.prompt_ids + path,
            n=self.settings.breadth,
            max_new_tokens=min(self.limits.block_size, self.limits.max_length - len(path)),
            stop_token_ids=self.limits.stop_token_ids,
            seed=derive_seed(self.seed, leaf),
            logprobs=self.settings.prior == "likelihood",
        )
        return [self._asked]

    def tell(self, path_id: int, blocks: Sequence[Block], values: Sequence[Value]) -> None:
        """Takes the steps that continue the leaf, and the judge's word on each.

        Args:
            path_id: The leaf.
            blocks: The steps.
            values: 1 or 0 for a step that holds the answer, None for one without.

        Raises:
            ValueError: For a leaf that was not asked for, or steps and values that do not fit.
        """
        if self._asked is None or path_id != self._asked.path_id:
            raise ValueError(f"path {path_id} was not asked for, or is answered already")
        check_blocks(self._asked, blocks, values)
        if not set(values) <= {None, 0.0, 1.0}:
            raise ValueError(f"path {path_id} got {values}, and not a judge's 1, 0 or None")
        self._asked = None
        drawn: dict[Hashable, list[_Step]] = {}
        for block, value in zip(blocks, values, strict=True):
            # The same text is another step where it ends the response.
            key = self.equal_by(block), block.finish_reason == "stop"
            drawn.setdefault(key, []).append(_Step(block, value))
        # Every child is there before a value is backed up: the soft value is a mean over them.
        children = [self._add(path_id, equal) for equal in drawn.values()]
        self.nodes[path_id].children = children
        for child in children:
            if (reward := self.nodes[child].reward) is not None:
                self._back_up(child, reward)
        self._close(path_id)

    def path_ids(self, node: int) -> list[int]:
        """Returns the tokens of the response up to the end of a node."""
        return [token for step in self.path(node) for token in self.nodes[step].token_ids]

    def path(self, node: int) -> list[int]:
        """Returns the nodes from the root to a node, both included."""
        path = [node]
        while (parent := self.nodes[path[-1]].parent) is not None:
            path.append(parent)
        return path[::-1]

    def _select(self) -> int:
        index = 0
        while (children := self.nodes[index].children) is not None:
            exploration = self.settings.c_puct * math.sqrt(self.nodes[index].visits)
            index = max(
                (child for child in children if not self.nodes[child].closed),
                key=lambda child: (
                    self.nodes[child].value
                    + exploration * self.nodes[child].prior / (1 + self.nodes[child].visits)
                ),
            )
        return index

    def _add(self, parent: int, equal: list[_Step]) -> int:
        """Adds a node for equal steps of one expansion and returns its index."""
        block, value = equal[0]
        node = StepNode(
            parent=parent,
            depth=self.nodes[parent].depth + 1,
            token_ids=block.token_ids,
            count=len(equal) if self.settings.duplicates == "count" else 1,
        )
        if block.logprobs is not None and self.settings.prior == "likelihood":
            node.prior = math.exp(sum(block.logprobs) / len(block.logprobs))
        self.nodes.append(node)
        index = len(self.nodes) - 1
        if value is not None:
            node.terminal, node.reward = "answer", 2.0 * value - 1.0
        elif block.finish_reason == "stop":
            node.terminal, node.reward = "no_answer", -1.0
        elif node.depth > self.settings.depth:
            node.terminal, node.reward = "too_deep", -1.0
        elif len(self.path_ids(index)) >= self.limits.max_length:
            node.terminal, node.reward = "too_long", -1.0
        return index

    def _back_up(self, terminal: int, reward: float) -> None:
        """Takes the reward of a new terminal into the values of all nodes from it to the root."""
        for index in reversed(self.path(terminal)):
            node = self.nodes[index]
            node.visits += 1
            node.reward_sum += reward
            node.value = self._value(node)
        self.nodes[terminal].closed = True

    def _value(self, node: StepNode) -> float:
        """Returns the value of a node with a terminal at or below it."""
        soft, beta = self.settings.backup == "soft", self.settings.beta
        if node.children is None or (not soft and self.settings.duplicates == "drop"):
            return node.reward_sum / node.visits
        # A step with nothing below is left out: it was drawn, but its value is not known.
        valued = [child for child in map(self.nodes.__getitem__, node.children) if child.visits]
        draws = sum(child.count for child in valued)
        if not soft:
            return sum(child.count * child.value for child in valued) / draws
        largest = max(child.value for child in valued)
        total = sum(child.count * math.exp((child.value - largest) / beta) for child in valued)
        return largest + beta * math.log(total / draws)

    def _close(self, index: int | None) -> None:
        """Closes a node whose children are all closed, and then its parents."""
        while index is not None:
            node = self.nodes[index]
            if node.children is None or not all(self.nodes[c].closed for c in node.children):
                return
            node.closed = True
            index = node.parent
