"""Fragments beside the cells, for ``doublets``: are they theirs, and where are more than two?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.core.crowded_sites import CrowdedSites, Sweep
from scale_toolkit.core.intervals import Overlaps, check_chromosomes, parse_names
from scale_toolkit.errors import InputError, warn
from scale_toolkit.stages.counts import open_peaks

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

    from scale_toolkit.stages.stage import Progress

#: Tables of fragments, in the order of a file: ``chrom``, ``start``, ``end``, ``barcode``.
Blocks = Iterable[pd.DataFrame]

#: Fragments in peaks that are compared with the counts; a standard error of 0.5 % is enough.
N_COMPARED = 10_000
#: Share of them in peaks that the counts have open in the cell. With the right file it is 0.9 or
#: more, whichever way the fragments were counted; other cells or another genome build share as
#: many as two cells do, 0.05 to 0.3.
LEAST_AGREEMENT = 0.5


def crowded_sites(
    adata: AnnData,
    files: Sequence[Blocks],
    autosomes: Sequence[str] = (),
    progress: Progress | None = None,
) -> CrowdedSites:
    """Find the sites of each cell that more than two of its fragments cover.

    Parameters
    ----------
    adata
        Cells with their counts.
    files
        Fragments, a sequence of blocks for each file. Several are those of the batches, in the
        order of ``obs['batch']``'s categories; each is tested by itself.
    autosomes
        Their names; without any, chromosomes with a number.
    progress
        Called after each block.

    Returns
    -------
    The sites of all cells. A cell without a fragment has none, and P = 1.

    Raises
    ------
    InputError
        Fragments of other cells, of another genome, not sorted, or without an autosome; or not one
        file for each batch.
    """
    sites = [
        _sites_of_file(adata, names, blocks, autosomes, progress)
        for names, blocks in zip(_names_by_file(adata, len(files)), files, strict=True)
    ]
    n_fragments = np.sum([file.n_fragments for file in sites], axis=0)
    n_without = int((n_fragments == 0).sum())
    if n_without == adata.n_obs:
        raise InputError(
            "no fragment of the cells is on an autosome",
            "fragments on several autosomes",
            "check the file",
        )
    if n_without > adata.n_obs / 2:
        warn(f"{n_without:,} of {adata.n_obs:,} cells have no fragment in the files given")
    return CrowdedSites(
        n_fragments,
        np.sum([file.n_sites for file in sites], axis=0),
        np.minimum.reduce([file.pvals for file in sites]),
        np.minimum.reduce([file.pvals_adj for file in sites]),
        sum(file.n_merged for file in sites),
        sum(file.n_repeats for file in sites),
    )


def _names_by_file(adata: AnnData, n_files: int) -> list[pd.Series]:
    """Return the row of each cell by its barcode, for each file."""
    rows = pd.Series(np.arange(adata.n_obs), index=adata.obs_names)
    if n_files == 1:
        return [rows]
    batches = keys.BATCH.get(adata).astype("category").cat
    if len(batches.categories) != n_files:
        raise InputError(
            f"{n_files} files of fragments, and {len(batches.categories)} batches in {keys.BATCH}",
            "a file for each batch, in their order",
            "give `scale prepare`'s files",
        )
    names = []
    for code, batch in enumerate(batches.categories):
        members = rows[batches.codes.to_numpy() == code]
        # `prepare` adds the batch to barcodes that several files have
        names.append(members.rename(index=lambda name, batch=batch: name.removesuffix(f"-{batch}")))
    return names


def _sites_of_file(
    adata: AnnData,
    rows: pd.Series,
    blocks: Blocks,
    autosomes: Sequence[str],
    progress: Progress | None,
) -> CrowdedSites:
    """Pass over one file."""
    sweep = Sweep(len(rows), autosomes)
    comparison = _Comparison(adata)
    chromosomes: set[str] = set()
    barcode, n_fragments, n_matched = "", 0, 0
    for block in blocks:
        barcode = barcode or str(block["barcode"].iloc[0])
        cell = rows.index.get_indexer(block["barcode"])
        chrom, start, end = (block[name].to_numpy() for name in ("chrom", "start", "end"))
        chromosomes.update(pd.unique(block["chrom"]))
        n_fragments, n_matched = n_fragments + len(block), n_matched + int((cell >= 0).sum())
        comparison.add(chrom, start, end, np.where(cell >= 0, rows.to_numpy()[cell], -1))
        sweep.add(chrom, start, end, cell)
        if progress is not None:
            progress("reading fragments", n_fragments, 0)
    if n_matched == 0:
        raise InputError(
            f"none of {n_fragments:,} fragments has the barcode of a cell (first "
            f"{barcode or 'none'!r}; cells such as {rows.index[0]!r})",
            "the fragments of these cells",
            "check the sample, and what was added to the barcodes",
        )
    comparison.check(chromosomes)
    return _for_all_cells(sweep.result(), rows.to_numpy(), adata.n_obs)


def _for_all_cells(sites: CrowdedSites, rows: np.ndarray, n_cells: int) -> CrowdedSites:
    """Return the sites of one file's cells in the order of all cells."""

    def spread(values: np.ndarray, missing: float) -> np.ndarray:
        spread_values = np.full(n_cells, missing, values.dtype)
        spread_values[rows] = values
        return spread_values

    return CrowdedSites(
        spread(sites.n_fragments, 0),
        spread(sites.n_sites, 0),
        spread(sites.pvals, 1),
        spread(sites.pvals_adj, 1),
        sites.n_merged,
        sites.n_repeats,
    )


class _Comparison:
    """Whether the first fragments in peaks are in peaks that the counts have open."""

    def __init__(self, adata: AnnData) -> None:
        self._peaks = parse_names(adata.var_names)
        self._has_places = bool(self._peaks["chrom"].notna().all())
        self._overlaps = Overlaps(self._peaks) if self._has_places else None
        self._open: sparse.csr_matrix = open_peaks(adata)
        self._n_compared = self._n_open = 0

    def add(self, chrom: np.ndarray, start: np.ndarray, end: np.ndarray, row: np.ndarray) -> None:
        """Compare the first fragments of the cells, until there are enough."""
        if self._overlaps is None or self._n_compared >= N_COMPARED:
            return
        # only a part of a block is looked up; its fragments are on few chromosomes
        known = np.flatnonzero(row >= 0)[: 20 * N_COMPARED]
        fragment, peak = self._overlaps.pairs(chrom[known], start[known], end[known])
        chosen = slice(N_COMPARED - self._n_compared)
        cells, peaks = row[known[fragment[chosen]]], peak[chosen]
        self._n_compared += len(peaks)
        if len(peaks):
            self._n_open += int(np.count_nonzero(np.asarray(self._open[cells, peaks])))

    def check(self, chromosomes: set[str]) -> None:
        """Raise if chromosomes or cells are others."""
        if not self._has_places:
            return
        if not self._n_compared:
            check_chromosomes(self._peaks["chrom"], sorted(chromosomes), "the fragments")
            raise InputError(
                "no fragment of a cell lies in a peak",
                "fragments of the genome of the peaks",
                "check the genome build",
            )
        share = self._n_open / self._n_compared
        if share < LEAST_AGREEMENT:
            raise InputError(
                f"{share:.0%} of {self._n_compared:,} fragments in peaks lie in a peak that X has "
                "open in their cell",
                "the fragments that X was counted from",
                "check the sample and the genome build",
            )
