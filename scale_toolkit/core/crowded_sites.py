"""Sites at which a cell has more fragments than two copies of a genome can give.

Tn5 cuts each copy of a chromosome into fragments that do not overlap, so that a cell with two
copies has at most two fragments over a base; three or more come from a second cell in the droplet,
or from artefacts. A cell's number of such sites on autosomes is tested against the Poisson
distribution with the mean of all cells, as AMULET does (Thibodeau et al. 2021, Genome Biology
22:252). It needs no simulated doublets, and sees doublets of two cells of one type.

Fragments come in the order of their starts, so that the three largest ends of a cell's earlier
fragments decide whether a base is covered more than twice: memory follows the cells and the sites,
time the fragments.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import types
from scipy.stats import false_discovery_control, poisson

from scale_toolkit.core.compiled import compiled, readonly
from scale_toolkit.errors import InputError

#: Longer fragments are left out, as AMULET does: they span several nucleosomes, or wrong pairs.
LONGEST_FRAGMENT = 900
#: Sites are left out if more cells than expected have them (a repeat, collapsed in the assembly),
#: at this false discovery rate, as AMULET does.
MAX_SITE_FDR = 0.01
#: Autosomes without a list: chromosomes with a number (chr1, 19, Chr5, chr2L), not X, Y, M or
#: unplaced contigs.
NUMBERED = re.compile(r"(?:chr)?\d{1,2}[A-Da-dLR]?$", re.IGNORECASE)


@dataclass(frozen=True)
class CrowdedSites:
    """Sites of each cell with more than two overlapping fragments, and their test.

    Attributes
    ----------
    n_fragments
        Fragments of each cell on autosomes, no longer than `LONGEST_FRAGMENT`, (cells,).
    n_sites
        Sites of each cell, (cells,).
    pvals
        P of this many sites or more if all cells had the mean number, (cells,); 1 without a site.
    pvals_adj
        The same after Benjamini and Hochberg.
    n_merged
        Number of sites after those of all cells that overlap are merged.
    n_repeats
        How many of them are left out, because too many cells have them.
    """

    n_fragments: np.ndarray
    n_sites: np.ndarray
    pvals: np.ndarray
    pvals_adj: np.ndarray
    n_merged: int
    n_repeats: int


class Sweep:
    """Find the sites of each cell while fragments pass in the order of the genome.

    Parameters
    ----------
    n_cells
        Number of cells.
    autosomes
        Names of the chromosomes that count; without any, `NUMBERED` decides.
    """

    def __init__(self, n_cells: int, autosomes: Sequence[str] = ()) -> None:
        self._n_cells, self._autosomes = n_cells, frozenset(autosomes)
        self._chrom: str | None = None
        self._last_start = 0
        self._passed: set[str] = set()
        self._used: set[str] = set()
        self._n_fragments = np.zeros(n_cells, np.int64)
        self._largest_ends = np.zeros((n_cells, 3), np.int64)
        self._open_sites = np.full((n_cells, 2), -1, np.int64)
        self._sites: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._n_merged = 0

    def add(self, chrom: np.ndarray, start: np.ndarray, end: np.ndarray, cell: np.ndarray) -> None:
        """Take the next fragments.

        Parameters
        ----------
        chrom, start, end
            Half-open intervals, sorted by chromosome and start, (fragments,) each.
        cell
            Number of the cell, −1 for other barcodes, (fragments,).

        Raises
        ------
        InputError
            A fragment begins before the last one, or its chromosome has passed.
        """
        edges = np.flatnonzero(np.concatenate([[True], chrom[1:] != chrom[:-1], [True]]))
        for first, stop in itertools.pairwise(edges if len(chrom) else []):
            rows = slice(first, stop)
            self._enter(str(chrom[first]), int(start[first]))
            steps_back = np.flatnonzero(np.diff(start[rows]) < 0)
            if len(steps_back):
                row = first + int(steps_back[0])
                raise _unsorted(f"{chrom[first]}:{start[row + 1]}", f"{chrom[first]}:{start[row]}")
            self._last_start = int(start[stop - 1])
            if self._counts(str(chrom[first])):
                self._advance(start[rows], end[rows], cell[rows])

    def result(self) -> CrowdedSites:
        """Return the sites of all fragments, and their test.

        Raises
        ------
        InputError
            No fragment was on an autosome.
        """
        self._close()
        if not self._used:
            names = sorted(self._passed)
            raise InputError(
                f"fragments on {', '.join(names[:3])}{', …' if len(names) > 3 else ''}",
                ", ".join(sorted(self._autosomes)[:3]) or "autosomes with numbers, such as chr1",
                "give the names of the autosomes with `autosomes`",
            )
        sites, cells = (np.concatenate(columns) for columns in zip(*self._pairs, strict=True))
        n_cells_with = np.bincount(sites, minlength=self._n_merged)
        is_repeat = _rises(n_cells_with) <= MAX_SITE_FDR
        n_sites = np.bincount(cells[~is_repeat[sites]], minlength=self._n_cells)
        pvals = _exceedance(n_sites)
        return CrowdedSites(
            self._n_fragments,
            n_sites,
            pvals,
            false_discovery_control(pvals),
            self._n_merged,
            int(is_repeat.sum()),
        )

    def _counts(self, chrom: str) -> bool:
        if self._autosomes:
            return chrom in self._autosomes
        return NUMBERED.match(chrom) is not None

    def _enter(self, chrom: str, start: int) -> None:
        """Begin a chromosome, or go on in the last one."""
        if chrom == self._chrom:
            if start < self._last_start:
                raise _unsorted(f"{chrom}:{start}", f"{chrom}:{self._last_start}")
            return
        if chrom in self._passed:
            raise _unsorted(f"{chrom}:{start}", f"{self._chrom}:{self._last_start}")
        self._close()
        self._passed.add(chrom)
        self._chrom = chrom

    def _advance(self, start: np.ndarray, end: np.ndarray, cell: np.ndarray) -> None:
        """Move on over the fragments of one autosome."""
        is_used = (cell >= 0) & (end - start <= LONGEST_FRAGMENT)
        start, end, cell = (
            np.ascontiguousarray(values[is_used], np.int64) for values in (start, end, cell)
        )
        self._n_fragments += np.bincount(cell, minlength=self._n_cells)
        closed = np.empty((len(cell), 3), np.int64)
        n_closed = _sweep(cell, start, end, self._largest_ends, self._open_sites, closed)
        self._sites.append(tuple(closed[:n_closed].T.copy()))
        self._used.add(str(self._chrom))

    def _close(self) -> None:
        """Merge the sites of the last chromosome over the cells."""
        cells = np.flatnonzero(self._open_sites[:, 0] >= 0)
        self._sites.append((cells, *self._open_sites[cells].T))
        cell, start, end = (np.concatenate(columns) for columns in zip(*self._sites, strict=True))
        order = np.argsort(start, kind="stable")
        cell, start, end = cell[order], start[order], end[order]
        reach = np.maximum.accumulate(end)
        number = np.cumsum(np.append(True, start[1:] >= reach[:-1])[: len(start)]) - 1
        pairs = np.unique(number * self._n_cells + cell)
        self._pairs.append((pairs // self._n_cells + self._n_merged, pairs % self._n_cells))
        self._n_merged += int(number[-1]) + 1 if len(number) else 0
        self._sites = []
        self._largest_ends[:] = 0
        self._open_sites[:] = -1


def _unsorted(position: str, former: str) -> InputError:
    return InputError(
        f"the fragments are not sorted: {position} after {former}",
        "fragments in the order of chromosome and start, as Cell Ranger writes them",
        "sort the file: sort -k1,1 -k2,2n",
    )


def _exceedance(counts: np.ndarray) -> np.ndarray:
    """Return P(Poisson(mean of all) ≥ count) of each count; 1 for a count of 0."""
    return poisson.sf(counts - 1, max(float(counts.mean()), 1e-12)) if len(counts) else counts


def _rises(counts: np.ndarray) -> np.ndarray:
    """Return the adjusted P of each count against the mean of all."""
    pvals = _exceedance(counts)
    return false_discovery_control(pvals) if len(pvals) else pvals.astype(float)


@compiled(
    types.int64(
        readonly(types.int64),
        readonly(types.int64),
        readonly(types.int64),
        types.int64[:, ::1],
        types.int64[:, ::1],
        types.int64[:, ::1],
    )
)
def _sweep(
    cells: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    largest_ends: np.ndarray,
    open_sites: np.ndarray,
    closed: np.ndarray,
) -> int:
    """Add fragments in the order of their starts; write the sites that can no longer grow.

    Parameters
    ----------
    cells, starts, ends
        Fragments, (fragments,) int64.
    largest_ends
        The three largest ends of each cell so far, descending, (cells, 3): from the start of a
        fragment to the third of them the cell is covered more than twice.
    open_sites
        Start and end of each cell's last site, −1 without one, (cells, 2).
    closed
        Receives cell, start and end, (fragments, 3).

    Returns
    -------
    The number of sites written.
    """
    n_closed = 0
    for i in range(len(cells)):
        cell, start, end = cells[i], starts[i], ends[i]
        if end > largest_ends[cell, 0]:
            largest_ends[cell, 2] = largest_ends[cell, 1]
            largest_ends[cell, 1] = largest_ends[cell, 0]
            largest_ends[cell, 0] = end
        elif end > largest_ends[cell, 1]:
            largest_ends[cell, 2] = largest_ends[cell, 1]
            largest_ends[cell, 1] = end
        elif end > largest_ends[cell, 2]:
            largest_ends[cell, 2] = end
        third = largest_ends[cell, 2]
        if third <= start:
            continue
        if open_sites[cell, 0] >= 0 and start <= open_sites[cell, 1]:
            open_sites[cell, 1] = max(open_sites[cell, 1], third)
            continue
        if open_sites[cell, 0] >= 0:
            closed[n_closed, 0] = cell
            closed[n_closed, 1] = open_sites[cell, 0]
            closed[n_closed, 2] = open_sites[cell, 1]
            n_closed += 1
        open_sites[cell, 0], open_sites[cell, 1] = start, third
    return n_closed
