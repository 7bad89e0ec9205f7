from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from scipy.cluster.hierarchy import leaves_list, linkage
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scale_toolkit import errors, keys, plot, utils
from scale_toolkit.plot._figure import new_figure


def image(ax):
    return np.asarray(ax.images[0].get_array())


def names(ticks):
    return [label.get_text() for label in ticks]


def shares(cells, labels, peaks):
    is_open = pd.DataFrame(cells[:, peaks].X.toarray() > 0)
    return is_open.groupby(np.asarray(labels), observed=True).mean().to_numpy()


def test_heatmap_shows_the_share_of_open_cells_of_specific_peaks(cells):
    ax = plot.heatmap(cells, n_peaks=5, relative=False)
    peaks = names(ax.get_xticklabels())
    assert names(ax.get_yticklabels()) == ["0", "1", "2"]
    np.testing.assert_allclose(image(ax), shares(cells, cells.obs["scale_cluster"].astype(str), peaks))
    best, _ = utils.cluster_specific(utils.specificity(cells), top=5)
    assert peaks == list(cells.var_names[best])
    assert [line.get_xdata()[0] for line in ax.lines] == [4.5, 9.5]


def test_heatmap_takes_the_markers_of_these_clusters_where_there_are_some(cells):
    table = pd.DataFrame({"cluster": ["2", "0", "2", "2"], "peak": cells.var_names[[9, 4, 7, 3]]})
    keys.MARKERS.set(cells, table)
    ax = plot.heatmap(cells, n_peaks=2)
    assert names(ax.get_xticklabels()) == list(cells.var_names[[4, 9, 7]])  # cluster 1 has none
    assert [line.get_xdata()[0] for line in ax.lines] == [0.5]
    by_type = plot.heatmap(cells, "cell_type", n_peaks=2)  # other groups than the markers'
    best, _ = utils.cluster_specific(utils.specificity(cells, "cell_type"), top=2)
    assert names(by_type.get_xticklabels()) == list(cells.var_names[best])
    keys.MARKERS.set(cells, table[:0])
    assert len(names(plot.heatmap(cells, n_peaks=2).get_xticklabels())) == 6


def test_heatmap_names_the_nearest_genes(cells):
    peaks = list(cells.var_names[:3])
    cells.var["nearest_gene"] = pd.Series(["Gad1", "", np.nan] * 100, index=cells.var_names)
    ax = plot.heatmap(cells, "cell_type", peaks)
    assert names(ax.get_xticklabels()) == [f"Gad1 {peaks[0]}", peaks[1], peaks[2]]


def test_heatmap_does_not_take_markers_of_another_grouping_with_the_same_names(cells):
    marker = list(cells.var_names[[9, 4, 7]])
    keys.MARKERS.set(cells, pd.DataFrame({"cluster": ["0", "1", "2"], "peak": marker}))
    cells.obs["other"] = pd.Categorical((np.arange(120) % 3).astype(str))
    assert names(plot.heatmap(cells).get_xticklabels()) == marker
    assert names(plot.heatmap(cells, "other").get_xticklabels()) != marker
    sizes = cells.obs["other"].value_counts()
    notes = {"clusters": {name: {"cells": int(size)} for name, size in sizes.items()}}
    receipt = {"stage": "markers", "options": {"cluster_by": "other"}, "notes": notes}
    keys.RECEIPTS.set(cells, json.dumps([receipt]))
    assert names(plot.heatmap(cells, "other").get_xticklabels()) == marker
    assert names(plot.heatmap(cells).get_xticklabels()) != marker
    assert names(plot.heatmap(cells[:90].copy(), "other").get_xticklabels()) != marker  # clusters of other sizes


def test_heatmap_draws_a_shared_marker_in_the_block_of_each_cluster(cells):
    shared, single = cells.var_names[[9, 4]]
    keys.MARKERS.set(cells, pd.DataFrame({"cluster": ["0", "1", "1", "2"], "peak": [shared, shared, single, shared]}))
    ax = plot.heatmap(cells)
    assert names(ax.get_xticklabels()) == [shared, shared, single, shared]
    assert image(ax).shape == (3, 4)
    assert [line.get_xdata()[0] for line in ax.lines] == [0.5, 2.5]


def test_heatmap_options(cells):
    peaks = list(cells.var_names[[3, 1, 2]])
    cells.obs.loc[cells.obs_names[:6], "cell_type"] = np.nan
    labelled = cells[6:].copy()
    ax = plot.heatmap(cells, "cell_type", peaks, title="mine", relative=False)
    expected = shares(labelled, labelled.obs["cell_type"].astype(str), peaks)
    np.testing.assert_allclose(image(ax), expected)
    assert names(ax.get_xticklabels()) == peaks
    assert ax.get_title() == "mine"
    np.testing.assert_allclose(image(plot.heatmap(cells, "cell_type", peaks)), expected / expected.max(0))
    assert plot.heatmap(cells, cmap="magma").images[0].get_cmap().name == "magma"
    many = plot.heatmap(cells, n_peaks=30)
    assert names(many.get_xticklabels()) == []
    assert many.get_xlabel() == "90 peaks"
    with pytest.raises(errors.InputError, match="1 of 2 peaks are not in var_names: chrZ"):
        plot.heatmap(cells, peaks=["chrZ", peaks[0]])
    with pytest.raises(errors.MissingSlotError, match=r"obs\['typ'\] is missing; expected one of cell_type"):
        plot.heatmap(cells, "typ")
    cells.X = cells.X * 0
    with pytest.raises(errors.InputError, match="no peak in X is open in any cell; expected counts; run `scale prepare`"):
        plot.heatmap(cells)


@pytest.mark.parametrize("normalize", [False, True])
def test_confusion_matrix(cells, normalize, tmp_path):
    cells.obs.loc[cells.obs_names[:6], "cell_type"] = np.nan
    ax = plot.confusion_matrix(cells, "cell_type", normalize=normalize, save=tmp_path / "cm.svg")
    labelled = cells[6:].obs
    table = pd.crosstab(labelled["cell_type"], labelled["scale_cluster"], normalize="index" if normalize else False)
    columns = names(ax.get_xticklabels())
    assert columns == ["0", "1", "2"]  # in the order of the classes they match
    np.testing.assert_allclose(image(ax), table[columns])
    assert names(ax.get_yticklabels()) == ["type0", "type1", "type2"]
    ari = adjusted_rand_score(labelled["cell_type"], labelled["scale_cluster"])
    nmi = normalized_mutual_info_score(labelled["cell_type"], labelled["scale_cluster"])
    assert ax.get_title() == f"ARI {ari:.2f}   NMI {nmi:.2f}"
    assert len(ax.texts) == np.count_nonzero(table)
    assert ax.texts[0].get_text() == (f"{table.iloc[0, 0]:.2f}" if normalize else str(table.iloc[0, 0]))
    assert (tmp_path / "cm.svg").exists()


def test_confusion_matrix_options(cells):
    cells.obs["copy"] = cells.obs["cell_type"]
    ax = plot.confusion_matrix(cells, "cell_type", "copy", title="same", cmap="Greens", figsize=(3, 3))
    np.testing.assert_array_equal(image(ax), np.eye(3) * 40)
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("same", "copy", "cell_type")
    cells.obs["none"] = pd.Categorical([None] * 120, categories=["a"])
    with pytest.raises(errors.InputError, match=r"no cell has both a label in obs\['none'\] and a cluster"):
        plot.confusion_matrix(cells, "none")
    with pytest.raises(errors.InputError, match=r"obs\['cell_type'\] holds the clusters of obs\['cell_type'\] themselves"):
        plot.confusion_matrix(cells, "cell_type", "cell_type")
    cells.obs["kmeans"] = cells.obs["scale_cluster"]
    with pytest.raises(errors.InputError, match=r"obs\['kmeans'\] holds the clusters of obs\['scale_cluster'\] themselves"):
        plot.confusion_matrix(cells, "kmeans")
    cells.obs["kmeans_original"] = cells.obs["cell_type"]  # what `cluster` kept before it wrote its own
    wanted = plot.confusion_matrix(cells, "cell_type").get_title()
    ax = plot.confusion_matrix(cells, "kmeans")
    assert (ax.get_title(), ax.get_ylabel()) == (wanted, "kmeans_original")
    cells.obs["kmeans"] = np.roll(cells.obs["scale_cluster"], 1)
    plot.confusion_matrix(cells, "kmeans")  # another method's clusters may be compared


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_correlation_of_cells_in_the_order_of_a_dendrogram(cells, method):
    ax = plot.correlation(cells, method=method)
    latent, codes = cells.obsm["X_scale"].astype(float), cells.obs["scale_cluster"].cat.codes.to_numpy()
    means = np.stack([latent[codes == code].mean(axis=0) for code in range(3)])
    tree = linkage(means, "average", metric="correlation", optimal_ordering=True)
    clusters = leaves_list(tree)
    assert names(ax.get_legend().get_texts()) == [str(code) for code in clusters]
    order = np.concatenate([
        np.flatnonzero(codes == code)[
            leaves_list(linkage(latent[codes == code], "average", metric="correlation", optimal_ordering=True))
        ]
        for code in clusters
    ])  # fmt: skip
    expected = pd.DataFrame(latent[order].T).corr(method=method)
    np.testing.assert_allclose(image(ax), expected, atol=1e-5)
    assert ax.images[0].get_clim() == (-1, 1)
    strip = np.asarray(ax.child_axes[0].images[0].get_array())[0]
    shades = np.array(plot.colors(3))[codes[order]]  # the colours of the embedding, whatever the order
    np.testing.assert_allclose(strip[:, :3], shades)
    heights = sorted(line.get_ydata().max() for line in ax.child_axes[1].lines)
    np.testing.assert_allclose(heights, tree[:, 2], atol=1e-6)


def test_correlation_options(cells):
    cells.obsm["X_other"] = np.random.default_rng(1).normal(size=(120, 6))
    assert image(plot.correlation(cells, "cell_type", max_cells=30)).shape == (30, 30)
    other = plot.correlation(cells, basis="X_other", title="other")
    assert not np.allclose(image(other), image(plot.correlation(cells)))
    assert other.get_title() == "other"


def test_feature_specificity_by_anova(cells):
    ax = plot.feature_specificity(cells, "cell_type", statistic="p", vmax=9)
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    for j, name in enumerate(["type0", "type1", "type2"]):
        for i, column in enumerate(cells.obsm["X_scale"].T.astype(float)):
            p = scipy.stats.f_oneway(column[labels == name], column[labels != name]).pvalue
            assert image(ax)[i, j] == pytest.approx(-np.log10(p), rel=1e-5)
    assert ax.images[0].get_clim() == (0, 9)
    assert names(ax.get_yticklabels()) == ["1", "2", "3", "4"]
    assert names(ax.get_xticklabels()) == ["type0", "type1", "type2"]


def test_feature_specificity_as_effect_size(cells):
    ax = plot.feature_specificity(cells, "cell_type")
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    for j, name in enumerate(["type0", "type1", "type2"]):
        for i, column in enumerate(cells.obsm["X_scale"].T.astype(float)):
            inside, outside = column[labels == name], column[labels != name]
            t = scipy.stats.ttest_ind(inside, outside).statistic
            d = t * np.sqrt(1 / len(inside) + 1 / len(outside))
            assert image(ax)[i, j] == pytest.approx(d, rel=1e-5)
    assert ax.images[0].get_clim() == (-3, 3)
    assert ax.texts[0].get_text() == f"{image(ax)[0, 0]:.1f}".replace("-", "−")
    with pytest.raises(errors.OptionError, match="statistic is 't'; expected one of effect, p"):
        plot.feature_specificity(cells, statistic="t")


def test_every_function_draws_on_the_axes_given(cells):
    for draw in (
        plot.heatmap,
        plot.correlation,
        plot.feature_specificity,
        lambda a, ax: plot.confusion_matrix(a, "cell_type", ax=ax),
    ):
        ax = new_figure((4, 4)).add_subplot()
        assert draw(cells, ax=ax) is ax
        assert ax.images
