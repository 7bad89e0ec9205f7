"""One frozen dataclass a stage: defaults, ranges and help texts, validated on construction.

The command line, the Python keywords and the docs are all made from these fields, so an option is
written once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from scale_toolkit.annotate_config import AnnotateConfig as AnnotateConfig
from scale_toolkit.doublets_config import DoubletsConfig as DoubletsConfig
from scale_toolkit.errors import OptionError
from scale_toolkit.genes_config import GenesConfig as GenesConfig
from scale_toolkit.map_config import MapConfig as MapConfig
from scale_toolkit.markers_config import MarkersConfig as MarkersConfig
from scale_toolkit.simulate_config import LIKE as LIKE
from scale_toolkit.simulate_config import SimulateConfig as SimulateConfig
from scale_toolkit.validation import SEED, THREADS, Config, option

#: By stage: the values of options that a receipt lacks because it is older than they are. Only
#: those that differ from today's default.
UNRECORDED: dict[str, dict[str, Any]] = {"impute": {"depth": "own"}}


@dataclass(frozen=True)
class PrepareConfig(Config):
    """Options of ``prepare``: which cells and peaks are kept."""

    min_peaks: float = option(
        100,
        "Keep cells with at least this many open peaks; below 1, a fraction of all peaks.",
        minimum=0,
    )
    min_cells: float = option(
        10,
        "Keep peaks open in at least this many cells; below 1, a fraction of all cells.",
        minimum=0,
    )
    layer: str | None = option(None, "Take the counts from this layer of the h5ad instead of X.")
    join: str = option(
        "inner",
        "Peaks of several inputs: those in all (inner) or in any (outer).",
        choices=("inner", "outer"),
    )
    drop_chromosomes: tuple[str, ...] = option(
        (), "Drop peaks on these chromosomes, for example chrM,chrX,chrY.", metavar="CHR,CHR"
    )


@dataclass(frozen=True)
class FragmentsConfig(Config):
    """How a fragments file is counted over peaks."""

    count: str = option(
        "insertions",
        "Count Tn5 insertions (both ends of a fragment, as ArchR does) or fragments that overlap a "
        "peak.",
        choices=("insertions", "fragments"),
    )
    cap: int = option(0, "Largest count of a peak in a cell (ArchR uses 4); 0: no cap.", minimum=0)


@dataclass(frozen=True)
class SelectPeaksConfig(Config):
    """Options of ``select-peaks``: which peaks the model sees."""

    method: str = option(
        "variability",
        "Score of a peak: variability (episcanpy's score, computed here), episcanpy (the library "
        "itself), hvg (scanpy's highly variable features) or tfidf-variance.",
        choices=("variability", "episcanpy", "hvg", "tfidf-variance"),
    )
    n_peaks: int = option(
        100_000, "Keep at most this many peaks, the best-scored first; -1: all.", minimum=-1
    )
    min_score: float | None = option(None, "Keep only peaks that score at least this.")
    mark_only: bool = option(
        False, "Keep every peak and only mark the selected ones in var['selected']."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_peaks == 0:
            raise OptionError("n_peaks is 0", "1 or more, or -1 for all")


#: Values of the options of `TrainConfig` that are None.
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {
        "encode_dim": (64,),
        "max_epochs": 60,
        "weight_decay": 0.0,
        "patience": 5,
    },
    "paper": {
        "latent": 10,
        "encode_dim": (1024, 128),
        "lr": 0.002,
        "batch_size": 32,
        "weight_decay": 5e-4,
        "patience": 50,
    },
    "release": {
        "latent": 10,
        "encode_dim": (1024, 128),
        "lr": 0.0002,
        "batch_size": 32,
        "weight_decay": 5e-4,
        "patience": 0,
    },
}


@dataclass(frozen=True)
class TrainConfig(Config):
    """Options of ``train``. A None means the preset's value (`TrainConfig.resolved`)."""

    preset: str = option(
        "fast",
        "fast: spectral start, depth offset, sparse steps; paper: SCALE as published; release: "
        "SCALE as 1.1.2 runs it.",
        choices=tuple(PRESETS),
    )
    n_components: int = option(
        30, "Components of the Gaussian mixture prior.", flags=("-k",), minimum=1
    )
    latent: int | None = option(
        None,
        "Dimensions of the latent space (fast: as many as rise above chance, at most 64; paper, "
        "release: 10).",
        flags=("-l",),
        minimum=1,
    )
    encode_dim: tuple[int, ...] | None = option(
        None,
        "Widths of the encoder's hidden layers (fast: 64; paper, release: 1024,128).",
        minimum=1,
    )
    decode_dim: tuple[int, ...] = option(
        (), "Widths of the decoder's hidden layers; none: linear, as published.", minimum=1
    )
    lr: float | None = option(
        None,
        "Learning rate (fast: 0.003, and less above 1,000 cells; paper: 0.002; release: 0.0002).",
        minimum=1e-12,
        maximum=10,
    )
    batch_size: int | None = option(
        None,
        "Cells a step (fast: 64 to 256, by the number of cells; others: 32).",
        flags=("-b",),
        minimum=1,
    )
    max_iter: int = option(30_000, "Upper bound on the number of steps.", flags=("-i",), minimum=1)
    max_epochs: int | None = option(
        None, "Upper bound on the number of epochs (fast: 60; others: none).", minimum=1
    )
    weight_decay: float | None = option(
        None, "Weight decay of the optimiser (fast: 0; others: 0.0005).", minimum=0
    )
    patience: int | None = option(
        None,
        "Stop when the likelihood of held-out open peaks has not risen for this many epochs, and "
        "keep the best epoch; 0: train to the end (fast: 5; paper: 50; release: 0).",
        minimum=0,
    )
    all_peaks: bool = option(False, "Model every peak, whatever var['selected'] says.")
    log_transform: bool = option(
        False, "Let the encoder see log2(count + 1); the targets stay binary."
    )
    batch_key: str | None = option(
        None,
        "Column of obs with each cell's batch (sample, run); it is taken out of the latent space.",
        metavar="COLUMN",
    )
    covariates: tuple[str, ...] = option(
        (),
        "Further columns of obs to take out with the batch; labels that vary within batches.",
        flags=("--covariate",),
        metavar="COLUMN,COLUMN",
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.")
    gpu_memory: float | None = option(
        None,
        "Gigabytes of the GPU's memory that counts may take; if they take more, they are copied to "
        "it batch by batch (default: four fifths of what is free).",
        minimum=0,
    )
    precision: str = option(
        "float32",
        "Dense products on a GPU: float32, or auto, which may round their factors to "
        "TensorFloat-32.",
        choices=("float32", "auto"),
    )
    deterministic: bool = option(
        False, "Give identical results in every run on the same GPU; slower."
    )
    seed: int = option(18, SEED, minimum=0, maximum=2**32 - 1)
    n_threads: int = option(0, THREADS, minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.covariates and self.batch_key is None:
            raise OptionError(
                f"covariates is {','.join(self.covariates)} and batch_key is left out", "both"
            )
        if self.batch_key is not None and self.preset != "fast":
            raise OptionError(
                f"batch_key is {self.batch_key} and preset is {self.preset}",
                "the preset fast: the published model knows no batches",
                "drop one of the two",
            )

    def resolved(self) -> TrainConfig:
        """These options with every None replaced by the preset's value."""
        values = {
            name: value
            for name, value in PRESETS[self.preset].items()
            if getattr(self, name) is None
        }
        return dataclasses.replace(self, **values)


@dataclass(frozen=True)
class ImputeConfig(Config):
    """Options of ``impute``: what is written. With neither numeric, binary, per_group nor
    validate, numeric is.
    """

    numeric: bool = option(False, "Write the probability that each peak is open.")
    numeric_format: str = option(
        "float32",
        "How a probability is stored: float32 (4 bytes a value, 3.3 compressed), float16 (2 bytes, "
        "1.6 compressed; at most "
        "0.00025 off) or uint8 (1 byte, 0.7 compressed; 255 steps from 0 to 1, at most 1/510 off; "
        "scale_toolkit.unpack_numeric gives probabilities back).",
        choices=("float32", "float16", "uint8"),
    )
    depth: str = option(
        "equal",
        "Depth at which probabilities and means of groups are given: equal (the data's median "
        "depth for every cell, so that "
        "cells can be compared) or own (the depth of each cell, as in the likelihood; --binary "
        "always uses it).",
        choices=("equal", "own"),
    )
    binary: bool = option(
        False,
        "Write 1 if the probability at the cell's own depth exceeds both the cell's and the "
        "peak's open rate.",
    )
    binary_format: str = option(
        "csr",
        "csr: sparse, 4 bytes a one on disk before compression and 5 when read (with 14 to 24 % "
        "ones, 0.7 to 1.2 bytes a "
        "value; 0.7 a one compressed); packed: 1/8 byte a value everywhere, in "
        "obsm['binary_packed'] "
        "(scale_toolkit.unpack_binary gives the CSR of chosen cells).",
        choices=("csr", "packed"),
    )
    to: str = option(
        "obsm",
        "Write to obsm['imputed'], obsm['binary'], or to layers of the same names.",
        choices=("obsm", "layers"),
    )
    per_group: str | None = option(
        None,
        "Write the mean probability in each group of this column of obs to varm['imputed_groups'].",
        metavar="COLUMN",
    )
    # proof and trust
    validate: bool = option(
        False,
        "Hide open peaks, train again without them as this file was trained, and report how well "
        "they come back, beside three plain baselines; alone, no matrix is written.",
    )
    validate_share: float = option(
        0.1,
        "Share of the open peaks to hide (with --model: of the reads to take out).",
        minimum=0.01,
        maximum=0.5,
    )
    validate_by: str | None = option(
        None,
        "Column of obs whose groups --validate reports one by one, best known labels; left out, "
        "scale_cluster.",
        metavar="COLUMN",
    )
    trust_level: float = option(
        0.05,
        "Share of the trusted peaks that may be no better than their frequency.",
        minimum=0.0001,
        maximum=0.5,
    )
    only_trusted: bool = option(
        False, "Write only the peaks that --validate found to be trusted (var['scale_trust'])."
    )
    seed: int = option(18, SEED, minimum=0, maximum=2**32 - 1)
    n_threads: int = option(0, THREADS, minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.binary and self.binary_format == "packed" and self.to == "layers":
            raise OptionError(
                "binary_format is packed and to is layers",
                "to obsm: a layer has a column for every peak",
            )


@dataclass(frozen=True)
class EmbedConfig(Config):
    """Options of ``embed``: a picture of the latent space in two dimensions."""

    method: str = option("umap", "umap or tsne.", choices=("umap", "tsne"))
    n_neighbors: int = option(30, "Neighbours of a cell in the latent space (umap).", minimum=2)
    min_dist: float = option(0.1, "How close UMAP may put two cells.", minimum=0, maximum=1)
    perplexity: float = option(30.0, "Effective number of neighbours (tsne).", minimum=1)
    seed: int = option(18, SEED, minimum=0, maximum=2**32 - 1)
    n_threads: int = option(0, THREADS, minimum=0)


@dataclass(frozen=True)
class ClusterConfig(Config):
    """Options of ``cluster``."""

    method: str = option(
        "leiden",
        "leiden (on the neighbour graph of the latent space), kmeans, or gmm (the model's own "
        "mixture).",
        choices=("leiden", "kmeans", "gmm"),
    )
    n_clusters: int | None = option(
        None,
        "Exactly this many clusters; left out, the data decide (leiden, kmeans) or the model's "
        "components are taken (gmm).",
        flags=("-k",),
        minimum=1,
    )
    resolution: float | None = option(
        None, "Resolution of Leiden, instead of a number of clusters from the data.", minimum=0
    )
    leiden: str = option(
        "igraph",
        "Which implementation of Leiden: igraph (faster) or leidenalg (its author's).",
        choices=("igraph", "leidenalg"),
    )
    n_neighbors: int = option(30, "Neighbours of a cell in the latent space (leiden).", minimum=2)
    sketch: int | None = option(
        None,
        "Cluster this many random cells (leiden), and give every other cell the cluster of most of "
        "its nearest ones among them: for a million cells.",
        minimum=2,
    )
    n_restarts: int = option(
        10, "Restarts of kmeans and of a refitted gmm; the best is kept.", minimum=1
    )
    stability: int = option(
        0,
        "Subsamples of four fifths of the cells to cluster as well, to show how much of each "
        "cluster comes back.",
        minimum=0,
    )
    reference: str | None = option(
        None, "Column of obs with known labels: report ARI, NMI, F1 and a matched confusion table."
    )
    seed: int = option(18, SEED, minimum=0, maximum=2**32 - 1)
    n_threads: int = option(0, THREADS, minimum=0)


@dataclass(frozen=True)
class ChooseKConfig(Config):
    """Options of ``choose-k``."""

    max_k: int = option(30, "Largest number of clusters to look at.", minimum=2)
    max_cells: int = option(5_000, "Read at most this many cells, chosen at random.", minimum=2)
    stability: int = option(
        8, "Subsamples of four fifths of the cells that are clustered as well.", minimum=1
    )
    n_neighbors: int = option(30, "Neighbours of a cell in the latent space.", minimum=2)
    seed: int = option(18, SEED, minimum=0, maximum=2**32 - 1)
    n_threads: int = option(0, THREADS, minimum=0)
