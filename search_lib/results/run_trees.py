"""A run as its trees: the votes of each, and what each cost. No model is loaded, and no grader."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifier_lib.flops import ModelSize
from run_lib.commands import InputError
from run_lib.settings import read_document
from search_lib.answer_rules import STRICT, AnswerRules
from search_lib.calibration import Calibration
from search_lib.results.answers import answers_name, read_answers
from search_lib.results.cost import SearchCost, forward_flops
from search_lib.results.graded import GradedProblem, common_features
from search_lib.results.metrics import metrics_name
from search_lib.results.records import read_records
from search_lib.results.resampling import TreeVotes
from search_lib.results.run_config import ProblemSet, RunConfig
from search_lib.strategies import traits_of
from search_lib.voting import VOTES, find_vote

COSTS = {
    "budget": "budget (blocks in flight × trees, or samples)",
    "flops": "FLOPs a problem, value model included",
    "tokens": "generated tokens a problem",
    "seconds": "seconds a problem, at the run's throughput",
}
"""What an answer costs, by name."""


@dataclass(frozen=True)
class Counted:
    """What `metrics.json` adds to the records.

    Attributes:
        policy: Size of the policy; None if it is not known.
        value_model: Size of the value model; None if it is not known, or there was none.
        seconds_per_token: Wall time over generated tokens, of all searches, also those of
            incomplete problems; None if it is not known.
        calibration: Of the values; None if none was used.
    """

    policy: ModelSize | None
    value_model: ModelSize | None
    seconds_per_token: float | None
    calibration: Calibration | None

    @classmethod
    def parse(cls, document: dict[str, Any]) -> "Counted":
        """Reads the content of `metrics.json`."""
        cost = document["cost"]
        sizes = cost["policy_size"], cost["value_model_size"]
        policy, value_model = (size and ModelSize(**size) for size in sizes)
        wall_seconds, tokens = cost["wall_seconds"], cost["tokens_generated"]
        is_known = wall_seconds is not None and tokens
        calibration = document.get("calibration")
        return cls(
            policy,
            value_model,
            wall_seconds / tokens if is_known else None,
            Calibration.parse(calibration) if calibration else None,
        )

    def costs(self, cost: SearchCost) -> list[float]:
        """Returns [tokens, FLOPs of the policy, of the value model]; NaN where not known."""
        numbers = (
            cost.tokens_generated,
            forward_flops(self.policy, cost.tokens_generated, cost.contexts_generated),
            forward_flops(self.value_model, cost.tokens_scored, cost.contexts_scored),
        )
        return [float("nan") if number is None else number for number in numbers]


@dataclass(frozen=True)
class RunTrees:
    """The trees of a run that has ended.

    A problem that stopped early has trees without responses, which cost nothing, in place of those
    that it did without: its vote and costs at every number of trees are those of what it has.

    Attributes:
        name: The run, as the user named it.
        path: Its file of records.
        config: Its configuration.
        graded: The complete problems by id, with the values of their responses.
        votes: Their votes, in this order.
        features: Keys of `FEATURES` that every response has.
        tokens: [problems, trees], generated tokens.
        policy_flops: [problems, trees]; NaN where they are not known.
        value_flops: [problems, trees], of the value model; NaN where they are not known.
        seconds_per_token: See `Counted`.
    """

    name: str
    path: Path
    config: RunConfig
    graded: dict[str, GradedProblem]
    votes: list[TreeVotes]
    features: set[str]
    tokens: np.ndarray
    policy_flops: np.ndarray
    value_flops: np.ndarray
    seconds_per_token: float | None

    @classmethod
    def load(cls, run: Path, rules: AnswerRules = STRICT) -> "RunTrees":
        """Reads a run: its answers, the values and costs of its records, the sizes of its models.

        Args:
            run: Folder of the run, or its file of records.
            rules: Rules by which its answers were counted.

        Raises:
            InputError: If there is no such run, it has not been counted by these rules, or only
                some of its problems have a reference.
        """
        path, config = RunConfig.find(run)
        again = f"`python -m search_lib.results.summary {run} --answers {rules.name}` counts it"
        graded = read_answers(path.with_name(answers_name(rules)), rules)
        counted = read_document(path.with_name(metrics_name(rules)), Counted.parse)
        if not graded or counted is None:
            raise InputError(
                f"{run}: there are no {rules.name} answers of complete problems; {again}"
            )
        num_trees = config.flags["num_repetitions"]
        places = {problem_id: place for place, problem_id in enumerate(graded)}
        num_searches = sum(len(problem.classes) for problem in graded.values())
        costs = np.full((len(graded), num_trees, 3), np.nan)
        for place, problem in enumerate(graded.values()):
            without = num_trees - len(problem.classes)
            costs[place, num_trees - without :] = 0.0
            for of_trees in (problem.answers, problem.classes, problem.correct):
                of_trees.extend([] for _ in range(without))
            problem.values = [[] for _ in range(num_trees)]
            problem.confidences = [[] for _ in range(num_trees)]
        num_found = 0
        for record in read_records(path):
            if record.problem_id not in graded:
                continue
            problem, tree = graded[record.problem_id], record.repetition
            if [len(record.responses)] != [len(of) for of in problem.classes[tree : tree + 1]]:
                raise InputError(f"{run}: the answers are not those of {record.name}; {again}")
            num_found += 1
            problem.values[tree] = [r.value for r in record.responses if r.value is not None]
            problem.confidences[tree] = [r.confidence for r in record.responses if r.confidence]
            costs[places[record.problem_id], tree] = counted.costs(record.cost)
        unknown = sum(problem.reference is None for problem in graded.values())
        if 0 < unknown < len(graded):
            raise InputError(f"{run}: {unknown} of {len(graded)} problems have no reference answer")
        if num_found < num_searches:
            raise InputError(f"{run}: there are answers of searches without a record; {again}")
        if counted.calibration is not None:
            for problem in graded.values():
                problem.calibrate(counted.calibration)
        return cls(
            name=str(run),
            path=path,
            config=config,
            graded=graded,
            votes=[TreeVotes(problem) for problem in graded.values()],
            features=common_features(graded.values()),
            tokens=costs[:, :, 0],
            policy_flops=costs[:, :, 1],
            value_flops=costs[:, :, 2],
            seconds_per_token=counted.seconds_per_token,
        )

    @property
    def problem_set(self) -> ProblemSet:
        """The problems, for comparison with those of another run."""
        return ProblemSet(self.name, list(self.graded), self.config.fingerprints.get("benchmark"))

    @property
    def has_references(self) -> bool:
        """Whether the right answers are known: those of all problems, or of none."""
        return all(problem.reference is not None for problem in self.graded.values())

    @property
    def has_values(self) -> bool:
        """Whether every response has a value."""
        return "values" in self.features

    @property
    def methods(self) -> list[str]:
        """The aggregations that there are, without a number behind their names."""
        return [name for name, vote in VOTES.items() if not vote.lacks(self.features)]

    def costs(self, method: str) -> dict[str, np.ndarray]:
        """Returns [problems, trees], what each tree cost, by name in `COSTS`; those that are known.

        A majority vote over a search that no value guides is not charged with the value model, also
        where the run had one. Seconds are shares of the run's wall time by generated tokens.
        """
        num_blocks = float(self.config.flags["num_blocks"])
        costs = {"budget": np.where(self.tokens > 0, num_blocks, 0.0)}
        is_guided = traits_of(self.config.flags).needs_values
        needs_values = is_guided or {"values", "calibrated"}.intersection(find_vote(method).needs)
        flops = self.policy_flops + self.value_flops if needs_values else self.policy_flops
        if not np.isnan(flops).any():
            costs["flops"] = flops
        costs["tokens"] = self.tokens
        if self.seconds_per_token is not None:
            costs["seconds"] = self.tokens * self.seconds_per_token
        return costs
