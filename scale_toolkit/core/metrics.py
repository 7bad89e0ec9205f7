"""How well clusters agree with known labels: ARI, NMI, and F1 after matching clusters to classes one to one.

ARI is the adjusted Rand index (Hubert & Arabie 1985), NMI the mutual information over the arithmetic mean of both entropies.
Matching gives each cluster at most one class and each class at most one cluster, so that the most cells agree
(the Hungarian method), as SCALE's `cluster_report` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def adjusted_rand_index(reference: Sequence, clusters: Sequence) -> float:
    """Adjusted Rand index of two labellings: 1 for equal partitions, about 0 for unrelated ones, at least -0.5."""
    from sklearn.metrics import adjusted_rand_score

    reference, clusters = _codes(reference, clusters)
    return float(adjusted_rand_score(reference, clusters))


def normalized_mutual_info(reference: Sequence, clusters: Sequence) -> float:
    """Mutual information of two labellings over the arithmetic mean of their entropies, 0 to 1."""
    from sklearn.metrics import normalized_mutual_info_score

    reference, clusters = _codes(reference, clusters)
    return float(normalized_mutual_info_score(reference, clusters, average_method="arithmetic"))


def confusion(reference: Sequence, clusters: Sequence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count cells by class and cluster.

    Returns
    -------
    table
        Cells of class i in cluster j (classes × clusters, int64).
    classes, clusters
        The distinct labels of the rows and of the columns, sorted.
    """
    reference, clusters = _same_length(reference, clusters)
    classes, rows = np.unique(reference, return_inverse=True)
    names, columns = np.unique(clusters, return_inverse=True)
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
    The row matched with each column; -1 for a cluster left without a class, where there are more clusters than classes.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(table, maximize=True)
    matched = np.full(np.shape(table)[1], -1, dtype=np.int64)
    matched[columns] = rows
    return matched


def macro_f1(table: np.ndarray, matched: np.ndarray) -> float:
    """F1 of each class against its matched cluster, averaged over the classes; a class without a cluster counts 0."""
    table, matched = np.asarray(table), np.asarray(matched)
    of_class, in_cluster = table.sum(axis=1), table.sum(axis=0)
    f1 = np.zeros(len(table))
    for column, row in enumerate(matched):
        if row >= 0:
            f1[row] = 2 * table[row, column] / (of_class[row] + in_cluster[column])
    return float(f1.mean())


@dataclass(frozen=True)
class Agreement:
    """Agreement of clusters with known labels.

    Attributes
    ----------
    ari, nmi, f1
        Adjusted Rand index; mutual information, normalised by the arithmetic mean; macro F1 after matching.
    table
        Cells by class (rows) and cluster (columns), the clusters in the order of the classes they are matched with,
        then those left over (int64).
    classes, clusters
        Names of the rows and of the columns.
    matched
        The class each column is matched with; an empty text where there is none.
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
        """Labelled cells the figures are made of."""
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
        """What `as_dict` gave, also after a round through an h5ad file."""
        return cls(
            **{name: float(figures[name]) for name in ("ari", "nmi", "f1")},
            table=np.asarray(figures["confusion"], dtype=np.int64),
            **{name: tuple(map(str, figures[name])) for name in ("classes", "clusters", "matched")},
            n_unlabelled=int(figures["n_unlabelled"]),
        )

    def __str__(self) -> str:
        """The figures and the confusion table as text."""
        lines = [f"ARI {self.ari:.3f}  NMI {self.nmi:.3f}  F1 {self.f1:.3f}  ({self.n_cells:,} labelled cells)"]
        heads = ["", *self.clusters]
        rows = [[name, *map(str, counts)] for name, counts in zip(self.classes, self.table)]
        widths = [max(map(len, column)) for column in zip(heads, *rows)]
        for first, *rest in (heads, *rows):
            lines.append("  ".join([first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(rest, widths[1:]))]).rstrip())
        return "\n".join(lines)


def agreement(reference: Sequence, clusters: Sequence, *, n_unlabelled: int = 0) -> Agreement:
    """Compare clusters with known labels, cell by cell.

    Parameters
    ----------
    reference
        Known label of each cell (no missing values).
    clusters
        Cluster of each cell.
    n_unlabelled
        Cells already left out, for the report.

    Raises
    ------
    InputError
        Where the two differ in length or are empty.
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


def _same_length(reference: Sequence, clusters: Sequence) -> tuple[np.ndarray, np.ndarray]:
    reference, clusters = np.asarray(reference), np.asarray(clusters)
    if reference.shape != clusters.shape or reference.ndim != 1 or not len(reference):
        raise InputError(f"labels of shape {reference.shape} and clusters of shape {clusters.shape}", "one of each a cell")
    return reference, clusters


def _codes(reference: Sequence, clusters: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers for the labels: scikit-learn takes fractional labels for a mistake."""
    return tuple(np.unique(labels, return_inverse=True)[1] for labels in _same_length(reference, clusters))
