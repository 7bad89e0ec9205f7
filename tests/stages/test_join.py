"""Nothing of the user's is lost in `prepare`: columns, spellings, raw counts, values under this stage's names."""

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scale_toolkit as scale
from scale_toolkit.core.intervals import match_names
from scale_toolkit.errors import InputError, OptionError, ScaleWarning
from scale_toolkit.stages.verify import verify

KEEP_ALL = {"min_peaks": 1, "min_cells": 1}
PEAKS = ["chr1:1000-1500", "chr1:2000-2500", "chr2:1000-1500"]


def cells(names, counts=None, peaks=PEAKS, **obs):
    counts = np.ones((len(names), len(peaks)), np.float32) if counts is None else np.asarray(counts, np.float32)
    return AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame(obs, index=names), var=pd.DataFrame(index=peaks))


def prepared(*inputs, **options):
    return scale.prepare(list(inputs) if len(inputs) > 1 else inputs[0], **KEEP_ALL, **options)


def test_the_users_batch_is_kept_on_a_join():
    with pytest.warns(ScaleWarning, match=r"obs\['batch'\] of the inputs is kept as obs\['batch_original'\]"):
        joined = prepared(cells(["a", "b"], batch=["x", "y"]), cells(["c"], batch=["z"]))
    assert joined.obs["batch_original"].tolist() == ["x", "y", "z"]
    assert joined.obs["batch"].tolist() == ["0", "0", "1"]


def test_a_name_that_is_taken_too_gets_a_number():
    first = cells(["a"], batch=["x"], batch_original=["y"])
    with pytest.warns(ScaleWarning, match="batch_original_2"):
        joined = prepared(first, cells(["c"]))
    assert joined.obs["batch_original_2"].tolist()[0] == "x"
    assert joined.obs["batch_original"].tolist()[0] == "y"


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ([1, 2], ["x"], ["1", "2", "x"]),
        ([True, False], ["x"], ["True", "False", "x"]),
        (pd.Categorical([1, 2]), pd.Categorical(["x"]), ["1", "2", "x"]),
        ([1.5, np.nan], ["x"], ["1.5", None, "x"]),
    ],
)
def test_columns_of_different_kinds_become_text(tmp_path, first, second, wanted):
    with pytest.warns(ScaleWarning, match=r"obs\[column\] has values of different kinds"):
        joined = prepared(cells(["a", "b"], column=first), cells(["c"], column=second))
    joined.write_h5ad(tmp_path / "a.h5ad")
    column = anndata.read_h5ad(tmp_path / "a.h5ad").obs["column"].astype(object)
    assert column.where(column.notna(), None).tolist() == wanted


@pytest.mark.parametrize(
    ("first", "second"),
    [([1, 2], [3]), ([1, 2], [2.5]), (["x", "y"], pd.Categorical(["x"])), (pd.Categorical(["x", "y"]), pd.Categorical(["z"]))],
)
def test_columns_of_one_kind_stay_what_they_are(tmp_path, first, second):
    joined = prepared(cells(["a", "b"], column=first), cells(["c"], column=second))
    assert joined.obs["column"].tolist() == [*first, *second]


def test_a_flag_that_one_input_lacks_stays_a_flag(tmp_path):
    joined = prepared(cells(["a", "b"], flag=[True, False]), cells(["c"]))
    joined.write_h5ad(tmp_path / "a.h5ad")
    assert anndata.read_h5ad(tmp_path / "a.h5ad").obs["flag"].tolist()[:2] == [True, False]
    assert joined.obs["flag"].isna().tolist() == [False, False, True]


def test_peaks_are_matched_by_interval_if_their_spelling_differs():
    other = [name.replace(":", "-") for name in reversed(PEAKS)]
    counts = [[1, 2, 3]]
    with pytest.warns(ScaleWarning, match=r"3 peaks of '1' are spelled in another way .*chr2-1000-1500 -> chr2:1000-1500"):
        joined = prepared(cells(["a"], counts), cells(["b"], counts, other))
    assert joined.var_names.tolist() == PEAKS
    assert joined.X.toarray().tolist() == [[1, 2, 3], [3, 2, 1]]


def test_match_names():
    names = pd.Index(["chr1-1-2", "x", "chr1:5-6", "chr1-5-6"], dtype=object)
    assert match_names(["chr1:1-2", "x", "chr1_5_6", "y", "chr1-5-6"], names).tolist() == [0, 1, -1, -1, 3]


def test_raw_is_a_source_of_counts():
    adata = cells(["a", "b"], [[0.5, 1.5, 0], [0, 0.1, 1]])
    adata.raw = cells(["a", "b"], np.ones((2, 4)), [*PEAKS, "chr9:1-2"])
    with pytest.raises(InputError, match=r"fractional.*raw \(it holds counts\)"):
        prepared(adata)
    result = prepared(adata, layer="raw")
    assert result.var_names.tolist() == [*PEAKS, "chr9:1-2"]
    assert result.X.toarray().tolist() == np.ones((2, 4)).tolist()
    with pytest.raises(InputError, match="raw is missing"):
        prepared(cells(["a"]), layer="raw")


def test_values_under_the_names_of_this_stage_are_kept():
    adata = cells(["a", "b"], n_counts=[7, 8])
    adata.var["n_cells"], adata.uns["scale"], adata.uns["scale_qc"] = 9, {"factor": 2}, "mine"
    with pytest.warns(ScaleWarning, match=r"were kept: uns\['scale'\] as 'scale_original', .*'n_counts_original'"):
        result = prepared(adata)
    assert result.obs["n_counts_original"].tolist() == [7, 8]
    assert result.obs["n_counts"].tolist() == [3, 3]
    assert result.var["n_cells_original"].tolist() == [9] * 3
    assert result.uns["scale_original"] == {"factor": 2}
    assert result.uns["scale_qc_original"] == "mine"
    prepared(result)  # what this stage wrote is replaced without a word


def test_features_that_are_not_peaks_are_dropped_before_their_names_are_looked_at(caplog):
    adata = cells(["a"], [[1, 2, 3, 4]], [*PEAKS[:2], "GENE", "GENE_"])
    adata.var_names = [*PEAKS[:2], "GENE", "GENE"]
    adata.var["feature_types"] = ["Peaks", "Peaks", "Gene Expression", "Gene Expression"]
    with caplog.at_level("INFO", "scale_toolkit"):
        result = prepared(adata)
    assert result.var_names.tolist() == PEAKS[:2]
    assert "kept 2 peaks; dropped 2 features of type Gene Expression" in caplog.text
    adata.var["feature_types"] = "Gene Expression"
    with pytest.raises(InputError, match="has no peaks"):
        prepared(adata)


def test_metadata_is_added_by_barcode():
    table = pd.DataFrame({"donor": ["x", "y"], "age": [3.0, 4.0]}, index=["b", "a"])
    result = prepared(cells(["a", "b"]), metadata=table)
    assert result.obs["donor"].tolist() == ["y", "x"]
    with (
        pytest.warns(ScaleWarning, match="1 of 2 cells are not in the metadata"),
        pytest.warns(ScaleWarning, match="that of the metadata is called 'age_metadata'"),
    ):
        result = prepared(cells(["a", "z"], age=[1, 2]), metadata=table)
    assert result.obs["age"].tolist() == [1, 2]
    np.testing.assert_array_equal(result.obs["age_metadata"], [4, np.nan])
    with pytest.raises(InputError, match="no cell is in the metadata"):
        prepared(cells(["q"]), metadata=table)


def test_a_selection_that_select_peaks_did_not_make_is_reported(planted):
    planted.var["selected"] = np.arange(planted.n_vars) < 60
    with pytest.warns(ScaleWarning, match=r"modelling 60 of 300 peaks, by var\['selected'\].*all_peaks=True"):
        some = scale.train(planted.copy(), n_components=2, max_iter=3)
    every = scale.train(planted.copy(), n_components=2, max_iter=3, all_peaks=True)
    assert np.isfinite(some.var["scale_bias"]).sum() == 60
    assert np.isfinite(every.var["scale_bias"]).all()
    assert every.var["selected_original"].sum() == 60
    assert "selected" not in every.var


def test_all_peaks_can_be_selected_by_minus_one(planted):
    assert scale.select_peaks(planted, n_peaks=-1).n_vars == planted.n_vars
    with pytest.raises(OptionError, match="n_peaks is 0; expected 1 or more, or -1 for all"):
        scale.select_peaks(planted, n_peaks=0)


def test_names_of_peaks_that_are_not_intervals_are_reported(caplog):
    prepared(cells(["a", "b"], peaks=["p1", "p2", "chr1:1-2"]))
    assert "no peak name is an interval" not in caplog.text
    prepared(cells(["a", "b"], peaks=["p1", "p2", "p3"]))
    assert "no peak name is an interval (first: 'p1')" in caplog.text


def test_records_of_another_program_are_verified():
    adata = cells(["a", "b"])
    scores = np.array([(0.5, 1.5), (2.5, np.nan)], [("x", "f8"), ("y", "f8")])
    adata.uns["rank_genes_groups"] = {"scores": scores, "names": scores.astype([("x", "U9"), ("y", "U9")])}
    result = prepared(adata)
    assert verify(result, adata).reproduced
    result.uns["rank_genes_groups"]["scores"]["x"][0] = 7
    assert not verify(result, adata).reproduced


def test_metadata_named_as_a_figure_of_this_stage_is_kept_under_another_name():
    table = pd.DataFrame({"n_counts": [700, 800], "n_counts_metadata": [1, 2]}, index=["a", "b"])
    with pytest.warns(ScaleWarning, match="that of the metadata is called 'n_counts_metadata_'"):
        result = prepared(cells(["a", "b"]), metadata=table)
    assert result.obs["n_counts_metadata_"].tolist() == [700, 800]
    assert result.obs["n_counts_metadata"].tolist() == [1, 2]
    assert result.obs["n_counts"].tolist() == result.X.sum(axis=1).A1.tolist()
