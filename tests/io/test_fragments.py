import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_toolkit.config import FragmentsConfig
from scale_toolkit.errors import InputError
from scale_toolkit.io import fragments as module
from scale_toolkit.io.cells import read_cells
from scale_toolkit.io.fragments import read_fragments

INTERVAL = st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 40), st.integers(1, 12)).map(
    lambda t: (t[0], t[1], t[1] + t[2])
)
FRAGMENT = st.tuples(INTERVAL, st.sampled_from(["A", "B#1", "NA"]))


def counted(found, peaks, how, cap):
    """The definition, one fragment and one peak at a time."""
    table: dict[tuple[str, int], int] = {}
    for (chrom, start, end), barcode in found:
        for number, (on, first, last) in enumerate(peaks):
            if on != chrom:
                continue
            hits = (first <= start < last) + (first <= end - 1 < last)
            if how == "fragments":
                hits = int(start < last and first < end)
            if hits:
                table[barcode, number] = table.get((barcode, number), 0) + hits
    return {key: min(value, cap) if cap else value for key, value in table.items()}


@settings(deadline=None, max_examples=60)
@given(
    found=st.lists(FRAGMENT, min_size=1, max_size=30),
    peaks=st.lists(INTERVAL, min_size=1, max_size=8, unique=True),
    how=st.sampled_from(["insertions", "fragments"]),
    cap=st.sampled_from([0, 1, 3]),
    lines=st.sampled_from([1, 3, 1000]),
)
def test_counts_are_those_of_the_definition(tmp_path_factory, found, peaks, how, cap, lines):
    path = tmp_path_factory.mktemp("fragments") / "f.tsv"
    path.write_text("# id=x\n#\n" + "".join(f"{c}\t{s}\t{e}\t{b}\t2\n" for (c, s, e), b in found))
    expected = counted(found, peaks, how, cap)
    config = FragmentsConfig(count=how, cap=cap)
    table = pd.DataFrame(peaks, columns=["chrom", "start", "end"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LINES", lines)
        if not expected:
            with pytest.raises(InputError, match=r"no fragment of .* lies in a peak: fragments on chr"):
                read_fragments(path, table, config)
            return
        cells = read_fragments(path, table, config)
    assert cells.obs_names.tolist() == list(dict.fromkeys(barcode for _, barcode in found))
    assert cells.var_names.tolist() == [f"{c}:{s}-{e}" for c, s, e in peaks]
    coo = cells.X.tocoo()
    assert {(cells.obs_names[i], int(j)): int(v) for i, j, v in zip(coo.row, coo.col, coo.data)} == expected
    assert cells.X.dtype == np.float32


@pytest.fixture
def peaks(tmp_path):
    path = tmp_path / "peaks.bed"
    path.write_text("chr1\t0\t100\nchr1\t200\t300\n")
    return path


def test_a_list_of_barcodes_keeps_them_in_its_order(tmp_path, peaks):
    (tmp_path / "f.tsv").write_text("chr1\t1\t50\tA\nchr1\t1\t50\tB\nchr1\t210\t250\tC\n")
    (tmp_path / "list.txt").write_text("C\nZ\nA\n")
    cells = read_fragments(tmp_path / "f.tsv", peaks, barcodes=read_cells(tmp_path / "list.txt"))
    assert cells.obs_names.tolist() == ["C", "Z", "A"]
    assert cells.X.toarray().tolist() == [[0, 2], [0, 0], [2, 0]]


def test_blocked_gzip_of_several_members(tmp_path, peaks):
    parts = [gzip.compress(b"chr1\t1\t50\tA\t1\n"), gzip.compress(b"chr1\t1\t50\tB\t1\n"), gzip.compress(b"")]
    (tmp_path / "f.tsv.gz").write_bytes(b"".join(parts))
    assert read_fragments(tmp_path / "f.tsv.gz", peaks).obs_names.tolist() == ["A", "B"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#c\nchr1\t1\t50\tA\nchr1\tx\t50\tA\n", r"line 3: 'chr1\\tx\\t50\\tA'; expected chrom, start, end, barcode"),
        ("chr1\t1\t50\tA\nchr1\t50\t50\tA\n", r"line 2: 'chr1\\t50\\t50\\tA'"),
        ("chr1\t1\t50\tA\nchr1\t-5\t50\tA\n", "line 2"),
        ("chr1\t1\t50\tA\nchr1\t1\t50\t\n", "line 2"),
        ("chr1\t1\t50\nchr1\t1\t50\n", "line 1"),
        ("chr1\t1\t50\tA\nchr1\t1\n", "line 2"),
        ("# only a comment\n", "contains no fragment"),
        ("1\t1\t50\tA\n2\t1\t50\tA\n", "lies in a peak: fragments on 1, 2, peaks on chr1; expected the same chromosome names"),
    ],
)
def test_files_of_no_fragments(tmp_path, peaks, text, words):
    (tmp_path / "f.tsv").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_fragments(tmp_path / "f.tsv", peaks)
    assert "\n" not in str(caught.value)


def test_a_truncated_file(tmp_path, data_path, peaks):
    whole = data_path("tiny_blood.fragments.tsv.gz").read_bytes()
    (tmp_path / "f.tsv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is truncated or damaged gzip"):
        read_fragments(tmp_path / "f.tsv.gz", peaks)
