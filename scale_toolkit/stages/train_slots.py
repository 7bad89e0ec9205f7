"""The slots that `train` and `encode` write, from a trained model and the cells it has encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.stages.counts import over_all
from scale_toolkit.stages.gpu import gpu_settings

if TYPE_CHECKING:
    from scipy import sparse

    from scale_toolkit.config import TrainConfig
    from scale_toolkit.model.recipes import Trained
    from scale_toolkit.model.team import Team
    from scale_toolkit.stages.batches import Batches

WRITES = (
    keys.LATENT,
    keys.LATENT_SCALE,
    keys.HIDDEN,
    keys.DECODER,
    keys.BIAS,
    keys.BATCH_OFFSET,
    keys.BATCHES,
    keys.OFFSET,
    keys.MEDIAN_OFFSET,
    keys.CELL_OPEN_RATE,
    keys.PEAK_OPEN_RATE,
    keys.POSTERIOR,
    keys.COMPONENT,
    keys.MIXTURE,
    keys.HISTORY,
)

#: Results of an earlier model, which do not belong to this one.
STALE = (
    keys.IMPUTED,
    keys.BINARY,
    keys.BINARY_PACKED,
    keys.GROUP_MEANS,
    keys.HIDDEN,
    keys.BATCH_OFFSET,
    keys.BATCHES,
    keys.WEIGHT_PEAKS,
    *keys.VERDICT,
)


def trained_slots(
    trained: Trained,
    counts: sparse.csr_matrix,
    positions: np.ndarray,
    peaks: pd.Index,
    settings: TrainConfig,
    batches: Batches | None = None,
    team: Team | None = None,
) -> dict[keys.Slot, Any]:
    """Encode cells with a trained model, and return the slots of `train`.

    Parameters
    ----------
    trained
        The model.
    counts
        Cells × peaks of the model, in its order; of a team, the cells of this process.
    positions
        Position of each of the model's peaks in the AnnData; -1 if it is missing.
    peaks
        Names of the peaks of the AnnData.
    settings
        The seed, and how a GPU is used.
    batches
        Of the cells, as the model knows them.
    team
        The processes that share the cells; the slots of all cells are those of its leader.
    """
    from scale_toolkit.core.rows import MatrixRows
    from scale_toolkit.model.recipes import encode
    from scale_toolkit.model.team import ALONE

    source = MatrixRows(counts)
    codes = None if batches is None else batches.codes
    gpu = gpu_settings(settings)
    seed = settings.seed
    encoded = encode(trained, source, seed=seed, gpu=gpu, codes=codes, team=team or ALONE)
    present = positions >= 0

    def of_peaks(values: np.ndarray, fill: float) -> np.ndarray:
        return over_all(values[present], positions[present], len(peaks), fill)

    decoder, prior = trained.model.decoder, trained.model.prior
    components = [str(k) for k in range(trained.model.shape.n_components)]
    most_responsible = pd.Categorical.from_codes(encoded.posterior.argmax(1), components)
    slots: dict[keys.Slot, Any] = {
        keys.LATENT: encoded.latent,
        keys.LATENT_SCALE: encoded.latent.copy(),
        keys.DECODER: of_peaks(decoder.weight.detach().cpu().numpy(), 0),
        keys.BIAS: of_peaks(decoder.bias.detach().cpu().numpy(), np.nan),
        keys.OFFSET: encoded.offset,
        keys.MEDIAN_OFFSET: float(np.median(encoded.offset)),
        keys.CELL_OPEN_RATE: encoded.cell_sums / source.n_peaks,
        keys.PEAK_OPEN_RATE: of_peaks(encoded.peak_sums / len(encoded.cell_sums), np.nan),
        keys.POSTERIOR: encoded.posterior,
        keys.COMPONENT: most_responsible.remove_unused_categories(),
        keys.MIXTURE: {
            name: value.detach().cpu().numpy() for name, value in prior.parameters_of().items()
        },
    }
    if trained.effects is not None and batches is not None:
        shifts = of_peaks(np.ascontiguousarray(trained.effects.logits.T), np.nan)
        slots[keys.BATCH_OFFSET] = pd.DataFrame(shifts, index=peaks, columns=batches.titles)
    if trained.model.shape.decode_dim:
        slots[keys.HIDDEN] = encoded.hidden
    history = trained.history
    if history.loss:
        curves = {
            "loss": history.loss,
            "reconstruction": history.reconstruction,
            "divergence": history.divergence,
        }
        if history.held_out:
            # one value more than the others: that of the start comes first
            curves["held_out"] = history.held_out
        slots[keys.HISTORY] = {name: np.asarray(curve) for name, curve in curves.items()}
    return slots
