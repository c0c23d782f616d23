"""DeepConf online: samples that are abandoned when the policy becomes less sure than a bar.

Rule: n warm-up samples are generated to their ends. The lowest window of each has a confidence, and
the percentile of these above which `keep_percent` of them lie is the bar. The other N - n samples
are abandoned at the end of the first block by which a window lies below it. Warm-up samples below
it are dropped, too: who is left has the surest windows.
Budget: N samples in all, the warm-up's among them. Abandoned ones cost their tokens, and give no
response, so they do not vote; DeepConf weighs the others by their lowest window, the vote
`DeepConf-lowest`.
Source: Fu et al. (2025), arXiv 2508.15260, online mode; it looks after every token, and this at the
ends of blocks. Its further stop, when the vote is sure enough, is not part of this search.
"""

from collections.abc import Collection

import numpy as np

from run_lib.commands import InputError
from search_lib.confidence import is_below, window_means
from search_lib.engines.base import Block
from search_lib.strategies.base import Answers, Guess, Limits, SearchSpec, StrategyFactory
from search_lib.strategies.reject import Rejection
from search_lib.strategies.rounds import Candidate, Path

KEEP_PERCENT = 90
"""Share of the warm-up that passes the bar by default: "DeepConf-high". 10 is "DeepConf-low"."""


class DeepConf(Rejection):
    """Warm-up samples in the first round, the others block by block in the later ones.

    Args:
        prompt_ids: Token ids of the prompt.
        limits: Lengths and stop tokens.
        seed: Seed of this search.
        num_samples: Samples in all.
        warm_up: Samples that set the bar.
        window: Tokens of a window.
        keep_percent: Share of the warm-up that passes the bar.

    Attributes:
        bar: Least confidence of a window that is not abandoned; None during the warm-up.
    """

    needs_values = False

    def __init__(
        self,
        prompt_ids: list[int],
        limits: Limits,
        seed: int,
        num_samples: int,
        warm_up: int,
        window: int,
        keep_percent: int = KEEP_PERCENT,
    ):
        super().__init__(prompt_ids, limits, seed, num_samples)
        self.bar: float | None = None
        self._window = window
        self._keep_percent = keep_percent
        self._later = {slot: path for slot, path in self.paths.items() if slot >= warm_up}
        self.paths = {slot: path for slot, path in self.paths.items() if slot < warm_up}
        self.block_size = limits.max_length
        self._confidences: dict[int, list[float]] = {slot: [] for slot in range(num_samples)}
        self._sure: dict[int, bool] = {}  # by seed: whether a guessed path is not below the bar

    def end_round(self, candidates: list[Candidate]) -> None:
        """Drops the paths below the bar; after the warm-up, which sets it, the others begin."""
        if self.bar is None:
            lowest = [self._lowest(self._confidences_of(one), one.path) for one in candidates]
            sure = [confidence for confidence in lowest if confidence is not None]
            self.bar = float(np.percentile(sure, 100 - self._keep_percent))
        super().end_round(candidates)
        self._confidences |= {one.slot: self._confidences_of(one) for one in candidates}
        self.paths |= self._later
        self._later = {}

    def next_block_size(self, candidates: list[Candidate]) -> int:
        """Returns that of all rounds but the warm-up."""
        return self.limits.block_size

    def dropped(self, candidates: list[Candidate]) -> Collection[int]:
        """Returns those of which a window is less sure than the bar."""
        return [
            one.slot for one in candidates if self._is_below(self._confidences_of(one), one.path)
        ]

    def guess(self, answered: Answers) -> list[Guess]:
        """Returns the blocks of the later samples, each by itself: no path competes with another.

        Before there is a bar, a sample is as likely to be above it as the warm-up's will be.
        """
        if self.bar is None:
            no_blocks: list[Block] = []
            starts = [(slot, path, no_blocks) for slot, path in self._later.items()]
        else:
            told = [one for of_slot in self.told.values() for one in of_slot]
            starts = [(one.slot, one.path, [one.block]) for one in told]
        guesses = []
        for slot, path, blocks in starts:
            probability = 1.0
            while path.open and self._is_sure(slot, path, blocks):
                expansion = self.extension(path, slot, self.limits.block_size)
                guesses.append(Guess(expansion, probability))
                if path.seed not in answered:
                    break
                (one,) = self.continued(slot, path, answered[path.seed], 0)
                path, blocks = one.path, [*blocks, one.block]
                probability = 1.0 if self.bar is not None else self._keep_percent / 100
        return guesses

    def _is_sure(self, slot: int, path: Path, blocks: list[Block]) -> bool:
        """Returns whether a path with these new blocks is not below the bar, if there is one."""
        if self.bar is not None and path.seed not in self._sure:
            new = [confidence for block in blocks for confidence in block.confidences or []]
            self._sure[path.seed] = not self._is_below(self._confidences[slot] + new, path)
        return self.bar is None or self._sure[path.seed]

    def _confidences_of(self, candidate: Candidate) -> list[float]:
        """Returns the confidence of each token of a path."""
        if candidate.block.confidences is None:
            raise ValueError(f"slot {candidate.slot} got a block without confidences")
        return self._confidences[candidate.slot] + candidate.block.confidences

    def _lowest(self, confidences: list[float], path: Path) -> float | None:
        """Returns the confidence of the lowest window of a path; None before the first is whole.

        A response that has ended before is a window by itself.
        """
        if len(confidences) < self._window and path.open:
            return None
        return float(window_means(confidences, self._window).min())

    def _is_below(self, confidences: list[float], path: Path) -> bool:
        """Returns whether a window of a path is less sure than the bar."""
        lowest = self._lowest(confidences, path)
        return lowest is not None and self.bar is not None and is_below(lowest, self.bar)


def abandoned_below_a_bar(spec: SearchSpec) -> StrategyFactory:
    """`deepconf<n>`: N samples; n set a bar, others are abandoned when less sure (--confidence)."""
    spec.check("keep_percent", takes_number=True, needs_values=False)
    warm_up = spec.require_number("the number of warm-up samples", "deepconf4, deepconf16")
    window = spec.confidence_window
    if window is None:
        raise InputError(
            f"--search_type {spec.search_type} abandons samples by their confidence: it needs "
            "--confidence with the tokens of a window"
        )
    if not 0 < warm_up < spec.num_blocks:
        raise InputError(
            f"--search_type {spec.search_type} warms up with {warm_up} of --num_blocks "
            f"{spec.num_blocks} samples: at least 1, and fewer than all"
        )
    keep_percent = spec.settings.keep_percent or KEEP_PERCENT
    return lambda prompt_ids, seed: DeepConf(
        prompt_ids, spec.limits, seed, spec.num_blocks, warm_up, window, keep_percent
    )
