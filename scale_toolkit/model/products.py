"""Products of all cells' weighted rows with narrow matrices, for the start: on the host, or from
the open peaks on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from scale_toolkit.core.batch_effects import BatchEffects
from scale_toolkit.core.open_peaks import OpenPeaks, WeightedRows
from scale_toolkit.core.rows import RowSource, blocks
from scale_toolkit.model.cells import Cells, CellsOnDevice
from scale_toolkit.model.encoder_view import EncoderView, idf_on
from scale_toolkit.model.packed import Divisors, PackedRows, StoredRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse

    from scale_toolkit.model.encoder_view import EncoderInput


class WeightedProducts(Protocol):
    """Weighted rows of cells (cells × peaks), for products with narrow dense matrices."""

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and peaks."""
        ...

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """Rows · dense, (cells, c) float32."""
        ...

    def transposed_times(self, dense: torch.Tensor) -> torch.Tensor:
        """Rowsᵀ · dense, (peaks, c) float32."""
        ...

    def square_norms(self) -> torch.Tensor:
        """Sum of squared weights of each row, (cells,) float64."""
        ...


class Products(Protocol):
    """Makes rows of cells, all or some, with weights of the peaks or as the encoder sees them."""

    n_cells: int
    device: torch.device

    @property
    def is_divided(self) -> bool:
        """Whether open peaks are divided by the factors of their batches."""
        ...

    def n_open(self) -> np.ndarray:
        """Number of open peaks of each cell, (cells,)."""
        ...

    def weighted(self, weights: np.ndarray, cells: np.ndarray | None = None) -> WeightedProducts:
        """Rows of all cells or of some, with these weights of the open peaks, (peaks,) float32."""
        ...

    def seen(self, see: EncoderInput) -> WeightedProducts:
        """Rows of all cells as the encoder sees them."""
        ...

    def of_rows(self, peaks: np.ndarray, pointers: np.ndarray) -> Products:
        """Products of other cells over the same peaks, on the same device: ascending open peaks
        (int32) and pointers of the rows (int64).
        """
        ...


def products_of(cells: Cells, *, divided: bool = True) -> Products:
    """Return products of these cells on the device that stores them, with weights divided by the
    factors of their batches or not.
    """
    if isinstance(cells, CellsOnDevice):
        return ProductsOnDevice(cells.store, cells.divisors() if divided else None)
    n_threads = torch.get_num_threads()
    opened = OpenPeaks.of_source(cells.source, n_threads)
    return ProductsOnHost(opened, cells.source, cells.effects if divided else None)


class ProductsOnHost:
    """Open peaks in host memory.

    Parameters
    ----------
    opened
        The open peaks.
    source
        Counts of the same cells, for `seen` with log-transformed counts.
    effects
        Of the cells' batches, by which weights are divided.
    """

    def __init__(
        self,
        opened: OpenPeaks,
        source: RowSource | None = None,
        effects: BatchEffects | None = None,
    ) -> None:
        self.opened, self.source, self.n_cells = opened, source, opened.n_cells
        self.effects = effects
        self.device = torch.device("cpu")

    @property
    def is_divided(self) -> bool:
        """Whether open peaks are divided by the factors of their batches."""
        return self.effects is not None

    def n_open(self) -> np.ndarray:
        """Number of open peaks of each cell, (cells,)."""
        return self.opened.n_open

    def weighted(self, weights: np.ndarray, cells: np.ndarray | None = None) -> RowsOnHost:
        """Rows of all cells or of some, with these weights of the open peaks, (peaks,) float32."""
        opened, effects = self._chosen(cells), self.effects
        if effects is not None and opened is not self.opened:
            effects = effects.chosen(np.asarray(cells))
        return RowsOnHost(WeightedRows(opened, weights, log=False, effects=effects))

    def seen(self, see: EncoderInput) -> WeightedProducts:
        """Rows of all cells as the encoder sees them."""
        if isinstance(see, EncoderView) and see.weighting is not None and not see.log_transform:
            rows = WeightedRows(self.opened, see.weighting.idf, log=True, effects=self.effects)
            return RowsOnHost(rows)
        if self.source is None:
            raise TypeError("log-transformed counts need the counts")
        return RowsOnHost(SeenRows(self.source, see, self.effects))

    def of_rows(self, peaks: np.ndarray, pointers: np.ndarray) -> ProductsOnHost:
        """Products of other cells over the same peaks: ascending open peaks and pointers."""
        opened = self.opened
        return ProductsOnHost(OpenPeaks.of_rows(peaks, pointers, opened.n_peaks, opened.n_threads))

    def _chosen(self, cells: np.ndarray | None) -> OpenPeaks:
        if cells is None or len(cells) == self.n_cells:
            return self.opened
        return self.opened.chosen(cells)


@dataclass
class RowsOnHost:
    """The products of NumPy's rows, with tensors on the CPU in and out."""

    rows: WeightedRows | SeenRows

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and peaks."""
        return self.rows.shape

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """Rows · dense, (cells, c) float32."""
        return torch.from_numpy(self.rows.times(dense.numpy()))

    def transposed_times(self, dense: torch.Tensor) -> torch.Tensor:
        """Rowsᵀ · dense, (peaks, c) float32."""
        return torch.from_numpy(self.rows.transposed_times(dense.numpy()))

    def square_norms(self) -> torch.Tensor:
        """Sum of squared weights of each row, (cells,) float64."""
        return torch.from_numpy(self.rows.square_norms())


@dataclass
class SeenRows:
    """Rows of counts as the encoder sees them, made again in every pass: for counts whose weights
    do not follow from the open peaks.
    """

    source: RowSource
    see: EncoderInput
    effects: BatchEffects | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and peaks."""
        return self.source.n_cells, self.source.n_peaks

    def times(self, dense: np.ndarray) -> np.ndarray:
        """Rows · dense, (cells, c) float32."""
        products = [rows @ dense for _, rows in self._seen()]
        return np.concatenate(products).astype(np.float32)

    def transposed_times(self, dense: np.ndarray) -> np.ndarray:
        """Rowsᵀ · dense, (peaks, c) float32."""
        total = np.zeros((self.source.n_peaks, dense.shape[1]), np.float32)
        for cells, rows in self._seen():
            total += rows.T @ dense[cells]
        return total

    def square_norms(self) -> np.ndarray:
        """Sum of squared weights of each row, (cells,) float64."""
        weighted = (rows.astype(np.float64) for _, rows in self._seen())
        return np.concatenate([np.asarray(rows.multiply(rows).sum(1)).ravel() for rows in weighted])

    def _seen(self) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        for cells, rows in blocks(self.source):
            weighted = self.see(rows)
            if self.effects is not None:
                pointers = weighted.indptr.astype(np.int64)
                peaks = weighted.indices.astype(np.int32, copy=False)
                self.effects.chosen(cells).divide(peaks, pointers, weighted.data)
            yield cells, weighted


class ProductsOnDevice:
    """Rows of packed cells in the memory of a device."""

    def __init__(self, store: PackedRows, divisors: Divisors | None = None) -> None:
        self.store, self.n_cells, self.device = store, store.n_cells, store.device
        self.divisors = divisors

    @property
    def is_divided(self) -> bool:
        """Whether open peaks are divided by the factors of their batches."""
        return self.divisors is not None

    def n_open(self) -> np.ndarray:
        """Number of open peaks of each cell, (cells,)."""
        return self.store.host_lengths

    def weighted(self, weights: np.ndarray, cells: np.ndarray | None = None) -> ViewRows:
        """Rows of all cells or of some, with these weights of the open peaks, (peaks,) float32."""
        index, divisors = None, self.divisors
        if cells is not None and len(cells) < self.n_cells:
            index = torch.from_numpy(cells).to(self.device)
            divisors = None if divisors is None else divisors.chosen(index)
        rows = StoredRows(self.store, index, as_ones=True, divisors=divisors)
        return ViewRows(rows, torch.from_numpy(weights).to(self.device))

    def seen(self, see: EncoderInput) -> ViewRows:
        """Rows of all cells as the encoder sees them."""
        if not isinstance(see, EncoderView):
            raise TypeError("cells on a GPU are seen through an EncoderView")
        idf = idf_on(self.store.device, see)
        return ViewRows(StoredRows(self.store, idf=idf, divisors=self.divisors), None)

    def of_rows(self, peaks: np.ndarray, pointers: np.ndarray) -> ProductsOnDevice:
        """Products of other cells over the same peaks: ascending open peaks and pointers."""
        lengths = np.diff(pointers)
        store = PackedRows(
            torch.from_numpy(peaks).to(self.device),
            torch.from_numpy(pointers[:-1]).to(self.device),
            torch.from_numpy(lengths.astype(np.int32)).to(self.device),
            None,
            self.store.n_peaks,
            lengths,
            self.store.fused,
        )
        return ProductsOnDevice(store)


@dataclass
class ViewRows:
    """Stored rows times weights of the peaks.

    Attributes
    ----------
    rows
        On a device.
    column
        A factor of each peak, (peaks,) float32 on the device; None: 1.
    """

    rows: StoredRows
    column: torch.Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and peaks."""
        return self.rows.shape

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """Rows · dense, (cells, c) float32."""
        return self.rows.times(dense if self.column is None else self.column[:, None] * dense)

    def transposed_times(self, dense: torch.Tensor) -> torch.Tensor:
        """Rowsᵀ · dense, (peaks, c) float32."""
        product = self.rows.transposed_times(dense)
        return product if self.column is None else self.column[:, None] * product

    def square_norms(self) -> torch.Tensor:
        """Sum of squared weights of each row, (cells,) float64."""
        if self.column is not None:
            rows = self.rows if self.rows.divisors is None else self.rows.squared()
            squares = rows.times(self.column.square()[:, None])
        else:
            unit_column = torch.ones((self.shape[1], 1), device=self.rows.device)
            squares = self.rows.squared().times(unit_column)
        return squares[:, 0].double()
