from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from scale_toolkit import errors, plot
from scale_toolkit.plot._figure import UNKNOWN, new_figure


def image(ax):
    return np.asarray(ax.images[0].get_array())


def names(ticks):
    return [label.get_text() for label in ticks]


@pytest.fixture
def latent(cells):
    """Features × cells, as the release takes it, and labels."""
    return pd.DataFrame(cells.obsm["X_scale"].T), cells.obs["cell_type"].to_numpy().astype(str)


def test_sort_by_classes(latent):
    X, y = latent
    sorted_X, sorted_y, classes, index = plot.sort_by_classes(X, y)
    assert list(sorted_y) == sorted(y)
    assert list(classes) == ["type0", "type1", "type2"]
    pd.testing.assert_frame_equal(sorted_X, X.iloc[:, np.argsort(y, kind="stable")])
    np.testing.assert_array_equal(index, np.argsort(y, kind="stable"))
    assert list(plot.sort_by_classes(X, y, ["type2", "type0"])[1]) == ["type2"] * 40 + ["type0"] * 40


def test_plot_embedding_of_two_dimensions(cells, latent, tmp_path):
    X, y = cells.obsm["X_umap"], latent[1]
    ax = plot.plot_embedding(X, y, method="UMAP", save=tmp_path / "a.pdf", save_emb=tmp_path / "a.txt")
    assert names(ax.get_legend().get_texts()) == ["type0", "type1", "type2"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("UMAP dim 1", "UMAP dim 2")
    assert {tuple(map(float, p)) for p in ax.collections[0].get_offsets()} == {tuple(map(float, p)) for p in X}
    np.testing.assert_allclose(np.loadtxt(tmp_path / "a.txt"), X)
    assert (tmp_path / "a.pdf").exists()


def test_plot_embedding_options(cells, latent):
    X, y = cells.obsm["X_umap"], latent[1]
    ax = plot.plot_embedding(X, y, classes=["type1", "type0"], markersize=3, show_axis_label=False, cmap=["red", "blue"])
    assert names(ax.get_legend().get_texts()) == ["type1", "type0", "no label"]
    shades = [tuple(c) for c in ax.collections[0].get_facecolors()]
    assert {c: shades.count(c) for c in shades} == {to_rgba("red"): 40, to_rgba("blue"): 40, to_rgba(UNKNOWN): 40}
    assert ax.collections[0].get_sizes()[0] == 3
    assert ax.get_xlabel() == ""
    assert plot.plot_embedding(X, y, show_legend=False).get_legend() is None
    assert plot.plot_embedding(X, y, ncols=3).get_legend()._ncols == 3
    marked = plot.plot_embedding(X, y, marker=X[:5])
    assert len(marked.collections[0].get_offsets()) == 120
    np.testing.assert_allclose(marked.collections[1].get_offsets(), X[:5])
    assert tuple(plot.plot_embedding(X, y, figsize=(7, 2)).figure.get_size_inches()) == (7, 2)


@pytest.mark.parametrize("method", ["PCA", "tSNE"])
def test_plot_embedding_reduces_to_two_dimensions(cells, latent, method):
    X = cells.obsm["X_scale"]
    emb = plot.plot_embedding(X, latent[1], method=method, return_emb=True)
    assert emb.shape == (120, 2)
    if method == "PCA":
        np.testing.assert_allclose(emb, PCA(2, random_state=124).fit_transform(X), atol=1e-5)
    with pytest.raises(errors.OptionError, match="method is 'ICA'; expected one of tSNE, UMAP, PCA"):
        plot.plot_embedding(X, latent[1], method="ICA")


def test_plot_heatmap(latent, tmp_path):
    X, y = latent
    ax = plot.plot_heatmap(X, y, yticklabels=list("abcd"), xlabel="cells", ylabel="features", save=tmp_path / "h.png")
    np.testing.assert_allclose(image(ax), X.iloc[:, np.argsort(y, kind="stable")])
    assert names(ax.get_yticklabels()) == list("abcd")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("cells", "features")
    assert names(ax.get_legend().get_texts()) == ["type0", "type1", "type2"]
    assert len(ax.child_axes) == 1
    assert (tmp_path / "h.png").exists()


def test_plot_heatmap_options(latent, cells):
    X, y = latent
    two = plot.plot_heatmap(X, y, y_pred=cells.obs["scale_cluster"].to_numpy().astype(str), row_labels=["type1"] * 4)
    assert names(two.get_legend().get_texts()) == ["type0", "type1", "type2", "0", "1", "2"]
    assert len(two.child_axes) == 3
    row_strip = np.asarray(two.child_axes[2].images[0].get_array())
    np.testing.assert_allclose(row_strip[:, 0, :3], [plot.colors(6)[1]] * 4)
    red = plot.plot_heatmap(X, y, colormap=["red", "blue", "black"])
    np.testing.assert_allclose(np.asarray(red.child_axes[0].images[0].get_array())[0, 0], to_rgba("red"))
    limits = plot.plot_heatmap(X, y, vmin=-1, vmax=2, cmap="magma", figsize=(3, 3), ncol=1, legend_font=5)
    assert limits.images[0].get_clim() == (-1, 2)
    assert limits.images[0].get_cmap().name == "magma"
    assert limits.get_legend().get_texts()[0].get_fontsize() == 5
    bare = plot.plot_heatmap(X, y, show_legend=False, show_cax=False)
    assert bare.get_legend() is None
    assert len(bare.figure.axes) == 1
    titled = plot.plot_heatmap(X, y, cax_title="latent")
    assert [a.get_xlabel() for a in titled.figure.axes] == ["", "latent"]
    with pytest.raises(errors.InputError, match="3 names of features; expected 4"):
        plot.plot_heatmap(X, y, yticklabels=list("abc"))


def test_plot_heatmap_sorts_features_by_clustering():
    X = pd.DataFrame(np.repeat([[0.0], [9.0], [0.1], [9.1]], 6, axis=1))
    y = np.array(list("ababab"))
    ax = plot.plot_heatmap(X, y, yticklabels=list("wxyz"), row_cluster=True, tick_color="red")
    order = names(ax.get_yticklabels())
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset("wy"), frozenset("xz")}
    np.testing.assert_allclose(image(ax)[:, 0], X.loc[["wxyz".index(name) for name in order], 0])
    assert ax.get_yticklabels()[0].get_color() == "red"


def test_plot_confusion_matrix(tmp_path):
    cm = np.array([[30, 2, 0], [4, 50, 1]])
    ax = plot.plot_confusion_matrix(cm, ["a", "b", "c"], ["x", "y"], title="t", save=tmp_path / "c.pdf")
    np.testing.assert_array_equal(image(ax), cm)
    assert names(ax.get_xticklabels()) == ["a", "b", "c"]
    assert names(ax.get_yticklabels()) == ["x", "y"]
    assert sorted(t.get_text() for t in ax.texts) == ["1", "2", "30", "4", "50"]
    assert (ax.get_title(), ax.get_ylabel()) == ("t", "Predicted Cluster")
    assert ax.get_xticklabels()[0].get_rotation() == 45
    assert (tmp_path / "c.pdf").exists()


def test_plot_confusion_matrix_options():
    cm = np.array([[30, 2], [10, 6]])
    ax = plot.plot_confusion_matrix(cm, normalize=True, rotation=0, show_xticks=False, show_yticks=False, show_cbar=False)
    np.testing.assert_allclose(image(ax), cm / cm.sum(0))
    assert sorted(t.get_text() for t in ax.texts) == ["0.25", "0.25", "0.75", "0.75"]
    assert (names(ax.get_xticklabels()), names(ax.get_yticklabels()), ax.get_ylabel()) == ([], [], "")
    assert len(ax.figure.axes) == 1
    assert not plot.plot_confusion_matrix(cm, mark=False).texts
    with pytest.raises(errors.InputError, match="1 names of columns; expected 2"):
        plot.plot_confusion_matrix(cm, ["a"])


def test_corr_heatmap(latent):
    X, y = latent
    ax = plot.corr_heatmap(X, y, classes=["type2", "type1", "type0"])
    order = np.concatenate([np.flatnonzero(y == c) for c in ["type2", "type1", "type0"]])
    np.testing.assert_allclose(image(ax), X.iloc[:, order].corr(), atol=1e-6)
    assert names(ax.get_legend().get_texts()) == ["type2", "type1", "type0"]
    plain = plot.corr_heatmap(X, distance="spearman", show_cbar=False)
    np.testing.assert_allclose(image(plain), X.corr(method="spearman"), atol=1e-6)
    assert plain.get_legend() is None
    assert len(plain.figure.axes) == 1
    assert plot.corr_heatmap(X, y, show_legend=False).get_legend() is None
    ticked = plot.corr_heatmap(X, y, ticks=[0, 0.5], ncol=2, cmap="PuOr")
    assert list(ticked.figure.axes[1].get_xticks()) == [0, 0.5]
    assert ticked.get_legend()._ncols == 2


def test_feature_specifity_is_feature_specificity(cells, latent, tmp_path):
    X, y = latent
    ax = plot.feature_specifity(X.T, y, ["type0", "type1", "type2"], save=tmp_path / "f.pdf")
    np.testing.assert_allclose(image(ax), image(plot.feature_specificity(cells, "cell_type", statistic="p")))
    assert names(ax.get_xticklabels()) == ["type0", "type1", "type2"]
    assert (tmp_path / "f.pdf").exists()
    integer = plot.feature_specifity(X.T, np.array([int(name[-1]) for name in y]), [0, 1, 2])
    np.testing.assert_allclose(image(integer), image(ax))


def test_lineplot_and_plot_metrics(tmp_path):
    ref = np.array([0, 0, 0, 1, 1, 1])
    rng = np.random.default_rng(0)
    expected = {}
    for share in ("corrupt_0.1", "corrupt_0.3"):
        folder = tmp_path / "blood" / share
        folder.mkdir(parents=True)
        for name in ("scABC_predict.txt", "cluster_assignments.txt"):
            pred = rng.integers(0, 2, 6)
            (folder / name).write_text("".join(f"cell{i}\t{c}\n" for i, c in enumerate(pred)))
            expected[name, share] = adjusted_rand_score(ref, pred)
    axes = plot.plot_metrics(tmp_path, "blood", ref, ["corrupt_0.1", "corrupt_0.3"])
    assert [ax.get_ylabel() for ax in axes] == ["ARI", "NMI", "F1"]
    lines = {line.get_label(): line for line in axes[0].lines}
    assert set(lines) == {"scABC", "SCALE"}  # SC3 and scVI have no file
    for label, name in (("scABC", "scABC_predict.txt"), ("SCALE", "cluster_assignments.txt")):
        np.testing.assert_allclose(lines[label].get_ydata(), [expected[name, f"corrupt_{f}"] for f in ("0.1", "0.3")])
    assert names(axes[2].get_legend().get_texts()) == ["scABC", "SCALE"]
    assert axes[0].get_legend() is None
    with pytest.raises(errors.OptionError, match="holds no cluster assignments"):
        plot.plot_metrics(tmp_path, "blood", ref, ["0.9"])


def test_figures_can_be_drawn_on_given_axes(latent, cells):
    X, y = latent
    calls = [
        lambda ax: plot.plot_heatmap(X, y, ax=ax),
        lambda ax: plot.corr_heatmap(X, y, ax=ax),
        lambda ax: plot.feature_specifity(X.T, y, sorted(set(y)), ax=ax),
        lambda ax: plot.plot_confusion_matrix(np.eye(2, dtype=int), ax=ax),
        lambda ax: plot.plot_embedding(cells.obsm["X_umap"], y, ax=ax),
    ]
    for draw in calls:
        ax = new_figure((4, 4)).add_subplot()
        assert draw(ax) is ax
