"""Calibrate the decoder's probabilities after training; the latent space is not changed.

Training fits each peak's loadings w_j to a few hundred cells whose z was computed from the peaks
that it decodes: the loadings become too large, and the imputed values too confident. The open peaks
hidden from training (`held_out.Thinned`) show by how much. In

    logit p_ij = b_j + s_i + t · f_j(c) · w_j · (h_i − h̄)

two numbers common to all peaks are fitted to hidden open peaks against closed ones (maximum
likelihood). c shrinks each peak by its own evidence: f_j = F_j / (F_j + c · d), with d loadings and
F_j their squared length in units of their own error, w_jᵀ I_j w_j, I_j the Fisher information of
the cells; without any effect F_j is about d. So peaks without an effect lose most of what they have
by chance, and those with a clear one keep it, as under a normal prior whose variance each peak's
own loadings show (Efron & Morris 1973, J. Am. Stat. Assoc. 68:117); no peak loses all of it, and
the order of cells within a peak stays. t scales what is left.
The intercepts b_j are fitted to the peaks' margins: Σ_i p_ij = the expected open cells of peak j
(`believed_counts`). A fit favours the open entries that it was trained on and gives the others a
few per cent too little: one more number, fitted with t, raises all intercepts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.special import expit, log_expit

from scale_toolkit.core.fit_intercepts import fit_intercepts, logistic_gradient
from scale_toolkit.core.recovery import natural, products
from scale_toolkit.core.reliability import hidden_log_odds
from scale_toolkit.core.rows import binarise

# More cells than this are grouped by latent vector and depth: the cost follows the groups.
GROUPS = 512
# Random closed entries that are compared with the hidden ones.
CLOSED = 500_000
# Standard deviation of the normal prior of t around 1: some hundred hidden peaks outweigh it.
PRIOR_SD = 0.25
# Standard deviation of the normal prior of the rise of all intercepts around 0.
PRIOR_SD_RISE = 0.1
#: Values of c that are tried, in this order, as long as the likelihood of the hidden peaks rises.
SHRINKAGES = (0.0, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
#: Largest last step of the intercepts, in the end and on the way.
EXACTLY, COARSELY = 1e-4, 0.01
# Peaks at a time.
_COLUMNS_ON_GPU = 1 << 17


@dataclass(frozen=True)
class Calibration:
    """How a decoder was calibrated.

    Attributes
    ----------
    c
        Shrinkage of each peak by its evidence, in units of chance; 0: none.
    t
        Factor of all loadings.
    rise
        Added to all intercepts.
    likelihood
        Penalised log-likelihood of the hidden peaks against closed ones, nats a hidden peak.
    """

    c: float
    t: float
    rise: float
    likelihood: float


@dataclass(frozen=True)
class Shifts:
    """Shifts of the logits by the cells' batches.

    Attributes
    ----------
    logits
        Of each group of cells and peak, (groups, peaks).
    codes, watched
        Group of each cell whose `h` is known, and of the cells of which open peaks were hidden.
    """

    logits: np.ndarray
    codes: np.ndarray
    watched: np.ndarray


def calibrated(
    weight: np.ndarray,
    bias: np.ndarray,
    h: np.ndarray,
    offset: np.ndarray,
    counts: np.ndarray,
    watched: tuple[np.ndarray, np.ndarray],
    visible: sparse.csr_matrix,
    hidden: sparse.csr_matrix,
    rng: np.random.Generator,
    device: torch.device | None = None,
    shifts: Shifts | None = None,
    *,
    n_cells: int | None = None,
) -> tuple[np.ndarray, np.ndarray, Calibration]:
    """Return the loadings and intercepts of a calibrated decoder, and how they were changed.

    Parameters
    ----------
    weight, bias
        As trained, (peaks, d) and (peaks,).
    h, offset
        Decoder input and depth offsets of all cells or of a random sample: (cells, d), (cells,).
    counts
        Open cells of each peak among this many cells, in the training data; may be fractional.
    watched
        `h` and `offset` of the cells of which open peaks were hidden.
    visible, hidden
        The training data of those cells, and what was hidden from it (cells × peaks).
    rng
        Draws the closed entries.
    device
        Device that fits the intercepts; None: the CPU.
    shifts
        Shifts of the logits by the cells' batches, which the calibration leaves as they are.
    n_cells
        Cells that the loadings were trained on; None: those of `h`.
    """
    visible, hidden = binarise(visible), binarise(hidden)
    opened = visible + hidden
    opened.sort_indices()
    share = hidden.nnz / max(opened.nnz, 1)
    # centred: differences between cells are scaled, and the mean cell stays as it is
    middle = h.mean(0)
    coordinates = (h - middle) @ _root(weight)
    if shifts is None:
        group_shift = None
        groups = like_cells(coordinates, offset, rng)
    else:
        groups = _like_cells_by_batch(coordinates, offset, shifts.codes, rng)
        group_shift = shifts.logits, _code_of_each(groups, shifts.codes)
    means, size = _group_means(groups, np.column_stack([h - middle, offset]))
    target = believed_counts(counts, offset)

    def intercepts(loadings: np.ndarray, start: np.ndarray, tolerance: float) -> np.ndarray:
        return margins(
            means[:, :-1],
            loadings,
            means[:, -1],
            size,
            target,
            start,
            tolerance=tolerance,
            device=device,
            shift=group_shift,
        )

    first = bias + weight @ middle
    # nothing can be judged: only the intercepts are fitted
    if hidden.nnz == 0 or share >= 1:
        b = intercepts(weight, first, EXACTLY)
        return weight, (b - weight @ middle).astype(bias.dtype), Calibration(0.0, 1.0, 0.0, 0.0)
    rows, columns = (
        np.repeat(np.arange(len(hidden.indptr) - 1), np.diff(hidden.indptr)),
        hidden.indices,
    )
    entries = natural((rows, columns, np.ones(len(rows))), opened, CLOSED, rng)
    lift = products(watched[0] - middle, weight, entries.cells, entries.peaks)
    fixed = watched[1][entries.cells]
    if shifts is not None:
        fixed = fixed + shifts.logits[shifts.watched[entries.cells], entries.peaks]
    evidence = _evidence(weight, h - middle, target / len(offset), n_cells or len(offset))

    def fitted(c: float, t: float, b: np.ndarray) -> tuple[Calibration, np.ndarray]:
        """t and b in turn, b coarsely: only the last call below solves for it exactly."""
        factor = _kept_share(evidence, c, weight.shape[1])
        shrunk = (factor[:, None] * weight).astype(weight.dtype)
        for _ in range(10):
            b = intercepts(t * shrunk, b, COARSELY)
            base = hidden_log_odds(b[entries.peaks] + fixed, share)
            old = t
            t, rise, likelihood = _slope(
                base, lift * factor[entries.peaks], entries.hidden, entries.weight, t
            )
            if abs(t - old) < COARSELY:
                break
        return Calibration(c, t, rise, likelihood / hidden.nnz), b

    best, b = fitted(SHRINKAGES[0], 1.0, first)
    for c in SHRINKAGES[1:]:
        trial, trial_b = fitted(c, best.t, b)
        if trial.likelihood <= best.likelihood:
            break
        best, b = trial, trial_b
    factor = best.t * _kept_share(evidence, best.c, weight.shape[1])
    loadings = (factor[:, None] * weight).astype(weight.dtype)
    b = intercepts(loadings, b, EXACTLY)
    return loadings, (b + best.rise - loadings @ middle).astype(bias.dtype), best


def _evidence(weight: np.ndarray, h: np.ndarray, share: np.ndarray, n_cells: int) -> np.ndarray:
    """Squared length of each peak's loadings in units of their error, w_jᵀ I_j w_j: (peaks,).

    I_j, the Fisher information of the loadings of a peak that is open in this share of the cells,
    is taken as n p_j (1 − p_j) times the covariance of h (centred, (cells, d)).
    """
    covariance = h.T.astype(np.float64) @ h / len(h)
    p = np.clip(share, 0, 1)
    return n_cells * p * (1 - p) * np.einsum("jd,de,je->j", weight, covariance, weight)


def _kept_share(evidence: np.ndarray, c: float, d: int) -> np.ndarray:
    """What is left of each peak's loadings, in [0, 1]: evidence / (evidence + c · d)."""
    return evidence / np.maximum(evidence + c * d, 1e-30) if c else np.ones(len(evidence))


def _slope(
    base: np.ndarray, lift: np.ndarray, hidden: np.ndarray, weight: np.ndarray, start: float
) -> tuple[float, float, float]:
    """Fit t and a of logit P(hidden) = base + a + t · lift by penalised maximum likelihood; return
    them and the logarithm of that likelihood.
    """
    entries = (
        np.ascontiguousarray(base, np.float64),
        np.ascontiguousarray(lift, np.float64),
        np.ascontiguousarray(hidden, bool),
        np.ascontiguousarray(weight, np.float64),
    )
    beta, n_threads = np.array([start, 0.0]), torch.get_num_threads()
    precision = np.array([PRIOR_SD, PRIOR_SD_RISE]) ** -2.0
    for _ in range(30):
        gradient, information = logistic_gradient(*entries, beta, n_threads)
        gradient -= precision * (beta - [1, 0])
        step = np.linalg.solve(information + np.diag(precision), gradient)
        # far from the solution a full step overshoots
        beta += np.clip(step, -0.5, 0.5)
        if np.abs(step).max() < 1e-6:
            break
    # a scale: never 0 or negative, and at most twice the trained loadings
    beta[0] = np.clip(beta[0], 0.05, 2)
    logits = base + beta[0] * lift + beta[1]
    likelihood = weight @ np.where(hidden, log_expit(logits), log_expit(-logits))
    penalty = precision @ (beta - [1, 0]) ** 2 / 2
    return float(beta[0]), float(beta[1]), float(likelihood - penalty)


def margins(
    h: np.ndarray,
    weight: np.ndarray,
    offset: np.ndarray,
    size: np.ndarray,
    target: np.ndarray,
    start: np.ndarray,
    *,
    tolerance: float = EXACTLY,
    device: torch.device | None = None,
    shift: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Solve Σ_g size_g · expit(h_g · w_j + offset_g + b_j) = target_j for b, one equation a peak.

    Newton's method with bounded steps.

    Parameters
    ----------
    h, offset, size
        Of groups of cells: (groups, d), (groups,), (groups,).
    weight
        Of peaks, (peaks, d).
    target
        Open cells of each peak, (peaks,); clipped to lie between 0 and all cells.
    start
        Initial b, (peaks,).
    tolerance
        Largest last step.
    device
        Device of the computation; None: the CPU.
    shift
        Shift of the logits of each batch, (batches, peaks), and the batch of each group, (groups,).
    """
    total = size.sum()
    device = device or torch.device("cpu")
    # open in no cell or in all would need an infinite intercept
    arrays = (
        np.ascontiguousarray(array, np.float32)
        for array in (size, h, offset, np.clip(target, 1e-3, total - 1e-3), weight)
    )
    cells, middle, depth, goal, loadings = arrays
    if device.type == "cpu":
        return fit_intercepts(
            middle,
            loadings,
            depth,
            cells,
            goal,
            start,
            shift,
            tolerance=tolerance,
            n_threads=torch.get_num_threads(),
        ).astype(np.float64)
    return _margins_on(device, middle, loadings, depth, cells, goal, start, tolerance, shift)


def _margins_on(
    device: torch.device,
    h: np.ndarray,
    weight: np.ndarray,
    offset: np.ndarray,
    size: np.ndarray,
    target: np.ndarray,
    start: np.ndarray,
    tolerance: float,
    shift: tuple[np.ndarray, np.ndarray] | None,
) -> np.ndarray:
    """As `core.fit_intercepts`, on a device."""
    cells, middle, depth, goal, loadings, b = (
        torch.from_numpy(np.array(array, np.float32)).to(device)
        for array in (size, h, offset, target, weight, start)
    )
    for first in range(0, len(b), _COLUMNS_ON_GPU):
        columns = slice(first, first + _COLUMNS_ON_GPU)
        logits = torch.addmm(depth[:, None], middle, loadings[columns].T)
        if shift is not None:
            logits += torch.from_numpy(shift[0][shift[1], columns]).to(device)
        intercepts = b[columns]
        for _ in range(50):
            p = torch.sigmoid(logits + intercepts)
            open_cells = cells @ p
            information = open_cells - cells @ p.square_()
            step = (goal[columns] - open_cells) / information.clamp_min(1e-9)
            intercepts += step.clamp_(-2, 2)
            if float(step.abs().max()) < tolerance:
                break
    return b.double().cpu().numpy()


def believed_counts(
    counts: np.ndarray, offset: np.ndarray, *, n_grid: int = 200, n_iter: int = 200
) -> np.ndarray:
    """Return the expected open cells of each peak given the observed ones, (peaks,).

    The observed number of a rare peak is dominated by chance, so it is shrunk (empirical Bayes).
    The intercepts b of all peaks follow one distribution, estimated without assuming its form
    (non-parametric maximum likelihood on a grid by EM; Kiefer & Wolfowitz 1956, Laird 1978) under
    logit p_ij = b_j + s_i, whose likelihood depends on the counts alone. The result is the
    posterior mean of Σ_i p_ij.

    Parameters
    ----------
    counts
        Open cells of each peak, in [0, cells].
    offset
        s of the cells.
    """
    n_cells = len(offset)
    values, value_index, times = np.unique(counts, return_inverse=True, return_counts=True)
    s = (
        # 200 quantiles stand for the offsets of all cells: the grid is 200 × 200 instead of 200 ×
        # cells
        np.quantile(offset, (np.arange(200) + 0.5) / 200)
        if n_cells > 200
        else np.asarray(offset, np.float64)
    )
    # 0 and all cells have infinite logits: the grid ends a twentieth of a cell inside
    ends = np.clip([values[0], values[-1]], 0.05, n_cells - 0.05)
    low, high = np.log(ends) - np.log(n_cells - ends) - [s.max(), s.min()]
    grid = np.linspace(low, high, n_grid)
    logits = grid[:, None] + s
    log_none, rate = -n_cells * np.logaddexp(0, logits).mean(1), n_cells * expit(logits).mean(1)
    likelihood = values[:, None] * grid + log_none
    likelihood = np.exp(likelihood - likelihood.max(1, keepdims=True))
    prior = np.full(n_grid, 1 / n_grid)
    for _ in range(n_iter):
        prior *= (times / (likelihood @ prior)) @ likelihood / times.sum()
    return (likelihood @ (prior * rate) / (likelihood @ prior))[value_index]


def like_cells(
    coordinates: np.ndarray, offset: np.ndarray, rng: np.random.Generator, n: int = GROUPS
) -> np.ndarray:
    """Group cells with similar logits by k-means on `coordinates` and depth, (cells,) int; up to
    `n` cells, each is a group.
    """
    if len(offset) <= n:
        return np.arange(len(offset))
    from sklearn.cluster import KMeans

    points = np.column_stack([coordinates, offset]).astype(np.float32)
    seed = int(rng.integers(2**31))
    # one random start, ten rounds: the groups have to be tight, not the best
    return KMeans(n, n_init=1, init="random", max_iter=10, random_state=seed).fit_predict(points)


def _like_cells_by_batch(
    coordinates: np.ndarray, offset: np.ndarray, codes: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Group cells with similar logits within each batch: about `GROUPS` groups, (cells,) int."""
    groups, n_groups = np.empty(len(codes), np.int64), 0
    for code in np.unique(codes):
        cells = np.flatnonzero(codes == code)
        n = max(round(GROUPS * len(cells) / len(codes)), 1)
        groups[cells] = n_groups + like_cells(coordinates[cells], offset[cells], rng, n)
        n_groups += min(n, len(cells))
    return groups


def _code_of_each(groups: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the batch of each group that holds cells, in rising order of the groups."""
    return codes[np.unique(groups, return_index=True)[1]]


def _group_means(group: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = np.bincount(group)
    # k-means can leave a group empty
    filled = size > 0
    means = (
        np.stack([np.bincount(group, column) for column in values.T], 1)[filled]
        / size[filled, None]
    )
    return means, size[filled].astype(np.float64)


def _root(weight: np.ndarray) -> np.ndarray:
    """Return R with R Rᵀ = wᵀw / peaks, so that distances of h R are root mean squares of
    differences in logits.
    """
    eigenvalues, basis = np.linalg.eigh(weight.T.astype(np.float64) @ weight / len(weight))
    # rounding can leave eigenvalues slightly below 0
    return basis * np.sqrt(np.maximum(eigenvalues, 0))
