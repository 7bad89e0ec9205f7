"""Names of peaks and barcodes are found by what the columns contain."""

import gzip

import numpy as np
import pandas as pd
import pytest

from scale_toolkit.errors import InputError
from scale_toolkit.io.cells import read_cells, read_metadata
from scale_toolkit.io.names import as_numbers, read_barcodes, read_features

BARCODES = ["AAACGAAAGAAACGCC-1", "TTAAAATTTGCAGATC-1", "GCTGTGTACCAACTGC-1"]
INTERVALS = ["chr1:1000-1500", "chr2:2000-2500", "chrX:100000-200000"]


def written(tmp_path, text, name="names.tsv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("{0}\n{1}\n{2}\n", []),
        ("{0}\tdonor0\t0.5\n{1}\tdonor1\t0.25\n{2}\tdonor0\t0.1\n", ["column_2", "column_3"]),
        ("0.5\t{0}\n0.25\t{1}\n0.1\t{2}\n", ["column_1"]),
        ("barcode\tTSS\n{0}\t5\n{1}\t7\n{2}\t9\n", ["TSS"]),
        ("{0},a\n{1},b\n{2},a\n", ["column_2"]),
        ('"","x"\n"1","{0}"\n"2","{1}"\n"3","{2}"\n', []),
        ("sample1#{0}\nsample1#{1}\nsample1#{2}\n", []),
    ],
)
def test_barcodes(tmp_path, text, columns):
    names = read_barcodes(written(tmp_path, text.format(*BARCODES)))
    assert [name.removeprefix("sample1#") for name in names.index] == BARCODES
    assert list(names.columns) == columns


def test_barcodes_that_are_not_sequences_are_the_last_column_of_distinct_words(tmp_path):
    assert read_barcodes(written(tmp_path, "1\tcell_a\n2\tcell_b\n")).index == ["cell_a", "cell_b"]
    assert read_barcodes(written(tmp_path, "cell_a\t0.5\ncell_b\t0.7\n")).index == ["cell_a", "cell_b"]
    assert read_barcodes(written(tmp_path, "1\n2\n")).index == ["1", "2"]


def test_a_header_is_known_by_the_number_of_cells(tmp_path):
    path = written(tmp_path, "name\ncell_a\ncell_b\n")
    assert read_barcodes(path, (2, 40)).index == ["cell_a", "cell_b"]
    assert read_barcodes(path, (3, 40)).index == ["name", "cell_a", "cell_b"]


def test_numbers_become_numbers_and_missing_stays_missing(tmp_path):
    names = read_barcodes(written(tmp_path, "bc\tscore\tword\n{}\t1.5\tNA\n{}\tNA\tx\n{}\t2\ty\n".format(*BARCODES)))
    np.testing.assert_array_equal(names.columns["score"], [1.5, np.nan, 2])
    assert names.columns["word"].tolist() == ["NA", "x", "y"]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("chr1:1000-1500\nchr2:2000-2500\nchrX:100000-200000\n", []),
        ("chr1\t1000\t1500\nchr2\t2000\t2500\nchrX\t1e+05\t2e+05\n", []),
        ("chr1 1000 1500\nchr2 2000 2500\nchrX 100000 200000\n", []),
        ("chr1,1000,1500\nchr2,2000,2500\nchrX,100000,200000\n", []),
        ("#chr\tstart\tend\nchr1\t1000\t1500\nchr2\t2000\t2500\nchrX\t100000.0\t200000\n", []),
        ("seqnames\tstart\tend\twidth\nchr1\t1000\t1500\t501\nchr2\t2000\t2500\t501\nchrX\t100000\t200000\t9\n", ["width"]),
        (  # as R writes a data frame of GRanges, with and without its header
            '"seqnames" "start" "end" "width" "strand"\n"1" "chr1" 1000 1500 501 "*"\n'
            '"2" "chr2" 2000 2500 501 "*"\n"3" "chrX" 100000 200000 100001 "*"\n',
            ["width", "strand"],
        ),
        ("1\tchr1\t1000\t1500\t501\t*\n2\tchr2\t2000\t2500\t501\t*\n3\tchrX\t100000\t200000\t9\t*\n", ["column_5", "column_6"]),
        ("peak_1\tchr1:1000-1500\npeak_2\tchr2:2000-2500\npeak_3\tchrX:100000-200000\n", ["column_1"]),
        ("chr1\t1000\t1500\tp1\t7\nchr2\t2000\t2500\tp2\t8\nchrX\t100000\t200000\tp3\t9\n", ["column_4", "column_5"]),
    ],
)
def test_peaks(tmp_path, text, columns):
    names = read_features(written(tmp_path, text))
    assert names.index == INTERVALS
    assert list(names.columns) == columns
    assert names.kinds is None


def test_row_numbers_before_contigs_that_are_numbers_are_not_chromosomes(tmp_path):
    names = read_features(written(tmp_path, "1\t1\t100\t200\t101\n2\t1\t300\t400\t101\n3\t2\t100\t200\t101\n"))
    assert names.index == ["1:100-200", "1:300-400", "2:100-200"]


def test_features_of_a_multiome_keep_their_types(tmp_path):
    path = tmp_path / "features.tsv.gz"
    text = "ENSG01\tGENE\tGene Expression\tchr1\t5\t9\nchr1:10-20\tchr1:10-20\tPeaks\tchr1\t10\t20\n"
    path.write_bytes(gzip.compress(text.encode()))
    names = read_features(path)
    assert names.index == ["ENSG01", "chr1:10-20"]
    assert names.kinds.tolist() == ["Gene Expression", "Peaks"]


def test_names_that_are_not_intervals_are_read_as_scale_reads_them(tmp_path):
    assert read_features(written(tmp_path, "a\tpeak_1\na\tpeak_2\n")).index == ["peak_1", "peak_2"]
    with pytest.raises(InputError, match="contains no name"):
        read_features(written(tmp_path, "# nothing\n"))


@pytest.mark.parametrize("column", ["is__cell_barcode", "is_cell"])
def test_the_cells_of_cell_ranger(tmp_path, column):
    rows = [f"barcode,total,{column}", "NO_BARCODE,9,0", *(f"{b},{n},{n % 2}" for n, b in enumerate(BARCODES))]
    assert read_cells(written(tmp_path, "\n".join(rows), "singlecell.csv")) == BARCODES[1:2]
    rows = [f"barcode,total,{column}", *(f"{b},{n},0" for n, b in enumerate(BARCODES))]
    with pytest.raises(InputError, match=f"calls no barcode a cell .{column} is 0"):
        read_cells(written(tmp_path, "\n".join(rows), "singlecell.csv"))


def test_a_list_of_cells(tmp_path):
    assert read_cells(written(tmp_path, "\n".join(BARCODES))) == BARCODES
    with pytest.raises(InputError, match="is duplicated"):
        read_cells(written(tmp_path, "\n".join(BARCODES * 2)))


def test_metadata(tmp_path):
    text = "donor,barcode,age\nA,{},3\nB,{},4\nA,{},5\n".format(*BARCODES)
    table = read_metadata(written(tmp_path, text, "meta.csv"))
    assert table.index.tolist() == BARCODES
    assert table["donor"].tolist() == ["A", "B", "A"]
    assert table["donor"].dtype == "category"
    assert table["age"].tolist() == [3, 4, 5]
    with pytest.raises(InputError, match="has one column"):
        read_metadata(written(tmp_path, "\n".join(BARCODES)))
    with pytest.raises(InputError, match="is duplicated"):
        read_metadata(written(tmp_path, f"{BARCODES[0]}\t1\n{BARCODES[0]}\t2\n"))


@pytest.mark.parametrize(
    "text",
    [
        "barcode,sort\nc_1,B\nc_2,T\n",
        "sort,Cell_ID\nB,c_1\nT,c_2\n",
        ",sort\nc_1,B\nc_2,T\n",  # as pandas writes a DataFrame
        "sort\nc_1\tB\nc_2\tT\n",  # as R writes a data frame
    ],
)
def test_metadata_of_cells_that_have_names_instead_of_barcodes(tmp_path, text):
    if "\t" in text:
        text = text.replace("sort", "sort\tage", 1).replace("B", "B\t3").replace("T", "T\t4")
    table = read_metadata(written(tmp_path, text))
    assert table["sort"].to_dict() == {"c_1": "B", "c_2": "T"}


@pytest.mark.parametrize("huge", ["1e999", "91e309500", "9" * 400])
def test_numbers_that_fit_no_float_stay_text(huge):
    column = pd.Series(["1", huge], dtype=object)
    assert as_numbers(column).tolist() == ["1", huge]
    assert as_numbers(pd.Series(["9" * 30, "NA", "nan", ""])).isna().tolist() == [False, True, True, True]
