"""Binary imputed values without computing the probabilities: one fused pass in float32 with a bound
on its error.

`core.decode` defines a binary value: 1 where the probability, computed in float64 and rounded to
float32, exceeds a rate r (a float32: the larger of the cell's and the peak's). Rounding to nearest
makes it exceed r exactly where the probability lies above the midpoint m of r and the next float32
(on the midpoint, where the even one of the two wins). The sigmoid rises, so

    value = 1  <=>  h_i · w_j + b_j + s_i  >  logit(m)

and neither exp nor division is needed. The left side is computed in float32, many peaks at a time;
its distance from the definition is at most

    (L + 8) · 2^-24 · (|h_i| |w_j| + |b_j| + |s_i| + |t|)          L latent dimensions, t = logit(m)

(every term is rounded at most L + 6 times, in any order of summation; Higham 2002, Accuracy and
Stability of Numerical Algorithms, 2nd ed., section 3.1), taken with the largest |w_j|, |b_j| and
|t_j| of a tile of peaks. A value that close to its threshold is computed again in float64, with a
second bound that includes the rounding of `core.decode`; a value within the second bound is left to
`core.decode`. The result equals the definition bit for bit, for any block, thread count and vector
width.

Comparisons are packed 8 to a byte and counted before they are expanded into column indices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from scipy import sparse

from scale_toolkit.core.compiled import compiled

if TYPE_CHECKING:
    import numpy.typing as npt

    from scale_toolkit.core.decode import Decoder

#: Peaks of a tile, a multiple of 64: their loadings (at 10 latent dimensions 24 KiB) stay in the
#: first-level cache.
TILE = 512
# Above what gradual underflow of float32 can take from a sum.
_TINY = 1e-30
# gathers the lowest bits of 8 bytes in the highest byte of their product
_MAGIC = np.uint64(0x0102040810204080)
# Latent dimensions added in one go.
_LATENT_STEP = 4
# Values of one block; where there are more, the definition makes the block.
_MAX_UNSURE = 1024


@intrinsic
def _trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Return the number of 0 bits below the lowest 1 of a word that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, 1))

    return types.uint64(types.uint64), generate


_F1, _F2, _D1, _D2 = (
    types.float32[::1],
    types.float32[:, ::1],
    types.float64[::1],
    types.float64[:, ::1],
)


@compiled(
    types.int64(
        _F2,
        _D2,
        _D2,
        _F2,
        _D2,
        _D2,
        _D2,
        types.float64,
        types.float64,
        types.uint8[:, ::1],
        types.int64[:, ::1],
    )
)
def threshold_rows(
    hidden32: npt.NDArray[np.float32],
    hidden: npt.NDArray[np.float64],
    rows: npt.NDArray[np.float64],
    weights32: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float64],
    columns: npt.NDArray[np.float64],
    tiles: npt.NDArray[np.float64],
    error32: float,
    error64: float,
    bits: npt.NDArray[np.uint8],
    unsure: npt.NDArray[np.int64],
) -> int:
    """Compare the values of some cells with their thresholds.

    Parameters
    ----------
    hidden32
        Cells × latent, latent padded with 0 to a multiple of 4, and to an even number of cells.
    hidden
        Cells × latent.
    rows
        Cells × 5: offset, threshold, norm, size (|s| + |t|) and sharpness (1 + exp(t)); an infinite
        t counts 0 in both.
    weights32
        Latent (padded) × peaks (padded to whole tiles), with the intercept and the threshold as the
        last two rows.
    weights
        Peaks × latent.
    columns
        Peaks × 2: intercept, threshold.
    tiles
        Tiles × 3: largest norm, size and sharpness (1 + exp(t)) of the peaks in the tile.
    error32, error64
        Relative error of a value made in float32, and of one made in float64 together with the
        definition's own.
    bits
        Cells × bytes of whole tiles; written, peak 8 k + l is bit l (of value 2^l) of byte k.
    unsure
        Written: row and column of the values that neither precision decides.

    Returns
    -------
    int
        How many those are; where they are more than `unsure` holds, the rest is missing.
    """
    n_rows, latent = hidden.shape
    padded = hidden32.shape[1]
    n_peaks = weights.shape[0]
    first, second = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    is_open = np.empty(TILE, np.uint8)
    words = is_open.view(np.uint64)
    n_unsure = 0
    for tile in range(tiles.shape[0]):
        offset = tile * TILE
        bias, cut = (
            weights32[padded, offset : offset + TILE],
            weights32[padded + 1, offset : offset + TILE],
        )
        # two cells at a time use each loading that is read
        for top in range(0, n_rows, 2):
            offset0, offset1 = np.float32(rows[top, 0]), np.float32(0)
            if top + 1 < n_rows:
                offset1 = np.float32(rows[top + 1, 0])
            for j in range(TILE):
                first[j] = bias[j] + offset0
                second[j] = bias[j] + offset1
            for k in range(0, padded, 4):
                a0, a1, a2, a3 = (
                    hidden32[top, k],
                    hidden32[top, k + 1],
                    hidden32[top, k + 2],
                    hidden32[top, k + 3],
                )
                b0, b1 = hidden32[top + 1, k], hidden32[top + 1, k + 1]
                b2, b3 = hidden32[top + 1, k + 2], hidden32[top + 1, k + 3]
                w0, w1 = (
                    weights32[k, offset : offset + TILE],
                    weights32[k + 1, offset : offset + TILE],
                )
                w2, w3 = (
                    weights32[k + 2, offset : offset + TILE],
                    weights32[k + 3, offset : offset + TILE],
                )
                for j in range(TILE):
                    first[j] += a0 * w0[j] + a1 * w1[j] + a2 * w2[j] + a3 * w3[j]
                    second[j] += b0 * w0[j] + b1 * w1[j] + b2 * w2[j] + b3 * w3[j]
            for half in range(2):
                i = top + half
                if i == n_rows:
                    break
                logit = first if half == 0 else second
                size = rows[i, 2] * tiles[tile, 0] + rows[i, 3] + tiles[tile, 1]
                within64 = error64 * (size + max(rows[i, 4], tiles[tile, 2])) + _TINY
                # the bound itself is rounded to float32
                within = np.float32((error32 * size + within64) * 1.0001)
                cell_cut = np.float32(rows[i, 1])
                n_close = 0
                for j in range(TILE):
                    over = logit[j] - (cut[j] if cut[j] > cell_cut else cell_cut)
                    is_open[j] = over > within
                    # written so that NaN counts as close
                    n_close += not (abs(over) > within)
                if n_close > 0:
                    for j in range(min(TILE, n_peaks - offset)):
                        over = logit[j] - (cut[j] if cut[j] > cell_cut else cell_cut)
                        if abs(over) > within:
                            continue
                        exact = columns[offset + j, 0] + rows[i, 0]
                        for k in range(latent):
                            exact += hidden[i, k] * weights[offset + j, k]
                        exact -= max(columns[offset + j, 1], rows[i, 1])
                        is_open[j] = exact > within64
                        if not (abs(exact) > within64):
                            if n_unsure < unsure.shape[0]:
                                unsure[n_unsure, 0], unsure[n_unsure, 1] = i, offset + j
                            n_unsure += 1
                for byte in range(TILE // 8):
                    bits[i, offset // 8 + byte] = (words[byte] * _MAGIC) >> np.uint64(56)
    return n_unsure


@compiled(types.void(types.uint64[:, ::1], types.int32[::1]))
def spread(words: npt.NDArray[np.uint64], indices: npt.NDArray[np.int32]) -> None:
    """Write the positions of the 1s of each row, in order, one row behind the other."""
    n_written = 0
    for i in range(words.shape[0]):
        for w in range(words.shape[1]):
            word, base = words[i, w], 64 * w
            while word != 0:
                indices[n_written] = base + np.int64(_trailing_zeros(word))  # type: ignore[call-arg]
                n_written += 1
                word &= word - np.uint64(1)


class Thresholds:
    """A decoder's peaks and their rates, made ready for the comparison.

    Parameters
    ----------
    decoder
        The arrays, and the definition for the values that nothing else decides.
    peak_rate
        Rate of each peak, float32.
    """

    def __init__(self, decoder: Decoder, peak_rate: npt.NDArray[Any]) -> None:
        self._decoder, self._rate = decoder, peak_rate
        weights, bias, cut = decoder.weights, decoder.bias, logit_above(peak_rate)
        n_peaks, latent = weights.shape
        n_tiles = -(-n_peaks // TILE)
        padded = -(-latent // _LATENT_STEP) * _LATENT_STEP
        # a value float32 cannot hold is infinite, so is its error, and float64 decides
        with np.errstate(over="ignore"):
            self._weights32 = np.zeros((padded + 2, n_tiles * TILE), np.float32)
            self._weights32[:latent, :n_peaks] = weights.T
            self._weights32[padded, :n_peaks] = bias
            self._weights32[padded + 1] = np.inf
            self._weights32[padded + 1, :n_peaks] = cut
        self._columns = np.stack([bias, cut], axis=1)
        facts = np.zeros((n_tiles * TILE, 3))
        facts[:n_peaks] = np.stack(
            [_norm(weights), np.abs(bias) + _finite(np.abs(cut)), _sharpness(cut)], axis=1
        )
        self._tiles = facts.reshape(n_tiles, TILE, 3).max(axis=1)
        self._errors = (
            (padded + 8) * 2.0**-24,
            max(latent, 1) * 2.0 ** (2 - 2 * decoder.bits) + (latent + 32) * 2.0**-52,
        )

    def bits(self, rows: slice, cell_rate: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The values of some cells, one bit each: cells × bytes of whole tiles, bits behind the
        last peak 0.

        Parameters
        ----------
        rows
            The cells, as start and stop.
        cell_rate
            Their rates, float32.
        """
        decoder = self._decoder
        hidden, offset, cut = (
            decoder.hidden[rows].astype(np.float64),
            decoder.offset[rows],
            logit_above(cell_rate),
        )
        n_rows, latent = hidden.shape
        padded = np.zeros((n_rows + n_rows % 2, self._weights32.shape[0] - 2), np.float32)
        with np.errstate(over="ignore"):
            padded[:n_rows, :latent] = hidden
        facts = np.stack(
            [offset, cut, _norm(hidden), np.abs(offset) + _finite(np.abs(cut)), _sharpness(cut)],
            axis=1,
        )
        bits = np.empty((n_rows, len(self._tiles) * TILE // 8), np.uint8)
        unsure = np.empty((_MAX_UNSURE, 2), np.int64)
        n_unsure = threshold_rows(
            padded,
            hidden,
            facts,
            self._weights32,
            decoder.weights,
            self._columns,
            self._tiles,
            *self._errors,
            bits,
            unsure,
        )
        # more than the list holds
        if n_unsure > len(unsure):
            is_open = decoder.probabilities(rows) > np.maximum(cell_rate[:, None], self._rate)
            packed = np.packbits(is_open, axis=1, bitorder="little")
            bits[:, : packed.shape[1]] = packed
            return bits
        unsure = unsure[:n_unsure]
        for i in np.unique(unsure[:, 0]):
            peaks = unsure[unsure[:, 0] == i, 1]
            cell = slice(rows.start + i, rows.start + i + 1)
            is_open = decoder.probabilities(cell, peaks)[0] > np.maximum(
                cell_rate[i], self._rate[peaks]
            )
            np.bitwise_or.at(
                bits[i], peaks[is_open] // 8, (1 << peaks[is_open] % 8).astype(np.uint8)
            )
        return bits


def as_csr(bits: npt.NDArray[Any], n_columns: int) -> sparse.csr_matrix:
    """Spread packed bits, padded with 0 to whole 64-bit words, into a canonical CSR of uint8."""
    words = bits.view(np.uint64)
    starts = np.zeros(len(words) + 1, np.int64)
    np.cumsum(np.bitwise_count(words).sum(axis=1, dtype=np.int64), out=starts[1:])
    indices = np.empty(starts[-1], np.int32)
    spread(words, indices)
    unit_values = np.ones(starts[-1], np.uint8)
    rows = sparse.csr_matrix((unit_values, indices, starts), shape=(len(bits), n_columns))
    # true by construction; SciPy would check in another pass
    rows.has_sorted_indices = rows.has_canonical_format = True
    return rows


def logit_above(rate: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The logit above which a probability, rounded to float32, exceeds a float32 rate: float64,
    infinite for none and all.
    """
    rate = np.where(np.isnan(rate), np.float32(np.inf), rate)
    inside = (rate >= 0) & (rate < 1)
    lower = np.where(inside, rate, np.float32(0.5))
    middle = (lower.astype(np.float64) + np.nextafter(lower, np.float32(1)).astype(np.float64)) / 2
    return np.where(inside, np.log(middle) - np.log1p(-middle), np.where(rate < 0, -np.inf, np.inf))


def _norm(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # a bound: rounding must not take it below the norm
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)) * 1.000001)


def _finite(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.where(np.isfinite(value), value, 0)


def _sharpness(cut: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """How many times larger than its own an error of the probability 1 / (1 + exp(-t)) is as an
    error of t.
    """
    return 1 + np.exp(np.where(np.isfinite(cut), cut, 0))
