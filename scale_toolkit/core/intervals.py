"""Genomic intervals as arrays: peak names to (chrom, start, end) and back, and overlaps.

Intervals are half-open, ``[start, end)``, as in BED.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from scale_toolkit.errors import InputError, ScaleWarning

COLUMNS = ["chrom", "start", "end"]
# The last two numbers are start and end, whatever came before: contigs have dots, dashes, colons
# and underscores of their own
_NAME = r"^(.*[^:_\-])[:_\-](\d{1,15})[_\-](\d{1,15})$"


def parse_names(names: Sequence[str] | pd.Index) -> pd.DataFrame:
    """Read peak names ``chr1:100-200``, ``chr1_100_200`` or ``chr1-100-200`` as intervals.

    Parameters
    ----------
    names
        Peak names.

    Returns
    -------
    DataFrame
        ``chrom``, ``start``, ``end``, in the order of `names`; for a name that is not an
        interval with start < end, a missing chrom and 0, 0.
    """
    parts = pd.Series(np.asarray(names, dtype=object), dtype=object).astype(str).str.extract(_NAME)
    parts.columns = COLUMNS
    for column in ("start", "end"):
        parts[column] = parts[column].fillna("0").astype(np.int64)
    parts["chrom"] = parts["chrom"].astype(object)
    wrong = (parts["start"] >= parts["end"]).to_numpy()
    parts.loc[wrong, COLUMNS] = [None, 0, 0]
    return parts


def match_names(queries: Sequence[str] | pd.Index, names: pd.Index) -> np.ndarray:
    """Find peaks by name, or by interval if the spelling differs (``chr1:1-2``, ``chr1-1-2``).

    Parameters
    ----------
    wanted
        Peak names to find.
    names
        Peak names to find them in, without duplicates.

    Returns
    -------
    ndarray of intp
        The position of each in `names`, −1 if it is missing.
    """
    queries = pd.Index(queries, dtype=object)
    positions: np.ndarray = names.get_indexer(queries)
    missing = np.flatnonzero(positions < 0)
    if not len(missing):
        return positions
    keys = [
        pd.MultiIndex.from_frame(parse_names(peak_names))
        for peak_names in (queries[missing], names)
    ]
    known = ~keys[1].get_level_values("chrom").isna() & ~keys[1].duplicated(keep=False)
    matches = pd.Series(np.flatnonzero(known), index=keys[1][known]).reindex(keys[0])
    is_interval = ~keys[0].get_level_values("chrom").isna()
    positions[missing] = np.where(is_interval & matches.notna(), matches.fillna(-1), -1).astype(
        np.intp
    )
    return positions


def require_intervals(names: Sequence[str] | pd.Index, purpose: str) -> pd.DataFrame:
    """Parse peak names that must all be intervals; the error names the first that is not one, and
    the `purpose`.
    """
    table = parse_names(names)
    wrong = np.flatnonzero(table["chrom"].isna())
    if len(wrong):
        raise InputError(
            f"{len(wrong):,} of {len(table):,} peak names are not intervals, first "
            f"{names[wrong[0]]!r}",
            "names such as chr1:100-200, chr1_100_200 or chr1-100-200 with start < end",
            f"rename the peaks or leave out {purpose}",
        )
    return table


def parse_region(text: str) -> tuple[str, int, int]:
    """Return chromosome, start and end of a stretch of the genome, ``chr1:1,000-2,000``.

    Raises
    ------
    InputError
        It is not an interval with start < end.
    """
    chrom, start, end = parse_names([text.strip().replace(",", "")]).iloc[0]
    if chrom is None:
        raise InputError(f"the region is {text!r}", "chrom:start-end with start < end")
    return str(chrom), int(start), int(end)


def same_chromosome(chrom: str, names: Sequence[str] | np.ndarray) -> str | None:
    """Return how `names` call a chromosome, ``chr1`` or ``1``; None if they lack it."""
    bare = chrom.removeprefix("chr")
    spellings = [chrom, bare, f"chr{bare}"]
    if bare in ("M", "MT"):
        spellings += ["chrM", "MT", "M", "chrMT"]
    known = set(map(str, names))
    return next((name for name in spellings if name in known), None)


def format_names(table: pd.DataFrame) -> pd.Index:
    """Peak names ``chrom:start-end`` of a table with those columns."""
    return pd.Index(
        [f"{chrom}:{start}-{end}" for chrom, start, end in zip(*(table[name] for name in COLUMNS))],
        dtype=object,
    )


def nearest_starts(peaks: pd.DataFrame, genes: pd.DataFrame) -> pd.DataFrame:
    """Return the gene whose transcription start is nearest to each interval (by bioframe; of
    equally near ones the first).

    Parameters
    ----------
    peaks
        ``chrom``, ``start``, ``end``.
    genes
        ``chrom``, ``tss`` (0-based position of the first base), ``strand`` (``+`` or ``-``).

    Returns
    -------
    DataFrame
        In the order of `peaks`: ``gene``, the row number in `genes`, −1 where the chromosome has
        none; ``distance``, float64: bases between the start and the interval, 0 where the start is
        inside, below 0 where the interval is upstream of the gene, NaN without a gene.
    """
    import bioframe

    n = len(peaks)
    queries = pd.DataFrame(
        {name: peaks[name].to_numpy() for name in COLUMNS} | {"row": np.arange(n)}
    )
    tss = genes["tss"].to_numpy(np.int64)
    starts = pd.DataFrame(
        {
            "chrom": genes["chrom"].to_numpy(),
            "start": tss,
            "end": tss + 1,
            "gene": np.arange(len(genes)),
        }
    )
    row, distance = np.full(n, -1), np.full(n, np.nan)
    shared = queries["chrom"].isin(set(starts["chrom"])).to_numpy()
    if shared.any():
        nearest = bioframe.closest(
            queries[shared], starts[starts["chrom"].isin(set(queries["chrom"]))], suffixes=("", "_")
        )
        query_rows = nearest["row"].to_numpy(np.int64)
        row[query_rows] = nearest["gene_"].to_numpy(np.int64)
    with_gene = np.flatnonzero(row >= 0)
    start, end = (queries[name].to_numpy(np.int64)[with_gene] for name in ("start", "end"))
    at_gene = tss[row[with_gene]]
    # bases from the start to the nearer end, below 0 inside
    gap = np.maximum(start - at_gene, at_gene - (end - 1))
    downstream = (start > at_gene) == (genes["strand"].to_numpy()[row[with_gene]] == "+")
    distance[with_gene] = np.where(gap <= 0, 0, np.where(downstream, gap, -gap))
    return pd.DataFrame({"gene": row, "distance": distance})


def check_chromosomes(peaks: pd.Series, other: Sequence[str], what: str) -> None:
    """Compare the chromosomes of peaks with those of another file (`what`, for the messages).

    Raises
    ------
    InputError
        They share none: both are named.

    Warns
    -----
    ScaleWarning
        Some of the peaks are on chromosomes that the other file lacks.
    """
    known, used = set(other), peaks.value_counts()
    missing = [str(name) for name in used.index if name not in known]
    if len(missing) == len(used):
        raise InputError(
            f"no chromosome of the peaks ({_some(used.index)}) is in {what} "
            f"({_some(pd.unique(pd.Series(list(other))))})",
            "the same names in both",
            f"give {what} of the peaks' genome and naming (chr1 is not 1)",
        )
    if missing:
        warnings.warn(
            f"{used[missing].sum():,} of {len(peaks):,} peaks are on {len(missing)} of {len(used)} "
            "chromosomes "
            f"that {what} lacks: {_some(missing)}",
            ScaleWarning,
            stacklevel=2,
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:3])) + (", …" if len(names) > 3 else "")


class Overlaps:
    """A table of intervals that is indexed once for many overlap queries (by bioframe).

    Parameters
    ----------
    table
        ``chrom``, ``start``, ``end``; row numbers are the answers.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        start, end = (np.ascontiguousarray(table[name], np.int64) for name in ("start", "end"))
        groups = pd.Series(np.arange(len(table))).groupby(table["chrom"].to_numpy()).indices
        self._rows = {
            chrom: (start[rows], end[rows], rows.astype(np.int64)) for chrom, rows in groups.items()
        }

    @property
    def chromosomes(self) -> list[str]:
        """Chromosomes that have an interval, sorted."""
        return sorted(map(str, self._rows))

    def pairs(
        self, chrom: Sequence[str] | np.ndarray, start: np.ndarray, end: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return every overlap of the queried intervals with the table.

        Parameters
        ----------
        chrom, start, end
            The queried intervals, half-open, one value each.

        Returns
        -------
        tuple of ndarray
            Row numbers of the queried intervals and of the table's, int64, one pair an overlap.
        """
        from bioframe.core.arrops import overlap_intervals

        query_rows, overlapping_rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for name, rows in (
            pd.Series(np.arange(len(start))).groupby(np.asarray(chrom)).indices.items()
        ):
            if name in self._rows:
                table_start, table_end, table_rows = self._rows[name]
                query_index, table_index = overlap_intervals(
                    start[rows], end[rows], table_start, table_end
                )
                query_rows.append(rows[query_index])
                overlapping_rows.append(table_rows[table_index])
        return np.concatenate(query_rows), np.concatenate(overlapping_rows)
