"""Cells with planted clusters, made block by block at a cost that follows the open peaks.

Peak j of a cell of cluster c is hit by a Poisson number of cuts of rate D·q_cj, and open where it
is hit:

    q_cj ∝ exp(a_j + δ e_j [j belongs to a program of c]),   a_j ~ N(0, 1),   P(open) = 1 − exp(−D
    q_cj)

Log-normal peak rates of standard deviation 1 have the heavy tail of real sets (coefficient of
variation of open rates 0.6 to 2.0 in Leukemia, Forebrain, Granja's bone marrow and 10x data); the
depth D of a cell is chosen so that the expected number of its open peaks is log-normal (standard
deviation 0.35; 0.3 to 1.0 there) around the requested median. Every cluster has a program of its
own peaks, and clusters come in pairs that share a second program, so that siblings are harder to
separate than other clusters. The effect δ is solved from the sizes (`_effect`), so that the task is
as hard for 1,000 cells as for 10,000: see there.

All cuts of the cells of one cluster in a block are one Poisson process on a line, the cells' depths
laid end to end: sorted exponential spacings give each cell's cuts in the order of its peaks, and
nothing is ever sorted or made dense.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Standard deviation of the log of: peak rates, expected open peaks a cell, a batch's peak rates, a
#: batch's depth.
PEAK_SPREAD, DEPTH_SPREAD, BATCH_PEAK_SPREAD, BATCH_DEPTH_SPREAD = 1.0, 0.35, 0.3, 0.2
#: Shares of all peaks in a cluster's own program and in a pair's, at most; and in all programs of a
#: kind together.
PROGRAM_SHARE, ALL_PROGRAMS_SHARE = 0.04, 0.3
#: Separation of sibling clusters, in standard deviations, that is left after a spectral embedding:
#: this, and this times sqrt(open peaks · share of open peaks³). Both measured (see `_effect`).
SEPARATION, SEPARATION_BY_SATURATION = 4.3, 3.05
#: Least variance between siblings that a spectral embedding shows, in units of its noise (below,
#: k-means splits the noise): the first, or the second times the number of clusters less 0.4,
#: whichever is more. Measured as well.
CONTRAST, CONTRAST_A_CLUSTER = 1.35, 0.48
#: Largest log fold change of a program's peaks.
LARGEST_EFFECT = 4.0

# A block ends at whichever bound comes first
_OPEN_PEAKS_A_BLOCK = 4_000_000
_CELLS_A_BLOCK = 2048

# Streams of random numbers, so that a change of one part leaves the others as they were.
_PEAKS, _CELLS, _BATCHES, _BLOCKS, _INTERVALS = range(5)


class PlantedCells:
    """Simulated cells and peaks with known labels, and their counts as CSR blocks of rows (a
    `lazy.RowBlocks`).

    Parameters
    ----------
    n_cells, n_peaks, n_clusters, n_batches
        Sizes.
    open_peaks
        Median number of open peaks a cell.
    doublets, continuum
        Shares of cells that are the union of two cells of different clusters, or lie on a path
        between two clusters.
    seed
        Of everything: equal arguments give equal bytes.

    Attributes
    ----------
    cluster, other
        Cluster of each cell, and the other cluster of a doublet or of a path; -1: none.
    batch
        Batch of each cell.
    is_doublet
        Whether a cell is a doublet.
    position
        Where on the path from `cluster` to `other` a cell lies, in [0, 1]; NaN off any path.
    depth
        Expected number of open peaks of each cell; of a doublet, of each of its two cells.
    program
        Program of each peak: a cluster's own, or n_clusters + the number of a pair; -1: none.
    """

    dtype = np.dtype(np.float32)
    format: Literal["dense", "csr"] = "csr"

    def __init__(
        self,
        *,
        n_cells: int,
        n_peaks: int,
        n_clusters: int,
        open_peaks: float,
        n_batches: int = 1,
        doublets: float = 0.0,
        continuum: float = 0.0,
        seed: int = 18,
    ) -> None:
        self.shape = (n_cells, n_peaks)
        self.n_clusters, self.open_peaks, self.seed = n_clusters, open_peaks, seed
        self._plant_peaks()
        self._plant_batches(n_batches)
        self._plant_cells(doublets, continuum)
        self.effect = _effect(n_cells, n_peaks, n_clusters, open_peaks)
        self._depth_tables: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def _plant_peaks(self) -> None:
        rng = self._rng(_PEAKS)
        n_peaks, n_pairs = self.shape[1], (self.n_clusters + 1) // 2
        self.base = rng.normal(0, PEAK_SPREAD, n_peaks)
        # peaks of a program rise by different amounts, 1 in the mean
        self.lift = rng.uniform(0.5, 1.5, n_peaks)
        n_own, n_shared = _program_sizes(n_peaks, self.n_clusters)
        sizes = [n_own] * self.n_clusters + [n_shared] * n_pairs
        programs = np.repeat(np.arange(len(sizes)), sizes)[:n_peaks]
        self.program = np.full(n_peaks, -1)
        self.program[rng.permutation(n_peaks)[: len(programs)]] = programs

    def _plant_batches(self, n_batches: int) -> None:
        rng = self._rng(_BATCHES)
        self.n_batches = n_batches
        shift = rng.normal(0, BATCH_DEPTH_SPREAD, n_batches)
        # centred: a batch is deep or shallow relative to the others
        self.batch_depth = np.exp(shift - shift.mean())

    def _plant_cells(self, doublets: float, continuum: float) -> None:
        rng, n_cells, k = self._rng(_CELLS), self.shape[0], self.n_clusters
        # concentration 20: cluster sizes vary by about a fifth (standard deviation over mean)
        share = rng.dirichlet(np.full(k, 20.0))
        # every cluster gets at least one cell
        self.cluster = np.concatenate([np.arange(k), rng.choice(k, n_cells - k, p=share)])[
            rng.permutation(n_cells)
        ]
        self.batch = rng.integers(0, self.n_batches, n_cells)
        self.depth = (
            self.open_peaks
            * np.exp(rng.normal(0, DEPTH_SPREAD, n_cells))
            * self.batch_depth[self.batch]
        )
        # near all peaks open, the expected number of cuts diverges
        np.minimum(self.depth, 0.9 * self.shape[1], out=self.depth)
        order = rng.permutation(n_cells)
        n_doublets, n_continuum = round(doublets * n_cells), round(continuum * n_cells)
        on_path = order[n_doublets : n_doublets + n_continuum]
        self.is_doublet = np.zeros(n_cells, bool)
        self.is_doublet[order[:n_doublets]] = True
        mixed = order[: n_doublets + n_continuum]
        self.other = np.full(n_cells, -1)
        # 1 to k − 1 steps on: never the same cluster
        self.other[mixed] = (self.cluster[mixed] + rng.integers(1, max(k, 2), len(mixed))) % k
        self.position = np.full(n_cells, np.nan)
        self.position[on_path] = rng.random(len(on_path))

    def blocks(self) -> Iterator[sparse.csr_matrix]:
        """Yield the counts of consecutive cells; each block has random numbers of its own, and
        can be made again.
        """
        height = max(1, min(_CELLS_A_BLOCK, int(_OPEN_PEAKS_A_BLOCK / self.open_peaks)))
        for number, start in enumerate(range(0, self.shape[0], height)):
            yield self._block(
                self._rng(_BLOCKS, number), np.arange(start, min(start + height, self.shape[0]))
            )

    def _block(self, rng: np.random.Generator, cells: np.ndarray) -> sparse.csr_matrix:
        opened: list[np.ndarray] = [np.empty(0, np.int32)] * len(cells)
        on_path = np.isfinite(self.position[cells])
        for rows, clusters in [
            (np.flatnonzero(~on_path), self.cluster[cells]),
            # the doublets' other halves
            (np.flatnonzero(self.is_doublet[cells]), self.other[cells]),
        ]:
            groups = clusters[rows] * self.n_batches + self.batch[cells[rows]]
            for group in np.unique(groups):
                members = rows[groups == group]
                rate = self.rates(*divmod(int(group), self.n_batches))
                cuts = np.exp(
                    self._log_cuts(*divmod(int(group), self.n_batches), self.depth[cells[members]])
                )
                for row, peaks in zip(members, _open_peaks(rng, rate, cuts)):
                    # a doublet has the open peaks of both its cells
                    opened[row] = np.union1d(opened[row], peaks) if len(opened[row]) else peaks
        for row in np.flatnonzero(on_path):
            (opened[row],) = _open_peaks(rng, *self._on_path(cells[row]))
        starts = np.cumsum([0, *map(len, opened)])
        # the table has 2¹⁶ entries: 16 random bits choose one
        counts = _COUNTS[rng.integers(0, len(_COUNTS), starts[-1], np.uint16)]
        return sparse.csr_matrix(
            (counts, np.concatenate(opened), starts), shape=(len(cells), self.shape[1])
        )

    def _on_path(self, cell: int) -> tuple[np.ndarray, np.ndarray]:
        """Peak rates and expected cuts of a cell between two clusters: the rates are
        interpolated in logs.
        """
        position, batch, depth = self.position[cell], int(self.batch[cell]), self.depth[[cell]]
        ends = [int(self.cluster[cell]), int(self.other[cell])]
        start, end = (np.log(self.rates(cluster, batch)) for cluster in ends)
        rate = _normalised(start + position * (end - start))
        first, last = (self._log_cuts(cluster, batch, depth) for cluster in ends)
        cuts = np.exp(first + position * (last - first))
        for _ in range(2):  # Newton steps in log(cuts) from the interpolated guess
            shut = np.exp(-cuts * rate)
            cuts *= np.exp(
                np.clip((depth - (1 - shut).sum()) / (cuts * (rate * shut).sum()), -1, 1)
            )
        return rate, cuts

    def _log_cuts(self, cluster: int, batch: int, wanted: np.ndarray) -> np.ndarray:
        """Log of the expected number of cuts at which `wanted` peaks are expected to be open."""
        if (cluster, batch) not in self._depth_tables:
            self._depth_tables[cluster, batch] = _depth_table(
                self.rates(cluster, batch), self.depth.min(), self.depth.max()
            )
        return np.interp(np.log(wanted), *self._depth_tables[cluster, batch])

    def rates(self, cluster: int, batch: int = 0) -> np.ndarray:
        """Share of each peak in the cuts of a cell of a cluster and batch."""
        # a cluster's own program, and the one it shares with its sibling
        raised = (self.program == cluster) | (self.program == self.n_clusters + cluster // 2)
        log_rate = self.base + self.effect * self.lift * raised
        if self.n_batches > 1:
            log_rate += self._rng(_BATCHES, batch + 1).normal(0, BATCH_PEAK_SPREAD, len(log_rate))
        return _normalised(log_rate)

    def intervals(self) -> list[str]:
        """Peak names ``chr:start-end``: 500 bp each, sorted, without overlap, over chr1 to chr22
        and X of GRCh38.
        """
        return _intervals(self._rng(_INTERVALS), self.shape[1])

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])


def _open_peaks(rng: np.random.Generator, rate: np.ndarray, cuts: np.ndarray) -> list[np.ndarray]:
    """Sorted open peaks of each of some cells with the same peak rates and `cuts` expected cuts
    each.
    """
    ends = np.cumsum(cuts)
    # Sorted uniform points on the line of all cells' depths: the partial sums of exponential
    # spacings.
    points = np.cumsum(rng.standard_exponential(rng.poisson(ends[-1]) + 1))
    points = points[:-1] * (ends[-1] / points[-1])
    splits = np.searchsorted(points, ends[:-1])
    cell = np.repeat(np.arange(len(cuts)), np.diff([0, *splits, len(points)]))
    # where a point lies within the depth of its cell, 0 to 1
    fraction = (points - (ends - cuts)[cell]) / cuts[cell]
    peak = np.searchsorted(np.cumsum(rate), fraction, side="right").astype(np.int32)
    np.minimum(peak, len(rate) - 1, out=peak)  # the rates add up to 1 only up to rounding
    first = np.empty(len(peak), bool)
    first[:1] = True
    np.not_equal(peak[1:], peak[:-1], out=first[1:])
    # each cell's first point opens its peak, also if the cell before ended with the same one
    first[splits[splits < len(first)]] = True
    return np.split(peak[first], np.cumsum(np.bincount(cell[first], minlength=len(cuts)))[:-1])


def _depth_table(rate: np.ndarray, fewest: float, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Logs of Σ_j 1 − exp(−D rate_j), the expected number of open peaks, and of D, so that it
    spans `fewest` to `most`.
    """
    # Peaks of nearly equal rate are taken together: a few hundred groups in place of many thousand
    # peaks.
    order = np.sort(rate)
    edges = np.unique(np.linspace(0, len(order), min(len(order), 512) + 1).astype(int))
    sizes = np.diff(edges)
    means = np.add.reduceat(order, edges[:-1]) / sizes
    # from half the cuts that are needed to where nearly every peak is open
    cuts = np.geomspace(fewest / 2, most * 1e4, 400)
    return np.log((sizes * -np.expm1(-cuts[:, None] * means)).sum(axis=1)), np.log(cuts)


def _normalised(log_rate: np.ndarray) -> np.ndarray:
    rate = np.exp(log_rate - log_rate.max())
    return rate / rate.sum()


def _program_sizes(n_peaks: int, n_clusters: int) -> tuple[int, int]:
    """Peaks in a cluster's own program, and in one that a pair shares."""
    n_pairs = (n_clusters + 1) // 2
    n_own, n_shared = (
        max(1, int(n_peaks * min(PROGRAM_SHARE, ALL_PROGRAMS_SHARE / n)))
        for n in (n_clusters, n_pairs)
    )
    return n_own, n_shared


def _effect(n_cells: int, n_peaks: int, n_clusters: int, open_peaks: float) -> float:
    """Log fold change δ of the programs at which sibling clusters lie `SEPARATION` apart in a
    spectral embedding.

    Seen from the peaks, two siblings lie d apart, in standard deviations of a cell of median depth
    along the line between them. A truncated SVD of n cells finds that line only in part: for a
    direction of variance v, in units of the noise, among c = (effective peaks)/n noise directions a
    cell, the squared cosine between the true and the found coordinates of the cells is (v² − c)/(v²
    + v), and 0 where v² < c (Benaych-Georges & Nadakuditi 2012, J Multivar Anal 111:120). δ is
    where d² times that cosine is the square of `SEPARATION` + `SEPARATION_BY_SATURATION` · sqrt(m
    share³), m the median open peaks and share their share of all peaks: a small shallow set has
    stronger programs than a large deep one, and both are about equally hard. The second term is
    there because depth saturates where many peaks are open, and then takes a dimension of its own,
    which k-means splits first. δ is at least so large that the embedding shows the line between
    siblings above its noise (`CONTRAST`), which counts for few cells and for many clusters. The
    constants were fitted once, so that TF-IDF and SVD with k-means score an ARI of 0.85 to 0.95 at
    the default size and at 10,000 cells × 50,000 peaks (``benchmarks/simulator_difficulty.py``,
    figures in ``benchmarks/RESULTS.md``).
    """
    if n_clusters == 1:
        return 1.0
    saturation = (open_peaks * (open_peaks / n_peaks) ** 3) ** 0.5
    target_separation = SEPARATION + SEPARATION_BY_SATURATION * saturation
    least_contrast = max(CONTRAST, CONTRAST_A_CLUSTER * n_clusters - 0.4)
    low, high = 0.0, LARGEST_EFFECT
    # 20 halvings of the interval give the effect to 4e-6
    for _ in range(20):
        middle = (low + high) / 2
        separation, contrast = _separation(n_cells, n_peaks, n_clusters, open_peaks, middle)
        low, high = (
            (middle, high)
            if separation < target_separation or contrast < least_contrast
            else (low, middle)
        )
    return (low + high) / 2


def _separation(
    n_cells: int, n_peaks: int, n_clusters: int, open_peaks: float, effect: float
) -> tuple[float, float]:
    """Return how well a spectral embedding separates two siblings, as a mean over planted sets.

    Returns
    -------
    Their distance in standard deviations, and the variance between them in units of the embedding's
    noise.
    """
    n_own, n_shared = _program_sizes(n_peaks, n_clusters)
    # Quantiles of the peaks' log rates × midpoints of their lifts, each point the same number of
    # peaks.
    base = np.array([NormalDist(0, PEAK_SPREAD).inv_cdf((i + 0.5) / 100) for i in range(100)])[
        :, None
    ]
    # midpoints of five sections of the lifts' range, 0.5 to 1.5
    plain = np.exp(base + np.zeros(5)).ravel()
    raised = np.exp(base + effect * np.linspace(0.6, 1.4, 5)).ravel()
    rate = np.concatenate([plain, raised])
    peaks = np.repeat([n_peaks - n_own - n_shared, n_own + n_shared], len(plain)) / len(plain)
    rate /= (peaks * rate).sum()
    cuts = np.geomspace(open_peaks / 2, open_peaks * 1e4, 100)
    opened = (peaks * -np.expm1(-cuts[:, None] * rate)).sum(axis=1)
    # the probability that a peak is open in a cell of median depth
    p = -np.expm1(-np.exp(np.interp(np.log(open_peaks), np.log(opened), np.log(cuts))) * rate)
    p_plain, p_raised = np.split(p, 2)
    variance_plain, variance_raised = np.split(p * (1 - p), 2)
    # The two differ in both their own programs: raised in one of them, plain in the other.
    apart = 2 * n_own * ((p_raised - p_plain) ** 2)
    if not apart.any():
        return 0.0, 0.0
    noise_between = (variance_plain + variance_raised) / 2
    all_noise = np.concatenate([variance_plain, variance_raised, noise_between])
    all_peaks = np.repeat([n_peaks - 2 * n_own - n_shared, n_shared, 2 * n_own], len(plain)) / len(
        plain
    )
    # variance along the line between the two
    noise_along = (apart * noise_between).sum() / apart.sum()
    noise_sum = (all_peaks * all_noise).sum()
    # and along a direction that an SVD would find in noise
    noise_typical = (all_peaks * all_noise**2).sum() / noise_sum
    gap = apart.sum() / len(plain)
    distance = gap / noise_along
    variance = gap / (2 * n_clusters) / noise_typical  # of two siblings, (d/2)², among all cells
    directions = noise_sum / noise_typical / n_cells
    visible = max(0.0, variance**2 - directions)
    separation = (distance * visible / (variance**2 + variance)) ** 0.5
    contrast = (
        n_clusters
        / 2
        * visible
        * (variance + directions)
        / variance**2
        / (1 + directions**0.5) ** 2
    )
    return separation, contrast


def _count_table() -> np.ndarray:
    """65,536 equally likely counts of an open peak.

    1 + Poisson(0.15) fragments, each cut at both ends within the peak with probability 0.55: 39 %
    ones, 49 % twos, mean 1.8, as in Granja's 10x bone marrow (39 % and 52 %).
    """
    # a seed of its own: the same table in every simulation
    rng = np.random.default_rng(0)
    fragments = 1 + rng.poisson(0.15, 2**16)
    return (fragments + rng.binomial(fragments, 0.55)).astype(np.float32)


_COUNTS = _count_table()

# Lengths of chr1 to chr22 and X of GRCh38, in Mb.
_CHROMOSOMES = dict(
    zip(
        [*map(str, range(1, 23)), "X"],
        [
            248,
            242,
            198,
            190,
            181,
            170,
            159,
            145,
            138,
            133,
            135,
            133,
            114,
            107,
            101,
            90,
            83,
            80,
            58,
            64,
            46,
            50,
            156,
        ],
    )
)
PEAK_WIDTH = 500
#: More peaks than this would overlap.
MOST_PEAKS = sum(_CHROMOSOMES.values()) * 10**6 // (2 * PEAK_WIDTH)


def _intervals(rng: np.random.Generator, n_peaks: int) -> list[str]:
    lengths = np.array(list(_CHROMOSOMES.values())) * 10**6
    # rounding the running sum, not the parts, keeps the total
    last = np.rint(np.cumsum(lengths) / lengths.sum() * n_peaks).astype(int)
    names = []
    for name, length, count in zip(_CHROMOSOMES, lengths, np.diff([0, *last])):
        room = length / max(count, 1)
        # each peak lies in a section of its own: none overlap
        starts = (np.arange(count) * room + rng.random(count) * (room - PEAK_WIDTH)).astype(int)
        names += [f"chr{name}:{start}-{start + PEAK_WIDTH}" for start in starts.tolist()]
    return names
