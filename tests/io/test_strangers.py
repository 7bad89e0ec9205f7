"""Inputs as other programs write them: each is made here, small, and read through the same door."""

import gzip
import io
import os
import subprocess
import sys
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.io import mmwrite

from scale_toolkit.config import FragmentsConfig
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io.export import export
from scale_toolkit.io.fragments import read_fragments
from scale_toolkit.io.h5ad import open_h5ad, write_h5ad
from scale_toolkit.io.readers import read_any
from scale_toolkit.io.size import size_of
from scale_toolkit.needs import Size

COUNTS = np.array([[1, 0, 2, 0], [0, 1, 0, 3], [1, 1, 0, 0]], np.float32)
CELLS = ["AAACGAAAGAAACGCC-1", "TTAAAATTTGCAGATC-1", "GCTGTGTACCAACTGC-1"]
PEAKS = [f"chr1:{1000 * n}-{1000 * n + 500}" for n in range(1, 5)]


def cells(**parts):
    return AnnData(
        sparse.csr_matrix(COUNTS), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=PEAKS), **parts
    )


def same_counts(adata):
    assert adata.obs_names.tolist() == CELLS
    assert adata.var_names.tolist() == PEAKS
    np.testing.assert_array_equal(sparse.csr_matrix(adata.X).toarray(), COUNTS)
    return adata


def read(folder, name, text):
    (folder / name).write_text(text)
    return read_any(folder / name)


# ---- multiome


def test_a_folder_of_cell_ranger_arc_gives_its_peaks_alone(tmp_path, caplog):
    genes = np.ones((3, 2))
    mmwrite(tmp_path / "matrix.mtx", sparse.coo_matrix(np.hstack([genes, COUNTS]).T.astype(int)))
    rows = [f"ENSG{n}\tGENE{n}\tGene Expression\tchr1\t{n}\t{n + 9}" for n in range(2)]
    rows += [f"{name}\t{name}\tPeaks\t" + name.replace(":", "\t").replace("-", "\t") for name in PEAKS]
    (tmp_path / "features.tsv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    (tmp_path / "barcodes.tsv").write_text("\n".join(CELLS))
    with caplog.at_level("INFO", "scale_toolkit"):
        same_counts(read_any(tmp_path))
    assert "dropped 2 features of type Gene Expression" in caplog.text


def test_a_folder_of_genes_alone_is_refused(tmp_path):
    mmwrite(tmp_path / "matrix.mtx", sparse.coo_matrix(COUNTS.T.astype(int)))
    (tmp_path / "features.tsv").write_text("\n".join(f"ENSG{n}\tG{n}\tGene Expression" for n in range(4)))
    (tmp_path / "barcodes.tsv").write_text("\n".join(CELLS))
    with pytest.raises(InputError, match=r"has no peaks \(feature types: Gene Expression\)"):
        read_any(tmp_path)


# ---- tables


@pytest.mark.parametrize(
    "head",
    [
        "Chr\tStart\tEnd\t" + "\t".join(CELLS),
        "#chrom\tstart\tend\t" + "\t".join(CELLS),
        "# made by a caller\nchrom\tchromStart\tchromEnd\t" + "\t".join(CELLS),
    ],
)
def test_a_table_with_chromosome_start_and_end(tmp_path, head):
    rows = [p.replace(":", "\t").replace("-", "\t") for p in PEAKS]
    rows = ["\t".join([p, *(f"{v:g}" for v in column)]) for p, column in zip(rows, COUNTS.T, strict=True)]
    same_counts(read(tmp_path, "a.tsv", "\n".join([head, *rows]) + "\n"))


def test_a_table_of_feature_counts(tmp_path):
    head = '# Program:featureCounts; Command:"featureCounts"\nGeneid\tChr\tStart\tEnd\tStrand\tLength\t' + "\t".join(CELLS)
    rows = [
        "\t".join([f"p{n}", *p.replace(":", "-").split("-"), "+", "500", *(f"{v:g}" for v in column)])
        for n, (p, column) in enumerate(zip(PEAKS, COUNTS.T, strict=True))
    ]
    adata = same_counts(read(tmp_path, "a.txt", "\n".join([head, *rows]) + "\n"))
    assert list(adata.var) == ["Geneid", "Strand", "Length"]
    assert adata.var["Length"].tolist() == [500] * 4


@pytest.mark.parametrize("with_interval", [False, True])
def test_a_table_without_a_header_numbers_its_cells(tmp_path, with_interval):
    names = [p.replace(":", "\t").replace("-", "\t") if with_interval else p for p in PEAKS]
    rows = ["\t".join([p, *(f"{v:g}" for v in column)]) for p, column in zip(names, COUNTS.T, strict=True)]
    with pytest.warns(ScaleWarning, match="has no header: its cells are called cell_1 to cell_3"):
        adata = read(tmp_path, "a.tsv", "\n".join(rows) + "\n")
    assert adata.obs_names.tolist() == ["cell_1", "cell_2", "cell_3"]
    assert adata.var_names.tolist() == PEAKS
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)


def test_a_table_from_standard_input(tmp_path):
    table = pd.DataFrame(COUNTS.T.astype(int), PEAKS, CELLS)
    for separator in ("\t", ","):
        same_counts(read_any("-", stdin=io.BytesIO(table.to_csv(sep=separator).encode())))
    with pytest.raises(InputError, match="standard input is a fragments file"):
        read_any("-", stdin=io.BytesIO(b"chr1\t1\t200\tACGT-1\t1\n"))
    with pytest.raises(InputError, match="the format of standard input is unknown"):
        read_any("-", stdin=io.BytesIO(b"some words\nand more\n"))


def test_text_to_a_stage_says_which_command_reads_it(tmp_path):
    with pytest.raises(InputError, match=r"not an HDF5 file.*`scale prepare`"), open_h5ad("-", stdin=io.BytesIO(b"a\tb\n")):
        pass


# ---- HDF5


def write_loom(path, *, names=True):
    with h5py.File(path, "w") as file:
        file["matrix"] = COUNTS.T
        file["row_attrs/Gene"] = np.array(PEAKS, dtype=object) if names else np.zeros(4)
        file["col_attrs/CellID"] = np.array(CELLS, dtype=object) if names else np.zeros(3)
        file["col_attrs/Type"] = np.array(["a", "b", "a"], dtype=object)
        file["col_attrs/UMAP"] = np.ones((3, 2))
        for name in ("layers", "row_graphs", "col_graphs"):
            file.create_group(name)


def test_a_loom_file(tmp_path):
    write_loom(tmp_path / "a.loom")
    adata = same_counts(read_any(tmp_path / "a.loom"))
    assert adata.obs["Type"].tolist() == ["a", "b", "a"]
    assert adata.obsm["UMAP"].shape == (3, 2)
    write_loom(tmp_path / "b.loom", names=False)
    with pytest.raises(InputError, match="has no names of cells"):
        read_any(tmp_path / "b.loom")


def test_a_loom_file_given_to_a_stage_and_to_plan(tmp_path):
    write_loom(tmp_path / "a.loom")
    with pytest.raises(InputError, match=r"a.loom is a loom file; expected an h5ad; run `scale prepare`"), open_h5ad(tmp_path / "a.loom"):
        pass
    assert size_of(tmp_path / "a.loom") == Size(3, 4, 12)


def test_a_gzipped_h5ad_and_one_that_is_cut(tmp_path):
    cells().write_h5ad(tmp_path / "a.h5ad")
    packed = gzip.compress((tmp_path / "a.h5ad").read_bytes())
    (tmp_path / "a.h5ad.gz").write_bytes(packed)
    same_counts(read_any(tmp_path / "a.h5ad.gz"))
    same_counts(read_any("-", stdin=io.BytesIO(packed)))
    (tmp_path / "b.h5ad.gz").write_bytes(packed[:-200])
    with pytest.raises(InputError, match="truncated or damaged gzip"):
        read_any(tmp_path / "b.h5ad.gz")


def test_a_file_that_another_program_writes_to(tmp_path):
    path = tmp_path / "a.h5ad"
    cells().write_h5ad(path)
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+', locking=True); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(InputError, match="is open for writing in another program"):
            read_any(path)
        writer.stdin.close()
    same_counts(read_any(path))


def test_obsm_of_anndata_before_0_7(tmp_path):
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as file:
        file["X"] = COUNTS
        file["obs"] = np.array([(name.encode(), n) for n, name in enumerate(CELLS)], [("index", "S20"), ("n", "i4")])
        file["var"] = np.array([(name.encode(),) for name in PEAKS], [("index", "S20")])
        obsm = np.zeros(3, [("X_pca", "f4", (5,)), ("X_umap", "f4", (2,))])
        obsm["X_pca"] = 7
        file["obsm"] = obsm
    adata = same_counts(read_any(path))
    assert adata.obsm["X_pca"].tolist() == [[7] * 5] * 3
    assert adata.obsm["X_umap"].shape == (3, 2)
    with open_h5ad(path) as file:
        write_h5ad(file.read(without=("obsm",)), tmp_path / "new.h5ad", carry=file)
    assert set(anndata.read_h5ad(tmp_path / "new.h5ad").obsm) == {"X_pca", "X_umap"}


def test_what_a_mudata_knows_of_all_modalities_comes_along(tmp_path):
    import mudata

    atac, rna = cells(obsm={"own": np.ones((3, 2))}), AnnData(np.ones((3, 2)), obs=pd.DataFrame(index=CELLS[::-1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = mudata.MuData({"rna": rna, "atac": atac})
        both.obs["cell_type"] = pd.Categorical(["T", "B", "T"])
        both.obsm["X_wnn"] = np.arange(6.0).reshape(3, 2)
        order = list(both.obs_names)
        both.write_h5mu(tmp_path / "a.h5mu")
    adata = same_counts(read_any(tmp_path / "a.h5mu"))
    wanted = dict(zip(order, ["T", "B", "T"], strict=True))
    assert adata.obs["cell_type"].tolist() == [wanted[name] for name in CELLS]
    np.testing.assert_array_equal(adata.obsm["X_wnn"][:, 0], [2 * order.index(name) for name in CELLS])
    assert set(adata.obsm) == {"own", "X_wnn"}


# ---- writing


def test_a_slash_in_a_name_is_replaced_in_a_zarr_store(tmp_path):
    adata = cells(obsm={"a/b": np.ones((3, 2))})
    adata.obs["G2/M_score"], adata.obs["G2_M_score"] = [1.0, 2, 3], 0.0
    with (
        pytest.warns(ScaleWarning, match="zarr allows no / in a name; written: 'G2/M_score' as 'G2_M_score_'"),
        pytest.warns(ScaleWarning, match="obsm: zarr allows no /"),
    ):
        write_h5ad(adata, tmp_path / "a.zarr")
    back = read_any(tmp_path / "a.zarr")
    assert back.obs["G2_M_score_"].tolist() == [1, 2, 3]
    assert back.obs["G2_M_score"].tolist() == [0, 0, 0]
    assert "a_b" in back.obsm


def raw_with_index(values):
    adata = cells()
    adata.raw = adata.copy()
    adata.raw.var["_index"] = values
    return adata


@pytest.mark.parametrize(("values", "kept"), [(PEAKS, []), (["a", "b", "c", "d"], ["index"])])
@pytest.mark.parametrize("suffix", ["h5ad", "h5mu", "zarr"])
def test_the_reserved_column_of_seurat_disk(tmp_path, values, kept, suffix):
    adata = raw_with_index(values)
    path = tmp_path / f"a.{suffix}"
    if suffix == "h5mu":
        export(adata, path, "h5mu")
    else:
        write_h5ad(adata, path)
    raw = read_any(path).raw
    assert list(raw.var) == kept
    assert raw.var_names.tolist() == PEAKS


def test_columns_of_mixed_values_and_dates_are_written_as_text(tmp_path):
    adata = cells()
    adata.obs["mixed"] = pd.Series([1, "two", None], CELLS, dtype=object)
    adata.obs["day"] = pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"])
    adata.obs["flag"] = pd.Series([True, None, False], CELLS, dtype=object)
    with pytest.warns(ScaleWarning, match="mixed, day hold dates or values of several kinds"):
        write_h5ad(adata, tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad").obs
    assert back["mixed"].astype(object).where(back["mixed"].notna(), None).tolist() == ["1", "two", None]
    assert back["day"].tolist()[0].startswith("2020-01-01")
    assert back["flag"].tolist()[::2] == [True, False]


class Ones:
    """A CSR of ones, in blocks of one row."""

    format, all_ones, n_threads = "csr", True, 1

    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype = matrix, matrix.shape, np.dtype(np.uint8)

    def blocks(self):
        for row in range(self.shape[0]):
            yield self.matrix[row : row + 1]


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_rows_can_be_taken_of_a_csr_written_in_blocks(tmp_path, suffix):
    ones = sparse.csr_matrix((COUNTS > 0).astype(np.uint8))
    write_h5ad(cells(), tmp_path / f"a.{suffix}", streamed={"obsm/binary": Ones(ones)})
    read_it = anndata.read_h5ad if suffix == "h5ad" else anndata.read_zarr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr on its formats
        adata = read_it(tmp_path / f"a.{suffix}")
    assert adata.obsm["binary"].indptr.dtype == adata.obsm["binary"].indices.dtype
    np.testing.assert_array_equal(adata[::2].copy().obsm["binary"].toarray(), ones[::2].toarray())


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_more_stored_values_than_int32_counts(tmp_path, monkeypatch, suffix):
    """With a limit of 5 in place of 2³¹ - 1: indices and pointers are both int64."""
    from scale_toolkit.io import blocks as room

    monkeypatch.setattr(room, "MOST_INT32", 5)
    ones = sparse.csr_matrix((np.random.default_rng(0).random((7, 9)) < 0.5).astype(np.uint8))
    cells = AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(7)]))
    path = tmp_path / f"a.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr on its formats
        write_h5ad(cells, path, streamed={"obsm/binary": Ones(ones)})
        adata = anndata.read_h5ad(path) if suffix == "h5ad" else anndata.read_zarr(path)
    read = adata.obsm["binary"]
    assert (read.indices.dtype, read.indptr.dtype) == (np.int64, np.int64)
    np.testing.assert_array_equal(adata[::2].copy().obsm["binary"].toarray(), ones[::2].toarray())
    if suffix == "h5ad":
        with h5py.File(path) as file:
            assert set(file["obsm/binary"]) == {"data", "indices", "indptr"}


@pytest.mark.parametrize("where", ["X", "layers", "obsm", "raw"])
def test_index_arrays_of_two_types_are_read_as_one(tmp_path, where):
    adata = AnnData(sparse.csr_matrix(COUNTS), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=PEAKS))
    adata.layers["counts"] = adata.obsm["counts"] = adata.X.copy()
    adata.raw = adata
    adata.write_h5ad(tmp_path / "a.h5ad")
    path = {"X": "X", "raw": "raw/X"}.get(where, f"{where}/counts")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        pointers = file[f"{path}/indptr"][:].astype(np.int64)
        del file[f"{path}/indptr"]
        file[f"{path}/indptr"] = pointers
    read = read_any(tmp_path / "a.h5ad")
    matrix = {"X": read.X, "raw": read.raw.X}.get(where)
    matrix = getattr(read, where)["counts"] if matrix is None else matrix
    assert matrix.indices.dtype == matrix.indptr.dtype
    np.testing.assert_array_equal(matrix[::2].toarray(), COUNTS[::2])


# ---- fragments

FRAGMENTS = [
    ("chr1", 1000, 1100, CELLS[0]),  # 100 bases, both ends in a peak
    ("chr1", 1400, 1600, CELLS[0]),  # 200 bases, one end in a peak
    ("chr1", 5000, 5100, CELLS[0]),  # in no peak
    ("chr1", 2000, 2300, CELLS[1]),  # 300 bases
]


def fragments_file(folder):
    path = folder / "fragments.tsv"
    path.write_text("".join(f"{c}\t{s}\t{e}\t{b}\t1\n" for c, s, e, b in FRAGMENTS))
    (folder / "peaks.bed").write_text("".join(p.replace(":", "\t").replace("-", "\t") + "\n" for p in PEAKS))
    return path


@pytest.mark.parametrize(("count", "frip"), [("insertions", [3 / 6, 1]), ("fragments", [2 / 3, 1])])
def test_quality_figures_of_each_cell(tmp_path, count, frip):
    adata = read_fragments(fragments_file(tmp_path), tmp_path / "peaks.bed", FragmentsConfig(count=count))
    assert adata.obs["n_fragments"].tolist() == [3, 1]
    np.testing.assert_allclose(adata.obs["frip"], frip)
    np.testing.assert_allclose(adata.obs["nucleosome_signal"], [1 / 2, np.nan])


def test_tss_enrichment_by_hand(tmp_path):
    genes = pd.DataFrame({"chrom": ["chr1", "chr1"], "tss": [10_000, 10_000]})  # one start, of two genes
    sites = [9_000, 9_500, 10_000, 10_500, 10_901, 11_000, 11_001]  # flank, 3 in the middle, 2 in the other flank, outside
    text = "".join(f"chr1\t{site}\t{site + 3001}\tA\t1\n" for site in sites)
    (tmp_path / "f.tsv").write_text(text + "chr1\t1000\t1001\tB\t1\n")
    (tmp_path / "p.bed").write_text("chr1\t0\t20000\n")
    adata = read_fragments(tmp_path / "f.tsv", tmp_path / "p.bed", genes=genes)
    assert adata.obs.loc["A", "tss_enrichment"] == pytest.approx((3 / 1001) / (3 / 200))
    assert adata.obs.loc["B", "tss_enrichment"] == 0


def test_duplicated_peaks_are_counted_once_and_reported(tmp_path):
    path = fragments_file(tmp_path)
    once = read_fragments(path, tmp_path / "peaks.bed")
    (tmp_path / "twice.bed").write_text((tmp_path / "peaks.bed").read_text() * 2)
    with pytest.warns(ScaleWarning, match="4 of 8 peaks are duplicated, as macs --call-summits"):
        twice = read_fragments(path, tmp_path / "twice.bed")
    assert once.var_names.equals(twice.var_names)
    assert (once.X != twice.X).nnz == 0


def test_a_bed_with_numbers_as_r_writes_them(tmp_path):
    path = fragments_file(tmp_path)
    (tmp_path / "r.bed").write_text("chr1\t1e+03\t1.5e+03\nchr1\t2000.0\t2500\n")
    assert read_fragments(path, tmp_path / "r.bed").var_names.tolist() == PEAKS[:2]
    (tmp_path / "bad.bed").write_text("chr1\t1.5\t1500\n")
    with pytest.raises(InputError, match=r"line 1: start '1.5'"):
        read_fragments(path, tmp_path / "bad.bed")


def test_only_the_listed_cells_are_read(tmp_path):
    cells().write_h5ad(tmp_path / "a.h5ad")
    with pytest.warns(ScaleWarning, match="1 of 3 listed barcodes are not in"):
        adata = read_any(tmp_path / "a.h5ad", barcodes=[CELLS[2], CELLS[0], "TTTT-1"])
    assert adata.obs_names.tolist() == [CELLS[0], CELLS[2]]
    with pytest.raises(InputError, match=r"no cell of .* is listed"):
        read_any(tmp_path / "a.h5ad", barcodes=["TTTT-1"])
    listed = read_fragments(fragments_file(tmp_path), tmp_path / "peaks.bed", barcodes=[CELLS[1]])
    assert listed.obs_names.tolist() == [CELLS[1]]
    assert listed.obs["n_fragments"].tolist() == [1]


def test_a_matrix_market_file_that_counts_from_0(tmp_path):
    (tmp_path / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n4 3 2\n0 0 1\n3 2 1\n")
    (tmp_path / "peaks.txt").write_text("\n".join(PEAKS))
    (tmp_path / "barcodes.tsv").write_text("\n".join(CELLS))
    with pytest.raises(InputError, match="numbers its rows from 0; expected numbers from 1"):
        read_any(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "a.tsv").write_text("p\tc\n")
    (tmp_path / "a.tsv").chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        read_any(tmp_path / "a.tsv")
