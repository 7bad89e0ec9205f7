"""Products of the cells of all processes, for the leader: every process multiplies its own rows.

The leader runs the algebra of the start (`model.views`) with `LedProducts`, which looks like the
products of one process, while the others answer its requests in `serve`. Only narrow matrices
travel: rows of peaks to all, rows of cells to and from the process that holds them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scale_toolkit.core.open_peaks import OpenPeaks
from scale_toolkit.model.products import Products, ProductsOnHost, WeightedProducts

if TYPE_CHECKING:
    from scale_toolkit.model.encoder_view import EncoderInput
    from scale_toolkit.model.processes import Processes

#: Name of a request and what it is about; None ends the service.
Request = tuple[str, Any] | None


class _Server:
    """One process's answers; the leader gives its own in the same way."""

    def __init__(self, products: Products, team: Processes, n_cells: int) -> None:
        self.products, self.team, self.n_cells = products, team, n_cells
        # of the last request for rows: the start uses one kind of rows at a time
        self.rows: WeightedProducts | None = None

    def answer(self, name: str, value: Any) -> Any:
        """Do this process's share of a request."""
        team = self.team
        if name == "weighted":
            weights, cells = value
            chosen = None if cells is None else team.local(cells, self.n_cells)
            self.rows = self.products.weighted(weights, chosen)
            return None
        if name == "seen":
            self.rows = self.products.seen(value)
            return None
        if name == "n_open":
            return team.gathered(self.products.n_open())
        if self.rows is None:
            raise RuntimeError("products before rows")
        if name == "square_norms":
            return team.gathered(self.rows.square_norms().cpu().numpy())
        dense = torch.from_numpy(value).to(self.products.device)
        if name == "times":
            return team.gathered(self.rows.times(dense).cpu().numpy())
        return team.total(self.rows.transposed_times(dense).cpu().numpy())


def serve(products: Products, team: Processes, n_cells: int) -> None:
    """Answer the leader's requests until it has no more.

    Parameters
    ----------
    products
        Of this process's cells.
    team
        The processes.
    n_cells
        Cells of all of them.
    """
    server = _Server(products, team, n_cells)
    while (request := team.shared(None)) is not None:
        name, value = request
        server.answer(name, team.scattered(None) if name == "transposed_times" else value)


class LedProducts:
    """Products of the cells of all processes (`products.Products`), in the leader.

    Parameters
    ----------
    n_peaks
        Columns.
    products, team, n_cells
        As those of `serve`.
    """

    def __init__(self, products: Products, n_peaks: int, team: Processes, n_cells: int) -> None:
        self.n_cells, self.n_peaks, self.device = n_cells, n_peaks, products.device
        self._server, self._team = _Server(products, team, n_cells), team

    def weighted(self, weights: np.ndarray, cells: np.ndarray | None = None) -> LedRows:
        """Rows of all cells or of some, with these weights of the open peaks, (peaks,) float32."""
        self.ask("weighted", (weights, cells))
        return LedRows(self, cells)

    @property
    def is_divided(self) -> bool:
        """Whether open peaks are divided by the factors of their batches."""
        return self._server.products.is_divided

    def n_open(self) -> np.ndarray:
        """Number of open peaks of each cell, (cells,)."""
        return np.asarray(self.ask("n_open", None))

    def seen(self, see: EncoderInput) -> LedRows:
        """Rows of all cells as the encoder sees them."""
        self.ask("seen", see)
        return LedRows(self, None)

    def of_rows(self, peaks: np.ndarray, pointers: np.ndarray) -> ProductsOnHost:
        """Products of other cells over the same peaks: few enough for one process."""
        n_threads = torch.get_num_threads()
        return ProductsOnHost(OpenPeaks.of_rows(peaks, pointers, self.n_peaks, n_threads))

    def ask(self, name: str, value: Any) -> Any:
        """Have all processes do their share of a request."""
        self._team.shared((name, value))
        return self._server.answer(name, value)

    def ask_of_cells(self, name: str, dense: np.ndarray, cells: np.ndarray | None) -> Any:
        """The same with the rows of a matrix (cells, c) that belong to each process's cells."""
        bounds = self._team.bounds(self.n_cells)
        if cells is not None:
            bounds = np.searchsorted(cells, bounds)
        pieces = [dense[first:stop] for first, stop in itertools.pairwise(bounds)]
        self._team.shared((name, None))
        return self._server.answer(name, self._team.scattered(pieces))


class LedRows:
    """Weighted rows of the cells of all processes, or of those in `cells`
    (`products.WeightedProducts`); valid until others are made.
    """

    def __init__(self, products: LedProducts, cells: np.ndarray | None) -> None:
        self._products, self._cells = products, cells

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and peaks."""
        n_cells = self._products.n_cells if self._cells is None else len(self._cells)
        return n_cells, self._products.n_peaks

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """Rows · dense, (cells, c) float32."""
        return self._back(self._products.ask("times", dense.cpu().numpy()))

    def transposed_times(self, dense: torch.Tensor) -> torch.Tensor:
        """Rowsᵀ · dense, (peaks, c) float32."""
        values = dense.cpu().numpy()
        return self._back(self._products.ask_of_cells("transposed_times", values, self._cells))

    def square_norms(self) -> torch.Tensor:
        """Sum of squared weights of each row, (cells,) float64."""
        return self._back(self._products.ask("square_norms", None))

    def _back(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self._products.device)
