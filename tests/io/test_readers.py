"""One matrix through every door, each input written by scipy, pandas or h5py and never by our own writer."""

import gzip
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.io import mmwrite

from scale_toolkit.config import FragmentsConfig
from scale_toolkit.core.intervals import parse_names
from scale_toolkit.errors import InputError, ScaleWarning, UsageError
from scale_toolkit.io.readers import read_any
from scale_toolkit.stages.prepare import prepare


@pytest.fixture
def blood(real):
    return real("tiny_blood")


def write_h5ad(folder, cells, form="csr"):
    x = cells.X.toarray() if form == "dense" else cells.X.asformat(form)
    layers = {"counts": x} if form == "layer" else {}
    AnnData(x, obs=pd.DataFrame(index=cells.obs_names), var=pd.DataFrame(index=cells.var_names), layers=layers).write_h5ad(
        folder / "a.h5ad"
    )
    return folder / "a.h5ad"


def write_text(folder, cells, name, *, r_style=False):
    table = pd.DataFrame(cells.X.toarray().T.astype(int), index=cells.var_names, columns=cells.obs_names)
    table.to_csv(folder / name, sep="," if ".csv" in name else "\t", index_label=False if r_style else "peak")
    return folder / name


def write_folder(folder, cells, *, upright=True, gz=False, peaks="names", field="integer"):
    folder = folder / "mtx"
    folder.mkdir()
    matrix = cells.X.T if upright else cells.X
    mmwrite(folder / "count.mtx", sparse.coo_matrix(matrix.astype(int) if field == "integer" else matrix), field=field)
    intervals = parse_names(cells.var_names)
    if peaks == "bed":
        intervals.to_csv(folder / "peaks.bed", sep="\t", header=False, index=False)
    else:
        names = cells.var_names if peaks == "names" else intervals.astype(str).agg("_".join, axis=1)
        (folder / "peak.txt").write_text("\n".join(names) + "\n")
    (folder / "barcode.txt").write_text("\n".join(cells.obs_names) + "\n")
    if gz:
        for path in list(folder.iterdir()):
            (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return folder


def write_tenx(folder, cells, *, multiome=False, without_types=False):
    path = folder / "filtered_peak_bc_matrix.h5"
    matrix, names = cells.X.T.tocsc(), list(cells.var_names)
    kinds = ["Peaks"] * len(names)
    if multiome:
        genes = sparse.random(7, cells.n_obs, 0.5, "csc", random_state=0, data_rvs=np.ones)
        matrix = sparse.vstack([genes[:4], matrix, genes[4:]], format="csc")
        names = [f"ENSG{i}" for i in range(4)] + names + [f"ENSG{i}" for i in range(4, 7)]
        kinds = ["Gene Expression"] * 4 + kinds + ["Gene Expression"] * 3
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array([name.encode() for name in cells.obs_names])
        group["data"], group["indices"] = matrix.data.astype(np.int32), matrix.indices.astype(np.int64)
        group["indptr"], group["shape"] = matrix.indptr.astype(np.int64), np.array(matrix.shape, np.int32)
        for key, values in (("id", names), ("name", names), ("feature_type", kinds)):
            if not (without_types and key == "feature_type"):
                group[f"features/{key}"] = np.array([value.encode() for value in values])
    return path


DOORS = {
    "h5ad csr": write_h5ad,
    "h5ad csc": lambda f, c: write_h5ad(f, c, "csc"),
    "h5ad dense": lambda f, c: write_h5ad(f, c, "dense"),
    "txt": lambda f, c: write_text(f, c, "a.txt"),
    "tsv.gz": lambda f, c: write_text(f, c, "a.tsv.gz"),
    "csv": lambda f, c: write_text(f, c, "a.csv"),
    "csv.gz": lambda f, c: write_text(f, c, "a.csv.gz"),
    "txt as R writes it": lambda f, c: write_text(f, c, "a.txt", r_style=True),
    "mtx peaks × cells": write_folder,
    "mtx cells × peaks": lambda f, c: write_folder(f, c, upright=False),
    "mtx gz": lambda f, c: write_folder(f, c, gz=True),
    "mtx bed": lambda f, c: write_folder(f, c, peaks="bed"),
    "mtx bed gz real": lambda f, c: write_folder(f, c, peaks="bed", gz=True, field="real"),
    "10x": write_tenx,
    "10x multiome": lambda f, c: write_tenx(f, c, multiome=True),
    "10x without types": lambda f, c: write_tenx(f, c, without_types=True),
}


@pytest.mark.parametrize("door", DOORS)
def test_the_same_cells_through_every_door(tmp_path, blood, door):
    cells = read_any(DOORS[door](tmp_path, blood))
    assert cells.obs_names.tolist() == blood.obs_names.tolist()
    assert cells.var_names.tolist() == blood.var_names.tolist()
    result, expected = (prepare(one, min_peaks=1, min_cells=1) for one in (cells, blood))
    for name in ("data", "indices", "indptr"):
        got, want = getattr(result.X, name), getattr(expected.X, name)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    pd.testing.assert_frame_equal(result.obs, expected.obs[list(result.obs)])
    pd.testing.assert_frame_equal(result.var, expected.var[list(result.var)])


def test_h5ad_on_standard_input(tmp_path, blood):
    path = write_h5ad(tmp_path, blood)
    with path.open("rb") as stdin:
        assert (read_any("-", stdin=stdin).X != blood.X).nnz == 0


def test_one_column_of_underscored_peaks_is_kept_as_it_is(tmp_path, blood):
    cells = read_any(write_folder(tmp_path, blood, peaks="underscores"))
    assert cells.var_names[0] == blood.var_names[0].replace(":", "_").replace("-", "_")


def test_a_bed_of_peaks_becomes_names_and_not_numbers(tmp_path, blood):
    folder = write_folder(tmp_path, blood, peaks="bed")
    (folder / "peaks.bed").write_text("# made by a caller\ntrack name=x\n" + (folder / "peaks.bed").read_text())
    assert read_any(folder).var_names.tolist() == blood.var_names.tolist()


def test_a_table_larger_than_a_block(tmp_path, blood, monkeypatch):
    path = write_text(tmp_path, blood, "a.tsv.gz")
    monkeypatch.setattr("scale_toolkit.io.table._VALUES", 20_000)  # 156 peaks at a time
    cells = read_any(path)
    assert (cells.X != blood.X).nnz == 0
    assert cells.var_names.tolist() == blood.var_names.tolist()


def test_names_that_look_like_something_else_stay_text(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("\t001\tNA\n007\t1\t0\nNA\t0\t2\nnan\t3\t0\n")
    cells = read_any(path)
    assert cells.obs_names.tolist() == ["001", "NA"]
    assert cells.var_names.tolist() == ["007", "NA", "nan"]
    assert cells.X.toarray().tolist() == [[1, 0, 3], [0, 2, 0]]


def test_quoted_names_with_commas(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('"","c1","c,2"\n"chr1:1,000-2,000",1,2\r\n"p2",0,3\n')
    cells = read_any(path)
    assert cells.obs_names.tolist() == ["c1", "c,2"]
    assert cells.var_names.tolist() == ["chr1:1,000-2,000", "p2"]
    assert cells.X.toarray().tolist() == [[1, 0], [2, 3]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p\tc1\tc2\nx\t1\t2\ny\t1\n", r"line 3: 2 columns; expected 3; fix that line"),
        ("p\tc1\tc2\nx\t1\t2\ny\t1\t2\t3\n", r"line 3: 4 columns; expected 3"),
        ("p\tc1\tc2\nx\t1\t2\t3\t4\n", r"line 2: 5 columns after a header of 3; expected 3 \(or 4"),
        ("p\tc1\tc2\nx\t1\t2\ny\t1\tmany\n", r"line 3, column c2: 'many'; expected a count; fix that value"),
        ("p\tc1\tc2\nx\t1\tnan\n", r"line 2, column c2: 'nan'; expected a count"),
        ("p\tc1\tc2\nx\t1\t\n", r"line 2, column c2: ''; expected a count"),
        ("p\tc1\tc2\n", "has a header but no row; expected a line a peak"),
        ("p,c1,c2\nx,1,2\n", "has no tab in its first two lines; expected a tab-separated table.*name the file .csv"),
        (
            "b\tchr1:1-2\tchr1:3-4\nc1\t1\t2\nc2\t1\t2\n",
            r"the columns of .* are peaks \(chr1:1-2\) and its rows are not \(c1\).*transpose",
        ),
    ],
)
@pytest.mark.parametrize("block", [1, 2_000_000])
def test_tables_that_are_none(tmp_path, monkeypatch, text, words, block):
    monkeypatch.setattr("scale_toolkit.io.table._VALUES", block)
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_any(tmp_path / "a.tsv")
    assert "\n" not in str(caught.value)


def test_truncated_gzip_through_every_text_door(tmp_path, blood):
    table = write_text(tmp_path, blood, "a.tsv.gz")
    folder = write_folder(tmp_path, blood, gz=True)
    for path, place in ((table, table), (folder / "count.mtx.gz", folder), (folder / "peak.txt.gz", folder)):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="is truncated or damaged gzip; expected a complete file"):
            read_any(place)
        path.write_bytes(whole)


def test_files_of_no_known_format(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    accepted = "expected an h5ad, h5mu or zarr store, a count table"
    cases = [
        (write("a.xyz", "words and words\nwithout columns\n"), f"the format of .*a.xyz is unknown; {accepted}"),
        (
            write("a.mtx", "%%MatrixMarket\n"),
            "contains counts without their names.*give the folder that also has peaks and barcodes",
        ),
        (write("a.h5ad", "text"), "a.h5ad is not an HDF5 file"),
        (write("a.bed", "chr1\t1\t2\n"), "contains regions without counts.*--fragments FILE --peaks BED"),
        (write("f.tsv", "# id=x\nchr1\t1\t2\tACGT-1\t1\n"), "is a fragments file.*use `scale prepare --fragments FILE --peaks BED"),
        (tmp_path / "none.h5ad", "does not exist"),
        (write("empty.tsv", ""), r"is empty \(0 bytes\)"),
    ]
    for path, words in cases:
        with pytest.raises(InputError, match=words):
            read_any(path)


def test_folders_that_lack_a_file_or_have_two(tmp_path, blood):
    folder = write_folder(tmp_path, blood)
    shutil.copy(folder / "peak.txt", folder / "peak2.txt")
    with pytest.raises(InputError, match=r"has 2 files of peaks: peak.txt, peak2.txt; expected one; move the others away"):
        read_any(folder)
    (folder / "peak2.txt").unlink()
    for name, words in (
        ("count.mtx", r"has no file of counts \(it holds barcode.txt, peak.txt\); expected one named \*count\*.mtx"),
        ("peak.txt", "has no file of peaks .*; expected one with 'peak' in its name"),
        ("barcode.txt", "has no file of barcodes .*; expected one with 'barcode' in its name; add or rename it"),
    ):
        (folder / name).rename(tmp_path / name)
        with pytest.raises(InputError, match=words):
            read_any(folder)
        (tmp_path / name).rename(folder / name)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("barcode.txt", "c1\nc2\nc3\n", r"count.mtx is 4 × 2, peak.txt has 4 lines, barcode.txt 3; expected a row a peak"),
        (
            "peak.txt",
            "chr1:0-1\nchr1:1-2\nchr1:3-4\nchr1:5-6\nchr1:7-8\n",
            "count.mtx is 4 × 2, peak.txt has 5 lines.*check that the three belong together",
        ),
        ("peak.txt", "\n", "peak.txt contains no name; expected one a line"),
        (
            "count.mtx",
            "%%MatrixMarket matrix coordinate integer general\n4 2 9000000000000\n1 1 1\n",
            "states 9,000,000,000,000 entries, more than",
        ),
        (
            "count.mtx",
            "%%MatrixMarket matrix coordinate integer general\n4 2 3\n1 1 1\n2 2 1\n",
            "count.mtx has 2 entries, its header states 3",
        ),
        (
            "count.mtx",
            "%%MatrixMarket matrix coordinate integer general\n4 2 1\n9 1 1\n",
            "count.mtx, entry 1: row 9 of 4",
        ),
        ("count.mtx", "junk\n", "count.mtx has no banner"),
        *(
            ("count.mtx", f"%%MatrixMarket matrix {top}", words)
            for top, words in (
                ("coordinate integer symmetric\n4 2 1\n1 1 1\n", "is symmetric; expected a general matrix"),
                ("array pattern general\n4 2\n", "has the layout array pattern"),
                ("table integer general\n4 2 1\n1 1 1\n", "has the layout table integer"),
                ("coordinate integer general\n4 2\n1 1 1\n", "line 2: '4 2'; expected the sizes"),
                ("coordinate integer general\n4 2 1\n1 1\n", "count.mtx, entries: "),
                ("coordinate integer general\n4 2 2\n1 1 1\n1 1 1 1\n", "count.mtx, entries: Expected 3 fields"),
                ("coordinate integer general\n4 2 1\n1 1 1 1\n", "count.mtx, entries: more than 3 columns"),
                ("coordinate integer general\n4 2 1\n1 1 \0\n", "count.mtx, entries: "),
                ("coordinate integer general\n4 2 1\n1 0 1\n", "numbers its columns from 0; expected numbers from 1"),
                ("array integer general\n4 2\n1\n", "has 1 entries, its header states 8"),
            )
        ),
        (
            "count.mtx",
            "%%MatrixMarket matrix coordinate complex general\n4 2 1\n1 1 1 0\n",
            "holds complex values; expected integer counts",
        ),
    ],
)
def test_folders_whose_files_do_not_fit(tmp_path, name, text, words):
    write_folder(
        tmp_path, AnnData(sparse.csr_matrix(np.eye(2, 4)), var=pd.DataFrame(index=[f"chr1:{i}-{i + 1}" for i in range(4)]))
    )
    (tmp_path / "mtx" / name).write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_any(tmp_path / "mtx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["integer", "real", "pattern"])
@pytest.mark.parametrize("dense", [False, True])
def test_matrix_market_is_read_as_scipy_reads_it(tmp_path, field, dense):
    from scipy.io import mmread

    if dense and field == "pattern":
        pytest.skip("there is no such thing")
    counts = sparse.random(6, 9, 0.4, format="coo", random_state=0, data_rvs=lambda n: np.arange(1, n + 1))
    folder = tmp_path / "mtx"
    folder.mkdir()
    matrix = counts.toarray().astype(int) if dense else counts.astype(int)
    mmwrite(folder / "count.mtx", matrix, field=None if dense else field, comment="made here\nin two lines")
    (folder / "peak.txt").write_text("\n".join(f"chr1:{i}-{i + 1}" for i in range(6)))
    (folder / "barcode.txt").write_text("\n".join(f"c{i}" for i in range(9)))
    expected = mmread(folder / "count.mtx")
    expected = expected if dense else expected.toarray()
    np.testing.assert_array_equal(read_any(folder).X.toarray(), expected.T)


def test_a_lying_header_in_gzip_is_found_before_memory_is_taken(tmp_path, blood):
    folder = write_folder(tmp_path, blood, gz=True)
    text = f"%%MatrixMarket matrix coordinate integer general\n{blood.n_vars} {blood.n_obs} {10**12}\n1 1 1\n"
    (folder / "count.mtx.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(InputError, match=r"the header of .* states 1,000,000,000,000 entries"):
        read_any(folder)


def test_a_square_matrix_is_peaks_by_cells_and_says_so(tmp_path, blood):
    square = blood[:100, :100].copy()
    with pytest.warns(ScaleWarning, match=r"is square \(100 × 100\): its rows were taken as peaks"):
        cells = read_any(write_folder(tmp_path, square))
    assert (cells.X != square.X).nnz == 0


def test_features_of_a_multiome_folder(tmp_path, blood):
    folder = write_folder(tmp_path, blood)
    (folder / "peak.txt").unlink()
    rows = [f"{name}\t{name}\tPeaks\tchr1\t1\t2" for name in blood.var_names]
    (folder / "features.tsv").write_text("\n".join(rows))
    assert read_any(folder).var_names.tolist() == blood.var_names.tolist()


def test_tenx_without_peaks_or_damaged(tmp_path, blood):
    path = write_tenx(tmp_path, blood)
    with h5py.File(path, "r+") as file:
        file["matrix/features/feature_type"][...] = np.array([b"Genes"] * blood.n_vars)
    with pytest.raises(InputError, match=r"has no peaks \(feature types: Genes\); expected features of type Peaks"):
        read_any(path)
    path = write_tenx(tmp_path, blood)
    with h5py.File(path, "r+") as file:
        file["matrix/indices"][0] = 10**6
    with pytest.raises(InputError, match="damaged matrix"):
        read_any(path)
    with h5py.File(path, "r+") as file:
        del file["matrix/indices"]
    with pytest.raises(InputError, match=r"cannot be read .* expected a complete 10x h5"):
        read_any(path)
    path = write_tenx(tmp_path, blood)
    with h5py.File(path, "r+") as file:
        file["matrix/shape"][...] = [5, 5]
    with pytest.raises(InputError, match=r"shape 5 × 5, but 2,142 features and 127 barcodes"):
        read_any(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="is truncated"):
        read_any(path)


def test_fragments_need_peaks_and_no_other_input(tmp_path):
    with pytest.raises(UsageError, match=r"fragments without peaks; expected a BED.*add --peaks"):
        read_any(None, fragments="f.tsv")
    with pytest.raises(UsageError, match="one of the two"):
        read_any("a.h5ad", fragments="f.tsv", peaks="p.bed")
    with pytest.raises(UsageError, match="no input"):
        read_any(None)


def test_fragments_of_real_cells_give_their_counts(tmp_path, data_path, blood):
    regions = parse_names(blood.var_names)
    regions["start"] -= 1  # ArchR's names are 1-based
    regions.to_csv(tmp_path / "peaks.bed", sep="\t", header=False, index=False)
    differences = {}
    for count, cap in (("insertions", 4), ("insertions", 0), ("fragments", 0)):
        cells = read_any(
            None,
            fragments=data_path("tiny_blood.fragments.tsv.gz"),
            peaks=tmp_path / "peaks.bed",
            fragments_config=FragmentsConfig(count=count, cap=cap),
        )
        assert sorted(cells.obs_names) == sorted(blood.obs_names)
        differences[count, cap] = int((cells[blood.obs_names].X != blood.X).nnz)
    assert differences["insertions", 4] == 0
    assert differences["insertions", 0] == 176
    assert 14_000 < differences["fragments", 0] < 15_000
