"""Feature types of a multiome, as 10x writes them: peaks are modelled, others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scale_toolkit.errors import InputError

#: The type of features that are modelled.
PEAKS = "Peaks"
#: What 10x writes as the type of a feature (Cell Ranger, Cell Ranger ARC).
FEATURE_TYPES = {
    PEAKS,
    "Gene Expression",
    "Antibody Capture",
    "CRISPR Guide Capture",
    "Multiplexing Capture",
    "Antigen Capture",
    "Custom",
}


def peaks_only(
    kinds: Sequence[str] | NDArray[np.object_], name: str, *, known_words: bool = True
) -> NDArray[np.bool_]:
    """Mark the features that are peaks.

    Parameters
    ----------
    kinds
        The type of each feature.
    name
        The input, for the message.
    known_words
        Whether the words must be 10x's. If they need not and are not, nothing is known, and all
        features count as peaks.

    Returns
    -------
    ndarray of bool

    Raises
    ------
    InputError
        None of the features is a peak.
    """
    words = np.asarray(kinds, dtype=object).astype(str)
    if not known_words and not set(words) & FEATURE_TYPES:
        return np.ones(len(words), bool)
    is_peak = words == PEAKS
    if not is_peak.any():
        type_list = ", ".join(sorted(set(words))[:3])
        raise InputError(
            f"{name} has no peaks (feature types: {type_list})",
            f"features of type {PEAKS}",
            "give the ATAC matrix",
        )
    return is_peak


def dropped(kinds: Sequence[str] | NDArray[np.object_]) -> str:
    """Describe what is left out: ``8 features of type Gene Expression``; empty if all are peaks."""
    counts = Counter(str(kind) for kind in kinds if str(kind) != PEAKS)
    return " and ".join(
        f"{count:,} features of type {kind}" for kind, count in counts.most_common()
    )
