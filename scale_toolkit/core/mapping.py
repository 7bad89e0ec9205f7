"""New cells in the latent space of a trained model, beside the cells it was trained on.

Both data sets are seen on the same peaks (`carried`). The latent vectors of the reference's cells
give a linear map (`projection`), which starts the placement of the query's cells under the decoder
(`placement`). A truncated singular value decomposition of the TF-IDF weights of both together adds
what the query has in common with the reference outside of the latent space, and what it has of its
own: labels (`transfer`) and `novelty` use both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from scale_toolkit.core.carried import CarriedDecoder
from scale_toolkit.core.depth import cell_offsets
from scale_toolkit.core.fine_tuning import fine_tune
from scale_toolkit.core.novelty import Measured
from scale_toolkit.core.placement import Placement
from scale_toolkit.core.projection import fit_latent_map, unit_rows

#: Parts of the reference; the map that each is placed by is fitted to the others.
FOLDS = 5
#: Dimensions of the embedding of both data sets, if the latent space has fewer: 20 gave better
#: labels than 3 to 9, and 40 the same (benchmarks/RESULTS.md).
SPECTRAL = 20
#: Regularisation C of the logistic regression: 1, 3 and 5 gave labels that are equally good, and 1
#: probabilities that are a tenth too low.
REGULARISATION = 3.0


@dataclass(frozen=True)
class Mapped:
    """Reference and query after mapping.

    Attributes
    ----------
    latent, offset
        Of the query's cells, (cells, latent) and (cells,).
    reference, query
        What labels and novelty are computed from.
    """

    latent: np.ndarray
    offset: np.ndarray
    reference: Measured
    query: Measured


class Mapper:
    """Places cells in the latent space of a reference; made once for all groups of query cells.

    Parameters
    ----------
    opened
        Open peaks of the reference's cells on the covered peaks, (cells, peaks) CSR of ones.
    latent
        Their latent vectors, (cells, latent).
    decoder
        The decoder on the covered peaks.
    offset
        Depth offset of the mean cell.
    rng
        Draws the parts of the reference.
    on_sphere
        Whether latent vectors have the length √latent.
    free_offset
        Whether the model has a depth offset for each cell.
    """

    def __init__(
        self,
        opened: sparse.csr_matrix,
        latent: np.ndarray,
        decoder: CarriedDecoder,
        offset: float,
        rng: np.random.Generator,
        *,
        on_sphere: bool,
        free_offset: bool,
    ) -> None:
        self.opened, self.latent = opened, latent
        self.decoder, self.on_sphere = decoder, on_sphere
        self.placement = Placement(
            decoder.loadings, decoder.intercepts, latent.mean(0), offset, free_offset=free_offset
        )
        self.latent_map = fit_latent_map(opened, latent, rng)
        self.coordinates = np.empty(latent.shape)
        parts = rng.permutation(len(latent)) % min(FOLDS, len(latent))
        for number in range(parts.max() + 1):
            members = parts == number
            fitted = fit_latent_map(opened[~members], latent[~members], rng)
            self.coordinates[members] = fitted.project(opened[members])
        self.placed = self._place(opened, self.coordinates)

    def __call__(self, opened: sparse.csr_matrix) -> Mapped:
        """Map cells with these open peaks on the covered peaks, (cells, peaks) CSR of ones."""
        coordinates = self.latent_map.project(opened)
        placed = self._place(opened, coordinates)
        weighting = self.latent_map.weighting
        spectral = joint_embedding(
            weighting(self.opened), weighting(opened), max(SPECTRAL, coordinates.shape[1])
        )
        return Mapped(
            self._shown(placed[0]),
            placed[1],
            self._measured(self.opened, self.coordinates, self.placed, spectral[0]),
            self._measured(opened, coordinates, placed, spectral[1]),
        )

    def fine_tuned(
        self,
        opened: sparse.csr_matrix,
        covered: sparse.csr_matrix,
        known: sparse.csr_matrix,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the latent vectors and offsets of cells after `fine_tuning.fine_tune`.

        Parameters
        ----------
        opened, covered
            Open peaks of the cells, on all their peaks and on the covered ones.
        known
            Open peaks of the reference's cells on all peaks of `opened`.
        rng
            Draws parts of the cells.
        """
        latent, offset = self._place(covered, self.latent_map.project(covered))
        return fine_tune(
            opened,
            covered,
            self.placement,
            latent,
            offset,
            rng,
            on_sphere=self.on_sphere,
            known=(known, self.latent),
        )

    def _place(
        self, opened: sparse.csr_matrix, coordinates: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        start = unit_rows(coordinates)
        if not self.placement.free_offset:
            return self.placement(opened, start, np.zeros(len(start)))
        n_open = np.diff(opened.indptr)
        return self.placement(opened, start, cell_offsets(n_open, self.decoder.intercepts))

    def _shown(self, latent: np.ndarray) -> np.ndarray:
        return unit_rows(latent) if self.on_sphere else latent

    def _measured(
        self,
        opened: sparse.csr_matrix,
        coordinates: np.ndarray,
        placed: tuple[np.ndarray, np.ndarray],
        spectral: np.ndarray,
    ) -> Measured:
        return Measured(
            self._shown(placed[0]),
            np.linalg.norm(coordinates, axis=1),
            self.placement.surprise(opened, *placed),
            np.diff(opened.indptr),
            spectral,
        )


def place_by_model(
    opened: sparse.csr_matrix, placement: Placement, mean_latent: np.ndarray, *, on_sphere: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the latent vectors and depth offsets of cells by the decoder alone, (cells, latent)
    and (cells,).

    Without cells of the reference no linear map gives a start: all cells start at the mean cell.
    The objective of `placement` is concave, so that only the number of steps depends on the start.

    Parameters
    ----------
    opened
        Open peaks on the covered peaks, (cells, peaks) CSR of ones.
    placement
        The decoder on the covered peaks.
    mean_latent
        Latent vector of the mean cell.
    on_sphere
        Whether latent vectors have the length √latent.
    """
    n_cells = opened.shape[0]
    start = np.tile(mean_latent, (n_cells, 1))
    offsets = np.zeros(n_cells)
    if placement.free_offset:
        level = placement.intercepts + placement.loadings @ mean_latent
        offsets = cell_offsets(np.diff(opened.indptr), level)
    latent, offsets = placement(opened, start, offsets)
    return unit_rows(latent) if on_sphere else latent, offsets


def joint_embedding(
    reference: sparse.csr_matrix, query: sparse.csr_matrix, n_dimensions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors of the cells of two data sets in one embedding, (cells, dimensions) each.

    Rows of weights, scaled to unit length, are decomposed together; the first direction, which is
    the mean cell, is left out.
    """
    from scipy.sparse.linalg import svds

    rows = sparse.vstack([reference, query]).tocsr().astype(np.float64)
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(1)).ravel())
    rows = (sparse.diags_array(1 / np.maximum(lengths, 1e-12)) @ rows).tocsr()
    n_singular = min(n_dimensions + 1, min(rows.shape) - 1)
    # a fixed start: that of SciPy is random
    start = np.random.default_rng(0).normal(size=min(rows.shape))
    vectors, values, _ = svds(rows, k=n_singular, v0=start)
    order = np.argsort(-values)[1:]
    coordinates = vectors[:, order] * values[order]
    coordinates /= np.maximum(np.linalg.norm(coordinates, axis=1, keepdims=True), 1e-12)
    return coordinates[: reference.shape[0]], coordinates[reference.shape[0] :]


def transfer(mapped: Mapped, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of the query's cells and their probabilities, (cells,) each.

    By logistic regression on the latent vectors, in units of √latent, and the embedding of both.

    Parameters
    ----------
    mapped
        The cells.
    labels
        Labels of the reference's cells, (cells,) str.
    """
    from sklearn.linear_model import LogisticRegression

    names = np.unique(labels)
    if len(names) == 1:
        n_cells = len(mapped.latent)
        return np.repeat(names, n_cells), np.ones(n_cells)
    model = LogisticRegression(C=REGULARISATION, max_iter=1000)
    model.fit(_label_features(mapped.reference), labels)
    probabilities = model.predict_proba(_label_features(mapped.query))
    return model.classes_[probabilities.argmax(1)], probabilities.max(1)


def _label_features(cells: Measured) -> np.ndarray:
    scale = np.sqrt(cells.latent.shape[1])
    return np.hstack([cells.latent / scale, cells.spectral])


def responsibilities(
    latent: np.ndarray, weights: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> np.ndarray:
    """Return p(c|z) ∝ π_c N(z; μ_c, diag σ²_c) of each cell, (cells, components) float32."""
    from scipy.special import softmax

    precision = 1 / variances
    distance = (
        np.square(latent) @ precision.T
        - 2 * latent @ (means * precision).T
        + (np.square(means) * precision).sum(1)
    )
    log_joint = np.log(weights) - (distance + np.log(variances).sum(1)) / 2
    return softmax(log_joint, axis=1).astype(np.float32)
