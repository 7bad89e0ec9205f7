"""Motif enrichment: do the sequences of some peaks hold a motif more often than those of peaks that
are alike otherwise?

A motif occurs in a peak where the log odds of its matrix against the composition of the peaks reach
the score that random sequence of that composition reaches in one place with probability `p`, on
either strand (lightmotif scans). The background of a set of peaks is drawn from the others: each
takes its nearest neighbours in GC content and in the logarithm of the share of cells it is open in,
without repeats. Then Fisher's exact test, one-sided.
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
_NEAREST = 20  # neighbours looked at for each one wanted
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
    """Share of G and C among the known bases of each sequence; NaN where there is none."""
    counts = _base_counts(sequences)
    with np.errstate(invalid="ignore"):
        return counts[:, 1:3].sum(axis=1) / counts.sum(axis=1)


def _base_counts(sequences: Sequence[str]) -> np.ndarray:
    return np.array(
        [[text.count(base) for base in "ACGT"] for text in map(str.upper, sequences)]
    ).reshape(-1, 4)


def _composition(sequences: Sequence[str]) -> np.ndarray:
    """Shares of A, C, G, T over both strands, in steps of 1/4096: lightmotif wants them to add
    up to 1 to the last bit.
    """
    counts = _base_counts(sequences).sum(axis=0)
    gc = (counts[1] + counts[2]) / max(counts.sum(), 1)
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
        Peaks wanted for each of `own`; fewer where its `20 ratio` nearest candidates are taken.
    rng
        The order in which they choose.

    Returns
    -------
    Numbers of the chosen candidates, sorted, none twice.
    """
    if len(own) == 0 or len(candidates) == 0:
        return np.empty(0, np.int64)
    place = np.column_stack([gc, np.log(frequency)])
    spread = place[candidates].std(axis=0)
    place = place / np.where(spread > 0, spread, 1)
    k = min(len(candidates), _NEAREST * ratio)
    _, near = cKDTree(place[candidates]).query(place[own], k=k)
    near = near.reshape(len(own), k)
    taken = np.zeros(len(candidates), dtype=bool)
    at = np.zeros(len(own), dtype=np.int64)  # how far each has looked
    for _ in range(ratio):
        for i in rng.permutation(len(own)):
            while at[i] < k and taken[near[i, at[i]]]:
                at[i] += 1
            if at[i] < k:
                taken[near[i, at[i]]] = True
    return np.sort(candidates[taken])


def occurrences(
    sequences: Sequence[str],
    motifs: Mapping[str, np.ndarray],
    p: float,
    *,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Which sequences hold which motif, on either strand.

    Parameters
    ----------
    sequences
        Texts of A, C, G, T in either case; any other letter fits nothing and forbids nothing.
    motifs
        Probabilities of A, C, G, T (length × 4) by name.
    p
        Chance of a hit in one place of random sequence. A motif too short for it is found where it
        fits perfectly.
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
    gap = "N" * longest
    starts = np.concatenate([[0], np.cumsum(lengths + longest)])[:-1]
    striped = lightmotif.stripe(gap.join(clean) + gap)
    composition = _composition(clean)
    found = np.zeros((len(motifs), len(clean)), dtype=bool)
    for row, matrix in enumerate(motifs.values()):
        mixed = (1 - _PSEUDO) * matrix / matrix.sum(axis=1, keepdims=True) + _PSEUDO * composition
        scores = np.log2(mixed / composition)
        for strand in (scores, scores[::-1, ::-1]):
            pssm = lightmotif.ScoringMatrix(
                {base: strand[:, i].tolist() for i, base in enumerate("ACGT")},
                background=dict(zip("ACGT", composition.tolist())),
            )
            threshold = min(pssm.score(p), float(scores.max(axis=1).sum()) - 1e-3)
            hits = np.fromiter(
                (hit.position for hit in lightmotif.scan(pssm, striped, threshold=threshold)),
                np.int64,
            )
            at = np.searchsorted(starts, hits, side="right") - 1
            inside = hits + len(matrix) <= starts[at] + lengths[at]
            found[row, at[inside]] = True
        if progress is not None:
            progress(row + 1)
    return found


def enrichment(
    in_own: np.ndarray, n_own: int, in_background: np.ndarray, n_background: int
) -> Enrichment:
    """Compare how many of `n_own` peaks hold each motif (`in_own`) with how many of
    `n_background` (`in_background`).
    """
    p_value = hypergeom.sf(in_own - 1, n_own + n_background, in_own + in_background, n_own)
    p_value = np.clip(p_value, 0, 1)
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
