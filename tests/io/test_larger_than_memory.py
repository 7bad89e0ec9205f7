"""Inputs of every format whose counts do not fit into memory: the same bits, in temporary files."""

from __future__ import annotations

import gzip

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.io import mmwrite

import scale_toolkit.io.mtx as mtx
from scale_toolkit import scratch
from scale_toolkit.core import rows
from scale_toolkit.errors import InputError
from scale_toolkit.io import fragments, loom, table
from scale_toolkit.io.readers import read_any
from scale_toolkit.stages.prepare import prepare

N_CELLS, N_PEAKS = 60, 200


@pytest.fixture
def counts():
    matrix = sparse.random(N_CELLS, N_PEAKS, 0.3, "csr", random_state=4)
    matrix.data = np.random.default_rng(4).integers(1, 5, matrix.nnz).astype(np.float32)
    return matrix


PEAKS = [f"chr1:{1000 * i}-{1000 * i + 500}" for i in range(N_PEAKS)]
CELLS = [f"cell{i}" for i in range(N_CELLS)]


def folder_of(path, matrix, **options):
    path.mkdir()
    mmwrite(path / "matrix.mtx", matrix, **options)
    (path / "peaks.txt").write_text("\n".join(PEAKS) + "\n")
    (path / "barcodes.tsv").write_text("\n".join(CELLS) + "\n")
    return path


def by_peak(path, counts):
    return folder_of(path, sparse.coo_matrix(counts.T.tocsr().astype(int)))


def by_cell(path, counts):
    return folder_of(path, sparse.coo_matrix(counts.T.tocsc().astype(int)))


def in_gzip(path, counts):
    by_cell(path, counts)
    (path / "matrix.mtx.gz").write_bytes(gzip.compress((path / "matrix.mtx").read_bytes()))
    (path / "matrix.mtx").unlink()
    return path


def cells_first(path, counts):
    return folder_of(path, sparse.coo_matrix(counts.astype(int)))


def dense(path, counts):
    return folder_of(path, counts.T.toarray().astype(int))


def pattern(path, counts):
    return folder_of(path, sparse.coo_matrix(counts.T), field="pattern")


def with_genes(path, counts):
    """Cell Ranger ARC's features: peaks and genes."""
    by_cell(path, counts)
    (path / "peaks.txt").unlink()
    kinds = ["Peaks" if i % 3 else "Gene Expression" for i in range(N_PEAKS)]
    lines = [f"{peak}\t{peak}\t{kind}" for peak, kind in zip(PEAKS, kinds, strict=True)]
    (path / "features.tsv").write_text("\n".join(lines) + "\n")
    return path


def a_loom(path, counts):
    path = path.with_suffix(".loom")
    with h5py.File(path, "w") as file:
        file["matrix"] = counts.T.toarray().astype(np.int16)
        file["row_attrs/Peak"], file["col_attrs/CellID"] = PEAKS, CELLS
    return path


def a_table(path, counts):
    path = path.with_suffix(".tsv")
    values = counts.T.toarray().astype(int)
    pd.DataFrame(values, index=PEAKS, columns=CELLS).to_csv(path, sep="\t", index_label="peak")
    return path


FORMATS = [by_peak, by_cell, in_gzip, cells_first, dense, pattern, with_genes, a_loom, a_table]


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(mtx, "_ENTRIES", 700)
    monkeypatch.setattr(loom, "_VALUES", 900)
    monkeypatch.setattr(table, "_VALUES", 900)
    monkeypatch.setattr(fragments, "_LINES", 300)
    monkeypatch.setattr(rows, "ENTRIES_AT_A_TIME", 500)


def same_bits(first, second):
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(first.X, name), getattr(second.X, name))
        assert getattr(first.X, name).dtype == getattr(second.X, name).dtype
    pd.testing.assert_frame_equal(first.obs, second.obs)
    pd.testing.assert_frame_equal(first.var, second.var)


@pytest.mark.parametrize("make", FORMATS)
def test_counts_in_files_are_those_in_memory(tmp_path, request, counts, make):
    path = make(tmp_path / "input", counts)
    in_memory = read_any(path)
    for fixture in ("no_memory", "small_blocks"):
        request.getfixturevalue(fixture)
    in_files = read_any(path)
    assert is_mapped(in_files.X.data)
    assert not is_mapped(in_memory.X.data)
    same_bits(in_memory, in_files)
    expected = counts.toarray()
    if make is with_genes:
        expected = expected[:, np.arange(N_PEAKS) % 3 > 0]
    np.testing.assert_array_equal(in_files.X.toarray(), expected > 0 if make is pattern else expected)


@pytest.mark.parametrize("cap", [0, 2])
@pytest.mark.parametrize("how", ["insertions", "fragments"])
def test_fragments_in_files_are_those_in_memory(tmp_path, request, how, cap):
    rng = np.random.default_rng(1)
    start = np.sort(rng.integers(0, 50_000, 4000))
    end = start + rng.integers(30, 600, len(start))
    lines = pd.DataFrame({"chrom": "chr1", "start": start, "end": end, "n": 1})
    lines.insert(3, "barcode", [CELLS[i] for i in rng.integers(0, N_CELLS, len(start))])
    lines.to_csv(tmp_path / "f.tsv", sep="\t", header=False, index=False)
    bed = pd.DataFrame({"chrom": "chr1", "start": np.arange(0, 50_000, 1000)})
    bed["end"] = bed["start"] + 400
    config = fragments.FragmentsConfig(count=how, cap=cap)
    in_memory = fragments.read_fragments(tmp_path / "f.tsv", bed, config)
    for fixture in ("no_memory", "small_blocks"):
        request.getfixturevalue(fixture)
    in_files = fragments.read_fragments(tmp_path / "f.tsv", bed, config)
    assert is_mapped(in_files.X.data)
    same_bits(in_memory, in_files)
    assert in_files.X.max() == cap if cap else in_files.X.max() > 2


def test_prepare_turns_columns_into_rows_in_files(tmp_path, request, counts):
    anndata.AnnData(counts.tocsc(), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=PEAKS)).write_h5ad(
        tmp_path / "a.h5ad"
    )
    in_memory = prepare(read_any(tmp_path / "a.h5ad"), min_peaks=2, min_cells=2, may_overwrite=True)
    for fixture in ("no_memory", "small_blocks"):
        request.getfixturevalue(fixture)
    read = read_any(tmp_path / "a.h5ad")
    assert read.X.format == "csc"
    in_files = prepare(read, min_peaks=2, min_cells=2, may_overwrite=True)
    assert is_mapped(in_files.X.data)
    same_bits(in_memory, in_files)


def test_layers_and_other_features_stay_in_files(request, counts):
    def multiome():
        kinds = ["Peaks" if i % 3 else "Gene Expression" for i in range(N_PEAKS)]
        return anndata.AnnData(
            counts.copy(),
            obs=pd.DataFrame(index=CELLS),
            var=pd.DataFrame({"feature_types": kinds}, index=PEAKS),
            layers={"twice": counts * 2},
        )

    in_memory = prepare(multiome(), min_peaks=40, min_cells=8)
    assert 0 < in_memory.n_obs < N_CELLS
    for fixture in ("no_memory", "small_blocks"):
        request.getfixturevalue(fixture)
    in_files = prepare(multiome(), min_peaks=40, min_cells=8)
    same_bits(in_memory, in_files)
    layer, expected = in_files.layers["twice"], in_memory.layers["twice"]
    assert is_mapped(layer.data)
    assert abs(layer - expected).nnz == 0


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_several_inputs_are_joined_in_files(request, counts, join):
    def inputs():
        few = np.random.default_rng(0).permutation(N_PEAKS)[:150]
        return {
            "a": anndata.AnnData(counts.copy(), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=PEAKS)),
            "b": anndata.AnnData(
                counts[:40][:, few], obs=pd.DataFrame(index=[f"b{i}" for i in range(40)]), var=pd.DataFrame(index=np.array(PEAKS)[few])
            ),
        }

    in_memory = prepare(inputs(), min_peaks=2, min_cells=2, join=join)
    for fixture in ("no_memory", "small_blocks"):
        request.getfixturevalue(fixture)
    in_files = prepare(inputs(), min_peaks=2, min_cells=2, join=join)
    assert is_mapped(in_files.X.data)
    same_bits(in_memory, in_files)
    expected = anndata.concat(inputs(), join=join, fill_value=0)[:, in_files.var_names]
    np.testing.assert_array_equal(in_files.X.toarray(), expected.X.toarray())


@pytest.mark.parametrize("make", FORMATS)
def test_a_list_of_barcodes_keeps_counts_in_files(tmp_path, request, counts, make):
    path, listed = make(tmp_path / "input", counts), CELLS[5:50:3]
    in_memory = read_any(path, barcodes=listed)
    for fixture in ("no_memory", "small_blocks"):
        request.getfixturevalue(fixture)
    in_files = read_any(path, barcodes=listed)
    assert is_mapped(in_files.X.data)
    same_bits(in_memory, in_files)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["1 1 1"] * 9 + ["0 1 1"], "numbers its rows from 0"),
        (["1 1 1"] * 9 + ["1 61 1"], "entry 10: column 61 of 60"),
        (["1 1 1"] * 9, "has 9 entries, its header states 10"),
        (["1 1 1"] * 12, "has 12 entries, its header states 10"),
        (["1 1 1"] * 9 + ["1 1 x"], "entries: "),
    ],
)
def test_damage_in_a_later_block_is_reported(tmp_path, counts, monkeypatch, lines, words):
    monkeypatch.setattr(mtx, "_ENTRIES", 4)
    path = by_peak(tmp_path / "input", counts)
    head = f"%%MatrixMarket matrix coordinate integer general\n{N_PEAKS} {N_CELLS} 10\n"
    (path / "matrix.mtx").write_text(head + "\n".join(lines) + "\n")
    with pytest.raises(InputError, match=words):
        read_any(path)


def test_a_full_disk_is_one_line(tmp_path, counts, no_memory, small_blocks, monkeypatch):
    path = by_cell(tmp_path / "input", counts)
    usage = scratch.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda folder: usage._replace(free=100))
    with pytest.raises(scratch.MemoryLimitError, match="free in TMPDIR"):
        read_any(path)
