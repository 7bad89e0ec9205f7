"""Latent vectors of cells under a decoder that stays as it is.

The latent vector z and the depth offset s of a cell maximise

    Σ_j [x_j η_j − log(1 + exp η_j)] − λ/2 ‖z − z₀‖²,   η_j = v_j · z + b_j + s

over the peaks that are covered, by Newton steps from a start. z₀ is 0, or what an encoder expects
(`fine_tuning`). The Hessian of z, with s profiled
out, is taken as κ C: C is the covariance of the loadings, weighted by p̄ (1 − p̄) of the mean cell,
and κ the cell's Σ_j p_j (1 − p_j) over that of the mean cell, so that a step costs two products.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.special import expit, log_expit

#: λ, the precision of the normal prior of z: 0.3, 1 and 3 were compared on five labelled sets;
#: latent vectors have the length √latent, of which 3 is the precision of a direction that is known
#: to about half its length.
PRECISION = 3.0
#: Newton steps, damped because the Hessian is that of the mean cell; the last changes z by less
#: than a hundredth of its length in all labelled sets.
STEPS, DAMPING = 12, 0.7
#: Largest change of a coordinate or the offset in one step.
LARGEST_STEP = 1.5
#: Probabilities held at a time.
_VALUES = 1 << 22


class Placement:
    """Finds latent vectors of cells under fixed loadings and intercepts.

    Parameters
    ----------
    loadings, intercepts
        v and b, (peaks, latent) and (peaks,).
    mean_latent, offset
        Latent vector and depth offset of the mean cell.
    free_offset
        Whether each cell has a depth offset of its own, as in the models of `train` by default.
    """

    def __init__(
        self,
        loadings: np.ndarray,
        intercepts: np.ndarray,
        mean_latent: np.ndarray,
        offset: float,
        *,
        free_offset: bool = True,
    ) -> None:
        self.loadings = np.ascontiguousarray(loadings, np.float32)
        self.intercepts = np.asarray(intercepts, np.float32)
        self.free_offset, self.offset = free_offset, offset
        p = expit(loadings @ mean_latent + intercepts + offset)
        weight = p * (1 - p)
        self.information = max(float(weight.sum()), 1e-12)
        self.center = weight @ loadings / self.information if free_offset else 0 * mean_latent
        centered = loadings - self.center
        eigenvalues, self.basis = np.linalg.eigh((centered * weight[:, None]).T @ centered)
        self.eigenvalues = np.maximum(eigenvalues, 0)

    def __call__(
        self,
        opened: sparse.csr_matrix,
        latent: np.ndarray,
        offset: np.ndarray,
        expected: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return z (cells, latent) and s (cells,) of cells with these open peaks, from a start;
        `expected` is z₀, (cells, latent).
        """
        latent, offset = np.array(latent, np.float64), np.array(offset, np.float64)
        for rows in self._row_slices(opened):
            # what the data alone contribute to the gradient: Σ_j x_j v_j and the open peaks
            pull = opened[rows] @ self.loadings
            n_open = np.diff(opened.indptr)[rows].astype(np.float64)
            z, s = latent[rows], offset[rows]
            prior_mean = 0.0 if expected is None else expected[rows]
            for _ in range(STEPS):
                p = expit(self._logits(z, s))
                expected = p.sum(1, dtype=np.float64)
                gradient = pull - p @ self.loadings - PRECISION * (z - prior_mean)
                p *= 1 - p
                information = np.maximum(p.sum(1, dtype=np.float64), 1e-9)
                surplus = n_open - expected
                if self.free_offset:
                    gradient = gradient - surplus[:, None] * self.center
                curvature = (information / self.information)[:, None] * self.eigenvalues
                step = (gradient @ self.basis) / (curvature + PRECISION) @ self.basis.T
                step = DAMPING * np.clip(step, -LARGEST_STEP, LARGEST_STEP)
                z += step
                if self.free_offset:
                    change = surplus / information - step @ self.center
                    s += np.clip(change, -LARGEST_STEP, LARGEST_STEP)
        return latent, offset

    def surprise(
        self, opened: sparse.csr_matrix, latent: np.ndarray, offset: np.ndarray
    ) -> np.ndarray:
        """Return how unlikely the open peaks of cells are under the decoder, (cells,).

        −Σ_j (x_j − p_j) log odds_j in units of its own standard deviation under the decoder: mean 0
        and variance 1 for cells that the decoder describes.
        """
        result = np.empty(len(latent))
        for rows in self._row_slices(opened):
            logits = self._logits(latent[rows], offset[rows])
            p = expit(logits)
            observed = opened[rows].multiply(logits).sum(1)
            expected = (p * logits).sum(1, dtype=np.float64)
            variance = (p * (1 - p) * np.square(logits)).sum(1, dtype=np.float64)
            difference = expected - np.asarray(observed, np.float64).ravel()
            result[rows] = difference / np.sqrt(np.maximum(variance, 1e-12))
        return result

    def log_likelihood(
        self, opened: sparse.csr_matrix, latent: np.ndarray, offset: np.ndarray
    ) -> np.ndarray:
        """Return the log likelihood of the open and closed peaks of each cell, (cells,)."""
        result = np.empty(len(latent))
        for rows in self._row_slices(opened):
            logits = self._logits(latent[rows], offset[rows])
            observed = np.asarray(opened[rows].multiply(logits).sum(1), np.float64).ravel()
            result[rows] = observed + log_expit(-logits).sum(1, dtype=np.float64)
        return result

    def _logits(self, latent: np.ndarray, offset: np.ndarray) -> np.ndarray:
        logits = latent.astype(np.float32) @ self.loadings.T
        logits += self.intercepts
        logits += offset.astype(np.float32)[:, None]
        return logits

    def _row_slices(self, opened: sparse.csr_matrix) -> Iterator[slice]:
        height = max(1, _VALUES // max(opened.shape[1], 1))
        for start in range(0, opened.shape[0], height):
            yield slice(start, start + height)
