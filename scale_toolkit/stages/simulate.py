"""``simulate``: cells with planted clusters from realistic marginals, with the truth in obs."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scale_toolkit import keys
from scale_toolkit.config import SimulateConfig
from scale_toolkit.core.simulate import MOST_PEAKS, PlantedCells
from scale_toolkit.errors import OptionError
from scale_toolkit.stages.stage import Result, stage

if TYPE_CHECKING:
    from scale_toolkit.lazy import RowBlocks
    from scale_toolkit.stages.stage import Progress


@dataclass(frozen=True)
class Sizes:
    """Cells, peaks, classes and median number of open peaks of a cell of a data set."""

    n_cells: int
    n_peaks: int
    n_clusters: int
    open_peaks: float


#: SCALE's data sets. Where the figures come from, and which are assumed, is in docs/datasets.md.
DATA_SETS = {
    "leukemia": Sizes(391, 7_602, 6, 295),
    "forebrain": Sizes(2_088, 11_285, 8, 450),
    "splenocyte": Sizes(3_166, 77_453, 12, 3_100),
    "mouse-atlas": Sizes(81_173, 436_206, 30, 4_400),
    "insilico": Sizes(828, 13_668, 6, 550),
    "gm12878-hek": Sizes(526, 12_938, 2, 520),
    "gm12878-hl": Sizes(597, 10_431, 2, 420),
    "breast-tumor": Sizes(384, 27_884, 2, 1_100),
}

DEFAULT = Sizes(1_000, 20_000, 8, 2_000)


def simulate(
    config: SimulateConfig | None = None, *, progress: Progress | None = None, **options: Any
) -> AnnData:
    """Simulate cells with planted clusters; `streamed` yields the same cells in blocks.

    Peak frequencies and depths are log-normal, every cluster has its own peaks with raised odds,
    and clusters come in pairs that share more of them. At the default options TF-IDF and SVD with
    k-means score an ARI of 0.85 to 0.95; the strength of the clusters follows the sizes, so that
    this holds for other sizes too. The cells are meant to test clustering: the counts do not model
    fragment lengths, neighbouring peaks or genes, so use real data to judge anything that does.

    Parameters
    ----------
    config
        See `SimulateConfig`; or its options as keywords.
    progress
        Called with a message, the cells done and the cells in all.

    Returns
    -------
    AnnData with

    - ``X`` (cells × peaks, CSR float32): counts, 1.8 on average if a peak is open;
    - ``obs['cell_type']``: the planted cluster (of a doublet: of its first cell; on a path: of the
      nearer end);
    - ``obs['batch']``: ``batch1``, …;
    - ``obs['is_doublet']`` and ``obs['doublet_with']``: the cluster of a doublet's second cell;
    - ``obs['path_from']``, ``obs['path_to']``, ``obs['path_position']``: both ends of a path
      between two clusters and the cell's position on it, in [0, 1]; missing for other cells;
    - ``obs['true_depth']``: expected number of open peaks (of a doublet, of each of its two cells);
    - ``var['program']``: the cluster, or the two clusters joined by ``+``, whose odds of this peak
      are raised.

    Raises
    ------
    OptionError
        Sizes that contradict each other.

    Examples
    --------
    >>> cells = simulate(n_cells=200, n_peaks=1000, n_clusters=3)
    >>> cells.shape
    (200, 1000)
    """
    return simulate_stage(None, config, progress=progress, **options)


def streamed(
    config: SimulateConfig | None = None, *, progress: Progress | None = None, **options: Any
) -> tuple[AnnData, dict[str, RowBlocks]]:
    """Make the cells of `simulate` in bounded memory: the AnnData without X, and X as blocks of
    rows.
    """
    return simulate_stage.streamed(None, config, progress=progress, **options)


def check(adata: None, config: SimulateConfig) -> None:
    """Raise `OptionError` for sizes that contradict each other."""
    sizes = _sizes(config)
    n_programs = sizes.n_clusters + (sizes.n_clusters + 1) // 2
    if sizes.n_cells < sizes.n_clusters:
        raise OptionError(
            f"n_cells is {sizes.n_cells}",
            f"at least one for each of the {sizes.n_clusters} clusters",
        )
    if sizes.n_peaks < n_programs:
        raise OptionError(
            f"n_peaks is {sizes.n_peaks}", f"{n_programs} or more for {sizes.n_clusters} clusters"
        )
    if sizes.n_peaks > MOST_PEAKS:
        raise OptionError(
            f"n_peaks is {sizes.n_peaks}", f"{MOST_PEAKS} or fewer, which is half of the genome"
        )
    if sizes.open_peaks > sizes.n_peaks / 2:
        raise OptionError(
            f"open_peaks is {sizes.open_peaks:g} of {sizes.n_peaks} peaks",
            f"{sizes.n_peaks / 2:g} or less, half of them",
            "ask for fewer open peaks or more peaks",
        )
    mixed = config.doublets + config.continuum
    if mixed > 1:
        raise OptionError(
            f"doublets {config.doublets:g} and continuum {config.continuum:g} make {mixed:g}",
            "1 or less: a cell is one or the other",
        )
    if sizes.n_clusters == 1 and mixed > 0:
        raise OptionError(
            "n_clusters is 1", "2 or more for doublets or a continuum, which join two clusters"
        )


@stage(
    "simulate",
    SimulateConfig,
    writes=(
        keys.X,
        keys.CELL_TYPE,
        keys.BATCH,
        keys.IS_DOUBLET,
        keys.DOUBLET_WITH,
        keys.PATH_FROM,
        keys.PATH_TO,
        keys.PATH_POSITION,
        keys.TRUE_DEPTH,
        keys.PROGRAM,
    ),
    check=check,
)
def simulate_stage(
    adata: None, config: SimulateConfig, *, progress: Progress | None = None
) -> Result:
    """Make the cells of `simulate`, as a stage that is not given an AnnData."""
    sizes = _sizes(config)
    planted = PlantedCells(
        n_cells=sizes.n_cells,
        n_peaks=sizes.n_peaks,
        n_clusters=sizes.n_clusters,
        open_peaks=sizes.open_peaks,
        n_batches=config.n_batches,
        doublets=config.doublets,
        continuum=config.continuum,
        seed=config.seed,
    )
    facts = {
        "n_cells": sizes.n_cells,
        "n_peaks": sizes.n_peaks,
        "n_clusters": sizes.n_clusters,
        "open_peaks": planted.open_peaks,
        "effect": round(float(planted.effect), 6),
    }
    return Result(target=_with_truth(planted), blocks={keys.X: planted}, facts=facts)


def _sizes(config: SimulateConfig) -> Sizes:
    """Return the sizes: the options, else those of the data set named by `like`, else the
    defaults.
    """
    like = DATA_SETS[config.like] if config.like else DEFAULT
    n_cells = like.n_cells if config.n_cells is None else config.n_cells
    n_peaks = like.n_peaks if config.n_peaks is None else config.n_peaks
    n_clusters = like.n_clusters if config.n_clusters is None else config.n_clusters
    open_peaks = config.open_peaks
    if open_peaks is None:
        # keep the fraction of open peaks if there are fewer peaks than usual
        open_peaks = max(1.0, like.open_peaks * min(1.0, n_peaks / like.n_peaks))
    return Sizes(n_cells, n_peaks, n_clusters, float(open_peaks))


def _with_truth(planted: PlantedCells) -> AnnData:
    """Return an AnnData without X that holds the truth about every cell and peak."""
    n_cells, n_peaks = planted.shape
    clusters = [f"type{cluster + 1}" for cluster in range(planted.n_clusters)]
    batches = [f"batch{batch + 1}" for batch in range(planted.n_batches)]
    on_path = np.isfinite(planted.position)
    nearer = np.where(on_path & (planted.position > 0.5), planted.other, planted.cluster)
    obs = {
        keys.CELL_TYPE: _named(nearer, clusters),
        keys.BATCH: _named(planted.batch, batches),
        keys.IS_DOUBLET: planted.is_doublet,
        keys.DOUBLET_WITH: _named(np.where(planted.is_doublet, planted.other, -1), clusters),
        keys.PATH_FROM: _named(np.where(on_path, planted.cluster, -1), clusters),
        keys.PATH_TO: _named(np.where(on_path, planted.other, -1), clusters),
        keys.PATH_POSITION: planted.position,
        keys.TRUE_DEPTH: planted.depth,
    }
    pairs = [clusters[i : i + 2] for i in range(0, planted.n_clusters, 2)]
    # the last of an odd number of clusters has no sibling: the peaks of its pair are its own
    programs = clusters + ["+".join(pair) for pair in pairs if len(pair) == 2]
    program = planted.program
    if planted.n_clusters % 2:
        program = np.where(program == len(programs), planted.n_clusters - 1, program)
    return AnnData(
        obs=pd.DataFrame(
            {slot.name: value for slot, value in obs.items()},
            index=[f"cell_{i:07d}" for i in range(1, n_cells + 1)],
        ),
        var=pd.DataFrame({keys.PROGRAM.name: _named(program, programs)}, index=planted.intervals()),
        shape=(n_cells, n_peaks),
    )


def _named(codes: np.ndarray, names: list[str]) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, names)


# help() and editors show the options, without the AnnData that other stages start from
_parameters = inspect.signature(simulate_stage).parameters.values()
simulate.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [parameter for parameter in _parameters if parameter.name != "adata"], return_annotation=AnnData
)
