"""What `export` writes, read back by the programs it is for: our own readers, scanpy, mudata, anndata, and R where it is."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from scale_toolkit.errors import InputError, ScaleError, ScaleWarning, UsageError
from scale_toolkit.io import export as exporting
from scale_toolkit.io.export import CELLXGENE_ASKS, check_place, export
from scale_toolkit.io.readers import read_any


@pytest.fixture
def cells(planted):
    rng = np.random.default_rng(0)
    planted.obs["depth"] = rng.random(planted.n_obs)
    planted.obs["note"] = ['say "this"\tor that'] + [""] * (planted.n_obs - 1)
    planted.obsm["X_scale"] = rng.random((planted.n_obs, 4)).astype(np.float32)
    planted.obsm["X_umap"] = rng.random((planted.n_obs, 2)).astype(np.float32)
    planted.obsm["imputed"] = rng.random(planted.shape).astype(np.float32)
    planted.layers["imputed"] = rng.random(planted.shape).astype(np.float32)
    planted.uns["cell_type_colors"] = ["#111111", "#222222", "#333333"]
    return planted


def same(found, cells):
    assert list(found.obs_names) == list(cells.obs_names)
    assert list(found.var_names) == list(cells.var_names)
    assert (sparse.csr_matrix(found.X) != cells.X).nnz == 0


class TestFolder:
    def test_our_own_reader_gets_the_cells_back(self, cells, tmp_path):
        export(cells, tmp_path / "out", "mtx")
        same(read_any(tmp_path / "out"), cells)
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert names == {
            "matrix.mtx.gz", "peaks.tsv.gz", "barcodes.tsv.gz", "metadata.tsv.gz", "reduction_scale.tsv.gz",
            "reduction_umap.tsv.gz",
        }  # fmt: skip

    def test_tables_hold_obs_and_the_embeddings(self, cells, tmp_path):
        export(cells, tmp_path / "out", "mtx")
        table = pd.read_csv(tmp_path / "out" / "metadata.tsv.gz", sep="\t", index_col="barcode", keep_default_na=False)
        assert list(table.index) == list(cells.obs_names)
        assert list(table["cell_type"]) == list(cells.obs["cell_type"])
        assert table["note"].iloc[0] == 'say "this"\tor that'
        np.testing.assert_allclose(table["depth"].astype(float), cells.obs["depth"])
        umap = pd.read_csv(tmp_path / "out" / "reduction_umap.tsv.gz", sep="\t", index_col=0)
        assert list(umap.columns) == ["umap_1", "umap_2"]
        np.testing.assert_allclose(umap, cells.obsm["X_umap"], rtol=1e-6)

    def test_a_layer_of_fractions_keeps_them(self, cells, tmp_path):
        export(cells, tmp_path / "out", "mtx", layer="imputed")
        with gzip.open(tmp_path / "out" / "matrix.mtx.gz", "rt") as file:
            assert file.readline().split()[3] == "real"
        np.testing.assert_allclose(read_any(tmp_path / "out").X.toarray(), cells.layers["imputed"], rtol=1e-6)

    def test_an_older_export_is_replaced_and_a_folder_of_others_is_not(self, cells, tmp_path):
        export(cells, tmp_path / "out", "mtx")
        export(cells[:50].copy(), tmp_path / "out", "mtx")
        assert read_any(tmp_path / "out").n_obs == 50
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").touch()
        with pytest.raises(UsageError, match="mine holds other files"):
            export(cells, tmp_path / "mine", "mtx")
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]

    def test_equal_cells_give_equal_bytes(self, cells, tmp_path):
        for name in ("a", "b"):
            export(cells, tmp_path / name, "mtx")
        for path in (tmp_path / "a").iterdir():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()

    def test_a_failure_leaves_nothing(self, cells, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(exporting, "_write_table", full)
        with pytest.raises(ScaleError, match=r"out cannot be written \(No space left on device\)"):
            export(cells, tmp_path / "out", "mtx")
        assert list(tmp_path.iterdir()) == []


class TestTenx:
    def test_scanpy_and_our_own_reader_get_the_cells_back(self, cells, tmp_path):
        path = tmp_path / "a.h5"
        export(cells, path, "10x")
        same(read_any(path), cells)
        found = sc.read_10x_h5(path, gex_only=False)
        same(found, cells)
        assert set(found.var["feature_types"]) == {"Peaks"}
        assert set(found.var["genome"]) == {"unknown"}

    def test_intervals_and_the_genome_are_there(self, cells, tmp_path):
        cells.uns["genome"] = "hg38"
        cells.var_names = [name.replace(":", "_").replace("-", "_") for name in cells.var_names]
        export(cells, tmp_path / "a.h5", "10x")
        found = sc.read_10x_h5(tmp_path / "a.h5", gex_only=False)
        assert found.var["interval"].iloc[0] == "chr1:0-500"
        assert set(found.var["genome"]) == {"hg38"}

    def test_fractions_are_refused(self, cells, tmp_path):
        with pytest.raises(InputError, match="negative or fractional values; expected counts: 10x is a form for them"):
            export(cells, tmp_path / "a.h5", "10x", layer="imputed")
        assert list(tmp_path.iterdir()) == []


class TestMuData:
    def test_mudata_and_our_own_reader_get_the_cells_back(self, cells, tmp_path):
        path = tmp_path / "a.h5mu"
        export(cells, path, "h5mu")
        same(read_any(path), cells)
        mudata = pytest.importorskip("mudata")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mudata on its own future
            found = mudata.read_h5mu(path)
        same(found["atac"], cells)
        assert list(found.mod) == ["atac"]
        assert list(found.obs_names) == list(cells.obs_names)
        np.testing.assert_array_equal(found["atac"].obsm["imputed"], cells.obsm["imputed"])
        assert path.read_bytes().startswith(b"MuData (format-version=")

    def test_a_layer_takes_the_place_of_x(self, cells, tmp_path):
        export(cells, tmp_path / "a.h5mu", "h5mu", layer="imputed")
        np.testing.assert_allclose(read_any(tmp_path / "a.h5mu").X.toarray(), cells.layers["imputed"])
        assert cells.X.max() > 1  # the cells themselves stay


class TestCellxgene:
    def test_it_has_what_can_be_known(self, cells, tmp_path):
        missing = export(cells, tmp_path / "a.h5ad", "cellxgene")
        assert missing == [*CELLXGENE_ASKS, "organism_ontology_term_id"]
        found = anndata.read_h5ad(tmp_path / "a.h5ad")
        same(found, cells)
        assert (found.X.format, found.X.dtype) == ("csr", np.float32)
        assert found.raw is None
        assert set(found.obsm) == {"X_scale", "X_umap"}
        assert found.uns["default_embedding"] == "X_umap"
        assert "cell_type" not in found.obs  # Discover's own
        assert list(found.obs["cell_type_label"]) == list(cells.obs["cell_type"])
        assert list(found.uns["cell_type_label_colors"]) == ["#111111", "#222222", "#333333"]
        assert set(found.obs["suspension_type"]) == {"nucleus"}
        assert not found.var["feature_is_filtered"].any()

    def test_what_was_added_is_not_asked_again(self, cells, tmp_path):
        cells.obs["donor_id"] = "d1"
        cells.uns["organism_ontology_term_id"] = "NCBITaxon:9606"
        missing = export(cells, tmp_path / "a.h5ad", "cellxgene")
        assert not {"donor_id", "organism_ontology_term_id"} & set(missing)
        assert anndata.read_h5ad(tmp_path / "a.h5ad").uns["organism_ontology_term_id"] == "NCBITaxon:9606"

    def test_colours_of_other_categories_and_reserved_names_are_left_out(self, cells, tmp_path):
        cells.uns["cell_type_colors"] = ["#111111"]
        cells.obs["__private"] = 1
        with pytest.warns(ScaleWarning, match=r"dropped obs\[__private\]"):
            export(cells, tmp_path / "a.h5ad", "cellxgene")
        found = anndata.read_h5ad(tmp_path / "a.h5ad")
        assert not [name for name in found.uns if name.endswith("_colors")]
        assert "__private" not in found.obs

    def test_without_an_embedding_it_says_which_stage_makes_one(self, cells, tmp_path):
        for name in list(cells.obsm):
            del cells.obsm[name]
        with pytest.raises(InputError, match=r"obsm has no embedding .*; run `scale embed`"):
            export(cells, tmp_path / "a.h5ad", "cellxgene")

    def test_names_that_repeat_are_told(self, cells, tmp_path):
        cells.obs_names = ["same", "same", *cells.obs_names[2:]]
        with pytest.raises(InputError, match="the cell name 'same' is duplicated"):
            export(cells, tmp_path / "a.h5ad", "cellxgene")


@pytest.mark.parametrize(
    ("place", "to", "message"),
    [
        ("-", "mtx", "the output is -; expected a path"),
        ("none/out", "mtx", "the output folder none does not exist"),
        ("none/out.h5", "10x", "the output folder none does not exist"),
        ("file", "mtx", "file is a file; expected a folder"),
        (".", "h5mu", "the output . is a folder"),
    ],
)
def test_places_that_cannot_be(tmp_path, monkeypatch, place, to, message):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UsageError, match=message):
        check_place(place, to)


def test_no_matrix(cells, tmp_path):
    with pytest.raises(InputError, match="layers has no 'x'; expected one of: imputed"):
        export(cells, tmp_path / "out", "mtx", layer="x")
    cells.X = None
    with pytest.raises(InputError, match="X is empty"):
        export(cells, tmp_path / "out", "mtx")


# R


def r(code: str, *packages: str) -> str:
    """Run R, or skip where it or a package is not."""
    program = shutil.which("Rscript")
    if program is None:
        pytest.skip("R is not here: Rscript was not found")
    for package in packages:
        found = subprocess.run([program, "-e", f"library({package})"], capture_output=True, text=True, check=False)
        if found.returncode:
            pytest.skip(f"R is here without the package {package}")
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    result = subprocess.run([program, "-e", code], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def documented(heading: str) -> str:
    """The R lines of docs/export.md under this heading."""
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    return page.split(f"## {heading}\n")[1].split("```r\n")[1].split("```")[0]


def test_r_reads_the_folder_by_the_documented_lines(cells, tmp_path):
    export(cells, tmp_path / "out", "mtx")
    code = documented("R: counts, cells and embeddings").replace('"out"', f'"{tmp_path / "out"}"')
    code += """
        cat(dim(counts), sum(counts), rownames(counts)[2], colnames(counts)[3], counts[5, 7], "\\n")
        cat(nrow(metadata), as.character(metadata$cell_type[2]), metadata$note[1] == "say \\"this\\"\\tor that", "\\n")
        cat(format(umap["cell3", 2], digits = 8), all(rownames(umap) == colnames(counts)), "\\n")
    """
    first, second, third = (line.split() for line in r(code, "Matrix").splitlines()[-3:])
    assert first[:3] == ["300", "120", f"{cells.X.sum():g}"]
    assert first[3:] == [cells.var_names[1], cells.obs_names[2], f"{cells.X[6, 4]:g}"]
    assert second == ["120", cells.obs["cell_type"].iloc[1], "TRUE"]
    assert float(third[0]) == pytest.approx(float(cells.obsm["X_umap"][3, 1]), rel=1e-6)
    assert third[1] == "TRUE"


def test_seurat_reads_the_10x_file(cells, tmp_path):
    export(cells, tmp_path / "a.h5", "10x")
    code = f"""
        suppressMessages(library(Seurat))
        counts <- Read10X_h5("{tmp_path / "a.h5"}")
        cat(dim(counts), sum(counts), rownames(counts)[2], colnames(counts)[3], counts[5, 7], "\\n")
    """
    found = r(code, "Seurat", "hdf5r").splitlines()[-1].split()
    assert found[:3] == ["300", "120", f"{cells.X.sum():g}"]
    assert found[4:] == [cells.obs_names[2], f"{cells.X[6, 4]:g}"]


def test_hdf5_holds_the_matrix_by_columns(cells, tmp_path):
    """As rhdf5 and hdf5r find it: barcodes are columns."""
    export(cells, tmp_path / "a.h5", "10x")
    with h5py.File(tmp_path / "a.h5") as file:
        parts = (file["matrix/data"][:], file["matrix/indices"][:], file["matrix/indptr"][:])
        matrix = sparse.csc_matrix(parts, shape=tuple(file["matrix/shape"][:]))
    assert (matrix != cells.X.T).nnz == 0
