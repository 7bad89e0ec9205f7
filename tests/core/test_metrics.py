"""Agreement with known labels, against scikit-learn and brute force."""

from __future__ import annotations

from itertools import permutations

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import comb
from scipy.stats.contingency import crosstab
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score

from scale_toolkit.core import metrics
from scale_toolkit.errors import InputError

labels = st.integers(2, 40).flatmap(
    lambda n: st.tuples(*(hnp.arrays(np.int64, n, elements=st.integers(0, most)) for most in (4, 6)))
)


def ari_by_pairs(one, other):
    """The adjusted Rand index from counts of pairs, straight from Hubert & Arabie."""
    table = pd.crosstab(pd.Series(one), pd.Series(other)).to_numpy()
    pairs, rows, columns = comb(table, 2).sum(), comb(table.sum(1), 2).sum(), comb(table.sum(0), 2).sum()
    expected = rows * columns / comb(len(one), 2)
    most = (rows + columns) / 2
    return 1.0 if most == expected else (pairs - expected) / (most - expected)


@given(labels)
@settings(deadline=None, max_examples=60)
def test_figures_equal_their_oracles(pair):
    reference, clusters = pair
    found = metrics.agreement(reference, clusters)
    assert found.ari == pytest.approx(ari_by_pairs(reference, clusters), abs=1e-12)
    assert found.ari == pytest.approx(adjusted_rand_score(reference, clusters), abs=1e-12)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(reference, clusters, average_method="arithmetic"), abs=1e-9)
    table, classes, names = metrics.confusion(reference, clusters)
    np.testing.assert_array_equal(table, crosstab(reference, clusters).count)

    matched = metrics.match_clusters(table)
    as_class = np.full(7, 99)
    as_class[names[matched >= 0]] = classes[matched[matched >= 0]]
    oracle = f1_score(reference, as_class[clusters], labels=classes, average="macro", zero_division=0)
    assert found.f1 == pytest.approx(oracle, abs=1e-12)


@given(hnp.arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 9)))
@settings(deadline=None, max_examples=60)
def test_no_one_to_one_matching_agrees_on_more_cells(table):
    matched = metrics.match_clusters(table)
    taken = matched[matched >= 0]
    assert len(taken) == min(table.shape) == len(set(taken))
    agreed = sum(table[row, column] for column, row in enumerate(matched) if row >= 0)
    wide = table if table.shape[0] <= table.shape[1] else table.T
    assert agreed == max(
        sum(wide[row, column] for row, column in enumerate(order)) for order in permutations(range(wide.shape[1]), len(wide))
    )


def test_clusters_stand_in_the_order_of_their_classes_and_leftovers_last():
    reference = ["a"] * 5 + ["b"] * 4 + ["c"] * 3
    clusters = [2] * 3 + [0] * 2 + [3] * 4 + [1] * 3
    found = metrics.agreement(reference, clusters, n_unlabelled=7)
    assert (found.classes, found.clusters, found.matched) == (("a", "b", "c"), ("2", "3", "1", "0"), ("a", "b", "c", ""))
    np.testing.assert_array_equal(found.table, [[3, 0, 0, 2], [0, 4, 0, 0], [0, 0, 3, 0]])
    assert found.f1 == pytest.approx((6 / 8 + 1 + 1) / 3)
    assert (found.n_cells, found.n_unlabelled) == (12, 7)
    assert str(found).splitlines() == [
        f"ARI {found.ari:.3f}  NMI {found.nmi:.3f}  F1 0.917  (12 labelled cells)",
        "   2  3  1  0",
        "a  3  0  0  2",
        "b  0  4  0  0",
        "c  0  0  3  0",
    ]


def test_a_class_without_a_cluster_counts_nothing():
    found = metrics.agreement(["a", "a", "a", "b"], [0, 0, 0, 0])
    assert found.f1 == pytest.approx((6 / 7 + 0) / 2)
    assert found.ari == 0


def test_names_of_labels_and_their_order_do_not_matter():
    reference, clusters = [1.5, 1.5, 2.5, 2.5, 2.5], ["x", "x", "y", "y", "x"]
    swapped = ["b", "b", "a", "a", "b"]
    assert metrics.adjusted_rand_index(reference, clusters) == metrics.adjusted_rand_index(reference, swapped)
    assert metrics.normalized_mutual_info(reference, clusters) == metrics.normalized_mutual_info(reference, swapped)


def test_the_report_survives_an_h5ad(tmp_path):
    found = metrics.agreement(["T/NK", "T/NK", "B"], [0, 0, 1], n_unlabelled=2)
    cells = anndata.AnnData(np.zeros((3, 1), np.float32), uns={"report": found.as_dict()})
    cells.write_h5ad(tmp_path / "cells.h5ad")
    again = metrics.Agreement.from_dict(anndata.read_h5ad(tmp_path / "cells.h5ad").uns["report"])
    assert str(again) == str(found)
    assert again.matched == found.matched == ("B", "T/NK")
    assert (again.ari, again.nmi, again.f1, again.n_unlabelled) == (found.ari, found.nmi, found.f1, 2)
    np.testing.assert_array_equal(again.table, found.table)


@pytest.mark.parametrize(("reference", "clusters"), [([1, 2, 3], [1, 2]), ([], []), ([[1, 2]], [[1, 2]])])
def test_labels_that_do_not_pair_up_are_an_error(reference, clusters):
    with pytest.raises(InputError, match="expected one of each for every cell"):
        metrics.agreement(reference, clusters)
