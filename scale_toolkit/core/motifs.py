"""Motif enrichment: is a motif more frequent in some peaks than in peaks of the same GC content and
frequency?

A motif occurs in a peak if, on either strand, the log odds of its matrix against the composition of
the peaks reach the score that a random sequence of that composition reaches at one position with
probability `p` (lightmotif scans). The background of a set of peaks is drawn from the others: each
peak takes its nearest neighbours in GC content and in the logarithm of the share of cells in which
it is open, without repeats. The two are compared by Fisher's exact test, one-sided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import false_discovery_control, hypergeom

from scale_toolkit.extras import library

# share of the composition mixed into a matrix, or a base never seen would have a score of −∞
_PSEUDO = 0.01
# Neighbours that are tried for each peak to choose.
_NEAREST = 20
_OTHER = str.maketrans({chr(c): "N" for c in range(128) if chr(c) not in "ACGT"})


@dataclass(frozen=True)
class Enrichment:
    """One set of peaks against its background; arrays have a value a motif.

    Attributes
    ----------
    odds_ratio
        With half a peak added to each field of the table, so that it is finite.
    p_value, fdr
        Of Fisher's exact test for more than in the background; after Benjamini and Hochberg over
        the motifs.
    share, share_background
        Share of peaks with the motif.
    """

    odds_ratio: np.ndarray
    p_value: np.ndarray
    fdr: np.ndarray
    share: np.ndarray
    share_background: np.ndarray


def gc_content(sequences: Sequence[str]) -> np.ndarray:
    """Return the share of G and C among the known bases of each sequence; NaN without known
    bases.
    """
    counts = _base_counts(sequences)
    with np.errstate(invalid="ignore"):
        return counts[:, 1:3].sum(axis=1) / counts.sum(axis=1)


def _base_counts(sequences: Sequence[str]) -> np.ndarray:
    return np.array(
        [[text.count(base) for base in "ACGT"] for text in map(str.upper, sequences)]
    ).reshape(-1, 4)


def _composition(sequences: Sequence[str]) -> np.ndarray:
    """Return the shares of A, C, G, T over both strands, in steps of 1/4096."""
    counts = _base_counts(sequences).sum(axis=0)
    gc = (counts[1] + counts[2]) / max(counts.sum(), 1)
    # Multiples of 2^-12 add up to 1 without rounding, which lightmotif requires.
    half = np.clip(np.round(gc * 2048), 1, 2047) / 4096
    return np.array([0.5 - half, half, half, 0.5 - half])


def match_background(
    own: np.ndarray,
    candidates: np.ndarray,
    gc: np.ndarray,
    frequency: np.ndarray,
    ratio: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Choose peaks that are like `own` in GC content and frequency.

    Parameters
    ----------
    own, candidates
        Numbers of peaks, without a common one.
    gc, frequency
        Of every peak: GC content, share of cells it is open in (above 0).
    ratio
        Peaks to choose for each of `own`; fewer if its ``20 * ratio`` nearest candidates are taken.
    rng
        The order in which they choose.

    Returns
    -------
    Numbers of the chosen candidates, sorted, without duplicates.
    """
    if len(own) == 0 or len(candidates) == 0:
        return np.empty(0, np.int64)
    coordinates = np.column_stack([gc, np.log(frequency)])
    spread = coordinates[candidates].std(axis=0)
    # one standard deviation of GC content counts as much as one of log frequency
    coordinates = coordinates / np.where(spread > 0, spread, 1)
    k = min(len(candidates), _NEAREST * ratio)
    _, near = cKDTree(coordinates[candidates]).query(coordinates[own], k=k)
    near = near.reshape(len(own), k)
    is_taken = np.zeros(len(candidates), dtype=bool)
    # candidates of each peak that were taken by another one, or by itself in an earlier round
    n_tried = np.zeros(len(own), dtype=np.int64)
    for _ in range(ratio):
        # in random order, one each in a round: no peak gets a second one before all have had a
        # choice
        for i in rng.permutation(len(own)):
            while n_tried[i] < k and is_taken[near[i, n_tried[i]]]:
                n_tried[i] += 1
            if n_tried[i] < k:
                is_taken[near[i, n_tried[i]]] = True
    return np.sort(candidates[is_taken])


def occurrences(
    sequences: Sequence[str],
    motifs: Mapping[str, np.ndarray],
    p: float,
    *,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return which sequences contain which motif, on either strand.

    Parameters
    ----------
    sequences
        Texts of A, C, G, T in either case; any other letter fits nothing and forbids nothing.
    motifs
        Probabilities of A, C, G, T (length × 4) by name.
    p
        Chance of a hit at one position of a random sequence. A motif too short for it is found only
        where it fits perfectly.
    progress
        Called with the number of motifs done.

    Returns
    -------
    bool array, motifs × sequences.
    """
    lightmotif = library("lightmotif")
    clean = [text.upper().translate(_OTHER) for text in sequences]
    lengths = np.array([len(text) for text in clean], dtype=np.int64)
    longest = max(map(len, motifs.values()), default=1)
    # One scan of all sequences at once; gaps of the longest motif keep hits from spanning two.
    gap = "N" * longest
    starts = np.concatenate([[0], np.cumsum(lengths + longest)])[:-1]
    striped = lightmotif.stripe(gap.join(clean) + gap)
    composition = _composition(clean)
    has_motif = np.zeros((len(motifs), len(clean)), dtype=bool)
    for row, matrix in enumerate(motifs.values()):
        mixed = (1 - _PSEUDO) * matrix / matrix.sum(axis=1, keepdims=True) + _PSEUDO * composition
        scores = np.log2(mixed / composition)
        # turned about both axes (A C G T) a matrix is its reverse complement
        for strand in (scores, scores[::-1, ::-1]):
            pssm = lightmotif.ScoringMatrix(
                {base: strand[:, i].tolist() for i, base in enumerate("ACGT")},
                background=dict(zip("ACGT", composition.tolist())),
            )
            # A short motif may not reach the score for p at all: then a perfect match counts.
            threshold = min(pssm.score(p), float(scores.max(axis=1).sum()) - 1e-3)
            hits = np.fromiter(
                (hit.position for hit in lightmotif.scan(pssm, striped, threshold=threshold)),
                np.int64,
            )
            sequence_index = np.searchsorted(starts, hits, side="right") - 1
            inside = hits + len(matrix) <= starts[sequence_index] + lengths[sequence_index]
            has_motif[row, sequence_index[inside]] = True
        if progress is not None:
            progress(row + 1)
    return has_motif


def enrichment(
    in_own: np.ndarray, n_own: int, in_background: np.ndarray, n_background: int
) -> Enrichment:
    """Compare how many of `n_own` peaks contain each motif (`in_own`) with how many of
    `n_background` (`in_background`).
    """
    # sf excludes its argument: P(X >= in_own)
    p_value = hypergeom.sf(in_own - 1, n_own + n_background, in_own + in_background, n_own)
    p_value = np.clip(p_value, 0, 1)
    # half a peak in each field keeps the ratio finite
    odds = (
        (in_own + 0.5)
        / (n_own - in_own + 0.5)
        * (n_background - in_background + 0.5)
        / (in_background + 0.5)
    )
    return Enrichment(
        odds,
        p_value,
        false_discovery_control(p_value),
        in_own / n_own,
        in_background / n_background,
    )
