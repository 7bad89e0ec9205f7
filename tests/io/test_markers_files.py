"""Tables and BED files of markers."""

from __future__ import annotations

import pandas as pd
import pytest

from scale_toolkit.errors import InputError
from scale_toolkit.io.markers import write_beds, write_table


def found(clusters, peaks):
    return pd.DataFrame(
        {
            "cluster": pd.Categorical(clusters, categories=[*dict.fromkeys(clusters), "without"]),
            "peak": peaks,
            "fdr": [0.01, 1e-300, 0.0001][: len(peaks)],
        }
    )


def test_one_bed_a_cluster_by_position(tmp_path):
    table = found(["B", "T", "T"], ["chr2:5-9", "chr10:100-200", "chr10:20-90"])
    written = write_beds(tmp_path / "beds", "leiden", table)
    assert [path.name for path in written] == ["leiden.B.bed", "leiden.T.bed"]
    assert written[0].read_text() == "chr2\t5\t9\tchr2:5-9\t20\t.\n"
    assert written[1].read_text() == "chr10\t20\t90\tchr10:20-90\t40\t.\nchr10\t100\t200\tchr10:100-200\t1000\t.\n"


def test_names_of_clusters_stay_inside_the_folder_and_the_line(tmp_path):
    names = ["../../etc/passwd", "a\tb\nc", "." * 300]
    written = write_beds(tmp_path / "beds", "x/../y", found(names, ["chr1:1-2", "chr1:3-4", "chr1:5-6"]))
    assert len(written) == 3
    assert {path.parent for path in written} == {tmp_path / "beds"}
    assert all(path.resolve().parent == (tmp_path / "beds").resolve() for path in written)
    assert [path.name for path in tmp_path.iterdir()] == ["beds"]
    write_table(tmp_path / "t.tsv", found(names, ["chr1:1-2", "chr1:3-4", "chr1:5-6"]))
    lines = (tmp_path / "t.tsv").read_text().splitlines()
    assert len(lines) == 4 and all(line.count("\t") == 2 for line in lines)
    assert lines[2].startswith("a b c\tchr1:3-4")


def test_names_that_become_one_get_a_number(tmp_path):
    written = write_beds(tmp_path, "c", found(["a/b", "a b", "A_b"], ["chr1:1-2", "chr1:3-4", "chr1:5-6"]))
    assert [path.name for path in written] == ["c.a_b.bed", "c.a_b.2.bed", "c.A_b.3.bed"]


def test_peaks_that_are_no_intervals_are_told(tmp_path):
    with pytest.raises(InputError, match=r"first 'peak_1'.*leave out --bed-dir"):
        write_beds(tmp_path / "beds", "c", found(["a"], ["peak_1"]))
    assert not (tmp_path / "beds").exists()
