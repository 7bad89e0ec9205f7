"""Weights of peaks for genes against bioframe and a plain loop, and the activity against dense sums."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scale_toolkit.core.decode import Decoder
from scale_toolkit.core.gene_activity import GeneRows, gene_weights


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    peaks, genes = [], []
    for _ in range(300):
        start = int(rng.integers(0, 200_000))
        peaks.append((str(rng.choice(["chr1", "chr2", "chr3"])), start, start + int(rng.integers(100, 900))))
    for _ in range(40):
        start = int(rng.integers(0, 200_000))
        end = start + int(rng.integers(500, 20_000))
        genes.append((str(rng.choice(["chr1", "chr2", "chr9"])), start, end, str(rng.choice(["+", "-"]))))
    return (
        pd.DataFrame(peaks, columns=["chrom", "start", "end"]),
        pd.DataFrame(genes, columns=["chrom", "start", "end", "strand"]),
    )


def test_weights_fall_with_the_distance_of_bioframe(tables):
    import bioframe

    peaks, genes = tables
    weights = gene_weights(peaks, genes, 2000, 5000, 25_000).toarray()
    bodies = genes.copy()
    forward = bodies["strand"] == "+"
    bodies.loc[forward, "start"] -= 2000
    bodies.loc[~forward, "end"] += 2000
    n_compared = 0
    for number in range(len(bodies)):
        body = bodies.iloc[[number]]
        same = peaks[peaks["chrom"] == body["chrom"].iloc[0]]
        if not len(same):
            assert not weights[:, number].any()
            continue
        distance = bioframe.closest(same.reset_index(), body, suffixes=("", "_"))
        distance = distance.set_index("index")["distance"].astype(float)
        expected = np.where(distance <= 25_000, np.exp(-distance / 5000), 0)
        np.testing.assert_allclose(weights[distance.index, number], expected, rtol=1e-5)
        n_compared += int((expected > 0).sum())
    assert n_compared > 300
    assert ((weights > 0) & (weights < 1)).any() and (weights == 1).any()


def test_an_option_each(tables):
    default = gene_weights(*tables, 2000, 5000, 25_000)
    assert gene_weights(*tables, 0, 5000, 25_000).sum() < default.sum()
    assert gene_weights(*tables, 2000, 500, 25_000).sum() < default.sum()
    assert gene_weights(*tables, 2000, 5000, 0).nnz < default.nnz


def test_activity_is_the_weighted_sum_of_probabilities():
    rng = np.random.default_rng(1)
    decoder = Decoder(rng.normal(size=(30, 3)), rng.normal(size=(50, 3)), rng.normal(size=50), np.zeros(30))
    weights = sparse.random(50, 8, 0.2, format="csr", random_state=2, dtype=np.float32)
    rows = GeneRows(decoder, weights, n_threads=1)
    assert rows.shape == (30, 8)
    result = np.vstack(list(rows.blocks()))
    np.testing.assert_allclose(result, decoder.probabilities() @ weights.toarray(), rtol=1e-5)
