"""Clusters named by markers: planted programs, labelled cells, genes, and what is refused."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scale_toolkit as scale
from scale_toolkit import keys, report
from scale_toolkit.cli import app
from scale_toolkit.core.annotate import enrichment
from scale_toolkit.errors import InputError, MissingSlotError, ScaleWarning, UsageError
from scale_toolkit.io.type_markers import read_type_markers


@pytest.fixture(scope="module")
def planted():
    """Planted cells whose clusters are their types under other names."""
    cells = scale.simulate(n_cells=400, n_peaks=3000, n_clusters=4, seed=2)
    clusters = cells.obs["cell_type"].map({f"type{k + 1}": str(k) for k in range(4)})
    keys.CLUSTER.set(cells, clusters.astype("category"))
    return cells


@pytest.fixture(scope="module")
def programs(planted):
    """Half of the peaks of each planted program, as a table of regions."""
    program = planted.var["program"].astype(object)
    rows = [(str(name), peak) for peak, name in program.items() if str(name).startswith("type") and "+" not in str(name)]
    return pd.DataFrame(rows[::2], columns=["type", "marker"])


def test_enrichment_is_that_of_dense_sums():
    rng = np.random.default_rng(0)
    opened = rng.random((30, 40)) < 0.3
    membership = rng.random((40, 3)) < 0.2
    clusters = np.arange(30) % 2
    clusters[0] = -1
    log2_fold, t = enrichment(
        sparse.csr_matrix(opened, dtype=np.float32), sparse.csr_matrix(membership, dtype=np.float32), clusters, 3
    )
    inside = opened.astype(float) @ membership
    share = inside.sum(0) / opened.sum()
    for k in range(2):
        members = clusters == k
        expected = share * opened[members].sum()
        np.testing.assert_allclose(log2_fold[k], np.log2((inside[members].sum(0) + 0.5) / (expected + 0.5)))
        residual = inside[members] / opened[members].sum(1, keepdims=True) - share
        error = residual.std(0, ddof=1) / np.sqrt(members.sum())
        np.testing.assert_allclose(t[k], residual.mean(0) / error, rtol=1e-5)
    assert not log2_fold[2].any() and not t[2].any()


def test_planted_clusters_get_their_types(planted, programs):
    result = scale.annotate(planted.copy(), markers=programs)
    assert (keys.TYPE.get(result).astype(str) == result.obs["cell_type"].astype(str)).all()
    table = keys.ANNOTATION.get(result)
    assert list(table["cluster"]) == ["0", "1", "2", "3"]
    assert (table["margin"] > 0.2).all() and (table["t"] > 3).all()


def test_in_place_and_with_other_clusters(planted, programs):
    cells = planted.copy()
    cells.obs["mine"] = cells.obs["cell_type"].astype(str).where(np.arange(400) > 9)
    scale.tl.annotate(cells, markers=programs, cluster_by="mine")
    assert keys.TYPE.get(cells).isna().sum() == 10


def test_shuffled_clusters_are_unclear(planted, programs):
    cells = planted.copy()
    shuffled = np.random.default_rng(0).permutation(keys.CLUSTER.get(cells).astype(str))
    keys.CLUSTER.set(cells, pd.Categorical(shuffled))
    assert (keys.ANNOTATION.get(scale.annotate(cells, markers=programs))["type"] == "unclear").all()


@pytest.mark.parametrize(("option", "value"), [("min_fold", 20), ("min_t", 1e9), ("min_margin", 20)])
def test_each_limit_makes_clusters_unclear(planted, programs, option, value):
    table = keys.ANNOTATION.get(scale.annotate(planted.copy(), markers=programs, **{option: value}))
    assert (table["type"] == "unclear").all()
    assert list(table["best"]) == [f"type{k + 1}" for k in range(4)]


def genes_of(planted, programs):
    """A gene for each marker region, its start 2,000 bases before the region."""
    regions = programs["marker"].str.extract(r"(?P<chrom>chr\w+):(?P<start>\d+)")
    return pd.DataFrame(
        {
            "chrom": regions["chrom"],
            "tss": regions["start"].astype(int) - 2000,
            "strand": "+",
            "gene_id": [f"g{n}" for n in range(len(regions))],
            "gene_name": [f"G{n}" for n in range(len(regions))],
        }
    )


def test_genes_count_the_peaks_near_their_start(planted, programs):
    genes = genes_of(planted, programs)
    markers = programs.assign(marker=genes["gene_name"])
    result = scale.annotate(planted.copy(), markers=markers, genes=genes)
    assert (keys.TYPE.get(result).astype(str) == result.obs["cell_type"].astype(str)).all()
    with pytest.raises(InputError, match="overlaps a peak"):
        scale.annotate(planted.copy(), markers=markers, genes=genes, max_distance=10)


def test_unknown_genes_and_types_without_peaks_warn(planted, programs):
    genes = genes_of(planted, programs)
    more = pd.DataFrame({"type": ["ghost", "lost"], "marker": ["NOGENE", "chr1:5-6"]})
    with pytest.warns(ScaleWarning) as caught:
        scale.annotate(planted.copy(), markers=pd.concat([programs, more]), genes=genes)
    said = " ".join(str(warning.message) for warning in caught)
    assert "1 marker genes are not in the GTF: NOGENE" in said
    assert "types without a marker among the peaks: ghost, lost" in said


def test_what_is_refused(planted, programs):
    with pytest.raises(InputError, match=r"1 markers are not regions \(CD14\).*give --gtf"):
        scale.annotate(planted.copy(), markers=pd.DataFrame({"type": ["A"], "marker": ["CD14"]}))
    with pytest.raises(InputError, match="the table of markers has no rows"):
        scale.annotate(planted.copy(), markers=programs.head(0))
    with pytest.raises(MissingSlotError, match=r"scale_cluster.* is missing"):
        cells = planted.copy()
        del cells.obs["scale_cluster"]
        scale.annotate(cells, markers=programs)
    with pytest.raises(InputError, match="chrQ"):
        scale.annotate(planted.copy(), markers=pd.DataFrame({"type": ["A"], "marker": ["chrQ:5-600"]}))


@pytest.mark.parametrize("text", ["type\tmarker\nA\tCD14\nB\tchr1:1-9\n", "gene,cell_type\nCD14,A\nchr1:1-9,B\n"])
def test_tables_with_tabs_and_commas_are_read(tmp_path, text):
    (tmp_path / "types").write_text(text)
    table = read_type_markers(tmp_path / "types")
    assert table.values.tolist() == [["A", "CD14"], ["B", "chr1:1-9"]]


@pytest.mark.parametrize("text", ["type\tmarker\n", "a\tb\n1\t2\n"])
def test_a_table_without_types_or_rows_is_refused(tmp_path, text):
    (tmp_path / "types").write_text(text)
    with pytest.raises(InputError, match="expected the columns type and marker, and a row a marker"):
        read_type_markers(tmp_path / "types")


def test_the_report_has_a_row_for_each_cluster(planted, programs):
    cells = planted.copy()
    keys.N_PEAKS.set(cells, np.diff(cells.X.indptr))
    assert "explain alike, is unclear" not in report.page(cells)
    page = report.page(scale.annotate(cells, markers=programs))
    assert "explain alike, is unclear" in page and "type3" in page


def test_the_command_names_and_shows(planted, programs, tmp_path, capfd):
    planted.write_h5ad(tmp_path / "in.h5ad")
    programs.to_csv(tmp_path / "types.tsv", sep="\t", index=False)
    words = ["annotate", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "out.h5ad")]
    with pytest.raises(SystemExit) as ended:
        app.main([*words, "--markers", str(tmp_path / "types.tsv"), "--json-logs"])
    assert ended.value.code == 0
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert any(line.get("2") == "type3" for line in lines)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert (written.obs["scale_type"].astype(str) == written.obs["cell_type"].astype(str)).all()
    with pytest.raises(SystemExit) as ended:
        app.main(words)
    assert ended.value.code == UsageError.exit_code
    assert "no --markers; expected a table of types and their markers" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore:.*have 0 marker peaks", "ignore:types without")
@pytest.mark.parametrize("name", ["leukemia", "bone_marrow"])
def test_types_of_one_half_of_labelled_cells_name_the_other(real, name):
    cells = real(name)
    is_first = np.random.default_rng(0).random(cells.n_obs) < 0.5
    first = scale.markers(cells[is_first].copy(), cluster_by="cell_type", n_threads=1)
    best = keys.MARKERS.get(first).groupby("cluster", observed=True).head(50)
    table = pd.DataFrame({"type": best["cluster"].astype(str), "marker": best["peak"]})
    second = scale.annotate(cells[~is_first].copy(), markers=table, cluster_by="cell_type")
    annotation = keys.ANNOTATION.get(second)
    with_markers = annotation[annotation["cluster"].isin(table["type"])]
    assert (with_markers["best"] == with_markers["cluster"]).mean() >= 0.8
