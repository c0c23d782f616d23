"""A run as the page shows it: its trees and votes, problem by problem."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from run_lib.commands import InputError
from search_lib.answer_rules import STRICT, AnswerRules
from search_lib.results.curves import budget_curve
from search_lib.results.graded import GradedProblem
from search_lib.results.page.block_texts import BlockTokens, ValuesOf, block_reader
from search_lib.results.page.calibration import ValueSamples, summarize
from search_lib.results.page.packing import cut
from search_lib.results.page.trees import SearchTree, layout, path_to, right_path_pruned
from search_lib.results.records import Record, read_records
from search_lib.results.run_trees import RunTrees
from search_lib.results.selection import Selection
from search_lib.strategies import traits_of
from search_lib.voting import winning_classes

CHARACTERS_A_TOKEN = 3
"""About."""

CURVES = ("MV", "WMV", "BoN", "pass@k")
"""Aggregations with a plot."""

FLAGS = (
    *("benchmark", "search_type", "num_blocks", "num_repetitions", "block_size", "max_length"),
    *("value_temperature", "lookahead", "min_block_size", "keep_percent"),
    *("temperature", "top_p", "seed", "piref_model", "classifier_ckpt_path", "scorer", "engine"),
    *("stop", "stop_confidence", "confidence"),
)
"""Flags that the page shows of a run."""


@dataclass
class SearchPage:
    """One search.

    Attributes:
        record: Its record.
        tree: Its blocks; None if the record has none.
        blocks: The tokens of each block; None if they were not saved.
        pruned: Block at which a right path was pruned; see `right_path_pruned`.
    """

    record: Record
    tree: SearchTree | None
    blocks: list[BlockTokens] | None
    pruned: int | None

    @property
    def lengths(self) -> list[int]:
        """About how many characters there are of each block, or of each response without those."""
        if self.blocks is not None:
            return [CHARACTERS_A_TOKEN * len(block.token_ids) for block in self.blocks]
        return [len(response.text) for response in self.record.responses]

    def texts(self, longest: int | None) -> dict[str, Any]:
        """Returns its texts, as JSON types.

        Args:
            longest: Most characters of each; long ones lose their middle. None for all.
        """
        if self.blocks is None:
            texts = (response.text for response in self.record.responses)
            return {"responses": [_response(text, longest) for text in texts]}
        longest_block = longest and longest // CHARACTERS_A_TOKEN
        return {"blocks": [_block(block, longest_block) for block in self.blocks]}


@dataclass
class RunPage:
    """One run.

    Attributes:
        selection: How the user named it.
        run: Its votes and costs.
        rules: How its answers were counted.
        searches: Of each of these, its searches by repetition.
        samples: Values along the paths of responses.
        blocks_lack: Why there are no tokens of blocks; None if there may be some.
    """

    selection: Selection
    run: RunTrees
    rules: AnswerRules
    searches: dict[str, list[SearchPage]]
    samples: ValueSamples = field(default_factory=ValueSamples.empty)
    blocks_lack: str | None = None

    @classmethod
    def load(
        cls,
        selection: Selection,
        rules: AnswerRules = STRICT,
        values_of: ValuesOf | None = None,
    ) -> "RunPage":
        """Reads a run that has ended.

        Args:
            selection: How the user named it.
            rules: Rules by which its answers were counted.
            values_of: Gives the values of tokens where none were saved.

        Raises:
            InputError: If it can't be read, or has not been counted by these rules.
        """
        run = RunTrees.load(selection.path, rules)
        page = cls(selection, run, rules, {name: [] for name in run.graded})
        page._read(values_of)
        return page

    @property
    def graded(self) -> dict[str, GradedProblem]:
        """The complete problems by id."""
        return self.run.graded

    def _read(self, values_of: ValuesOf | None) -> None:
        path, max_length = self.run.path, self.run.config.flags.get("max_length")
        reader = block_reader(path, self.run.config, values_of)
        self.blocks_lack = reader.lack
        paths_compete = traits_of(self.run.config.flags).paths_compete
        for record in read_records(path):
            if record.problem_id not in self.graded:
                continue
            check_tree(record, path)
            correct = self.graded[record.problem_id].correct[record.repetition]
            blocks = reader.read(record)
            tree, pruned = None, None
            if record.tree:
                tree = SearchTree.of(record, correct, max_length)
                keys = [block.key for block in blocks] if blocks else None
                pruned = right_path_pruned(tree, keys, paths_compete)
            search = SearchPage(record, tree, blocks, pruned)
            self.searches[record.problem_id].append(search)
            self._add_values(record, correct)
        for searches in self.searches.values():
            searches.sort(key=lambda search: search.record.repetition)

    def _add_values(self, record: Record, correct: Sequence[bool]) -> None:
        for response, is_right in zip(record.responses, correct, strict=True):
            if record.tree:
                nodes = [record.tree[index] for index in path_to(record.tree, response.node)]
                values = [*(node.value for node in nodes[:-1]), response.value]
                lengths = [node.num_tokens for node in nodes]
            else:
                values, lengths = [response.value], [response.num_tokens]
            self.samples.add_path(values, lengths, is_right)

    @property
    def method(self) -> str:
        """The vote that says whether the run solves a problem."""
        return "WMV" if self.run.has_values else "MV"

    @property
    def every_search(self) -> list[SearchPage]:
        """All searches."""
        return [search for of_problem in self.searches.values() for search in of_problem]

    def lacks(self) -> list[str]:
        """Says what the page can't show of the run, a sentence each."""
        searches = self.every_search
        lines = []
        if not self.run.has_references:
            lines.append("Nobody knows the right answers: nothing is right or wrong here.")
        if any(search.tree is None for search in searches):
            lines.append("Its records have no trees.")
        if any(search.blocks is None for search in searches):
            lack = self.blocks_lack or "The blocks of some searches are not there"
            lines.append(f"{lack}: the page has whole responses instead, and no dropped blocks.")
        elif all(block.values is None for search in searches for block in search.blocks or ()):
            lines.append("The values of single tokens were not saved.")
        if not self.run.has_values:
            lines.append("Its responses have no values: no WMV, no BoN.")
        costs = self.run.costs(self.method)
        if "flops" not in costs:
            lines.append("Its FLOPs are not known.")
        if "seconds" not in costs:
            lines.append("Its time is not known.")
        return lines

    def pruning(self) -> dict[str, int] | None:
        """Counts the trees in which a right path was pruned, and those in which it could be.

        None if nobody knows which are right.
        """
        if not self.run.has_references:
            return None
        trees = [search for search in self.every_search if search.tree is not None]
        return {
            "trees": len(trees),
            "dropping": sum(bool(search.tree.dropped) for search in trees if search.tree),
            "mixed": sum(
                bool(search.tree.right and search.tree.wrong) for search in trees if search.tree
            ),
            "pruned": sum(search.pruned is not None for search in trees),
        }

    def overview(self) -> dict[str, Any]:
        """Returns the run's part of the overview, as JSON types."""
        flags = self.run.config.flags
        return {
            "label": self.selection.label,
            "flags": {name: flags[name] for name in FLAGS if flags.get(name) is not None},
            "trees": int(self.run.tokens.shape[1]),
            "mean_trees": self._mean_trees(),
            "method": self.method,
            "lacks": self.lacks(),
            "costs": {
                name: float(of.sum(1).mean()) for name, of in self.run.costs(self.method).items()
            },
            "curves": {method: self._curve(method) for method in self._curve_methods},
            "pruning": self.pruning(),
            "values": summarize(self.samples) if self.run.has_references else None,
        }

    @property
    def _curve_methods(self) -> list[str]:
        """The aggregations that have accuracies; none without references."""
        known = CURVES if self.run.has_references else ()
        return [method for method in known if method in self.run.methods]

    def _mean_trees(self) -> float | None:
        """Returns the mean number of trees of a problem; None if all have all."""
        if not self.run.config.is_stopped:
            return None
        return round(len(self.every_search) / max(1, len(self.searches)), 1)

    def _curve(self, method: str) -> list[dict[str, Any]]:
        points = []
        for point in budget_curve(self.selection, self.run, method).points:
            estimate = point.estimate
            points.append(
                {
                    "trees": int(point.trees),
                    "mean": round(estimate.mean, 5),
                    "half": estimate.over_problems and round(estimate.over_problems, 5),
                    "costs": point.costs,
                }
            )
        return points

    def row(self, problem_id: str) -> dict[str, Any]:
        """Returns the run's cells in the table of problems, as JSON types."""
        problem, searches = self.graded[problem_id], self.searches[problem_id]
        correct = [is_right for tree in problem.correct for is_right in tree]
        votes = {
            method: round(problem.score(method, len(searches))[0], 4)
            for method in self._curve_methods
        }
        return {
            "votes": votes,
            "answer": self._winning_answer(problem),
            "right": None if problem.reference is None else sum(correct),
            "responses": len(correct),
            "trees": len(searches),
            "pruned": sum(search.pruned is not None for search in searches),
        }

    def _winning_answer(self, problem: GradedProblem) -> str | None:
        """Returns the answer that wins the vote, of a tie the most frequent; None if none does."""
        winning = winning_classes(self.method, problem.ballots(slice(None)), self.rules)
        members = {own: of for own, of in problem.members().items() if own in winning}
        return problem.spelling(max(members.values(), key=len)) if members else None

    def problem(self, problem_id: str) -> dict[str, Any]:
        """Returns the trees of one problem and the classes that win their vote, as JSON types."""
        problem = self.graded[problem_id]
        trees = []
        for search in self.searches[problem_id]:
            repetition = search.record.repetition
            answers = zip(
                search.record.responses,
                problem.answers[repetition],
                problem.classes[repetition],
                problem.correct[repetition],
                strict=True,
            )
            trees.append(
                {
                    "seed": str(search.record.seed),  # of 64 bits, which JavaScript would round
                    "pruned": search.pruned,
                    "responses": [
                        {
                            "node": response.node,
                            "answer": answer,
                            "class": answer_class,
                            "right": None if problem.reference is None else is_right,
                            "value": response.value and round(response.value, 4),
                            "finished": response.finished,
                            "tokens": response.num_tokens,
                        }
                        for response, answer, answer_class, is_right in answers
                    ],
                    **_tree(search.tree),
                }
            )
        question = self.searches[problem_id][0].record.problem
        ballots = problem.ballots(slice(None))
        winning = {
            method: winning_classes(method, ballots, self.rules)
            for method in ("MV", "WMV", "BoN")
            if method in self.run.methods
        }
        return {"question": question, "trees": trees, "winners": winning}


def check_tree(record: Record, path: Path) -> None:
    """Raises InputError unless blocks stand behind their parents, and responses end with one."""
    count = len(record.tree)
    for index, node in enumerate(record.tree):
        if node.parent is not None and not 0 <= node.parent < index:
            raise InputError(f"{path}: {record.name}: block {index} continues {node.parent}")
    for response in record.responses if record.tree else ():
        if not 0 <= response.node < count:
            raise InputError(f"{path}: {record.name}: there is no block {response.node}")


def _tree(tree: SearchTree | None) -> dict[str, Any]:
    """Returns the blocks of a search, a list a property."""
    if tree is None:
        return {"parent": []}
    return {
        "parent": [node.parent for node in tree.nodes],
        "tokens": [node.num_tokens for node in tree.nodes],
        "value": [
            node.value if node.value is None else round(node.value, 4) for node in tree.nodes
        ],
        "state": tree.states,
        "round": tree.rounds,
        "row": layout(tree),
        "right": sorted(tree.right),
    }


def _response(text: str, longest: int | None) -> dict[str, Any]:
    """Returns the text of a response, cut into what stands before and after what is left out."""
    start, end = cut(len(text), longest)
    return {"parts": [{"text": text[:start]}, {"text": text[end:]}], "left_out": end - start}


def _block(block: BlockTokens, longest: int | None) -> dict[str, Any]:
    """Returns the text of a block in the same way; by token with their values, if they are known.

    What is left out is counted in tokens.
    """
    start, end = cut(len(block.token_ids), longest)
    parts: list[dict[str, Any]] = []
    for place in (slice(None, start), slice(end, None)):
        token_ids = block.token_ids[place]
        if block.values is None:
            parts.append({"text": block.texts.text(token_ids)})
        else:
            values = np.rint(255 * np.asarray(block.values[place])).astype(int).tolist()
            parts.append({"pieces": block.texts.pieces(token_ids), "values": values})
    return {"parts": parts, "left_out": end - start}


def load_runs(
    selections: Sequence[Selection], rules: AnswerRules, values_of: ValuesOf | None = None
) -> list[RunPage]:
    """Reads the runs of a page; see `RunPage.load`.

    Raises:
        InputError: If a run can't be read.
        ValueError: If one is named with a method; begins with its label.
    """
    pages = []
    for selection in selections:
        if selection.method is not None:
            raise ValueError(f"{selection.label}: a report shows all methods; name the folder only")
        pages.append(RunPage.load(selection, rules, values_of))
    if not pages:
        raise InputError("RUNS: there are none")
    return pages
