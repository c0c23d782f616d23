import numpy as np
import pytest

from classifier_lib.layouts import MIN_SHARED, Branch, RowLayout, count_laid_out, lay_out


def random_branches(rng: np.random.Generator) -> list[Branch]:
    """Samples of a small vocabulary, so that prefixes are shared in every way there is."""
    roll_in = rng.integers(0, 3, rng.integers(4, 12))
    branches = []
    for _ in range(rng.integers(1, 7)):
        shared = roll_in[: rng.integers(1, len(roll_in) + 1)]
        if rng.random() < 0.4:  # leaves the others before its roll-in ends
            shared = np.concatenate([shared, rng.integers(0, 3, rng.integers(1, 5))])
        branches.append(Branch(shared, rng.integers(0, 3, rng.integers(0, 5))))
    return branches


def shared_tokens(branches: list[Branch]) -> int:
    """Tokens of a prefix tree of the roll-ins, with every roll-out for itself."""
    nodes = {
        tuple(branch.shared[:length])
        for branch in branches
        for length in range(1, len(branch.shared) + 1)
    }
    return len(nodes) + sum(len(branch.own) for branch in branches)


@pytest.mark.parametrize("seed", range(200))
def test_every_sample_reads_its_own_sequence(seed):
    branches = random_branches(np.random.default_rng(seed))
    segments, owns = lay_out(branches, min_shared=1)
    assert [s.start for s in segments] == [0, *(s.stop for s in segments)][: len(segments)]
    layout = RowLayout(tuple(segments), segments[-1].stop)
    assert layout.length == shared_tokens(branches)
    row = np.concatenate([segment.tokens for segment in segments])
    mask = layout.dense_mask().numpy()
    assert layout.num_attended == mask.sum()
    for segment in segments:
        before = [i for start, stop in segment.path for i in range(start, stop)]
        assert len(before) == segment.position
        for i in range(segment.start, segment.stop):
            assert np.flatnonzero(mask[i]).tolist() == before + list(range(segment.start, i + 1))
    for branch, (start, stop) in zip(branches, owns, strict=True):
        sequence = np.concatenate([branch.shared, branch.own])
        if start == stop:
            assert len(branch.own) == 0
            continue
        seen = np.flatnonzero(mask[stop - 1])
        assert row[seen].tolist() == sequence.tolist()
        assert layout.position_ids[seen].tolist() == list(range(len(sequence)))
        assert row[start:stop].tolist() == branch.own.tolist()


def test_the_cuts_of_one_roll_in_share_it():
    roll_in = np.arange(10)
    branches = [Branch(roll_in[:cut], np.full(3, 20 + cut)) for cut in (4, 9, 6, 9)]
    segments, owns = lay_out(branches, min_shared=1)
    assert [segment.tokens.tolist() for segment in segments] == [
        [*range(9), 29, 29, 29],
        [29] * 3,
        [26] * 3,
        [24] * 3,
    ]
    assert owns == [(18, 21), (9, 12), (15, 18), (12, 15)]
    assert [segment.path for segment in segments] == [(), ((0, 9),), ((0, 6),), ((0, 4),)]


def test_a_few_common_first_tokens_are_not_shared():
    branches = [Branch(np.array([1, 2, *range(n, n + 20)]), np.array([5])) for n in (10, 30)]
    segments, _ = lay_out(branches)
    assert [segment.path for segment in segments] == [(), ()]
    assert [len(segment.tokens) for segment in segments] == [23, 23]
    assert len(lay_out(branches, min_shared=2)[0][1].tokens) == 21
    # Shorter roll-ins still share what is equal.
    short = [Branch(np.array([1, 2]), np.array([n])) for n in (5, 6)]
    assert [segment.path for segment in lay_out(short)[0]] == [(), ((0, 2),)]


def long_branches(rng: np.random.Generator) -> list[Branch]:
    """Samples around the length from which prefixes are shared, some of them equal."""
    roll_ins = [rng.integers(0, 2, 3 * MIN_SHARED, dtype=np.int32) for _ in range(3)]
    roll_ins[1][: MIN_SHARED + rng.integers(-2, 3)] = roll_ins[0][0]
    branches = []
    for _ in range(rng.integers(1, 9)):
        roll_in = roll_ins[rng.integers(3)]
        cuts = rng.choice([1, MIN_SHARED - 1, MIN_SHARED, MIN_SHARED + 1, len(roll_in)])
        branches.append(Branch(roll_in[:cuts], rng.integers(0, 2, rng.integers(0, 5))))
    return branches


@pytest.mark.parametrize("make", [random_branches, long_branches])
@pytest.mark.parametrize("min_shared", [1, 3, MIN_SHARED])
def test_tokens_are_counted_without_a_layout(make, min_shared):
    for seed in range(300):
        branches = make(np.random.default_rng(seed))
        segments, _ = lay_out(branches, min_shared)
        assert count_laid_out(branches, min_shared) == segments[-1].stop, seed
