"""SCALE's filters, order and correlation of a peaks × cells DataFrame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def peak_filter(data: pd.DataFrame, x: int = 10, n_reads: int = 2) -> pd.DataFrame:
    """Keep peaks (rows) with at least `n_reads` reads in at least `x` cells. For binary data
    give ``n_reads=1``.
    """
    return data.loc[(data >= n_reads).sum(axis=1) >= x]


def cell_filter(data: pd.DataFrame) -> pd.DataFrame:
    """Keep cells (columns) with more reads than a fiftieth of the number of peaks."""
    return data.loc[:, data.sum(axis=0) > data.shape[0] / 50]


def sample_filter(data: pd.DataFrame, x: int = 10, n_reads: int = 2) -> pd.DataFrame:
    """Apply `peak_filter`, then `cell_filter`."""
    return cell_filter(peak_filter(data, x, n_reads))


def gene_filter_(data: pd.DataFrame, X: float = 6) -> pd.DataFrame:
    """Drop rare and ubiquitous rows, as SC3 does.

    Rows above 1 in at most `X` % of the cells are rare; rows above 0 in at least 100 − `X` % of
    them are ubiquitous.
    """
    rare = (data > 1).sum(axis=1) <= 0.01 * X * data.shape[1]
    ubiquitous = (data > 0).sum(axis=1) >= 0.01 * (100 - X) * data.shape[1]
    return data.loc[~(rare | ubiquitous)]


def sort_by_mad(data: pd.DataFrame, axis: int = 0) -> pd.DataFrame:
    """Sort columns (axis 0) or rows (axis 1) by their mean absolute deviation from their mean,
    the largest first.
    """
    centred = data.T.sub(data.mean(axis="columns")).T if axis else data.sub(data.mean(axis="index"))
    deviation = centred.abs().mean(axis="columns" if axis else "index")
    order = deviation.sort_values(ascending=False, kind="stable").index
    return data.loc[order] if axis else data.loc[:, order]


def pairwise_pearson(A: pd.DataFrame, B: Any) -> list[float]:
    """Return Pearson's r of each row of `A` with the same row of `B`, or with `B` itself if it
    is one vector.
    """
    a, b = np.asarray(A, dtype=float), np.asarray(B, dtype=float)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    # a constant row has no correlation: NaN, as in scipy
    with np.errstate(invalid="ignore"):
        r = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=-1))
    return [float(value) for value in np.clip(r, -1, 1)]
