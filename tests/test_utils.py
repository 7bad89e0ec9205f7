from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import scale_toolkit
from scale_toolkit import errors, keys, utils
from scale_toolkit.core.specificity import specificity_of_counts

RELEASE = [
    "read_labels",
    "gene_filter_",
    "sort_by_mad",
    "peak_filter",
    "cell_filter",
    "sample_filter",
    "estimate_k",
    "get_decoder_weight",
    "peak_selection",
    "pairwise_pearson",
    "reassign_cluster_with_ref",
    "cluster_report",
    "binarization",
    "jsd",
    "jsd_sp",
    "log2norm",
    "predefined_pattern",
    "vec_specificity_score",
    "mat_specificity_score",
    "cluster_specific",
]


@pytest.mark.parametrize("name", RELEASE)
def test_names_of_the_release_are_here(name):
    assert callable(getattr(utils, name))
    assert name in utils.__all__


def test_package_hands_out_utils():
    assert scale_toolkit.utils is utils


# estimate_k ------------------------------------------------------------------------------------------------------------


def blocks(n_groups, n_cells=90, n_peaks=400, seed=0):
    """Peaks × cells with `n_groups` orthogonal groups, and noise."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(n_peaks, n_cells))
    for g in range(n_groups):
        data[np.arange(n_peaks) % n_groups == g, g * n_cells // n_groups : (g + 1) * n_cells // n_groups] += 6
    return data


def k_by_numpy(data, bound):
    """SC3's recipe, written out on the dense matrix."""
    p, n = data.shape
    x = (data - data.mean(0)) / data.std(0, ddof=1)
    mu = (np.sqrt(n - 1) + np.sqrt(p)) ** 2
    sigma = (np.sqrt(n - 1) + np.sqrt(p)) * (1 / np.sqrt(n - 1) + 1 / np.sqrt(p)) ** (1 / 3)
    c = np.sqrt(p) if bound == "scale" else 3.273
    return int((np.linalg.eigvalsh(x.T @ x) > mu + c * sigma).sum())


@pytest.mark.parametrize("bound", ["scale", "sc3"])
@pytest.mark.parametrize("as_type", [np.asarray, sparse.csr_matrix, sparse.csc_array, pd.DataFrame])
def test_estimate_k_is_the_recipe_on_the_dense_matrix(bound, as_type, planted):
    data = planted.X.toarray().T
    expected = k_by_numpy(data, bound)
    assert utils.estimate_k(as_type(data), bound=bound) == expected


def test_estimate_k_finds_more_than_six_groups():
    """The release stops at six."""
    data = blocks(9)
    assert utils.estimate_k(data) == k_by_numpy(data, "scale") >= 7


@pytest.mark.parametrize("n_groups", [3, 9, 25])
def test_estimate_k_of_many_cells_needs_no_gram_matrix(n_groups):
    """25 groups are more eigenvalues than the first try asks for."""
    data = blocks(n_groups, n_cells=150)
    assert utils.estimate_k(data, bound="sc3", dense_up_to=0) == utils.estimate_k(data, bound="sc3") >= n_groups - 1
    assert utils.estimate_k(sparse.csr_matrix(data), dense_up_to=0) == utils.estimate_k(data)


def test_estimate_k_of_noise_is_none():
    assert utils.estimate_k(np.random.default_rng(0).normal(size=(500, 60)), bound="sc3") <= 1


def test_estimate_k_bounds_differ(real):
    leukemia = real("leukemia")
    assert utils.estimate_k(leukemia) < utils.estimate_k(leukemia, bound="sc3")


def test_estimate_k_takes_the_open_peaks_of_an_anndata(planted):
    assert utils.estimate_k(planted, bound="sc3") == k_by_numpy((planted.X.toarray().T > 0).astype(float), "sc3")


def test_estimate_k_bears_cells_that_are_all_alike():
    data = blocks(3)
    data[:, 0] = 0
    data[:, 1] = 2
    assert utils.estimate_k(data) >= 2


def test_estimate_k_errors():
    with pytest.raises(errors.OptionError, match="bound is 'sc4'; expected one of scale, sc3"):
        utils.estimate_k(blocks(2), bound="sc4")
    with pytest.raises(errors.InputError, match="1 peaks × 5 cells; expected at least two of each"):
        utils.estimate_k(np.ones((1, 5)))


# binarization ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_type", [np.asarray, sparse.csr_matrix])
def test_binarization_by_rates_of_open_peaks(planted, as_type):
    counts = planted.X.toarray()
    imputed = np.random.default_rng(1).random(counts.shape).astype(np.float32) * 0.3
    is_open = counts > 0
    expected = (imputed > is_open.mean(1)[:, None]) & (imputed > is_open.mean(0)[None, :])
    result = utils.binarization(imputed, as_type(counts))
    assert result.format == "csr"
    assert result.dtype == np.int8
    np.testing.assert_array_equal(result.toarray(), expected)
    assert 0 < expected.mean() < 1
    by_counts = (imputed > counts.mean(1)[:, None]) & (imputed > counts.mean(0)[None, :])
    assert by_counts.sum() < expected.sum()  # what the release would have given


def test_binarization_of_a_dataframe_keeps_its_labels(planted):
    raw = planted.to_df().T
    imputed = raw / (raw.to_numpy().max() + 1)
    result = utils.binarization(imputed, raw)
    assert list(result.index) == list(raw.index)
    assert list(result.columns) == list(raw.columns)
    np.testing.assert_array_equal(result.to_numpy(), utils.binarization(imputed.to_numpy(), raw.to_numpy()).toarray())


def test_binarization_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    imputed = rng.random((3, 2_000_001))
    raw = sparse.random(3, 2_000_001, density=0.001, random_state=rng, format="csr")
    result = utils.binarization(imputed, raw)
    is_open = raw.toarray() != 0
    np.testing.assert_array_equal(result.toarray(), (imputed > is_open.mean(1)[:, None]) & (imputed > is_open.mean(0)))


def test_binarization_of_two_shapes():
    with pytest.raises(errors.InputError, match=r"imputed is \(2, 3\) and raw is \(3, 2\)"):
        utils.binarization(np.ones((2, 3)), np.ones((3, 2)))


# Decoder weights -------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(planted):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(planted.n_vars, 12)).astype(np.float32)
    bias = rng.normal(size=planted.n_vars).astype(np.float32)
    weights[:20], bias[:20] = 0, np.nan  # not modelled
    keys.DECODER.set(planted, weights)
    keys.BIAS.set(planted, bias)
    return planted


@pytest.mark.parametrize(
    ("kind", "side"), [("both", np.abs), ("pos", lambda z: z), ("neg", np.negative)], ids=["both", "pos", "neg"]
)
@pytest.mark.parametrize("cutoff", [1.5, 2.5])
def test_peak_selection_by_z_score(trained, kind, side, cutoff):
    weight, names = np.asarray(trained.varm["scale_decoder"])[20:], trained.var_names[20:]
    chosen = utils.peak_selection(trained, kind=kind, cutoff=cutoff)
    assert len(chosen) == 12  # every dimension; the release stops at ten
    for column, got in zip(scipy.stats.zscore(weight.astype(float)).T, chosen):
        assert list(got) == list(names[side(column) > cutoff])
    plain = utils.peak_selection(weight, names, kind, cutoff)
    assert [list(a) for a in plain] == [list(a) for a in chosen]


def test_peak_selection_gives_positions_where_there_are_no_names():
    weight = np.zeros((50, 2))
    weight[7, 0] = weight[9, 1] = 5
    assert [list(found) for found in utils.peak_selection(weight)] == [[7], [9]]
    assert [list(f) for f in utils.peak_selection(pd.DataFrame(weight, index=[f"p{i}" for i in range(50)]))] == [["p7"], ["p9"]]


def test_peak_selection_errors(trained, planted):
    with pytest.raises(errors.OptionError, match="kind is 'up'"):
        utils.peak_selection(trained, kind="up")
    with pytest.raises(errors.InputError, match="3 peak names and 5 rows"):
        utils.peak_selection(np.ones((5, 2)), ["a", "b", "c"])
    with pytest.raises(errors.MissingSlotError, match="run `scale train`"):
        utils.peak_selection(anndata.AnnData(np.ones((2, 2))))


def test_decoder_weight_of_the_anndata(trained):
    np.testing.assert_array_equal(utils.get_decoder_weight(trained), trained.varm["scale_decoder"])
    with pytest.raises(errors.InputError, match=r"got a str; expected an AnnData; `scale train` writes the weights to varm"):
        utils.get_decoder_weight("model.pt")


# Specificity -----------------------------------------------------------------------------------------------------------

positive = st.lists(st.floats(0.001, 10), min_size=2, max_size=8)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_jsd_is_the_mean_entropy_to_the_middle(data):
    p = np.array(data.draw(positive))
    q = np.array(data.draw(st.lists(st.floats(0.001, 10), min_size=len(p), max_size=len(p))))
    base = data.draw(st.sampled_from([np.e, 2, 10]))
    p_, q_ = p / p.sum(), q / q.sum()
    m = (p_ + q_) / 2
    oracle = (scipy.stats.entropy(p_, m, base=base) + scipy.stats.entropy(q_, m, base=base)) / 2
    assert utils.jsd(p, q, base) == pytest.approx(oracle, abs=1e-9)
    assert utils.jsd(p, q, base) == pytest.approx(utils.jsd(q, p, base), abs=1e-12)
    assert utils.jsd_sp(p, q, base) == pytest.approx(1 - np.sqrt(max(oracle, 0)), abs=1e-4)


def test_specificity_obeys_its_base():
    """The release always takes e."""
    assert utils.jsd_sp([1, 0], [0, 1], base=2) == pytest.approx(0)
    assert utils.jsd_sp([1, 0], [0, 1]) == pytest.approx(1 - np.sqrt(np.log(2)))


@pytest.mark.parametrize("as_type", [pd.DataFrame, np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_matrix_of_specificity_is_one_peak_after_the_other(as_type):
    rng = np.random.default_rng(3)
    mat = rng.poisson(0.7, (40, 25)).astype(float)
    mat[:, 0] += 1  # no empty peak
    mat[5] = 1  # open in all cells
    labels = np.array(list("abcab") * 5)
    scores = utils.mat_specificity_score(as_type(mat), labels)
    expected = [[utils.vec_specificity_score(row, t, labels) for t in "abc"] for row in mat]
    np.testing.assert_allclose(scores, expected, atol=1e-9)
    assert list(scores.columns) == ["a", "b", "c"]


def test_specificity_is_one_for_the_perfect_peak_and_nan_for_an_empty_one():
    labels = np.array([0, 0, 1, 1])
    scores = utils.mat_specificity_score(np.array([[2, 2, 0, 0], [0, 0, 0, 0]]), labels).to_numpy()
    np.testing.assert_allclose(scores[0], [1, 1 - np.sqrt(np.log(2))])
    assert np.isnan(scores[1]).all()


def test_specificity_of_an_anndata_leaves_out_cells_without_label(planted):
    keys.CLUSTER.set(planted, planted.obs["cell_type"].cat.reorder_categories(["type2", "type0", "type1"]))
    planted.obs.loc["cell0", "scale_cluster"] = np.nan
    scores = utils.specificity(planted)
    assert list(scores.columns) == ["type2", "type0", "type1"]
    assert list(scores.index) == list(planted.var_names)
    is_open = (planted.X.toarray()[1:] > 0).astype(float).T
    expected = utils.mat_specificity_score(is_open, planted.obs["cell_type"][1:].to_numpy().astype(str))
    np.testing.assert_allclose(scores[expected.columns], expected)
    pd.testing.assert_frame_equal(utils.specificity(planted[1:], "cell_type"), scores[["type0", "type1", "type2"]])


def test_specificity_errors(planted):
    with pytest.raises(errors.MissingSlotError, match="run `scale cluster`"):
        utils.specificity(planted)
    with pytest.raises(errors.MissingSlotError, match=r"obs\['type'\] is missing; expected one of cell_type"):
        utils.specificity(planted, "type")
    with pytest.raises(errors.InputError, match="3 columns and 2 labels"):
        utils.mat_specificity_score(np.ones((2, 3)), [0, 1])
    with pytest.raises(errors.InputError, match="holds -1"):
        utils.mat_specificity_score(-np.ones((2, 2)), [0, 1])


def test_planted_peaks_are_specific(planted):
    """Peaks cluster, cluster + 10, … are planted in that cluster."""
    scores = utils.specificity(planted, "cell_type")
    best, labels = utils.cluster_specific(scores, top=10)
    assert len(best) == 30
    assert list(labels) == [0] * 10 + [1] * 10 + [2] * 10
    assert np.mean(best % 10 == labels) > 0.8


def test_cluster_specific_options():
    scores = pd.DataFrame([[0.9, 0.1], [0.2, 0.3], [0.5, 0.1], [np.nan, np.nan], [0.1, 0.8]])
    best, labels = utils.cluster_specific(scores)
    assert list(best) == [2, 0, 1, 4]
    assert list(labels) == [0, 0, 1, 1]
    assert [list(x) for x in utils.cluster_specific(scores, top=1)] == [[0, 4], [0, 1]]
    assert [list(x) for x in utils.cluster_specific(scores, classes=[1])] == [[1, 4], [1, 1]]


def test_pairwise_pearson_by_scipy():
    rng = np.random.default_rng(0)
    A, B = pd.DataFrame(rng.normal(size=(5, 9))), pd.DataFrame(rng.normal(size=(5, 9)))
    np.testing.assert_allclose(
        utils.pairwise_pearson(A, B), [scipy.stats.pearsonr(a, b)[0] for a, b in zip(A.values, B.values)]
    )
    one = B.iloc[0]
    np.testing.assert_allclose(utils.pairwise_pearson(A, one), [scipy.stats.pearsonr(a, one)[0] for a in A.values])


# Filters ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(planted):
    return planted.to_df().T  # peaks × cells


def test_peak_filter(table):
    values = table.to_numpy()
    for x, reads in [(10, 2), (3, 2), (10, 1)]:
        expected = table.index[(values >= reads).sum(1) >= x]
        assert list(utils.peak_filter(table, x, reads).index) == list(expected)
    assert 0 < len(utils.peak_filter(table)) < len(utils.peak_filter(table, x=3)) < len(table)


def test_cell_and_sample_filter(table):
    table = table.copy()
    table.iloc[:, 0] = 0
    table.iloc[: table.shape[0] // 50, 0] = 1  # a read for a fiftieth of the peaks is not more than a fiftieth
    kept = utils.cell_filter(table)
    assert list(kept.columns) == list(table.columns[1:])
    pd.testing.assert_frame_equal(utils.sample_filter(table, 5, 1), utils.cell_filter(utils.peak_filter(table, 5, 1)))


def test_gene_filter_keeps_the_order_of_rows():
    table = pd.DataFrame([[0, 0, 0, 2], [2, 2, 0, 0], [2, 2, 2, 2], [1, 1, 1, 0]], index=list("abcd"))
    assert list(utils.gene_filter_(table).index) == ["a", "b"]  # c is everywhere, d never above 1
    assert list(utils.gene_filter_(table, X=30).index) == ["b"]


def test_sort_by_mad_written_out():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(8, 6)) * rng.random((1, 6)) * rng.random((8, 1)))
    mad = np.abs(table - table.mean(axis=0)).mean(axis=0)
    assert list(utils.sort_by_mad(table).columns) == list(np.argsort(-mad))
    rows = np.abs(table.T - table.mean(axis=1)).mean(axis=0)
    assert list(utils.sort_by_mad(table, axis=1).index) == list(np.argsort(-rows))


# Clusters against labels -----------------------------------------------------------------------------------------------


def test_read_labels(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("cell1\tB\ncell2\tA\ncell3\tB\n")
    codes, classes = utils.read_labels(file)
    assert list(codes) == [1, 0, 1]
    assert list(classes) == ["A", "B"]
    encoder = utils.read_labels(file, return_enc=True)[2]
    assert list(encoder.inverse_transform([1])) == ["B"]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40), st.randoms())
@settings(max_examples=40, deadline=None)
def test_reassigning_is_the_best_one_to_one_naming(pairs, random):
    from itertools import permutations

    pred, ref = np.array(pairs).T
    new = utils.reassign_cluster_with_ref(pred, ref)
    agree = max(sum(p[a] == b for a, b in pairs) for p in permutations(range(5)))
    assert (new == ref).sum() == agree
    assert len(set(zip(pred, new))) == len(set(pred)) == len(set(new))  # a renaming: nothing merged


def test_reassigning_names():
    pred = ["1", "1", "2", "2", "3", "A"]
    ref = ["A", "A", "B", "B", "B", "B"]
    assert list(utils.reassign_cluster_with_ref(pred, ref)) == ["A", "A", "B", "B", "3", "A'"]
    assert list(utils.reassign_cluster_with_ref(np.array([5, 5, 6]), np.array(["x", "x", "y"]))) == ["x", "x", "y"]


def test_cluster_report_prints_and_returns_the_figures(capsys):
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    ref, pred = np.array([0, 0, 0, 1, 1, 1]), np.array([1, 1, 0, 0, 0, 0])
    report = utils.cluster_report(ref, pred, classes=["blast", "stem"])
    printed = capsys.readouterr().out
    assert report.ari == pytest.approx(adjusted_rand_score(ref, pred))
    assert report.nmi == pytest.approx(normalized_mutual_info_score(ref, pred))
    assert f"{report.ari:.3f}" in printed
    assert "blast" in printed
    assert "blast" not in str(utils.cluster_report(ref, pred))
    np.testing.assert_array_equal(report.table, [[2, 1], [0, 3]])


def test_specificity_of_counts_is_that_of_the_matrix(planted):
    groups = planted.obs["cell_type"].cat.codes.to_numpy()
    is_open = (planted.X.toarray() > 0)[:, :80]
    is_open[:, 7] = False
    open_cells = np.stack([is_open[groups == k].sum(axis=0) for k in range(3)], axis=1).astype(float)
    found = specificity_of_counts(open_cells, np.bincount(groups))
    np.testing.assert_allclose(found, utils.mat_specificity_score(is_open.T.astype(float), groups).to_numpy(), rtol=1e-9)
    assert np.isnan(found[7]).all()
