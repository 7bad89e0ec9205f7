"""Activity of planted genes, what scanpy draws, the command, and what is refused."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.cli import app
from scale_toolkit.core.intervals import parse_names
from scale_toolkit.errors import InputError, MissingSlotError
from scale_toolkit.io.genes import read_gene_bodies


@pytest.fixture(scope="module")
def trained():
    """Planted cells; the peaks of each planted program lie in a gene of its own."""
    cells = scale.simulate(n_cells=300, n_peaks=2000, n_clusters=3, seed=6)
    programs = cells.var["program"].astype(str).to_numpy()
    names, used = [], dict.fromkeys(["type1", "type2", "type3"], 0)
    for number, program in enumerate(programs):
        if program in used and used[program] < 40:
            base = 10_000_000 * int(program[-1]) + 1000 * used[program]
            names.append(f"chr1:{base}-{base + 500}")
            used[program] += 1
        else:
            names.append(f"chr2:{10_000 * number}-{10_000 * number + 500}")
    cells.var_names = names
    scale.pp.prepare(cells, min_peaks=1, min_cells=1)
    scale.tl.train(cells, n_components=3, max_epochs=2, n_threads=1)
    keys.CLUSTER.set(cells, cells.obs["cell_type"].copy())
    return cells


@pytest.fixture(scope="module")
def table():
    rows = [("chr1", 10_000_000 * k, 10_000_000 * k + 30_000, "+", f"G{k}", f"TYPE{k}") for k in (1, 2, 3)]
    rows += [("chr2", 0, 10**7, "-", "G4", "LONG"), ("chr2", 0, 5000, "+", "G5", "TWICE")]
    rows += [("chr2", 9000, 12_000, "+", "G6", "TWICE"), ("chr3", 5, 90, "+", "G7", "NOPEAK")]
    return pd.DataFrame(rows, columns=["chrom", "start", "end", "strand", "gene_id", "gene_name"])


@pytest.fixture(scope="module")
def activity(trained, table):
    return scale.genes(trained, genes=table, n_threads=1)


def test_planted_genes_are_active_in_their_type(activity):
    types = activity.obs["cell_type"].astype(str)
    for number in (1, 2, 3):
        inside = (types == f"type{number}").to_numpy()
        for values in (activity[:, f"TYPE{number}"].X, activity[:, f"TYPE{number}"].layers["counts"].toarray()):
            assert values[inside].mean() > 1.5 * values[~inside].mean()
    sc.tl.rank_genes_groups(activity, "cell_type", method="wilcoxon")
    best = activity.uns["rank_genes_groups"]["names"][0]
    assert [best[f"type{k}"] for k in (1, 2, 3)] == ["TYPE1", "TYPE2", "TYPE3"]


def test_the_sums_are_those_of_dense_matrices(trained, table, activity):
    peaks = parse_names(trained.var_names)
    p = np.asarray(scale.get.imputed(trained))
    opened = (sparse.csr_matrix(trained.X) > 0).toarray()
    for name, start, end in (("TYPE1", 10_000_000 - 2000, 10_030_000), ("LONG", 0, 10**7 + 2000)):
        chrom = table.set_index("gene_name")["chrom"][name]
        gap = np.maximum(np.maximum(peaks["start"] - end, start - peaks["end"]), 0)
        weights = np.where((peaks["chrom"] == chrom) & (gap <= 25_000), np.exp(-gap / 5000), 0)
        np.testing.assert_allclose(activity[:, name].X.ravel(), p @ weights, rtol=1e-4)
        np.testing.assert_allclose(activity[:, name].layers["counts"].toarray().ravel(), opened @ weights, rtol=1e-4)
        assert activity.var["n_peaks"][name] == (weights > 0).sum()


def test_activity_at_equal_depth_does_not_follow_depth(trained, activity):
    depth = np.asarray((trained.X > 0).sum(1)).ravel()
    long = activity[:, "LONG"]
    assert abs(np.corrcoef(depth, long.X.ravel())[0, 1]) < 0.5
    assert np.corrcoef(depth, long.layers["counts"].toarray().ravel())[0, 1] > 0.9


def test_marker_genes_of_blood_are_active_in_their_types(real):
    """MS4A1, CD3E and CD14 (hg19) in B cells, T cells and monocytes."""
    cells = real("tiny_blood")
    scale.pp.prepare(cells, min_peaks=1, min_cells=1)
    scale.tl.train(cells, n_threads=1)
    rows = [("chr11", 60_223_000, 60_238_000, "+", "MS4A1"), ("chr11", 118_175_000, 118_187_000, "+", "CD3E")]
    rows.append(("chr5", 140_011_000, 140_013_300, "-", "CD14"))
    genes = pd.DataFrame(rows, columns=["chrom", "start", "end", "strand", "gene_name"])
    activity = scale.genes(cells, genes=genes.assign(gene_id=genes["gene_name"]), n_threads=1)
    types = activity.obs["cell_type"].astype(str).to_numpy()
    for table in (activity.to_df(), activity.to_df("counts")):
        best = table.groupby(types).mean().idxmax()
        assert best.to_dict() == {"MS4A1": "B", "CD3E": "T", "CD14": "Monocyte"}


def test_names_are_unique_and_genes_without_peaks_are_left_out(activity, trained):
    assert list(activity.var_names) == ["TYPE1", "TYPE2", "TYPE3", "LONG", "TWICE (G5)", "TWICE (G6)"]
    assert list(activity.obs_names) == list(trained.obs_names)
    np.testing.assert_array_equal(keys.LATENT.get(activity), keys.LATENT.get(trained))
    stages = [receipt["stage"] for receipt in scale.receipts(activity)]
    assert stages == [*(receipt["stage"] for receipt in scale.receipts(trained)), "genes"]
    assert trained.n_vars > 1900 and not keys.GENE_COUNTS.found_in(trained)


def test_options_reach_the_weights(trained, table, activity):
    narrow = scale.genes(trained, genes=table, max_distance=0, upstream=0, n_threads=1)
    assert narrow.var["n_peaks"]["LONG"] < activity.var["n_peaks"]["LONG"]
    steep = scale.genes(trained, genes=table, decay=10, n_threads=1)
    assert steep[:, "TWICE (G5)"].X.sum() < activity[:, "TWICE (G5)"].X.sum()


def test_what_is_refused(trained, table):
    with pytest.raises(InputError, match=r"no chromosome of the peaks \(chr.*is in the GTF \(1"):
        scale.genes(trained, genes=table.assign(chrom=table["chrom"].str.removeprefix("chr")))
    with pytest.raises(InputError, match="the table of genes has 7 rows, and lacks start"):
        scale.genes(trained, genes=table.drop(columns="start"))
    far = table.assign(start=table["start"] + 10**9, end=table["end"] + 10**9)
    with pytest.raises(InputError, match="no peak is within 25,000 bases of one of 7 genes"):
        scale.genes(trained, genes=far)
    unnamed = trained.copy()
    unnamed.var_names = [f"p{number}" for number in range(trained.n_vars)]
    with pytest.raises(InputError, match="peak names are not intervals"):
        scale.genes(unnamed, genes=table)
    untrained = anndata.AnnData(trained.X, var=trained.var[[]])
    with pytest.raises(MissingSlotError, match=r"scale train"):
        scale.genes(untrained, genes=table)


def test_a_file_of_genes_says_what_its_receipts_lack(activity):
    with pytest.raises(InputError, match="genes was given genes, which the file does not hold"):
        scale.verify(activity)


def gtf(table):
    rows = table.itertuples(index=False)
    return "".join(
        f'{r.chrom}\tx\tgene\t{r.start + 1}\t{r.end}\t.\t{r.strand}\t.\tgene_id "{r.gene_id}"; gene_name "{r.gene_name}";\n'
        for r in rows
    )


def test_the_command_writes_what_the_function_returns(trained, table, activity, tmp_path, capfd):
    trained.write_h5ad(tmp_path / "in.h5ad")
    (tmp_path / "genes.gtf").write_text(gtf(table))
    words = ["genes", tmp_path / "in.h5ad", "--gtf", tmp_path / "genes.gtf", "-o", tmp_path / "genes.h5ad"]
    with pytest.raises(SystemExit) as ended:
        app.main([str(word) for word in words])
    assert ended.value.code == 0
    result = anndata.read_h5ad(tmp_path / "genes.h5ad")
    np.testing.assert_array_equal(result.X, activity.X)
    assert (result.layers["counts"] != activity.layers["counts"]).nnz == 0
    assert list(result.var_names) == list(activity.var_names)
    with pytest.raises(SystemExit) as ended:
        app.main(["genes", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "x.h5ad")])
    assert ended.value.code == 2 and "no --gtf" in capfd.readouterr().err


def test_bodies_of_a_gtf_span_transcripts_and_exons(tmp_path, table):
    path = tmp_path / "genes.gtf"
    path.write_text(gtf(table))
    pd.testing.assert_frame_equal(read_gene_bodies(path), table, check_dtype=False)
    lines = gtf(table.iloc[:1]).replace("\tgene\t", "\texon\t")
    later = table.iloc[:1].assign(start=20_000_000, end=20_000_100)
    path.write_text(lines + gtf(later).replace("\tgene\t", "\texon\t"))
    (row,) = read_gene_bodies(path).itertuples(index=False)
    assert (row.start, row.end, row.gene_id) == (10_000_000, 20_000_100, "G1")
