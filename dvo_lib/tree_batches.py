"""Micro batches of whole trees, and the plan by which global batches of trees are cut up."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from classifier_lib.batches import MicroBatchPlan, PackingName
from classifier_lib.layouts import Branch
from dvo_lib.batches import Path, PathBatch, collate_paths
from dvo_lib.data import TreePaths


@dataclass(frozen=True)
class TreeBatch(PathBatch):
    """The paths of whole trees, with their targets; none of them is cut.

    Attributes:
        paths_per_tree: LongTensor [trees], paths of each tree; they come tree by tree.
    """

    paths_per_tree: torch.Tensor

    @property
    def num_truncated(self) -> int:
        """Paths that were cut: none ever is."""
        return 0

    @property
    def num_without_loss(self) -> int:
        """Paths without a trained token: there are none."""
        return 0


def collate_trees(
    trees: Sequence[Sequence[Path]],
    packing: PackingName = "padded",
    multiple: int | None = None,
) -> TreeBatch:
    """Lays out the paths of trees as one micro batch; see `collate_paths`."""
    batch = collate_paths(list(chain.from_iterable(trees)), packing, multiple)
    return TreeBatch(**vars(batch), paths_per_tree=torch.tensor([len(tree) for tree in trees]))


@dataclass(frozen=True)
class TreePlan(MicroBatchPlan[TreePaths, TreeBatch]):
    """The plan for trees, which are never split.

    Attributes:
        packing: Layout of the micro batches.
        micro_batch_size: Trees in a padded micro batch.
        tokens_per_micro_batch: See `token_limit`.
        multiple: See `collate_trees`.
    """

    packing: PackingName
    micro_batch_size: int
    tokens_per_micro_batch: int
    multiple: int | None = None

    @property
    def token_limit(self) -> int:
        """Most tokens in a packed micro batch; a tree that is larger goes alone."""
        return self.tokens_per_micro_batch

    def length(self, data: TreePaths, index: int) -> int:
        """Returns the tokens of all paths of a tree."""
        return data.length(index)

    def branches(self, data: TreePaths, indices: Sequence[int]) -> list[Branch]:
        """Returns the paths of trees."""
        return [path.branch for index in indices for path in data[index]]

    def load(self, data: TreePaths, indices: Sequence[int]) -> TreeBatch:
        """Returns the micro batch of these trees."""
        return collate_trees([data[i] for i in indices], self.packing, self.multiple)
