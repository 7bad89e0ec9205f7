"""``scale.tl.map``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scale_toolkit._in_place import run, with_options
from scale_toolkit.config import MapConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    Progress = Callable[[str, int, int], None]


@with_options(MapConfig)
def map(
    adata: AnnData,
    *,
    reference: AnnData | bytes,
    copy: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> AnnData | None:
    """Place new cells in the latent space of a trained file, and transfer its labels.

    Parameters
    ----------
    adata
        Counts or open peaks, cells × peaks; the peaks may differ from those of `reference`.
    reference
        The output of `train`, with counts; or the bytes of its model file
        (``Path("model.pt").read_bytes()``), which holds no cells: neither labels nor novelty.
    copy
        Leave `adata` as it is and return a new one.
    progress
        Called before each group of 20,000 cells.
    **options
        ``labels``, ``max_fdr``, ``update``, …: see `scale_toolkit.map`.

    Returns
    -------
    None, or with `copy` the new AnnData. Written: the slots of `train` except
    ``uns['scale_history']``; ``obs['scale_map_<column>']`` and its ``_confidence`` for each column
    of ``labels``; with cells in the reference ``obs['scale_novelty']``, ``obs['scale_novelty_p']``,
    ``obs['scale_not_in_reference']``; ``uns['scale_map']``; a receipt in ``uns['scale']``.

    Raises
    ------
    InputError
        A reference that was not trained or lacks labels, or too few shared peaks.
    """
    return run("map", adata, copy=copy, progress=progress, reference=reference, **options)
