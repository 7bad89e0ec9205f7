"""The marker peaks of a file, if they belong to the clusters that are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.receipt_reader import entries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


def marker_table(adata: AnnData, labels: pd.Series, column: str) -> pd.DataFrame | None:
    """Return the table of `scale markers` if it was made for these clusters, else None.

    Two groupings can use the same names ("0", "1", …), so names alone do not decide. The receipt of
    `markers` says which column was compared and how many cells each cluster had; both have to fit.
    Without a receipt the table is taken as that of ``scale_cluster``.

    Parameters
    ----------
    adata
        With or without ``uns['scale_markers']``.
    labels
        The clusters that are drawn: a categorical of text, one value per cell.
    column
        Their column of obs.
    """
    table = adata.uns.get(keys.MARKERS.name)
    if not isinstance(table, pd.DataFrame) or not {"cluster", "peak"} <= set(table):
        return None
    receipt = _last_receipt(adata)
    if column != compared_column(adata) or not set(table["cluster"].astype(str)) <= set(
        labels.cat.categories
    ):
        return None
    noted = receipt.get("notes", {}).get("clusters")
    if not isinstance(noted, dict):
        return table
    if keys.N_PEAKS.found_in(adata):
        # `markers` leaves out cells without open peaks
        labels = labels[np.asarray(keys.N_PEAKS.get(adata)) > 0]
    sizes = labels.value_counts()
    compared = {name: cluster.get("cells") for name, cluster in noted.items()}
    return table if compared == sizes[sizes > 0].to_dict() else None


def compared_column(adata: AnnData) -> str:
    """Return the column of obs whose clusters `scale markers` compared last."""
    return str(_last_receipt(adata).get("options", {}).get("cluster_by", keys.CLUSTER.name))


def peak_titles(adata: AnnData, positions: np.ndarray) -> list[str]:
    """Return the names of peaks, each after its nearest gene if `markers` was given genes."""
    names = [str(name) for name in adata.var_names[positions]]
    if not keys.NEAREST_GENE.found_in(adata):
        return names
    genes = keys.NEAREST_GENE.get(adata).iloc[positions]
    known = genes.notna() & (genes.astype(str) != "")
    return [
        f"{gene} {name}" if is_known else name
        for gene, name, is_known in zip(genes, names, known, strict=True)
    ]


def _last_receipt(adata: AnnData) -> dict[str, Any]:
    """Return the last receipt of `markers` that compared clusters, not conditions, or {}."""
    for receipt in reversed(entries(adata)):
        if receipt.get("stage") == "markers" and not receipt.get("options", {}).get("contrast"):
            return receipt
    return {}


def best_peaks(
    table: pd.DataFrame, names: Sequence[str], peaks: pd.Index, n: int
) -> list[np.ndarray]:
    """Return the positions of the first `n` marker peaks of each cluster, one array per name.

    A peak that is a marker of two clusters is in both arrays; one that is not in `peaks` is
    skipped.
    """
    position = peaks.get_indexer(table["peak"].astype(str))
    cluster = table["cluster"].astype(str).to_numpy()
    return [position[(cluster == name) & (position >= 0)][:n] for name in names]
