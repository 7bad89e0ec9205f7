"""Thousands of categories, and 100,000 cells: the figure stays one that a page can show."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scale_toolkit import keys, plot
from scale_toolkit.plot import _figure


@pytest.fixture(scope="module")
def many():
    """3,000 cells in 1,500 clusters."""
    rng = np.random.default_rng(0)
    cells = anndata.AnnData(
        sparse.random(3000, 40, 0.3, "csr", np.float32, random_state=rng),
        var=pd.DataFrame(index=[f"chr1:{j}0-{j}5" for j in range(40)]),
    )
    codes = np.arange(3000) % 1500
    keys.CLUSTER.set(cells, pd.Categorical.from_codes(codes, [str(c) for c in range(1500)]))
    cells.obs["name"] = pd.Categorical.from_codes(codes, [f"{'long ' * 20}{c}" for c in range(1500)])
    keys.UMAP.set(cells, rng.normal(size=(3000, 2)).astype(np.float32))
    keys.LATENT.set(cells, rng.normal(size=(3000, 3)).astype(np.float32))
    return cells


@pytest.mark.parametrize("draw", ["embedding", "heatmap", "confusion", "correlation", "specificity"])
def test_thousands_of_categories(many, tmp_path, draw):
    options = {"heatmap": {"peaks": list(many.var_names[:10])}, "confusion": {"reference": "name"}}.get(draw, {})
    ax = getattr(plot, draw)(many, **options, save=tmp_path / f"{draw}.png")
    width, height = ax.figure.get_size_inches()
    assert max(width, height) <= _figure.MOST_INCHES
    assert len(ax.get_xticks()) <= _figure.MOST_TICKS
    assert len(ax.get_yticks()) <= _figure.MOST_TICKS
    legend = ax.get_legend()
    if draw in ("embedding", "correlation"):
        assert len(legend.get_texts()) == _figure.MOST_IN_LEGEND + 1
        # a correlation shows the clusters of the 1,000 cells that are drawn
        n_clusters = (
            1500 if draw == "embedding" else len(np.unique(np.random.default_rng(0).choice(3000, 1000, replace=False) % 1500))
        )
        n_more = n_clusters - _figure.MOST_IN_LEGEND
        assert legend.get_texts()[-1].get_text().startswith(f"and {n_more:,} ")
    if draw == "confusion":
        assert np.asarray(ax.images[0].get_array()).shape == (1500, 1500)  # names are thinned out, not the data
        assert not ax.texts
    assert (tmp_path / f"{draw}.png").stat().st_size < 4_000_000


def test_the_legend_keeps_the_largest(many):
    codes = np.r_[np.full(1500, 7), np.arange(1500)]
    many.obs["uneven"] = pd.Categorical.from_codes(codes, [str(c) for c in range(1500)])
    texts = [text.get_text() for text in plot.embedding(many, color="uneven").get_legend().get_texts()]
    assert "7" in texts


def test_100_000_cells_are_pixels_in_a_small_file(tmp_path):
    rng = np.random.default_rng(0)
    cells = anndata.AnnData(
        obs=pd.DataFrame({"a": rng.integers(0, 9, 100_000).astype(str)}, index=np.arange(100_000).astype(str))
    )
    keys.UMAP.set(cells, rng.normal(size=(100_000, 2)).astype(np.float32))
    for kind in ("pdf", "svg"):
        plot.embedding(cells, color="a", save=tmp_path / f"e.{kind}")
        assert (tmp_path / f"e.{kind}").stat().st_size < 1_500_000
