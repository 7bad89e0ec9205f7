"""Genes from a GTF file: where each begins and ends, and on which strand."""

from __future__ import annotations

import os
import re
from typing import TypeAlias

import numpy as np
import pandas as pd

from scale_toolkit.errors import InputError
from scale_toolkit.io.source import open_text

# chromosome, first position, end, strand, id, name
_Gene: TypeAlias = tuple[str, int, int, str, str, str]

_ATTRIBUTE = re.compile(r'(\w+) +"([^"]*)"')
#: Features that define the start of a gene, the best first: some files have no genes, and some only
#: exons.
_FEATURES = ("gene", "transcript", "exon")


def read_gtf(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read where genes begin from a GTF file, plain or gzip (Ensembl, GENCODE, UCSC, StringTie).

    A gene begins with its ``gene`` line; in a file without such lines with each of its
    ``transcript`` lines; in a file of exons with the outermost exon of each transcript.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    DataFrame
        ``chrom``, ``tss`` (int64, 0-based position of the first transcribed base), ``strand``
        (``+``, ``-``), ``gene_id``, ``gene_name`` (the id if there is none), in the file's order.
        Genes without a strand count as ``+``.

    Raises
    ------
    InputError
        A line that is not GTF (with its number; GFF3 is recognised), or a file without genes.
    """
    rows = [
        (chrom, low if strand == "+" else high - 1, strand, *names)
        for chrom, low, high, strand, *names in _read(path)
    ]
    table = pd.DataFrame(rows, columns=["chrom", "tss", "strand", "gene_id", "gene_name"])
    table = table.drop_duplicates(ignore_index=True)
    return table.astype({"tss": np.int64})


def read_gene_bodies(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read where genes begin and end from a GTF file, as `read_gtf` does.

    Returns
    -------
    DataFrame
        ``chrom``, ``start``, ``end`` (int64, 0-based and half-open), ``strand``, ``gene_id``,
        ``gene_name``, in the file's order; a gene of several transcripts or exons is from the first
        base to the last one of them.

    Raises
    ------
    InputError
        As `read_gtf`.
    """
    columns = ["chrom", "start", "end", "strand", "gene_id", "gene_name"]
    table = pd.DataFrame(_read(path), columns=columns)
    bodies = table.groupby(["chrom", "gene_id"], sort=False, as_index=False).agg(
        {"start": "min", "end": "max", "strand": "first", "gene_name": "first"}
    )
    return bodies[columns].astype({"start": np.int64, "end": np.int64})


def _read(path: str | os.PathLike[str]) -> list[_Gene]:
    """Return the genes of the best feature that the file has."""
    genes_by_feature: dict[str, dict[str, _Gene]] = {feature: {} for feature in _FEATURES}
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.startswith("#") or not line.strip():
                continue
            fields = line.rstrip("\r\n").split("\t", 8)
            if len(fields) < 9:
                raise _off(path, number, f"{len(fields)} columns")
            if fields[2] not in genes_by_feature or (
                fields[2] != "gene" and genes_by_feature["gene"]
            ):
                continue
            _add(genes_by_feature[fields[2]], fields, path, number)
    feature = next((name for name in _FEATURES if genes_by_feature[name]), None)
    if feature is None:
        raise InputError(
            f"{path} has no line of a gene, a transcript or an exon",
            "a GTF file",
            "check that this is the right file",
        )
    return list(genes_by_feature[feature].values())


def _add(
    genes: dict[str, _Gene], fields: list[str], path: str | os.PathLike[str], number: int
) -> None:
    """Add a line's gene, transcript or exon; those of one transcript are joined."""
    attributes = dict(_ATTRIBUTE.findall(fields[8]))
    if "gene_id" not in attributes:
        problem = (
            "GFF3"
            if re.search(r"(^|;)\s*(ID|Parent|Name)=", fields[8])
            else (f"no gene_id in {fields[8][:60]!r}")
        )
        raise _off(path, number, problem)
    try:
        low, high = int(fields[3]) - 1, int(fields[4])
    except ValueError:
        raise _off(path, number, f"start {fields[3]!r}, end {fields[4]!r}") from None
    if not 0 <= low < high:
        raise _off(path, number, f"start {fields[3]}, end {fields[4]}")
    chrom, strand, gene = fields[0], "-" if fields[6] == "-" else "+", attributes["gene_id"]
    key = f"{chrom}\t{gene}\t{attributes.get('transcript_id', '') if fields[2] != 'gene' else ''}"
    if key in genes:
        low, high = min(low, genes[key][1]), max(high, genes[key][2])
    genes[key] = (chrom, low, high, strand, gene, attributes.get("gene_name") or gene)


def _off(path: str | os.PathLike[str], number: int, found: str) -> InputError:
    return InputError(
        f"{path}, line {number}: {found}",
        'GTF: nine columns separated by tabs, the last with gene_id "..."',
        "give a GTF file of the genome the peaks were called on",
    )
