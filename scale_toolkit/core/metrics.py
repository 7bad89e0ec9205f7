"""Agreement of clusters with known labels: ARI, NMI, and F1 after one-to-one matching.

ARI is the adjusted Rand index (Hubert & Arabie 1985), NMI the mutual information over the
arithmetic mean of both entropies. Matching gives each cluster at most one class and each class at
most one cluster, so that most cells agree (the Hungarian method), as SCALE's `cluster_report` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike


def adjusted_rand_index(reference: ArrayLike, clusters: ArrayLike) -> float:
    """Return the adjusted Rand index: 1 for equal partitions, about 0 for unrelated ones."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_codes(reference, clusters)))


def normalized_mutual_info(reference: ArrayLike, clusters: ArrayLike) -> float:
    """Return the mutual information over the arithmetic mean of both entropies, in [0, 1]."""
    from sklearn.metrics import normalized_mutual_info_score

    codes = _codes(reference, clusters)
    return float(normalized_mutual_info_score(*codes, average_method="arithmetic"))


def confusion(
    reference: ArrayLike, clusters: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count cells by class and cluster.

    Returns
    -------
    table
        Cells of class i in cluster j (classes × clusters, int64).
    classes, clusters
        The distinct labels of the rows and of the columns, sorted.
    """
    classes_of_cells, clusters_of_cells = _same_length(reference, clusters)
    classes, rows = np.unique(classes_of_cells, return_inverse=True)
    names, columns = np.unique(clusters_of_cells, return_inverse=True)
    table = np.zeros((len(classes), len(names)), dtype=np.int64)
    np.add.at(table, (rows, columns), 1)
    return table, classes, names


def match_clusters(table: np.ndarray) -> np.ndarray:
    """Match clusters to classes one to one so that the most cells agree (Hungarian method).

    Parameters
    ----------
    table
        Cells by class and cluster (classes × clusters).

    Returns
    -------
    The row matched with each column; -1 for a cluster without a class (more clusters than classes).
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(table, maximize=True)
    matched = np.full(np.shape(table)[1], -1, dtype=np.int64)
    matched[columns] = rows
    return matched


def macro_f1(table: np.ndarray, matched: np.ndarray) -> float:
    """Return the mean over classes of F1 with the matched cluster, 0 for an unmatched class."""
    table, matched = np.asarray(table), np.asarray(matched)
    class_sizes, cluster_sizes = table.sum(axis=1), table.sum(axis=0)
    f1 = np.zeros(len(table))
    for column, row in enumerate(matched):
        if row >= 0:
            f1[row] = 2 * table[row, column] / (class_sizes[row] + cluster_sizes[column])
    return float(f1.mean())


@dataclass(frozen=True)
class Agreement:
    """Agreement of clusters with known labels.

    Attributes
    ----------
    ari, nmi, f1
        Adjusted Rand index; mutual information, normalised by the arithmetic mean; macro F1 after
        matching.
    table
        Cells by class (rows) and cluster (columns): the clusters in the order of their matched
        classes, then the unmatched ones (int64).
    classes, clusters
        Names of the rows and of the columns.
    matched
        The class matched with each column; an empty string if there is none.
    n_unlabelled
        Cells without a label, left out of all figures.
    """

    ari: float
    nmi: float
    f1: float
    table: np.ndarray
    classes: tuple[str, ...]
    clusters: tuple[str, ...]
    matched: tuple[str, ...]
    n_unlabelled: int = 0

    @property
    def n_cells(self) -> int:
        """Number of labelled cells."""
        return int(self.table.sum())

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain numbers and arrays that anndata can write."""
        return {
            "ari": self.ari,
            "nmi": self.nmi,
            "f1": self.f1,
            "n_cells": self.n_cells,
            "n_unlabelled": self.n_unlabelled,
            "confusion": self.table,
            "classes": np.array(self.classes, dtype=object),
            "clusters": np.array(self.clusters, dtype=object),
            "matched": np.array(self.matched, dtype=object),
        }

    @classmethod
    def from_dict(cls, figures: Mapping[str, Any]) -> Agreement:
        """Return the `Agreement` that `as_dict` gave, also after writing and reading an h5ad."""
        return cls(
            ari=float(figures["ari"]),
            nmi=float(figures["nmi"]),
            f1=float(figures["f1"]),
            table=np.asarray(figures["confusion"], dtype=np.int64),
            classes=tuple(map(str, figures["classes"])),
            clusters=tuple(map(str, figures["clusters"])),
            matched=tuple(map(str, figures["matched"])),
            n_unlabelled=int(figures["n_unlabelled"]),
        )

    def __str__(self) -> str:
        """The figures and the confusion table as text."""
        lines = [
            f"ARI {self.ari:.3f}  NMI {self.nmi:.3f}  F1 {self.f1:.3f}  "
            f"({self.n_cells:,} labelled cells)"
        ]
        heads = ["", *self.clusters]
        rows = [[name, *map(str, counts)] for name, counts in zip(self.classes, self.table)]
        widths = [max(map(len, column)) for column in zip(heads, *rows)]
        for first, *values in (heads, *rows):
            aligned = (count.rjust(width) for count, width in zip(values, widths[1:]))
            lines.append("  ".join([first.ljust(widths[0]), *aligned]).rstrip())
        return "\n".join(lines)


def agreement(reference: ArrayLike, clusters: ArrayLike, *, n_unlabelled: int = 0) -> Agreement:
    """Compare clusters with known labels, cell by cell.

    Parameters
    ----------
    reference
        Known label of each cell (no missing values).
    clusters
        Cluster of each cell.
    n_unlabelled
        Number of cells without a label, for the report.

    Raises
    ------
    InputError
        If the two differ in length or are empty.
    """
    table, classes, names = confusion(reference, clusters)
    matched = match_clusters(table)
    order = np.lexsort((np.arange(len(names)), np.where(matched < 0, len(classes), matched)))
    return Agreement(
        ari=adjusted_rand_index(reference, clusters),
        nmi=normalized_mutual_info(reference, clusters),
        f1=macro_f1(table, matched),
        table=table[:, order],
        classes=tuple(map(str, classes)),
        clusters=tuple(str(names[column]) for column in order),
        matched=tuple(str(classes[row]) if row >= 0 else "" for row in matched[order]),
        n_unlabelled=n_unlabelled,
    )


def _same_length(reference: ArrayLike, clusters: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, numbers = np.asarray(reference), np.asarray(clusters)
    if labels.shape != numbers.shape or labels.ndim != 1 or not len(labels):
        raise InputError(
            f"labels of shape {labels.shape} and clusters of shape {numbers.shape}",
            "one of each for every cell",
        )
    return labels, numbers


def _codes(reference: ArrayLike, clusters: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as integers: scikit-learn warns about fractional labels."""
    labels, numbers = _same_length(reference, clusters)
    return (
        np.unique(labels, return_inverse=True)[1],
        np.unique(numbers, return_inverse=True)[1],
    )
