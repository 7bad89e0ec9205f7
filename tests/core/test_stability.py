"""How much of a cluster comes back, against scikit-learn's Jaccard index of every pair."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from scale_toolkit.core.stability import SHARE, recovery


@given(seed=st.integers(0, 10**6), n_cells=st.integers(1, 40), k=st.integers(1, 6), other=st.integers(1, 6))
def test_the_nearest_cluster_is_the_one_with_the_largest_jaccard_index(seed, n_cells, k, other):
    rng = np.random.default_rng(seed)
    labels = np.unique(rng.integers(0, k, n_cells), return_inverse=True)[1]
    drawn, told = [], []

    def regroup(cells, _):
        drawn.append((cells, rng.integers(0, other, len(cells))))
        return drawn[-1][1]

    found = recovery(labels, regroup, 3, seed, told.append)
    assert found.shape == (3, labels.max() + 1)
    assert told == [1, 2, 3]
    for row, (cells, groups) in zip(found, drawn, strict=True):
        assert len(cells) == len(set(cells)) == max(1, round(SHARE * n_cells))
        for cluster, value in enumerate(row):
            own = labels[cells] == cluster
            if own.any():
                assert value == max(jaccard_score(own, groups == group) for group in set(groups))
            else:
                assert np.isnan(value)


def test_draws_and_seeds_are_the_seeds_own():
    def called(seed):
        given = []
        recovery(np.arange(50) % 3, lambda cells, own: given.append((cells.tolist(), own)) or cells % 3, 4, seed)
        return given

    assert called(1) == called(1) != called(2)
    assert len({own for _, own in called(1)}) == 4
