#!/usr/bin/env python3
"""multiqc_content.py H5AD SAMPLE: write a sample's figures as MultiQC's custom content, one file
a section.
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np


def write(sample, section, **content):
    """Write one section; equal ids of several samples are one section on the page."""
    Path(f"{sample}.{section}_mqc.json").write_text(
        json.dumps({"id": f"scale_{section}", **content})
    )


def categories(column):
    """Return a categorical column's names and codes."""
    return [str(name) for name in column["categories"].asstr()[:]], column["codes"][:]


def main(path, sample):
    """Write what the file has: later stages may not have run."""
    with h5py.File(path) as file:
        shape = [
            int(n)
            for n in file["X"].attrs.get(
                "shape", file["X"].shape if isinstance(file["X"], h5py.Dataset) else ()
            )
        ]
        figures = {"cells": shape[0], "peaks": shape[1]}
        if "n_peaks" in file["obs"]:
            figures["open_peaks"] = float(np.median(file["obs/n_peaks"][:]))
        uns = file["uns"]
        runtime = json.loads(uns["scale_runtime"].asstr()[()]) if "scale_runtime" in uns else []
        if "scale_cluster" in file["obs"]:
            names, codes = categories(file["obs/scale_cluster"])
            figures["clusters"] = len(names)
            write(
                sample,
                "clusters",
                section_name="Cluster sizes",
                description="Cells of each cluster.",
                plot_type="bargraph",
                pconfig={
                    "id": "scale_clusters_plot",
                    "title": "SCALE: cluster sizes",
                    "ylab": "cells",
                },
                data={
                    sample: {
                        f"cluster {name}": int((codes == code).sum())
                        for code, name in enumerate(names)
                    }
                },
            )
            basis = next((name for name in ("X_umap", "X_tsne") if name in file["obsm"]), None)
            if basis:
                points = file["obsm"][basis][:]
                keep = np.random.default_rng(0).permutation(len(points))[:2000]
                colours = (
                    "#0072b2",
                    "#e69f00",
                    "#009e73",
                    "#cc79a7",
                    "#56b4e9",
                    "#d55e00",
                    "#f0e442",
                    "#666666",
                )
                write(
                    sample,
                    f"embedding_{sample}",
                    section_name=f"Cells of {sample}",
                    description="At most 2,000 cells, coloured by cluster.",
                    plot_type="scatter",
                    pconfig={
                        "id": f"scale_embedding_{sample}_plot",
                        "title": f"SCALE: cells of {sample}",
                        "xlab": f"{basis[2:]} 1",
                        "ylab": f"{basis[2:]} 2",
                        "marker_size": 4,
                        "showlegend": False,
                    },
                    data={
                        f"cell {i}": {
                            "x": float(points[i, 0]),
                            "y": float(points[i, 1]),
                            "color": colours[codes[i] % len(colours)],
                            "name": f"cluster {names[codes[i]]}",
                        }
                        for i in keep
                    },
                )
        if "scale_cluster_report" in uns and "ari" in uns["scale_cluster_report"]:
            figures["ari"] = float(uns["scale_cluster_report/ari"][()])
        if "scale_history" in uns:
            figures["epochs"] = max(
                (len(curve) for curve in uns["scale_history"].values()), default=0
            )
            for name, curve in uns["scale_history"].items():
                values = np.asarray(curve[:], dtype=float)
                good = np.isfinite(values)
                if good.any():
                    write(
                        sample,
                        f"training_{name}",
                        section_name=f"Training: {name}",
                        description="By epoch.",
                        plot_type="linegraph",
                        pconfig={
                            "id": f"scale_training_{name}_plot",
                            "title": f"SCALE: {name}",
                            "xlab": "epoch",
                            "ylab": name,
                        },
                        data={sample: {int(i): float(values[i]) for i in np.flatnonzero(good)}},
                    )
        if runtime:
            figures["seconds"] = sum(entry["seconds"] for entry in runtime)
            figures["memory"] = max(entry["peak_memory_mb"] for entry in runtime)
    headers = {
        "cells": {"title": "Cells", "format": "{:,.0f}"},
        "peaks": {"title": "Peaks", "format": "{:,.0f}"},
        "open_peaks": {
            "title": "Open peaks",
            "description": "median of a cell",
            "format": "{:,.0f}",
        },
        "clusters": {"title": "Clusters", "format": "{:,.0f}"},
        "ari": {
            "title": "ARI",
            "description": "adjusted Rand index with the known labels",
            "format": "{:.3f}",
        },
        "epochs": {"title": "Epochs", "format": "{:,.0f}"},
        "seconds": {
            "title": "Time",
            "suffix": " s",
            "description": "of all stages",
            "format": "{:,.1f}",
        },
        "memory": {
            "title": "Memory",
            "suffix": " MB",
            "description": "most of any stage",
            "format": "{:,.0f}",
        },
    }
    write(
        sample,
        "samples",
        section_name="Samples",
        description="What was analysed, and what came out.",
        plot_type="table",
        headers=headers,
        pconfig={"id": "scale_samples_table", "title": "SCALE: samples"},
        data={sample: figures},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
