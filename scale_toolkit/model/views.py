"""A start for the latent space: the directions in which cells differ by more than chance, seen
through three weightings.

Each view weights the open peaks, takes away what depth alone would open (`core.depth.DepthAlone`),
compares all pairs of cells (the Gram matrix of these rows) and sets the diagonal to 0: it reflects
depth and chance, not similarity between cells. In deep cells the frequent peaks are open anyway, so
that a deep cell's share of the rare ones is higher: without the second step that curve is an
eigenvector of its own, in cells and, larger than chance, in shuffled cells too.
Leading eigenvectors are coordinates. Two rules replace constants:

* the same weighting of shuffled open peaks, with the same sums of cells and peaks, shows how large
  an eigenvalue chance gives (`Chance`); the number of dimensions is the number of eigenvalues
  above it;
* an eigenvalue λ above the edge e is shrunk to √(λ² − e²), the optimal shrinkage for a matrix whose
  noise spectrum is a semicircle of radius e (Gavish & Donoho 2017, IEEE Trans. Inf. Theory 63:2137,
  Frobenius loss).

The views' coordinates, to unit length, are put side by side and reduced to the largest number of
dimensions that one of them shows: types that differ in few peaks rise above chance in one view
before they do in the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from scale_toolkit.core.depth import DepthAlone, depth_alone
from scale_toolkit.model.kinship import VIEWS, Kinship, View, kinship_of, like

if TYPE_CHECKING:
    from collections.abc import Callable

    from scale_toolkit.model.products import Products, WeightedProducts

# eigenvectors of a view at most: 30 planted types of `--like mouse-atlas` need 29
MOST_DIMENSIONS = 40
#: Even if fewer rise above chance: rows of unit length in two dimensions lie on a circle, where
#: Leiden cut two types of `pbmc_two_clusters` anywhere (ARI 0.14 against 0.92 in three).
FEWEST_DIMENSIONS = 3
FIRST_DIMENSIONS = 16  # eigenvectors of a view at first; doubled as long as all are above chance
SPARE = 8  # columns of a block beyond the eigenvectors asked for
#: Krylov blocks from random columns, also of the eigenvectors that are added to fewer of the same
#: view: after three of them, 16 of 26 eigenvalues of 30 types were above chance.
FIRST_BLOCKS = 7
NEXT_BLOCKS = 3  # Krylov blocks from another view's eigenvectors
#: Krylov blocks of all cells, from the eigenvectors of a part of them. After two, the direction
#: between two types of 100,000 cells was still in the noise (k-means ARI 0.90 against 0.99).
ALL_CELLS_BLOCKS = 6
NULL_BLOCKS = 12  # Krylov blocks of three columns for the one eigenvalue that chance gives
#: Cells with about this many open peaks give the eigenvectors from which those of all are found.
SUBSET_PEAKS = 40_000_000
#: Cells with about this many open peaks are shuffled. The null's edge of all cells is extrapolated,
#: the higher the fewer are shuffled: from 4 million open peaks it was 30 % above the noise of
#: 20,000 cells, and hid three of 30 types, and four of seven dimensions of eight types.
NULL_PEAKS = 16_000_000
#: Rows of a product in float64.
_BLOCK = 1 << 16
PROBES = 8  # random columns that measure the spread of all eigenvalues
RIDGE = 0.1  # of the encoder's map, as a share of a squared row
#: Two products, a residual of 0.1, cost 0.03 of ARI on sets of 130 to 320 cells.
MAP_TOLERANCE, MOST_MAP_BLOCKS = 0.02, 8


def leading_eigenvectors(
    matrix: Kinship, block: torch.Tensor, n: int, n_blocks: int
) -> tuple[np.ndarray, torch.Tensor]:
    """The `n` largest eigenvalues and their vectors, by block Krylov (Musco & Musco 2015, algorithm
    2).

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
    Eigenvalues (n,) in falling order, and vectors (cells, n) float32; fewer if the space has fewer
    dimensions.
    """
    basis = images = block[:, :0]
    for _ in range(n_blocks):
        new = _orthonormal_to(basis, block)
        if new.shape[1] == 0:
            break
        block = matrix.times(new)
        basis, images = torch.hstack([basis, new]), torch.hstack([images, block])
    inner = _inner(basis, images).cpu().numpy()
    values, mix = np.linalg.eigh((inner + inner.T) / 2)
    chosen = np.argsort(-values, kind="stable")[:n]
    return values[chosen], basis @ like(basis, mix[:, chosen])


def _orthonormal_to(basis: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of what `block` (cells, c) adds to `basis` (cells, m): (cells, up to
    c).
    """
    residual = block
    for _ in range(2):
        residual = residual - basis @ (basis.T @ residual)
    gram = _inner(residual, residual).cpu().numpy()
    sizes, mix = np.linalg.eigh(gram)
    is_large = sizes > 1e-9 * max(float(block.double().square().sum()), 1e-300)
    if basis.shape[1] + is_large.sum() > len(block):
        is_large &= np.arange(len(is_large)) >= len(is_large) - (len(block) - basis.shape[1])
    new = residual @ like(block, mix[:, is_large] / np.sqrt(sizes[is_large]))
    return torch.linalg.qr(new - basis @ (basis.T @ new))[0]


class Shuffles:
    """Cells whose open peaks are dealt out again at random, for the nulls of all views.

    Parameters
    ----------
    products
        Makes them.
    cells
        Which cells; if they are fewer than `n_cells`, a quarter of them is dealt out too.
    n_cells
        Number of all cells.
    rng
        Deals.
    """

    def __init__(
        self, products: Products, cells: np.ndarray, n_cells: int, rng: np.random.Generator
    ) -> None:
        self.sizes = (
            [len(cells)] if len(cells) == n_cells else [len(cells), max(len(cells) // 4, 2)]
        )
        self.dealt = []
        for n in self.sizes:
            chosen = cells if n == len(cells) else np.sort(rng.choice(cells, n, replace=False))
            shuffled, peak_sums = products.shuffled(chosen, rng)
            self.dealt.append((shuffled, peak_sums, depth_alone(shuffled.n_open(), peak_sums)))

    def chance(self, view: View, n_cells: int, rng: np.random.Generator) -> Chance:
        """What shuffled open peaks of `n_cells` cells give.

        If fewer are shuffled, extrapolated from them and from a quarter of them along a + b/√n, the
        upper edge of the Marchenko-Pastur law less the diagonal, as a share of what grows with the
        number of cells: the degrees of a cosine view, the number of cells without.
        """
        shares = np.array([self._shares(view, i, rng) for i in range(len(self.sizes))])
        expected = shares[0]
        if len(self.sizes) > 1:
            many, few = (n**-0.5 for n in self.sizes)
            slope = (shares[1] - expected) / (few - many)
            expected = expected - slope * (many - n_cells**-0.5)
        edge, spread = expected * (1 if view.cosine else n_cells)
        error = (PROBES * self.sizes[0]) ** -0.5 + (PROBES * n_cells) ** -0.5
        error += n_cells ** (-2 / 3)
        return Chance(float(edge), float(spread), 2 * error)

    def _shares(self, view: View, i: int, rng: np.random.Generator) -> tuple[float, float]:
        """The largest eigenvalue and the standard deviation of all; without cosine as shares of
        the number of cells.
        """
        (products, peak_sums, depth), n = self.dealt[i], self.sizes[i]
        matrix = kinship_of(products, view, peak_sums, n, depth)
        block = like(matrix.scale, rng.standard_normal((n, 3)))
        values, _ = leading_eigenvectors(matrix, block, 1, NULL_BLOCKS)
        _, spread = Remainder(matrix, rng).moments(values[:0], block[:, :0])
        unit = 1 if view.cosine else n
        return max(float(values[0]), 0.0) / unit, spread / unit


class Remainder:
    """What is left of a matrix without some of its eigenvectors, measured by random columns."""

    def __init__(self, matrix: Kinship, rng: np.random.Generator) -> None:
        self.probes = like(matrix.scale, rng.standard_normal((len(matrix.scale), PROBES)))
        self.images = matrix.times(self.probes)

    def moments(self, values: np.ndarray, vectors: torch.Tensor) -> tuple[float, float]:
        """Mean and standard deviation of the eigenvalues besides these (Hutchinson 1990, Commun.
        Stat. Simul. Comput. 19:433).

        The matrix has no diagonal, so that all eigenvalues have mean 0.
        """
        shares = like(vectors, values)[:, None] * (vectors.T @ self.probes)
        square = float((self.images - vectors @ shares).double().square().mean())
        mean = -float(values.sum()) / len(self.probes)
        return mean, max(square - mean**2, 0.0) ** 0.5


@dataclass(frozen=True)
class Chance:
    """What independent open peaks with the same sums give.

    Attributes
    ----------
    edge
        The largest eigenvalue.
    spread
        The standard deviation of the eigenvalues.
    error
        Two standard errors, as a share: of a quotient of two such deviations, and of the largest
        eigenvalue, which varies as n^(−2/3) about its mean (Tracy & Widom 1994, Commun. Math. Phys.
        159:151).
    """

    edge: float
    spread: float
    error: float

    def reach(self, remainder: Remainder, values: np.ndarray, vectors: torch.Tensor) -> float:
        """What chance can reach in a matrix with these leading eigenvalues and vectors.

        The edge, lowered as far as the rest of the matrix spreads less than that of shuffled cells:
        the variance p (1 − p) of an open peak is less where types differ in p than at their mean.
        What rises above the edge is left out first, then what rises above the lowered edge as well.
        """
        edge = self.edge
        for _ in range(2):
            n_above = int((values > edge).sum())
            mean, spread = remainder.moments(values[:n_above], vectors[:, :n_above])
            ratio = spread / max(self.spread, 1e-300) * (1 + self.error)
            edge = min(self.edge, mean + self.edge * ratio)
        return edge


@dataclass(frozen=True)
class Start:
    """The start of training.

    Attributes
    ----------
    coordinates
        Of all cells, rows of unit length, columns in falling order of their variance: (cells, d)
        float32.
    above_chance
        Number of eigenvalues above the null's of each view, by its name.
    """

    coordinates: np.ndarray
    above_chance: dict[str, int]


def find_start(
    products: Products,
    peak_sums: np.ndarray,
    n_latent: int | None,
    seed: int,
    on_view: Callable[[str, int, int], None] | None = None,
) -> Start:
    """Return coordinates of all cells from all views.

    Parameters
    ----------
    products
        Makes the views' rows of cells, on the host or on a GPU.
    peak_sums
        Number of cells in which each peak is open, (peaks,).
    n_latent
        Number of coordinates; None: the largest number of eigenvalues above chance in a view.
    seed
        Of the random vectors and of the shuffled peaks.
    on_view
        Called with a message, the views that are done, and their number.
    """
    rng = np.random.default_rng(seed)
    n_cells = products.n_cells
    n_open = max(int(peak_sums.sum()) / n_cells, 1)
    subset, null_cells = (
        _random_cells(n_cells, n / n_open, rng) for n in (SUBSET_PEAKS, NULL_PEAKS)
    )
    depth = depth_alone(products.n_open(), peak_sums)
    most = max(min(max(MOST_DIMENSIONS, n_latent or 0), n_cells - 2, len(peak_sums) - 2), 1)
    n, n_blocks = min(max(FIRST_DIMENSIONS, n_latent or 0), most), FIRST_BLOCKS
    shuffles = Shuffles(products, null_cells, n_cells, rng)
    block, loadings = torch.zeros((n_cells, 0), device=products.device), None
    if len(subset) < n_cells:
        loadings = _leading_loadings(products, peak_sums, depth, subset, n, rng)
        n_blocks = ALL_CELLS_BLOCKS
    coordinates, above_chance = [], {}
    for n_done, view in enumerate(VIEWS):
        if on_view is not None:
            on_view(f"start by {view.name}", n_done, len(VIEWS))
        chance = shuffles.chance(view, n_cells, rng)
        matrix = kinship_of(products, view, peak_sums, n_cells, depth)
        if loadings is not None:
            block, loadings = matrix.scale * matrix.beyond_depth(loadings), None
        remainder = Remainder(matrix, rng)
        while True:
            spare = rng.standard_normal((n_cells, n + SPARE - block.shape[1]))
            block = torch.hstack([block, like(block, spare)])
            values, block = leading_eigenvectors(matrix, block, n, n_blocks)
            edge = chance.reach(remainder, values, block)
            if values[-1] <= edge or n == most:
                break
            n, n_blocks = min(2 * n, most), FIRST_BLOCKS
        n_blocks = NEXT_BLOCKS
        above_chance[view.name] = int((values > edge).sum())
        n_kept = max(above_chance[view.name], FEWEST_DIMENSIONS, n_latent or 0)
        coordinates.append(_unit(_shrunk(values[:n_kept], block[:, :n_kept], edge)))
    n_latent = n_latent or max(*above_chance.values(), FEWEST_DIMENSIONS)
    reduced = _unit(_reduced(torch.hstack(coordinates), n_latent))
    return Start(reduced.cpu().numpy(), above_chance)


def _leading_loadings(
    products: Products,
    peak_sums: np.ndarray,
    depth: DepthAlone,
    cells: np.ndarray,
    n: int,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Loadings of the first view's `n` leading eigenvectors of some cells, which carry them to all
    cells: (peaks, n).
    """
    matrix = kinship_of(products, VIEWS[0], peak_sums, products.n_cells, depth, cells)
    block = like(matrix.scale, rng.standard_normal((len(cells), n + SPARE)))
    values, vectors = leading_eigenvectors(matrix, block, n, FIRST_BLOCKS)
    return matrix.loadings(vectors) / like(vectors, np.maximum(np.abs(values), 1e-12))


def _random_cells(n_cells: int, n: float, rng: np.random.Generator) -> np.ndarray:
    """All cells, or about `n` random ones in order."""
    if n >= n_cells:
        return np.arange(n_cells)
    return np.sort(rng.choice(n_cells, int(np.ceil(n)), replace=False))


def _shrunk(values: np.ndarray, vectors: torch.Tensor, edge: float) -> torch.Tensor:
    """Vectors times the square root of their shrunk eigenvalue; those at the edge or below it keep
    a tenth of the edge.

    The tenth matters only if more coordinates are asked for than rise above chance.
    """
    shrunk = np.sqrt(np.maximum(values**2 - edge**2, (0.1 * edge) ** 2 + 1e-12))
    return vectors * like(vectors, np.sqrt(shrunk))


def _reduced(stacked: torch.Tensor, n: int) -> torch.Tensor:
    """The `n` leading principal coordinates (about the origin) of stacked coordinates, zeros if
    there are fewer; the sum of their cubes is not negative, so that their sign is defined.
    """
    sizes, mix = np.linalg.eigh(_inner(stacked, stacked).cpu().numpy())
    leading = mix[:, np.argsort(-sizes, kind="stable")[:n]]
    reduced = stacked.new_zeros((len(stacked), n))
    coordinates = stacked @ like(stacked, leading)
    is_negative = coordinates.double().pow(3).sum(0) < 0
    reduced[:, : leading.shape[1]] = torch.where(is_negative, -coordinates, coordinates)
    return reduced


def _inner(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Leftᵀ · right of two matrices with a row a cell, (p, q) float64.

    Rows are made float64 a block at a time, so that memory does not follow the number of cells.
    """
    total = left.new_zeros((left.shape[1], right.shape[1]), dtype=torch.float64)
    for left_block, right_block in zip(left.split(_BLOCK), right.split(_BLOCK), strict=True):
        total += left_block.T.double() @ right_block.double()
    return total


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows to unit length; a row of zeros stays one."""
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def linear_map(
    rows: WeightedProducts,
    coordinates: np.ndarray,
    ridge: float = RIDGE,
    tolerance: float = MAP_TOLERANCE,
    n_blocks: int = MOST_MAP_BLOCKS,
) -> np.ndarray:
    """Return the loadings M (peaks, d) for which rows · M are the coordinates, by ridge regression.

    The dual solution M = Rᵀ α of min ‖R M − S‖² + λ ‖M‖² solves (R Rᵀ + λ) α = S; α is searched in
    the growing block Krylov space of R Rᵀ, S and a constant column. λ is `ridge` times the mean
    squared length of a row.

    Parameters
    ----------
    rows
        R, weighted open peaks.
    coordinates
        S, (cells, d).
    ridge
        Penalty.
    tolerance
        Residual S − (R Rᵀ + λ) α at which the search ends, as a share of S (Frobenius norms).
    n_blocks
        Products with R Rᵀ at most.
    """
    squares = rows.square_norms()
    penalty = ridge * float(squares.mean())
    target = torch.from_numpy(coordinates.astype(np.float32)).to(squares.device)
    largest = tolerance * float(target.norm())
    basis = images = alpha = target[:, :0]
    block = torch.hstack([target, torch.ones_like(target[:, :1])])
    for _ in range(n_blocks):
        new = _orthonormal_to(basis, block)
        if new.shape[1] == 0:
            break
        block = rows.times(rows.transposed_times(new))
        basis, images = torch.hstack([basis, new]), torch.hstack([images, block])
        mix = like(basis, _ridge_solution(basis, images, target, penalty))
        alpha = basis @ mix
        if float((target - images @ mix - penalty * alpha).norm()) <= largest:
            break
    return rows.transposed_times(alpha).cpu().numpy()


def _ridge_solution(
    basis: torch.Tensor, images: torch.Tensor, target: torch.Tensor, penalty: float
) -> np.ndarray:
    """The mix of basis vectors, with images R Rᵀ · basis, that solves the ridge regression among
    all α in their space: (m, d) float64.
    """
    inner = _inner(images, images) + penalty * _inner(basis, images)
    system = inner.cpu().numpy()
    system += 1e-9 * np.trace(system) / max(len(system), 1) * np.eye(len(system))
    return np.linalg.solve(system, _inner(images, target).cpu().numpy())
