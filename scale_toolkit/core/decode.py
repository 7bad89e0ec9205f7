"""Imputed values from the decoder's three arrays, block by block; needs neither torch nor the model
file.

    p_ij = sigmoid(w_j · h_i + b_j + s_i)

h_i is a cell's latent vector (or the decoder's last hidden layer), w_j and b_j a peak's loadings
and intercept, s_i the cell's depth offset, or one offset for all cells. A binary value is 1 if p_ij
exceeds both the open rate of its cell and that of its peak, each measured on the binarised matrix
that was modelled (Xiong et al. 2019, Nat Commun 10:4576).

The order of the arithmetic is fixed, so that a value is the same number for every block, subset and
thread count. That of a BLAS product is not: it may add in another order when the shape of a block
changes. So each vector is first split into two parts, integers of few enough bits times its own
power of two, whose products float64 adds up without any rounding, in any order (the error-free
transformation of Ozaki, Ogita, Oishi & Rump 2012, Numer Algorithms 59:95). What is rounded is
element-wise: the sum of the parts, b_j + s_i, the sigmoid, all in float64, and the result, once, to
float32. The binary value compares that float32 with the rates in float64, so it can be recomputed
from the numeric one at the same depth bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scale_toolkit.lazy import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from scipy import sparse

#: Bytes of one dense float32 block of rows; a few of them are held, one a thread and one that is
#: being used.
BLOCK_BYTES = 16 * 2**20

#: What 1 stands for in a probability stored as uint8; the nearest step is at most half of it away.
UINT8_STEP = 1 / 255

# Values worked on at a time: two float64 tiles stay in the second-level cache.
_TILE_ROWS, _TILE_COLUMNS = 64, 512


class Decoder:
    """The linear decoder of a set of cells and peaks.

    Parameters
    ----------
    hidden
        h, cells × latent.
    weights
        w, peaks × latent.
    bias
        b, peaks.
    offset
        s, cells.
    """

    def __init__(
        self,
        hidden: npt.NDArray[Any],
        weights: npt.NDArray[Any],
        bias: npt.NDArray[Any],
        offset: npt.NDArray[Any],
    ) -> None:
        self.hidden, self.offset, self.bias = (
            np.asarray(hidden),
            np.asarray(offset, np.float64),
            np.asarray(bias, np.float64),
        )
        self.weights = np.ascontiguousarray(weights, np.float64)
        self.shape = (self.hidden.shape[0], self.weights.shape[0])
        if (self.hidden.shape[1], *self.shape) != (
            self.weights.shape[1],
            *self.offset.shape,
            *self.bias.shape,
        ):
            raise ValueError(
                f"the shapes do not agree: hidden {self.hidden.shape}, weights "
                f"{self.weights.shape}, bias {self.bias.shape}, "
                f"offset {self.offset.shape}"
            )
        #: Bits of each of the two parts of a vector.
        # the second product of `probabilities` adds two terms for each latent dimension
        self.bits = _exact_bits(2 * self.weights.shape[1])
        self._weights = _split(self.weights, self.bits)

    def probabilities(
        self,
        rows: slice | npt.NDArray[Any] = slice(None),
        columns: slice | npt.NDArray[Any] = slice(None),
    ) -> npt.NDArray[Any]:
        """Probability that each peak is open in each cell: rows × columns, float32, in [0, 1]."""
        rows_high, rows_low = _split(self.hidden[rows].astype(np.float64), self.bits)
        columns_high, columns_low = (values[columns].T for values in self._weights)
        # h·w = high·high + (high·low + low·high), each of the two sums free of rounding;
        # low·low is below float64's precision
        rows_cross, columns_cross = (
            np.hstack([rows_high, rows_low]),
            np.vstack([columns_low, columns_high]),
        )
        bias, offset = self.bias[columns], self.offset[rows]
        result = np.empty((len(offset), len(bias)), np.float32)
        logit_space, cross_space = np.empty((2, _TILE_ROWS * _TILE_COLUMNS))
        for first in range(0, len(bias), _TILE_COLUMNS):
            stop = min(first + _TILE_COLUMNS, len(bias))
            for top in range(0, len(offset), _TILE_ROWS):
                bottom = min(top + _TILE_ROWS, len(offset))
                shape = (bottom - top, stop - first)
                logit = logit_space[: shape[0] * shape[1]].reshape(shape)
                cross = cross_space[: shape[0] * shape[1]].reshape(shape)
                np.matmul(rows_high[top:bottom], columns_high[:, first:stop], out=logit)
                logit += np.matmul(rows_cross[top:bottom], columns_cross[:, first:stop], out=cross)
                logit += np.add(offset[top:bottom, None], bias[None, first:stop], out=cross)
                result[top:bottom, first:stop] = _sigmoid(logit)
        return result


def probabilities(
    hidden: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any],
    offset: npt.NDArray[Any],
    rows: slice | npt.NDArray[Any] = slice(None),
    columns: slice | npt.NDArray[Any] = slice(None),
) -> npt.NDArray[Any]:
    """Probability that each of `columns` (peaks) is open in each of `rows` (cells): float32, in [0,
    1].

    Parameters
    ----------
    hidden, weights, bias, offset
        cells × latent, peaks × latent, peaks, cells.
    rows, columns
        Slices or index arrays; only these values are computed.
    """
    return Decoder(hidden, weights, bias, offset).probabilities(rows, columns)


class NumericRows:
    """The probabilities as dense blocks of rows (a `lazy.RowBlocks`).

    Parameters
    ----------
    decoder
        The arrays.
    dtype
        float32; float16, the nearest to it; or uint8, the nearest of 255 steps (`UINT8_STEP`) from
        0 to 1.
    n_threads
        Blocks made at a time; 0 for one a core that this job may use.
    block_bytes
        Size of one block as float32; at least one row is made at a time.
    """

    format: Literal["dense", "csr"] = "dense"

    def __init__(
        self,
        decoder: Decoder,
        dtype: str = "float32",
        *,
        n_threads: int = 0,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.decoder = decoder
        self.dtype = np.dtype(dtype)
        self.shape = decoder.shape
        self.n_threads = n_threads
        # 4 bytes a value
        self.height = max(1, block_bytes // (4 * max(self.shape[1], 1)))

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield consecutive blocks of rows; meanwhile BLAS has one thread."""
        from threadpoolctl import threadpool_limits

        # products of a tile are small: BLAS threads within these threads would take turns at
        # waiting (ten times as slow)
        with threadpool_limits(limits=1, user_api="blas"):
            yield from in_order(self._make, _row_slices(self.shape[0], self.height), self.n_threads)

    def _make(self, rows: slice) -> npt.NDArray[Any]:
        values = self.decoder.probabilities(rows)
        if self.dtype == np.uint8:
            # to the nearest step: a cast alone rounds down
            np.rint(np.multiply(values, 255, out=values), out=values)
        return values.astype(self.dtype, copy=False)


class BinaryRows:
    """The probabilities thresholded by the open rates of cell and peak (a `lazy.RowBlocks`).

    The values are those of `Decoder`, compared in float64, without making them (`core.threshold`).

    Parameters
    ----------
    decoder
        The arrays.
    cell_rate, peak_rate
        Share of modelled peaks open in each cell, share of cells in which each peak is open.
    packed
        Dense blocks of uint8 with a bit a value (peak 8 k + l is the bit of value 2^l of byte k,
        which is ``numpy.packbits(..., bitorder="little")``) instead of CSR blocks of uint8.
    n_threads
        Blocks made at a time; 0 for one a core that this job may use.
    block_bytes
        A block has the rows that would take this much as dense float32, at least one.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        decoder: Decoder,
        cell_rate: npt.NDArray[Any],
        peak_rate: npt.NDArray[Any],
        *,
        packed: bool = False,
        n_threads: int = 0,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        n_cells, n_peaks = decoder.shape
        self.decoder = decoder
        self.cell_rate = _round_down(cell_rate)
        self.peak_rate = _round_down(peak_rate)
        if (len(self.cell_rate), len(self.peak_rate)) != decoder.shape:
            raise ValueError(
                f"{len(self.cell_rate)} cell and {len(self.peak_rate)} peak rates for a decoder of "
                f"{decoder.shape}"
            )
        self.format: Literal["dense", "csr"] = "dense" if packed else "csr"
        self.shape = (n_cells, -(-n_peaks // 8) if packed else n_peaks)
        #: Every stored value is 1: a writer of CSR need not store them.
        self.all_ones = not packed
        self.n_threads = n_threads
        self.height = max(1, block_bytes // (4 * max(n_peaks, 1)))

    def blocks(self) -> Iterator[sparse.csr_matrix | npt.NDArray[Any]]:
        """Yield consecutive blocks of rows."""
        from scale_toolkit.core import threshold

        thresholds = threshold.Thresholds(self.decoder, self.peak_rate)

        def make(rows: slice) -> sparse.csr_matrix | npt.NDArray[Any]:
            bits = thresholds.bits(rows, self.cell_rate[rows])
            return (
                threshold.as_csr(bits, self.shape[1])
                if self.format == "csr"
                else bits[:, : self.shape[1]]
            )

        return in_order(make, _row_slices(self.shape[0], self.height), self.n_threads)


def _row_slices(n_rows: int, height: int) -> Iterator[slice]:
    for start in range(0, n_rows, height):
        yield slice(start, min(start + height, n_rows))


def _round_down(rate: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the largest float32 not above each rate.

    A float32 exceeds the one if it exceeds the other, at half the cost.
    """
    rate = np.asarray(rate, np.float64)
    nearest = rate.astype(np.float32)
    return np.where(nearest > rate, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _exact_bits(terms: int) -> int:
    """Return the bits of two integers whose products float64 (53 bits) adds `terms` times
    exactly.
    """
    # a product has twice the bits of its factors, a sum of products log2(terms) more
    return (53 - (terms - 1).bit_length()) // 2


def _split(vectors: npt.NDArray[Any], bits: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Write each row as high + low, integers of at most `bits` bits times a power of two."""
    # every |value| < 2^exponent
    exponent = np.frexp(np.abs(vectors).max(axis=1, initial=0, keepdims=True))[1]
    high = np.ldexp(np.rint(np.ldexp(vectors, bits - exponent)), exponent - bits)
    # every |value - high| <= 2^low_exponent
    low_exponent = exponent - bits - 1
    low = np.rint(np.ldexp(vectors - high, bits - low_exponent))
    low = np.ldexp(low, low_exponent - bits)
    return high, low


def _sigmoid(logit: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return 1 / (1 + exp(-logit)), in place; below -709, 0 in float32 anyway, it is clipped."""
    np.maximum(logit, -709.0, out=logit)
    np.negative(logit, out=logit)
    np.exp(logit, out=logit)
    logit += 1
    np.reciprocal(logit, out=logit)
    return logit
