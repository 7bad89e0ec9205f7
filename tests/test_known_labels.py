"""Which columns are taken for known labels if the user names none."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from scale_toolkit.known_labels import (
    LABELS,
    LABELS_IN_WORDS,
    MOST_LABELS,
    as_integers,
    is_like_labels,
    label_columns,
)

N_CELLS = 3 * MOST_LABELS


def cells(**columns):
    names = [f"cell{i}" for i in range(N_CELLS)]
    return anndata.AnnData(obs=pd.DataFrame(columns, index=names))


def numbered(n_labels):
    return [f"type{i % n_labels}" for i in range(N_CELLS)]


def test_the_first_usable_column_comes_first():
    adata = cells(label=numbered(3), cell_type=numbered(2), author=numbered(4))
    assert label_columns(adata) == ["cell_type", "label"]
    assert label_columns(adata, ["author", None]) == ["author", "cell_type", "label"]


@pytest.mark.parametrize(("n_labels", "is_usable"), [(1, False), (2, True), (MOST_LABELS, True), (MOST_LABELS + 1, False)])
def test_a_column_has_two_to_a_hundred_labels(n_labels, is_usable):
    assert (label_columns(cells(celltype=numbered(n_labels))) == ["celltype"]) == is_usable


def test_names_and_measurements_are_not_labels():
    assert is_like_labels(pd.Series([1.0, np.nan, 2.0]))
    assert not is_like_labels(pd.Series([1.5, 2.0]))
    assert not is_like_labels(pd.Series(np.arange(1001).astype(str)))
    assert as_integers(pd.Series([1.0, np.nan])).astype(str).tolist() == ["1", "<NA>"]
    assert as_integers(pd.Series(["a"])).tolist() == ["a"]


def test_the_words_name_each_column():
    assert LABELS_IN_WORDS == "cell_type, celltype or label"
    assert all(name in LABELS_IN_WORDS for name in LABELS)
