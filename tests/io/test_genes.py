"""Genes from GTF files."""

from __future__ import annotations

import gzip

import pytest

from scale_toolkit.errors import InputError
from scale_toolkit.io.genes import read_gtf


def line(feature, start, end, strand, gene, chrom="chr1", transcript=None, name=None):
    attributes = f'gene_id "{gene}";' + (f' transcript_id "{transcript}";' if transcript else "")
    attributes += f' gene_name "{name}";' if name else ""
    return "\t".join([chrom, "src", feature, str(start), str(end), ".", strand, ".", attributes]) + "\n"


ENSEMBL = (
    "#!genome-build GRCh38\n\n"
    + line("exon", 101, 150, "+", "G0", transcript="T0")  # before any gene: passed over once there are genes
    + line("gene", 101, 500, "+", "G1", name="ONE")
    + line("transcript", 201, 500, "+", "G1", transcript="T1", name="ONE")
    + line("exon", 201, 300, "+", "G1", transcript="T1", name="ONE")
    + line("gene", 1001, 2000, "-", "G2", chrom="chr2")
)


@pytest.mark.parametrize("packed", [False, True])
def test_genes_begin_where_their_strand_says(tmp_path, packed):
    path = tmp_path / "genes.gtf"
    path.write_bytes(gzip.compress(ENSEMBL.encode()) if packed else ENSEMBL.replace("\n", "\r\n").encode())
    table = read_gtf(path)
    assert table.to_dict("list") == {
        "chrom": ["chr1", "chr2"], "tss": [100, 1999], "strand": ["+", "-"], "gene_id": ["G1", "G2"], "gene_name": ["ONE", "G2"]
    }  # fmt: skip


def test_without_gene_lines_transcripts_begin_and_without_those_their_outermost_exons(tmp_path):
    path = tmp_path / "genes.gtf"
    exons = line("exon", 301, 400, "-", "G", transcript="T1") + line("exon", 101, 200, "-", "G", transcript="T1")
    exons += line("exon", 101, 350, "-", "G", transcript="T2")
    path.write_text(exons)
    assert sorted(read_gtf(path)["tss"]) == [349, 399]
    path.write_text(exons + line("transcript", 101, 450, "-", "G", transcript="T1"))
    assert read_gtf(path)["tss"].tolist() == [449]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t1\t2\n", r"line 1: 3 columns; expected GTF: nine columns"),
        ("chr1\ts\tgene\t1\t9\t.\t+\t.\tID=gene:ENSG1;Name=A\n", r"line 1: GFF3; expected GTF"),
        (line("gene", "x", 9, "+", "G"), r"line 1: start 'x', end '9'"),
        (line("gene", 10, 9, "+", "G"), r"line 1: start 10, end 9"),
        (line("CDS", 1, 9, "+", "G"), r"no line of a gene, a transcript or an exon"),
        ("chr1\ts\tgene\t1\t9\t.\t+\t.\tname A\n", r"no gene_id in 'name A'"),
    ],
)
def test_what_is_no_gtf_is_told(tmp_path, text, message):
    (tmp_path / "x.gtf").write_text(text)
    with pytest.raises(InputError, match=message):
        read_gtf(tmp_path / "x.gtf")
