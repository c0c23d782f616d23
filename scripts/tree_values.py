"""Distance of a tree's values from the true ones, in decision processes small enough to sum up.

    python -m scripts.tree_values              # some 20 seconds
    python -m scripts.tree_values --problems 1000

In each process a state has four steps, whose probabilities are Dirichlet(1/2). Behind the third
step, or earlier, is an answer, which is right or wrong with probability 1/2. The policy's true
values are sums over all responses: the mean reward, and the soft value of eq. 4 of the DVO paper.
The search of `search_lib.strategies.mcts` samples from the policy until its tree is closed: what is
left is the error of its values, not that of unfinished exploration.

Two kinds: *equal*, all responses have three steps; *varied*, each of the first two may be the last,
with probability 1/2. Columns: mean absolute error of the prompt's value, and of the other states in
the tree, with 95 % intervals over the processes. Two rows differ in `--duplicates` alone.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from run_lib.commands import at_least, parse_command_line, run_command
from run_lib.seeds import derive_seed
from run_lib.text import format_table
from search_lib.engines.base import Block
from search_lib.results.statistics import estimate_mean
from search_lib.strategies import Limits
from search_lib.strategies.mcts import MonteCarloTreeSearch, TreeSettings

PROGRAM = "scripts.tree_values"

NUM_STEPS, LONGEST = 4, 3
KINDS = {"equal": 0.0, "varied": 0.5}
"""Probability that a step ends the response before the last one must."""


@dataclass(frozen=True)
class Args:
    """Compare the values of closed trees with true ones."""

    problems: int = 200
    """Decision processes of each kind."""
    breadths: tuple[int, ...] = (2, 5, 20)
    """Steps sampled in an expansion."""
    beta: float = 0.1
    """Temperature of the soft values."""
    seed: int = 0
    """Seed of the processes and of the searches."""


@dataclass(frozen=True)
class State:
    """A state of a decision process.

    Attributes:
        probabilities: Of each step under the policy.
        outcomes: The state behind each step, or the reward of the answer there.
    """

    probabilities: np.ndarray
    outcomes: "list[State | float]"

    def value(self, beta: float | None) -> float:
        """Returns the soft value at a temperature, or the mean reward without one."""
        values = [
            outcome.value(beta) if isinstance(outcome, State) else outcome
            for outcome in self.outcomes
        ]
        if beta is None:
            return float(self.probabilities @ values)
        largest = max(values)
        powers = np.exp((np.array(values) - largest) / beta)
        return largest + beta * math.log(self.probabilities @ powers)

    def behind(self, steps: Sequence[int]) -> "State":
        """Returns the state behind some steps.

        Raises:
            ValueError: If an answer is there.
        """
        state: State | float = self
        for step in steps:
            if isinstance(state, State):
                state = state.outcomes[step]
        if not isinstance(state, State):
            raise ValueError(f"{steps} is a whole response")
        return state


def draw_process(rng: np.random.Generator, early_end: float, depth: int = 1) -> State:
    """Draws the state before step `depth`, and all behind it."""
    outcomes: list[State | float] = []
    probabilities = rng.dirichlet([0.5] * NUM_STEPS)
    for _ in range(NUM_STEPS):
        if depth == LONGEST or rng.random() < early_end:
            outcomes.append(1.0 if rng.random() < 0.5 else -1.0)
        else:
            outcomes.append(draw_process(rng, early_end, depth + 1))
    return State(probabilities, outcomes)


def grow(process: State, seed: int, settings: TreeSettings) -> MonteCarloTreeSearch:
    """Grows a tree until it is closed; a step is one token, its number."""
    search = MonteCarloTreeSearch([], Limits(LONGEST + 1, 1, ()), seed, settings)
    while not search.done:
        for expansion in search.ask():
            state = process.behind(expansion.prefix_ids)
            rng = np.random.default_rng(expansion.seed)
            steps = rng.choice(NUM_STEPS, expansion.n, p=state.probabilities).tolist()
            rewards = [state.outcomes[step] for step in steps]
            judged = [None if isinstance(r, State) else float(r > 0) for r in rewards]
            search.tell(expansion.path_id, [Block([step], "step") for step in steps], judged)
    return search


def errors(process: State, search: MonteCarloTreeSearch) -> tuple[float, float | None]:
    """Returns the error of the prompt's value, and the mean one of other states; None without."""
    beta = search.settings.beta if search.settings.backup == "soft" else None
    found = [
        abs(node.value - process.behind(search.path_ids(index)).value(beta))
        for index, node in enumerate(search.nodes)
        if node.terminal is None
    ]
    return found[0], float(np.mean(found[1:])) if found[1:] else None


def measure(args: Args, kind: str, settings: TreeSettings) -> list[np.ndarray]:
    """Returns the errors of the prompts, and those of the other states, one of each process."""
    of_prompts, of_states = [], []
    for problem in range(args.problems):
        rng = np.random.default_rng(derive_seed(args.seed, kind, problem))
        process = draw_process(rng, KINDS[kind])
        search = grow(process, derive_seed(args.seed, problem), settings)
        of_prompt, of_state = errors(process, search)
        of_prompts.append(of_prompt)
        of_states += [] if of_state is None else [of_state]
    return [np.array(of_prompts), np.array(of_states)]


def table_rows(args: Args) -> Iterator[list[str]]:
    """Yields the lines of the table."""
    closing = TreeSettings(iterations=NUM_STEPS**LONGEST, beta=args.beta)
    backups = replace(closing, backup="mean"), replace(closing, backup="soft")
    for kind, settings, breadth in product(KINDS, backups, args.breadths):
        for duplicates in ("count", "drop"):
            own = replace(settings, breadth=breadth, duplicates=duplicates)
            cells = []
            for found in measure(args, kind, own):
                estimate = estimate_mean(found[:, None])
                cells.append(f"{estimate.mean:.3f} ± {estimate.over_problems or math.nan:.3f}")
            yield [kind, own.backup, f"{breadth}", duplicates, *cells]


def main(args: Args) -> None:
    """Prints the table.

    Raises:
        InputError: For settings that no tree can have.
    """
    at_least(1, problems=args.problems, breadths=min(args.breadths, default=0))
    TreeSettings(beta=args.beta).check()
    columns = ["responses", "backup", "breadth", "duplicates", "prompt", "other states"]
    print(format_table(columns, list(table_rows(args))))


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: main(args))


if __name__ == "__main__":
    run()
