"""A start for the latent space: the directions in which cells differ by more than chance, seen
through three weightings.

Each view weights the open peaks, takes away what depth and the signal-to-noise ratio would open
(`core.depth.OneType`) and compares all pairs of cells, so that each pair has the same noise
(`kinship.Kinship`). Its diagonal is set to 0: it reflects depth and chance, not similarity between
cells. Leading eigenvectors are coordinates. Three rules replace constants:

* the same matrix of cells that differ in depth alone (`core.chance`) shows how large an eigenvalue
  chance gives (`Chance`); the number of dimensions is the number of eigenvalues above it;
* an eigenvalue λ above the edge e is shrunk to √(λ² − e²), the optimal shrinkage for a matrix whose
  noise spectrum is a semicircle of radius e (Gavish & Donoho 2017, IEEE Trans. Inf. Theory 63:2137,
  Frobenius loss);
* a view counts by the square of its evidence, the sum of log λ/e: which peaks types differ
  in is not the same in all data sets.

The views' coordinates, to unit length and times that weight, are put side by side and reduced to
the largest number of dimensions that one of them shows: types that differ in few peaks rise above
chance in one view before they do in the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from scale_toolkit.core.chance import draw_by_depth, noise_edge
from scale_toolkit.core.depth import OneType, depth_alone
from scale_toolkit.model.eigenvectors import (
    SPARE,
    Search,
    inner_product,
    leading_eigenvectors,
    orthonormal_to,
)
from scale_toolkit.model.kinship import VIEWS, Kinship, View, kinship_of, like

if TYPE_CHECKING:
    from collections.abc import Callable

    from scale_toolkit.model.products import Products, WeightedProducts

# eigenvectors of a view at most: 50 types need 49
MOST_DIMENSIONS = 64
#: Even if fewer rise above chance: rows of unit length in two dimensions lie on a circle, where
#: Leiden cut two types of `pbmc_two_clusters` anywhere (ARI 0.14 against 0.92 in three).
FEWEST_DIMENSIONS = 3
FIRST_DIMENSIONS = 16  # eigenvectors of a view at first; doubled as long as all are above chance
FIRST_BLOCKS = 10  # products from random columns
MORE_BLOCKS = 5  # when twice as many eigenvectors are asked for
NEXT_BLOCKS = 7  # products from another view's eigenvectors
#: Krylov blocks of all cells, from the eigenvectors of a part of them. After two, the direction
#: between two types of 100,000 cells was still in the noise (k-means ARI 0.90 against 0.99).
ALL_CELLS_BLOCKS = 6
NULL_BLOCKS = 12  # Krylov blocks of three columns for the one eigenvalue that chance gives
#: Cells with about this many open peaks give the eigenvectors from which those of all are found.
SUBSET_PEAKS = 40_000_000
#: Cells with about this many open peaks are drawn from depth alone; the edge of more is foretold.
NULL_PEAKS = 16_000_000
PROBES = 8  # random columns that measure the spread of all eigenvalues
RIDGE = 0.1  # of the encoder's map, as a share of a squared row
#: Two products, a residual of 0.1, cost 0.03 of ARI on sets of 130 to 320 cells.
MAP_TOLERANCE, MOST_MAP_BLOCKS = 0.02, 8


class Null:
    """Cells that differ in depth alone, drawn at random, for what chance gives in all views.

    Parameters
    ----------
    products
        Of all cells.
    depth
        Theirs.
    cells
        Which cells' depths are drawn, all or some.
    rng
        Draws.
    """

    def __init__(
        self, products: Products, depth: OneType, cells: np.ndarray, rng: np.random.Generator
    ) -> None:
        self.n_cells, self.n_drawn = products.n_cells, len(cells)
        seed = int(rng.integers(2**63))
        peaks, pointers = draw_by_depth(depth.chosen(cells), seed, torch.get_num_threads())
        self.peak_sums = np.bincount(peaks, minlength=depth.probabilities.shape[1])
        self.products = products.of_rows(peaks, pointers)
        self.depth = expected_of(self.products, self.products.n_open(), self.peak_sums)

    def chance(self, view: View, matrix: Kinship, rng: np.random.Generator) -> Chance:
        """What independent open peaks of all cells give in this view, whose matrix of the real
        cells is `matrix`.

        If fewer cells are drawn, their largest eigenvalue is scaled as random matrix theory scales
        it with the number of cells, and their spread with its root.
        """
        n, n_cells = self.n_drawn, self.n_cells
        drawn = kinship_of(self.products, view, self.peak_sums, n, self.depth)
        block = like(drawn.scale, rng.standard_normal((n, 3)))
        values, _ = leading_eigenvectors(drawn, block, 1, NULL_BLOCKS)
        _, spread = Remainder(drawn, rng).moments(values[:0], block[:, :0])
        edge = max(float(values[0]), 0.0)
        if n < n_cells:
            # by as much as it may be too low: a largest eigenvalue varies by n^(−2/3)
            edge *= 1 + n ** (-2 / 3)
            edge *= noise_edge(matrix.noise, n_cells) / noise_edge(matrix.noise, n)
            spread *= (n_cells / n) ** 0.5
        error = (PROBES * n) ** -0.5 + (PROBES * n_cells) ** -0.5 + n_cells ** (-2 / 3)
        return Chance(edge, spread, 2 * error)


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

        The edge, lowered as far as the rest of the matrix spreads less than that of drawn cells:
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
        Of the random vectors and of the drawn cells.
    on_view
        Called with a message, the views that are done, and their number.
    """
    rng = np.random.default_rng(seed)
    n_cells = products.n_cells
    n_open = max(int(peak_sums.sum()) / n_cells, 1)
    subset, null_cells = (
        _random_cells(n_cells, n / n_open, rng) for n in (SUBSET_PEAKS, NULL_PEAKS)
    )
    cell_sums, chosen_views = products.n_open(), VIEWS
    if products.is_divided:
        cell_sums, peak_sums = _divided_sums(products, peak_sums)
        # a factor of the odds is none of the probability where most cells are open: counted like
        # others, these peaks showed the batches (AUROC 0.71; each other view alone: 0.48, 0.50)
        chosen_views = tuple(view for view in VIEWS if view.exponent > 0)
    depth = expected_of(products, cell_sums, peak_sums)
    most = max(min(max(MOST_DIMENSIONS, n_latent or 0), n_cells - 2, len(peak_sums) - 2), 1)
    n, n_blocks = min(max(FIRST_DIMENSIONS, n_latent or 0), most), FIRST_BLOCKS
    null = Null(products, depth, null_cells, rng)
    block, loadings = torch.zeros((n_cells, 0), device=products.device), None
    if len(subset) < n_cells:
        loadings = _leading_loadings(products, peak_sums, depth, subset, n, rng)
        n_blocks = ALL_CELLS_BLOCKS
    coordinates, above_chance, evidence = [], {}, []
    for n_done, view in enumerate(chosen_views):
        if on_view is not None:
            on_view(f"start by {view.name}", n_done, len(chosen_views))
        matrix = kinship_of(products, view, peak_sums, n_cells, depth)
        chance = null.chance(view, matrix, rng)
        if loadings is not None:
            block, loadings = matrix.scale * matrix.beyond_depth(loadings), None
        remainder = Remainder(matrix, rng)
        spare = rng.standard_normal((n_cells, max(n + SPARE - block.shape[1], 0)))
        search = Search(matrix, torch.hstack([block, like(block, spare)]))
        while True:
            values, block = search.leading(n, n_blocks)
            edge = chance.reach(remainder, values, block)
            if values[-1] <= edge or n == most:
                break
            n, n_blocks = min(2 * n, most), MORE_BLOCKS
        n_blocks = NEXT_BLOCKS
        above_chance[view.name] = int((values > edge).sum())
        n_kept = max(above_chance[view.name], FEWEST_DIMENSIONS, n_latent or 0)
        coordinates.append(_unit(_shrunk(values[:n_kept], block[:, :n_kept], edge)))
        evidence.append(float(np.log(np.maximum(values / max(edge, 1e-300), 1)).sum()))
    n_latent = n_latent or max(*above_chance.values(), FEWEST_DIMENSIONS)
    weights = np.square(evidence) if max(evidence) > 0 else np.ones(len(evidence))
    weighted = [
        of_view * float(weight / weights.max())
        for of_view, weight in zip(coordinates, weights, strict=True)
    ]
    reduced = _unit(_reduced(torch.hstack(weighted), n_latent))
    return Start(reduced.cpu().numpy(), above_chance)


def expected_of(products: Products, cell_sums: np.ndarray, peak_sums: np.ndarray) -> OneType:
    """What these cells would open by depth and signal-to-noise ratio alone.

    Parameters
    ----------
    products
        Of the cells.
    cell_sums, peak_sums
        Open peaks of each cell, (cells,), and open cells of each peak, (peaks,).
    """
    depth = depth_alone(cell_sums, peak_sums)
    rows = products.weighted(np.ones(len(peak_sums), np.float32))
    logits = torch.from_numpy(depth.logits.astype(np.float32))[:, None].to(products.device)
    return depth.with_slopes(cell_sums, rows.times(logits)[:, 0].cpu().double().numpy())


def _divided_sums(products: Products, peak_sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the cells' and of the peaks' open peaks after division by the factors of the batches,
    which make the sums of a batch others than its numbers of open peaks.
    """
    rows = products.weighted(np.ones(len(peak_sums), np.float32))
    unit_column = torch.ones((products.n_cells, 1), device=products.device)
    of_cells = rows.times(unit_column.new_ones((len(peak_sums), 1)))[:, 0]
    of_peaks = rows.transposed_times(unit_column)[:, 0]
    return of_cells.double().cpu().numpy(), of_peaks.double().cpu().numpy()


def _leading_loadings(
    products: Products,
    peak_sums: np.ndarray,
    depth: OneType,
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
    sizes, mix = np.linalg.eigh(inner_product(stacked, stacked).cpu().numpy())
    leading = mix[:, np.argsort(-sizes, kind="stable")[:n]]
    reduced = stacked.new_zeros((len(stacked), n))
    coordinates = stacked @ like(stacked, leading)
    is_negative = coordinates.double().pow(3).sum(0) < 0
    reduced[:, : leading.shape[1]] = torch.where(is_negative, -coordinates, coordinates)
    return reduced


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
        new = orthonormal_to(basis, block)
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
    inner = inner_product(images, images) + penalty * inner_product(basis, images)
    system = inner.cpu().numpy()
    system += 1e-9 * np.trace(system) / max(len(system), 1) * np.eye(len(system))
    return np.linalg.solve(system, inner_product(images, target).cpu().numpy())
