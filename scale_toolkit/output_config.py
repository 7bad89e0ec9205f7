"""Options of the commands that end a pipe: figures and exports; one frozen dataclass each, as
`config` has the stages'.
"""

from __future__ import annotations

from dataclasses import dataclass

from scale_toolkit.known_labels import LABELS_IN_WORDS
from scale_toolkit.validation import Config, option

GROUPBY = "Column of obs; left out, scale_cluster."
BASIS = "Coordinates in obsm."


@dataclass(frozen=True)
class PlotEmbeddingConfig(Config):
    """Options of ``plot embedding``."""

    basis: str | None = option(
        None, "Coordinates in obsm; left out, X_umap, or X_tsne where only that is there."
    )
    color: tuple[str, ...] = option(
        ("scale_cluster",),
        "Columns of obs, peaks, regions (chr1:1000-9000), or genes with --gtf: a panel each.",
        flags=("-c",),
        metavar="COLUMN,COLUMN",
    )
    size: float | None = option(
        None, "Area of a point in square points; left out, by the number of cells.", minimum=0.01
    )
    names_on_data: bool = option(False, "Write the names of the groups at their middle.")


@dataclass(frozen=True)
class PlotHeatmapConfig(Config):
    """Options of ``plot heatmap``."""

    groupby: str | None = option(None, GROUPBY, metavar="COLUMN")
    peaks: tuple[str, ...] | None = option(
        None, "Peaks to show; left out, the most specific of each group.", metavar="PEAK,PEAK"
    )
    n_peaks: int = option(8, "How many specific peaks of each group.", minimum=1)
    relative: bool = option(True, "Divide each peak by its highest share; else show the shares.")


@dataclass(frozen=True)
class PlotConfusionConfig(Config):
    """Options of ``plot confusion``."""

    reference: str | None = option(
        None,
        f"Column of obs with known labels; left out, {LABELS_IN_WORDS}.",
        flags=("--label",),
        metavar="COLUMN",
    )
    cluster: str | None = option(
        None, "Column of obs with clusters; left out, scale_cluster.", metavar="COLUMN"
    )
    normalize: bool = option(False, "Show shares of each label's cells instead of numbers.")


@dataclass(frozen=True)
class PlotContrastConfig(Config):
    """Options of ``plot contrast``."""

    cluster: str | None = option(
        None, "Draw the peaks of this cluster; left out, how many differ in each.", metavar="NAME"
    )


@dataclass(frozen=True)
class PlotCorrelationConfig(Config):
    """Options of ``plot correlation``."""

    groupby: str | None = option(None, GROUPBY, metavar="COLUMN")
    basis: str = option("X_scale", BASIS)
    method: str = option(
        "pearson", "Which correlation.", choices=("pearson", "spearman", "kendall")
    )
    max_cells: int = option(1000, "Of more cells, a random choice of this many.", minimum=2)


@dataclass(frozen=True)
class PlotSpecificityConfig(Config):
    """Options of ``plot specificity``."""

    groupby: str | None = option(None, GROUPBY, metavar="COLUMN")
    basis: str = option("X_scale", BASIS)
    statistic: str = option(
        "effect",
        "effect: difference of the means in standard deviations (Cohen's d); p: -log10 p of an "
        "F-test.",
        choices=("effect", "p"),
    )
    vmax: float | None = option(
        None, "Value that gets the strongest colour (effect: 3; p: 20).", minimum=0.1
    )


@dataclass(frozen=True)
class PlotLocusConfig(Config):
    """Options of ``plot locus``."""

    groupby: str | None = option(None, GROUPBY, metavar="COLUMN")
    signal: str = option(
        "auto",
        "imputed: mean probability that a peak is open; open: share of open cells; auto: imputed "
        "after `scale train`. Both at equal depth.",
        choices=("auto", "imputed", "open"),
    )


@dataclass(frozen=True)
class PlotLossConfig(Config):
    """Options of ``plot loss``."""

    quantities: tuple[str, ...] | None = option(
        None,
        "Which curves: loss, reconstruction, divergence, held_out; left out, all there are.",
        metavar="NAME,NAME",
    )


@dataclass(frozen=True)
class PlotQcConfig(Config):
    """Options of ``plot qc``."""

    panel: str | None = option(
        None,
        "knee, histogram (open peaks of cells) or peaks (cells of peaks); left out, all.",
        choices=("knee", "histogram", "peaks"),
    )


@dataclass(frozen=True)
class ExportConfig(Config):
    """Options of ``export``: the form that another program reads."""

    to: str = option(
        "mtx",
        "mtx: a folder of matrix.mtx.gz, peaks, barcodes and tables (Signac, Seurat, ArchR); 10x: "
        "Cell Ranger's h5; "
        "cellxgene: an h5ad as it asks for; h5mu: MuData with the modality atac.",
        choices=("mtx", "10x", "cellxgene", "h5mu"),
    )
    layer: str | None = option(None, "Take the matrix from this layer instead of X.")
