"""The blocks of a running search, in little memory."""

import tracemalloc

import numpy as np

from search_lib.engines.base import Block
from search_lib.kept_blocks import KeptBlocks


def test_blocks_come_back_in_the_order_of_the_tree():
    kept = KeptBlocks()
    values = [np.array([0.5], np.float32), np.array([0.25, 1.0], np.float32)]
    kept.add(4, [Block([7], "length"), Block([8, 9], "stop")], values)
    kept.add(2, [Block([5], "length")], None)
    blocks = kept.of([(2, 0), (4, 1), (4, 0)])
    assert [block.token_ids.tolist() for block in blocks] == [[5], [8, 9], [7]]
    found = [None if b.token_values is None else b.token_values.tolist() for b in blocks]
    assert found == [None, [0.25, 1.0], [0.5]]


def test_a_token_takes_four_bytes_and_four_with_its_value():
    kept = KeptBlocks()
    tracemalloc.start()
    for path_id in range(100):
        block = Block([1000 + i for i in range(1000)], "length")
        kept.add(path_id, [block], [np.zeros(1000, np.float32)])
    del block
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 9 * 100 * 1000
