"""What `map --update` changes: ``python benchmarks/mapping_update.py SET.h5ad ...``.

The reference is a random half of each type, trained by default; the query is the other half: as it
is (same), on other peaks (`mapping.on_other_peaks`), with a third of its reads (third), or with a
third of the reads in a random half of its peaks (biased). Each is mapped without and with
``update``. ``simulated`` in the place of a file is 1,000 cells of 6 types.

Columns, without → with: mean cosine with the latent vectors that the reference's own encoder gives
the same cells with all their reads and peaks, and share of the cells that have the same mixture
component as there; share of the 15 nearest query cells that are of the same type; ARI of k-means at
the true number of types (mean of three seeds); accuracy of the 15 nearest reference cells.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from mapping import LABEL, first_half, on_other_peaks, read
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import scale_toolkit as scale
from scale_toolkit import keys

MEASURES = ("cosine", "component", "purity", "ARI", "nearest")


def thinned(cells: anndata.AnnData, share: np.ndarray, rng: np.random.Generator) -> anndata.AnnData:
    """Keep a share of the reads of each peak."""
    result = cells.copy()
    counts = sparse.csc_matrix(cells.X)
    shares = np.repeat(share, np.diff(counts.indptr))
    counts.data = rng.binomial(counts.data.astype(int), shares).astype(np.float32)
    counts.eliminate_zeros()
    result.X = counts.tocsr()
    return result


def measured(
    mapped: anndata.AnnData, reference: anndata.AnnData, encoded: anndata.AnnData
) -> list[float]:
    """Return the `MEASURES` of a mapped query; `encoded` are its cells by the model's encoder."""
    truth = mapped.obs[LABEL].astype(str).to_numpy()
    latent, n_types = keys.LATENT.get(mapped), len(np.unique(truth))
    labels = reference.obs[LABEL].astype(str)
    components = [keys.COMPONENT.get(cells).astype(str).to_numpy() for cells in (mapped, encoded)]
    neighbours = NearestNeighbors(n_neighbors=15).fit(latent).kneighbors(return_distance=False)
    clusters = [
        KMeans(n_types, n_init=10, random_state=seed).fit_predict(latent) for seed in range(3)
    ]
    nearest = KNeighborsClassifier(15).fit(keys.LATENT.get(reference), labels).predict(latent)
    return [
        float((latent * keys.LATENT.get(encoded)).mean(1).mean()),
        float(np.mean(components[0] == components[1])),
        float(np.mean(truth[neighbours] == truth[:, None])),
        float(np.mean([adjusted_rand_score(truth, clustering) for clustering in clusters])),
        float(np.mean(nearest == truth)),
    ]


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| set | query | " + " | ".join(MEASURES) + " |")
    print("|---" * (len(MEASURES) + 2) + "|", flush=True)
    rows = []
    for name in arguments.sets:
        rng = np.random.default_rng(arguments.seed)
        if name == "simulated":
            cells = scale.simulate(n_cells=1000, n_peaks=6000, n_clusters=6, seed=arguments.seed)
        else:
            cells = read(Path(name), 0)
        is_first = first_half(cells.obs[LABEL].astype(str).to_numpy(), rng)
        reference, models = cells[is_first].copy(), []
        scale.pp.prepare(reference, min_peaks=1, min_cells=1)
        scale.train(reference, seed=arguments.seed, n_threads=1, keep_model=models.append)
        query = cells[~is_first].copy()
        encoded = scale.encode(query.copy(), model=models[0], n_threads=1)
        full, third = np.ones(query.n_vars), np.full(query.n_vars, 1 / 3)
        queries = {
            "same": query,
            "other": on_other_peaks(query, rng),
            "third": thinned(query, third, rng),
            "biased": thinned(query, np.where(rng.random(query.n_vars) < 0.5, full, third), rng),
        }
        for kind, new in queries.items():
            pair = [
                measured(
                    scale.map(new.copy(), reference=reference, update=update, n_threads=1),
                    reference,
                    encoded,
                )
                for update in (False, True)
            ]
            rows.append(np.subtract(pair[1], pair[0]))
            values = " | ".join(f"{a:.3f} → {b:.3f}" for a, b in zip(*pair, strict=True))
            print(f"| {Path(name).stem} | {kind} | {values} |", flush=True)
    mean = pd.DataFrame(rows, columns=list(MEASURES)).mean()
    print("| mean change |  | " + " | ".join(f"{value:+.3f}" for value in mean) + " |")


if __name__ == "__main__":
    main()
