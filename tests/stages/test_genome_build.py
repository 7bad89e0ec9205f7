"""A GTF of another build of the peaks' genome is asked about wherever one is given."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.errors import ScaleWarning

WORDS = "is the GTF of the peaks' genome build"


@pytest.fixture(scope="module")
def genes():
    rng = np.random.default_rng(0)
    start = np.sort(rng.integers(10**6, 3 * 10**7, 1000))
    table = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + 3000, "strand": "+", "tss": start})
    table["gene_name"] = table["gene_id"] = [f"G{number}" for number in range(1000)]
    return table


@pytest.fixture(scope="module")
def cells(genes):
    """Two clusters; a third of the peaks at starts of genes."""
    rng = np.random.default_rng(1)
    start = np.concatenate([genes["start"].to_numpy() - 200, rng.integers(10**6, 3 * 10**7, 2000)])
    start = np.unique(start)
    rate = np.where(np.arange(60)[:, None] % 2 == np.arange(len(start)) % 2, 0.4, 0.1)
    made = anndata.AnnData(sparse.csr_matrix((rng.random(rate.shape) < rate).astype(np.float32)))
    made.var_names = [f"chr1:{base}-{base + 400}" for base in start]
    made.obs_names = [f"cell{number}" for number in range(60)]
    made.obs["scale_cluster"] = pd.Categorical(np.arange(60) % 2)
    keys.LATENT.set(made, rng.normal(size=(60, 2)).astype(np.float32))
    keys.DECODER.set(made, rng.normal(size=(len(start), 2)).astype(np.float32))
    keys.BIAS.set(made, np.full(len(start), -1, np.float32))
    keys.OFFSET.set(made, np.zeros(60, np.float32))
    return made


def calls(cells, genes):
    types = pd.DataFrame({"type": ["A", "B"], "marker": ["G1", "G2"]})
    return {
        "markers": lambda: scale.markers(cells.copy(), genes=genes, n_threads=1),
        "annotate": lambda: scale.annotate(cells.copy(), markers=types, genes=genes, max_distance=200_000),
        "genes": lambda: scale.genes(cells.copy(), genes=genes, n_threads=1),
    }


@pytest.mark.parametrize("command", ["markers", "annotate", "genes"])
def test_genes_of_another_build_are_asked_about(cells, genes, command):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calls(cells, genes)[command]()
    moved = genes.assign(**{name: genes[name] + 70_000 for name in ("start", "end", "tss")})
    with pytest.warns(ScaleWarning, match=WORDS):
        calls(cells, moved)[command]()
