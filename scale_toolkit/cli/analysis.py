"""The whole analysis that `scale run` and `scale demo` do: every stage in order, and a folder of
results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_toolkit import keys
from scale_toolkit.cli.summary import dropped_cells, results
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import (
    ClusterConfig,
    EmbedConfig,
    ImputeConfig,
    MarkersConfig,
    PrepareConfig,
    SelectPeaksConfig,
    TrainConfig,
)
from scale_toolkit.errors import ScaleError
from scale_toolkit.known_labels import label_columns

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scale_toolkit.bars import Progress
    from scale_toolkit.stages.stage import StageFunction
    from scale_toolkit.validation import Config

#: Share of the cells that the filters may drop without a warning.
FEW_DROPPED = 0.1


@dataclasses.dataclass(frozen=True)
class Plan:
    """The work of `analyse`: one config per stage, the folder, and the inputs besides the cells."""

    folder: Path
    prepare: PrepareConfig
    select: SelectPeaksConfig
    train: TrainConfig
    embed: EmbedConfig
    cluster: ClusterConfig
    markers: MarkersConfig = dataclasses.field(default_factory=MarkersConfig)
    impute: ImputeConfig | None = None
    pretrain: Path | None = None
    pretrain_peaks: Path | None = None
    blacklist: Path | None = None
    genes: pd.DataFrame | None = None
    metadata: pd.DataFrame | None = None


def analyse(cells: AnnData | dict[str, AnnData], plan: Plan, talk: Talk) -> AnnData:
    """Run the stages, write the folder of results, and report them.

    A failed stage does not discard the results of the others: everything that was computed is
    written first, then the error is raised.

    Parameters
    ----------
    cells
        The input, or several by batch name.
    plan
        The stages' options, and the folder.
    talk
        Receives progress, warnings and the summary.

    Returns
    -------
    The AnnData that was written to ``adata.h5ad``.

    Raises
    ------
    ScaleError
        A check failed before the work, or a stage failed.
    """
    from scale_toolkit.core.intervals import require_intervals
    from scale_toolkit.io.h5ad import write_h5ad
    from scale_toolkit.io.regions import read_bed
    from scale_toolkit.stages.cluster import cluster
    from scale_toolkit.stages.embed import embed
    from scale_toolkit.stages.impute import streamed
    from scale_toolkit.stages.prepare import prepare

    _check(cells, plan)
    if plan.genes is not None:
        require_intervals(_parts(cells)[0].var_names, "--gtf")
    tables = {"blacklist": read_bed(plan.blacklist) if plan.blacklist else None}
    tables["metadata"] = plan.metadata
    prepared_with = {name: table for name, table in tables.items() if table is not None}
    plan.folder.mkdir(parents=True, exist_ok=True)
    with talk.progress("prepare") as progress:
        adata = prepare(cells, plan.prepare, progress=progress, **prepared_with)
    if (lost := dropped_cells(adata)) is not None and lost.share > FEW_DROPPED:
        talk.say("warning", lost.text)
    _check(adata, plan, is_prepared=True)

    failures: dict[str, Exception] = {}
    blocks: dict[str, Any] = {}

    def attempt(name: str, work: Callable[[Progress], Any]) -> Any:
        try:
            with talk.progress(name) as progress:
                return work(progress)
        except Exception as error:
            # raised at the end, after the other results are written
            failures[name] = error
            return None

    trained: AnnData | None = None
    try:
        trained = _with_model(adata, plan, talk)
    except Exception as error:
        failures["train"] = error
    figure: Path | None = plan.folder / f"{plan.embed.method}.pdf"
    if trained is None:
        figure = None
    else:
        adata = trained
        by_label = _with_labels(plan.cluster, adata)
        plan = dataclasses.replace(plan, cluster=by_label)
        clustered = attempt("cluster", lambda progress: cluster(adata, by_label, progress=progress))
        adata = adata if clustered is None else clustered
        if clustered is not None and keys.CLUSTER_REPORT.found_in(adata):
            # labels that were in the column of the clusters have another name by now
            compared = keys.CLUSTER_REPORT.get(adata)["reference"]
            plan = dataclasses.replace(plan, cluster=replaced(by_label, reference=compared))
        embedded = attempt("embed", lambda progress: embed(adata, plan.embed, progress=progress))
        adata = adata if embedded is None else embedded
        figure = None if embedded is None else attempt("figure", lambda _: _draw(adata, plan))
        if clustered is not None:
            adata = _with_markers(adata, plan, talk)
        if plan.impute:
            adata, blocks = attempt("impute", lambda _: streamed(adata, plan.impute)) or (adata, {})
    with talk.progress("write adata.h5ad"):
        write_h5ad(adata, plan.folder / "adata.h5ad", streamed=blocks)
    page = attempt("report", lambda _: _write_report(adata, plan))
    table, facts = results(
        adata, plan.folder, figure, page, plan.cluster.reference, imputed=bool(blocks)
    )
    talk.show(table, facts)
    if not talk.json_logs and not failures:
        talk.info(f"next: {facts['next']}")
    _raise_first(failures, talk)
    return adata


def _parts(cells: AnnData | dict[str, AnnData]) -> list[AnnData]:
    return list(cells.values()) if isinstance(cells, Mapping) else [cells]


def _check(cells: AnnData | dict[str, AnnData], plan: Plan, *, is_prepared: bool = False) -> None:
    """Call the check of every stage: before the first one works, and again on the cells that the
    filters keep, which are fewer.
    """
    from scale_toolkit.stages.chain import check_all
    from scale_toolkit.stages.cluster import cluster
    from scale_toolkit.stages.embed import embed
    from scale_toolkit.stages.encode import encode
    from scale_toolkit.stages.impute import impute
    from scale_toolkit.stages.markers import markers
    from scale_toolkit.stages.prepare import prepare
    from scale_toolkit.stages.select_peaks import select_peaks
    from scale_toolkit.stages.train import train

    by_label = plan.cluster
    if not is_prepared and plan.metadata is not None and by_label.reference in plan.metadata:
        # `prepare` adds the column
        by_label = dataclasses.replace(by_label, reference=None)
    steps: list[tuple[StageFunction, Config, dict[str, Any]]] = []
    if not is_prepared:
        steps.append((prepare, plan.prepare, {}))
    if plan.pretrain:
        steps.append((encode, plan.train, {}))
    else:
        steps += [(select_peaks, plan.select, {}), (train, plan.train, {})]
    steps += [(cluster, by_label, {}), (embed, plan.embed, {}), (markers, plan.markers, {})]
    if plan.impute:
        steps.append((impute, plan.impute, {}))
    check_all(steps, cells)


def _with_model(adata: AnnData, plan: Plan, talk: Talk) -> AnnData:
    """Select peaks and train, or encode the cells with a model that exists."""
    from scale_toolkit.io.files import write_bytes
    from scale_toolkit.io.regions import model_peaks
    from scale_toolkit.stages.encode import encode
    from scale_toolkit.stages.select_peaks import select_peaks
    from scale_toolkit.stages.train import train

    if plan.pretrain:
        talk.info("the peaks are the model's: --n-feature is not applied")
        names = model_peaks(plan.pretrain, plan.pretrain_peaks)
        with talk.progress("encode") as progress:
            return encode(
                adata, plan.train, progress=progress, model=plan.pretrain.read_bytes(), peaks=names
            )
    with talk.progress("select-peaks") as progress:
        adata = select_peaks(adata, plan.select, progress=progress)

    def keep_model(data: bytes) -> None:
        write_bytes(plan.folder / "model.pt", data)

    with talk.progress("train") as progress:
        return train(adata, plan.train, progress=progress, keep_model=keep_model)


def _with_markers(adata: AnnData, plan: Plan, talk: Talk) -> AnnData:
    """Find marker peaks; clusters that cannot be compared are only a warning, as the other results
    do not depend on markers.
    """
    from scale_toolkit.stages.markers import markers

    try:
        with talk.progress("markers") as progress:
            return markers(
                adata,
                plan.markers,
                progress=progress,
                **({} if plan.genes is None else {"genes": plan.genes}),
            )
    except ScaleError as error:
        talk.say("warning", f"marker peaks were not searched: {error}")
        return adata


def _draw(adata: AnnData, plan: Plan) -> Path:
    from scale_toolkit import plot

    path = plan.folder / f"{plan.embed.method}.pdf"
    basis = {"umap": keys.UMAP, "tsne": keys.TSNE}[plan.embed.method]
    columns = [keys.CLUSTER.name] if keys.CLUSTER.found_in(adata) else []
    if plan.cluster.reference:
        columns.append(plan.cluster.reference)
    plot.embedding(adata, basis=basis.name, color=columns or None, save=path)
    return path


def _write_report(adata: AnnData, plan: Plan) -> Path:
    from scale_toolkit.io.files import write_bytes
    from scale_toolkit.report import page

    path = plan.folder / "report.html"
    name = plan.folder.resolve().name or "cells"
    write_bytes(path, page(adata, name=name, label=plan.cluster.reference).encode())
    return path


def _raise_first(failures: dict[str, Exception], talk: Talk) -> None:
    """Raise the first failure; the others become warnings."""
    if not failures:
        return
    (_, first), *further = failures.items()
    for name, error in further:
        talk.say("warning", f"{name}: {error}")
    raise first


def replaced(config: Any, **values: object) -> Any:
    """Return `config` with those of `values` that are set."""
    return dataclasses.replace(
        config, **{name: value for name, value in values.items() if value is not None}
    )


def _with_labels(config: ClusterConfig, adata: AnnData) -> ClusterConfig:
    """Compare with SCALE's own column of labels if the cells have one and no reference is named."""
    usable = label_columns(adata)
    return config if config.reference or not usable else replaced(config, reference=usable[0])
