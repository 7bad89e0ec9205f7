import json
import logging
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.errors import InputError, NothingLeftError, OptionError, ScaleWarning
from scale_toolkit.stages.prepare import prepare
from scale_toolkit.stages.receipts import digest, receipts


def cells_of(counts, barcodes=None, peaks=None, **kwargs):
    counts = np.asarray(counts, dtype=np.float32)
    n, m = counts.shape
    return AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame(index=barcodes or [f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=peaks or [f"chr1:{100 * j}-{100 * j + 50}" for j in range(m)]),
        **kwargs,
    )


KEEP_ALL = {"min_peaks": 0, "min_cells": 0}


def dense(adata):
    return adata.X.toarray()


# what is kept


@settings(deadline=None, max_examples=50)
@given(
    counts=hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 0, 1, 2, 5])),
    min_peaks=st.sampled_from([0, 1, 2, 3, 0.25, 0.5]),
    min_cells=st.sampled_from([0, 1, 2, 0.3]),
    form=st.sampled_from(["csr", "csc", "dense"]),
)
def test_filters_are_scanpys_cells_first(counts, min_peaks, min_cells, form):
    cells = cells_of(counts)
    expected = cells.copy()
    sc.pp.filter_cells(expected, min_genes=int(np.ceil(min_peaks * counts.shape[1])) if min_peaks < 1 else min_peaks)
    if expected.n_obs:
        least = int(np.ceil(min_cells * expected.n_obs)) if min_cells < 1 else min_cells
        sc.pp.filter_genes(expected, min_cells=least)
    cells.X = counts.copy() if form == "dense" else cells.X.asformat(form)
    if 0 in expected.shape:
        with pytest.raises(NothingLeftError):
            prepare(cells, min_peaks=min_peaks, min_cells=min_cells)
        return
    result = prepare(cells, min_peaks=min_peaks, min_cells=min_cells)
    assert result.obs_names.tolist() == expected.obs_names.tolist()
    assert result.var_names.tolist() == expected.var_names.tolist()
    kept = dense(expected)
    np.testing.assert_array_equal(dense(result), kept)
    np.testing.assert_array_equal(result.obs["n_peaks"], (kept > 0).sum(1))
    np.testing.assert_array_equal(result.obs["n_counts"], kept.sum(1))
    np.testing.assert_array_equal(result.var["n_cells"], (kept > 0).sum(0))
    assert (result.obs["n_peaks"].dtype, result.obs["n_counts"].dtype, result.var["n_cells"].dtype) == (
        "int64",
        "float64",
        "int64",
    )


def test_cells_go_before_peaks():
    # the second peak is open in two cells, one of which is too poor to stay
    counts = [[1, 1, 1], [1, 0, 1], [0, 1, 0]]
    assert prepare(cells_of(counts), min_peaks=2, min_cells=2).var_names.tolist() == ["chr1:0-50", "chr1:200-250"]


def test_a_fraction_is_not_undone_by_rounding():
    counts = np.zeros((2, 100))
    counts[0, :7] = 1  # 0.07 × 100 is 7.000000000000001
    counts[1, :6] = 1
    assert prepare(cells_of(counts), min_peaks=0.07, min_cells=1).obs_names.tolist() == ["c0"]


@pytest.mark.parametrize(
    ("name", "cells", "peaks"), [("bone_marrow", 364, 1724), ("tiny_two_lines", 119, None), ("leukemia", 352, None)]
)
def test_the_default_thresholds_on_real_cells(real, name, cells, peaks):
    result = prepare(real(name))
    assert result.n_obs == cells
    assert peaks is None or result.n_vars == peaks
    assert result.obs["cell_type"].notna().all()


def test_awkward_real_files(real):
    liver = prepare(real("liver_unlabelled"), min_peaks=1, min_cells=1)  # CSC, peak names are numbers
    assert isinstance(liver.X, sparse.csr_matrix)
    assert liver.var_names[0].isdigit()
    myoblasts = prepare(real("tiny_myoblasts"), min_peaks=1, min_cells=1)  # some cells have 3 peaks
    assert myoblasts.obs["n_peaks"].min() == 3


# what is written


def test_x_is_canonical_and_the_input_as_it_was():
    x = sparse.csr_matrix((np.array([2, 0, 1, 1, 3], np.float64), [2, 1, 0, 0, 1], [0, 2, 5]), shape=(2, 3))
    cells = AnnData(x.copy(), obs=pd.DataFrame(index=["a", "b"]), var=pd.DataFrame(index=["p", "q", "r"]))
    result = prepare(cells, **KEEP_ALL)
    assert dense(result).tolist() == [[0, 0, 2], [2, 3, 0]]
    assert result.X.dtype == np.float32
    assert result.X.nnz == 3
    assert result.X.has_canonical_format
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(cells.X, name), getattr(x, name))
    assert list(cells.obs) == []
    assert cells.uns == {}


def test_a_single_input_keeps_the_rest_cut_to_size():
    cells = cells_of(np.diag([1, 1, 0, 1]))
    cells.obs["cell_type"] = list("abcd")
    cells.var["gc"] = [0.1, 0.2, 0.3, 0.4]
    cells.obsm["X_pca"] = np.arange(8).reshape(4, 2)
    cells.varm["w"] = np.arange(4)[:, None]
    cells.layers["other"] = cells.X * 7
    cells.obsp["near"] = sparse.csr_matrix(np.arange(16).reshape(4, 4))
    cells.uns["note"] = {"a": [1]}
    result = prepare(cells, min_peaks=1, min_cells=1)
    assert result.obs["cell_type"].tolist() == ["a", "b", "d"]
    assert result.var["gc"].tolist() == [0.1, 0.2, 0.4]
    assert result.obsm["X_pca"].tolist() == [[0, 1], [2, 3], [6, 7]]
    assert result.varm["w"].ravel().tolist() == [0, 1, 3]
    assert result.layers["other"].toarray().tolist() == (np.eye(3) * 7).tolist()
    assert result.obsp["near"].toarray().tolist() == [[0, 1, 3], [4, 5, 7], [12, 13, 15]]
    result.uns["note"]["a"].append(2)
    assert cells.uns["note"]["a"] == [1]
    assert "batch" not in result.obs


def test_raw_is_left_out_and_said_so(caplog):
    cells = cells_of([[1, 2]])
    cells.raw = cells.copy()
    with caplog.at_level(logging.INFO, "scale_toolkit"):
        assert prepare(cells, **KEEP_ALL).raw is None
    assert "raw is left out" in caplog.text
    assert cells.raw is not None


def test_counts_of_a_layer():
    cells = cells_of([[1, 2], [3, 4]], layers={"counts": sparse.csc_matrix([[5, 0], [0, 6.0]])})
    assert dense(prepare(cells, layer="counts", **KEEP_ALL)).tolist() == [[5, 0], [0, 6]]
    assert dense(prepare(cells, **KEEP_ALL)).tolist() == [[1, 2], [3, 4]]
    del cells.X
    assert dense(prepare(cells, layer="counts", **KEEP_ALL)).tolist() == [[5, 0], [0, 6]]


def test_the_receipt_says_what_was_done():
    blacklist = pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [10]})
    result = prepare(cells_of(np.ones((3, 4))), min_peaks=1, min_cells=1, blacklist=blacklist)
    entry = receipts(result)[-1]
    assert entry["stage"] == "prepare"
    assert entry["options"]["min_peaks"] == 1
    notes = entry["notes"]
    assert (notes["cells_before"], notes["peaks_before"], notes["cells"], notes["peaks"]) == (3, 4, 3, 3)
    other = prepare(cells_of(np.ones((3, 4))), min_peaks=1, min_cells=1, blacklist=blacklist.assign(end=[20]))
    assert len(notes["blacklist"]) == 32
    assert receipts(other)[-1]["notes"]["blacklist"] != notes["blacklist"]
    assert json.loads(result.uns["scale_runtime"])[-1]["stage"] == "prepare"


@pytest.mark.parametrize(("min_peaks", "min_cells"), [(20, 30), (0.11, 0.3), (0, 0)])
def test_the_tallies_hold_what_was_left_out(plant, min_peaks, min_cells):
    cells = plant()
    prepared = prepare(cells, min_peaks=min_peaks, min_cells=min_cells)
    found = keys.QC.get(prepared)
    is_open = cells.X.toarray() > 0
    peaks_of_cells = is_open.sum(1)
    np.testing.assert_array_equal(np.repeat(found["cell_values"], found["cell_counts"]), np.sort(peaks_of_cells))
    cells_of_peaks = is_open[peaks_of_cells >= found["cell_least"]].sum(0)
    np.testing.assert_array_equal(np.repeat(found["peak_values"], found["peak_counts"]), np.sort(cells_of_peaks))
    assert found["cell_counts"][found["cell_values"] >= found["cell_least"]].sum() == prepared.n_obs
    assert found["peak_counts"][found["peak_values"] >= found["peak_least"]].sum() == prepared.n_vars
    if min_peaks == 0.11:
        assert found["cell_least"] == 33


def test_progress_is_told():
    told = []
    prepare([cells_of([[1]], ["a"]), cells_of([[1]], ["b"])], **KEEP_ALL, progress=lambda *step: told.append(step))
    assert told == [("reading counts", 1, 2), ("reading counts", 2, 2), ("filtering", 1, 1)]


# regions


PEAKS = ["chr1:100-200", "chr1_300_400", "chrX-5-9", "GL000194.1_55813_57169", "chrM:1-50"]


def test_chromosomes_are_dropped():
    result = prepare(cells_of([[1] * 5], peaks=PEAKS), **KEEP_ALL, drop_chromosomes=("chrX", "chrM"))
    assert result.var_names.tolist() == [PEAKS[0], PEAKS[1], PEAKS[3]]


@pytest.mark.parametrize(
    ("start", "end", "kept"), [(0, 100, True), (0, 101, False), (199, 500, False), (200, 300, True), (150, 160, False)]
)
def test_a_blacklisted_region_is_half_open(start, end, kept):
    blacklist = pd.DataFrame({"chrom": ["chr1"], "start": [start], "end": [end]})
    result = prepare(cells_of([[1] * 5], peaks=PEAKS), **KEEP_ALL, blacklist=blacklist)
    assert (PEAKS[0] in result.var_names) == kept


def test_a_fraction_is_of_the_peaks_outside_the_regions():
    counts = [[1, 1, 0, 0, 0], [1, 0, 0, 1, 0]]
    result = prepare(cells_of(counts, peaks=PEAKS), min_peaks=0.5, min_cells=0, drop_chromosomes=("chrX", "GL000194.1", "chrM"))
    assert result.obs_names.tolist() == ["c0", "c1"]


def test_regions_that_match_nothing_are_said():
    cells = cells_of([[1] * 5], peaks=PEAKS)
    with pytest.warns(ScaleWarning, match=r"no peak is on X \(peaks are on GL000194.1, chr1, chrM, chrX\)"):
        prepare(cells, **KEEP_ALL, drop_chromosomes=("X",))
    blacklist = pd.DataFrame({"chrom": ["1"], "start": [0], "end": [10**6]})
    with pytest.warns(ScaleWarning, match=r"no chromosome of the blacklist \(1\) has a peak"):
        prepare(cells, **KEEP_ALL, blacklist=blacklist)


def test_names_that_are_no_intervals_matter_only_where_they_are_needed(real):
    forebrain = real("forebrain")
    assert prepare(forebrain).n_vars > 0
    with pytest.raises(InputError, match=r"peak names are not intervals, first 'peak_.*leave out --drop-chromosomes"):
        prepare(forebrain, drop_chromosomes=("chrX",))


# several inputs


def two():
    first = cells_of([[1, 2, 0], [0, 3, 1]], ["a", "b"], ["p1", "p2", "p3"])
    second = cells_of([[4, 5, 0], [0, 6, 7]], ["c", "d"], ["p4", "p3", "p2"])
    first.obs["cell_type"] = ["x", "y"]
    second.obs["depth"] = [1, 2]
    return {"one": first, "two": second}


def test_inner_and_outer_join():
    inner = prepare(two(), **KEEP_ALL)
    assert inner.var_names.tolist() == ["p2", "p3"]
    assert dense(inner).tolist() == [[2, 0], [3, 1], [0, 5], [7, 6]]
    outer = prepare(two(), join="outer", **KEEP_ALL)
    assert outer.var_names.tolist() == ["p1", "p2", "p3", "p4"]
    assert dense(outer).tolist() == [[1, 2, 0, 0], [0, 3, 1, 0], [0, 0, 5, 4], [0, 7, 6, 0]]
    for result in (inner, outer):
        assert result.obs["batch"].astype(str).tolist() == ["one", "one", "two", "two"]
        assert result.obs["batch"].dtype == "category"
        assert result.obs["cell_type"].tolist()[:2] == ["x", "y"]
        assert result.obs["depth"].isna().tolist() == [True, True, False, False]
        assert result.X.has_canonical_format


def test_a_list_is_named_by_number_and_a_list_of_one_is_no_batch():
    assert prepare(list(two().values()), **KEEP_ALL).obs["batch"].astype(str).tolist() == ["0", "0", "1", "1"]
    assert "batch" not in prepare([two()["one"]], **KEEP_ALL).obs
    assert prepare({"only": two()["one"]}, **KEEP_ALL).obs["batch"].tolist() == ["only", "only"]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.sets(st.integers(0, 6), min_size=1)), min_size=2, max_size=4),
    st.sampled_from(["inner", "outer"]),
)
def test_joins_are_those_of_pandas(shapes, join):
    rng = np.random.default_rng(0)
    inputs = {
        f"b{i}": cells_of(
            rng.integers(0, 3, (n, len(peaks) + 1)), [f"{i}-{j}" for j in range(n)], [*[f"p{p}" for p in peaks], "common"]
        )
        for i, (n, peaks) in enumerate(shapes)
    }
    expected = pd.concat([one.to_df() for one in inputs.values()], join=join).fillna(0)
    result = prepare(inputs, join=join, **KEEP_ALL).to_df()
    pd.testing.assert_frame_equal(result[sorted(result)], expected[sorted(expected)].astype(np.float32), check_names=False)


def test_real_halves_come_together_again(real):
    blood = real("tiny_blood")
    whole = prepare(blood, min_peaks=1, min_cells=1)
    halves = prepare({"x": blood[:60], "y": blood[60:]}, min_peaks=1, min_cells=1)
    assert (whole.X != halves.X).nnz == 0
    assert halves.obs["cell_type"].astype(str).tolist() == whole.obs["cell_type"].astype(str).tolist()
    assert list(halves.var[["chrom", "start", "end"]]) == ["chrom", "start", "end"]


def test_shared_barcodes_get_the_batch_behind_them():
    inputs = two()
    inputs["two"].obs_names = ["b", "d"]
    with pytest.warns(ScaleWarning, match=r"^1 barcodes are in several inputs.*\(b -> b-one\)$"):
        result = prepare(inputs, **KEEP_ALL)
    assert result.obs_names.tolist() == ["a", "b-one", "b-two", "d"]
    assert inputs["two"].obs_names.tolist() == ["b", "d"]
    inputs["two"].obs_names = ["b", "b-one"]
    with warnings.catch_warnings(), pytest.raises(InputError, match="'b-one' is in several inputs, even with the batch"):
        warnings.simplefilter("ignore", ScaleWarning)
        prepare(inputs, **KEEP_ALL)


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_inputs_that_share_no_peak(join):
    inputs = two()
    inputs["two"].var_names = ["q1", "q2", "q3"]
    with pytest.raises(
        InputError, match=r"the 2 inputs share no peak \(first of one: p1, two: q1\); expected peaks of one set"
    ):
        prepare(inputs, join=join, **KEEP_ALL)


def test_three_inputs_that_overlap_in_pairs_only():
    inputs = {n: cells_of([[1, 1]], [n], peaks) for n, peaks in (("a", ["p", "q"]), ("b", ["q", "r"]), ("c", ["r", "p"]))}
    assert prepare(inputs, join="outer", **KEEP_ALL).var_names.tolist() == ["p", "q", "r"]
    with pytest.raises(InputError, match="the 3 inputs share no peak"):
        prepare(inputs, join="inner", **KEEP_ALL)


def test_the_digest_of_several_inputs_knows_names_and_order():
    one, other = cells_of([[1, 2]]), cells_of([[2, 1]])
    digests = {
        digest(inputs, (keys.X,)) for inputs in ([one, other], [other, one], {"a": one, "b": other}, {"b": one, "a": other})
    }
    assert len(digests) == 4
    assert digest({"a": one, "b": other}, (keys.X,)) == digest({"a": one.copy(), "b": other.copy()}, (keys.X,))


# what is no count matrix


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, r"X has 1 missing or infinite values, first nan \(cell c1, peak chr1:200-250\); expected a count everywhere"),
        (np.inf, "X has 1 missing or infinite values, first inf"),
        (-1, r"X has 1 negative values, first -1 \(cell c1, peak chr1:200-250\); expected counts of 0 or more"),
        (0.5, r"X has 1 fractional values, first 0.5 \(cell c1, peak chr1:200-250\); expected integer counts"),
    ],
)
def test_values_that_are_no_counts(form, value, words):
    counts = np.ones((3, 4), np.float32)
    counts[1, 2] = value
    cells = cells_of(counts)
    cells.X = counts if form == "dense" else sparse.csr_matrix(counts).asformat(form)
    for inputs, prefix in ((cells, "^"), ({"x": cells, "y": cells_of([[1]])}, "^input 'x': ")):
        with pytest.raises(InputError, match=prefix + words) as caught:
            prepare(inputs, **KEEP_ALL)
        assert "\n" not in str(caught.value)


def test_whole_numbers_of_any_type_are_counts():
    for dtype in (bool, np.uint8, np.int64, np.float64, np.float16):
        cells = AnnData(
            sparse.csr_matrix(np.eye(2, dtype=np.float32)).astype(dtype) if dtype != np.float16 else np.eye(2, dtype=dtype)
        )
        cells.obs_names, cells.var_names = ["a", "b"], ["p", "q"]
        assert dense(prepare(cells, **KEEP_ALL)).tolist() == [[1, 0], [0, 1]]


def test_fractional_values_point_to_the_layers():
    cells = cells_of([[0.5]], layers={"counts": sparse.csr_matrix([[1.0]])})
    with pytest.raises(InputError, match="give the raw counts, or name their layer; it is one of: counts"):
        prepare(cells, **KEEP_ALL)
    with pytest.raises(InputError, match="layers has no 'count'; expected one of: counts; name another layer"):
        prepare(cells, layer="count", **KEEP_ALL)


def test_no_matrix_at_all():
    cells = cells_of([[1]])
    del cells.X
    with pytest.raises(InputError, match="X is missing; expected counts"):
        prepare(cells, **KEEP_ALL)
    for empty in (cells_of(np.ones((0, 3))), cells_of(np.ones((3, 0)))):
        with pytest.raises(InputError, match=r"the matrix is empty \([03] cells × [03] peaks\)"):
            prepare(empty, **KEEP_ALL)
    for nothing in ([], {}):
        with pytest.raises(InputError, match="no input"):
            prepare(nothing, **KEEP_ALL)


def test_a_damaged_sparse_matrix():
    cells = cells_of([[1, 1]])
    cells.X.indices[0] = 99
    with pytest.raises(InputError, match=r"X is damaged \(.*\); expected a complete sparse matrix"):
        prepare(cells, **KEEP_ALL)


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_names_that_come_twice():
    with pytest.raises(
        InputError, match=r"the barcode 'a' is duplicated; expected unique barcodes; remove or rename"
    ):
        prepare(cells_of(np.ones((3, 1)), ["a", "b", "a"]), **KEEP_ALL)
    with pytest.raises(InputError, match=r"^input 'x': the peak 'p' and 1 more is duplicated"):
        prepare({"x": cells_of(np.ones((1, 4)), peaks=["p", "p", "q", "q"])}, **KEEP_ALL)


# nothing left


def test_no_cell_left_tells_what_there_is_and_what_would_do():
    counts = np.tril(np.ones((5, 5)))
    with pytest.raises(NothingLeftError) as caught:
        prepare(cells_of(counts), min_peaks=100)
    words = str(caught.value)
    assert "no cell of 5 reaches min_peaks 100; open peaks: lowest 1, quartiles 2, 3, 4, highest 5" in words
    assert words.endswith("min_peaks 3 would keep 3")
    assert prepare(cells_of(counts), min_peaks=3, min_cells=0).n_obs == 3


def test_no_peak_left():
    with pytest.raises(
        NothingLeftError, match=r"no peak of 3 reaches min_cells 10; cells it is open in: .*; min_cells 2 would keep 3"
    ):
        prepare(cells_of(np.ones((2, 3))), min_peaks=1)
    with pytest.raises(NothingLeftError, match=r"no cell of 2 reaches min_peaks 0.9 \(4 of 4\)"):
        prepare(cells_of(np.eye(2, 4)), min_peaks=0.9)


def test_an_input_without_a_read():
    with pytest.raises(NothingLeftError, match="highest 0; expected counts above 0"):
        prepare(cells_of(np.zeros((2, 3))))


def test_regions_that_leave_nothing():
    with pytest.raises(NothingLeftError, match=r"--drop-chromosomes would drop all 2 peaks \(on chr1\)"):
        prepare(cells_of([[1, 1]]), drop_chromosomes=("chr1",))


def test_options_are_checked():
    with pytest.raises(OptionError, match="min_peaks is -1; expected 0 or more"):
        prepare(cells_of([[1]]), min_peaks=-1)
    with pytest.raises(OptionError, match="join is 'left'; expected one of inner, outer"):
        prepare(cells_of([[1]]), join="left")


def test_a_file_on_disk_can_be_prepared(tmp_path):
    cells_of([[1, 0], [2, 3]]).write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    try:
        assert dense(prepare(backed, **KEEP_ALL)).tolist() == [[1, 0], [2, 3]]
    finally:
        backed.file.close()


def test_every_slot_of_the_contract_is_there():
    result = prepare(two(), **KEEP_ALL)
    assert [slot.name for slot in keys.all_slots() if slot.stage == "prepare" and not slot.found_in(result)] == []
