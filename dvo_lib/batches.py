"""Micro batches of paths: the steps of a policy's responses, with the credit of each.

They are laid out as the value model's are (`classifier_lib.batches`): padded, packed, or the paths
of one tree with their shared steps once. A shared step is trained once for each path that has it,
and goes through the model, its head included, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch

from classifier_lib.batches import PackingName, PlacedTokens, place_tokens
from classifier_lib.layouts import Branch
from dvo_lib.losses import StepTargets


class Path(NamedTuple):
    """One response as steps.

    Attributes:
        prompt: [P] token ids of the prompt.
        steps: Token ids of each step, the delimiter or end token included; none of them empty.
        credits: Credit of each step.
        reference: Log-probability of each step under the reference policy.
        correct: Whether the response has the right answer.
    """

    prompt: np.ndarray
    steps: Sequence[np.ndarray]
    credits: Sequence[float]
    reference: Sequence[float]
    correct: bool

    @property
    def branch(self) -> Branch:
        """The path for a layout: no other path of its tree has its last step."""
        return Branch(np.concatenate([self.prompt, *self.steps[:-1]]), self.steps[-1])


@dataclass(frozen=True)
class PathBatch(PlacedTokens):
    """S paths with their targets.

    Attributes:
        predictors: LongTensor [U], for each distinct trained token the place, among the R * T
            tokens, of the token before it, whose state predicts it.
        trained_ids: LongTensor [U], these tokens.
        occurrences: LongTensor [N], the trained tokens path by path, as numbers below U.
        targets: Targets of the steps.
    """

    predictors: torch.Tensor
    trained_ids: torch.Tensor
    occurrences: torch.Tensor
    targets: StepTargets

    def model_inputs(self, implementation: str, device: torch.device) -> dict[str, Any]:
        """Returns the keyword arguments of `TokenLogprobs`; see `PlacedTokens`."""
        return super().model_inputs(implementation, device) | {
            "predictors": self.predictors.to(device, non_blocking=True),
            "token_ids": self.trained_ids.to(device, non_blocking=True),
            "occurrences": self.occurrences.to(device, non_blocking=True),
        }


def collate_paths(
    paths: Sequence[Path], packing: PackingName = "padded", multiple: int | None = None
) -> PathBatch:
    """Lays out paths as one micro batch, on the CPU.

    Args:
        paths: S paths.
        packing: See `classifier_lib.batches`.
        multiple: See `place_tokens`.
    """
    tokens = place_tokens([path.branch for path in paths], packing, multiple)
    flat_ids = tokens.input_ids.flatten()
    predictors, trained = [], []
    for index, path in enumerate(paths):
        sequence = tokens.sequence(index)
        predictors.append(sequence[len(path.prompt) - 1 : -1])
        trained.append(sequence[len(path.prompt) :])
    # A place has one token before it, whichever of its paths asks.
    places, first, occurrences = np.unique(
        np.concatenate(trained), return_index=True, return_inverse=True
    )
    steps = list(chain.from_iterable(path.steps for path in paths))
    counts = tokens.counts._replace(loss=len(occurrences))
    return PathBatch(
        **vars(tokens) | {"counts": counts},
        predictors=torch.from_numpy(np.concatenate(predictors)[first]),
        trained_ids=flat_ids[torch.from_numpy(places)],
        occurrences=torch.from_numpy(occurrences),
        targets=StepTargets(
            tokens_per_step=torch.tensor([len(step) for step in steps]),
            steps_per_path=torch.tensor([len(path.steps) for path in paths]),
            credits=torch.tensor(list(chain.from_iterable(path.credits for path in paths))),
            reference=torch.tensor(list(chain.from_iterable(path.reference for path in paths))),
            correct=torch.tensor([path.correct for path in paths]),
        ),
    )
