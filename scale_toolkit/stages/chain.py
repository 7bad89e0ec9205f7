"""Several stages one after the other: what can fail early fails before the first one works."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit import keys
    from scale_toolkit.stages.stage import StageFunction
    from scale_toolkit.validation import Config


def check_all(steps: Sequence[tuple[StageFunction, Config, dict[str, Any]]], adata: Any) -> None:
    """Call the check of every stage of a chain before the first one works.

    Parameters
    ----------
    steps
        Each stage's public function, its config, and its inputs besides the cells, in order.
    adata
        What the first stage is given: an AnnData, or a list or mapping of them.
    """
    cells = _joined_axes(adata)
    planned: list[keys.Slot] = []
    for position, (function, config, inputs) in enumerate(steps):
        function.stage.prepare(adata if position == 0 else cells, config, inputs, planned)
        planned += function.stage.writes
        cells = _without(cells, function.stage.writes)


def _without(cells: AnnData, slots: Sequence[keys.Slot]) -> AnnData:
    """Return the cells without what a stage will write: the next one does not see an earlier
    run's results.
    """
    from scale_toolkit.stages.subset import shallow_copy

    earlier = [slot for slot in slots if slot.where and slot.found_in(cells)]
    if not earlier:
        return cells
    cells = shallow_copy(cells)
    for slot in earlier:
        slot.drop(cells)
    return cells


def _joined_axes(adata: Any) -> AnnData:
    """Return one AnnData with the cells and obs columns of several inputs, without their counts."""
    import pandas as pd
    from anndata import AnnData

    if isinstance(adata, Mapping):
        adata = list(adata.values())
    if not isinstance(adata, (list, tuple)):
        return adata
    if len(adata) == 1:
        return adata[0]
    with warnings.catch_warnings():
        # barcodes shared by inputs are renamed by prepare
        warnings.simplefilter("ignore")
        return AnnData(
            obs=pd.concat([batch.obs for batch in adata]),
            var=pd.DataFrame(index=adata[0].var_names),
        )
