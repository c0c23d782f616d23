"""Small trees of steps, grown by the search itself from an engine that draws at random."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from dvo_lib.trees import RecordedStep, TreeRecord, recorded_steps
from search_lib.engines.base import Block
from search_lib.results.cost import SearchCost
from search_lib.strategies import Limits
from search_lib.strategies.mcts import MonteCarloTreeSearch, TreeSettings

LETTERS = "abcdefgh"


def grow_tree(
    number: int, tokenizer: PreTrainedTokenizerBase, right_share: float = 0.5
) -> TreeRecord:
    """The tree of problem `number`: up to three steps, of a few letters each."""
    rng = np.random.default_rng(number)
    problem = f"What is problem {number} worth?"
    prompt_ids = tokenizer.encode(problem, add_special_tokens=False)
    limits = Limits(96, 24, (tokenizer.eos_token_id,))
    settings = TreeSettings(iterations=8, breadth=3, depth=3)
    search = MonteCarloTreeSearch(prompt_ids, limits, number, settings)
    while not search.done:
        (expansion,) = search.ask()
        is_last = len(search.path(expansion.path_id)) > 2
        blocks, values = [], []
        for _ in range(expansion.n):
            ends = is_last or rng.random() < 0.2
            text = "".join(rng.choice(list(LETTERS), rng.integers(1, 5)))
            if ends:
                text += f"\nAnswer: {rng.integers(10)}{tokenizer.eos_token}"
            ids = tokenizer.encode(text if ends else f"{text}\n\n", add_special_tokens=False)
            blocks.append(Block(ids, "stop" if ends else "step"))
            values.append(float(rng.random() < right_share) if ends else None)
        search.tell(expansion.path_id, blocks, values)
    texts = [tokenizer.decode(node.token_ids) for node in search.nodes]
    nodes = recorded_steps(search, texts)
    return tree_of(nodes, f"id-{number}", problem, prompt_ids)


def tree_of(
    nodes: list[RecordedStep], problem_id: str, problem: str, prompt_ids: list[int]
) -> TreeRecord:
    return TreeRecord(problem_id, problem, "7", 3, prompt_ids, 8, nodes, SearchCost(1, 0.1))


def write_trees(path: Path, trees: list[TreeRecord]) -> Path:
    path.write_text("".join(f"{json.dumps(asdict(tree))}\n" for tree in trees))
    return path
