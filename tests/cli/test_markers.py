"""``scale markers``: the files it writes, and what it refuses."""

from __future__ import annotations

import gzip
import json

import anndata
import numpy as np
import pandas as pd
import pytest
import typer
from scipy import sparse
from typer.testing import CliRunner

from scale_toolkit import keys
from scale_toolkit.cli.app import app

#: Each option with a value it may have; every one of them must reach the result or the receipt.
OPTIONS = {
    "--cluster-by": "cell_type",
    "--groupby": "cell_type",
    "--contrast": "half:0:1",
    "--sample-key": "sample",
    "--method": "wilcoxon",
    "--max-fdr": "0.01",
    "--min-odds-ratio": "2.5",
    "--min-share": "0.1",
    "--min-cells": "20",
    "--weight-cutoff": "3.0",
    "--motif-p": "0.001",
    "--background-ratio": "3",
    "--seed": "7",
    "--n-threads": "1",
}
#: Options for files, and the messages' own; each has a test below.
FILES = {"--output", "--table", "--bed-dir", "--gtf", "--genome", "--motifs", "--motif-table"}
MESSAGES = {"--memory", "--quiet", "--json-logs", "--debug"}


@pytest.fixture
def folder(tmp_path, plant, monkeypatch):
    """Planted cells, a GTF, a genome with a planted word in the peaks of type1, and two motifs."""
    monkeypatch.chdir(tmp_path)
    cells = plant(n_cells=300)
    cells.obs["half"], cells.obs["sample"] = np.arange(300) // 3 % 2, np.arange(300) // 3 % 8
    cells.write_h5ad("cells.h5ad")
    rng = np.random.default_rng(0)
    word = rng.integers(0, 4, 10)
    genome = {f"chr{c}": rng.integers(0, 4, 301_000) for c in (1, 2, 3)}
    for name in cells.var_names[1::10]:
        chrom, _, start = name.partition("-")[0].partition(":")
        at = int(start) + int(rng.integers(0, 480))
        genome[chrom][at : at + 10] = word
    with open("genome.fa", "w") as file:  # noqa: PTH123
        for chrom, codes in genome.items():
            print(f">{chrom}", "".join(np.array(list("ACGT"))[codes]), sep="\n", file=file)
    other = rng.integers(0, 4, 10)
    with open("motifs.meme", "w") as file:  # noqa: PTH123
        print("MEME version 4\n\nALPHABET= ACGT\n", file=file)
        for name, codes in (("planted", word), ("other", other)):
            print(f"MOTIF {name}\nletter-probability matrix: alength= 4 w= 10", file=file)
            print("\n".join(" ".join(map(str, row)) for row in 0.9 * np.eye(4)[codes] + 0.025), "\n", file=file)
    gene = 'chr{c}\tsrc\tgene\t{s}\t{e}\t.\t+\t.\tgene_id "G{c}"; gene_name "NAME{c}";\n'
    text = "".join(gene.format(c=c, s=1000 * c, e=1000 * c + 400) for c in (1, 2, 3))
    (tmp_path / "genes.gtf.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "no_chr.gtf").write_text(text.replace("chr", ""))
    return tmp_path


def call(words: str):
    return CliRunner().invoke(app, ["markers", *words.split()])


def test_everything_at_once(folder):
    result = call(
        "cells.h5ad -o out.h5ad --cluster-by cell_type --table markers.tsv --bed-dir beds --gtf genes.gtf.gz"
        " --genome genome.fa --motifs motifs.meme --motif-table motifs.tsv"
    )
    assert result.exit_code == 0, result.stderr
    out = anndata.read_h5ad("out.h5ad")
    expected = keys.MARKERS.get(out)
    table = pd.read_csv("markers.tsv", sep="\t")
    assert list(table.columns) == list(expected.columns)
    assert table["peak"].tolist() == expected["peak"].tolist()
    np.testing.assert_allclose(table["p_value"], expected["p_value"], rtol=1e-5)
    assert set(table["nearest_gene"]) <= {"NAME1", "NAME2", "NAME3"}
    for name in ("type0", "type1", "type2"):
        bed = pd.read_csv(f"beds/cell_type.{name}.bed", sep="\t", header=None)
        assert sorted(bed[3]) == sorted(table.loc[table["cluster"] == name, "peak"])
    motifs = pd.read_csv("motifs.tsv", sep="\t")
    assert motifs.loc[motifs["fdr"] < 0.01, ["cluster", "motif"]].to_numpy().tolist() == [["type1", "planted"]]
    assert (out.X != anndata.read_h5ad("cells.h5ad").X).nnz == 0


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_reaches_the_receipt(folder, option):
    by_all = {name: value for name, value in OPTIONS.items() if name not in ("--groupby", "--contrast", "--sample-key")}
    words = by_all if option == "--cluster-by" else {"--cluster-by": "cell_type", option: OPTIONS[option]}
    if option == "--groupby":
        words.pop("--cluster-by")
    if option == "--sample-key":
        words["--contrast"] = OPTIONS["--contrast"]
    result = call("cells.h5ad -o out.h5ad " + " ".join(" ".join(pair) for pair in words.items()))
    assert result.exit_code == 0, result.stderr
    options = json.loads(anndata.read_h5ad("out.h5ad").uns["scale"])[-1]["options"]
    value = options["cluster_by" if option == "--groupby" else option[2:].replace("-", "_")]
    assert (":".join(value) if option == "--contrast" else str(value)) == OPTIONS[option]


def test_every_option_has_its_case():
    parameters = typer.main.get_command(app).commands["markers"].params
    shown = {flag for p in parameters for flag in p.opts if flag.startswith("--") and p.name != "help"}
    assert shown == set(OPTIONS) | FILES | MESSAGES


def test_no_marker_writes_no_empty_files(folder):
    result = call("cells.h5ad -o out.h5ad --cluster-by cell_type --max-fdr 0 --table markers.tsv --bed-dir beds")
    assert result.exit_code == 0
    assert "warning: 0 marker peaks in 3 clusters" in result.stderr
    assert not (folder / "markers.tsv").exists() and not (folder / "beds").exists()
    assert len(keys.MARKERS.get(anndata.read_h5ad("out.h5ad"))) == 0


def test_differences_between_conditions_are_written(folder):
    cells = anndata.read_h5ad("cells.h5ad")
    rng = np.random.default_rng(0)
    X = cells.X.toarray()
    X[np.ix_(cells.obs["half"] == 0, np.arange(5))] = rng.random((150, 5)) < 0.8
    X[np.ix_(cells.obs["half"] == 1, np.arange(5))] = rng.random((150, 5)) < 0.05
    cells.X = sparse.csr_matrix(X)
    cells.write_h5ad("cells.h5ad")
    words = "--groupby cell_type --contrast half:0:1 --sample-key sample --gtf genes.gtf.gz --table d.tsv --bed-dir beds"
    result = call(f"cells.h5ad -o out.h5ad {words}")
    assert result.exit_code == 0, result.stderr
    expected = keys.CONTRAST.get(anndata.read_h5ad("out.h5ad"))
    table = pd.read_csv("d.tsv", sep="\t")
    assert list(table.columns) == list(expected.columns) and "nearest_gene" in table
    assert table["peak"].tolist() == expected["peak"].tolist()
    for name in ("type0", "type1", "type2"):
        rows = table[table["cluster"] == name]
        assert set(cells.var_names[:5]) <= set(rows.loc[rows["higher_in"] == 0, "peak"])
        bed = pd.read_csv(f"beds/cell_type.0.{name}.bed", sep="\t", header=None)
        assert sorted(bed[3]) == sorted(rows.loc[rows["higher_in"] == 0, "peak"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--contrast half", 2, "--contrast is 'half'; expected COLUMN:A:B, a column of obs and two of its values"),
        ("--contrast half:0:0", 2, "--contrast compares '0' with itself; expected two different values"),
        ("--contrast half:0:2", 1, "no cell has '2' in obs['half'] (contrast); expected two of 0, 1"),
        ("--contrast third:0:1", 1, "obs has no column 'third'"),
        ("--sample-key sample", 2, "--sample-key is sample and contrast is left out; expected both"),
        ("--contrast half:0:1 --sample-key cell_type", 1, "3 of 3 samples of obs['cell_type'] have cells of '0' and of '1'"),
        ("--contrast half:0:1 --method wilcoxon", 2, "--contrast is given and method is wilcoxon; expected logistic"),
        ("--contrast half:0:1 --genome genome.fa --motifs motifs.meme", 2, "--contrast and motifs are given"),
        ("--genome genome.fa", 2, "one of --genome and --motifs; expected both or neither"),
        ("--motifs motifs.meme", 2, "one of --genome and --motifs; expected both or neither"),
        ("--motif-table m.tsv", 2, "--motif-table without --motifs"),
        ("--gtf nowhere.gtf", 1, "nowhere.gtf does not exist"),
        ("--table out.h5ad", 2, "out.h5ad is also the input"),
        ("--table t --motif-table t --genome genome.fa --motifs motifs.meme", 2, "--motif-table t is also the input or output"),
        ("--bed-dir cells.h5ad", 2, "--bed-dir cells.h5ad: cells.h5ad is a file"),
        ("--gtf no_chr.gtf", 1, "no chromosome of the peaks (chr1, chr2, chr3) is in the GTF (1, 2, 3)"),
        ("--genome genes.gtf.gz --motifs motifs.meme", 1, "genes.gtf.gz "),
        ("--min-share 2", 2, "--min-share is 2; expected 1 or less"),
        ("--cluster-by nothing", 1, "obs has no column 'nothing'; expected one of cell_type"),
    ],
)
def test_what_is_refused(folder, words, code, message):
    (folder / "out.h5ad").touch()
    cluster_by = "" if "--cluster-by" in words else "--cluster-by cell_type "
    result = call(f"cells.h5ad -o out.h5ad {cluster_by}{words}")
    assert result.exit_code == code, result.stderr
    assert f"error: {message}" in result.stderr
    assert (folder / "out.h5ad").stat().st_size == 0


def test_names_that_are_no_intervals_are_refused_before_the_work(folder):
    cells = anndata.read_h5ad("cells.h5ad")
    cells.var_names = [f"peak_{j}" for j in range(cells.n_vars)]
    cells.write_h5ad("named.h5ad")
    for flag in ("--bed-dir beds", "--gtf genes.gtf.gz", "--genome genome.fa --motifs motifs.meme"):
        result = call(f"named.h5ad -o out.h5ad --cluster-by cell_type {flag}")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "first 'peak_0'; expected names such as chr1:100-200" in result.stderr and flag.split()[0] in result.stderr
    assert call("named.h5ad -o out.h5ad --cluster-by cell_type --table t.tsv").exit_code == 0
