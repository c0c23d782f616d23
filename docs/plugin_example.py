"""A strategy, a scorer and a vote of one's own: `--plugin docs/plugin_example.py`."""

from classifier_lib.scoring import Scores
from search_lib.answer_rules import AnswerRules
from search_lib.scorers.texts import TextRequest
from search_lib.strategies.base import SearchSpec, StrategyFactory
from search_lib.strategies.beam import BeamSearch
from search_lib.strategies.rounds import Candidate, Path
from search_lib.voting import Ballots, Vote, credit, winners


class ExploringBeams(BeamSearch):
    """Beams of which one is drawn at random each round, so that no value decides alone."""

    def select(self, candidates: list[Candidate]) -> dict[int, Path]:
        """Returns the path of each open slot: the best candidates, and one of the others."""
        selected = self.best_in_open_slots(candidates)
        others = [one.path for one in candidates if one.path not in selected.values()]
        if others:
            selected[self.open_slots[-1]] = others[self.draws().integers(len(others))]
        return selected


def exploring(spec: SearchSpec) -> StrategyFactory:
    """`exploring<w>`: beam<w>, with one beam at random."""
    spec.check(takes_number=True)
    width = spec.require_width()
    return lambda prompt_ids, seed: ExploringBeams(
        prompt_ids, spec.limits, seed, spec.num_blocks, width
    )


class Brevity:
    """Scores texts: the shorter, the higher."""

    async def score_texts(self, request: TextRequest) -> Scores:
        """Returns the value of each response, in [0, 1]."""
        return Scores([1 / (1 + len(text) / 100) for text in request.responses], None)

    async def close(self) -> None:
        """Frees nothing: there is no model."""


def open_brevity(flags: object, model: str, place: object) -> Brevity:
    """Opens a scorer without a model: the shorter, the higher."""
    return Brevity()


def trimmed_vote(ballots: Ballots, rules: AnswerRules) -> float:
    """Returns the accuracy of WMV over the better half of the responses."""
    bar = sorted(ballots.values)[len(ballots.values) // 2]
    weights = [value if value >= bar else 0.0 for value in ballots.values]
    return credit(winners(ballots.classes, weights, rules), ballots)


STRATEGIES = {"exploring": exploring}
SCORERS = {"brevity": open_brevity}
VOTES = {"Trimmed": Vote("the largest summed value in the better half", trimmed_vote, ("values",))}
