"""Marker peaks: planted ones come back, against scanpy and SCALE's own functions; genes, motifs, and what can be off."""

from __future__ import annotations

import anndata
import bioframe
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse
from scipy.stats import false_discovery_control

import scale_toolkit as scale
from scale_toolkit import keys, utils
from scale_toolkit.config import MarkersConfig
from scale_toolkit.errors import (
    InputError,
    MissingSlotError,
    NothingLeftError,
    OptionError,
    ScaleWarning,
)
from scale_toolkit.stages.receipts import receipts

FIGURES = ["score", "p_value", "fdr", "odds_ratio", "log2_fold_change", "share_in", "share_out", "specificity"]


@pytest.fixture
def cells(plant):
    """600 cells × 300 peaks; peaks c, c + 10, … are open five times as often in the cells of type c."""
    return plant(n_cells=600)


def marked(cells, **options):
    return scale.markers(cells, cluster_by="cell_type", **options)


def table_of(cells):
    return keys.MARKERS.get(cells)


def test_planted_markers_come_back(cells):
    table = table_of(marked(cells))
    assert list(table.columns) == ["cluster", "peak", *FIGURES]
    assert list(table["cluster"].cat.categories) == ["type0", "type1", "type2"]
    for number in range(3):
        own = set(table.loc[table["cluster"] == f"type{number}", "peak"])
        planted = set(cells.var_names[number::10])
        assert len(own & planted) >= 27 and len(own - planted) <= 3
    assert (table["fdr"] <= 0.05).all() and (table["odds_ratio"] >= 1.5).all() and (table["score"] > 0).all()
    for _, part in table.groupby("cluster", observed=True):
        assert (np.diff(part["p_value"]) >= 0).all()


def test_figures_are_those_of_the_matrix(cells):
    table = table_of(marked(cells))
    is_open, is_in = cells.X.toarray() > 0, (cells.obs["cell_type"] == "type1").to_numpy()
    shares = is_open[is_in].mean(axis=0), is_open[~is_in].mean(axis=0)
    own = table[table["cluster"] == "type1"]
    at = cells.var_names.get_indexer(own["peak"])
    np.testing.assert_allclose(own["share_in"], shares[0][at])
    np.testing.assert_allclose(own["share_out"], shares[1][at])
    half = np.log2((is_open[is_in].sum(0) + 0.5) / 201) - np.log2((is_open[~is_in].sum(0) + 0.5) / 401)
    np.testing.assert_allclose(own["log2_fold_change"], half[at])
    scores = utils.specificity(cells, "cell_type")
    np.testing.assert_allclose(own["specificity"], scores["type1"].to_numpy()[at])
    np.testing.assert_allclose(keys.SPECIFICITY.get(cells), scores.to_numpy(), rtol=1e-6)
    np.testing.assert_allclose(keys.MARKER_SCORE.get(cells)[at, 1], own["score"], rtol=1e-6)
    np.testing.assert_allclose(keys.MARKER_FDR.get(cells)[at, 1], own["fdr"], rtol=1e-6)


def test_p_values_are_corrected_over_the_tested_peaks_of_a_cluster(cells):
    all_of_them = table_of(marked(cells, max_fdr=1, min_odds_ratio=1, min_share=0))
    fdr = keys.MARKER_FDR.get(cells)
    for k, name in enumerate(["type0", "type1", "type2"]):
        own = all_of_them[all_of_them["cluster"] == name]
        p = np.ones(cells.n_vars)
        p[cells.var_names.get_indexer(own["peak"])] = own["p_value"]
        smallest = own["p_value"].to_numpy()[0]
        n_tested = np.isfinite(fdr[:, k]).sum()
        assert own["fdr"].to_numpy()[0] >= smallest
        assert own["fdr"].to_numpy()[0] <= smallest * n_tested * (1 + 1e-9)
    # the whole column, with a method whose p-values are known from elsewhere
    marked(cells, method="wilcoxon", min_cells=1)
    other = by_scanpy(cells)
    for k, name in enumerate(other):
        np.testing.assert_allclose(keys.MARKER_FDR.get(cells)[:, k], false_discovery_control(other[name]["p"]), rtol=1e-5)


def by_scanpy(cells):
    binary = anndata.AnnData(sparse.csr_matrix((cells.X > 0).astype(np.float32)), obs=cells.obs.copy(), var=cells.var.copy())
    binary.uns["log1p"] = {"base": None}
    sc.tl.rank_genes_groups(binary, "cell_type", method="wilcoxon", tie_correct=True)
    found = {}
    for name in binary.obs["cell_type"].cat.categories:
        frame = sc.get.rank_genes_groups_df(binary, name).set_index("names").loc[cells.var_names]
        found[name] = pd.DataFrame({"p": frame["pvals"].to_numpy(), "z": frame["scores"].to_numpy()})
    return found


@pytest.mark.filterwarnings("ignore:invalid value encountered in log2:RuntimeWarning", "ignore:.*fragmented")
def test_wilcoxon_is_scanpys(cells):
    marked(cells, method="wilcoxon", min_cells=1)
    for k, found in enumerate(by_scanpy(cells).values()):
        np.testing.assert_allclose(keys.MARKER_SCORE.get(cells)[:, k], found["z"], rtol=1e-5)


def test_the_decoders_outlying_peaks_are_those_of_peak_selection(cells):
    rng = np.random.default_rng(0)
    keys.DECODER.set(cells, rng.standard_t(3, (300, 4)).astype(np.float32))
    bias = rng.normal(size=300).astype(np.float32)
    bias[7] = np.nan  # not modelled
    keys.BIAS.set(cells, bias)
    selected = keys.WEIGHT_PEAKS.get(marked(cells, weight_cutoff=2))
    assert selected.dtype == np.int8 and selected[7].tolist() == [0, 0, 0, 0]
    for kind, sign in (("pos", 1), ("neg", -1)):
        for column, names in enumerate(utils.peak_selection(cells, kind=kind, cutoff=2)):
            assert len(names) and list(cells.var_names[selected[:, column] == sign]) == list(names)
    del cells.varm[keys.DECODER.name]
    assert not keys.WEIGHT_PEAKS.found_in(marked(cells))  # an older decoder's selection does not stay


def test_the_result_can_be_written_and_read(cells, tmp_path):
    marked(cells)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(table_of(again), table_of(cells))
    assert utils.top_markers(again, 3) == utils.top_markers(cells, 3)
    assert receipts(again)[-1]["notes"]["clusters"]["type0"]["cells"] == 200


def test_top_markers_are_the_first_of_the_table(cells):
    table = table_of(marked(cells))
    top = utils.top_markers(cells, 4)
    assert {name: len(peaks) for name, peaks in top.items()} == {"type0": 4, "type1": 4, "type2": 4}
    assert top["type2"] == table.loc[table["cluster"] == "type2", "peak"].tolist()[:4]
    part = cells[:, ~cells.var_names.isin(top["type2"][:1])]
    assert utils.top_markers(part, 3)["type2"] == top["type2"][1:]
    with pytest.raises(OptionError, match="n is 0"):
        utils.top_markers(cells, 0)
    with pytest.raises(MissingSlotError, match=r"uns\['scale_markers'\] is missing.*scale markers"):
        utils.top_markers(anndata.AnnData(cells.X, var=cells.var))


def test_scanpys_plots_take_the_top_markers(cells):
    marked(cells)
    plotted = sc.pl.dotplot(cells, utils.top_markers(cells, 2), groupby="cell_type", return_fig=True)
    assert plotted.dot_size_df.shape == (3, 6)


# ---- which cells, which clusters


def test_cells_without_a_cluster_or_open_peak_are_left_out(cells):
    part = marked(cells[:500].copy())
    more = cells.copy()
    more.obs.loc[more.obs_names[500:], "cell_type"] = np.nan
    pd.testing.assert_frame_equal(table_of(marked(more)), table_of(part))
    empty = cells.copy()
    empty.X = sparse.vstack([cells.X[:500], sparse.csr_matrix((100, 300), dtype=np.float32)], format="csr")
    pd.testing.assert_frame_equal(table_of(marked(empty)), table_of(part))


def test_a_cell_whose_open_peaks_are_all_too_rare_to_test_counts_as_shallow(cells):
    rare = sparse.lil_matrix((600, 1), dtype=np.float32)
    rare[[3, 4]] = 1
    X = cells.X.tolil()
    X[3] = 0
    cells = anndata.AnnData(sparse.hstack([X, rare], format="csr"), obs=cells.obs)
    cells.var_names = [f"peak_{j}" for j in range(301)]
    marked(cells)
    in_cells = np.asarray((cells.X > 0).sum(axis=0)).ravel()
    np.testing.assert_array_equal(np.isfinite(keys.MARKER_SCORE.get(cells)).all(axis=1), in_cells >= 10)


@pytest.mark.parametrize("kind", [str, float, "category", bool])
def test_clusters_of_any_kind(cells, kind):
    codes = cells.obs["cell_type"].cat.codes.to_numpy() == 1
    cells.obs["own"] = pd.Series(codes.astype(int), index=cells.obs_names).astype(kind)
    expected = {str: ["0", "1"], float: ["0", "1"], "category": ["0", "1"], bool: ["False", "True"]}[kind]
    assert list(table_of(scale.markers(cells, cluster_by="own"))["cluster"].cat.categories) == expected


def test_dense_csc_and_counts_give_the_same(cells):
    expected = table_of(marked(cells.copy()))
    for X in (cells.X.toarray(), cells.X.tocsc(), (cells.X > 0).astype(np.int8)):
        other = cells.copy()
        other.X = X
        pd.testing.assert_frame_equal(table_of(marked(other)), expected)


def test_a_cluster_of_one_cell(cells):
    cells.obs["one"] = pd.Categorical(np.where(np.arange(600) == 5, "alone", "rest"))
    with pytest.warns(ScaleWarning, match="0 marker peaks"):
        scale.markers(cells, cluster_by="one")
    assert np.isfinite(keys.MARKER_SCORE.get(cells)).sum() > 0
    with pytest.raises(InputError, match=r"cluster 'alone' has one cell.*`method=logistic`"):
        scale.markers(cells, cluster_by="one", method="wilcoxon")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c.obs.pop("cell_type"), MissingSlotError, r"no column 'cell_type'.*`cluster_by`"),
        (lambda c: c.obs.__setitem__("cell_type", "a"), InputError, r"has 1 cluster in 600 cells.*expected two or more"),
        (lambda c: c.obs.__setitem__("cell_type", np.linspace(0, 1, 600)), InputError, r"600 distinct values \(float64\)"),
        (lambda c: setattr(c, "X", -c.X), InputError, r"X ranges from -"),
    ],
)
def test_what_cannot_be_compared_is_told(cells, change, error, message):
    change(cells)
    with pytest.raises(error, match=message):
        marked(cells)


def test_without_clusters_the_stage_that_makes_them_is_named(cells):
    with pytest.raises(MissingSlotError, match=r"obs\['scale_cluster'\] is missing.*scale cluster"):
        scale.markers(cells)


def test_no_peak_in_enough_cells(cells):
    with pytest.raises(NothingLeftError, match=r"none of 300 peaks is open in 600 cells.*`min_cells`"):
        marked(cells, min_cells=600)


def test_no_marker_is_a_sentence(cells):
    rng = np.random.default_rng(0)
    cells.obs["chance"] = pd.Categorical(rng.permutation(np.repeat(["a", "b", "c"], 200)))
    with pytest.warns(ScaleWarning, match=r"0 marker peaks in 3 clusters \(FDR at most 0.05, odds ratio at least 1.5\)"):
        scale.markers(cells, cluster_by="chance", sequences=["ACGT"] * 300, motifs={"m": np.eye(4)})
    assert len(table_of(cells)) == 0 and len(keys.MOTIFS.get(cells)) == 0
    assert keys.MOTIFS.get(cells)["fdr"].dtype == table_of(cells)["fdr"].dtype == np.float64
    assert utils.top_markers(cells) == {"a": [], "b": [], "c": []}


def test_some_clusters_without_markers_are_named(cells):
    rng = np.random.default_rng(0)
    labels = np.where(cells.obs["cell_type"] == "type0", "a", rng.choice(["x", "y"], 600))
    cells.obs["some"] = labels
    with pytest.warns(ScaleWarning, match=r"2 of 3 clusters have 0 marker peaks .*: x, y$"):
        scale.markers(cells, cluster_by="some", max_fdr=1e-14)
    assert len(utils.top_markers(cells)["a"]) > 5


# ---- every option

CASES = {
    "cluster_by": ({"cluster_by": "other"}, keys.MARKER_SCORE),
    "method": ({"method": "wilcoxon"}, keys.MARKER_SCORE),
    "max_fdr": ({"max_fdr": 1e-6}, keys.MARKERS),
    "min_odds_ratio": ({"min_odds_ratio": 5}, keys.MARKERS),
    "min_share": ({"min_share": 0.5}, keys.MARKERS),
    "min_cells": ({"min_cells": 40}, keys.MARKER_SCORE),
    "weight_cutoff": ({"weight_cutoff": 1}, keys.WEIGHT_PEAKS),
    "motif_p": ({"motif_p": 0.05}, keys.MOTIFS),
    "background_ratio": ({"background_ratio": 1}, keys.MOTIFS),
    "seed": ({"seed": 5}, keys.MOTIFS),
}


def with_everything(cells, **options):
    rng = np.random.default_rng(0)
    keys.DECODER.set(cells, rng.normal(size=(300, 3)).astype(np.float32))
    keys.BIAS.set(cells, np.zeros(300, np.float32))
    cells.obs["other"] = pd.Categorical(np.where(np.arange(600) % 3 == 0, "a", "b"))
    sequences = ["".join(rng.choice(list("ACGT"), 200)) for _ in range(300)]
    motifs = {"one": rng.dirichlet([0.2] * 4, 6), "two": rng.dirichlet([0.2] * 4, 5)}
    return scale.markers(cells, **({"cluster_by": "cell_type"} | options), sequences=sequences, motifs=motifs)


@pytest.mark.parametrize("name", CASES)
def test_an_option_changes_the_result(cells, name):
    options, slot = CASES[name]
    plain, changed = slot.get(with_everything(cells.copy())), slot.get(with_everything(cells.copy(), **options))
    if isinstance(plain, pd.DataFrame):
        assert not plain.equals(changed)
    else:
        assert plain.shape != changed.shape or not np.array_equal(plain, changed, equal_nan=True)


def test_every_option_has_its_case():
    by_conditions = {"contrast", "sample_key"}  # tests/stages/test_contrast.py
    assert set(CASES) | {"n_threads"} | by_conditions == set(MarkersConfig.__dataclass_fields__)


def test_the_same_again_with_any_number_of_threads(cells):
    one, two = with_everything(cells.copy(), n_threads=1), with_everything(cells.copy(), n_threads=2)
    pd.testing.assert_frame_equal(table_of(one), table_of(two))
    pd.testing.assert_frame_equal(keys.MOTIFS.get(one), keys.MOTIFS.get(two))


# ---- genes


def genes_of(*rows):
    return pd.DataFrame(rows, columns=["chrom", "tss", "strand", "gene_id", "gene_name"])


def test_the_nearest_gene_and_its_signed_distance(cells):
    """Peak j is chr{1 + j % 3}:{1000 j}-{1000 j + 500}."""
    genes = genes_of(
        ("chr1", 3600, "+", "A", "a"),  # 101 behind the last base, 3,499, of chr1:3000-3500: upstream of a + gene
        ("chr1", 8900, "-", "B", "b"),  # 100 before chr1:9000-9500: upstream of a − gene
        ("chr2", 1250, "+", "C", "c"),  # inside chr2:1000-1500
        ("chr3", 100_000, "-", "D", "d"),
    )
    marked(cells, genes=genes)
    gene, distance = keys.NEAREST_GENE.get(cells), keys.TSS_DISTANCE.get(cells)
    place = {"chr1:3000-3500": ("a", -101), "chr1:9000-9500": ("b", -100), "chr2:1000-1500": ("c", 0)}
    place |= {"chr1:297000-297500": ("b", -288_100), "chr2:4000-4500": ("c", 2750), "chr3:2000-2500": ("d", 97_501)}
    for name, expected in place.items():
        assert (gene[name], distance[name]) == expected
    table = table_of(cells)
    assert table["nearest_gene"].tolist() == gene[table["peak"]].tolist()
    assert table["tss_distance"].tolist() == distance[table["peak"]].tolist()


def test_nearest_genes_are_bioframes(cells):
    rng = np.random.default_rng(0)
    rows = [
        (f"chr{rng.integers(1, 4)}", int(rng.integers(0, 350_000)), rng.choice(["+", "-"]), f"g{i}", f"g{i}") for i in range(60)
    ]
    genes = genes_of(*rows)
    marked(cells, genes=genes)
    peaks = pd.DataFrame([name.replace(":", "-").split("-") for name in cells.var_names], columns=["chrom", "start", "end"])
    peaks = peaks.astype({"start": int, "end": int})
    points = genes.assign(start=genes["tss"], end=genes["tss"] + 1)[["chrom", "start", "end", "gene_name"]]
    oracle = bioframe.closest(peaks, points).sort_values(["chrom", "start"])
    mine = pd.DataFrame({"chrom": peaks["chrom"], "start": peaks["start"], "d": keys.TSS_DISTANCE.get(cells).to_numpy()})
    mine = mine.sort_values(["chrom", "start"])
    gap = oracle["distance"].to_numpy(np.float64)  # counts the bases between; ours the step from base to base
    np.testing.assert_array_equal(np.abs(mine["d"]), np.where(mine["d"] == 0, 0, gap + 1))


def test_another_naming_of_chromosomes_is_an_error_with_both(cells):
    with pytest.raises(InputError, match=r"no chromosome of the peaks \(chr1, chr2, chr3\) is in the GTF \(1, 2\)"):
        marked(cells, genes=genes_of(("1", 5, "+", "A", "a"), ("2", 5, "+", "A", "a")))


def test_a_partial_match_is_told_and_the_rest_has_no_gene(cells):
    with pytest.warns(ScaleWarning, match=r"200 of 300 peaks are on 2 of 3 chromosomes that the GTF lacks: chr2, chr3"):
        marked(cells, genes=genes_of(("chr1", 5, "+", "A", "a"), ("chr9", 5, "+", "B", "b")))
    gene, distance = keys.NEAREST_GENE.get(cells), keys.TSS_DISTANCE.get(cells)
    on_chr1 = cells.var_names.str.startswith("chr1:")
    assert (gene[on_chr1] == "a").all() and (gene[~on_chr1] == "").all()
    assert distance[~on_chr1].isna().all() and distance[on_chr1].notna().all()


def test_peaks_that_are_no_intervals_have_no_genes(cells):
    cells.var_names = [f"peak_{j}" for j in range(300)]
    with pytest.raises(InputError, match=r"first 'peak_0'.*leave out `genes`"):
        marked(cells, genes=genes_of(("chr1", 5, "+", "A", "a")))


# ---- motifs


def planted_motif(cells, seed=0, share=0.6):
    """Random sequences; `share` of the peaks of type1 hold a planted word of 10 bases, on either strand."""
    rng = np.random.default_rng(seed)
    word, other = rng.integers(0, 4, 10), rng.integers(0, 4, 10)
    sequences = []
    for j in range(cells.n_vars):
        codes = rng.choice(4, 300, p=[0.3, 0.2, 0.2, 0.3])
        if j % 10 == 1 and rng.random() < share:
            at = rng.integers(0, 290)
            codes[at : at + 10] = word if rng.random() < 0.5 else 3 - word[::-1]
        sequences.append("".join(np.array(list("ACGT"))[codes]))
    return sequences, {"planted": 0.9 * np.eye(4)[word] + 0.025, "other": 0.9 * np.eye(4)[other] + 0.025}


def test_a_planted_motif_is_found_in_its_cluster_alone(cells):
    sequences, motifs = planted_motif(cells)
    table = keys.MOTIFS.get(marked(cells, sequences=sequences, motifs=motifs))
    found = table[table["fdr"] < 0.01]
    assert found[["cluster", "motif"]].to_numpy().tolist() == [["type1", "planted"]]
    best = found.iloc[0]
    assert best["share_markers"] > 0.35 and best["share_background"] < 0.15 and best["odds_ratio"] > 5
    assert len(table) == 6 and best["n_background"] >= 4 * best["n_markers"]
    assert abs(best["gc_markers"] - best["gc_background"]) < 0.02


def test_peaks_without_a_sequence_are_left_out(cells):
    sequences, motifs = planted_motif(cells)
    sequences[:150] = [""] * 150
    table = keys.MOTIFS.get(marked(cells, sequences=sequences, motifs=motifs))
    assert (table["n_markers"] <= 18).all() and np.isfinite(table["gc_background"]).all()
    with pytest.raises(InputError, match="299 sequences and 300 peaks"):
        marked(cells, sequences=sequences[:-1], motifs=motifs)


def test_a_new_run_drops_the_motifs_of_the_old(cells):
    sequences, motifs = planted_motif(cells)
    marked(cells, sequences=sequences, motifs=motifs)
    assert not keys.MOTIFS.found_in(marked(cells))


# ---- real data


def test_markers_of_forebrains_cell_types(real):
    cells = real("forebrain")
    table = table_of(marked(cells))
    counts = table["cluster"].value_counts()
    assert (counts > 20).all()
    top = table.groupby("cluster", observed=True).head(5)
    assert (top["share_in"] > 2 * top["share_out"]).all()
    shuffled = cells.copy()
    shuffled.obs["cell_type"] = np.random.default_rng(0).permutation(cells.obs["cell_type"].astype(str))
    with pytest.warns(ScaleWarning, match="0 marker peaks"):
        marked(shuffled, max_fdr=0.01)


def test_cd20_is_among_the_markers_of_b_cells(real):
    """hg19: MS4A1 (CD20) begins at chr11:60,223,282."""
    cells = real("tiny_blood")
    table = table_of(
        marked(cells, genes=genes_of(("chr11", 60_223_281, "+", "ENSG00000156738", "MS4A1"), ("chr5", 1, "+", "x", "x")))
    )
    own = table[(table["cluster"] == "B") & (table["tss_distance"].abs() < 5000)]
    assert len(own) and (own["nearest_gene"] == "MS4A1").all()
