"""What the sections of the page are made from, and what they leave: sections, plots and figures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scale_toolkit import keys
from scale_toolkit.plot._figure import as_categories
from scale_toolkit.report.findings import Finding
from scale_toolkit.report.receipts import Run, last

# Clusters in a table or a heat map.
MOST_SHOWN = 60


Counts = Callable[[np.ndarray], Any]


@dataclasses.dataclass
class Plot:
    """A figure on the page: where, how high (pixels), and what it shows, in words."""

    id: str
    height: int
    words: str


@dataclasses.dataclass
class Section:
    """A part of the page."""

    id: str
    title: str
    meaning: str
    plots: list[list[Plot]] = dataclasses.field(default_factory=list)
    table: tuple[list[str], list[list[str]]] | None = None
    numbers: tuple[str, ...] = ()
    lines: list[str] = dataclasses.field(default_factory=list)
    missing: str = ""
    cells: bool = False


@dataclasses.dataclass
class View:
    """What the sections are made from, and the figures they leave."""

    adata: AnnData
    label: str | None
    counts: Counts | None
    drawn: dict[str, Any] = dataclasses.field(default_factory=dict)
    findings: list[Finding] = dataclasses.field(default_factory=list)

    def add(self, name: str, figure: dict[str, Any], height: int, words: str) -> Plot:
        """Keep a figure, and give its place on the page."""
        self.drawn[name] = figure
        return Plot(name, height, words)

    @functools.cached_property
    def clusters(self) -> pd.Series | None:
        """Clusters as a categorical of texts, or None where no cell has one."""
        if not keys.CLUSTER.found_in(self.adata):
            return None
        clusters = as_categories(keys.CLUSTER.get(self.adata))
        return clusters if len(clusters.cat.categories) else None

    @functools.cached_property
    def depth(self) -> np.ndarray | None:
        """Open peaks of the cells, or None."""
        return (
            np.asarray(keys.N_PEAKS.get(self.adata), float)
            if keys.N_PEAKS.found_in(self.adata)
            else None
        )

    @functools.cached_property
    def latent(self) -> np.ndarray | None:
        """The latent space, or None; cells × latent."""
        return np.asarray(keys.LATENT.get(self.adata)) if keys.LATENT.found_in(self.adata) else None

    def run(self, stage: str) -> Run | None:
        """The last receipt of a stage."""
        return last(self.adata, stage)
