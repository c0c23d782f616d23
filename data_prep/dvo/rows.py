"""Rows of paths as the stages behind `data_prep.dvo paths` read them."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from run_lib.commands import InputError
from search_lib.prompts import prompt_holds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
"""A path, see `dvo_lib.columns.PATH_SCHEMA`."""


class TreeSplit(NamedTuple):
    """One split of the trees: a `data_prep.stages.StageInput`."""

    num_rows: int
    digest: str


def by_tree(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yields the paths of each tree: they are consecutive, and numbered from 0."""
    tree: list[Row] = []
    for row in rows:
        if row["path"] == 0 and tree:
            yield tree
            tree = []
        tree.append(row)
    if tree:
        yield tree


def name_of(row: Row) -> str:
    """Returns how a message names a path."""
    return f"path {row['path']} of problem {row['problem_id']}"


def check_prompts(rows: Iterable[Row], tokenizer: "PreTrainedTokenizerBase", policy: str) -> None:
    """Checks that the tokenizer of a policy reads the problem in the prompt of each tree.

    Args:
        rows: Paths.
        tokenizer: The policy's.
        policy: Flag and value, for the error.

    Raises:
        InputError: If not: the ids are another policy's.
    """
    for row in rows:
        if row["path"] == 0 and not prompt_holds(tokenizer, row["prompt_ids"], row["problem"]):
            raise InputError(
                f"{policy}: its tokenizer reads another prompt than the one of problem "
                f"{row['problem_id']}: the trees are of another policy"
            )
