"""The size of an input by its header: the same as what reading it gives, and nothing of the counts is read."""

from __future__ import annotations

import io

import anndata
import h5py
import mudata
import pytest
from scipy import sparse

from scale_toolkit.errors import InputError
from scale_toolkit.io.readers import read_any
from scale_toolkit.io.size import size_of


@pytest.fixture
def cells(plant):
    return plant(n_cells=40, n_peaks=90)


def stored(adata) -> int:
    return adata.X.nnz if sparse.issparse(adata.X) else adata.n_obs * adata.n_vars


@pytest.mark.filterwarnings("ignore")  # of anndata and mudata, on the future of their formats
@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
@pytest.mark.parametrize("door", ["h5ad", "zarr", "h5mu"])
def test_it_is_what_reading_gives(cells, tmp_path, door, form):
    made = cells.copy()
    made.X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda x: x.toarray()}[form](made.X)
    path = tmp_path / f"cells.{door}"
    if door == "h5ad":
        made.write_h5ad(path)
    elif door == "zarr":
        made.write_zarr(path)
    else:
        mudata.MuData({"atac": made, "rna": cells[:, :5].copy()}).write(path)
    read = read_any(path)
    assert size_of(path) == (read.n_obs, read.n_vars, stored(read)) == (40, 90, stored(made))


def test_a_10x_h5(cells, tmp_path):
    counts = sparse.csr_matrix(cells.X)
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        group = file.create_group("matrix")
        group["shape"] = [90, 40]
        group["barcodes"] = [name.encode() for name in cells.obs_names]
        group["features/id"] = [name.encode() for name in cells.var_names]
        group["data"], group["indices"], group["indptr"] = counts.data, counts.indices, counts.indptr
    assert size_of(tmp_path / "cells.h5") == (40, 90, counts.nnz)
    assert read_any(tmp_path / "cells.h5").shape == (40, 90)


@pytest.mark.parametrize("upright", [True, False])
def test_a_folder_with_mtx(cells, tmp_path, upright):
    counts = sparse.csr_matrix(cells.X)
    rows = counts.T.tocoo() if upright else counts.tocoo()
    lines = [f"{i + 1} {j + 1} {value:.0f}" for i, j, value in zip(rows.row, rows.col, rows.data)]
    head = ["%%MatrixMarket matrix coordinate integer general", f"{rows.shape[0]} {rows.shape[1]} {rows.nnz}"]
    (tmp_path / "counts.mtx").write_text("\n".join([*head, *lines]) + "\n")
    (tmp_path / "peaks.txt").write_text("\n".join(cells.var_names) + "\n")
    (tmp_path / "barcodes.txt").write_text("\n".join(cells.obs_names) + "\n")
    assert size_of(tmp_path) == (40, 90, counts.nnz)


def test_standard_input(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    stream = io.BytesIO((tmp_path / "cells.h5ad").read_bytes())
    assert size_of("-", stdin=stream) == (40, 90, stored(cells))


def test_the_counts_are_not_read(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        del file["X/indices"]
    assert size_of(tmp_path / "cells.h5ad") == (40, 90, stored(cells))


def test_text_tells_no_size(tmp_path):
    (tmp_path / "cells.txt").write_text("\ta\tb\nchr1:1-2\t1\t0\n")
    with pytest.raises(InputError, match=r"does not state its size at its beginning.*run `scale prepare`"):
        size_of(tmp_path / "cells.txt")


def test_no_counts(cells, tmp_path):
    anndata.AnnData(obs=cells.obs, var=cells.var).write_h5ad(tmp_path / "names.h5ad")
    with pytest.raises(InputError, match="has no counts"):
        size_of(tmp_path / "names.h5ad")
    with h5py.File(tmp_path / "names.h5ad", "r+") as file:  # as anndata 0.12.0 has it
        file.pop("X", None)
        file.create_dataset("X", data=h5py.Empty("f4")).attrs["encoding-type"] = "null"
    with pytest.raises(InputError, match="has no counts"):
        size_of(tmp_path / "names.h5ad")
