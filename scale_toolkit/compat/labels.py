"""SCALE's functions for clusters beside known labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scale_toolkit.core import metrics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from scale_toolkit.core.metrics import Agreement


def read_labels(ref: str | PathLike[str], return_enc: bool = False) -> tuple[Any, ...]:
    """Read a table of cell and label (tab-separated, no header).

    Returns
    -------
    Codes 0 to k − 1, class names and, with `return_enc`, scikit-learn's LabelEncoder.
    """
    from sklearn.preprocessing import LabelEncoder

    table = pd.read_csv(ref, sep="\t", index_col=0, header=None)
    encoder = LabelEncoder()
    codes = encoder.fit_transform(table.iloc[:, 0].to_numpy())
    return (codes, encoder.classes_, encoder) if return_enc else (codes, encoder.classes_)


def reassign_cluster_with_ref(Y_pred: Any, Y: Any) -> np.ndarray[Any, Any]:
    """Rename clusters to the classes they match best, one to one (Hungarian method).

    Parameters
    ----------
    Y_pred, Y
        Cluster and class of each cell: codes or names. (1.1.2 imports code that scikit-learn
        removed and takes codes only.)

    Returns
    -------
    The clusters under the names of their classes. If there are more clusters than classes,
    unmatched clusters get the smallest unused codes, or keep their names, with an apostrophe if
    that is the name of a class.
    """
    clusters: Any = np.asarray(Y_pred)
    reference: Any = np.asarray(Y)
    table, classes, names = metrics.confusion(reference, clusters)
    matched = metrics.match_clusters(table)
    new_names: list[Any] = []
    if classes.dtype.kind in "iu" and names.dtype.kind in "iu":
        unused = (code for code in range(len(names) + len(classes)) if code not in set(classes))
        new_names = [classes[row] if row >= 0 else next(unused) for row in matched]
    else:
        used = set(map(str, classes))
        for name, row in zip(map(str, names), matched):
            while row < 0 and name in used:
                name += "'"
            new_names.append(str(classes[row]) if row >= 0 else name)
            used.add(str(new_names[-1]))
    return np.asarray(new_names)[np.searchsorted(names, clusters)]


def cluster_report(ref: Any, pred: Any, classes: Sequence[str] | None = None) -> Agreement:
    """Print the confusion table of clusters matched with classes, ARI, NMI and F1; return the
    figures.

    Parameters
    ----------
    ref, pred
        Class and cluster of each cell.
    classes
        Names of the classes 0, 1, … if `ref` holds codes.
    """
    reference: Any = np.asarray(ref)
    if classes is not None:
        reference = np.asarray([str(name) for name in classes])[reference]
    report = metrics.agreement(reference, pred)
    # a notebook's report, as SCALE's; the stages print nothing
    print(report)
    return report
