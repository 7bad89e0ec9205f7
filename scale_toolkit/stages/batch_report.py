"""How batches differ before training and after, for the receipt and the report."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit.core.batch_effects import group_sums
from scale_toolkit.core.batch_mixing import compare
from scale_toolkit.core.rows import MatrixRows
from scale_toolkit.errors import warn
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    import numpy.typing as npt
    from scipy import sparse

    from scale_toolkit.model.recipes import Trained
    from scale_toolkit.stages.batches import Batches

log = logging.getLogger("scale_toolkit")

#: Fall of the share of neighbours of a cell's own cluster, within its batch, that is warned about.
#: It was below 0.01 in the sets of benchmarks/RESULTS.md that share their types, and 0.38 and 0.47
#: in two batches without a common type.
MOST_LOST = 0.1


def batch_report(
    trained: Trained,
    latent: npt.NDArray[np.float32],
    counts: sparse.csr_matrix,
    batches: Batches,
    seed: int,
) -> dict[str, Any]:
    """Return figures of each batch and of all, and warn if structure within batches was lost.

    Returns
    -------
    ``names``, ``n_cells``, ``median_open`` (open peaks of a cell), ``shared_peaks`` (share of a
    batch's open peaks that are also open in another batch), ``spread`` (standard deviation of its
    log factors; 0: nothing is taken out), ``mixing_before`` and ``_after``, ``purity_before`` and
    ``_after``, one value a batch; ``auroc_before`` and ``_after`` (`core.batch_mixing`).
    """
    level = batches.levels[:, 0]
    codes, n_batches = level[batches.codes], int(level.max()) + 1
    names = [""] * n_batches
    for group, labels in zip(level, batches.names, strict=True):
        names[group] = labels[0]
    n_open = np.diff(counts.indptr)
    sums = group_sums(MatrixRows(counts), codes, n_batches)
    is_shared = (sums > 0).sum(0) > 1
    start = latent if trained.plain_start is None else trained.plain_start
    uncorrected, corrected = compare((start, latent), codes, n_batches, seed)
    report: dict[str, Any] = {
        "names": np.array(names, object),
        "n_cells": np.bincount(codes, minlength=n_batches),
        "median_open": np.array([np.median(n_open[codes == i]) for i in range(n_batches)]),
        "shared_peaks": np.array([is_shared[row > 0].mean() for row in sums]),
        "spread": _spread(trained, level),
        "mixing_before": uncorrected.mixing,
        "mixing_after": corrected.mixing,
        "purity_before": uncorrected.purity,
        "purity_after": corrected.purity,
        "auroc_before": uncorrected.auroc,
        "auroc_after": corrected.auroc,
    }
    if trained.effects is None:
        log.info("the batches' peaks differ by no more than chance: nothing is taken out")
    lost = uncorrected.purity - corrected.purity
    # NaN: a batch without distinct clusters
    blurred = [
        f"{names[i]} {uncorrected.purity[i]:.2f}, now {corrected.purity[i]:.2f}"
        for i in np.flatnonzero(lost > MOST_LOST)
    ]
    if blurred:
        warn(
            "taking out the batches has blurred clusters within them (share of neighbours of the "
            f"cell's own cluster: {first_names(blurred, 3)}): batches may hold different cell "
            "types; compare with a training without `batch_key`"
        )
    return report


def batch_facts(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report as plain values for a receipt; null: not known."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return [plain(item) for item in value.tolist()]
        if isinstance(value, float):
            return round(value, 4) if np.isfinite(value) else None
        return value

    return {name: plain(value) for name, value in report.items()}


def _spread(trained: Trained, level: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    spread = np.zeros(int(level.max()) + 1)
    if trained.effects is not None:
        groups = np.log(trained.effects.factors.astype(np.float64)).std(1)
        np.maximum.at(spread, level, groups)
    return spread
