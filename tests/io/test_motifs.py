"""Motif files."""

from __future__ import annotations

import gzip

import lightmotif
import numpy as np
import pytest

from scale_toolkit.errors import InputError
from scale_toolkit.io.motifs import read_motifs

MEME = """MEME version 4

ALPHABET= ACGT

strands: + -

MOTIF MA0001.1 AGL3
letter-probability matrix: alength= 4 w= 3 nsites= 97 E= 0
 0.5  0.25  0.25 0.0
 0 1 0 0

 0.1 0.2 0.3 0.4
URL http://example.org
MOTIF second
letter-probability matrix: w= 1
0.25 0.25 0.25 0.25
"""
JASPAR = """>MA0001.1\tAGL3
A  [ 1  10  0 ]
C  [ 2  0  3 ]
G  [ 3  0  0 ]
T  [ 4  0  7 ]
>MA0002.1 RUNX1
A [1 1 1]
C [1 1 1]
G [0 0 0]
T [2 2 2]
"""


@pytest.mark.parametrize("packed", [False, True])
def test_meme(tmp_path, packed):
    (tmp_path / "m").write_bytes(gzip.compress(MEME.encode()) if packed else MEME.encode())
    found = read_motifs(tmp_path / "m")
    assert list(found) == ["MA0001.1 AGL3", "second"]
    np.testing.assert_allclose(found["MA0001.1 AGL3"], [[0.5, 0.25, 0.25, 0], [0, 1, 0, 0], [0.1, 0.2, 0.3, 0.4]])


def test_jaspar_is_read_as_lightmotif_reads_it(tmp_path):
    (tmp_path / "m").write_text(JASPAR)
    found = read_motifs(tmp_path / "m")
    assert list(found) == ["MA0001.1 AGL3", "MA0002.1 RUNX1"]
    np.testing.assert_allclose(found["MA0001.1 AGL3"], np.array([[1, 2, 3, 4], [10, 0, 0, 0], [0, 3, 0, 7]]) / 10)
    sequence = "ACGTTTACCAAC"
    theirs = next(iter(lightmotif.load(tmp_path / "m", format="jaspar16")))
    scores = theirs.counts.normalize(0.1).log_odds().calculate(lightmotif.stripe(sequence))
    mine = np.log2((10 * found["MA0001.1 AGL3"] + 0.1) / 10.4 * 4)
    for i in range(len(sequence) - 2):
        assert scores[i] == pytest.approx(sum(mine[j, "ACGT".index(sequence[i + j])] for j in range(3)), abs=1e-5)
    (tmp_path / "old").write_text(">one\n1 2\n1 0\n0 0\n2 2\n")  # without letters and brackets
    np.testing.assert_allclose(read_motifs(tmp_path / "old")["one"], [[0.25, 0.25, 0, 0.5], [0.5, 0, 0, 0.5]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t1\t2\n", "is neither MEME nor JASPAR"),
        ("MEME version 4\nALPHABET= ACDEFGHIKLMNPQRSTVWY\n", "expected ALPHABET= ACGT"),
        ("MEME version 4\n", "holds no motif"),
        (MEME.replace("0 1 0 0", "0 1 0"), "line 10: '0 1 0'; expected 4 numbers"),
        (MEME.replace("0 1 0 0", "0 0 0 0"), "has a row that is not a distribution"),
        (MEME.replace("0 1 0 0", "0 -1 2 0"), "has a row that is not a distribution"),
        (MEME.replace("w= 3", ""), "no w= "),
        (MEME.replace("MOTIF second", "MOTIF MA0001.1 AGL3"), "a second motif 'MA0001.1 AGL3'"),
        (MEME.replace("w= 1", "w= 4"), "expected 4 numbers"),
        (">m\nA [1 2]\nG [1 2]\nC [1 2]\nT [1 2]\n", "line 3: .*expected the counts of C"),
        (">m\nA [1 2]\nC [1 2]\nG [1]\nT [1 2]\n", "rows of different length"),
        (">m\nA [1 2]\nC [1 x]\nG [1]\nT [1 2]\n", "expected a row of numbers"),
        (JASPAR + "junk\n", "line 11: 'junk'"),
    ],
)
def test_what_is_no_motif_file_is_told(tmp_path, text, message):
    (tmp_path / "m").write_text(text)
    with pytest.raises(InputError, match=message):
        read_motifs(tmp_path / "m")
