"""Heuristic warnings about suspicious input; nothing here stops the work."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit.core.intervals import parse_names
from scale_toolkit.core.rows import entry_chunks

# The first names, or cells, on which the judgement is based.
_LOOKED_AT = 20_000
_GENE_ID = re.compile(
    r"ENS[A-Z]*G\d{11}|(?=.*[A-Z])[A-Z][A-Za-z]{0,9}\d{0,4}[A-Z]?\d{0,2}(-[A-Z0-9]{1,4})?"
)
# Share of the smaller input's peaks below which joined inputs are suspicious.
_FEW_SHARED = 0.1
# Ratio of twos to ones: 0.1 to 0.3 in fragment counts, above 2 if reads or insertions are counted.
_EVEN_EXCESS = 1.5


def doubts(cells: pd.Index, peaks: pd.Index) -> list[str]:
    """Return what is suspicious about one input, as sentences.

    Parameters
    ----------
    cells, peaks
        Names.

    Returns
    -------
    list of str
        Empty, or some of: transposed (intervals name the cells), gene expression (genes name the
        peaks), two ways of naming chromosomes.
    """
    sentences = []
    are_intervals = _share_of_intervals(peaks)
    # nearly all names of a matrix are intervals, or none: the limits lie far from both
    if are_intervals < 0.5 and _share_of_intervals(cells) > 0.9:
        sentences.append(
            f"the cells are named like peaks ({cells[0]}) and the peaks are not ({peaks[0]}): this "
            "looks like peaks × cells; "
            "transpose it (adata.T) unless this is meant"
        )
    elif are_intervals < 0.5 and _share_of_genes(peaks) > 0.5:
        sentences.append(
            f"the peaks are named like genes ({peaks[0]}, {peaks[len(peaks) // 2]}): is this gene "
            "expression? SCALE models "
            "peaks that are open or closed"
        )
    with_chr = _share_with_chr(peaks)
    # a few odd names are scaffolds, not a second source
    if with_chr is not None and 0.02 < with_chr < 0.98:
        sentences.append(
            f"{with_chr:.0%} of the peaks are on chromosomes named chr…, the others "
            "are not: peaks of two sources?"
        )
    return sentences


def without_intervals(peaks: pd.Index) -> str:
    """Return a sentence if no peak name is an interval, else an empty one.

    Preparing needs no intervals, but a file of names that was misread shows in this.
    """
    if _share_of_intervals(peaks) > 0:
        return ""
    return (
        f"no peak name is an interval (first: {peaks[0]!r}): --blacklist, --drop-chromosomes, "
        "genes, motifs "
        "and bigWig files need names such as chr1:100-200"
    )


def in_twos(counts: sparse.csr_matrix) -> str:
    """Return a sentence if counts come in twos, both ends of a fragment (Martens et al., Nature
    Methods 2024), else an empty one.

    Such counts are common and harmless as long as only open and closed is modelled.
    """
    n_ones, twos = (
        sum(int(np.count_nonzero(counts.data[chunk] == n)) for chunk in entry_chunks(counts.nnz))
        for n in (1, 2)
    )
    # fewer than 1,000 twos show no pattern
    if twos <= _EVEN_EXCESS * max(n_ones, 1) or twos < 1000:
        return ""
    return (
        f"{twos:,} counts are 2 and {n_ones:,} are 1: reads or insertions, two for each fragment; "
        "n_counts and --log-transform "
        "count both, open and closed are what they are"
    )


def doubts_about_several(peaks: Mapping[str, pd.Index]) -> list[str]:
    """Return what is suspicious about inputs to be joined: few shared peaks, as from two genome
    builds.
    """
    names = list(peaks)
    for position, second_name in enumerate(names[1:], 1):
        first, second = peaks[names[0]], peaks[names[position]]
        shared = int(second.isin(first).sum())
        if 0 < shared < _FEW_SHARED * min(len(first), len(second)):
            return [
                f"inputs {names[0]!r} and {second_name!r} share {shared:,} peaks of {len(first):,} "
                f"and {len(second):,}: were they "
                "counted over one set of peaks, on one genome build?"
            ]
    return []


def what_was_done(values: Any) -> str:
    """Guess how fractional values were computed from counts, in words.

    Parameters
    ----------
    values
        Cells × peaks, sparse.
    """
    # a normalisation shows in 200 cells as well as in all
    rows = sparse.csr_matrix(values[: min(values.shape[0], 200)]).astype(np.float64)
    if not rows.nnz or rows.data.min() < 0:
        return ""
    back = rows.copy()
    # values above 50 are not logarithms of counts, and exp of larger ones overflows
    back.data = np.expm1(np.minimum(back.data, 50))
    for candidate, name in (
        (back, "log-normalised counts (exp(x) - 1 sums to {:,.0f} in every cell)"),
        (rows, "normalised counts ({:,.4g} a cell)"),
    ):
        sums = np.asarray(candidate.sum(1)).ravel()
        sums = sums[sums > 0]
        # float32 values of normalised cells add up to a constant within a thousandth
        if len(sums) > 1 and np.ptp(sums) < 1e-3 * sums.mean():
            return f"these look like {name.format(sums.mean())}"
    columns = rows.tocsc()
    # a peak's values over one another are the cells' term frequencies, the same for every peak:
    # TF-IDF has rank one
    dense = columns[:, np.argsort(-np.diff(columns.indptr), kind="stable")[:50]].toarray()
    # Signac takes the logarithm of one plus these
    for linear in (dense, np.expm1(np.minimum(dense, 50))):
        logs = np.log(linear, where=linear > 0, out=np.full(dense.shape, np.nan))
        if min(dense.shape) > 2 and _is_additive(logs):
            return "these look like TF-IDF values"
    return ""


def _is_additive(logs: np.ndarray) -> bool:
    """Return whether values are the sum of a cell's and a peak's number; NaN is ignored."""
    cells, peaks = np.zeros(logs.shape[0]), np.zeros(logs.shape[1])
    is_present = ~np.isnan(logs)
    # fewer values than unknowns fit any sum
    if is_present.sum() <= sum(logs.shape):
        return False
    filled = np.where(is_present, logs, 0)
    # alternating means converge to the least-squares fit
    for _ in range(200):
        cells = ((filled - peaks) * is_present).sum(1) / np.maximum(is_present.sum(1), 1)
        peaks = ((filled - cells[:, None]) * is_present).sum(0) / np.maximum(is_present.sum(0), 1)
    residuals = (filled - cells[:, None] - peaks)[is_present]
    # small against the spread of the logarithms; the constant covers rounding
    return bool(np.sqrt((residuals**2).mean()) < 1e-3 + 0.02 * logs[is_present].std())


def _share_of_intervals(names: pd.Index) -> float:
    return float(parse_names(names[:_LOOKED_AT])["chrom"].notna().mean())


def _share_of_genes(names: pd.Index) -> float:
    """Return the share of names like genes; numbered names (peak_1) are not, except Ensembl's."""
    examples = [str(name) for name in names[:_LOOKED_AT]]
    if len({name.rstrip("0123456789") for name in examples}) < 0.05 * len(
        examples
    ) and not examples[0].startswith("ENS"):
        return 0.0
    return float(np.mean([bool(_GENE_ID.fullmatch(name.split(".")[0])) for name in examples]))


def _share_with_chr(names: pd.Index) -> float | None:
    """Share of the main chromosomes' peaks whose chromosome begins with chr; None if names are
    not intervals.
    """
    step = max(1, len(names) // _LOOKED_AT)
    chromosomes = parse_names(names[::step])["chrom"].dropna().astype(str)
    main = chromosomes[chromosomes.str.fullmatch(r"(?:chr)?(?:\d{1,2}|X|Y|M|MT)")]
    return float(main.str.startswith("chr").mean()) if len(main) > 1 else None
