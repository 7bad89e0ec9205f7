"""No input can make a reader take data from another file of the machine."""

import json
import os
import pickle
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scale_toolkit.errors import InputError
from scale_toolkit.io import hdf5
from scale_toolkit.io.h5ad import open_h5ad, write_h5ad
from scale_toolkit.io.readers import read_any
from scale_toolkit.io.regions import model_peaks
from scale_toolkit.io.size import size_of

SECRET = b"root:x:0:0:secret of another file.."


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_bytes(SECRET)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["values"] = np.frombuffer(SECRET, np.uint8)
    return path


def external_storage(group, key, secret):
    group.create_dataset(key, (len(SECRET),), np.uint8, external=[(str(secret), 0, len(SECRET))])


def external_link(group, key, secret):
    group[key] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "/values")


def virtual(group, key, secret):
    layout = h5py.VirtualLayout((len(SECRET),), np.uint8)
    layout[:] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "values", (len(SECRET),))
    group.create_virtual_dataset(key, layout)


WAYS = [external_storage, external_link, virtual]
NAMES = ["external raw storage", "external link", "virtual data set"]


@pytest.fixture(params=zip(WAYS, NAMES, strict=True), ids=[way.__name__ for way in WAYS])
def way(request):
    return request.param


def cells_file(path, *, modality=False):
    adata = AnnData(
        sparse.csr_matrix(np.ones((3, 4), np.float32)),
        var=pd.DataFrame(index=[f"chr1:{100 * i}-{100 * i + 50}" for i in range(1, 5)]),
        layers={"more": np.ones((3, 4))},
    )
    if modality:
        import mudata

        mudata.set_options(pull_on_update=False)
        mudata.MuData({"atac": adata}).write_h5mu(path)
    else:
        adata.write_h5ad(path)
    return path


@pytest.mark.parametrize("place", ["obs", "uns", "layers", "obsm"])
@pytest.mark.parametrize("kind", ["h5ad", "h5mu"])
def test_an_h5ad_or_h5mu_that_leads_to_another_file_is_refused(tmp_path, secret, way, place, kind):
    path = cells_file(tmp_path / f"a.{kind}", modality=kind == "h5mu")
    with h5py.File(path, "r+") as file:
        way[0](file[f"mod/atac/{place}" if kind == "h5mu" else place], "stolen", secret)
    with pytest.raises(InputError, match=rf"stolen.*{way[1]}"):
        read_any(path)
    with pytest.raises(InputError, match=way[1]):
        size_of(path)


def test_what_is_only_carried_along_is_checked_too(tmp_path, secret, way):
    path = cells_file(tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        way[0](file["layers"], "stolen", secret)
    with pytest.raises(InputError, match=way[1]), open_h5ad(path) as file:
        write_h5ad(file.read(without=("layers",)), tmp_path / "b.h5ad", carry=file)
    assert not (tmp_path / "b.h5ad").exists()


def test_a_pipe_is_checked_too(tmp_path, secret, way):
    path = cells_file(tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        way[0](file["uns"], "stolen", secret)
    with path.open("rb") as stream, pytest.raises(InputError, match=way[1]):
        read_any("-", stdin=stream)


def test_a_10x_h5_is_checked(tmp_path, secret, way):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["shape"], group["barcodes"] = [2, 1], np.array([b"A"])
        group["data"], group["indices"], group["indptr"] = [1, 1], [0, 1], [0, 2]
        group["features/id"] = np.array([b"chr1:1-2", b"chr1:3-4"])
        way[0](group["features"], "feature_type", secret)
    with pytest.raises(InputError, match=way[1]):
        read_any(path)
    with pytest.raises(InputError, match=way[1]):
        size_of(path)


def test_the_names_of_a_models_peaks_are_checked(tmp_path, secret, way):
    path = cells_file(tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        way[0](file["var"], "stolen", secret)
    with pytest.raises(InputError, match=way[1]):
        model_peaks(tmp_path / "model.pt", path)()


def test_a_data_set_without_a_name_is_checked_if_an_attribute_refers_to_it(tmp_path, secret):
    """As anndata 0.7 kept categories: h5py cannot write such a file, but its bytes can be made."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_external(os.fsencode(secret), 0, len(SECRET))
    space = h5py.h5s.create_simple((len(SECRET),))
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        hidden = h5py.h5d.create(file.id, None, h5py.h5t.STD_U8LE, space, properties)
        codes = file.create_dataset("obs/x", data=np.zeros(3, np.int8))
        reference = h5py.h5r.create(hidden, b".", h5py.h5r.OBJECT)
        codes.attrs.create("categories", reference, dtype=h5py.ref_dtype)
        with pytest.raises(InputError, match="external raw storage"):
            hdf5._check_objects(file, "a.h5ad")


def test_links_and_views_that_stay_inside_are_read(tmp_path):
    path = cells_file(tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        file["layers/same"] = h5py.SoftLink("/layers/more")
        layout = h5py.VirtualLayout((3, 4), np.float64)
        layout[:] = h5py.VirtualSource(".", "layers/more", (3, 4))
        view = file["layers"].create_virtual_dataset("view", layout)
        view.attrs.update(file["layers/more"].attrs)
    assert set(read_any(path).layers) >= {"more", "same", "view"}
    with open_h5ad(path) as file:
        write_h5ad(file.read(without=("layers",)), tmp_path / "b.h5ad", carry=file)
    np.testing.assert_array_equal(
        anndata.read_h5ad(tmp_path / "b.h5ad").layers["same"], np.ones((3, 4))
    )


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "a.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr, on the future of its formats
        anndata.read_h5ad(cells_file(tmp_path / "a.h5ad")).write_zarr(path)
    return path


def test_a_zarr_store_with_a_link_out_of_it_is_refused(tmp_path, secret, store):
    chunk = next(
        path
        for path in (store / "layers" / "more").rglob("*")
        if path.is_file() and "z" not in path.name
    )
    chunk.unlink()
    chunk.symlink_to(secret)
    with pytest.raises(InputError, match=rf"{chunk.name} is a symbolic link to {secret}"):
        read_any(store)
    with pytest.raises(InputError, match="symbolic link"):
        size_of(store)


def test_a_zarr_store_with_a_linked_folder_is_refused(tmp_path, store):
    (store / "uns" / "more").symlink_to(tmp_path)
    with pytest.raises(InputError, match="more is a symbolic link"):
        read_any(store)


def test_a_zarr_store_may_be_a_link_and_have_links_inside(tmp_path, store):
    (store / "layers" / "same").symlink_to("more")
    (tmp_path / "b.zarr").symlink_to(store)
    assert read_any(tmp_path / "b.zarr").shape == (3, 4)


def test_a_zarr_store_with_a_pipe_in_it_is_refused(store):
    os.mkfifo(store / "uns" / "0")
    with pytest.raises(InputError, match="not a file"):
        read_any(store)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", [".zarray", ".zmetadata"])
def test_a_pickled_array_is_refused_before_it_is_read(tmp_path, where):
    store = tmp_path / "a.zarr"
    array = store / "obs" / "x"
    array.mkdir(parents=True)
    for folder in (store, store / "obs"):
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
    metadata = {
        "zarr_format": 2,
        "shape": [1],
        "chunks": [1],
        "dtype": "|O",
        "order": "C",
        "fill_value": None,
    }
    metadata |= {
        "compressor": None,
        "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}],
    }
    consolidated = {"zarr_consolidated_format": 1, "metadata": {"obs/x/.zarray": metadata}}
    text = json.dumps(metadata if where == ".zarray" else consolidated)
    ((array if where == ".zarray" else store) / where).write_text(
        text.replace("pickle", r"pick\u006ce")
    )
    (array / "0").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    with pytest.raises(InputError, match="pickle"):
        read_any(store)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["matrix.mtx", "peaks.bed", "barcodes.tsv"])
def test_a_folder_with_a_file_that_is_a_link_out_of_it_is_refused(tmp_path, name):
    folder = tmp_path / "cells"
    folder.mkdir()
    (folder / "matrix.mtx").write_text(
        "%%MatrixMarket matrix coordinate integer general\n2 1 1\n1 1 1\n"
    )
    (folder / "peaks.bed").write_text("chr1\t1\t2\nchr1\t3\t4\n")
    (folder / "barcodes.tsv").write_text("A\n")
    assert read_any(folder).shape == (1, 2)
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name} is a symbolic link"):
        read_any(folder)
    with pytest.raises(InputError, match="symbolic link"):
        size_of(folder)
    (folder / name).unlink()
    (tmp_path / name).rename(folder / "elsewhere")
    (folder / name).symlink_to("elsewhere")
    if name != "matrix.mtx":
        assert read_any(folder).shape == (1, 2)
