"""The interface of search strategies. A strategy decides; it computes and waits for nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from run_lib.commands import InputError, at_least, positive
from search_lib.engines.base import Block, Expansion

Value = float | None
"""P(correct) at the end of a block, in [0, 1]; None where nothing scores blocks. Where the scorer
is a judge of outcomes: 1 or 0 for a block that holds the answer, None for one that does not."""


@dataclass(frozen=True)
class Limits:
    """Lengths of one search.

    Attributes:
        max_length: Most tokens of a response.
        block_size: Most tokens of a block.
        stop_token_ids: A response is finished after any of these.
    """

    max_length: int
    block_size: int
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class StrategySettings:
    """What some strategies need beside the number in their name. None stands for the default."""

    value_temperature: float | None = None
    """Of particles, entropic and stochastic<w>: T in softmax(logit(value) / T), by which survivors
    are drawn; 1 by default. Larger values draw more evenly."""
    lookahead: int | None = None
    """Of lookahead<w>: blocks by which each candidate is continued greedily before it is valued; 1
    by default. They count in the budget: there are num_blocks / (w * (lookahead + 1)) beams."""
    min_block_size: int | None = None
    """Of adaptive<w>: fewest tokens of a block, where values disagree; a quarter of --block_size by
    default."""
    keep_percent: int | None = None
    """Of deepconf<n>: share of the warm-up samples that passes the bar, in per cent; 90 by default,
    the paper's DeepConf-high. 10 is its DeepConf-low, which abandons most."""

    def check(self) -> None:
        """Raises InputError for values that no search can have."""
        positive(value_temperature=self.value_temperature)
        at_least(0, lookahead=self.lookahead)
        at_least(1, min_block_size=self.min_block_size, keep_percent=self.keep_percent)
        if self.keep_percent is not None and self.keep_percent > 100:
            raise InputError(f"--keep_percent must be at most 100, got {self.keep_percent}")


@dataclass(frozen=True)
class SearchSpec:
    """A search type with its settings, as the flags give them.

    Attributes:
        search_type: Value of `--search_type`, for messages.
        num_blocks: The budget N of one tree.
        limits: Lengths and stop tokens.
        number: Number behind the strategy's name; None if there is none.
        has_values: Whether blocks have values.
        settings: Further settings.
        confidence_window: Tokens of a window of confidence; None if blocks have no confidences.
    """

    search_type: str
    num_blocks: int
    limits: Limits
    number: int | None
    has_values: bool = True
    settings: StrategySettings = StrategySettings()
    confidence_window: int | None = None

    @property
    def name(self) -> str:
        """The search type without its number."""
        return self.search_type.rstrip("0123456789")

    def check(self, *settings: str, takes_number: bool = False, needs_values: bool = True) -> None:
        """Raises InputError for flags that the strategy doesn't have, or values that it lacks.

        Args:
            *settings: The settings that it has.
            takes_number: Whether a number may stand behind its name.
            needs_values: Whether it selects by values.
        """
        if self.number is not None and not takes_number:
            raise InputError(f"--search_type {self.search_type}: {self.name} takes no number")
        if needs_values and not self.has_values:
            raise InputError(
                f"--search_type {self.search_type} selects blocks by their values, and "
                "--scorer none gives none; bon, random<w> and deepconf<n> do without"
            )
        for name, value in vars(self.settings).items():
            if value is not None and name not in settings:
                raise InputError(f"--{name} plays no part in --search_type {self.search_type}")

    def require_number(self, what: str, examples: str) -> int:
        """Returns the number behind the name; raises InputError, with examples, without one."""
        if self.number is None:
            raise InputError(
                f"--search_type {self.search_type} needs {what} behind it: {examples}, ..."
            )
        return self.number

    def require_width(self) -> int:
        """Returns the number behind the name as the width of beams that share the budget.

        Raises:
            InputError: If there is none, or it does not divide the budget.
        """
        width = self.require_number("a width", f"{self.name}2, {self.name}4")
        self.check_width(width)
        return width

    def check_width(self, width: int) -> None:
        """Raises InputError unless beams of this width share the budget, and blocks the length."""
        limits = self.limits
        if width < 1 or self.num_blocks % width:
            raise InputError(
                f"--num_blocks {self.num_blocks} is not divisible by the width {width} "
                f"of --search_type {self.search_type}"
            )
        if limits.max_length % limits.block_size:
            raise InputError(
                f"--block_size {limits.block_size} does not divide --max_length {limits.max_length}"
            )


@dataclass(frozen=True)
class Node:
    """One block in the tree of a search, kept or not.

    Attributes:
        parent: Index of the node that it continues; None at the prompt.
        num_tokens: Tokens of this block.
        value: P(correct) of the path up to the end of this block; None if nothing scored it.
        finish_reason: `"stop"`, `"length"`, or `"lookahead"` of tokens that were generated only to
            value the block before them, and thrown away.
    """

    parent: int | None
    num_tokens: int
    value: Value
    finish_reason: str


BlockSource = tuple[int, int]
"""(path id, number of the block in its answer): where the tokens of a node came from."""


@dataclass(frozen=True)
class Response:
    """One response of a search.

    Attributes:
        token_ids: All generated tokens.
        value: P(correct) at the last token; None if nothing scored it.
        finished: Whether the policy ended it; False when the length limit did.
        node: Index of its last block in the tree.
    """

    token_ids: list[int]
    value: Value
    finished: bool
    node: int


class Search(Protocol):
    """What the runner drives: a pure state machine that asks for blocks.

    The same seed and the same answers give the same result, in whatever order answers arrive.
    """

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask."""
        ...

    def ask(self) -> list[Expansion]:
        """Returns the expansions that the search needs now and has not asked for before."""
        ...

    def tell(self, path_id: int, blocks: Sequence[Block], values: Sequence[Value]) -> None:
        """Answers one expansion: its `n` blocks and the value at the end of each."""
        ...


class Guess(NamedTuple):
    """An expansion that a search may come to ask for.

    Attributes:
        expansion: As it would be asked for, but for its `path_id`, which is not known yet.
        probability: That it will be, as far as the search can tell; 1 only if it is certain.
    """

    expansion: Expansion
    probability: float


Answers = Mapping[int, list[tuple[Block, Value]]]
"""Blocks and values of guessed expansions that have been answered, by the expansion's seed."""


@runtime_checkable
class Guessing(Protocol):
    """A search that can say what it will ask for while some of its answers are still missing."""

    def guess(self, answered: Answers) -> list[Guess]:
        """Returns expansions that the search may ask for later; changes nothing.

        Args:
            answered: Answers to earlier guesses, from which it can guess further. They count for
                nothing unless the search asks for them.
        """
        ...


@runtime_checkable
class Selecting(Protocol):
    """A search that can say which paths it has not dropped."""

    def survivors(self) -> set[int]:
        """Returns the last nodes of the paths that it goes on with, or may, or ends with."""
        ...


class Traits(NamedTuple):
    """What a strategy says of its searches, by attributes of these names.

    Attributes:
        needs_values: Whether values guide the search; without them, they weigh votes at most.
        most_responses: The most responses that one tree ends with.
        paths_compete: Whether a path can cost another one its place that it does not branch from.
    """

    needs_values: bool
    most_responses: int
    paths_compete: bool = True


class Strategy(Search, Protocol):
    """The state of one value-guided search on one problem."""

    @property
    def nodes(self) -> list[Node]:
        """Tree so far, parents before children."""
        ...

    @property
    def sources(self) -> list[BlockSource]:
        """The block that each node stands for: a tree holds no tokens."""
        ...

    def result(self) -> list[Response]:
        """Returns the responses, once done."""
        ...


StrategyFactory = Callable[[list[int], int], Strategy]
"""(prompt ids, seed) -> a fresh search."""


def check_blocks(expansion: Expansion, blocks: Sequence[Block], values: Sequence[Value]) -> None:
    """Raises ValueError unless the answer fits what was asked for, values apart."""
    if len(blocks) != expansion.n or len(values) != expansion.n:
        raise ValueError(
            f"path {expansion.path_id} asked for {expansion.n} blocks, "
            f"got {len(blocks)} blocks and {len(values)} values"
        )
    for block in blocks:
        if not 0 < len(block.token_ids) <= expansion.max_new_tokens:
            raise ValueError(
                f"path {expansion.path_id} asked for 1 to {expansion.max_new_tokens} tokens, "
                f"got {len(block.token_ids)}"
            )


def check_answer(
    expansion: Expansion,
    blocks: Sequence[Block],
    values: Sequence[Value],
    needs_values: bool = True,
) -> list[tuple[Block, Value]]:
    """Returns the blocks with their values.

    Args:
        expansion: What was asked for.
        blocks: Its blocks.
        values: The value of each.
        needs_values: Whether each must have one.

    Raises:
        ValueError: If the answer does not fit what was asked for.
    """
    check_blocks(expansion, blocks, values)
    for value in values:
        is_valid = not needs_values if value is None else 0.0 <= value <= 1.0  # also refuses NaN
        if not is_valid:
            raise ValueError(f"path {expansion.path_id} got the value {value}, not in [0, 1]")
    return list(zip(blocks, values, strict=True))
