from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from scale_toolkit import errors, keys, plot
from scale_toolkit.plot._figure import UNKNOWN, new_figure
from scale_toolkit.stages.region_values import region_values
from scale_toolkit.stages.train import train


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def colours_by_point(ax):
    """Colour of each drawn point by its place."""
    dots = ax.collections[0]
    return {tuple(map(float, p)): tuple(c) for p, c in zip(dots.get_offsets(), dots.get_facecolors())}


def test_every_cell_is_a_point_in_the_colour_of_its_cluster(cells):
    ax = plot.embedding(cells)
    assert len(ax.collections[0].get_offsets()) == cells.n_obs
    assert legend_of(ax) == ["0", "1", "2"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("UMAP 1", "UMAP 2", "scale_cluster")
    drawn = colours_by_point(ax)
    shades = [to_rgba(color) for color in plot.colors(3)]
    for point, cluster in zip(cells.obsm["X_umap"], cells.obs["scale_cluster"]):
        assert drawn[tuple(map(float, point))] == pytest.approx(shades[int(cluster)])
    handles = [to_rgba(handle.get_color()) for handle in ax.get_legend().legend_handles]
    np.testing.assert_allclose(handles, shades)


def test_no_cluster_is_drawn_over_the_others(cells):
    """Points are drawn in a shuffled order that is the same every time."""
    cells = cells[np.argsort(cells.obs["scale_cluster"].cat.codes, kind="stable")].copy()
    a, b = (plot.embedding(cells).collections[0] for _ in range(2))
    np.testing.assert_array_equal(a.get_offsets(), b.get_offsets())
    last = a.get_facecolors()[-40:]
    assert len(np.unique(last, axis=0)) == 3


def test_points_are_pixels_so_that_many_cells_stay_small(tmp_path):
    rng = np.random.default_rng(0)
    cells = anndata.AnnData(np.zeros((100_000, 1), dtype=np.float32), obsm={"X_umap": rng.normal(size=(100_000, 2))})
    cells.obs["scale_cluster"] = pd.Categorical(rng.integers(0, 5, len(cells)).astype(str))
    ax = plot.embedding(cells, save=tmp_path / "umap.pdf")
    assert ax.collections[0].get_rasterized()
    assert (tmp_path / "umap.pdf").stat().st_size < 2_000_000


def test_size_follows_the_number_of_cells(cells):
    auto = plot.embedding(cells).collections[0].get_sizes()[0]
    fewer_points = plot.embedding(anndata.concat([cells] * 20, index_unique="-")).collections[0].get_sizes()[0]
    assert fewer_points < auto
    assert plot.embedding(cells, size=2.5).collections[0].get_sizes()[0] == 2.5


def test_numbers_have_a_colour_bar_and_a_random_order(cells):
    cells = cells[np.argsort(cells.obs["n_peaks"])].copy()
    ax = plot.embedding(cells, color="n_peaks")
    values = ax.collections[0].get_array()
    np.testing.assert_array_equal(np.sort(values), cells.obs["n_peaks"])
    assert abs(np.corrcoef(values, np.arange(120))[0, 1]) < 0.3  # no range of values covers another
    again = plot.embedding(cells, color="n_peaks").collections[0].get_array()
    np.testing.assert_array_equal(values, again)
    assert ax.get_legend() is None
    assert len(ax.figure.axes) == 2
    assert len(plot.embedding(cells, color="n_peaks", legend=False).figure.axes) == 1
    assert plot.embedding(cells, color="n_peaks", cmap="magma").collections[0].get_cmap().name == "magma"


def test_numbers_that_are_missing_are_grey(cells):
    cells.obs["score"] = np.where(np.arange(120) < 20, np.nan, 1.0)
    ax = plot.embedding(cells, color="score")
    assert [len(c.get_offsets()) for c in ax.collections[:2]] == [20, 100]
    assert tuple(ax.collections[0].get_facecolors()[0]) == pytest.approx(to_rgba(UNKNOWN))
    cells.obs["score"] = np.nan
    assert len(plot.embedding(cells, color="score").collections[0].get_offsets()) == 120


def test_cells_without_a_label_are_grey_and_below(cells):
    cells.obs.loc[cells.obs_names[:7], "cell_type"] = np.nan
    ax = plot.embedding(cells, color="cell_type")
    assert legend_of(ax) == ["type0", "type1", "type2", "no label"]
    np.testing.assert_allclose(ax.collections[0].get_facecolors()[:7], [to_rgba(UNKNOWN)] * 7)
    assert (ax.collections[0].get_facecolors()[7:] != to_rgba(UNKNOWN)).any(axis=1).all()


def test_a_peak_as_colour(cells):
    peak = cells.var_names[np.argmax(np.asarray(cells.X.sum(0)))]
    ax = plot.embedding(cells, color=peak)
    np.testing.assert_array_equal(ax.collections[0].get_array(), np.sort(np.ravel(cells[:, peak].X.toarray())))


def test_a_peak_that_was_modelled_is_coloured_by_imputed_values(planted):
    """As `scale plot embedding` does; counts are drawn if they are asked for."""
    peaks = list(planted.var_names[:2])
    cells = train(planted, n_components=3, max_iter=5, n_threads=1)
    keys.UMAP.set(cells, cells.obsm["X_scale"][:, :2])
    wanted = region_values(cells, peaks)
    for ax, peak in zip(plot.embedding(cells, color=peaks), peaks, strict=True):
        assert ax.get_title() == f"{peak} (imputed)"
        np.testing.assert_allclose(ax.collections[0].get_array(), np.sort(wanted[peak]), atol=1e-6)
    counted = plot.embedding(cells, color=peaks[0], counts=True)
    assert counted.get_title() == peaks[0]
    np.testing.assert_array_equal(counted.collections[0].get_array(), np.sort(np.ravel(cells[:, peaks[0]].X.toarray())))
    keys.MEDIAN_OFFSET.drop(cells)
    again = plot.embedding(cells, color=peaks[0]).collections[0].get_array()
    np.testing.assert_allclose(again, np.sort(wanted[peaks[0]]), atol=1e-6)
    cells.var[keys.BIAS.name] = np.nan  # not modelled
    assert plot.embedding(cells, color=peaks[0]).get_title() == peaks[0]


def test_one_colour_needs_no_legend(cells):
    ax = plot.embedding(cells, color=None)
    assert ax.get_legend() is None
    assert ax.get_title() == ""
    assert len(np.unique(ax.collections[0].get_facecolors(), axis=0)) == 1


def test_options_change_the_figure(cells):
    assert plot.embedding(cells, legend=False).get_legend() is None
    assert plot.embedding(cells, title="Leukemia").get_title() == "Leukemia"
    ax = plot.embedding(cells, palette={"0": "red", "1": "blue", "2": "black"})
    assert {tuple(c) for c in ax.collections[0].get_facecolors()} == {to_rgba(c) for c in ("red", "blue", "black")}
    assert tuple(plot.embedding(cells, figsize=(7, 3)).figure.get_size_inches()) == (7, 3)
    ax = new_figure((3, 3)).add_subplot()
    assert plot.embedding(cells, ax=ax) is ax


def test_long_legends_get_columns(cells):
    cells.obs["many"] = np.arange(120) % 40
    cells.obs["many"] = cells.obs["many"].astype("category")
    legend = plot.embedding(cells, color="many").get_legend()
    assert [t.get_text() for t in legend.get_texts()] == [str(i) for i in range(40)]
    assert legend._ncols == 3


def test_names_on_the_data_lie_at_the_middle_and_never_on_one_another(cells):
    ax = plot.embedding(cells, names_on_data=True)
    points = {text.get_text(): text.get_position() for text in ax.texts}
    for cluster, place in points.items():
        own = cells.obsm["X_umap"][(cells.obs["scale_cluster"] == cluster).to_numpy()]
        np.testing.assert_allclose(place, np.median(own, axis=0), atol=0.05)
    cells.obsm["X_umap"] = np.random.default_rng(0).normal(size=(120, 2))  # all three middles are the same
    ax = plot.embedding(cells, color="cell_type", names_on_data=True)
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_a_panel_for_each_colour(cells, tmp_path):
    axes = plot.embedding(cells, color=["cell_type", "n_peaks", "scale_cluster"], save=tmp_path / "all.png")
    assert [ax.get_title() for ax in axes] == ["cell_type", "n_peaks", "scale_cluster"]
    assert len({ax.figure for ax in axes}) == 1
    assert (tmp_path / "all.png").stat().st_size > 10_000
    with pytest.raises(errors.InputError, match="got one ax and a list of colours"):
        plot.embedding(cells, color=["cell_type", "n_peaks"], ax=axes[0])


@pytest.mark.parametrize(("n_colors", "shape"), [(3, (1, 3)), (4, (2, 2)), (7, (3, 3)), (20, (5, 4))])
def test_many_colours_wrap_into_a_grid(cells, n_colors, shape):
    axes = plot.embedding(cells, color=["n_peaks"] * n_colors)
    assert len(axes) == n_colors
    grid = axes[0].get_subplotspec().get_gridspec()
    assert (grid.nrows, grid.ncols) == shape
    assert sum(ax.get_title() == "n_peaks" for ax in axes[0].figure.axes) == n_colors


@pytest.mark.parametrize("basis", ["X_umap", "umap", "X_pca", "pca"])
def test_names_of_the_basis(cells, basis):
    cells.obsm["X_pca"] = np.ones((120, 5))
    ax = plot.embedding(cells, basis)
    assert ax.get_xlabel() == ("UMAP 1" if "umap" in basis else "X_pca 1")


def test_errors_name_what_there_is(cells):
    with pytest.raises(errors.MissingSlotError, match=r"obsm\['X_tsne'\] is missing; .*run `scale embed`"):
        plot.embedding(cells, "tsne")
    with pytest.raises(errors.MissingSlotError, match=r"obsm\['X_pca'\] is missing; expected one of X_umap, X_scale"):
        plot.embedding(cells, "X_pca")
    with pytest.raises(errors.MissingSlotError, match=r"obs\['typ'\] is missing; expected a peak or one of cell_type"):
        plot.embedding(cells, color="typ")
    del cells.obs["scale_cluster"]
    with pytest.raises(errors.MissingSlotError, match="run `scale cluster`"):
        plot.embedding(cells)
    cells.obsm["X_one"] = np.ones((120, 1))
    with pytest.raises(errors.InputError, match=r"has the shape \(120, 1\); expected cells × 2"):
        plot.embedding(cells, "X_one", color=None)


def test_leukemia(real):
    """A real set with its SVD, through the whole path."""
    from sklearn.decomposition import TruncatedSVD

    cells = real("leukemia")
    cells.obsm["X_svd"] = TruncatedSVD(2, random_state=0).fit_transform(cells.X > 0)
    ax = plot.embedding(cells, "svd", "cell_type", names_on_data=True)
    assert len(ax.texts) == 6
    assert len(ax.collections[0].get_offsets()) == 391
