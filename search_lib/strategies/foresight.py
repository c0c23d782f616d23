"""What a search in rounds will ask for, as far as it shows while blocks of a round are missing."""

import copy
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from run_lib.seeds import derive_seed
from search_lib.engines.base import Block, Expansion
from search_lib.strategies.base import Answers, Guess, Value
from search_lib.strategies.paths import Candidate, UnknownPath
from search_lib.strategies.rounds import Rounds

Foresight = Literal["none", "likely", "certain"]
"""What a rule lets be told of the next round while blocks of this one are missing.

`"likely"`: how often it selects a path, over invented values of the missing blocks. Its `select` is
asked for that and must change nothing. `"certain"`: also, that it selects a path for certain if it
does so where all missing blocks go on and have the highest value.
"""

NUM_WORLDS = 7
"""Inventions of the missing blocks, over which the paths that are selected are counted."""

FIRST_SPREAD, FIRST_WEIGHT = 1.0, 4
"""Standard deviation of a block's value from that of the path before it, in logits, before the
search has any, and its weight in blocks beside the search's own."""

EDGE = 1e-3
"""Values are kept this far from 0 and 1 in these logits."""


def logit(value: float) -> float:
    """Returns the logit of a value."""
    value = min(max(value, EDGE), 1 - EDGE)
    return math.log(value / (1 - value))


class Foreseeing(Rounds):
    """A search in rounds that can guess, from its rule, how a round will end.

    A subclass says by `foresight` how far its rule lets it.
    """

    foresight: ClassVar[Foresight] = "none"
    """Each class states its own: it is not inherited, as a subclass may have another rule."""

    # Squares of the steps from the logit of a path's value to that of its next block.
    _squares, _num_steps, _num_seen = FIRST_SPREAD**2 * FIRST_WEIGHT, FIRST_WEIGHT, 0

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        cls.foresight = cls.__dict__.get("foresight", "none")

    def supposed(
        self, candidates: list[Candidate], answered: Answers, invented: Callable[[Value], float]
    ) -> list[Candidate]:
        """Returns the candidates of a round that is guessed with what else the rule needs of them.

        Args:
            candidates: The candidates, some of them invented.
            answered: Answers to guesses.
            invented: A value -> an invented one of what follows.
        """
        return candidates

    def guess(self, answered: Answers) -> list[Guess]:
        """Returns what later rounds may ask for, from the blocks that are there.

        The missing blocks are invented several times over, and the rule is asked how the round
        would end. Where guesses for the round behind it are answered, it goes on. What a later
        round than the next one asks for is certain only where paths don't compete: elsewhere a rule
        may draw by the places of all candidates.

        Args:
            answered: Answers to earlier guesses.
        """
        if self.foresight == "none" or not self.told:
            return []
        ahead = _Ahead(self, answered)
        certain: set[int] = set()
        if self.foresight == "certain":
            worst = ahead.asked(lambda before: 1.0)
            certain = {seed for seed, depth in worst if depth == 1}
            if not self.paths_compete:
                return [Guess(expansion, 1.0) for expansion in ahead.expansions.values()]
        draws = random.Random(derive_seed(self.seed, self.round, "guesses"))
        spread, center = self._spread(), self._center()

        def invented(before: Value) -> float:
            start = center if before is None else logit(before)
            return 1 / (1 + math.exp(-draws.gauss(start, spread)))

        counts: Counter[int] = Counter()
        for _ in range(NUM_WORLDS):
            counts.update(seed for seed, _ in ahead.asked(invented))
        shares = {seed: count / (NUM_WORLDS + 1) for seed, count in counts.items()}
        shares |= dict.fromkeys(certain, 1.0)
        return [Guess(ahead.expansions[seed], share) for seed, share in shares.items()]

    def _spread(self) -> float:
        """Returns the root mean square of the steps of values so far, in logits."""
        for node in self.nodes[self._num_seen :]:
            before = None if node.parent is None else self.nodes[node.parent].value
            if before is not None and node.value is not None:
                self._squares += (logit(node.value) - logit(before)) ** 2
                self._num_steps += 1
        self._num_seen = len(self.nodes)
        return math.sqrt(self._squares / self._num_steps)

    def _center(self) -> float:
        """Returns the mean logit of the values of this round."""
        values = [one.path.value for told in self.told.values() for one in told]
        logits = [logit(value) for value in values if value is not None]
        return sum(logits) / len(logits) if logits else 0.0


class _Ahead:
    """Plays the rest of a round, and later ones as far as guesses are answered.

    Attributes:
        expansions: What was asked for, by seed.
    """

    def __init__(self, search: Foreseeing, answered: Answers):
        self.expansions: dict[int, Expansion] = {}
        self._search = search
        self._answered = answered
        self._continued: dict[int, list[Candidate]] = {}
        self._blanks: dict[tuple[int, int], tuple[Block, list[int]]] = {}

    def asked(self, invented: Callable[[Value], float]) -> list[tuple[int, int]]:
        """Returns the seeds of what would be asked for and how many rounds ahead each is.

        Args:
            invented: The value of a path before a missing block -> one of the block.
        """
        state = copy.copy(self._search)  # all that a round changes, it replaces
        asked = []
        depth, goes_on = 0, True
        while goes_on:
            candidates = []
            for slot in state.open_slots:
                candidates += state.told.get(slot) or self._invented(state, slot, invented)
            candidates = state.supposed(candidates, self._answered, invented)
            state.begin_round(state.select(candidates), state.next_block_size(candidates))
            depth, goes_on = depth + 1, False
            for slot in state.open_slots:
                path = state.paths[slot]
                if isinstance(path, UnknownPath):
                    continue
                asked.append((path.seed, depth))
                if path.seed not in self.expansions:
                    self.expansions[path.seed] = state.expansion(slot)
                if path.seed in self._answered:
                    state.told[slot] = self._known(state, slot)
                    goes_on = True
        return asked

    def _known(self, state: Foreseeing, slot: int) -> list[Candidate]:
        seed = state.paths[slot].seed
        if seed not in self._continued:
            self._continued[seed] = state.continued(
                slot, state.paths[slot], self._answered[seed], 0
            )
        # The slot is another one in every world.
        return [one._replace(slot=slot) for one in self._continued[seed]]

    def _invented(
        self, state: Foreseeing, slot: int, invented: Callable[[Value], float]
    ) -> list[Candidate]:
        path = state.paths[slot]
        done, limit = len(path.token_ids), state.limits.max_length
        size = min(state.block_size, limit - done)
        if (done, size) not in self._blanks:
            self._blanks[done, size] = Block([0] * size, "length"), [0] * (done + size)
        block, tokens = self._blanks[done, size]
        candidates = []
        for number in range(state.width):
            value = invented(path.value)
            seed = -1 - slot * state.width - number
            longer = UnknownPath(tokens, value, None, len(tokens) < limit, False, seed)
            candidates.append(Candidate(slot, block, longer, value))
        return candidates
