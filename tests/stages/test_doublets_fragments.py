"""Doublets by fragments: cells with two or four copies of each chromosome, and files that are not theirs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

import scale_toolkit as scale
from scale_toolkit import keys, report
from scale_toolkit.cli import app
from scale_toolkit.config import FragmentsConfig
from scale_toolkit.core.intervals import parse_names
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io.fragments import read_blocks, read_fragments
from scale_toolkit.stages import doublets as stage
from scale_toolkit.stages import fragments as beside
from scale_toolkit.stages.receipts import receipts

ROOT = Path(__file__).parents[2]
PBMC = "pbmc_two_clusters"


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lay_out(cells, n_latent=5):
    """Give the cells a latent space without training: directions of the weighted open peaks."""
    opened = sparse.csr_matrix(cells.X > 0, dtype=float)
    rows = sparse.diags_array(1 / np.sqrt(np.asarray(opened.sum(1)).ravel())) @ opened
    left, values, _ = sparse.linalg.svds(rows, n_latent + 1, random_state=0)
    latent = (left * values)[:, ::-1][:, 1:]
    latent *= np.sqrt(n_latent) / np.linalg.norm(latent, axis=1, keepdims=True)
    keys.LATENT.set(cells, latent.astype(np.float32))


def write(table, path):
    table[["chrom", "start", "end", "barcode"]].assign(copies=1).to_csv(path, sep="\t", header=False, index=False)
    return path


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Cells with known doublets, a quarter of them of one type, and their fragments' file and table."""
    truth, peaks, table = benchmark("diploid").diploid(n_cells=300, n_peaks=3000, n_clusters=4, capture=0.5, seed=2)
    path = write(table, tmp_path_factory.mktemp("fragments") / "fragments.tsv")
    cells = read_fragments(path, parse_names(peaks), FragmentsConfig(), barcodes=list(truth.index))
    cells.obs = cells.obs.join(truth)
    scale.pp.prepare(cells, min_peaks=1, min_cells=1)
    lay_out(cells)
    return cells, path, table


@pytest.fixture(scope="module")
def scored(planted):
    cells, path, _ = planted
    return scale.tl.doublets(cells, fragments=path, n_threads=1, copy=True)


def test_fragments_find_doublets_of_one_type_too(scored):
    truth, alike = (scored.obs[name].to_numpy() for name in ("is_doublet", "is_alike"))
    sites = keys.DOUBLET_SITES.get(scored).to_numpy()
    assert roc_auc_score(truth, sites) > 0.97
    assert roc_auc_score(alike[~truth | alike], sites[~truth | alike]) > 0.97
    padj = keys.DOUBLET_SITES_PADJ.get(scored).to_numpy()
    assert truth[padj <= 0.01].mean() > 0.9
    assert (padj[truth] <= 0.01).mean() > 0.6


def test_either_evidence_calls_a_cell(planted, scored):
    cells, *_ = planted
    without = scale.tl.doublets(cells, n_threads=1, copy=True)
    np.testing.assert_array_equal(keys.DOUBLET_SCORE.get(without), keys.DOUBLET_SCORE.get(scored))
    by_score = keys.PREDICTED_DOUBLET.get(without).to_numpy()
    by_sites = keys.DOUBLET_SITES_PADJ.get(scored).to_numpy() <= 0.01
    called = keys.PREDICTED_DOUBLET.get(scored).to_numpy()
    np.testing.assert_array_equal(called, by_score | by_sites)
    summary = keys.DOUBLETS.get(scored)
    assert summary["n_called"] == called.sum()
    assert summary["sites_called"] == by_sites.sum()
    assert summary["sites_alone"] == (by_sites & ~by_score).sum()
    assert summary["sites_of_called"].sum() == called.sum()
    assert summary["sites_of_others"].sum() == (~called).sum()
    assert receipts(scored)[-1]["notes"]["with"] == ["fragments"]


def test_a_given_rate_takes_the_fragments_calls_first(planted, scored):
    cells, path, _ = planted
    padj, score = keys.DOUBLET_SITES_PADJ.get(scored), keys.DOUBLET_SCORE.get(scored)
    n_by_sites = int((padj <= 0.01).sum())
    rate = (n_by_sites + 5) / cells.n_obs
    result = scale.tl.doublets(cells, fragments=path, rate=rate, n_threads=1, copy=True)
    called = keys.PREDICTED_DOUBLET.get(result)
    assert called.sum() == n_by_sites + 5
    assert called[padj <= 0.01].all()
    assert score[called & (padj > 0.01)].min() >= score[~called].max()
    fewer = scale.tl.doublets(cells, fragments=path, rate=3 / cells.n_obs, n_threads=1, copy=True)
    assert (padj[keys.PREDICTED_DOUBLET.get(fewer)] <= np.sort(padj)[2]).all()


def test_the_limit_and_the_autosomes_are_options(planted, scored, quick):
    cells, path, table = planted
    strict = scale.tl.doublets(cells, fragments=path, max_fdr=1e-12, copy=True)
    assert keys.DOUBLETS.get(strict)["sites_called"] < keys.DOUBLETS.get(scored)["sites_called"]
    chrom = table["chrom"].iloc[0]
    one_autosome = scale.tl.doublets(cells, fragments=path, autosomes=(chrom,), copy=True)
    assert 0 < keys.DOUBLET_SITES.get(one_autosome).sum() < keys.DOUBLET_SITES.get(scored).sum()


def test_without_fragments_the_columns_of_an_earlier_call_are_gone(scored, quick):
    again = scale.tl.doublets(scored, copy=True)
    assert not keys.DOUBLET_SITES.found_in(again)
    assert not keys.DOUBLET_SITES_PADJ.found_in(again)
    assert "sites_called" not in keys.DOUBLETS.get(again)


def test_files_of_batches_are_read_in_their_order(planted, scored, tmp_path, quick):
    cells, _, table = planted
    batch = pd.Series(np.arange(cells.n_obs) % 2, cells.obs_names)
    joined = cells.copy()
    joined.obs["batch"] = pd.Categorical.from_codes(batch.to_numpy(), ["old", "new"])
    joined.obs_names = [f"{name}-{kind}" for name, kind in zip(cells.obs_names, joined.obs["batch"])]
    paths = [write(table[table["barcode"].map(batch) == code], tmp_path / f"{code}.tsv") for code in (0, 1)]
    result = scale.tl.doublets(joined, fragments=paths, copy=True)
    # sites of repeats are left out in each file by itself
    assert np.corrcoef(keys.DOUBLET_SITES.get(result), keys.DOUBLET_SITES.get(scored))[0, 1] > 0.95
    with pytest.raises(InputError, match=r"none of [\d,]+ fragments has the barcode"):
        scale.tl.doublets(joined, fragments=paths[::-1], copy=True)
    with pytest.raises(InputError, match=r"3 files of fragments, and 2 batches in .*; expected a file for each batch"):
        scale.tl.doublets(joined, fragments=[*paths, paths[0]], copy=True)


@pytest.fixture
def quick(monkeypatch):
    """Scores of no meaning, at once."""
    rng = np.random.default_rng(0)

    def made(opened, *_):
        return stage.DoubletScores(rng.random(opened.shape[0]), rng.random(600), 0.5, 0.1, 1.2)

    monkeypatch.setattr(stage, "score_doublets", made)
    monkeypatch.setattr(stage, "fit_latent_map", lambda *_: None)


def shifted(table):
    # beyond a peak's width: as in another build of the genome
    return table.assign(start=table["start"] + 20_000, end=table["end"] + 20_000)


def of_other_cells(table):
    names = np.unique(table["barcode"])
    return table.assign(barcode=table["barcode"].map(dict(zip(names, np.roll(names, 1)))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(barcode=t["barcode"] + "-1"), r"none of [\d,]+ fragments has the barcode of a cell \(first 'cell\d+-1'"),
        (lambda t: t.assign(chrom=t["chrom"].str.removeprefix("chr")), r"no chromosome of the peaks .* is in the fragments"),
        (shifted, r"\d+% of [\d,]+ fragments in peaks lie in a peak that X has open in their cell; .*genome build"),
        (of_other_cells, r"\d+% of [\d,]+ fragments in peaks .*check the sample"),
        (lambda t: t.assign(start=t["start"] + 10**9, end=t["end"] + 10**9), "no fragment of a cell lies in a peak"),
        (lambda t: t.sample(frac=1, random_state=0), "the fragments are not sorted: chr"),
        (lambda t: t.sort_values("start"), "the fragments are not sorted: chr"),
    ],
)
def test_other_files_are_refused_in_one_line(planted, tmp_path, quick, change, message):
    cells, _, table = planted
    with pytest.raises(InputError, match=message):
        scale.tl.doublets(cells, fragments=write(change(table), tmp_path / "f.tsv"), copy=True)


def test_autosomes_need_fragments_that_are_on_them(planted, quick):
    cells, path, _ = planted
    with pytest.raises(InputError, match="`autosomes` without fragments; expected both"):
        scale.tl.doublets(cells, autosomes=("chr1",), copy=True)
    with pytest.raises(InputError, match=r"fragments on chr1, .*; expected chr99"):
        scale.tl.doublets(cells, fragments=path, autosomes=("chr99",), copy=True)


def test_fragments_of_few_cells_warn_and_of_peaks_without_places_are_read(planted, tmp_path, quick):
    cells, path, table = planted
    few = set(cells.obs_names[:100])
    with pytest.warns(ScaleWarning, match=r"cells have no fragment in the files given"):
        scale.tl.doublets(cells, fragments=write(table[table["barcode"].isin(few)], tmp_path / "f.tsv"), copy=True)
    unnamed = cells.copy()
    unnamed.var_names = [f"peak_{number}" for number in range(cells.n_vars)]
    result = scale.tl.doublets(unnamed, fragments=path, copy=True)
    assert keys.DOUBLET_SITES.get(result).sum() > 0


def test_fragments_only_on_other_chromosomes_of_the_cells_are_refused(planted, tmp_path, quick):
    cells, _, table = planted
    outside = table["chrom"] != "chr1"
    stranger = table.assign(barcode=np.where(outside, table["barcode"], "stranger"))
    with pytest.raises(InputError, match="no fragment of the cells is on an autosome"):
        scale.tl.doublets(
            cells, fragments=write(stranger, tmp_path / "f.tsv"), autosomes=("chr1",), copy=True
        )


def test_the_report_says_what_the_fragments_called(scored):
    page = report.page(scored)
    summary = keys.DOUBLETS.get(scored)
    assert f"By fragments: {summary['sites_called']} cells called" in page
    assert "doublet_sites" in page


def test_a_receipt_with_fragments_is_not_replayed(scored):
    with pytest.raises(InputError, match="doublets was given fragments, which the file does not hold"):
        scale.verify(scored)


def test_the_command_reads_them_and_shows_the_calls(planted, tmp_path, capfd):
    cells, path, _ = planted
    cells.write_h5ad(tmp_path / "in.h5ad")
    output = tmp_path / "out.h5ad"
    words = ["doublets", str(tmp_path / "in.h5ad"), "--fragments", str(path), "-o", str(output), "--json-logs"]
    with pytest.raises(SystemExit) as ended:
        app.main(words)
    assert ended.value.code == 0
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.strip()]
    result = anndata.read_h5ad(output)
    assert any(line.get("by fragments") == keys.DOUBLETS.get(result)["sites_called"] for line in lines)
    with pytest.raises(SystemExit) as ended:
        app.main(["doublets", "-", "--fragments", "-", "-o", str(output)])
    assert ended.value.code == 2
    assert "standard input is given twice" in capfd.readouterr().err


def test_real_fragments_agree_with_the_counts_made_from_them(data_path):
    """10x cells: nearly all fragments in peaks are in open ones, and few sites have more than two."""
    cells = anndata.read_h5ad(data_path(f"{PBMC}.h5ad"))
    path = data_path(f"{PBMC}.fragments.tsv.gz")
    comparison = beside._Comparison(cells)
    block = next(iter(read_blocks(path)))
    columns = (block[name].to_numpy() for name in ("chrom", "start", "end"))
    comparison.add(*columns, cells.obs_names.get_indexer(block["barcode"]))
    assert comparison._n_open / comparison._n_compared > 0.98
    sites = beside.crowded_sites(cells, [read_blocks(path)])
    assert 0 < sites.n_sites.mean() < 1
    assert sites.n_fragments.sum() == (block["end"] - block["start"] <= 900).sum()
