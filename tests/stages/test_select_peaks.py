from __future__ import annotations

import logging
import re
import subprocess
import sys
import warnings

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import scale_toolkit as scale
from scale_toolkit import errors, keys
from scale_toolkit.config import SelectPeaksConfig
from scale_toolkit.stages import _episcanpy, select_peaks

METHODS = ["variability", "episcanpy", "hvg", "tfidf-variance"]


def dense(adata):
    return adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)


def variability_by_numpy(counts):
    return 1 - np.abs((counts > 0).mean(0) - 0.5)


def tfidf_variance_by_numpy(counts):
    is_open = counts > 0
    tf = is_open / np.maximum(is_open.sum(1, keepdims=True), 1)
    return np.log1p(1e4 * tf * np.log(1 + len(counts) / np.maximum(is_open.sum(0), 1))).var(0)


def library_itself(adata, **options):
    """`select_var_feature` of episcanpy, called as its users do."""
    cells = anndata.AnnData(sparse.csr_matrix((dense(adata) > 0).astype(float)), var=pd.DataFrame(index=adata.var_names))
    pp = _episcanpy.load().pp
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pp.cal_var(cells, show=False)
        if "nb_features" in options and pd.__version__ >= "3":
            pytest.skip("pandas 3 refuses the library's look-up by position")
        return cells.var["variability_score"].to_numpy(), pp.select_var_feature(cells, show=False, copy=True, **options)


# Scores ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["planted", "leukemia", "tiny_blood"])
@pytest.mark.parametrize("method", ["variability", "episcanpy"])
def test_variability_is_episcanpys_score_to_the_last_bit(name, method, planted, request):
    adata = planted if name == "planted" else request.getfixturevalue("real")(name)
    result = scale.select_peaks(adata, method=method, mark_only=True)
    theirs, _ = library_itself(adata)
    np.testing.assert_array_equal(result.var["peak_score"], theirs)
    np.testing.assert_allclose(result.var["peak_score"], variability_by_numpy(dense(adata)), rtol=1e-12)


def test_same_peaks_as_the_library_save_its_ties(planted):
    _, theirs = library_itself(planted, nb_features=50)
    ours = scale.select_peaks(planted, n_peaks=50)
    assert ours.n_vars == 50
    assert set(ours.var_names) < set(theirs.var_names)  # the library always keeps the next one, and all that tie with it
    score = scale.select_peaks(planted, mark_only=True).var["peak_score"]
    left_out = score[theirs.var_names.difference(ours.var_names)]
    assert left_out.max() <= ours.var["peak_score"].min()


def test_library_selection_is_passed_on(planted):
    is_open = sparse.csr_matrix(planted.X > 0)
    for options in ({"nb_features": 30}, {"min_score": 0.6}):
        _, theirs = library_itself(planted, **options)
        ours = {"n_peaks": options.get("nb_features"), "min_score": options.get("min_score")}
        _, kept = _episcanpy.select_var_feature(is_open, **ours)
        assert list(planted.var_names[kept]) == list(theirs.var_names)


def test_tfidf_variance_by_dense_numpy(planted, monkeypatch):
    expected = tfidf_variance_by_numpy(dense(planted))
    whole = select_peaks_module().tfidf_variance(sparse.csr_matrix(planted.X > 0))
    np.testing.assert_allclose(whole, expected, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(select_peaks_module(), "BLOCK", 100)  # several blocks of rows, some of one row
    in_blocks = scale.select_peaks(planted, method="tfidf-variance", mark_only=True)
    np.testing.assert_allclose(in_blocks.var["peak_score"], expected, rtol=1e-9, atol=1e-12)


def select_peaks_module():
    return sys.modules["scale_toolkit.stages.select_peaks"]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_scores_of_any_matrix(seed, n_cells, n_peaks, share):
    """Also with empty cells, empty peaks, peaks open everywhere."""
    counts = (np.random.default_rng(seed).random((n_cells, n_peaks)) < share).astype(np.float32)
    is_open = sparse.csr_matrix(counts > 0)
    np.testing.assert_allclose(select_peaks_module().variability(is_open), variability_by_numpy(counts), atol=1e-15)
    np.testing.assert_allclose(select_peaks_module().tfidf_variance(is_open), tfidf_variance_by_numpy(counts), atol=1e-9)


def test_hvg_is_scanpys(planted):
    oracle = planted.copy()
    sc.pp.normalize_total(oracle, target_sum=1e4)
    sc.pp.log1p(oracle)
    sc.pp.highly_variable_genes(oracle, flavor="seurat", n_top_genes=40)
    result = scale.select_peaks(planted, method="hvg", n_peaks=40)
    expected = oracle.var["dispersions_norm"][oracle.var["highly_variable"]]
    assert list(result.var_names) == list(expected.index)
    np.testing.assert_allclose(result.var["peak_score"], expected, rtol=1e-6)


def test_hvg_ranks_empty_peaks_last_and_bears_empty_cells(planted):
    counts = dense(planted)
    counts[:, 7] = 0
    counts[3] = 0
    planted.X = sparse.csr_matrix(counts)
    filled = (counts > 0).any(0)
    # no warning of the empty cell: it was empty before
    marked = scale.select_peaks(planted, method="hvg", n_peaks=int(filled.sum()), mark_only=True)
    np.testing.assert_array_equal(np.isnan(marked.var["peak_score"]), ~filled)
    np.testing.assert_array_equal(marked.var["selected"], filled)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("as_type", [sparse.csc_matrix, sparse.csr_array, np.asarray, "stored zeros"])
def test_scores_are_the_same_for_every_kind_of_matrix(method, as_type, planted):
    expected = scale.select_peaks(planted, method=method, n_peaks=60)
    X = planted.X.toarray()
    if as_type == "stored zeros":
        rows, columns = np.nonzero(np.ones_like(X))
        planted.X = sparse.csr_matrix((X.ravel(), (rows, columns)), shape=X.shape)
        assert planted.X.nnz == X.size
    else:
        planted.X = as_type(X)
    result = scale.select_peaks(planted, method=method, n_peaks=60)
    pd.testing.assert_frame_equal(result.var, expected.var)


def test_counts_and_binary_score_alike_where_x_is_seen_as_open(planted):
    binary = planted.copy()
    binary.X = (planted.X > 0).astype(np.float32)
    for method in ("variability", "episcanpy", "tfidf-variance"):
        a, b = (scale.select_peaks(x, method=method, mark_only=True).var["peak_score"] for x in (planted, binary))
        np.testing.assert_array_equal(a, b)


# Selection -------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([0.5, 0.6, 0.7, np.nan]), min_size=1, max_size=20),
    st.integers(1, 25),
    st.sampled_from([None, 0.6]),
)
@settings(max_examples=100, deadline=None)
def test_best_takes_exactly_the_number_ties_in_order(score, n_peaks, min_score):
    score = np.array(score)
    chosen = select_peaks_module().best(score, n_peaks, min_score)
    ranked = sorted(range(len(score)), key=lambda j: (-score[j] if score[j] == score[j] else 9, j))[:n_peaks]
    assert set(np.flatnonzero(chosen)) == {j for j in ranked if min_score is None or score[j] >= min_score}


@pytest.mark.parametrize("method", METHODS)
def test_exactly_as_many_as_asked_in_the_files_order(method, planted):
    for n_peaks in (1, 10, 137):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", errors.ScaleWarning)  # cells without an open peak
            result = scale.select_peaks(planted, method=method, n_peaks=n_peaks)
        assert result.n_vars == n_peaks
        assert list(result.var_names) == [name for name in planted.var_names if name in set(result.var_names)]


def test_methods_choose_different_peaks(planted):
    chosen = {m: frozenset(scale.select_peaks(planted, method=m, n_peaks=60).var_names) for m in METHODS}
    assert chosen["variability"] == chosen["episcanpy"]  # the same score by two ways
    assert len(set(chosen.values())) == 3


@pytest.mark.parametrize("method", METHODS)
def test_min_score_changes_what_is_kept(method, planted):
    score = scale.select_peaks(planted, method=method, mark_only=True).var["peak_score"]
    cut = float(score.quantile(0.75))
    result = scale.select_peaks(planted, method=method, min_score=cut)
    assert list(result.var_names) == list(score.index[score >= cut])
    assert 0 < result.n_vars < planted.n_vars
    both = scale.select_peaks(planted, method=method, min_score=cut, n_peaks=50)
    assert both.n_vars == 50
    assert set(both.var_names) < set(result.var_names)


def test_mark_only_keeps_every_peak(planted):
    marked = scale.select_peaks(planted, n_peaks=60, mark_only=True)
    subset = scale.select_peaks(planted, n_peaks=60)
    assert marked.n_vars == planted.n_vars
    assert marked.var["selected"].dtype == bool
    assert marked.var["peak_score"].dtype == np.float64
    assert list(marked.var_names[marked.var["selected"]]) == list(subset.var_names)
    assert subset.var["selected"].all()
    np.testing.assert_array_equal(subset.X.toarray(), marked[:, marked.var["selected"]].X.toarray())


@pytest.mark.parametrize("options", [{"n_peaks": 60}, {"n_peaks": 60, "mark_only": True}, {}])
@pytest.mark.parametrize("method", METHODS)
def test_the_callers_anndata_stays_as_it_was(planted, method, options):
    planted.layers["counts"] = planted.X.copy()
    planted.uns["about"] = "me"
    before = planted.copy()
    result = scale.select_peaks(planted, method=method, **options)
    assert result is not planted
    np.testing.assert_array_equal(planted.X.toarray(), before.X.toarray())
    pd.testing.assert_frame_equal(planted.var, before.var)
    pd.testing.assert_frame_equal(planted.obs, before.obs)
    assert dict(planted.uns) == dict(before.uns)
    assert result.uns["about"] == "me"
    np.testing.assert_array_equal(result.layers["counts"].toarray(), result.X.toarray())
    result.obs["new"] = 1
    result.var["new"] = 1
    assert "new" not in planted.obs
    assert "new" not in planted.var


def test_nothing_large_is_copied_where_every_peak_stays(planted):
    planted.obsm["other"] = np.ones((planted.n_obs, 2))
    planted.raw = planted
    marked = scale.select_peaks(planted, n_peaks=60, mark_only=True)
    assert np.shares_memory(marked.X.data, planted.X.data)
    assert np.shares_memory(marked.obsm["other"], planted.obsm["other"])
    assert marked.raw.shape == planted.raw.shape
    assert list(marked.layers) == list(planted.layers)


def test_views_and_files_on_disk(planted, tmp_path):
    expected = scale.select_peaks(planted[10:].copy(), n_peaks=60)
    pd.testing.assert_frame_equal(scale.select_peaks(planted[10:], n_peaks=60).var, expected.var)
    planted[10:].copy().write_h5ad(tmp_path / "cells.h5ad")
    on_disk = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for method in METHODS:
        marked = scale.select_peaks(on_disk, n_peaks=60, method=method, mark_only=True)
        assert marked.var["selected"].sum() == 60
        subset = scale.select_peaks(on_disk, n_peaks=60, method=method)
        assert list(subset.var_names) == list(marked.var_names[marked.var["selected"]])
        assert not subset.isbacked
    on_disk.file.close()


def test_result_can_be_written_and_leaves_a_receipt(planted, tmp_path):
    result = scale.select_peaks(planted, n_peaks=60)
    result.write_h5ad(tmp_path / "out.h5ad")
    again = anndata.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(again.var, result.var)
    receipt = scale.receipts(again)[-1]
    assert receipt["stage"] == "select-peaks"
    assert receipt["options"]["n_peaks"] == 60
    assert receipt["notes"] == {
        "n_peaks_found": 300,
        "n_peaks_selected": 60,
        "lowest_score": result.var["peak_score"].min(),
    }


def test_a_second_selection_ranks_the_marked_peaks_anew(planted):
    marked = scale.select_peaks(planted, n_peaks=20, mark_only=True)
    assert scale.select_peaks(marked, n_peaks=60, mark_only=True).var["selected"].sum() == 60


# What the user is told -------------------------------------------------------------------------------------------------


def test_fewer_peaks_than_the_default_is_no_news(planted, caplog):
    with caplog.at_level(logging.INFO, "scale_toolkit"):
        assert scale.select_peaks(planted).n_vars == 300  # and no warning: warnings are errors here
    assert "asked for" not in caplog.text


def test_fewer_peaks_than_asked_is_a_warning(planted):
    with pytest.warns(errors.ScaleWarning, match="`n_peaks` is 301 and there are 300 peaks") as caught:
        assert scale.select_peaks(planted, n_peaks=301).n_vars == 300
    assert caught[0].filename == __file__


@pytest.mark.parametrize("method", METHODS)
def test_nothing_left_names_a_score_that_keeps_something(planted, method):
    words = f"no peak scores 1e\\+06 or more by {method}: scores range from"
    with pytest.raises(errors.NothingLeftError, match=words) as caught:
        scale.select_peaks(planted, method=method, min_score=1e6)
    proposal, n_kept = re.search(r"`min_score=(\S+)` would keep (\d+)", str(caught.value)).groups()
    result = scale.select_peaks(planted, method=method, min_score=float(proposal))
    assert result.n_vars == int(n_kept) > 0


def test_nothing_left_where_scores_are_not_numbers():
    cells = anndata.AnnData(sparse.csr_matrix((5, 30), dtype=np.float32))
    with pytest.raises(errors.NothingLeftError, match="no peak has a score by `method=hvg`"):
        scale.select_peaks(cells, method="hvg", min_score=0)


def trained(adata, modelled):
    keys.LATENT.set(adata, np.zeros((adata.n_obs, 3), dtype=np.float32))
    keys.DECODER.set(adata, np.zeros((adata.n_vars, 3), dtype=np.float32))
    keys.BIAS.set(adata, np.where(modelled, 0.0, np.nan).astype(np.float32))
    return adata


def test_a_trained_model_of_other_peaks_is_kept_with_a_warning(planted):
    cells = trained(planted, np.ones(300, dtype=bool))
    with pytest.warns(errors.ScaleWarning, match=r"obsm\['X_scale'\] .* were made from 300 peaks, 60 of them selected now"):
        result = scale.select_peaks(cells, n_peaks=60)
    assert result.varm["scale_decoder"].shape == (60, 3)
    assert keys.LATENT.found_in(result)


def test_a_trained_model_of_the_same_peaks_needs_no_warning(planted):
    marked = scale.select_peaks(planted, n_peaks=60, mark_only=True)
    cells = trained(marked, marked.var["selected"].to_numpy())
    scale.select_peaks(cells, n_peaks=60)  # warnings are errors here
    with pytest.warns(errors.ScaleWarning, match="60 peaks, 30 of them selected now"):
        scale.select_peaks(cells, n_peaks=30, mark_only=True)


def test_cells_left_without_an_open_peak_are_counted(planted):
    with pytest.warns(
        errors.ScaleWarning, match=r"(\d+) of 120 cells have none of their open peaks among the 2 selected"
    ) as caught:
        result = scale.select_peaks(planted, n_peaks=2)
    empty = int((dense(result) == 0).all(1).sum())
    (message,) = [str(w.message) for w in caught if w.category is errors.ScaleWarning]
    assert message.startswith(f"{empty} of 120")


@pytest.mark.parametrize(
    ("X", "words"),
    [
        (np.array([[1.0, -2.0], [0, 1]]), "X ranges from -2 to 1; expected counts of 0 or more"),
        (np.array([[1.0, np.nan], [0, 1]]), "X ranges from nan to nan"),
        (np.array([[1.0, np.inf], [0, 1]]), "X ranges from 0 to inf|X ranges from 1 to inf"),
        (np.zeros((0, 3)), "X is 0 cells × 3 peaks; expected one or more of each"),
        (np.zeros((3, 0)), "X is 3 cells × 0 peaks"),
    ],
)
def test_matrices_that_are_no_counts(X, words):
    with pytest.raises(errors.InputError, match=words):
        scale.select_peaks(anndata.AnnData(sparse.csr_matrix(X)))


def test_no_x_at_all():
    cells = anndata.AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["p"]))
    with pytest.raises(errors.InputError, match="X is empty; expected counts"):
        select_peaks.select_peaks.__wrapped__(cells, SelectPeaksConfig())


# episcanpy -------------------------------------------------------------------------------------------------------------


def test_what_the_library_misses_is_put_back_only_for_its_import():
    """In a fresh interpreter, as the library is imported once; figure settings and the streams stay as they were."""
    code = """
import anndata, matplotlib, numpy, sys, warnings
matplotlib.rcParams["font.size"] = 7.5
before = dict(matplotlib.rcParams), set(vars(numpy)), set(vars(anndata))
from scale_toolkit.stages import _episcanpy
assert "episcanpy" not in sys.modules
library = _episcanpy.load()
after = dict(matplotlib.rcParams), set(vars(numpy)), set(vars(anndata))
assert before[0] == after[0], "figure settings"
assert not {"NaN"} & after[1], "numpy"
assert "read" not in after[2], "anndata"
assert callable(library.pp.select_var_feature)
import matplotlib.pyplot as plt
assert not plt.get_fignums()
"""
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_library_opens_no_figure_and_prints_nothing(planted, capfd):
    scale.select_peaks(planted, method="episcanpy", n_peaks=60)
    import matplotlib.pyplot as plt

    assert not plt.get_fignums()
    assert capfd.readouterr() == ("", "")
    assert mpl.rcParams["font.size"] == mpl.rcParamsDefault["font.size"]


def test_a_library_that_cannot_be_imported(planted, monkeypatch):
    monkeypatch.setitem(sys.modules, "episcanpy", None)
    with pytest.raises(errors.ScaleError, match=r"episcanpy cannot be imported .*; use `method=variability`"):
        scale.select_peaks(planted, method="episcanpy")
