import contextlib
import io
import os
import subprocess
import sys
import threading
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.errors import InputError, ScaleWarning, UsageError
from scale_toolkit.io import kept_rows
from scale_toolkit.io.h5ad import open_h5ad, write_h5ad


class Blocks:
    """A matrix in memory handed out in blocks of rows."""

    def __init__(self, matrix, rows, *, says=None):
        self.matrix, self.rows = matrix, rows
        self.format = "csr" if sparse.issparse(matrix) else "dense"
        self.shape, self.dtype = says or matrix.shape, matrix.dtype

    def blocks(self):
        for at in range(0, self.matrix.shape[0], self.rows):
            yield self.matrix[at : at + self.rows]


@pytest.fixture
def full(planted):
    """An AnnData with something in every place."""
    rng = np.random.default_rng(0)
    n, m = planted.shape
    planted.layers["counts"] = planted.X.copy()
    planted.layers["scaled"] = rng.random((n, m)).astype(np.float32)
    planted.raw = planted.copy()
    planted.obsm["imputed"] = rng.random((n, m)).astype(np.float32)
    planted.obsm["binary"] = sparse.random(n, m, 0.1, "csr", np.float32, random_state=0)
    planted.obsm["X_scale"] = rng.random((n, 3))
    planted.varm["scale_decoder"] = rng.random((m, 3))
    planted.obsp["distances"] = sparse.random(n, n, 0.1, "csr", random_state=0)
    planted.uns["nested"] = {"b": {"x": 1, "a": "text"}, "a": np.arange(3)}
    planted.obs["name"] = [f"n{i}" for i in range(n)]
    return planted


@pytest.fixture
def saved(full, tmp_path):
    """The same, written by anndata itself."""
    path = tmp_path / "in.h5ad"
    full.write_h5ad(path)
    return path


def dense(value):
    return value.toarray() if sparse.issparse(value) else np.asarray(value)


def same(one, other):
    pd.testing.assert_frame_equal(one.obs, other.obs)
    pd.testing.assert_frame_equal(one.var, other.var)
    if sparse.issparse(one.X):
        assert (one.X != other.X).nnz == 0
    else:
        np.testing.assert_array_equal(one.X, other.X)
    for mapping in ("layers", "obsm", "varm", "obsp"):
        keys_ = {k for k in getattr(one, mapping) if k is not None}
        assert keys_ == {k for k in getattr(other, mapping) if k is not None}
        for key in keys_:
            np.testing.assert_array_equal(dense(getattr(one, mapping)[key]), dense(getattr(other, mapping)[key]))
    assert (one.raw is None) == (other.raw is None)
    if one.raw is not None:
        np.testing.assert_array_equal(dense(one.raw.X), dense(other.raw.X))
        assert list(one.raw.var_names) == list(other.raw.var_names)


def read(path, without=()):
    with open_h5ad(path) as file:
        return file.read(without)


def test_reads_what_anndata_wrote_and_anndata_reads_what_is_written(saved, tmp_path):
    adata = read(saved)
    same(adata, anndata.read_h5ad(saved))
    write_h5ad(adata, tmp_path / "out.h5ad")
    again = anndata.read_h5ad(tmp_path / "out.h5ad")
    same(again, adata)
    assert again.uns["nested"]["b"]["a"] == "text"
    assert isinstance(again.X, sparse.csr_matrix)


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_x_of_every_form(planted, tmp_path, form):
    counts = planted.X.toarray()
    planted.X = counts if form == "dense" else sparse.csr_matrix(counts).asformat(form)
    planted.write_h5ad(tmp_path / "in.h5ad")
    adata = read(tmp_path / "in.h5ad")
    assert (adata.X.format if form != "dense" else "dense") == form
    write_h5ad(adata, tmp_path / "out.h5ad")
    np.testing.assert_array_equal(dense(anndata.read_h5ad(tmp_path / "out.h5ad").X), counts)


def test_what_is_left_out_is_not_read_and_is_carried(saved, tmp_path):
    with open_h5ad(saved) as file:
        adata = file.read(keys.LARGE)
        assert adata.X is None
        assert not [name for name in adata.layers if name is not None]
        assert adata.raw is None
        assert set(adata.obsm) == {"X_scale"}
        adata.obs["new"] = 1
        write_h5ad(adata, tmp_path / "out.h5ad", carry=file)
    again, before = anndata.read_h5ad(tmp_path / "out.h5ad"), anndata.read_h5ad(saved)
    assert (again.obs.pop("new") == 1).all()
    same(again, before)


def test_only_what_is_wanted_is_read(saved):
    with open_h5ad(saved) as file:
        some = file.read_only(["obsm/X_scale", "obsm/nowhere"])
    whole = anndata.read_h5ad(saved)
    assert some.X is None
    assert some.raw is None
    assert (set(some.obsm), set(some.uns), set(some.varm)) == ({"X_scale"}, set(), set())
    np.testing.assert_array_equal(some.obsm["X_scale"], whole.obsm["X_scale"])
    pd.testing.assert_frame_equal(some.obs, whole.obs)


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_some_rows_of_a_matrix(planted, tmp_path, form):
    counts = planted.X.toarray()
    planted.X = counts if form == "dense" else sparse.csr_matrix(counts).asformat(form)
    planted.write_h5ad(tmp_path / "in.h5ad")
    with open_h5ad(tmp_path / "in.h5ad") as file:
        for rows in ([3], [0, 7, 8, 119], list(range(120))):
            found = file.rows("X", np.array(rows))
            np.testing.assert_array_equal(dense(found), counts[rows])
            assert sparse.issparse(found) == (form != "dense")


def test_rows_of_a_damaged_matrix(planted, tmp_path):
    planted.write_h5ad(tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as file:
        del file["X/indices"]
    with open_h5ad(tmp_path / "in.h5ad") as file, pytest.raises(InputError, match=r"in.h5ad: X cannot be read"):
        file.rows("X", np.array([5]))


def test_the_carried_bytes_are_never_loaded(saved, tmp_path, monkeypatch):
    with open_h5ad(saved) as file:
        adata = file.read(keys.LARGE)

        def refuse(*_args, **_kwargs):
            raise AssertionError("loaded")

        monkeypatch.setattr(h5py.Dataset, "__getitem__", refuse)
        write_h5ad(adata, tmp_path / "out.h5ad", carry=file)
    monkeypatch.undo()
    same(anndata.read_h5ad(tmp_path / "out.h5ad"), anndata.read_h5ad(saved))


def test_what_was_read_and_then_removed_is_not_brought_back(saved, tmp_path):
    with open_h5ad(saved) as file:
        adata = file.read(["X"])
        del adata.layers["counts"], adata.obsm["imputed"]
        write_h5ad(adata, tmp_path / "out.h5ad", carry=file)
    again = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert "counts" not in again.layers
    assert "imputed" not in again.obsm
    assert again.X is not None


def test_a_new_element_wins_over_the_carried_one(saved, tmp_path):
    with open_h5ad(saved) as file:
        adata = file.read(keys.LARGE)
        adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
        adata.layers["scaled"] = np.ones(adata.shape, np.float32)
        blocks = Blocks(np.full(adata.shape, 2, np.float32), 50)
        write_h5ad(adata, tmp_path / "out.h5ad", carry=file, streamed={"obsm/imputed": blocks})
    again = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert again.X.nnz == 0
    assert (again.layers["scaled"] == 1).all()
    assert again.layers["counts"].nnz > 0
    assert (again.obsm["imputed"] == 2).all()


@pytest.mark.parametrize(
    ("cut", "stale", "kept"),
    [
        (np.s_[:50, :], ["raw"], ["X", "layers/counts", "layers/scaled", "obsm/imputed", "obsm/binary"]),
        (np.s_[:50, :50], ["X", "layers/counts", "layers/scaled", "raw"], ["obsm/imputed", "obsm/binary"]),
        (np.s_[:, :50], ["X", "layers/counts", "layers/scaled"], ["raw", "obsm/imputed", "obsm/binary"]),
        (np.s_[::-1, :], ["X", "layers/counts", "layers/scaled", "raw", "obsm/imputed", "obsm/binary"], []),
    ],
)
def test_stale_elements_are_dropped_by_name(saved, tmp_path, cut, stale, kept):
    with open_h5ad(saved) as file:
        adata = file.read(keys.LARGE)[cut].copy()
        with pytest.warns(ScaleWarning, match="^dropped .*: their cells or peaks are no longer") as caught:
            write_h5ad(adata, tmp_path / "out.h5ad", carry=file)
    (said,) = [str(warning.message) for warning in caught if warning.category is ScaleWarning]
    assert "\n" not in said
    for path in stale:
        assert path in said
    with h5py.File(tmp_path / "out.h5ad") as out:
        assert [path for path in stale if path in out] == []
        assert [path for path in kept if path not in out] == []


@pytest.mark.parametrize("step", [None, 800])
def test_rows_of_cells_that_are_left_are_carried_block_by_block(saved, tmp_path, monkeypatch, step):
    whole, rows = anndata.read_h5ad(saved), np.array([0, 3, 4, 50, 51, 119])
    if step is not None:
        monkeypatch.setattr(kept_rows.SomeRows, "step", step)
    with open_h5ad(saved) as file, pytest.warns(ScaleWarning, match="^dropped raw:"):
        write_h5ad(file.read(keys.LARGE)[rows].copy(), tmp_path / "out.h5ad", carry=file)
    made = anndata.read_h5ad(tmp_path / "out.h5ad")
    expected = whole[rows].copy()
    expected.raw = None
    same(made, expected)


def test_a_csc_matrix_is_dropped_with_its_cells(planted, tmp_path):
    planted.X = planted.X.tocsc()
    planted.write_h5ad(tmp_path / "in.h5ad")
    with open_h5ad(tmp_path / "in.h5ad") as file, pytest.warns(ScaleWarning, match="^dropped X:"):
        write_h5ad(file.read(["X"])[:9].copy(), tmp_path / "out.h5ad", carry=file)


counts = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 0, 0, 1, 2.5])
)


@settings(deadline=None, max_examples=30)
@given(
    matrix=counts,
    rows=st.integers(1, 5),
    form=st.sampled_from(["csr", "dense"]),
    place=st.sampled_from(["X", "layers/a", "obsm/a"]),
)
def test_a_matrix_in_blocks_reads_back(tmp_path_factory, matrix, rows, form, place):
    path = tmp_path_factory.mktemp("blocks") / "out.h5ad"
    value = sparse.csr_matrix(matrix) if form == "csr" else matrix
    n, m = matrix.shape
    names = {"obs": pd.DataFrame(index=[f"c{i}" for i in range(n)]), "var": pd.DataFrame(index=[f"p{j}" for j in range(m)])}
    write_h5ad(AnnData(**names), path, streamed={place: Blocks(value, rows)})
    again = anndata.read_h5ad(path)
    got = again.X if place == "X" else getattr(again, place.split("/")[0])["a"]
    assert sparse.issparse(got) == (form == "csr")
    np.testing.assert_array_equal(dense(got), matrix)
    assert got.dtype == np.float32
    with h5py.File(path) as file:
        if form == "csr":
            assert file[place]["indptr"].dtype == np.int32  # one type for both
            assert file[place]["indices"].dtype == np.int32


def test_no_more_than_a_block_is_held(tmp_path):
    alive = []

    class Watched(Blocks):
        def blocks(self):
            import weakref

            for at in range(0, 400, 20):
                block = np.full((20, 50), at, np.float32)
                alive.append(weakref.ref(block))
                assert sum(ref() is not None for ref in alive) <= 2
                yield block
                del block

    names = {"obs": pd.DataFrame(index=[f"c{i}" for i in range(400)]), "var": pd.DataFrame(index=[f"p{j}" for j in range(50)])}
    write_h5ad(AnnData(**names), tmp_path / "a.h5ad", streamed={"obsm/imputed": Watched(np.zeros((400, 50), np.float32), 20)})
    assert len(alive) == 20
    assert anndata.read_h5ad(tmp_path / "a.h5ad").obsm["imputed"][:, 0].tolist() == [i // 20 * 20 for i in range(400)]


def test_blocks_that_do_not_fit_are_refused_and_nothing_is_left(planted, tmp_path):
    short = Blocks(np.zeros((10, planted.n_vars), np.float32), 5, says=planted.shape)
    with pytest.raises(ValueError, match="have 10 rows, its shape says 120"):
        write_h5ad(planted, tmp_path / "a.h5ad", streamed={"layers/a": short})
    with pytest.raises(ValueError, match=r"layers/a has shape \(10, 300\)"):
        write_h5ad(planted, tmp_path / "a.h5ad", streamed={"layers/a": Blocks(np.zeros((10, 300)), 5)})
    assert list(tmp_path.iterdir()) == []


def test_equal_content_gives_equal_bytes(full, tmp_path):
    other = full.copy()
    other.uns = {"scale": "[]", "nested": {"a": np.arange(3), "b": {"a": "text", "x": 1}}}
    full.uns["scale"] = "[]"
    for key in ("X_scale", "binary", "imputed"):  # the same elements, entered in another order
        other.obsm[key] = other.obsm.pop(key)
    unsorted = full.X[:, ::-1][:, ::-1].copy()
    unsorted.has_sorted_indices = False
    other.X = unsorted
    write_h5ad(full, tmp_path / "a.h5ad")
    write_h5ad(other, tmp_path / "b.h5ad")
    out = io.BytesIO()
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()
    write_h5ad(full, "-", stdout=out)
    again = io.BytesIO()
    write_h5ad(other, "-", stdout=again)
    assert out.getvalue() == again.getvalue()


def test_writing_changes_nothing_in_memory(full, tmp_path):
    before = full.copy()
    write_h5ad(full, tmp_path / "a.h5ad")
    same(full, before)
    assert list(full.uns) == list(before.uns)


def test_columns_that_anndata_is_strict_about(planted, tmp_path):
    n = planted.n_obs
    planted.obs["string"] = pd.array(["a", "b"] * (n // 2), dtype="string")
    planted.obs["gaps"] = [None if i % 3 else f"v{i % 2}" for i in range(n)]
    planted.obs["kind"] = pd.Categorical(pd.array(["a", "b"] * (n // 2), dtype="string"))
    planted.obs["whole"] = pd.array([1, None] * (n // 2), dtype="Int64")
    planted.uns["table"] = pd.DataFrame({"s": pd.array(["x", "y"], dtype="string")}, index=["0", "1"])
    write_h5ad(planted, tmp_path / "a.h5ad")
    obs = anndata.read_h5ad(tmp_path / "a.h5ad").obs
    assert obs["string"].tolist()[:2] == ["a", "b"]
    assert obs["kind"].tolist()[:2] == ["a", "b"]
    assert obs["gaps"].isna().sum() == planted.obs["gaps"].isna().sum()
    assert obs["gaps"].dropna().tolist() == planted.obs["gaps"].dropna().tolist()
    assert obs["whole"].isna().sum() == n // 2


def test_a_subset_that_was_not_copied_can_be_written(full, tmp_path):
    write_h5ad(full[5:9, 10:30], tmp_path / "a.h5ad")
    np.testing.assert_array_equal(dense(anndata.read_h5ad(tmp_path / "a.h5ad").X), dense(full.X)[5:9, 10:30])


def pipe_of(data):
    end, start = os.pipe()

    def feed():
        with os.fdopen(start, "wb") as sink, contextlib.suppress(BrokenPipeError):
            sink.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    return os.fdopen(end, "rb"), thread


@pytest.fixture
def piped():
    opened = []

    def make(data):
        opened.append(pipe_of(data))
        return opened[-1][0]

    yield make
    for stream, thread in opened:
        stream.close()
        thread.join()


def test_a_pipe_in_and_a_pipe_out(saved, tmp_path, piped):
    out = io.BytesIO()
    with open_h5ad("-", stdin=piped(saved.read_bytes())) as file:
        adata = file.read(keys.LARGE)
        write_h5ad(adata, "-", carry=file, stdout=out)
    (tmp_path / "out.h5ad").write_bytes(out.getvalue())
    same(anndata.read_h5ad(tmp_path / "out.h5ad"), anndata.read_h5ad(saved))


def test_a_pipe_is_spooled_to_a_file_without_a_name(saved, tmp_path, piped, monkeypatch):
    spools = tmp_path / "spools"
    spools.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spools))
    with open_h5ad("-", stdin=piped(saved.read_bytes())) as file:
        assert list(spools.iterdir()) == []
        assert file.read().n_obs == 120


def test_a_redirected_file_needs_no_spool(saved, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("spooled")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with saved.open("rb") as stdin, open_h5ad("-", stdin=stdin) as file:
        assert file.read().n_obs == 120


def test_a_pipe_is_not_compressed_and_a_file_is(full, tmp_path):
    out = io.BytesIO()
    write_h5ad(full, "-", stdout=out)
    write_h5ad(full, tmp_path / "a.h5ad")
    with h5py.File(out) as piped, h5py.File(tmp_path / "a.h5ad") as file:
        assert piped["X/data"].compression is None
        assert file["X/data"].compression == "gzip"
    with (tmp_path / "b.h5ad").open("wb") as stdout:
        write_h5ad(full, "-", stdout=stdout)
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()


class Terminal(io.BytesIO):
    def isatty(self):
        return True


def test_terminals(planted):
    with pytest.raises(UsageError, match="standard input is a terminal"), open_h5ad("-", stdin=Terminal()):
        pass
    with pytest.raises(UsageError, match="standard output is a terminal"):
        write_h5ad(planted, "-", stdout=Terminal())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", r"standard input is empty \(0 bytes\); expected the output of the command before"),
        (b"peak\tc1\nchr1:1-2\t1\n" * 99, "standard input is not an HDF5 file; expected an h5ad"),
        (None, "standard input is truncated; expected a complete h5ad"),
    ],
)
def test_a_pipe_that_holds_no_h5ad(saved, piped, data, words):
    data = saved.read_bytes()[:20_000] if data is None else data
    with pytest.raises(InputError, match=words) as caught, open_h5ad("-", stdin=piped(data)):
        pass
    assert "\n" not in str(caught.value)


def test_files_that_are_no_h5ad(saved, tmp_path):
    path = tmp_path / "x.h5ad"
    for data, words in ((b"", "is empty"), (b"text" * 100, "is not an HDF5 file"), (saved.read_bytes()[:9999], "is truncated")):
        path.write_bytes(data)
        with pytest.raises(InputError, match=words), open_h5ad(path):
            pass
    with pytest.raises(InputError, match="does not exist"), open_h5ad(tmp_path / "none.h5ad"):
        pass
    with h5py.File(path, "w") as file:
        file["matrix/barcodes"] = [b"a"]
    with pytest.raises(InputError, match=r"is a 10x h5; expected an h5ad; run `scale prepare`"), open_h5ad(path):
        pass
    with h5py.File(path, "w") as file:
        file["weights"] = [1]
    with pytest.raises(InputError, match=r"is not an h5ad \(it holds weights\); expected obs and var"), open_h5ad(path):
        pass


def test_damaged_inside_is_one_line_and_names_the_element(saved):
    with h5py.File(saved, "r+") as file:
        del file["X/indices"]
    with pytest.raises(InputError, match=r"in\.h5ad: X cannot be read") as caught:
        read(saved)
    assert "\n" not in str(caught.value)


def test_the_carried_file_cannot_be_the_destination(saved, tmp_path):
    (tmp_path / "link.h5ad").symlink_to(saved)
    before = saved.read_bytes()
    with open_h5ad(saved) as file:
        adata = file.read()
        for destination in (saved, tmp_path / "link.h5ad"):
            with pytest.raises(UsageError, match="is also the input"):
                write_h5ad(adata, destination, carry=file)
    assert saved.read_bytes() == before


def test_a_failed_write_leaves_the_old_file(planted, tmp_path):
    path = tmp_path / "a.h5ad"
    path.write_bytes(b"old")
    planted.uns["bad"] = object()
    with pytest.raises(Exception, match="object"):
        write_h5ad(planted, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


FULL_DISK = """
import resource, sys
from anndata import AnnData
import numpy as np
from scipy import sparse
from scale_toolkit.errors import ScaleError
from scale_toolkit.io.h5ad import write_h5ad

class Endless:
    shape = (10**5, 3000)
    def __init__(self, dtype, form, **facts):
        self.dtype, self.format = np.dtype(dtype), form
        vars(self).update(facts)
    def blocks(self):
        for made in range(1000):
            assert made < 999, "writes on although the disk is full"
            block = np.random.default_rng(made).integers(0, 256, (100, 3000)).astype(self.dtype)
            yield block if self.format == "dense" else sparse.csr_matrix(block % 2)

resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))
whole = AnnData(np.random.default_rng(0).random((300, 30000), np.float32))
nothing = AnnData(shape=(10**5, 3000))
for blocks in (None, Endless("f4", "dense"), Endless("u1", "dense", n_threads=3), Endless("f4", "csr"),
               Endless("u1", "csr", all_ones=True, n_threads=2)):
    cells = nothing if blocks else whole
    cells.obs_names, cells.var_names = cells.obs_names.astype(str), cells.var_names.astype(str)
    try:
        write_h5ad(cells, sys.argv[1], streamed={"obsm/imputed": blocks} if blocks else {})
    except ScaleError as error:
        print(error)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.h5ad")], capture_output=True, text=True, check=True
    )
    lines = run.stdout.splitlines()
    assert len(lines) == 5
    for line in lines:
        assert "a.h5ad cannot be written (File too large); free some space" in line
    assert run.stderr == ""
    assert list(tmp_path.iterdir()) == []


def in_obsm(blocks, path):
    """Write cells that have nothing but this matrix."""
    write_h5ad(AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(blocks.shape[0])])), path, streamed={"obsm/m": blocks})


@pytest.mark.parametrize("n_threads", [1, 3])
def test_ones_are_read_and_not_stored(tmp_path, n_threads):
    matrix = sparse.csr_matrix((np.random.default_rng(0).random((300, 5000)) < 0.2).astype(np.uint8))
    blocks = Blocks(matrix, 7)
    blocks.all_ones, blocks.n_threads = True, n_threads
    in_obsm(blocks, tmp_path / "a.h5ad")
    got = anndata.read_h5ad(tmp_path / "a.h5ad").obsm["m"]
    assert isinstance(got, sparse.csr_matrix) and got.dtype == np.uint8 and (got != matrix).nnz == 0
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert (backed.obsm["m"] != matrix).nnz == 0
    backed.file.close()
    with h5py.File(tmp_path / "a.h5ad") as file:
        group = file["obsm/m"]
        assert group["data"].shape == (matrix.nnz,) and group["data"].id.get_storage_size() == 0
        np.testing.assert_array_equal(group["data"][5:9], 1)
        rows = anndata.io.sparse_dataset(group)[3:9]  # as out-of-core readers do
        assert (rows != matrix[3:9]).nnz == 0
        assert group["indices"].compression == "gzip" and group["indices"].shuffle
        assert group["indices"].id.get_storage_size() < 0.5 * 4 * matrix.nnz
    out = io.BytesIO()
    write_h5ad(anndata.read_h5ad(tmp_path / "a.h5ad"), "-", stdout=out)  # and can be handed on


def test_row_pointers_go_past_two_to_the_31st(tmp_path, monkeypatch):
    """Three rows of 2^30 stored values, whose chunks are counted and not written."""
    from scale_toolkit.io import blocks as room

    n = 2**30

    class Huge:
        shape, dtype, format, all_ones = (3, n), np.dtype(np.uint8), "csr", True

        def blocks(self):
            for _ in range(3):
                block = sparse.csr_matrix((1, n), dtype=np.uint8)
                block.indices, block.data = (np.broadcast_to(np.zeros(1, t), n) for t in (np.int32, np.uint8))
                block.indptr, block.has_sorted_indices = np.array([0, n], np.int32), True
                yield block

    monkeypatch.setattr(room.Hdf5Chunks, "choose", lambda *_: None)
    monkeypatch.setattr(room.Hdf5Chunks, "made", lambda *_: None)
    monkeypatch.setattr(room.Runs, "_new", lambda self: {"indices": Nowhere()})
    ends = []
    monkeypatch.setattr(room.Hdf5Chunks, "write", lambda self, offset, shape, data: ends.append(offset[0]))
    in_obsm(Huge(), tmp_path / "a.h5ad")
    assert ends[-1] == 3 * n - room.CHUNK > 2**31
    with h5py.File(tmp_path / "a.h5ad") as file:
        assert file["obsm/m/indptr"].dtype == np.int64
        assert file["obsm/m/indptr"][:].tolist() == [0, n, 2 * n, 3 * n]
        assert file["obsm/m/data"].shape == (3 * n,) and file["obsm/m/data"][-1] == 1
        assert file["obsm/m/indices"].dtype == np.int64  # SciPy wants one type for both


class Nowhere:
    """An array that takes values and keeps none."""

    shape = (1 << 18,)

    def __setitem__(self, at, values):
        assert len(values) == at.stop - at.start


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_dense_chunks_of_several_threads_are_ordinary_gzip(tmp_path, dtype, n_threads):
    matrix = (255 * np.random.default_rng(0).random((150, 9001)) ** 3).astype(dtype)
    blocks = Blocks(matrix, 11)
    blocks.n_threads = n_threads
    in_obsm(blocks, tmp_path / "a.h5ad")
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "a.h5ad").obsm["m"], matrix)
    with h5py.File(tmp_path / "a.h5ad") as file:
        stored = file["obsm/m"]
        assert (stored.compression, stored.compression_opts) == ("gzip", 1)
        level_1 = h5py.File(io.BytesIO(), "w").create_dataset(
            "m", data=matrix, chunks=stored.chunks, compression="gzip", compression_opts=1, shuffle=True
        )
        assert stored.id.get_storage_size() <= level_1.id.get_storage_size() < matrix.nbytes
    out = io.BytesIO()
    write_h5ad(AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(150)])), "-", streamed={"obsm/m": blocks}, stdout=out)
    with h5py.File(out) as file:
        assert file["obsm/m"].compression is None
        np.testing.assert_array_equal(file["obsm/m"][:], matrix)


def test_threads_change_no_byte(tmp_path):
    matrix = np.random.default_rng(0).random((200, 9001)).astype(np.float32)
    for place, n_threads in (("a.h5ad", 1), ("b.h5ad", 4)):
        blocks = Blocks(matrix, 13)
        blocks.n_threads = n_threads
        in_obsm(blocks, tmp_path / place)
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()


def test_repeated_names_are_left_to_prepare(planted, tmp_path):
    planted.obs_names = ["c"] * planted.n_obs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planted.write_h5ad(tmp_path / "a.h5ad")
    assert read(tmp_path / "a.h5ad").obs_names.has_duplicates


def test_files_of_older_writers(planted, tmp_path):
    path = tmp_path / "old.h5ad"
    planted.write_h5ad(path)
    with h5py.File(path, "r+") as file:  # no encoding anywhere, as converters from R leave it
        for place in ("", "X", "layers", "obsm", "varm", "obsp", "varp", "uns"):
            item = file[place] if place else file
            for name in ("encoding-type", "encoding-version"):
                item.attrs.pop(name, None)
        file["X"].attrs["h5sparse_format"], file["X"].attrs["h5sparse_shape"] = "csr", planted.shape
    np.testing.assert_array_equal(dense(read(path).X), dense(planted.X))


def test_files_with_obs_as_one_compound_array(planted, tmp_path):
    path = tmp_path / "oldest.h5ad"
    with h5py.File(path, "w") as file:
        file["X"] = planted.X.toarray()
        for name, index in (("obs", planted.obs_names), ("var", planted.var_names)):
            table = np.array([(key.encode(), 7) for key in index], dtype=[("index", "S40"), ("n", "i4")])
            file[name] = table
    adata = read(path, without=["layers"])
    assert adata.obs_names.tolist() == planted.obs_names.tolist()
    assert adata.obs["n"].tolist() == [7] * planted.n_obs
    np.testing.assert_array_equal(dense(adata.X), dense(planted.X))
    assert read(path, without=["X"]).X is None


STEP = """
from scale_toolkit.io.h5ad import open_h5ad, write_h5ad
with open_h5ad("-") as file:
    write_h5ad(file.read(["X"]), "-", carry=file)
"""


def test_in_a_real_shell_pipe(saved, tmp_path):
    out = tmp_path / "out.h5ad"
    step = tmp_path / "step.py"
    step.write_text(STEP)
    python = f"{sys.executable} {step}"
    subprocess.run(["bash", "-o", "pipefail", "-c", f"cat {saved} | {python} | {python} > {out}"], check=True)
    same(anndata.read_h5ad(out), anndata.read_h5ad(saved))
    early = subprocess.run(
        ["bash", "-c", f"{python} < {saved} | head -c 5 | wc -c"], check=True, capture_output=True, text=True
    )
    assert early.stdout.strip() == "5"
    assert early.stderr == ""


@pytest.mark.parametrize("name", ["tiny_blood", "liver_unlabelled", "mouse_unlabelled"])
def test_real_files_pass_through_unchanged(data_path, tmp_path, name):
    source = data_path(f"{name}.h5ad")
    with open_h5ad(source) as file:
        write_h5ad(file.read(keys.LARGE), tmp_path / "out.h5ad", carry=file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(anndata.read_h5ad(tmp_path / "out.h5ad"), anndata.read_h5ad(source))
