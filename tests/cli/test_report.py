"""``scale report``: from a file, with its options, and what is said where it cannot be."""

from __future__ import annotations

import io
import sys

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from scale_toolkit import keys, report
from scale_toolkit.stages.prepare import prepare


@pytest.fixture
def cells(plant, tmp_path):
    """cells.h5ad: prepared and clustered."""
    made = prepare(plant(), min_peaks=5, min_cells=2)
    code = made.obs["cell_type"].cat.codes.to_numpy()
    keys.UMAP.set(made, np.random.default_rng(0).normal(size=(made.n_obs, 2)).astype(np.float32))
    keys.CLUSTER.set(made, pd.Categorical(code.astype(str)))
    sizes = made.obs["scale_cluster"].value_counts(sort=False)
    keys.CLUSTER_STABILITY.set(made, pd.DataFrame({"cells": sizes.to_numpy(), "mean": 0.9}, index=sizes.index.astype(str)))
    made.obs["other"] = pd.Categorical(np.roll(code, 1).astype(str))
    made.write_h5ad(tmp_path / "cells.h5ad")
    return made


def test_the_page_is_that_of_the_function(cells, scale, tmp_path):
    code, said = scale("report cells.h5ad -o page.html")
    assert code == 0
    assert said.splitlines()[-1].startswith("report: page.html (4.")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text == report.page(anndata.read_h5ad(tmp_path / "cells.h5ad"), name="cells")
    assert "Stability: the mean Jaccard index" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "page.html"]


def test_label_and_title(cells, scale, tmp_path):
    assert scale("report cells.h5ad --label other --title Mine -o page.html")[0] == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>Mine</h1>" in text
    assert "mostly (other)" in text


def test_a_file_of_a_run_is_named_after_its_folder(cells, scale, tmp_path):
    (tmp_path / "brain").mkdir()
    (tmp_path / "cells.h5ad").rename(tmp_path / "brain" / "adata.h5ad")
    assert scale("report brain/adata.h5ad")[0] == 0
    assert "<h1>brain</h1>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_from_a_pipe(cells, scale, tmp_path, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO((tmp_path / "cells.h5ad").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stream)
    assert scale("report")[0] == 0
    assert "<h1>cells</h1>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_only_some_rows_of_the_matrix_are_read(cells, scale, tmp_path):
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        file["layers/big"] = np.zeros(3)  # no matrix at all: it is never looked at
        del file["X"]
    assert scale("report cells.h5ad")[0] == 0
    assert "X is not in this file" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("cells.h5ad -o page.pdf", 2, "-o is page.pdf; expected a name that ends in .html"),
        ("cells.h5ad -o no/page.html", 2, "the output folder no does not exist"),
        ("no.h5ad", 1, "no.h5ad does not exist"),
        ("cells.h5ad --label colour", 1, "obs has no column 'colour'; expected one of cell_type"),
        ("foreign.h5ad", 1, "foreign holds nothing that SCALE made; expected the output of any stage; run `scale run`"),
    ],
)
def test_words_that_are_off(cells, scale, tmp_path, words, code, message):
    anndata.AnnData(np.ones((3, 2), np.float32)).write_h5ad(tmp_path / "foreign.h5ad")
    found, said = scale(f"report {words}")
    assert (found, said.count("\n")) == (code, 1), said
    assert said.startswith(f"error: {message}"), said
    assert not list(tmp_path.glob("*.html"))
