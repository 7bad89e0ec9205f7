"""h5mu, zarr stores and zstd-compressed h5ad come in; each is written by the library whose format it is."""

from __future__ import annotations

import sys
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scale_toolkit.cli.inputs import batch_names
from scale_toolkit.errors import InputError, UsageError
from scale_toolkit.io.h5ad import open_h5ad, write_h5ad
from scale_toolkit.io.readers import read_any


def genes(n_cells):
    matrix = sparse.random(n_cells, 7, 0.5, "csr", dtype=np.float32, random_state=0)
    return anndata.AnnData(matrix, var=pd.DataFrame(index=[f"gene{j}" for j in range(7)]))


def write_h5mu(path, **modalities):
    mudata = pytest.importorskip("mudata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mudata on names that repeat, and on its own future
        for one in modalities.values():
            one.obs_names = next(iter(modalities.values())).obs_names
        mudata.MuData(modalities).write(path)
    return path


def same(cells, expected):
    assert list(cells.obs_names) == list(expected.obs_names)
    assert list(cells.var_names) == list(expected.var_names)
    assert (cells.X != expected.X).nnz == 0


class TestMuData:
    @pytest.mark.parametrize("names", [("rna", "atac"), ("gex", "ATAC"), ("rna", "peaks")])
    def test_the_atac_modality_is_found_by_its_name(self, planted, tmp_path, names):
        path = write_h5mu(tmp_path / "a.h5mu", **{names[0]: genes(planted.n_obs), names[1]: planted})
        cells = read_any(path)
        same(cells, planted)
        assert list(cells.obs["cell_type"]) == list(planted.obs["cell_type"])

    def test_or_by_the_type_of_its_features(self, planted, tmp_path):
        planted.var["feature_types"] = "Peaks"
        rna = genes(planted.n_obs)
        rna.var["feature_types"] = "Gene Expression"
        same(read_any(write_h5mu(tmp_path / "a.h5mu", one=planted, two=rna)), planted)

    def test_or_by_being_the_only_one(self, planted, tmp_path):
        same(read_any(write_h5mu(tmp_path / "a.h5mu", cells=planted)), planted)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("one", "two"), "has the modalities one, two, and none may be ATAC; .*--modality NAME"),
            (("atac", "peaks"), "has the modalities atac, peaks, and atac and peaks may be ATAC"),
        ],
    )
    def test_where_that_is_not_clear_it_asks(self, planted, tmp_path, names, message):
        path = write_h5mu(tmp_path / "a.h5mu", **{names[0]: genes(planted.n_obs), names[1]: planted})
        with pytest.raises(InputError, match=message):
            read_any(path)
        same(read_any(path, modality=names[1]), planted)
        with pytest.raises(InputError, match=r"has no modality 'x'; expected one of \w+, \w+"):
            read_any(path, modality="x")

    def test_a_stage_reads_it_too_and_carries_what_it_does_not_load(self, planted, tmp_path):
        planted.layers["counts"] = planted.X.copy()
        path = write_h5mu(tmp_path / "a.h5mu", atac=planted, rna=genes(planted.n_obs))
        with open_h5ad(path) as file:
            cells = file.read(("X", "layers"))
            assert cells.X is None
            write_h5ad(cells, tmp_path / "b.h5ad", carry=file)
        again = anndata.read_h5ad(tmp_path / "b.h5ad")
        same(again, planted)
        assert (again.layers["counts"] != planted.X).nnz == 0

    def test_a_modality_of_what_has_none_is_refused(self, planted, tmp_path):
        planted.write_h5ad(tmp_path / "a.h5ad")
        (tmp_path / "a.txt").write_text("peak\tcell1\n")
        for name in ("a.h5ad", "a.txt"):
            with pytest.raises(UsageError, match=r"--modality atac, and .* has no modalities; expected an h5mu"):
                read_any(tmp_path / name, modality="atac")


class TestZarr:
    @pytest.fixture(params=[2, 3], ids=["zarr 2", "zarr 3"])
    def store(self, request, planted, tmp_path):
        planted.obs["depth"] = np.arange(planted.n_obs) / 3
        planted.obs["name"] = [f"n{i}" for i in range(planted.n_obs)]
        planted.obs["good"] = np.arange(planted.n_obs) % 2 == 0
        planted.layers["dense"] = planted.X.toarray()
        planted.obsm["X_pca"] = np.random.default_rng(0).random((planted.n_obs, 3))
        planted.uns["nested"] = {"text": "a", "names": np.array(["u", "v"], dtype=object), "number": 3.5, "none": np.zeros(0)}
        path = tmp_path / "cells.zarr"
        with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=request.param):
            warnings.simplefilter("ignore")  # zarr on its own formats
            planted.write_zarr(path)
        return path

    def test_everything_arrives(self, store, planted, monkeypatch):
        monkeypatch.setattr("scale_toolkit.io.stores._STEP", 100)  # in several blocks
        cells = read_any(store)
        same(cells, planted)
        pd.testing.assert_frame_equal(cells.obs, planted.obs)
        np.testing.assert_array_equal(cells.layers["dense"], planted.layers["dense"])
        np.testing.assert_array_equal(cells.obsm["X_pca"], planted.obsm["X_pca"])
        assert cells.uns["nested"]["text"] == "a"
        assert list(cells.uns["nested"]["names"]) == ["u", "v"]
        assert cells.uns["nested"]["number"] == 3.5

    def test_its_name_does_not_matter_and_a_stage_reads_it(self, store, planted, tmp_path):
        other = store.rename(tmp_path / "cells")
        with open_h5ad(other) as file:
            cells = file.read(("X",))
            assert cells.X is None
            write_h5ad(cells, tmp_path / "b.h5ad", carry=file)
        same(anndata.read_h5ad(tmp_path / "b.h5ad"), planted)

    def test_what_this_package_writes_is_read(self, planted, tmp_path):
        write_h5ad(planted, tmp_path / "a.zarr")
        same(read_any(tmp_path / "a.zarr"), planted)

    def test_a_damaged_store_is_told(self, store):
        for file in sorted(store.rglob("*"))[::-1]:
            if file.is_file() and file.parent.name in ("0", "c") and "obs" not in str(file):
                file.write_bytes(b"?")
        for file in (store / "X" / "data").rglob("*"):
            if file.is_file() and file.suffix != ".json" and not file.name.startswith(".z"):
                file.write_bytes(b"?")
        with pytest.raises(InputError, match=r"cells.zarr cannot be read as a zarr store \(.*\); expected a complete store"):
            read_any(store)

    def test_a_store_of_something_else_is_told(self, tmp_path):
        import zarr

        group = zarr.open_group(tmp_path / "a.zarr", mode="w")
        group.create_array("weights", shape=(3,), dtype="f4")
        with pytest.raises(InputError, match=r"a.zarr is not an h5ad \(it holds weights\); expected obs and var"):
            read_any(tmp_path / "a.zarr")


class TestFilters:
    @pytest.fixture(params=["zstd", "blosc"])
    def squeezed(self, request, planted, tmp_path):
        """An h5ad compressed as SnapATAC2 does: by zstd, or from 2.9 on by blosc."""
        hdf5plugin = pytest.importorskip("hdf5plugin")
        how = {"zstd": hdf5plugin.Zstd(clevel=3), "blosc": hdf5plugin.Blosc()}[request.param]
        planted.write_h5ad(tmp_path / "a.h5ad")
        with h5py.File(tmp_path / "a.h5ad", "r+") as file:
            for name in ("data", "indices", "indptr"):
                values = file[f"X/{name}"][:]
                del file[f"X/{name}"]
                file.create_dataset(f"X/{name}", data=values, **how)
            assert file["X/data"].id.get_create_plist().get_filter(0)[0] == how["compression"]
        return tmp_path / "a.h5ad"

    def test_it_is_read(self, squeezed, planted):
        same(read_any(squeezed), planted)

    def test_without_the_package_it_is_named(self, squeezed, monkeypatch):
        monkeypatch.setitem(sys.modules, "hdf5plugin", None)
        monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: number < 32000)
        with pytest.raises(InputError, match=r"a.h5ad is compressed with (zstd|blosc), .*; expected the package hdf5plugin"):
            read_any(squeezed)

    def test_a_filter_that_nobody_knows_is_named(self, squeezed, monkeypatch):
        monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: number < 32000)
        with pytest.raises(InputError, match="which hdf5plugin does not know"):
            read_any(squeezed)

    def test_plain_files_need_no_package(self, planted, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "hdf5plugin", None)
        planted.write_h5ad(tmp_path / "a.h5ad", compression="gzip")
        same(read_any(tmp_path / "a.h5ad"), planted)


def test_batches_are_named_after_them():
    assert batch_names(["x/a.h5mu", "b.zarr", "c.h5ad"]) == ["a", "b", "c"]
