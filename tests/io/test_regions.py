import gzip

import bioframe
import pandas as pd
import pytest

from scale_toolkit.errors import InputError
from scale_toolkit.io.regions import read_barcodes, read_bed, read_wanted


@pytest.mark.parametrize("compressed", [True, False])
def test_a_bed_with_everything_around_it(tmp_path, compressed):
    text = "browser position chr1\ntrack name=x\n# comment\nchr1\t0\t10\tname\t5\n\nGL000194.1 5 7\r\n"
    path = tmp_path / "a.bed.gz"
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    table = read_bed(path)
    assert table.to_numpy().tolist() == [["chr1", 0, 10], ["GL000194.1", 5, 7]]
    assert table.dtypes.astype(str).tolist()[1:] == ["int64", "int64"]


def test_a_bed_is_read_as_bioframe_reads_it(tmp_path):
    path = tmp_path / "a.bed"
    path.write_text("chr1\t0\t10\tname\t5\nGL000194.1\t5\t7\tother\t6\nchrX\t100000\t200000\tlast\t7\n")
    pd.testing.assert_frame_equal(read_bed(path), bioframe.read_table(str(path), schema="bed").iloc[:, :3], check_names=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chr1\t1\t2\nchr1\t5\n", "line 2: 2 columns; expected chrom, start, end with 0 <= start < end; fix that line"),
        ("chr1\t1\t2\nchr1\tfive\t9\n", "line 2: start 'five', end '9'"),
        ("chr1\t9\t5\n", "line 1: start 9, end 5"),
        ("chr1\t-1\t5\n", "line 1: start -1, end 5"),
        ("# nothing\n", "holds no interval"),
    ],
)
def test_what_is_no_bed(tmp_path, text, words):
    (tmp_path / "a.bed").write_text(text)
    with pytest.raises(InputError, match=words):
        read_bed(tmp_path / "a.bed")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chr1:10-20", ["chr1:10-20"]),
        ("chr1:10-20, peak7,chr2,peak7", ["chr1:10-20", "peak7", "chr2"]),
        ("chr1:1,000-2,000", ["chr1:1000-2000"]),
        ("chr1:1,000-2,000,000,chr2:5-6", ["chr1:1000-2000000", "chr2:5-6"]),
        ("chr1:100-200,chr1:300-400", ["chr1:100-200", "chr1:300-400"]),
    ],
)
def test_peaks_asked_for_in_words(text, expected):
    assert read_wanted(text) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("track x\nchr1\t10\t20\tname\nchr2 5 6\n", ["chr1:10-20", "chr2:5-6"]),
        ("peak1\nchr1:10-20\tnote\n\npeak1\r\n", ["peak1", "chr1:10-20"]),
    ],
)
def test_peaks_asked_for_in_a_file(tmp_path, content, expected):
    (tmp_path / "f").write_text(content)
    assert read_wanted(str(tmp_path / "f")) == expected


def test_a_file_that_names_nothing_is_told(tmp_path):
    (tmp_path / "f").write_text("\n")
    with pytest.raises(InputError, match="names nothing"):
        read_wanted(str(tmp_path / "f"))
    with pytest.raises(InputError, match="holds no barcode"):
        read_barcodes(str(tmp_path / "f"))
    with pytest.raises(InputError, match="',' names nothing"):
        read_wanted(",")


def test_cells_asked_for_are_a_query_or_the_barcodes_of_a_file(tmp_path):
    (tmp_path / "f").write_text("AAC-1\tx\nAAG-1\nAAC-1\n")
    assert read_barcodes(str(tmp_path / "f")) == ["AAC-1", "AAG-1"]
    assert read_barcodes("leiden == '3'") == "leiden == '3'"
    assert read_barcodes("x" * 5000) == "x" * 5000
