"""Imputed values on demand: a matrix that decodes only the requested values."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np

from scale_toolkit import keys
from scale_toolkit.errors import InputError
from scale_toolkit.stages.choose import positions_of
from scale_toolkit.stages.decoder import modelled_positions, read_decoder

if TYPE_CHECKING:
    import numpy.typing as npt
    from anndata import AnnData

#: Slots that `Imputed` does not copy: matrices as large as the one it decodes.
_NOT_COPIED = (
    keys.IMPUTED,
    keys.BINARY,
    keys.BINARY_PACKED,
    keys.IMPUTED_PEAKS,
    keys.IMPUTED_STEP,
)


def imputed(adata: AnnData, *, depth: str = "equal") -> Imputed:
    """Return the probability that each peak is open in each cell, as a matrix decoded on demand.

    Nothing is decoded by this call. Cells and peaks are those of `adata` at the time of the call,
    in its order: the loadings travel in ``varm``, so a subset or a new order of peaks made after
    training is matched by itself. A peak that was not modelled has no column.

    Parameters
    ----------
    adata
        The output of `train`, in memory or backed. It is not changed, and later changes of it do
        not reach the matrix.
    depth
        ``"equal"``: values at the data's median depth, sigmoid(w_j · h_i + b_j + s̄), which can be
        compared between cells. ``"own"``: at each cell's own depth, sigmoid(w_j · h_i + b_j + s_i),
        which is the likelihood that was fitted.

    Returns
    -------
    Imputed
        Cells × modelled peaks, in [0, 1] (Xiong et al. 2019, Nat Commun 10:4576; the depth as
        in PeakVI, Ashuach et al. 2022, Cell Rep Methods 2:100182).

    Raises
    ------
    MissingSlotError
        The AnnData does not come from `train`.
    InputError
        The slots of `train` do not fit each other, or hold NaN.
    NothingLeftError
        None of the peaks was modelled.

    Examples
    --------
    >>> p = scale.imputed(cells)  # doctest: +SKIP
    >>> p[:, "chr1:1000-1500"]  # one value a cell  # doctest: +SKIP
    >>> p[cells.obs["leiden"] == "3", ["chr1:1000-1500", "chr2:500-900"]]  # doctest: +SKIP
    >>> sc.pl.umap(p.to_adata(peaks=["chr1:1000-1500"]), color="chr1:1000-1500")  # doctest: +SKIP
    """
    return Imputed(adata, modelled_positions(adata), depth)


class Imputed:
    """Cells × peaks, decoded when sliced: ``p[cells, peaks]`` gives a NumPy array of float32.

    A cell or peak is named by its name, a list of names, a position, positions, a slice of
    positions or a mask (an array, or a Series with the names as its index). A single name or
    position drops its axis, as in NumPy; two lists give all their pairs, as in AnnData.
    ``p[cells]`` is ``p[cells, :]``. Made by `imputed`.

    Attributes
    ----------
    shape, dtype, ndim
        As NumPy's.
    cells, peaks
        Names of the rows and of the columns.
    depth
        ``"equal"`` or ``"own"``: see `imputed`.
    decoded
        Number of values decoded so far.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(
        self, adata: AnnData, peak_positions: npt.NDArray[np.int64], depth: str = "equal"
    ) -> None:
        self._decoder = read_decoder(adata, peak_positions, depth)
        self._annotation = _annotation(adata, peak_positions)
        self.depth = depth
        self.cells, self.peaks = self._annotation.obs_names, self._annotation.var_names
        self.shape = (len(self.cells), len(self.peaks))
        self.decoded = 0

    def __repr__(self) -> str:
        size = f"{self.shape[0]:,} cells × {self.shape[1]:,} peaks"
        return (
            f"Imputed: {size} at {self.depth} depth, decoded on demand ({self.decoded:,} values "
            "until now)"
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[np.float32]:
        """Decode some cells and peaks; see the class for what may name them."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        rows, is_one_cell = positions_of(rows, self.cells, "cell")
        columns, is_one_peak = positions_of(columns, self.peaks, "peak")
        values = self._decoder.probabilities(rows, columns)
        self.decoded += values.size
        return values[(0,) if is_one_cell else ()][(..., 0) if is_one_peak else ()]

    def __array__(
        self,
        dtype: npt.DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - NumPy's protocol
    ) -> npt.NDArray[Any]:
        """All values; cells × peaks × 4 bytes."""
        if copy is False:
            raise ValueError("imputed values are computed: copy=False is not possible")
        values = self[:, :]
        return values if dtype is None else values.astype(dtype, copy=False)

    def to_adata(self, peaks: Any = slice(None), cells: Any = slice(None)) -> AnnData:
        """Return an AnnData with the imputed values of some peaks as X, for scanpy's plots.

        ``obs``, ``obsm``, ``uns`` and the peaks' ``var`` come along, so that
        ``sc.pl.umap(p.to_adata(peaks=[…]), color=…)``, ``sc.pl.violin``, ``sc.pl.dotplot`` and
        the like find their coordinates, groups and colours.

        Parameters
        ----------
        peaks, cells
            As in slicing; a single one keeps its axis.

        Returns
        -------
        A new AnnData, X dense float32 (cells × peaks).
        """
        rows, columns = (
            np.arange(len(names))[positions_of(key, names, axis)[0]]
            for key, names, axis in ((cells, self.cells, "cell"), (peaks, self.peaks, "peak"))
        )
        chosen = self._annotation[rows, columns].copy()
        chosen.X = self[rows, columns]
        return chosen

    def to_dask(self, chunks: tuple[int, int] = (1024, 4096)) -> Any:
        """Return a dask array of the same values, decoded chunk by chunk.

        dask decodes every chunk that a slice touches and knows no names: slice this matrix itself
        if that is possible.

        Raises
        ------
        InputError
            dask is not installed.
        """
        try:
            import dask.array as da
        except ImportError:
            raise InputError("dask is not installed", "dask", "pip install dask") from None

        def decode_chunk(block_info: Any = None) -> npt.NDArray[np.float32]:
            (top, bottom), (first, last) = block_info[None]["array-location"]
            return self[top:bottom, first:last]

        sizes = da.core.normalize_chunks(chunks, self.shape)  # type: ignore[no-untyped-call]
        empty = np.empty((0, 0), self.dtype)
        return da.map_blocks(  # type: ignore[no-untyped-call]
            decode_chunk, chunks=sizes, dtype=self.dtype, meta=empty
        )


def _annotation(adata: AnnData, peak_positions: npt.NDArray[np.int64]) -> AnnData:
    """Return a copy of what describes the cells and these peaks, without any matrix of values."""
    left_out = {slot.path for slot in _NOT_COPIED}
    return anndata.AnnData(
        obs=adata.obs.copy(),
        var=adata.var.iloc[peak_positions].copy(),
        obsm={
            name: values.copy()
            for name, values in adata.obsm.items()
            if f"obsm/{name}" not in left_out
        },
        uns={
            name: deepcopy(values)
            for name, values in adata.uns.items()
            if f"uns/{name}" not in left_out
        },
    )
