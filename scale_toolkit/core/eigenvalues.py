"""How many directions of a matrix exceed what noise alone gives, by random matrix theory (as in
SC3).

Every cell is scaled to mean 0 and variance 1 over its p peaks. The largest eigenvalue of the n × n
Gram matrix of n cells of pure noise follows a Tracy-Widom law (Johnstone 2001, Ann Stat 29:295;
Patterson et al. 2006, PLoS Genet 2:e190) with centre and scale::

    μ = (√(n−1) + √p)²     σ = (√(n−1) + √p) · (1/√(n−1) + 1/√p)^(1/3)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

Array = np.ndarray[Any, Any]
# A NumPy array or a SciPy sparse matrix.
Matrix = Any


def tracy_widom(n_peaks: int, n_cells: int) -> tuple[float, float]:
    """Return μ and σ of the largest eigenvalue of noise."""
    roots = float(np.sqrt(n_cells - 1)), float(np.sqrt(n_peaks))
    return sum(roots) ** 2, sum(roots) * (1 / roots[0] + 1 / roots[1]) ** (1 / 3)


def count_above(values: Matrix, limit: float, dense_up_to: int) -> int:
    """Count the eigenvalues above `limit` of the Gram matrix of standardised cells.

    Parameters
    ----------
    values
        Peaks × cells, float64, never made dense.
    limit
        See `tracy_widom`.
    dense_up_to
        Up to this many cells all eigenvalues are computed; above it only the largest, until one is
        below `limit`.
    """
    n_peaks, n_cells = values.shape
    mean = np.asarray(values.mean(axis=0)).ravel()
    squares = values.multiply(values) if sparse.issparse(values) else values**2
    variance = (np.asarray(squares.sum(axis=0)).ravel() - n_peaks * mean**2) / (n_peaks - 1)
    deviation = np.sqrt(np.maximum(variance, 0))
    # a constant cell has a deviation of 0 up to rounding: it is left out instead of being divided
    # by it
    varies = deviation > 1e-10 * np.maximum(np.abs(mean), 1e-300)
    scale = np.where(varies, 1 / np.where(deviation > 0, deviation, 1), 0)
    if n_cells > dense_up_to:
        return _count_largest(values, mean, scale, limit)
    gram = values.T @ values
    gram = gram.toarray() if sparse.issparse(gram) else gram
    # centred and scaled after the product, so that sparse values stay sparse
    gram = (gram - n_peaks * np.outer(mean, mean)) * np.outer(scale, scale)
    return int(np.count_nonzero(np.linalg.eigvalsh(gram) > limit))


def _count_largest(values: Matrix, mean: Array, scale: Array, limit: float) -> int:
    """Count eigenvalues above `limit` by matrix-vector products, in batches of the largest."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    n_peaks, n_cells = values.shape

    def product(v: Array) -> Array:
        w = scale * np.ravel(v)
        return scale * (values.T @ (values @ w) - n_peaks * mean * (mean @ w))

    gram = LinearOperator((n_cells, n_cells), matvec=product, dtype=np.float64)
    # a fixed start: that of SciPy is random, and so would be the last digits
    start = np.random.default_rng(0).normal(size=n_cells)
    # doubled until one is below the limit
    n_eigenvalues = 16
    while True:
        n_eigenvalues = min(n_eigenvalues, n_cells - 1)
        eigenvalues = eigsh(gram, k=n_eigenvalues, v0=start, return_eigenvectors=False)
        if eigenvalues.min() <= limit or n_eigenvalues == n_cells - 1:
            return int(np.count_nonzero(eigenvalues > limit))
        n_eigenvalues *= 2
