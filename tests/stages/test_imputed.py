"""Imputed values on demand: what a slice gives, what it costs, and what is said of a slice that cannot be had."""

from __future__ import annotations

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.errors import (
    InputError,
    MissingSlotError,
    NothingLeftError,
    OptionError,
    ScaleWarning,
)


@pytest.fixture(scope="module")
def trained(plant):
    """Trained cells; five peaks were not modelled."""
    cells = plant(n_cells=90, n_peaks=200)
    keys.SELECTED.set(cells, ~np.isin(np.arange(200), [0, 50, 51, 120, 199]))
    with pytest.warns(ScaleWarning, match="modelling 195 of 200 peaks"):
        cells = scale.train(cells, n_components=3, max_iter=40, n_threads=1)
    cells.obs["group"] = pd.Categorical(np.array(["b", "a", None], object)[np.arange(90) % 3], categories=["b", "a", "unused"])
    return cells


def dense(cells, depth="equal"):
    """The definition, in float64, over the modelled peaks."""
    modelled = keys.BIAS.get(cells).notna().to_numpy()
    logit = np.asarray(keys.LATENT.get(cells), float) @ np.asarray(keys.DECODER.get(cells), float)[modelled].T
    bias, offset = keys.BIAS.get(cells).to_numpy(float)[modelled], keys.OFFSET.get(cells).to_numpy(float)
    if depth == "equal":
        offset = np.full(len(offset), np.median(offset))
    return expit(logit + bias + offset[:, None])


def test_all_of_it_is_the_dense_definition(trained):
    p = scale.imputed(trained)
    assert p.shape == (90, 195) and len(p) == 90 and p.dtype == np.float32 and p.ndim == 2
    assert list(p.cells) == list(trained.obs_names)
    assert list(p.peaks) == list(trained.var_names[trained.var["selected"]])
    np.testing.assert_allclose(np.asarray(p), dense(trained), rtol=1e-6)
    assert np.asarray(p, np.float64).dtype == np.float64
    own = scale.imputed(trained, depth="own")
    np.testing.assert_allclose(np.asarray(own), dense(trained, "own"), rtol=1e-6)
    assert "at own depth" in repr(own) and "at equal depth" in repr(p)
    with pytest.raises(OptionError, match="depth is 'median'; expected one of equal, own"):
        scale.imputed(trained, depth="median")


def test_later_changes_of_the_cells_do_not_reach_the_matrix(trained):
    cells = trained.copy()
    cells.obsm["X_umap"] = np.zeros((90, 2))
    cells.uns["group_colors"] = ["#000000", "#ffffff", "#888888"]
    p = scale.imputed(cells)
    before, described = np.asarray(p), p.to_adata()
    for values in (cells.obsm["X_scale"], cells.varm["scale_decoder"], cells.obsm["X_umap"]):
        values[:] = 5
    cells.obs["scale_offset"] = np.float32(3)
    cells.obs["group"] = "changed"
    cells.var["scale_bias"] = np.float32(0)
    cells.obs_names = [f"other{i}" for i in range(90)]
    cells.uns["group_colors"][0] = "#ff0000"
    np.testing.assert_array_equal(np.asarray(p), before)
    again = p.to_adata()
    pd.testing.assert_frame_equal(again.obs, described.obs)
    pd.testing.assert_frame_equal(again.var, described.var)
    np.testing.assert_array_equal(again.obsm["X_umap"], 0)
    assert again.uns["group_colors"][0] == "#000000"


def some_keys(p):
    cells, peaks = list(p.cells), list(p.peaks)
    mask = np.arange(90) % 7 == 0
    return {
        "numbers": ((3, 5), (3, 5)),
        "numpy's numbers": ((np.int64(-1), np.int32(-2)), (-1, -2)),
        "names": ((cells[3], peaks[5]), (3, 5)),
        "one peak": ((slice(None), peaks[7]), (slice(None), 7)),
        "one cell": (cells[8], (8, slice(None))),
        "a cell's number": (8, (8, slice(None))),
        "slices": ((slice(2, 40, 3), slice(None, None, -1)), (slice(2, 40, 3), slice(None, None, -1))),
        "a mask": (mask, (mask, slice(None))),
        "a Series": ((pd.Series(mask, index=p.cells), slice(0, 3)), (mask, slice(0, 3))),
        "lists of both": (([4, 1, -3], [peaks[9], peaks[2]]), np.ix_([4, 1, -3], [9, 2])),
        "an Index": ((p.cells[[5, 5]], p.peaks[4:6]), np.ix_([5, 5], [4, 5])),
        "nothing": (([], slice(0, 2)), (slice(0, 0), slice(0, 2))),
    }


@pytest.mark.parametrize(
    "case",
    [
        "numbers", "numpy's numbers", "names", "one peak", "one cell", "a cell's number", "slices", "a mask", "a Series",
        "lists of both", "an Index", "nothing",
    ],
)  # fmt: skip
def test_a_slice_is_numpys_slice_of_the_whole(trained, case):
    p = scale.imputed(trained)
    whole = np.asarray(p)
    asked, numpys = some_keys(p)[case]
    before = p.decoded
    made = p[asked]
    np.testing.assert_array_equal(made, whole[numpys])
    assert made.shape == whole[numpys].shape
    assert p.decoded - before == whole[numpys].size  # no more than what was asked


def test_what_is_decoded_is_what_is_asked(trained, monkeypatch):
    """Counted where the values are made, not by the matrix itself."""
    from scale_toolkit.core import decode

    made = []
    sigmoid = decode._sigmoid
    monkeypatch.setattr(decode, "_sigmoid", lambda logit: (made.append(logit.size), sigmoid(logit))[1])
    p = scale.imputed(trained)
    assert made == []
    p[:, p.peaks[3]]
    assert sum(made) == 90
    p[5, [1, 2]]
    assert sum(made) == 92 == p.decoded
    assert "92 values until now" in repr(p)


def test_cells_and_peaks_chosen_later_are_matched_by_name(trained):
    whole = scale.imputed(trained)
    peaks = list(whole.peaks[[30, 2, 77]])
    fewer = scale.imputed(trained[[7, 3], [*peaks, trained.var_names[0]]])
    assert list(fewer.peaks) == peaks  # the one that was not modelled has no column
    np.testing.assert_array_equal(np.asarray(fewer), whole[[7, 3], peaks])


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        ((0, "chr9:1-2"), InputError, r"1 of 1 peaks are missing: chr9:1-2; expected names such as chr2:1000-1500"),
        (["cell1", "no"], InputError, r"1 of 2 cells are missing: no; expected names such as cell0"),
        ((0, 195), IndexError, "peak 195 of 195"),
        ((0, [0, -196]), IndexError, "peaks -196 to 0 of 195"),
        (np.ones(3, bool), InputError, r"a mask of shape \(3,\); expected one value for each of the 90 cells"),
        (slice("cell0", "cell4"), InputError, "a slice of cell names"),
        (1.5, InputError, "1.5 does not name a cell"),
        ([[1, 2]], InputError, "does not name a cell"),
        (True, InputError, "a mask of shape"),
    ],
)
def test_a_key_that_names_nothing_is_told(trained, key, error, words):
    with pytest.raises(error, match=words):
        scale.imputed(trained)[key]


def test_a_mask_over_other_cells_is_told(trained):
    mask = pd.Series(np.ones(90, bool), index=trained.obs_names[::-1])
    with pytest.raises(InputError, match="a mask over other cells"):
        scale.imputed(trained)[mask]


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_a_name_that_is_there_twice_is_told(trained):
    twice = trained[[0, 1, 1]].copy()
    with pytest.raises(InputError, match="cell name 'cell1' is duplicated"):
        scale.imputed(twice)["cell1"]
    assert scale.imputed(twice)[2].shape == (195,)


def test_an_array_without_a_copy_cannot_be_had(trained):
    with pytest.raises(ValueError, match="copy=False is not possible"):
        np.asarray(scale.imputed(trained), copy=False)


def test_an_untrained_file_is_told_to_be_trained(planted):
    with pytest.raises(MissingSlotError, match=r"scale_bias.*run `scale train`"):
        scale.imputed(planted)


def test_a_backed_file_is_read_as_one_in_memory(trained, tmp_path):
    trained.write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_array_equal(scale.imputed(backed)[:, 3], scale.imputed(trained)[:, 3])
    backed.file.close()


@pytest.mark.filterwarnings("ignore:The set_bad function will be deprecated:PendingDeprecationWarning")  # scanpy's
def test_scanpy_plots_an_imputed_peak(trained):
    import matplotlib.pyplot as plt
    import scanpy as sc

    trained = trained.copy()
    trained.obsm["X_umap"] = np.asarray(trained.obsm["X_scale"])[:, :2]
    p = scale.imputed(trained)
    peak = p.peaks[11]
    small = p.to_adata(peaks=[peak], cells=trained.obs["group"] == "a")
    np.testing.assert_array_equal(np.asarray(small.X)[:, 0], p[trained.obs["group"] == "a", peak])
    assert list(small.var_names) == [peak] and "selected" in small.var
    with mpl.rc_context({"backend": "agg"}):
        axes = sc.pl.embedding(p.to_adata(peaks=peak), "X_umap", color=peak, show=False)
    plt.close(axes.figure)
    drawn = axes.collections[0].get_array()
    np.testing.assert_array_equal(np.sort(drawn), np.sort(p[:, peak]))
    assert not p.to_adata(peaks=0).is_view and "X_umap" in p.to_adata().obsm


def test_the_dask_view_has_the_same_values_and_decodes_chunks(trained):
    pytest.importorskip("dask.array")
    p = scale.imputed(trained)
    view = p.to_dask(chunks=(40, 100))
    assert view.shape == p.shape and view.dtype == p.dtype and p.decoded == 0
    column = view[:, 3].compute()
    assert p.decoded == 90 * 100
    np.testing.assert_array_equal(column, p[:, 3])
    np.testing.assert_array_equal(view.compute(), np.asarray(p))
    np.testing.assert_allclose(view.mean(axis=0).compute(), np.asarray(p).mean(axis=0), rtol=1e-5)


# --- impute: a part, and groups


def test_peaks_by_name_and_by_interval(trained):
    p = scale.imputed(trained)
    # peaks are chr(1 + j % 3):1000 j - 1000 j + 500
    asked = ["chr3:8000-8500", "chr1:2900-6001"]  # a peak; 3000 and, by one base, 6000
    made = scale.impute(trained.copy(), peaks=asked)
    assert list(made.uns["scale_imputed_peaks"]) == ["chr1:3000-3500", "chr1:6000-6500", "chr3:8000-8500"]
    np.testing.assert_array_equal(made.obsm["imputed"], p[:, list(made.uns["scale_imputed_peaks"])])
    assert made.shape == trained.shape
    assert scale.receipts(made)[-1]["notes"] == {"n_peaks": 3, "peaks": asked}
    edge = scale.impute(trained.copy(), peaks=["chr1:2900-6000"])  # half-open
    assert list(edge.uns["scale_imputed_peaks"]) == ["chr1:3000-3500"]


def test_a_chromosome_is_all_its_modelled_peaks(trained):
    made = scale.impute(trained.copy(), peaks=["chr2"], binary=True)
    expected = [name for name in scale.imputed(trained).peaks if name.startswith("chr2:")]
    assert list(made.uns["scale_imputed_peaks"]) == expected
    whole = scale.impute(trained.copy(), binary=True)
    columns = pd.Index(whole.uns["scale_imputed_peaks"]).get_indexer(expected)
    assert (made.obsm["binary"] != whole.obsm["binary"][:, columns]).nnz == 0


@pytest.mark.parametrize(
    ("peaks", "error", "words"),
    [
        (["nonsense", "chr1:3000-3500"], InputError, "nonsense: no such peak; expected names such as chr2:1000-1500"),
        (["chr7:1-2000"], InputError, r"no peak is on chr7; expected a chromosome of this genome \(chr1, chr2, chr3\)"),
        (["chr1:3600-3700"], NothingLeftError, "no modelled peak overlaps chr1:3600-3700"),
        (["chr1:9-5"], InputError, "ends before it starts"),
        (["chr1:0-500"], InputError, "chr1:0-500 was not modelled"),
    ],
)
def test_peaks_that_are_not_here_are_told(trained, peaks, error, words):
    with pytest.raises(error, match=words):
        scale.impute(trained.copy(), peaks=peaks)


def test_intervals_without_a_peak_beside_others_with_one_are_told(trained):
    words = "1 of 2 intervals overlap no modelled peak: chr1:3600-3700"
    trained = trained[trained.obs["group"].notna()].copy()
    with pytest.warns(ScaleWarning, match=words) as told:
        made = scale.impute(trained.copy(), peaks=["chr1:3600-3700", "chr1:2000-4000"], per_group="group", numeric=True)
    assert len([one for one in told if words in str(one.message)]) == 1  # the peaks are looked up once
    assert list(made.uns["scale_imputed_peaks"]) == ["chr1:3000-3500"]


def test_a_layer_of_some_peaks_is_refused(trained):
    with pytest.raises(OptionError, match="to is 'layers' and only some peaks are requested"):
        scale.impute(trained.copy(), peaks=["chr1"], to="layers")


@pytest.mark.parametrize("cells", ["group == 'a' and n_open > 0", ["cell4", "cell1"]])
def test_cells_by_query_and_by_barcode(trained, cells):
    trained = trained.copy()
    trained.obs["n_open"] = np.asarray((trained.X > 0).sum(1)).ravel()
    expected = trained.obs_names[trained.obs["group"] == "a"] if isinstance(cells, str) else ["cell1", "cell4"]
    made = scale.impute(trained, cells=cells)
    assert list(made.obs_names) == list(expected)
    np.testing.assert_array_equal(made.obsm["imputed"], scale.imputed(trained)[list(expected)])
    assert trained.n_obs == 90 and "imputed" not in trained.obsm
    assert scale.receipts(made)[-1]["notes"]["of_cells"] == 90


@pytest.mark.parametrize(
    ("cells", "error", "words"),
    [
        ("groop == 'a'", InputError, r"the query .*groop.* cannot be answered .*; expected an expression over obs \("),
        ("group ==", InputError, "cannot be answered"),
        ("@np.zeros(3)", InputError, "cannot be answered"),
        ("group", InputError, "is not a condition"),
        ("group == 'c'", NothingLeftError, "holds for none of 90 cells"),
        (["cell1", "x"], InputError, "1 of 2 cells are missing: x"),
    ],
)
def test_cells_that_are_not_here_are_told(trained, cells, error, words):
    with pytest.raises(error, match=words):
        scale.impute(trained.copy(), cells=cells)


@pytest.mark.parametrize("depth", ["equal", "own"])
def test_means_of_groups_are_the_means_of_the_dense_matrix(trained, monkeypatch, depth):
    from scale_toolkit.stages import group_means as module

    blocks = module.NumericRows
    monkeypatch.setattr(module, "NumericRows", lambda decoder, n_threads: blocks(decoder, block_bytes=7 * 4 * 195))
    told = []
    with pytest.warns(ScaleWarning, match="30 of 90 cells have a missing or blank group; their group is 'unlabelled'"):
        made = scale.impute(trained.copy(), per_group="group", depth=depth, progress=lambda *words: told.append(words))
    means = keys.GROUP_MEANS.get(made)
    assert "imputed" not in made.obsm
    assert list(means.columns) == ["b", "a", "unlabelled"]  # the categories' order, without unused ones
    modelled = trained.var["selected"].to_numpy()
    labels = trained.obs["group"].cat.add_categories("unlabelled").fillna("unlabelled")
    for name in means:
        expected = dense(trained, depth)[(labels == name).to_numpy()].mean(0)
        np.testing.assert_allclose(means[name].to_numpy()[modelled], expected, rtol=1e-6)
        assert means[name].to_numpy()[~modelled].tolist() == pytest.approx([np.nan] * 5, nan_ok=True)
    assert told[-1] == ("averaging by group", 90, 90) and len(told) == 13


def test_means_of_groups_of_some_peaks_and_cells(trained):
    made = scale.impute(trained.copy(), per_group="group", peaks=["chr1:3000-3500"], cells="group == 'a'", binary=True)
    means = keys.GROUP_MEANS.get(made).dropna()
    assert means.shape == (1, 1) and made.obsm["binary"].shape == (30, 1)


@pytest.mark.parametrize("blank", ["", "  ", None, np.nan])
def test_blank_and_missing_labels_are_a_group_of_their_own(trained, blank, tmp_path):
    cells = trained.copy()
    cells.obs["label"] = pd.Series(np.array(["T", "unlabelled", blank], object)[np.arange(90) % 3], index=cells.obs_names)
    with pytest.warns(ScaleWarning, match="30 of 90 cells have a missing or blank label"):
        made = scale.impute(cells, per_group="label")
    means = keys.GROUP_MEANS.get(made)
    assert list(means.columns) == ["T", "unlabelled"]
    modelled = trained.var["selected"].to_numpy()
    np.testing.assert_allclose(means["unlabelled"][modelled], dense(trained)[np.arange(90) % 3 > 0].mean(0), rtol=1e-6)
    made.write_h5ad(tmp_path / "a.h5ad")


def test_labels_that_are_equal_as_text_are_one_group(trained):
    cells = trained.copy()
    cells.obs["label"] = pd.Categorical(np.array([1, "1", 2], object)[np.arange(90) % 3], categories=[1, "1", 2])
    assert list(keys.GROUP_MEANS.get(scale.impute(cells, per_group="label")).columns) == ["1", "2"]


def test_nullable_columns_in_queries_and_masks(trained):
    cells = trained.copy()
    cells.obs["score"] = pd.array([1, 2, None] * 30, dtype="Int64")
    cells.obs["good"] = pd.array([True, False, None] * 30, dtype="boolean")
    cells.obs["kind"] = pd.array(["x", "y", None] * 30, dtype="string")
    for query, rest in [("score > 1", 1), ("good", 0), ("kind == 'x'", 0), ("score > 0 and good", 0)]:
        made = scale.impute(cells.copy(), cells=query)
        assert list(made.obs_names) == list(cells.obs_names[np.arange(90) % 3 == rest])
    p = scale.imputed(cells)
    np.testing.assert_array_equal(p[cells.obs["good"]], np.asarray(p)[np.arange(90) % 3 == 0])


@pytest.mark.parametrize(
    ("column", "words"),
    [("no", r"obs has no column 'no' .*; expected one of cell_type"), ("empty", r"obs\['empty'\] is empty in all")],
)
def test_a_column_without_groups_is_told(trained, column, words):
    trained = trained.copy()
    trained.obs["empty"] = pd.Categorical([None] * 90, categories=["a"])
    with pytest.raises(InputError, match=words):
        scale.impute(trained, per_group=column)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peaks": []}, "peaks is empty; expected at least one peak"),
        ({"peaks": [5]}, "expected a list of names or intervals"),
        ({"validate": True, "validate_by": "nope"}, r"obs has no column 'nope' \(validate_by\)"),
    ],
)
def test_a_choice_that_cannot_be_imputed_is_an_error(trained, options, message):
    with pytest.raises((InputError, NothingLeftError), match=message):
        scale.impute(trained.copy(), **options)


def test_an_unknown_depth_is_an_error(trained):
    with pytest.raises(OptionError, match="depth is 'deep'; expected one of equal, own"):
        scale.imputed(trained, depth="deep")
