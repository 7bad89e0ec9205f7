import gzip

import pytest

from scale_toolkit.errors import InputError
from scale_toolkit.io.regions import read_bed


@pytest.mark.parametrize("compressed", [True, False])
def test_a_bed_with_everything_around_it(tmp_path, compressed):
    text = "browser position chr1\ntrack name=x\n# comment\nchr1\t0\t10\tname\t5\n\nGL000194.1 5 7\r\n"
    path = tmp_path / "a.bed.gz"
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    table = read_bed(path)
    assert table.to_numpy().tolist() == [["chr1", 0, 10], ["GL000194.1", 5, 7]]
    assert table.dtypes.astype(str).tolist()[1:] == ["int64", "int64"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chr1\t1\t2\nchr1\t5\n", "line 2: 2 columns; expected chrom, start, end with 0 <= start < end; mend that line"),
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
