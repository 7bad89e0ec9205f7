"""A start for the latent space: the directions in which cells differ by more than chance, seen through three weightings.

Each view weights the open peaks, compares all pairs of cells (the Gram matrix of the weighted rows) and forgets what a cell
shares with itself: the diagonal holds depth and chance, and no kinship. Leading eigenvectors are coordinates. Two rules
replace constants:

* the same weighting of shuffled open peaks, with the same sums of cells and peaks, shows how large an eigenvalue chance
  gives (`null_edge`); the number of dimensions is the number of eigenvalues above it;
* an eigenvalue λ above the edge e is shrunk to √(λ² − e²), the optimal shrinkage for a matrix whose noise spectrum is a
  semicircle of radius e (Gavish & Donoho 2017, IEEE Trans. Inf. Theory 63:2137, Frobenius loss).

The views' coordinates, to unit length, are put side by side and reduced to the median number of dimensions.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scale_toolkit.core.compiled import compiled
from scale_toolkit.core.rows import RowSource, binarise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scale_toolkit.model.products import Products, ViewRows

MOST_DIMENSIONS = 40  # eigenvectors of a view at most: 30 planted types of `--like mouse-atlas` need 29
FEWEST_DIMENSIONS = 2  # a plane, even if nothing rises above chance: one axis cannot be drawn or clustered by angle
SPARE = 8  # columns of a block beyond the eigenvectors asked for
FIRST_BLOCKS = 7  # Krylov blocks from random columns
NEXT_BLOCKS = 3  # Krylov blocks from another view's eigenvectors, or from those of a part of the cells
NULL_BLOCKS = 12  # Krylov blocks of two columns for the one eigenvalue that chance gives
#: Cells with about this many open peaks in all give the eigenvectors from which those of all cells are found.
SUBSET_PEAKS = 20_000_000
RIDGE, RIDGE_STEPS = 0.1, 8  # of the encoder's linear map: share of a row's squared length, conjugate gradient steps
_BLOCK_PEAKS = 1_000_000  # stored entries of a block of rows


@compiled("void(i4[::1], i8[::1], f4[::1], f4[:, ::1], f4[:, ::1])")
def _multiply(indices, indptr, data, dense, product):
    """Write rows · dense into `product`."""
    for i in range(len(indptr) - 1):
        row = product[i]
        row[:] = 0
        for entry in range(indptr[i], indptr[i + 1]):
            loading, value = dense[indices[entry]], data[entry]
            for c in range(row.shape[0]):
                row[c] += value * loading[c]


@compiled("void(i4[::1], i8[::1], f4[::1], f4[:, ::1], f4[:, ::1])")
def _multiply_transposed(indices, indptr, data, dense, total):
    """Add rowsᵀ · dense to `total`."""
    for i in range(len(indptr) - 1):
        row = dense[i]
        for entry in range(indptr[i], indptr[i + 1]):
            loading, value = total[indices[entry]], data[entry]
            for c in range(row.shape[0]):
                loading[c] += value * row[c]


class WeightedRows:
    """Products of weighted open peaks (cells × peaks) with narrow dense matrices, in passes over blocks of rows.

    Parameters
    ----------
    source
        Cells; only a block of rows for each thread is ever copied.
    weigh
        Turns rows of counts into rows of weights, float32.
    n_threads
        Threads; results are the same bit for bit at the same number.
    cells
        Which cells; None: all.
    """

    def __init__(
        self,
        source: RowSource,
        weigh: Callable[[sparse.csr_matrix], sparse.csr_matrix],
        n_threads: int,
        cells: np.ndarray | None = None,
    ) -> None:
        self.source, self.weigh, self.n_threads = source, weigh, n_threads
        self.cells = np.arange(source.n_cells) if cells is None else cells
        first = source.rows(self.cells[: min(len(self.cells), 256)])
        size = int(np.clip(_BLOCK_PEAKS // max(first.nnz // first.shape[0], 1), 1, 1 << 16))
        self.parts = [slice(i, i + size) for i in range(0, len(self.cells), size)]
        self.shape = (len(self.cells), source.n_peaks)

    def _rows(self, part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = self.weigh(self.source.rows(self.cells[part]))
        indices, pointers = rows.indices.astype(np.int32, copy=False), rows.indptr.astype(np.int64, copy=False)
        return indices, pointers, rows.data.astype(np.float32, copy=False)

    def _each_thread(self, work: Callable[[int], None]) -> None:
        n = min(self.n_threads, len(self.parts))
        if n == 1:
            work(0)
            return
        with ThreadPoolExecutor(n) as pool:
            list(pool.map(work, range(n)))

    def _mine(self, thread: int) -> Iterator[slice]:
        yield from self.parts[thread :: min(self.n_threads, len(self.parts))]

    def times(self, dense: np.ndarray) -> np.ndarray:
        """Rows · dense, (cells, c) float32."""
        dense = np.ascontiguousarray(dense, np.float32)
        product = np.empty((self.shape[0], dense.shape[1]), np.float32)

        def work(thread: int) -> None:
            for part in self._mine(thread):
                _multiply(*self._rows(part), dense, product[part])

        self._each_thread(work)
        return product

    def transposed_times(self, dense: np.ndarray) -> np.ndarray:
        """Rowsᵀ · dense, (peaks, c) float32."""
        dense = np.ascontiguousarray(dense, np.float32)
        totals = [np.zeros((self.shape[1], dense.shape[1]), np.float32) for _ in range(min(self.n_threads, len(self.parts)))]

        def work(thread: int) -> None:
            for part in self._mine(thread):
                _multiply_transposed(*self._rows(part), dense[part], totals[thread])

        self._each_thread(work)
        return sum(totals[1:], totals[0])

    def square_norms(self) -> np.ndarray:
        """Sum of squared weights of each row, (cells,) float64."""
        norms = np.empty(self.shape[0])

        def work(thread: int) -> None:
            for part in self._mine(thread):
                _, pointers, data = self._rows(part)
                ends = np.concatenate([[0.0], np.cumsum(np.square(data, dtype=np.float64))])
                norms[part] = np.diff(ends[pointers])

        self._each_thread(work)
        return norms


class Kinship:
    """The Gram matrix of weighted rows without its diagonal; for cosine views, normalised by each cell's total.

    With rows w_i to unit length first (cosine) and degree d_i = Σ_{k≠i} w_i·w_k, the symmetric normalised Laplacian's
    part d_i^−½ (w_i·w_k) d_k^−½, i ≠ k.
    """

    def __init__(self, rows: WeightedRows | ViewRows, *, cosine: bool) -> None:
        self.rows = rows
        squares = rows.square_norms()
        scale = np.ones(len(squares))
        if cosine:
            scale = 1 / np.sqrt(np.maximum(squares, 1e-30))
            degree = scale * rows.times(rows.transposed_times(scale[:, None]))[:, 0] - squares * scale**2
            scale /= np.sqrt(np.maximum(degree, 1e-30))
            scale[degree <= 1e-9] = 0  # a cell that shares nothing with any other
        self.scale = scale.astype(np.float32)[:, None]
        self.diagonal = (squares * scale**2).astype(np.float32)[:, None]

    def times(self, block: np.ndarray) -> np.ndarray:
        """The matrix times a block, (cells, c) float32."""
        return self.scale * self.rows.times(self.loadings(block)) - self.diagonal * block

    def loadings(self, block: np.ndarray) -> np.ndarray:
        """Weighted rowsᵀ · block, (peaks, c)."""
        return self.rows.transposed_times(self.scale * block)


def leading_eigenvectors(matrix: Kinship, block: np.ndarray, n: int, n_blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """The `n` largest eigenvalues and their vectors, by block Krylov (Musco & Musco 2015, algorithm 2).

    Parameters
    ----------
    matrix
        Symmetric; may have negative eigenvalues.
    block
        Columns to begin with, (cells, c).
    n_blocks
        Products with the matrix.

    Returns
    -------
    Eigenvalues (n,) in falling order, and vectors (cells, n) float32; fewer if the space has fewer dimensions.
    """
    basis = np.empty((len(block), 0), np.float32)
    images = np.empty((len(block), 0), np.float32)
    for _ in range(n_blocks):
        new = _orthonormal_to(basis, block)
        if new.shape[1] == 0:
            break
        block = matrix.times(new)
        basis, images = np.hstack([basis, new]), np.hstack([images, block])
    inner = basis.T.astype(np.float64) @ images
    values, mix = np.linalg.eigh((inner + inner.T) / 2)
    chosen = np.argsort(-values, kind="stable")[:n]
    return values[chosen], basis @ mix[:, chosen].astype(np.float32)


def _orthonormal_to(basis: np.ndarray, block: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what `block` (cells, c) adds to `basis` (cells, m): (cells, up to c)."""
    rest = block
    for _ in range(2):
        rest = rest - basis @ (basis.T @ rest)
    gram = (rest.T.astype(np.float64) @ rest)
    sizes, mix = np.linalg.eigh(gram)
    kept = sizes > 1e-9 * max(np.square(block, dtype=np.float64).sum(), 1e-300)
    if basis.shape[1] + kept.sum() > len(block):
        kept &= np.arange(len(kept)) >= len(kept) - (len(block) - basis.shape[1])
    new = rest @ (mix[:, kept] / np.sqrt(sizes[kept])).astype(np.float32)
    return np.linalg.qr(new - basis @ (basis.T @ new))[0]


@dataclass(frozen=True)
class View:
    """How a view weights a row of open peaks, given in how many of how many cells each peak is open."""

    name: str
    cosine: bool
    column_weights: Callable[[np.ndarray, int], np.ndarray]
    log: bool = False

    def peak_weights(self, peak_sums: np.ndarray, n_cells: int) -> np.ndarray:
        """Weights of the peaks, (peaks,) float32."""
        return self.column_weights(np.maximum(peak_sums, 1), n_cells).astype(np.float32)

    def weighting(self, peak_sums: np.ndarray, n_cells: int) -> Callable[[sparse.csr_matrix], sparse.csr_matrix]:
        """A function that turns rows of counts into rows of weights."""
        column = self.peak_weights(peak_sums, n_cells)

        def weigh(counts: sparse.csr_matrix) -> sparse.csr_matrix:
            rows = binarise(counts)
            weights = column[rows.indices]
            if self.log:
                lengths = np.diff(rows.indptr)
                weights *= np.repeat((1e4 / np.maximum(lengths, 1)).astype(np.float32), lengths)
                np.log1p(weights, out=weights)
            return sparse.csr_matrix((weights, rows.indices, rows.indptr), rows.shape)

        return weigh


#: Weightings of the start. Together they hold from 30 open peaks a cell to 10,000, where each of them fails somewhere
#: (benchmarks/RESULTS.md): log TF-IDF is flat for sparse cells, the cosine views give rare peaks too much where peaks are many.
VIEWS = (
    View("idf cosine", True, lambda sums, n: np.log(n / (1 + sums)).clip(1e-3)),
    View("1/sqrt(df) cosine", True, lambda sums, n: sums**-0.5),
    View("log TF-IDF", False, lambda sums, n: np.log1p(n / sums), log=True),
)


class Shuffled:
    """Rows whose open peaks are dealt out again at random: the sums of cells and of peaks stay, all kinship goes.

    A peak dealt twice to a cell is kept once, so that sums shrink by a few per cent in very dense cells.
    """

    def __init__(self, source: RowSource, cells: np.ndarray, rng: np.random.Generator) -> None:
        rows = binarise(source.rows(cells))
        indices = rng.permutation(rows.indices)
        shuffled = sparse.csr_matrix((np.ones(len(indices), np.float32), indices, rows.indptr.copy()), rows.shape)
        shuffled.sum_duplicates()
        shuffled.data[:] = 1
        self._rows = shuffled
        self.peak_sums = np.bincount(shuffled.indices, minlength=rows.shape[1])
        self.n_cells, self.n_peaks = shuffled.shape

    def rows(self, index: np.ndarray) -> sparse.csr_matrix:
        """Shuffled rows of these cells."""
        return self._rows[index]


def null_edge(
    view: View, products: Products, cells: np.ndarray, n_cells: int, rng: np.random.Generator
) -> float:
    """The second eigenvalue that shuffled open peaks of `n_cells` cells give: what chance can reach.

    Computed from `cells`. If those are fewer than `n_cells`, extrapolated from them and from a quarter of them along
    a + b/√n, the upper edge of the Marchenko-Pastur law less the diagonal, as a share of the first eigenvalue.
    """

    def edge(n: int) -> tuple[float, float]:
        some = cells if n == len(cells) else np.sort(rng.choice(cells, n, replace=False))
        shuffled, peak_sums = products.shuffled(some, rng)
        matrix = Kinship(shuffled.weighted(view, peak_sums, n), cosine=view.cosine)
        block = np.column_stack([np.ones(n), rng.standard_normal((n, 2))]).astype(np.float32)
        values, _ = leading_eigenvectors(matrix, block, 2, NULL_BLOCKS)
        if len(values) < 2 or values[0] <= 0:
            return 0.0, 0.0
        return float(values[1] / values[0]), float(values[0])

    many, first = edge(len(cells))
    if len(cells) == n_cells:
        return many * first
    n_few = max(len(cells) // 4, 2)
    slope = (edge(n_few)[0] - many) / (n_few**-0.5 - len(cells) ** -0.5)
    growth = 1 if view.cosine else n_cells / len(cells)  # of the first eigenvalue
    return (many - slope * (len(cells) ** -0.5 - n_cells**-0.5)) * first * growth


@dataclass(frozen=True)
class Start:
    """Where training begins.

    Attributes
    ----------
    coordinates
        Of all cells, rows of unit length, columns in falling order of their variance: (cells, d) float32.
    above_chance
        Number of eigenvalues above the null's of each view, by its name.
    """

    coordinates: np.ndarray
    above_chance: dict[str, int]


def find_start(products: Products, peak_sums: np.ndarray, n_latent: int | None, seed: int) -> Start:
    """Return coordinates of all cells from all views; `n_latent` of them, or as many as rise above chance.

    Parameters
    ----------
    products
        Makes the views' rows of cells, on the host or on a GPU.
    peak_sums
        Number of cells in which each peak is open, (peaks,).
    n_latent
        Number of coordinates; None: the median over the views of the number of eigenvalues above chance.
    seed
        Of the random vectors and of the shuffled peaks.
    """
    rng = np.random.default_rng(seed)
    n_cells = products.n_cells
    n_open = max(int(peak_sums.sum()) / n_cells, 1)
    n_some = min(n_cells, int(np.ceil(SUBSET_PEAKS / n_open)))
    some = np.arange(n_cells) if n_some == n_cells else np.sort(rng.choice(n_cells, n_some, replace=False))
    most = max(min(max(MOST_DIMENSIONS, n_latent or 0), n_cells - 2, len(peak_sums) - 2), 1)
    block = np.column_stack([np.ones(n_some), rng.standard_normal((n_some, most + SPARE))]).astype(np.float32)
    n_blocks = FIRST_BLOCKS
    coordinates, above = [], {}
    for view in VIEWS:
        matrix = Kinship(products.weighted(view, peak_sums, n_cells, some), cosine=view.cosine)
        values, vectors = leading_eigenvectors(matrix, block, most + 1, n_blocks)
        block, n_blocks = np.hstack([vectors, block[:, -SPARE:]]), NEXT_BLOCKS
        if n_some < n_cells:
            rows = products.weighted(view, peak_sums, n_cells)
            guess = rows.times(matrix.loadings(vectors) / np.maximum(np.abs(values), 1e-12))
            matrix = Kinship(rows, cosine=view.cosine)
            values, vectors = leading_eigenvectors(matrix, matrix.scale * guess, most + 1, NEXT_BLOCKS - 1)
        edge = null_edge(view, products, some, n_cells, rng)
        above[view.name] = int((values[1:] > edge).sum())
        n_kept = max(above[view.name], FEWEST_DIMENSIONS, n_latent or 0)
        coordinates.append(_unit(_shrunk(values[1 : n_kept + 1], vectors[:, 1 : n_kept + 1], edge)))
    n_latent = n_latent or max(int(np.median(list(above.values()))), FEWEST_DIMENSIONS)
    return Start(_unit(_reduced(np.hstack(coordinates), n_latent)), above)


def _shrunk(values: np.ndarray, vectors: np.ndarray, edge: float) -> np.ndarray:
    """Vectors times the square root of their shrunk eigenvalue; those at the edge or below it keep a tenth of the edge.

    The tenth matters only if more coordinates are asked for than rise above chance.
    """
    shrunk = np.sqrt(np.maximum(values**2 - edge**2, (0.1 * edge) ** 2 + 1e-12))
    return vectors * np.sqrt(shrunk).astype(np.float32)


def _reduced(stacked: np.ndarray, n: int) -> np.ndarray:
    """The `n` leading principal coordinates (about the origin) of stacked coordinates, zeros if there are fewer."""
    sizes, mix = np.linalg.eigh(stacked.T.astype(np.float64) @ stacked)
    leading = mix[:, np.argsort(-sizes, kind="stable")[:n]]
    reduced = np.zeros((len(stacked), n), np.float32)
    reduced[:, : leading.shape[1]] = stacked @ leading.astype(np.float32)
    return reduced


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows to unit length; a row of zeros stays one."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def linear_map(
    rows: WeightedRows | ViewRows, coordinates: np.ndarray, ridge: float = RIDGE, n_steps: int = RIDGE_STEPS
) -> np.ndarray:
    """Return the loadings M (peaks, d) for which rows · M are the coordinates, by ridge regression.

    The dual problem (R Rᵀ + λ I) α = S, M = Rᵀ α, by conjugate gradients; λ is `ridge` times the mean squared length of a row.
    """
    target = coordinates.astype(np.float32)
    penalty = np.float32(ridge * rows.square_norms().mean())
    dual, residual = np.zeros_like(target), target.copy()
    direction, size = residual.copy(), np.square(residual, dtype=np.float64).sum(0)
    for _ in range(n_steps):
        image = rows.times(rows.transposed_times(direction)) + penalty * direction
        step = size / np.maximum((direction.astype(np.float64) * image).sum(0), 1e-30)
        dual += step.astype(np.float32) * direction
        residual -= step.astype(np.float32) * image
        new_size = np.square(residual, dtype=np.float64).sum(0)
        direction = residual + (new_size / np.maximum(size, 1e-30)).astype(np.float32) * direction
        size = new_size
    return rows.transposed_times(dual)
