"""An encoder fine-tuned on new cells, under a decoder and a mixture that stay as they are.

`placement` finds each cell by itself, from the peaks that the decoder knows. An encoder

    e(t) = t M

of a cell's TF-IDF weights t shares what cells have in common, and sees all of their peaks, those
that the reference lacks too. Encoder and latent vectors z maximise

    Σ_i [log p(x_i | z_i) − λ/2 ‖z_i − e(t_i)‖²] − λα/2 ‖M‖²

by turns: M by ridge regression on the z of the new cells and of the reference's (`projection`), z
by the Newton steps of `placement`. A cell's e comes from an encoder that was fitted without it: one
that has seen the cell repeats the noise of its z. e is not scaled to the length of z: the ridge
makes it short where it predicts little, as for few or sparse cells, and z is then what it was
before (scaled, it cost 64 sparse cells a third of their labels).

The mixture stays because its components are what the reference's clusters are known by.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from scale_toolkit.core.placement import Placement
from scale_toolkit.core.projection import fit_latent_map, unit_rows

TURNS = 2
#: Parts of the cells; the encoder of each is fitted to the others.
FOLDS = 5


def fine_tune(
    opened: sparse.csr_matrix,
    covered: sparse.csr_matrix,
    placement: Placement,
    latent: np.ndarray,
    offset: np.ndarray,
    rng: np.random.Generator,
    *,
    on_sphere: bool,
    known: tuple[sparse.csr_matrix, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return latent vectors and depth offsets after fine-tuning, (cells, latent) and (cells,).

    Parameters
    ----------
    opened, covered
        Open peaks of the cells, CSR of ones: on all their peaks, and on those that the decoder
        covers.
    placement
        The decoder.
    latent, offset
        Of the placed cells.
    rng
        Draws the parts.
    on_sphere
        Whether latent vectors have the length √latent.
    known
        Open peaks of reference cells on all peaks of `opened`, and their latent vectors.
    """
    parts = rng.permutation(len(latent)) % FOLDS
    for _ in range(TURNS):
        target = unit_rows(latent) if on_sphere else latent
        expected = np.empty_like(target)
        for number in range(FOLDS):
            members = parts == number
            rows, goals = opened[~members], target[~members]
            if known is not None:
                rows = sparse.vstack([known[0], rows]).tocsr()
                goals = np.vstack([known[1], goals])
            expected[members] = fit_latent_map(rows, goals, rng).project(opened[members])
        latent, offset = placement(covered, expected, offset, expected)
    return unit_rows(latent) if on_sphere else latent, offset
