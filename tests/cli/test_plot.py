"""``scale plot``: every figure from a file, its options, and what is said where the file lacks a slot."""

from __future__ import annotations

import dataclasses

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from scale_toolkit import keys, output_config, plot
from scale_toolkit.errors import ScaleWarning
from scale_toolkit.stages.imputed import imputed
from scale_toolkit.stages.markers import markers
from scale_toolkit.stages.prepare import prepare

FIGURES = {
    "embedding": output_config.PlotEmbeddingConfig,
    "heatmap": output_config.PlotHeatmapConfig,
    "confusion": output_config.PlotConfusionConfig,
    "contrast": output_config.PlotContrastConfig,
    "correlation": output_config.PlotCorrelationConfig,
    "specificity": output_config.PlotSpecificityConfig,
    "loss": output_config.PlotLossConfig,
    "qc": output_config.PlotQcConfig,
}


@pytest.fixture
def done(scale):
    """Return ``done(words)``: the command ends well; gives what it said."""

    def call(words):
        code, said = scale(words)
        assert code == 0, said
        return said

    return call


@pytest.fixture
def bad(scale):
    """Return ``bad(words, code, message)``: the command ends with the code, and one line that starts with the message."""

    def call(words, code, message):
        found, said = scale(words)
        assert found == code, said
        assert said.startswith(f"error: {message}"), said
        assert said.count("\n") == 1

    return call


@pytest.fixture
def folder(plant, tmp_path):
    """A folder with cells.h5ad, which holds all that the figures need."""
    cells = prepare(plant(), min_peaks=5, min_cells=2)
    rng = np.random.default_rng(0)
    code = cells.obs["cell_type"].cat.codes.to_numpy()
    keys.UMAP.set(cells, rng.normal(size=(cells.n_obs, 2)).astype(np.float32))
    keys.TSNE.set(cells, rng.normal(size=(cells.n_obs, 2)).astype(np.float32))
    keys.LATENT.set(cells, (rng.normal(size=(cells.n_obs, 4)) + np.eye(4)[code] * 3).astype(np.float32))
    keys.CLUSTER.set(cells, pd.Categorical(np.where(rng.random(cells.n_obs) < 0.1, 0, code).astype(str)))
    keys.HISTORY.set(cells, {"loss": np.linspace(9, 1, 10), "held_out": np.linspace(-9, -1, 11)})
    cells.obs["half"] = np.arange(cells.n_obs) // 3 % 2
    with pytest.warns(ScaleWarning, match="sample_key"):
        cells = markers(cells, cluster_by="cell_type", contrast="half:0:1", max_fdr=1, min_odds_ratio=1, n_threads=1)
    cells.obs["other"] = pd.Categorical(np.roll(code, 3).astype(str))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path


@pytest.mark.parametrize(
    ("figure", "kind"), [*((figure, "png") for figure in FIGURES), ("qc", "pdf"), ("embedding", "pdf"), ("loss", "svg")]
)
def test_every_figure_in_every_format(folder, done, figure, kind):
    said = done(f"plot {figure} cells.h5ad -o fig.{kind}")
    assert said.splitlines()[-1] == f"figure: fig.{kind}"
    assert (folder / f"fig.{kind}").read_bytes().startswith({"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}[kind])
    assert sorted(path.name for path in folder.iterdir()) == ["cells.h5ad", f"fig.{kind}"]


PEAKS = "chr1:0-500,chr2:1000-1500"
WORDS = {
    "embedding": {
        "basis": ("tsne", "tsne"),
        "color": ("cell_type,n_peaks", ["cell_type", "n_peaks"]),
        "size": ("9", 9.0),
        "names_on_data": ("", True),
    },
    "heatmap": {
        "groupby": ("cell_type", "cell_type"),
        "peaks": (PEAKS, PEAKS.split(",")),
        "n_peaks": ("3", 3),
        "relative": ("", False),
    },
    "confusion": {
        "reference": ("other", "other"),
        "cluster": ("other", "other"),
        "normalize": ("", True),
    },
    "contrast": {"cluster": ("type1", "type1")},
    "correlation": {
        "groupby": ("cell_type", "cell_type"),
        "basis": ("X_umap", "X_umap"),
        "method": ("spearman", "spearman"),
        "max_cells": ("30", 30),
    },
    "specificity": {
        "groupby": ("cell_type", "cell_type"),
        "basis": ("X_umap", "X_umap"),
        "vmax": ("9", 9.0),
        "statistic": ("p", "p"),
    },
    "loss": {"quantities": ("held_out", ["held_out"])},
    "qc": {"panel": ("knee", "knee")},
}


def test_every_option_has_a_case():
    assert {name: set(cases) for name, cases in WORDS.items()} == {
        name: {spec.name for spec in dataclasses.fields(kind)} for name, kind in FIGURES.items()
    }


@pytest.mark.parametrize(("figure", "option"), [(figure, option) for figure, cases in WORDS.items() for option in cases])
def test_an_option_does_what_the_function_does(folder, done, figure, option):
    words, value = WORDS[figure][option]
    flag = f"--{'no-' * (value is False)}{option.replace('_', '-')}" + (f" {words}" if words else "")
    done(f"plot {figure} cells.h5ad {flag} -o changed.svg")
    done(f"plot {figure} cells.h5ad -o plain.svg")
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    also = {"reference": "cell_type"} if figure == "confusion" and option != "reference" else {}
    getattr(plot, figure)(cells, **({option: value} | also), save=folder / "expected.svg")
    changed, plain, expected = ((folder / f"{name}.svg").read_bytes() for name in ("changed", "plain", "expected"))
    assert changed == expected
    assert changed != plain


def test_the_heat_map_shows_the_marker_peaks_of_the_file_as_python_does(folder, done):
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    markers = pd.DataFrame({"cluster": ["0", "1", "2"], "peak": cells.var_names[[5, 3, 8]]}, index=["0", "1", "2"])
    keys.MARKERS.set(cells, markers)
    cells.write_h5ad(folder / "cells.h5ad")
    done("plot heatmap cells.h5ad -o command.svg")
    plot.heatmap(anndata.read_h5ad(folder / "cells.h5ad"), save=folder / "python.svg")
    drawn = (folder / "command.svg").read_bytes()
    assert drawn == (folder / "python.svg").read_bytes()
    for peak in markers["peak"]:
        assert f"{peak}</text>".encode() in drawn


def test_cells_are_coloured_by_a_peak(folder, done):
    done("plot embedding cells.h5ad --color chr1:0-500 -o peak.svg")
    assert b"chr1:0-500</text>" in (folder / "peak.svg").read_bytes()


@pytest.fixture
def trained(folder):
    """cells.h5ad with a decoder, and genes.gtf with a gene that starts at the first peak."""
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    rng = np.random.default_rng(0)
    keys.DECODER.set(cells, rng.normal(size=(cells.n_vars, 4)).astype(np.float32))
    keys.BIAS.set(cells, rng.normal(size=cells.n_vars).astype(np.float32))
    keys.OFFSET.set(cells, rng.normal(size=cells.n_obs).astype(np.float32))
    cells.write_h5ad(folder / "cells.h5ad")
    row = 'chr1\tx\tgene\t101\t900\t.\t+\t.\tgene_id "G1"; gene_name "Gad1";\n'
    (folder / "genes.gtf").write_text(row)
    return cells


def test_peaks_regions_and_genes_are_coloured_by_imputed_values(folder, trained, done):
    done("plot embedding cells.h5ad -c chr1:0-500,chr1:0-7000,Gad1,cell_type --gtf genes.gtf -o colours.svg")
    values = imputed(trained)
    wide = [name for name in trained.var_names if name.startswith("chr1:") and int(name[5:].split("-")[0]) < 7000]
    near = ["chr1:0-500"]  # of the peaks within 2,000 bases of the gene's start
    assert len(wide) > 1
    for name, peaks in {"chr1:0-500": near, "chr1:0-7000": wide, "Gad1": near}.items():
        trained.obs[f"{name} (imputed)"] = np.asarray(values[:, peaks], float).reshape(trained.n_obs, -1).mean(axis=1)
    columns = ["chr1:0-500 (imputed)", "chr1:0-7000 (imputed)", "Gad1 (imputed)", "cell_type"]
    plot.embedding(trained, color=columns, save=folder / "expected.svg")
    assert (folder / "colours.svg").read_bytes() == (folder / "expected.svg").read_bytes()


def test_colours_that_name_nothing(trained, bad):
    bad("plot embedding cells.h5ad -c Gad1 -o fig.png", 1, "'Gad1' is neither a column of obs nor a peak or region")
    bad("plot embedding cells.h5ad -c Sox2 --gtf genes.gtf -o fig.png", 1, "'Sox2' is neither a column of obs, a peak")
    bad("plot embedding cells.h5ad -c chr1:99000000-99000001 -o fig.png", 1, "no modelled peak overlaps")
    bad("plot embedding cells.h5ad -c Gad1 --gtf none.gtf -o fig.png", 1, "none.gtf does not exist")


def test_clusters_are_not_compared_with_themselves(folder, bad):
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    cells.obs["leiden"] = cells.obs["scale_cluster"]
    cells.write_h5ad(folder / "cells.h5ad")
    for column in ("leiden", "scale_cluster"):
        message = f"obs['{column}'] holds the clusters of obs['scale_cluster'] themselves; expected known labels"
        bad(f"plot confusion cells.h5ad --label {column} -o fig.png", 1, message)


@pytest.mark.parametrize("named", ["celltype", "label"])
def test_known_labels_are_guessed_by_name(folder, done, named):
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    cells.obs = cells.obs.rename(columns={"cell_type": named})
    cells.write_h5ad(folder / "cells.h5ad")
    done("plot confusion cells.h5ad -o fig.svg")
    assert f"{named}</text>".encode() in (folder / "fig.svg").read_bytes()


@pytest.mark.parametrize(
    ("figure", "lost", "message"),
    [
        ("embedding", ["obsm/X_umap", "obsm/X_tsne"], "obsm['X_umap'] is missing; expected the output of `scale embed`; run"),
        ("embedding", ["obs/scale_cluster"], "obs['scale_cluster'] is missing; expected the output of `scale cluster`"),
        ("heatmap", ["obs/scale_cluster"], "obs['scale_cluster'] is missing; expected the output of `scale cluster`"),
        ("heatmap", ["X"], "X is missing; expected counts, cells × peaks"),
        ("confusion", ["obs/scale_cluster"], "obs['scale_cluster'] is missing; expected the output of `scale cluster`"),
        ("confusion", ["obs/cell_type"], "obs has none of cell_type, celltype, label; expected known labels; name"),
        ("contrast", ["uns/scale_contrast_clusters"], "uns['scale_contrast_clusters'] is missing; expected the output of"),
        ("correlation", ["obsm/X_scale"], "obsm['X_scale'] is missing; expected the output of `scale train`; run"),
        ("specificity", ["obsm/X_scale"], "obsm['X_scale'] is missing; expected the output of `scale train`; run"),
        ("loss", ["uns/scale_history"], "uns['scale_history'] is missing; expected the output of `scale train`; run"),
        ("qc", ["uns/scale_qc", "obs/n_peaks"], "obs['n_peaks'] is missing; expected the output of `scale prepare`; run"),
    ],
)  # fmt: skip
def test_a_missing_slot_names_the_stage_that_makes_it(folder, bad, figure, lost, message):
    with h5py.File(folder / "cells.h5ad", "r+") as file:
        for path in lost:
            del file[path]
            if path.startswith("obs/"):
                file["obs"].attrs["column-order"] = [c for c in file["obs"].attrs["column-order"] if c != path[4:]]
    bad(f"plot {figure} cells.h5ad -o fig.png", 1, message)
    assert not (folder / "fig.png").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("embedding cells.h5ad -o fig.gif", 2, "-o is fig.gif; expected a name that ends in .pdf, .png, .svg"),
        ("embedding cells.h5ad -o -", 2, "-o is -; expected a name that ends in"),
        ("embedding cells.h5ad", 2, "Missing option '-o' / '--output'."),
        ("embedding cells.h5ad -o no/fig.png", 2, "the output folder no does not exist"),
        ("embedding no.h5ad -o fig.png", 1, "no.h5ad does not exist"),
        ("embedding cells.h5ad --basis pca -o fig.png", 1, "obsm['pca'] is missing"),
        ("embedding cells.h5ad --color colour -o fig.png", 1, "obs['colour'] is missing; expected a peak or one of cell_type"),
        ("contrast cells.h5ad --cluster 9 -o fig.png", 1, "cluster '9' was not compared; expected one of type0, type1"),
        ("correlation cells.h5ad --basis pca -o fig.png", 1, "obsm['pca'] is missing"),
        ("specificity cells.h5ad --basis pca -o fig.png", 1, "obsm['pca'] is missing"),
        ("confusion cells.h5ad --label colour -o fig.png", 1, "obs has no column 'colour'; expected one of cell_type"),
        ("loss cells.h5ad --quantities gain -o fig.png", 1, "uns['scale_history'] has no curve gain; expected one of loss,"),
        ("heatmap cells.h5ad --peaks chrZ -o fig.png", 1, "1 of 1 peaks are not in var_names: chrZ"),
        ("qc cells.h5ad --panel elbow -o fig.png", 2, "--panel is 'elbow'; expected one of knee, histogram, peaks"),
    ],
)  # fmt: skip
def test_words_that_are_off(folder, bad, words, code, message):
    bad(f"plot {words}", code, message)


def test_only_what_is_needed_is_read(folder, done, bad):
    with h5py.File(folder / "cells.h5ad", "r+") as file:  # a matrix that cannot be read does not matter to the others
        del file["X/indices"]
    for figure in ("embedding", "confusion", "contrast", "correlation", "specificity", "loss", "qc"):
        done(f"plot {figure} cells.h5ad -o fig.png")
    bad("plot heatmap cells.h5ad -o fig.png", 1, "cells.h5ad: X cannot be read")
