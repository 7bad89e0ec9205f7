from __future__ import annotations

import subprocess
import sys
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.errors import UsageError
from scale_toolkit.io.files import check_destination
from scale_toolkit.io.h5ad import open_h5ad, write_h5ad


class Blocks:
    """A matrix in memory handed out in blocks of rows."""

    def __init__(self, matrix, rows, **facts):
        self.matrix, self.rows = matrix, rows
        self.format = "csr" if sparse.issparse(matrix) else "dense"
        self.shape, self.dtype = matrix.shape, matrix.dtype
        vars(self).update(facts)

    def blocks(self):
        for at in range(0, self.matrix.shape[0], self.rows):
            yield self.matrix[at : at + self.rows]


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr on its own formats
        return anndata.read_zarr(path)


def plain(value):
    return value.toarray() if sparse.issparse(value) else np.asarray(value)


@pytest.fixture
def rich(planted):
    rng = np.random.default_rng(0)
    n, m = planted.shape
    planted.layers["counts"] = planted.X.copy()
    planted.layers["scaled"] = rng.random((n, m)).astype(np.float32)
    planted.raw = planted.copy()
    planted.obsm["X_scale"] = rng.random((n, 3))
    planted.obsm["table"] = pd.DataFrame({"a": rng.random(n), "b": ["x", "y"] * (n // 2)}, index=planted.obs_names)
    planted.obsp["distances"] = sparse.random(n, n, 0.1, "csr", random_state=0)
    planted.uns["nested"] = {"text": "a", "names": np.array(["u", "v"], dtype=object), "number": 3.5, "none": np.zeros((0, 3))}
    return planted


def test_what_is_read_and_what_is_carried_arrives(rich, tmp_path):
    rich.write_h5ad(tmp_path / "a.h5ad")
    with open_h5ad(tmp_path / "a.h5ad") as file:
        for name, without in (("all.zarr", ()), ("carried.zarr", (*keys.LARGE, "uns", "obsp", "obsm/table"))):
            write_h5ad(file.read(without), tmp_path / name, carry=file)
            again = read(tmp_path / name)
            pd.testing.assert_frame_equal(again.obs, rich.obs)
            pd.testing.assert_frame_equal(again.var, rich.var)
            assert isinstance(again.X, sparse.csr_matrix) and (again.X != rich.X).nnz == 0
            for mapping in ("layers", "obsp"):
                for key, value in getattr(rich, mapping).items():
                    if key is not None:
                        np.testing.assert_array_equal(plain(getattr(again, mapping)[key]), plain(value))
            np.testing.assert_array_equal(again.obsm["X_scale"], rich.obsm["X_scale"])
            assert again.obsm["table"]["b"].tolist() == rich.obsm["table"]["b"].tolist()
            np.testing.assert_array_equal(plain(again.raw.X), plain(rich.raw.X))
            nested = again.uns["nested"]
            assert (nested["text"], nested["number"], list(nested["names"])) == ("a", 3.5, ["u", "v"])
            assert nested["none"].shape == (0, 3)


@pytest.mark.parametrize("form", ["csr", "ones", "dense", "bits", "empty"])
def test_a_matrix_in_blocks_reads_back(tmp_path, monkeypatch, form):
    monkeypatch.setattr("scale_toolkit.io.zarr_store.CHUNK", 16)
    monkeypatch.setattr("scale_toolkit.io.blocks.CHUNK", 16)
    rng = np.random.default_rng(1)
    matrix = {
        "csr": sparse.random(33, 40, 0.3, "csr", np.float32, random_state=1),
        "ones": sparse.csr_matrix((rng.random((33, 40)) < 0.3).astype(np.uint8)),
        "dense": rng.random((33, 40)).astype(np.float16),
        "bits": rng.integers(0, 256, (33, 5), dtype=np.uint8),
        "empty": np.zeros((33, 0), np.float32),
    }[form]
    cells = AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(33)]))
    blocks = Blocks(matrix, 7, all_ones=form == "ones", n_threads=2)
    write_h5ad(cells, tmp_path / "a.zarr", streamed={"obsm/m": blocks})
    got = read(tmp_path / "a.zarr").obsm["m"]
    assert sparse.issparse(got) == sparse.issparse(matrix) and got.dtype == matrix.dtype
    np.testing.assert_array_equal(plain(got), plain(matrix))
    if form == "ones":
        held = {path.name for path in (tmp_path / "a.zarr" / "obsm" / "m" / "data").rglob("*") if path.is_file()}
        assert held <= {".zarray", ".zattrs", "zarr.json"}, "ones are not stored"


def test_a_store_is_replaced_whole_and_nothing_else_is(planted, tmp_path):
    place = tmp_path / "a.zarr"
    write_h5ad(planted, place)
    (place / "mark").write_text("old")
    planted.obs["new"] = 1
    bad = planted.copy()
    bad.uns["bad"] = object()
    with pytest.raises(Exception, match="object"):
        write_h5ad(bad, place)
    assert (place / "mark").exists() and [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    check_destination(place)
    write_h5ad(planted, place)
    assert not (place / "mark").exists() and "new" in read(place).obs
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    folder = tmp_path / "mine.zarr"
    folder.mkdir()
    (folder / "thesis.txt").write_text("")
    with pytest.raises(UsageError, match=r"mine\.zarr is not a zarr store; expected a name that is free"):
        write_h5ad(planted, folder)
    assert (folder / "thesis.txt").exists()
    with pytest.raises(UsageError, match=r"mine\.zarr is not a zarr store"):
        check_destination(folder)
    with pytest.raises(UsageError, match="does not exist"):
        write_h5ad(planted, tmp_path / "none" / "a.zarr")


def test_rows_that_do_not_fit_are_refused(planted, tmp_path):
    short = Blocks(np.zeros((10, 300), np.float32), 5)
    short.shape = planted.shape
    with pytest.raises(ValueError, match="have 10 rows, its shape says 120"):
        write_h5ad(planted, tmp_path / "a.zarr", streamed={"layers/a": short})
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys
import numpy as np
from anndata import AnnData
from scale_toolkit.errors import ScaleError
from scale_toolkit.io.h5ad import write_h5ad

class Endless:
    shape, dtype, format = (10**4, 4000), np.dtype("f4"), "dense"
    def blocks(self):
        for made in range(10**4):
            assert made < 3000, "writes on although the disk is full"
            yield np.random.default_rng(made).random((1, 4000), np.float32)

resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
cells = AnnData(shape=(10**4, 4000))
cells.obs_names, cells.var_names = cells.obs_names.astype(str), cells.var_names.astype(str)
try:
    write_h5ad(cells, sys.argv[1], streamed={"obsm/imputed": Endless()})
except ScaleError as error:
    print(error)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    run = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path / "a.zarr"], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("a.zarr cannot be written (File too large); free some space or choose another place\n")
    assert run.stderr == ""
    assert list(tmp_path.iterdir()) == []
