"""What follows the last training step: calibration of the decoder, and the projection fitted again
with the open peaks that were hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from scale_toolkit.model.calibrate import Calibration, Shifts, calibrated
from scale_toolkit.model.products import products_of
from scale_toolkit.model.team import ALONE, Team
from scale_toolkit.model.trainer import of_blocks, some_cells
from scale_toolkit.model.views import find_start, linear_map

if TYPE_CHECKING:
    from scale_toolkit.model.cells import Cells
    from scale_toolkit.model.held_out import Thinned
    from scale_toolkit.model.network import Scale
    from scale_toolkit.model.products import Products


@torch.no_grad()
def refit_projection(
    model: Scale, cells: Cells, coordinates: np.ndarray, seed: int, team: Team = ALONE
) -> None:
    """Fit the encoder's projection again with the open peaks that were hidden until here.

    Its coordinates are turned (orthogonal Procrustes; Schönemann 1966) to those that training
    started from, so that all later layers read what they were trained on.
    """
    peak_sums, latent = team.total(cells.open_sums()[1]), coordinates.shape[1]

    def refitted(products: Products) -> np.ndarray:
        full = find_start(products, peak_sums, latent, seed).coordinates
        left_vectors, _, right_vectors = np.linalg.svd(full.T.astype(np.float64) @ coordinates)
        turned = (full @ (left_vectors @ right_vectors)).astype(np.float32)
        return linear_map(products.seen(cells.see), turned)

    projection = team.led(products_of(cells), cells.source, refitted)
    model.encoder.first.weight.copy_(torch.from_numpy(projection))


@torch.no_grad()
def calibrate(
    model: Scale,
    cells: Cells,
    thinned: Thinned,
    offset: np.ndarray,
    peak_sums: np.ndarray,
    rng: np.random.Generator,
    team: Team = ALONE,
) -> Calibration | None:
    """Calibrate the decoder's loadings and intercepts in place; return how, in the leader.

    `offset` are those of the cells of all processes, (cells,).
    """
    n_cells = len(offset)
    sample_index = some_cells(n_cells, rng)
    decoded_cells = np.arange(n_cells) if sample_index is None else sample_index
    local_index = None if sample_index is None else team.local(sample_index, n_cells)

    def decoded(index: np.ndarray) -> torch.Tensor:
        return model.decoder(model(cells.seen(index))[0])

    h = of_blocks(decoded, cells, local_index)
    watched_h = h[:0]
    if len(thinned.cells):
        watched_h = decoded(thinned.cells).float().cpu().numpy()
    h, watched_h = team.gathered(h), team.gathered(watched_h)
    watched_cells = team.gathered(thinned.cells + team.bounds(n_cells)[team.rank])
    visible, hidden = (
        sparse.vstack(team.collected(rows), format="csr") for rows in (thinned.kept, thinned.hidden)
    )
    weight, bias = (
        parameter.detach().cpu().numpy() for parameter in (model.decoder.weight, model.decoder.bias)
    )
    watched = watched_h, offset[watched_cells]
    counts = peak_sums * (len(decoded_cells) / n_cells)
    shifts = None
    if (effects := cells.effects) is not None:
        codes = effects.codes
        shifts = Shifts(effects.logits, codes[decoded_cells], codes[watched_cells])
    if not team.leads:
        team.share(model)
        return None
    weight, bias, calibration = calibrated(
        weight,
        bias,
        h,
        offset[decoded_cells],
        counts,
        watched,
        visible,
        hidden,
        rng,
        cells.device,
        shifts,
        n_cells=n_cells,
    )
    model.decoder.weight.copy_(torch.from_numpy(weight))
    model.decoder.bias.copy_(torch.from_numpy(bias))
    team.share(model)
    return calibration
