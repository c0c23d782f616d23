"""Makes the searches of a problem, as its trees are wanted, and the rule that ends them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from run_lib.seeds import derive_seed
from run_lib.settings import as_json
from search_lib.benchmarks import Problem
from search_lib.kept_blocks import KeptBlocks
from search_lib.results.stopping import Stopping, stopping_rule
from search_lib.runner import SearchJob
from search_lib.scorers.base import Scorer
from search_lib.scorers.texts import ProblemScorer, TextScorer
from search_lib.search_flags import SearchFlags
from search_lib.strategies import Strategy, StrategyFactory, traits_of


class Policy(NamedTuple):
    """What a search needs of the policy beside its engine.

    Attributes:
        tokenizer: Its tokenizer.
        stop_token_ids: Tokens that end a response.
    """

    tokenizer: PreTrainedTokenizerBase
    stop_token_ids: tuple[int, ...]


def job_factory(
    flags: SearchFlags,
    policy: Policy,
    prompts: Mapping[str, list[int]],
    scorer: Scorer | TextScorer | None,
    keeps_blocks: bool,
) -> Callable[[Problem, int], SearchJob[Strategy]]:
    """Returns what makes the search of a (problem, repetition), as the runner has room.

    Args:
        flags: Flags of the search; checked.
        policy: The policy.
        prompts: Token ids of the prompts, by the problem's id.
        scorer: Source of values; None if there is none.
        keeps_blocks: Whether the blocks of a search are wanted when it has ended.
    """
    new_strategy: StrategyFactory = flags.find_strategy(policy.stop_token_ids)

    def make(problem: Problem, repetition: int) -> SearchJob[Strategy]:
        own_seed = derive_seed(flags.seed, problem.id, repetition)
        prompt_ids = prompts[problem.id]
        return SearchJob(
            *(problem, repetition, own_seed, new_strategy(prompt_ids, own_seed)),
            scorer=ProblemScorer(scorer, problem.problem, len(prompt_ids), policy.tokenizer)
            if isinstance(scorer, TextScorer)
            else scorer,
            kept=KeptBlocks() if keeps_blocks or flags.confidence else None,
        )

    return make


def find_stopping(flags: SearchFlags) -> Stopping | None:
    """Returns the rule by which problems get no further tree; None if all get all of them."""
    if flags.stop == "never":
        return None
    rule = stopping_rule(flags.stop, flags.scorer_flags.has_values)
    threshold = rule.usual if flags.stop_confidence is None else flags.stop_confidence
    most = traits_of(as_json(flags)).most_responses
    return Stopping(rule, threshold, flags.num_repetitions, most)
