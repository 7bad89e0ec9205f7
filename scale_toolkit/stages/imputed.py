"""Imputed values on demand: `imputed` makes a matrix that decodes what is asked of it and nothing else."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.core.decode import Decoder, NumericRows
from scale_toolkit.core.intervals import Overlaps, parse_names
from scale_toolkit.errors import InputError, NothingLeftError, ScaleWarning

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.stages._stage import Progress

_INTERVAL = re.compile(r"([^:]+)(?::(\d+)-(\d+))?")
_SHOWN = 3  # names an error lists


def imputed(adata: AnnData) -> Imputed:
    """The probability that each peak is open in each cell, as a matrix that computes what is asked of it.

    Nothing is decoded by this call. Cells and peaks are those of `adata` as it is now, in its order: the loadings travel in
    ``varm``, so a subset or a new order of peaks made after training needs no care. Peaks not modelled have no column.

    Parameters
    ----------
    adata
        The output of `train`, in memory or backed; it is not changed, and later changes of it do not reach the matrix.

    Returns
    -------
    Imputed
        Cells × modelled peaks, sigmoid(w_j · h_i + b_j + s_i) in [0, 1] (Xiong et al. 2019, Nat Commun 10:4576).

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
    return Imputed(adata, modelled_peaks(adata))


class Imputed:
    """Cells × peaks, decoded when sliced: ``p[cells, peaks]`` gives a NumPy array of float32.

    A cell or peak is named by its name, a list of names, a number, numbers, a slice of numbers or a mask (an array, or a Series
    with the names as its index). A single name or number drops its axis, as in NumPy; two lists give all their pairs, as in
    AnnData. ``p[cells]`` is ``p[cells, :]``. Made by `imputed`.

    Attributes
    ----------
    shape, dtype, ndim
        As NumPy's.
    cells, peaks
        Names of the rows and of the columns.
    decoded
        Values decoded so far: the cost of what was asked.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, adata: AnnData, columns: np.ndarray) -> None:
        self._decoder = decoder_of(adata, columns)
        self._adata = adata
        self.cells, self.peaks = adata.obs_names.copy(), adata.var_names[columns].copy()
        self.shape = (len(self.cells), len(self.peaks))
        self.decoded = 0

    def __repr__(self) -> str:
        return f"Imputed: {self.shape[0]:,} cells × {self.shape[1]:,} peaks, decoded on demand ({self.decoded:,} values so far)"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Decode some cells and peaks; see the class for what may name them."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        rows, one_cell = _places(rows, self.cells, "cell")
        columns, one_peak = _places(columns, self.peaks, "peak")
        values = self._decoder.probabilities(rows, columns)
        self.decoded += values.size
        return values[(0,) if one_cell else ()][(..., 0) if one_peak else ()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 - NumPy passes it so
        """All values; cells × peaks × 4 bytes."""
        if copy is False:
            raise ValueError("imputed values are computed: they cannot be had without a copy")
        values = self[:, :]
        return values if dtype is None else values.astype(dtype, copy=False)

    def to_adata(self, peaks: Any = slice(None), cells: Any = slice(None)) -> AnnData:
        """Return an AnnData with the imputed values of these peaks as X, for scanpy's plots and tools.

        ``obs``, ``obsm``, ``uns`` and the peaks' ``var`` come along, so ``sc.pl.umap(p.to_adata(peaks=[…]), color=…)``,
        ``sc.pl.violin``, ``sc.pl.dotplot`` and the like find their coordinates, groups and colours.

        Parameters
        ----------
        peaks, cells
            As in slicing; a single one keeps its axis.

        Returns
        -------
        AnnData of its own, X dense float32 (cells × peaks).
        """
        import anndata

        rows, _ = _places(cells, self.cells, "cell")
        columns, _ = _places(peaks, self.peaks, "peak")
        rows, columns = (np.arange(n)[part] for n, part in zip(self.shape, (rows, columns), strict=True))
        source = self._adata
        slots = (keys.IMPUTED, keys.BINARY, keys.BINARY_PACKED, keys.IMPUTED_PEAKS, keys.IMPUTED_STEP)
        left_out = {slot.name for slot in slots}
        return anndata.AnnData(
            self[rows, columns],
            obs=source.obs.iloc[rows].copy(),
            var=source.var.loc[self.peaks[columns]].copy(),
            obsm={name: values[rows] for name, values in source.obsm.items() if name not in left_out},
            uns={
                name: values
                for name, values in source.uns.items()
                if name not in (keys.IMPUTED_PEAKS.name, keys.IMPUTED_STEP.name)
            },
        )

    def to_dask(self, chunks: tuple[int, int] = (1024, 4096)) -> Any:
        """Return a dask array of the same values, decoded chunk by chunk.

        dask decodes the whole chunks that a slice touches and knows no names: slice this matrix where you can.

        Raises
        ------
        InputError
            dask is not installed.
        """
        try:
            import dask.array as da
        except ImportError:
            raise InputError("dask is not installed", "the package dask", "pip install dask") from None

        def chunk(block_info: Any = None) -> np.ndarray:
            (top, bottom), (left, right) = block_info[None]["array-location"]
            return self[top:bottom, left:right]

        pieces = da.core.normalize_chunks(chunks, self.shape)
        return da.map_blocks(chunk, chunks=pieces, dtype=self.dtype, meta=np.empty((0, 0), self.dtype))


def decoder_of(adata: AnnData, columns: np.ndarray) -> Decoder:
    """The decoder of all cells and of these peaks, its arrays checked."""
    hidden_slot = keys.HIDDEN if keys.HIDDEN.found_in(adata) else keys.LATENT
    arrays = {
        hidden_slot: np.asarray(hidden_slot.get(adata)),
        keys.DECODER: np.asarray(keys.DECODER.get(adata))[columns],
        keys.BIAS: keys.BIAS.get(adata).to_numpy()[columns],
        keys.OFFSET: keys.OFFSET.get(adata).to_numpy(),
    }
    if arrays[hidden_slot].shape[1] != arrays[keys.DECODER].shape[1]:
        raise InputError(
            f"{hidden_slot} has {arrays[hidden_slot].shape[1]} columns and {keys.DECODER} has {arrays[keys.DECODER].shape[1]}",
            "the same number, from one run of `scale train`",
            "run `scale train` again on this file",
        )
    check_finite(arrays)
    return Decoder(*arrays.values())


def check_finite(arrays: dict[keys.Slot, np.ndarray]) -> None:
    """Raise `InputError` where a slot holds NaN or infinity."""
    for slot, values in arrays.items():
        bad = np.count_nonzero(~np.isfinite(values))
        if bad:
            raise InputError(
                f"{slot} has {bad} of {values.size} values that are NaN or infinite",
                "numbers only, as `scale train` writes them",
                "keep the cells and peaks of one trained file (joining files leaves gaps), or train again",
            )


def modelled_peaks(adata: AnnData) -> np.ndarray:
    """Numbers of the peaks the model has seen, in the order of `adata`; an error where there are none."""
    modelled = keys.BIAS.get(adata).notna().to_numpy()
    if not modelled.any():
        raise NothingLeftError(
            f"none of the {adata.n_vars} peaks was modelled ({keys.BIAS} is NaN for all)",
            "at least one peak that `scale train` saw",
            "keep the peaks of var['selected'], or train on these peaks",
        )
    return np.flatnonzero(modelled)


def find_peaks(adata: AnnData, wanted: Sequence[str]) -> np.ndarray:
    """Numbers of modelled peaks, in the order of `adata`: those named, and those that overlap an interval.

    Parameters
    ----------
    adata
        The output of `train`.
    wanted
        Peak names; intervals ``chrom:start-end`` (half-open, as in BED); chromosomes. A peak's name is taken as that peak.

    Raises
    ------
    InputError
        A name that is no peak, a chromosome without peaks, or a named peak that was not modelled.
    NothingLeftError
        The intervals touch no modelled peak.
    """
    modelled = modelled_peaks(adata)
    names = adata.var_names
    _check_unique(names, "peak")
    named = names.get_indexer(pd.Index(wanted, dtype=object))
    unseen = np.setdiff1d(named[named >= 0], modelled)
    if len(unseen):
        raise InputError(
            f"{_listed(names[unseen])} {'was' if len(unseen) == 1 else 'were'} not modelled",
            "peaks that `scale train` saw",
            "leave them out, or train with them (`scale select-peaks` leaves peaks out)",
        )
    asked = [text for text, place in zip(wanted, named, strict=True) if place < 0]
    found = _overlapping(names[modelled], asked) if asked else np.empty(0, np.int64)
    return np.union1d(named[named >= 0], modelled[found])


def _overlapping(names: pd.Index, asked: list[str]) -> np.ndarray:
    """Numbers of the peaks that overlap intervals written as text."""
    table = parse_names(names)
    rows = np.flatnonzero(table["chrom"].notna())
    overlaps = Overlaps(table.iloc[rows])
    known = set(overlaps.chromosomes)
    parts = [_INTERVAL.fullmatch(text) for text in asked]
    no_place = [
        text for text, part in zip(asked, parts, strict=True) if part is None or (part[2] is None and part[1] not in known)
    ]
    if no_place:
        raise InputError(
            f"{_listed(no_place)}: no such peak{'s' * (len(no_place) > 1)} here",
            f"names such as {names[0]}, intervals such as chr1:1000-2000, or a file of either",
            "look at var_names",
        )
    elsewhere = sorted({part[1] for part in parts if part[1] not in known})
    if elsewhere:
        raise InputError(
            f"no peak is on {_listed(elsewhere)}",
            f"a chromosome of this genome ({_listed(overlaps.chromosomes)})",
            "look at how the chromosomes are named and at the genome build",
        )
    end_of_all = np.iinfo(np.int64).max
    start = np.array([int(part[2] or 0) for part in parts], np.int64)
    end = np.array([int(part[3] or end_of_all) for part in parts], np.int64)
    backwards = [text for text, wrong in zip(asked, start >= end, strict=True) if wrong]
    if backwards:
        raise InputError(
            f"the interval {backwards[0]} ends before it starts", "chrom:start-end with start < end", "turn it round"
        )
    hit, found = overlaps.pairs([part[1] for part in parts], start, end)
    if len(found) == 0:
        raise NothingLeftError(f"no modelled peak overlaps {_listed(asked)}", "one at least", "ask for a wider interval")
    alone = [asked[place] for place in np.setdiff1d(np.arange(len(asked)), hit)]
    if alone:
        warnings.warn(
            f"{len(alone):,} of {len(asked):,} intervals overlap no modelled peak: {_listed(alone)}", ScaleWarning, stacklevel=2
        )
    return rows[np.unique(found)]


def find_cells(adata: AnnData, query: str | Sequence[str]) -> np.ndarray:
    """Numbers of cells, in the order of `adata`.

    Parameters
    ----------
    adata
        Any AnnData.
    query
        A pandas expression over the columns of obs (``scale_cluster == "3" and n_peaks > 500``), or barcodes.

    Raises
    ------
    InputError
        An expression that pandas cannot evaluate or that gives no yes or no for each cell; barcodes that are not here.
    NothingLeftError
        No cell is left.
    """
    if isinstance(query, str):
        try:
            chosen = adata.obs.eval(query, engine="python", local_dict={}, global_dict={})
        except Exception as error:  # whatever pandas makes of words that are no expression
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"the query {query!r} cannot be answered ({reason})",
                f"an expression over obs ({_listed(adata.obs.columns, 8)})",
                "write it as 'column == \"value\"', and a column with other signs than letters in `backticks`",
            ) from None
        if not isinstance(chosen, pd.Series) or chosen.dtype != bool:
            raise InputError(
                f"the query {query!r} is no condition", "a yes or no for each cell", "compare a column with a value"
            )
        places = np.flatnonzero(chosen)
    else:
        places = np.unique(_places(list(query), adata.obs_names, "cell")[0])
    if len(places) == 0:
        raise NothingLeftError(f"the query {query!r} holds for none of {adata.n_obs:,} cells", "one at least", "widen it")
    return places


def mean_by_group(adata: AnnData, columns: np.ndarray, group: str, progress: Progress | None = None) -> pd.DataFrame:
    """Mean probability of these peaks in each group of cells, made in blocks of cells.

    Returns
    -------
    DataFrame, peaks × groups in the order of the categories, float32; cells without a group count nowhere.

    Raises
    ------
    InputError
        obs has no such column, or it names no group.
    """
    if group not in adata.obs:
        raise InputError(
            f"obs has no column {group!r}", f"one of {_listed(adata.obs.columns, 8)}", "`scale cluster` writes scale_cluster"
        )
    labels = adata.obs[group].astype("category").cat.remove_unused_categories()
    codes, names = labels.cat.codes.to_numpy(), [str(name) for name in labels.cat.categories]
    if not names:
        raise InputError(f"obs[{group!r}] is empty in all {adata.n_obs:,} cells", "the group of each cell", "choose another")
    sums = np.zeros((len(names), len(columns)))
    done = 0
    for block in NumericRows(decoder_of(adata, columns)).blocks():
        inside = codes[done : done + len(block)]
        for code in np.unique(inside[inside >= 0]):
            sums[code] += block[inside == code].sum(axis=0, dtype=np.float64)
        done += len(block)
        if progress is not None:
            progress(f"averaging by {group}", done, adata.n_obs)
    sizes = np.bincount(codes[codes >= 0], minlength=len(names))
    return pd.DataFrame((sums / sizes[:, None]).T.astype(np.float32), index=adata.var_names[columns], columns=names)


def _places(key: Any, names: pd.Index, what: str) -> tuple[slice | np.ndarray, bool]:
    """What `key` means along one axis, as a slice or numbers, and whether it is a single one."""
    if isinstance(key, slice):
        if any(isinstance(bound, str) for bound in (key.start, key.stop)):
            raise InputError(f"a slice of {what} names", "numbers, names or a mask", f"list the {what}s")
        return key, False
    if isinstance(key, str):
        return _named([key], names, what), True
    if isinstance(key, (int, np.integer)) and not isinstance(key, (bool, np.bool_)):
        if not -len(names) <= key < len(names):
            raise IndexError(f"{what} {key} of {len(names):,}")
        return np.array([key % len(names)]), True
    if isinstance(key, pd.Series) and key.dtype == bool and not key.index.equals(names):
        raise InputError(
            f"a mask over other {what}s", f"one over these {len(names):,} in their order", "make it from obs or var"
        )
    values = np.asarray(key)
    if values.dtype == bool:
        if values.shape != (len(names),):
            raise InputError(
                f"a mask of shape {values.shape}", f"one value for each of the {len(names):,} {what}s", "make it anew"
            )
        return np.flatnonzero(values), False
    if values.size == 0:
        return np.empty(0, np.int64), False
    if values.ndim == 1 and values.dtype.kind in "iu":
        if values.min() < -len(names) or values.max() >= len(names):
            raise IndexError(f"{what}s {values.min()} to {values.max()} of {len(names):,}")
        return values % len(names), False
    if values.ndim == 1 and all(isinstance(value, str) for value in values):
        return _named(list(values), names, what), False
    raise InputError(f"{key!r} names no {what}", "names, numbers, a slice or a mask", f"ask by the names of the {what}s")


def _named(wanted: list[str], names: pd.Index, what: str) -> np.ndarray:
    _check_unique(names, what)
    places = names.get_indexer(pd.Index(wanted, dtype=object))
    if (places < 0).any():
        missing = [name for name, place in zip(wanted, places, strict=True) if place < 0]
        raise InputError(
            f"{len(missing)} of {len(wanted)} {what}s asked for are not here: {_listed(missing)}",
            f"names such as {next(iter(names), None)}" + (", modelled by `scale train`" if what == "peak" else ""),
            f"ask for {what}s that are here ({len(names):,} are)",
        )
    return places


def _check_unique(names: pd.Index, what: str) -> None:
    if not names.is_unique:
        twice = names[names.duplicated()][0]
        raise InputError(f"the {what} name {twice!r} is here more than once", "names of their own", "make the names unique")


def _listed(names: Sequence[str] | pd.Index, shown: int = _SHOWN) -> str:
    return ", ".join(map(str, names[:shown])) + (", …" if len(names) > shown else "")
