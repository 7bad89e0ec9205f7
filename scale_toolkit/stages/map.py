"""``map``: place new cells in the latent space of a trained file, and transfer its labels."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.core.carried import (
    CarriedDecoder,
    carry_cells,
    carry_decoder,
    covered_weight,
    overlap_shares,
)
from scale_toolkit.core.fine_tuning import fine_tune
from scale_toolkit.core.intervals import check_chromosomes, parse_names
from scale_toolkit.core.mapping import Mapper, place_by_model, responsibilities, transfer
from scale_toolkit.core.novelty import aligned, conformal_p, novelty
from scale_toolkit.core.placement import Placement
from scale_toolkit.errors import InputError, warn
from scale_toolkit.map_config import MapConfig
from scale_toolkit.stages._latent import latent_of
from scale_toolkit.stages._reference import (
    Reference,
    check_trained,
    reference_of_cells,
    reference_of_model,
)
from scale_toolkit.stages.counts import open_peaks, over_all
from scale_toolkit.stages.decoder import modelled_positions
from scale_toolkit.stages.stage import Result, stage
from scale_toolkit.stages.train_slots import STALE, WRITES
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.stages.stage import Progress

log = logging.getLogger("scale_toolkit")

#: Fewer reference cells have not enough neighbours to compare with.
FEWEST_CELLS = 20
#: Random reference cells that are compared with, if there are more; query cells are mapped in
#: random groups of about this many. Neighbours are searched by brute force.
MOST_CELLS = 20_000
#: Shift of the query's novelty, in the reference's standard deviations, above which the query as a
#: group is unlike it: 0.6 to 3.6 for halves of seven labelled sets on spoiled peaks.
LARGEST_SHIFT = 4.0
N_BINS = 50
#: What a model file alone does not give, for the receipt.
WITHOUT_CELLS = "a model file holds no cells to compare with: no labels, no novelty"

UPDATED = "the encoder was fine-tuned on the new cells; decoder and mixture are the reference's"


def check(adata: AnnData, config: MapConfig, *, reference: AnnData | bytes) -> None:
    """Raise `InputError` for a reference that was not trained, or lacks cells, names or labels."""
    if isinstance(reference, bytes):
        if config.labels:
            raise InputError(
                "the reference is a model file, which holds no cells and no labels",
                "the h5ad that `scale train` wrote",
                "give that one, or drop `labels`",
            )
        reference_of_model(reference)
    else:
        check_trained(reference)
        if reference.n_obs < FEWEST_CELLS:
            raise InputError(
                f"the reference has {reference.n_obs} cells",
                f"at least {FEWEST_CELLS} to compare with",
            )
        for column in config.labels:
            if column not in reference.obs:
                raise InputError(
                    f"obs[{column!r}] is missing in the reference",
                    f"one of {first_names(reference.obs.columns, 10)}",
                    "choose one of them with `labels`",
                )
    if config.update and adata.n_obs < FEWEST_CELLS:
        raise InputError(
            f"the query has {adata.n_obs} cells",
            f"at least {FEWEST_CELLS} to fine-tune on",
            "map it without `update`",
        )
    if not adata.var_names.is_unique:
        duplicate = adata.var_names[adata.var_names.duplicated()][0]
        raise InputError(
            f"peak {duplicate} of the query is duplicated",
            "unique names of peaks",
            "run `scale prepare` on the counts first",
        )


def _reads(config: MapConfig) -> tuple[keys.Slot, ...]:
    return (keys.X, keys.VAR_NAMES)


@stage(
    "map",
    MapConfig,
    reads=_reads,
    requires=(keys.X,),
    writes=(*WRITES, keys.NOVELTY, keys.NOVELTY_P, keys.NOT_IN_REFERENCE, keys.MAPPING),
    check=check,
    loads=("sklearn",),
)
def map(
    adata: AnnData,
    config: MapConfig,
    *,
    progress: Progress | None = None,
    reference: AnnData | bytes,
) -> Result:
    """Place new cells in the latent space of a trained file, and transfer its labels.

    Peaks may differ: they are matched by name, in any spelling of the interval, and else by the
    share of a reference peak's width that a query peak overlaps. Peaks that one of the two lacks
    are missing, not closed.

    Parameters
    ----------
    adata
        The query: counts or open peaks, cells × peaks.
    config
        The options.
    progress
        Called before each group of 20,000 cells.
    reference
        The output of `train`, with counts and at least 20 cells; or the bytes of the model file
        that `train` kept, which holds no cells to compare with: neither labels nor novelty come
        from it.

    Returns
    -------
    `adata`, with the slots of `train` (``obsm['X_scale']``, ``obsm['scale_posterior']``,
    ``varm['scale_decoder']``, … on the query's peaks), so that `cluster`, `embed`, `impute` and
    `report` work, and

    ``obs['scale_map_<column>']`` (category), ``obs['scale_map_<column>_confidence']`` (float64)
        For each column of ``labels``: the label, and its probability among the reference's labels.
    ``obs['scale_novelty']`` (float64)
        Unlikeness to the reference's cells, in their standard deviations.
    ``obs['scale_novelty_p']`` (float64)
        Share of the reference's own cells that are as unlike the others: a p-value.
    ``obs['scale_not_in_reference']`` (bool)
        Whether that p-value is at most ``max_fdr`` after Benjamini and Hochberg.
    ``uns['scale_map']`` (dict)
        ``n_cells``, ``n_named`` and ``n_overlapping`` reference peaks, ``weight`` (share of the
        decoder's weight that is covered), ``update`` (what it left as it was, if that was asked
        for), and with cells in the reference ``shift`` (of the whole query, see `core.novelty`),
        ``n_called``, and histograms: ``edges``, ``reference``, ``query``.

    Raises
    ------
    InputError
        The reference was not trained, has hidden layers in the decoder, fewer than 20 cells, no
        counts, no names of peaks or not the labels, or is not a model file of this toolkit; or the
        two share no peak, or so few that less than ``min_weight`` of the decoder's weight is
        covered.

    Notes
    -----
    `core.mapping`, `core.placement`, `core.fine_tuning`, `core.carried` and `core.novelty` describe
    the method. ``update`` changes latent vectors, offsets and responsibilities, not labels and
    novelty.
    """
    if isinstance(reference, bytes):
        return _map_to_model(adata, config, reference_of_model(reference), progress)
    model = reference_of_cells(reference)
    shares, decoder, facts = _carried(adata, model, config)
    latent, modelled = latent_of(reference), modelled_positions(reference)
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(reference.n_obs)[:MOST_CELLS])
    opened = open_peaks(reference)[chosen][:, modelled]
    is_open = sparse.csr_matrix(open_peaks(adata)[:, decoder.peaks], dtype=np.float32)
    carried = carry_cells(opened, shares, rng)
    mapper = Mapper(
        carried[:, decoder.peaks],
        latent[chosen],
        decoder,
        model.offset,
        rng,
        on_sphere=model.on_sphere,
        free_offset=model.free_offset,
    )
    labels = {
        column: reference.obs[column].iloc[chosen].astype(str).to_numpy()
        for column in config.labels
    }
    query = _Query(adata.n_obs, latent.shape[1], labels)
    updated = None
    if config.update:
        all_open = sparse.csr_matrix(open_peaks(adata), dtype=np.float32)
        updated = mapper.fine_tuned(all_open, is_open, carried, np.random.default_rng(config.seed))
        facts["update"] = UPDATED
    groups = np.array_split(rng.permutation(adata.n_obs), -(-adata.n_obs // MOST_CELLS))
    for number, group in enumerate(groups):
        if progress is not None:
            progress("mapping cells", number, len(groups))
        query.take(mapper, is_open, np.sort(group), updated)
    slots = _slots(adata, model, decoder, query.latent, query.offset, is_open)
    slots |= _label_slots(query) | _calls(query, config, facts)
    facts = {name: value for name, value in facts.items() if not isinstance(value, np.ndarray)}
    return Result(slots, drops=(keys.HISTORY, *STALE), facts=facts)


def _map_to_model(
    adata: AnnData, config: MapConfig, model: Reference, progress: Progress | None
) -> Result:
    """Map to a model without cells: latent vectors and responsibilities only."""
    _, decoder, facts = _carried(adata, model, config)
    is_open = sparse.csr_matrix(open_peaks(adata)[:, decoder.peaks], dtype=np.float32)
    placement = Placement(
        decoder.loadings,
        decoder.intercepts,
        model.mean_latent,
        model.offset,
        free_offset=model.free_offset,
    )
    latent, offset = np.zeros((adata.n_obs, len(model.mean_latent))), np.zeros(adata.n_obs)
    starts = range(0, adata.n_obs, MOST_CELLS)
    for number, start in enumerate(starts):
        if progress is not None:
            progress("mapping cells", number, len(starts))
        group = slice(start, start + MOST_CELLS)
        latent[group], offset[group] = place_by_model(
            is_open[group], placement, model.mean_latent, on_sphere=model.on_sphere
        )
    if config.update:
        latent, offset = fine_tune(
            sparse.csr_matrix(open_peaks(adata), dtype=np.float32),
            is_open,
            placement,
            latent,
            offset,
            np.random.default_rng(config.seed),
            on_sphere=model.on_sphere,
        )
        facts["update"] = UPDATED
    slots = _slots(adata, model, decoder, latent, offset, is_open)
    facts |= {"n_cells": adata.n_obs, "labels": []}
    slots[keys.MAPPING] = facts | {"labels": np.array([], dtype=object)}
    log.info("%s", WITHOUT_CELLS)
    # of an earlier mapping to cells
    stale = [keys.NOVELTY, keys.NOVELTY_P, keys.NOT_IN_REFERENCE]
    if keys.MAPPING.found_in(adata):
        for column in keys.MAPPING.get(adata).get("labels", ()):
            stale += keys.label_slots(str(column))
    return Result(
        slots,
        drops=(keys.HISTORY, *stale, *STALE),
        facts=facts | {"without_cells": WITHOUT_CELLS},
    )


def _carried(
    adata: AnnData, model: Reference, config: MapConfig
) -> tuple[sparse.csr_matrix, CarriedDecoder, dict[str, Any]]:
    """Return the overlaps of peaks, the decoder on the query's peaks, and what is covered."""
    shares, named = overlap_shares(model.peaks, adata.var_names)
    facts = _coverage(adata, model, shares, named, config)
    decoder = carry_decoder(
        shares, model.loadings, model.intercepts, model.mean_latent, model.offset
    )
    return shares, decoder, facts


class _Query:
    """What is known about the query's cells, filled group by group."""

    def __init__(self, n_cells: int, n_latent: int, labels: dict[str, np.ndarray]) -> None:
        self.latent, self.offset = np.zeros((n_cells, n_latent)), np.zeros(n_cells)
        self.score, self.p = np.zeros(n_cells), np.ones(n_cells)
        self.reference_labels = labels
        self.labels = {column: np.empty(n_cells, object) for column in labels}
        self.confidence = {column: np.zeros(n_cells) for column in labels}
        self.shifts: list[float] = []
        self.reference_scores: list[np.ndarray] = []

    def take(
        self,
        mapper: Mapper,
        is_open: sparse.csr_matrix,
        group: np.ndarray,
        updated: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        """Map the cells at these positions; `updated` are latent vectors and offsets of all cells
        after fine-tuning. Labels and novelty compare cells as they were placed, as the reference's
        are.
        """
        mapped = mapper(is_open[group])
        self.latent[group], self.offset[group] = mapped.latent, mapped.offset
        if updated is not None:
            self.latent[group], self.offset[group] = (values[group] for values in updated)
        reference_scores, scores = novelty(mapped.reference, mapped.query)
        self.score[group], shift = aligned(reference_scores, scores)
        self.p[group] = conformal_p(reference_scores, self.score[group])
        self.shifts.append(shift)
        self.reference_scores.append(reference_scores)
        for column, values in self.reference_labels.items():
            label, confidence = transfer(mapped, values)
            self.labels[column][group], self.confidence[column][group] = label, confidence


def _coverage(
    adata: AnnData,
    model: Reference,
    shares: sparse.csr_matrix,
    named: np.ndarray,
    config: MapConfig,
) -> dict[str, Any]:
    """Return how much of the reference the query's peaks cover, or raise if it is too little."""
    n_overlapping = int((np.diff(shares.indptr)[~named] > 0).sum())
    facts: dict[str, Any] = {
        "n_reference": model.n_cells,
        "n_peaks": len(named),
        "n_named": int(named.sum()),
        "n_overlapping": n_overlapping,
        "weight": covered_weight(model.loadings, shares),
    }
    if not shares.nnz:
        tables = [parse_names(names).dropna() for names in (adata.var_names, model.peaks)]
        if all(len(table) for table in tables):
            check_chromosomes(tables[0]["chrom"], tables[1]["chrom"].tolist(), "the reference")
        raise InputError(
            f"none of the query's {adata.n_vars:,} peaks is named as or overlaps one of the "
            f"reference's {len(named):,} (query: {adata.var_names[0]}; reference: "
            f"{model.peaks[0]})",
            "peaks of the same genome build",
            "count these cells over the reference's peaks",
        )
    if facts["weight"] < config.min_weight:
        raise InputError(
            f"the query's peaks cover {facts['weight']:.1%} of the decoder's weight: of "
            f"{len(named):,} modelled peaks {facts['n_named']:,} have the same name and "
            f"{n_overlapping:,} overlap",
            f"at least {config.min_weight:.0%}, and the same genome build",
            "count these cells over the reference's peaks",
        )
    return facts


def _slots(
    adata: AnnData,
    model: Reference,
    decoder: CarriedDecoder,
    latent: np.ndarray,
    offset: np.ndarray,
    is_open: sparse.csr_matrix,
) -> dict[keys.Slot, Any]:
    """Return the slots of `train` for the query."""
    n_peaks = adata.n_vars
    n_open = np.diff(is_open.indptr)
    if not n_open.all():
        warn(
            f"{int((n_open == 0).sum()):,} cells have no open peak that the reference knows: they "
            "lie at its centre"
        )

    def spread(values: np.ndarray, fill: float) -> np.ndarray:
        return over_all(values.astype(np.float32), decoder.peaks, n_peaks, fill)

    posterior = responsibilities(latent, **model.mixture)
    components = [str(number) for number in range(posterior.shape[1])]
    open_cells = np.bincount(is_open.indices, minlength=len(decoder.peaks))
    return {
        keys.LATENT: latent.astype(np.float32),
        keys.LATENT_SCALE: latent.astype(np.float32),
        keys.DECODER: spread(decoder.loadings, 0),
        keys.BIAS: spread(decoder.intercepts, np.nan),
        keys.OFFSET: offset.astype(np.float32),
        keys.MEDIAN_OFFSET: model.offset,
        keys.CELL_OPEN_RATE: n_open / max(len(decoder.peaks), 1),
        keys.PEAK_OPEN_RATE: over_all(open_cells / adata.n_obs, decoder.peaks, n_peaks, np.nan),
        keys.POSTERIOR: posterior,
        keys.COMPONENT: pd.Categorical.from_codes(
            posterior.argmax(1), components
        ).remove_unused_categories(),
        keys.MIXTURE: model.mixture,
    }


def _label_slots(query: _Query) -> dict[keys.Slot, Any]:
    """Return the slots of the labels and of their confidence."""
    slots: dict[keys.Slot, Any] = {}
    for column in query.labels:
        label, confidence = keys.label_slots(column)
        slots[label] = pd.Categorical(query.labels[column])
        slots[confidence] = query.confidence[column]
    return slots


def _calls(query: _Query, config: MapConfig, facts: dict[str, Any]) -> dict[keys.Slot, Any]:
    """Return the slots of novelty, and complete the summary."""
    from scipy.stats import false_discovery_control

    called = false_discovery_control(query.p) <= config.max_fdr
    shift = float(np.mean(query.shifts))
    if shift > LARGEST_SHIFT:
        warn(
            f"the query as a group is {shift:.1f} standard deviations less like the reference than "
            "the reference's own cells (another experiment, or another tissue): novelty is "
            "relative to the quarter of the query that is most like it"
        )
    reference_scores = np.concatenate(query.reference_scores)
    low, high = np.percentile(np.concatenate([reference_scores, query.score]), [0, 100])
    edges = np.linspace(low, high, N_BINS + 1)
    facts |= {
        "shift": round(shift, 4),
        "n_cells": len(called),
        "n_called": int(called.sum()),
        "labels": list(query.labels),
        "edges": edges,
        "reference": np.histogram(reference_scores, edges)[0],
        "query": np.histogram(query.score, edges)[0],
    }
    summary = facts | {"labels": np.array(facts["labels"], dtype=object)}
    return {
        keys.NOVELTY: query.score,
        keys.NOVELTY_P: query.p,
        keys.NOT_IN_REFERENCE: called,
        keys.MAPPING: summary,
    }
