"""A question while its searches run: what their trees look like now, and how the vote stands."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from classifier_lib.scoring import Scores
from search_lib.asking.outcome import Candidate
from search_lib.engines.base import Block, Expansion
from search_lib.strategies import Strategy
from search_lib.strategies.base import Selecting, Value

PathState = Literal["running", "waiting", "finished", "dropped"]
"""*running*: its next block is being generated; *waiting*: for the other paths of its round, or for
its scoring; *finished*: it is a whole response; *dropped*: the search went on without it."""


@dataclass(frozen=True)
class LivePath:
    """A path of a tree, up to its last block.

    Attributes:
        node: Index of the block in the tree.
        round: How many blocks are before it.
        num_tokens: Tokens of the response so far.
        value: P(correct) at its end; None if nothing scored it.
        state: What has become of it.
    """

    node: int
    round: int
    num_tokens: int
    value: Value
    state: PathState


class LiveTree:
    """One search, followed while it runs (a `runner.Watch`).

    Args:
        repetition: Number of the tree among the question's.
        strategy: The search.
        max_length: Most tokens of a response.
        on_change: Called after every answer.

    Attributes:
        repetition: See above.
        is_done: Whether it has ended; the runner's caller sets it.
        version: Another number after every change.
    """

    def __init__(
        self,
        repetition: int,
        strategy: Strategy,
        max_length: int,
        on_change: Callable[[], None],
    ):
        self.repetition = repetition
        self.is_done = False
        self.version = 0
        self._strategy = strategy
        self._max_length = max_length
        self._on_change = on_change
        self._blocks: dict[tuple[int, int], Block] = {}
        self._asked: dict[int, Expansion] = {}
        # Hashes of the tokens of paths: up to blocks, and of those that were asked to go on.
        self._ends: dict[tuple[int, int], int] = {}
        self._asked_ends: dict[int, int] = {}

    @property
    def has_begun(self) -> bool:
        """Whether it has asked for anything; it may have to wait for others."""
        return bool(self._asked or self._blocks)

    @property
    def num_tokens(self) -> int:
        """Tokens that were generated for it."""
        return sum(node.num_tokens for node in self._strategy.nodes)

    def asked(self, expansion: Expansion) -> None:
        """Takes what the search asks for."""
        self._asked[expansion.path_id] = expansion
        self._asked_ends[expansion.path_id] = hash(tuple(expansion.prefix_ids))
        self.version += 1

    def told(self, path_id: int, blocks: Sequence[Block], scores: Scores | None) -> None:
        """Takes an answer."""
        prefix = self._asked.pop(path_id).prefix_ids
        del self._asked_ends[path_id]
        for number, block in enumerate(blocks):
            self._blocks[path_id, number] = block
            self._ends[path_id, number] = hash((*prefix, *block.token_ids))
        self.version += 1
        self._on_change()

    def finish(self) -> None:
        """Takes that the search has ended."""
        self.is_done = True
        self.version += 1
        self._on_change()

    def token_ids(self, node: int) -> list[int]:
        """Returns the tokens of the response so far, up to the end of a block."""
        nodes, sources = self._strategy.nodes, self._strategy.sources
        parts = []
        place: int | None = node
        while place is not None:
            parts.append(self._blocks[sources[place]].token_ids)
            place = nodes[place].parent
        return [token for part in reversed(parts) for token in part]

    def paths(self) -> list[LivePath]:
        """Returns the path of every block that no other one continues, in order of the tree."""
        nodes, sources = self._strategy.nodes, self._strategy.sources
        rounds: list[int] = []
        lengths: list[int] = []
        for node in nodes:
            rounds.append(0 if node.parent is None else rounds[node.parent] + 1)
            lengths.append(node.num_tokens + (0 if node.parent is None else lengths[node.parent]))
        # Paths of the same tokens run as often as they were asked for, whichever it is.
        asked = Counter(self._asked_ends.values())
        if self.is_done:
            kept = {one.node for one in self._strategy.result()}
        elif isinstance(self._strategy, Selecting):
            kept = self._strategy.survivors()
        else:  # nobody knows what it may come back to
            kept = set(range(len(nodes)))
        places = [i for i, node in enumerate(nodes) if node.finish_reason != "lookahead"]
        continued = {nodes[place].parent for place in places}
        paths = []
        for place in places:
            if place in continued:
                continue
            state: PathState = "waiting"
            if place not in kept:
                state = "dropped"
            elif nodes[place].finish_reason == "stop" or lengths[place] >= self._max_length:
                state = "finished"
            elif asked[end := self._ends[sources[place]]]:
                asked[end] -= 1
                state = "running"
            value = nodes[place].value
            paths.append(LivePath(place, rounds[place], lengths[place], value, state))
        return paths


@dataclass
class LiveQuestion:
    """All searches of a question.

    Attributes:
        num_trees: Most trees that there will be.
        trees: Those that were begun, by repetition.
        vote: The classes of answers in the trees that have ended, the leading one first.
    """

    num_trees: int
    trees: dict[int, LiveTree] = field(default_factory=dict)
    vote: list[Candidate] = field(default_factory=list)

    @property
    def num_done(self) -> int:
        """Trees that have ended."""
        return sum(tree.is_done for tree in self.trees.values())

    @property
    def num_tokens(self) -> int:
        """Tokens that were generated so far."""
        return sum(tree.num_tokens for tree in self.trees.values())
