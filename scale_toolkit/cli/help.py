"""Help of a command: an example below its options, and switches without a type."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

#: One example per command, shown below its options and in docs/commands.md.
EXAMPLES = {
    "run": "scale run -d counts.h5ad -k 6 -o output/",
    "demo": "scale demo -o scale_demo/",
    "prepare": (
        "scale prepare counts.h5ad --min-peaks 200 --blacklist blacklist.bed -o prepared.h5ad"
    ),
    "select-peaks": "scale select-peaks prepared.h5ad --n-peaks 50000 -o selected.h5ad",
    "train": "scale train prepared.h5ad -k 8 --model model.pt -o trained.h5ad",
    "impute": "scale impute clustered.h5ad --validate -o imputed.h5ad",
    "embed": "scale embed trained.h5ad --figure umap.pdf -o embedded.h5ad",
    "doublets": "scale doublets trained.h5ad --figure doublets.pdf -o scored.h5ad",
    "choose-k": "scale choose-k trained.h5ad -o chosen.h5ad --figure k.pdf",
    "map": "scale map new.h5ad --reference trained.h5ad --labels cell_type -o mapped.h5ad",
    "cluster": "scale cluster trained.h5ad -k 8 --reference cell_type -o clustered.h5ad",
    "markers": "scale markers clustered.h5ad --gtf genes.gtf.gz --table markers.tsv -o marked.h5ad",
    "genes": "scale genes trained.h5ad --gtf genes.gtf.gz -o genes.h5ad",
    "annotate": "scale annotate clustered.h5ad --markers types.tsv --gtf genes.gtf -o named.h5ad",
    "simulate": "scale simulate --n-cells 1000 -k 8 -o simulated.h5ad",
    "export": "scale export clustered.h5ad --to mtx -o for_signac/",
    "plan": "scale plan counts.h5ad",
    "verify": "scale verify output/adata.h5ad -i counts.h5ad",
    "report": "scale report output/adata.h5ad --label cell_type -o report.html",
    "embedding": "scale plot embedding output/adata.h5ad -c scale_cluster,n_peaks -o umap.pdf",
    "heatmap": "scale plot heatmap output/adata.h5ad --n-peaks 5 -o heatmap.pdf",
    "confusion": "scale plot confusion output/adata.h5ad --label cell_type -o confusion.pdf",
    "contrast": "scale plot contrast compared.h5ad --cluster 3 -o volcano.pdf",
    "correlation": "scale plot correlation output/adata.h5ad -o correlation.png",
    "specificity": "scale plot specificity output/adata.h5ad -o specificity.pdf",
    "locus": (
        "scale plot locus chr2:86,750,000-86,820,000 output/adata.h5ad --gtf genes.gtf.gz "
        "-o locus.pdf"
    ),
    "loss": "scale plot loss output/adata.h5ad -o loss.pdf",
    "qc": "scale plot qc output/adata.h5ad -o qc.pdf",
}


def example(name: str) -> str | None:
    """Return the example line of a command."""
    line = EXAMPLES.get(name)
    return None if line is None else f"Example: {line}"


class _PlainSwitches:
    """Show switches without a type: ``--quiet``, not ``--quiet <bool>``."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters as the parent class gives them, switches with an empty metavar."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in params:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return params


class Command(_PlainSwitches, TyperCommand):
    """A command with plain switches."""


class Group(_PlainSwitches, TyperGroup):
    """A group of commands with plain switches."""
