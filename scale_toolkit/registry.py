"""Every stage once: its command, its function, its options. Light to import: no stage is loaded
until it is asked for.

What is derived from it: the stages that `verify` can replay and `plan` estimates, the options that
the report shows as changed, the functions of `scale.pp` and `scale.tl`, and the README's table.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from scale_toolkit import config
from scale_toolkit.validation import Config

if TYPE_CHECKING:
    from scale_toolkit.stages.stage import StageFunction


@dataclass(frozen=True)
class Entry:
    """One stage in the registry.

    Attributes
    ----------
    name
        The subcommand, also the name in receipts.
    function
        Name of the function in ``scale_toolkit.stages.<module>`` that runs the stage.
    config
        The class of its options.
    namespace
        ``pp`` or ``tl``: where scanpy's users find it; empty for a stage that makes an AnnData.
    purpose
        What it does, in one sentence.
    needs_estimate
        Whether `scale plan` estimates its memory, time and disk.
    """

    name: str
    function: str
    config: type[Config]
    namespace: str
    purpose: str
    needs_estimate: bool = True

    @property
    def module(self) -> str:
        """The stage's module, also its public name in Python."""
        return self.name.replace("-", "_")

    def load(self) -> StageFunction:
        """Import the stage and return its function."""
        loaded: StageFunction = getattr(
            import_module(f"scale_toolkit.stages.{self.module}"), self.function
        )
        return loaded


#: In the order of an analysis.
STAGES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "simulate",
            "simulate_stage",
            config.SimulateConfig,
            "",
            "Make cells with planted clusters.",
            needs_estimate=False,
        ),
        Entry(
            "prepare",
            "prepare",
            config.PrepareConfig,
            "pp",
            "Check counts, join inputs, and keep the cells and peaks that hold enough.",
        ),
        Entry(
            "select-peaks",
            "select_peaks",
            config.SelectPeaksConfig,
            "pp",
            "Score every peak, and keep the best.",
        ),
        Entry(
            "train",
            "train",
            config.TrainConfig,
            "tl",
            "Learn the latent space; or encode cells with a trained model.",
        ),
        Entry(
            "doublets",
            "doublets",
            config.DoubletsConfig,
            "tl",
            "Score how much each cell looks like the union of two, and drop those that do.",
            needs_estimate=False,
        ),
        Entry(
            "map",
            "map",
            config.MapConfig,
            "tl",
            "Place new cells in the latent space of a trained file, with its labels.",
            needs_estimate=False,
        ),
        Entry(
            "choose-k",
            "choose_k",
            config.ChooseKConfig,
            "tl",
            "Show how many clusters the cells have, by three readings.",
            needs_estimate=False,
        ),
        Entry(
            "cluster",
            "cluster",
            config.ClusterConfig,
            "tl",
            "Cluster the cells in the latent space.",
        ),
        Entry(
            "embed",
            "embed",
            config.EmbedConfig,
            "tl",
            "Lay the latent space out in two dimensions.",
        ),
        Entry(
            "markers",
            "markers",
            config.MarkersConfig,
            "tl",
            "Find the peaks that are open more often in a cluster, their genes and motifs.",
        ),
        Entry(
            "annotate",
            "annotate",
            config.AnnotateConfig,
            "tl",
            "Name clusters by the marker genes or regions of known cell types.",
            needs_estimate=False,
        ),
        Entry(
            "genes",
            "genes",
            config.GenesConfig,
            "",
            "Write the activity of genes in each cell, as cells × genes.",
            needs_estimate=False,
        ),
        Entry(
            "impute",
            "impute",
            config.ImputeConfig,
            "tl",
            "Write the probability that each peak is open in each cell, or validate it.",
        ),
    )
}


def config_of(name: str) -> type[Config] | None:
    """Return the class of a stage's options; None for a stage that this version does not know."""
    return STAGES[name].config if name in STAGES else None
