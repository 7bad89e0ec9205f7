"""The Python blocks of docs/guide/recipes.md run, each where its libraries are installed, and find what was planted."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import spearmanr

import scale_toolkit as scale

PAGE = Path(__file__).parents[1] / "docs/guide/recipes.md"
BLOCKS = {
    title: block
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    for block in re.findall(r"```python\n(.*?)```", text, re.S)
}


def run(title: str, **names):
    """Run the block below a heading, or skip if a library that it imports is missing."""
    (block,) = [block for heading, block in BLOCKS.items() if heading.startswith(title)]
    for library in re.findall(r"^(?:import|from) (\w+)", block, re.M):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    exec(compile(block, f"{PAGE.name}: {title}", "exec"), names)
    return names


def test_every_block_has_its_test():
    assert set(BLOCKS) == {
        "PAGA and pseudotime",
        "Motif deviations, as chromVAR computes them",
        "Peaks that go with a gene, in a multiome",
        "SnapATAC2",
    }


@pytest.fixture(scope="module")
def path():
    """Cells of two clusters and of the path between them."""
    cells = scale.simulate(n_cells=500, n_peaks=3000, n_clusters=2, open_peaks=400, continuum=0.7, seed=2)
    cells = scale.train(scale.prepare(cells, min_peaks=20), n_components=4, max_epochs=5, n_threads=1)
    return scale.embed(scale.cluster(cells, n_clusters=3, n_threads=1), n_threads=1)


@pytest.mark.filterwarnings("ignore")  # of scanpy's plots
def test_pseudotime_follows_the_planted_path(path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = path.copy()
    # "0" is the largest cluster; the root is in the cluster at the path's start
    position = cells.obs["path_position"].astype(float)
    first = position.groupby(cells.obs["scale_cluster"].astype(str)).mean().idxmin()
    names = {"0": first, first: "0"}
    cells.obs["scale_cluster"] = cells.obs["scale_cluster"].astype(str).replace(names).astype("category")
    run("PAGA", cells=cells)
    assert cells.uns["paga"]["connectivities"].shape == (3, 3)
    on_path = position.notna().to_numpy() & np.isfinite(cells.obs["dpt_pseudotime"].to_numpy())
    assert on_path.sum() > 200
    direction = np.where(cells.obs["path_from"].astype(str) == cells.obs["path_from"].astype(str)[on_path].mode()[0], 1, -1)
    along = np.where(direction > 0, position, 1 - position)
    assert abs(spearmanr(along[on_path], cells.obs["dpt_pseudotime"][on_path]).statistic) > 0.7


def test_motif_deviations_find_the_planted_motif(plant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = plant(n_cells=200)
    rng = np.random.default_rng(0)
    words = {"planted": rng.integers(0, 4, 10), "elsewhere": rng.integers(0, 4, 10)}
    genome = {f"chr{c}": rng.integers(0, 4, 301_000) for c in (1, 2, 3)}
    # the peaks of type1 are more open in its cells; those of the second word are like all others
    for word, names in (("planted", cells.var_names[1::10]), ("elsewhere", cells.var_names[5::10])):
        for name in names:
            chrom, start = name.split("-")[0].split(":")
            first = int(start) + 100
            genome[chrom][first : first + 10] = words[word]
    letters = np.array(list("ACGT"))
    (tmp_path / "genome.fa").write_text("".join(f">{chrom}\n{''.join(letters[codes])}\n" for chrom, codes in genome.items()))
    text = "MEME version 4\n\nALPHABET= ACGT\n"
    for word, codes in words.items():
        rows = "\n".join(" ".join(map(str, row)) for row in 0.9 * np.eye(4)[codes] + 0.025)
        text += f"MOTIF {word}\nletter-probability matrix: alength= 4 w= 10\n{rows}\n\n"
    (tmp_path / "motifs.meme").write_text(text)
    run("Motif deviations", cells=cells)
    z = cells.obsm["motif_z"]
    assert list(z.columns) == ["planted", "elsewhere"]
    is_type1 = (cells.obs["cell_type"] == "type1").to_numpy()
    gap = {word: z[word][is_type1].mean() - z[word][~is_type1].mean() for word in z}
    assert gap["planted"] > 2 > 4 * abs(gap["elsewhere"])


def test_a_gene_is_linked_to_the_planted_peak(plant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = plant(n_cells=300)
    # all peaks of type1 lie on other chromosomes but one, at the gene's start
    is_type1 = (cells.obs["cell_type"] == "type1").to_numpy()
    cells = scale.train(scale.prepare(cells, min_peaks=5), n_components=3, latent=4, max_epochs=10, n_threads=1)
    cells = scale.cluster(cells, n_clusters=3, n_threads=1)
    target = next(name for name in plant(n_cells=300).var_names[1::10] if name.startswith("chr2:"))
    start = int(target.split(":")[1].split("-")[0])
    line = f'chr2\tx\tgene\t{start + 1}\t{start + 400}\t.\t+\t.\tgene_id "G1"; gene_name "GENE1";\n'
    (tmp_path / "genes.gtf").write_text(line)
    rng = np.random.default_rng(0)
    expression = rng.poisson(np.where(is_type1, 3.0, 0.3))[:, None].astype(np.float32)
    rna = anndata.AnnData(sparse.csr_matrix(expression), obs=pd.DataFrame(index=cells.obs_names))
    rna.var_names = ["GENE1"]
    linked = run("Peaks that go", cells=cells, rna=rna)["linked"]
    row = linked.set_index("peak").loc[target]
    assert abs(row["distance"]) <= 500 and row["r"] > 0.5 and row["z"] > 1
    assert (linked["distance"].abs() <= 250_000).all()


def test_snapatac2_takes_the_latent_space(path):
    cells = path.copy()
    run("SnapATAC2", cells=cells)
    assert len(set(cells.obs["leiden"])) > 1
