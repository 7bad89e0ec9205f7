"""Input that is well-formed and probably not what it was taken for."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scale_toolkit as scale
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.stages.plausible import doubts, doubts_about_several, in_twos, what_was_done

GENES = ["GAPDH", "Actb", "MT-CO1", "CD8A", "HLA-DRA", "Sox2", "IL7R", "TP53", "MALAT1", "Xist"]


def words(cells):
    return doubts(cells.obs_names, cells.var_names)


@pytest.mark.parametrize("name", ["leukemia", "forebrain", "bone_marrow", "tiny_two_lines", "tiny_blood"])
def test_real_accessibility_raises_no_doubt(real, name):
    assert words(real(name)) == []


@pytest.mark.parametrize(
    "names",
    [
        [f"chr{1 + i % 22}:{i}00-{i}50" for i in range(1, 301)],
        [f"{1 + i % 22}_{i}00_{i}50" for i in range(1, 301)],
        [f"peak_{i}" for i in range(300)],
        [f"Peak{i}" for i in range(300)],
        [str(i) for i in range(300)],
    ],
)
def test_ways_of_naming_peaks_raise_no_doubt(planted, names):
    planted.var_names = names
    assert words(planted) == []


@pytest.mark.parametrize(
    "names",
    [
        [GENES[i % 10][:3] + GENES[i // 10 % 10][1:4].upper() + str(i) for i in range(300)],
        [f"ENSG{i:011d}" for i in range(300)],
        [f"ENSMUSG{i:011d}.{i % 7}" for i in range(300)],
    ],
)
def test_genes_are_told(planted, names):
    planted.var_names = names
    assert "is this gene expression?" in words(planted)[0]


def test_a_real_list_of_genes_is_told(planted):
    planted = planted[:, :10].copy()
    planted.var_names = GENES
    assert "is this gene expression?" in words(planted)[0]


def test_peaks_by_cells_is_told(planted):
    with pytest.warns(ScaleWarning, match=r"this looks like peaks × cells; transpose it"):
        scale.prepare(planted.T.copy(), min_peaks=1, min_cells=1)


def test_two_namings_of_chromosomes_are_told(planted):
    planted.var_names = [name.removeprefix("chr") if i % 3 else name for i, name in enumerate(planted.var_names)]
    assert "33% of the peaks are on chromosomes named chr" in words(planted)[0]
    planted.var_names = [f"chr1:{i}00-{i}50" if i else "GL000194.1:5-900" for i in range(1, 301)]
    assert words(planted) == []


def test_reads_counted_in_twos_are_told(planted, caplog):
    with caplog.at_level("INFO", "scale_toolkit"):
        scale.prepare(planted.copy(), min_peaks=1, min_cells=1)
        assert "two for each fragment" not in caplog.text
        planted.X.data[:] = 2 * np.ceil(planted.X.data / 2)
        scale.prepare(planted, min_peaks=1, min_cells=1)
        assert "reads or insertions, two for each fragment" in caplog.text


@pytest.mark.parametrize(("name", "are"), [("leukemia", True), ("tiny_blood", True), ("forebrain", False)])
def test_which_real_counts_come_in_twos(real, name, are):
    counts = sparse.csr_matrix(real(name).X)
    counts.eliminate_zeros()
    assert bool(in_twos(counts)) is are


def test_inputs_of_two_builds_are_told(planted):
    one, two = planted[:60].copy(), planted[60:].copy()
    assert doubts_about_several({"a": one.var_names, "b": two.var_names}) == []
    two.var_names = [name if i % 20 == 0 else name.replace("-", "7-") + "7" for i, name in enumerate(two.var_names)]
    with pytest.warns(ScaleWarning, match="inputs 'a' and 'b' share 15 peaks of 300 and 300: .* one genome build"):
        scale.prepare({"a": one, "b": two}, min_peaks=1, min_cells=1)


def weighted(counts):
    """TF-IDF as Signac, SnapATAC and scikit-learn have it, without and with a logarithm."""
    terms = sparse.diags(1 / np.asarray(counts.sum(1)).ravel()) @ (counts > 0).astype(float)
    rarity = sparse.diags(counts.shape[0] / np.maximum(np.asarray((counts > 0).sum(0)).ravel(), 1))
    plain = sparse.csr_matrix(terms @ rarity)
    logged = plain * 1e4
    logged.data = np.log1p(logged.data)
    return plain, logged


def test_what_was_done_to_counts_is_guessed(planted, real):
    for cells in (planted, real("tiny_two_lines")):
        counts = sparse.csr_matrix(cells.X)
        for values in weighted(counts):
            assert what_was_done(values) == "these look like TF-IDF values"
        normal = sparse.csr_matrix(sparse.diags(1e4 / np.asarray(counts.sum(1)).ravel()) @ counts)
        assert what_was_done(normal) == "these look like normalised counts (1e+04 a cell)"
        logged = normal.copy()
        logged.data = np.log1p(logged.data)
        assert what_was_done(logged) == "these look like log-normalised counts (exp(x) - 1 sums to 10,000 in every cell)"
        noisy = counts.copy().astype(float)
        noisy.data *= np.random.default_rng(0).random(noisy.nnz)
        assert what_was_done(noisy) == ""


def test_the_guess_is_in_the_error(planted):
    planted.X = weighted(planted.X)[0].astype(np.float32)
    with pytest.raises(
        InputError, match="integer counts, not normalised ones; these look like TF-IDF values; give the raw counts"
    ):
        scale.prepare(planted)


def test_labels_that_are_numbers_are_labels(planted):
    cells = scale.train(scale.prepare(planted, min_peaks=1, min_cells=1), n_components=3, max_iter=20)
    cells.obs["label"] = pd.Series(np.arange(120) % 3, index=cells.obs_names).astype(float)
    cells.obs["depth"] = np.linspace(0, 1, 120)
    assert (
        scale.cluster(cells, method="kmeans", n_clusters=3, reference="label").uns["scale_cluster_report"]["reference"]
        == "label"
    )
    with pytest.raises(InputError, match=r"labels, at most .* not measurements"):
        scale.cluster(cells, method="kmeans", n_clusters=3, reference="depth")


def test_an_empty_input_raises_no_doubt():
    empty = anndata.AnnData(sparse.csr_matrix((3, 4), dtype=np.float32))
    assert words(empty) == []
