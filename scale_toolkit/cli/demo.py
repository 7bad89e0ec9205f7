"""``scale demo``."""

from __future__ import annotations

from pathlib import Path

from scale_toolkit.cli.analysis import Plan, analyse
from scale_toolkit.cli.files import check_folder
from scale_toolkit.cli.options import command
from scale_toolkit.cli.run import Outdir
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import (
    ClusterConfig,
    EmbedConfig,
    PrepareConfig,
    SelectPeaksConfig,
    SimulateConfig,
    TrainConfig,
)


@command
def demo(
    outdir: Outdir = Path("scale_demo"),
    *,
    talk: Talk,
) -> None:
    """Simulate 1,000 cells of 8 types, analyse them as `scale run` does, and report how well the
    types were found.
    """
    check_folder(outdir)
    from scale_toolkit.io.h5ad import write_h5ad
    from scale_toolkit.stages.simulate import simulate

    n_clusters = 8
    planted = SimulateConfig(n_cells=1000, n_peaks=8000, n_clusters=n_clusters, open_peaks=500)
    cells = simulate(planted)
    outdir.mkdir(parents=True, exist_ok=True)
    write_h5ad(cells, outdir / "simulated.h5ad")
    plan = Plan(
        folder=outdir,
        prepare=PrepareConfig(),
        select=SelectPeaksConfig(),
        train=TrainConfig(n_components=n_clusters),
        embed=EmbedConfig(),
        cluster=ClusterConfig(n_clusters=n_clusters, reference="cell_type"),
    )
    analyse(cells, plan, talk)
