"""Does `train --batch-key` take batches out and leave biology in? Beside centring and Harmony.

    PYTHON benchmarks/batches.py [--data FOLDER] [--scib PYTHON] [--sets NAME ...]

Sets: three simulated batches, the same with one type in one batch only, with random labels instead
of batches, and labelled cells cut at random into two mock batches, of which the second loses two
fifths of its open peaks and each peak another share of them (log-normal, 0.4). FOLDER holds the
labelled sets.

Ways: ``plain`` (no batch key), ``centred`` (the mean of each batch subtracted from the plain latent
space, rows to unit length), ``harmony`` (harmonypy on the plain latent space, if it is installed),
``batch-key``.

Figures: ARI of k-means with the number of types; share of 15 nearest neighbours of the cell's type;
of another batch, as a share of what random neighbours give. With --scib, PYTHON of an environment
with scib-metrics adds its iLISI and cLISI (0 to 1; Luecken et al. 2022).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

REAL = ("cerebellum", "forebrain", "bone_marrow", "leukemia")


def simulated(n_cells, seed, **options):
    import scale_toolkit as scale

    return scale.simulate(n_cells=n_cells, n_batches=3, seed=seed, **options)


def unequal(n_cells, seed):
    cells = simulated(n_cells, seed)
    is_elsewhere = (cells.obs["cell_type"] == "type8") & (cells.obs["batch"] != "batch1")
    return cells[~is_elsewhere].copy()


def without_effect(n_cells, seed):
    import scale_toolkit as scale

    cells = scale.simulate(n_cells=n_cells, seed=seed)
    names = np.random.default_rng(seed).integers(1, 4, cells.n_obs).astype(str)
    cells.obs["batch"] = np.char.add("batch", names)
    return cells


def mock(path, seed, spread=0.4, kept=0.6):
    """Cut labelled cells into two batches; the second is thinned, and each peak's share differs."""
    import anndata
    from scipy import sparse

    cells, rng = anndata.read_h5ad(path), np.random.default_rng(seed)
    counts = sparse.csr_matrix(cells.X > 0, dtype=np.float32)
    batch = rng.integers(0, 2, cells.n_obs)
    share = np.exp(rng.normal(0, spread, (2, cells.n_vars)))
    share = np.minimum(share / np.quantile(share, 0.9), 1) * np.array([[1.0], [kept]])
    row = np.repeat(batch, np.diff(counts.indptr))
    counts.data = (rng.random(counts.nnz) < share[row, counts.indices]).astype(np.float32)
    counts.eliminate_zeros()
    mock_cells = anndata.AnnData(counts, obs=cells.obs[["cell_type"]].copy(), var=cells.var[[]])
    mock_cells.obs["batch"] = np.where(batch == 1, "thinned", "deep")
    mock_cells.obs["cell_type"] = mock_cells.obs["cell_type"].astype(str)
    return mock_cells


def sets(folder):
    """Each set's name and the function that makes its cells."""
    for seed in (18, 1, 2):
        yield f"3 batches, 1,000 cells, seed {seed}", lambda seed=seed: simulated(1000, seed)
    yield "3 batches, 3,000 cells", lambda: simulated(3000, 18)
    for seed in (18, 1):
        yield f"one type in one batch, 3,000, seed {seed}", lambda seed=seed: unequal(3000, seed)
    yield "no effect, 1,000 cells", lambda: without_effect(1000, 18)
    yield "no effect, 3,000 cells", lambda: without_effect(3000, 1)
    for name in REAL:
        if (path := Path(folder) / f"{name}.h5ad").exists():
            yield f"{name}, two mock batches", lambda path=path: mock(path, 0)


def latent_spaces(cells, seed):
    """The latent space of each way, and seconds of training."""
    import scale_toolkit as scale

    spaces, seconds = {}, {}
    for name, options in (("plain", {}), ("batch-key", {"batch_key": "batch"})):
        started = time.perf_counter()
        trained = scale.train(cells.copy(), seed=seed, **options)
        seconds[name] = time.perf_counter() - started
        spaces[name] = trained.obsm["X_scale"]
    plain = spaces["plain"]
    centred = plain.copy()
    for name in cells.obs["batch"].unique():
        members = (cells.obs["batch"] == name).to_numpy()
        centred[members] -= plain[members].mean(0)
    spaces["centred"] = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    try:
        import harmonypy
    except ImportError:
        return spaces, seconds
    started = time.perf_counter()
    result = np.asarray(harmonypy.run_harmony(plain, cells.obs, ["batch"]).Z_corr)
    seconds["harmony"] = time.perf_counter() - started
    spaces["harmony"] = result if result.shape == plain.shape else result.T
    return spaces, seconds


def figures(space, cells):
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score
    from sklearn.neighbors import NearestNeighbors

    types, batch = (cells.obs[name].astype(str).to_numpy() for name in ("cell_type", "batch"))
    labels = KMeans(len(set(types)), n_init=10, random_state=0).fit_predict(space)
    near = NearestNeighbors(n_neighbors=15).fit(space).kneighbors(return_distance=False)
    expected = np.mean([(batch != name).mean() for name in batch])
    return {
        "ari": adjusted_rand_score(types, labels),
        "own type": (types[near] == types[:, None]).mean(),
        "mixing": (batch[near] != batch[:, None]).mean() / expected,
    }


def scib(path):
    """Print scib-metrics' figures of the arrays in a file, as JSON."""
    import scib_metrics
    from scib_metrics.nearest_neighbors import pynndescent

    with np.load(path, allow_pickle=False) as arrays:
        batch, types = (np.unique(arrays[name], return_inverse=True)[1] for name in ("b", "t"))
        near = pynndescent(arrays["z"].astype(np.float32), n_neighbors=90)
    print(
        json.dumps(
            {
                "ilisi": float(scib_metrics.ilisi_knn(near, batch)),
                "clisi": float(scib_metrics.clisi_knn(near, types)),
            }
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--scib", help="Python of an environment with scib-metrics")
    parser.add_argument("--sets", nargs="*", help="only sets whose names begin so")
    parser.add_argument("--scib-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.scib_of:
        scib(args.scib_of)
        return
    import scale_toolkit as scale

    warnings.simplefilter("ignore")
    for name, make in sets(args.data):
        if args.sets and not any(name.startswith(start) for start in args.sets):
            continue
        cells = make()
        # as users do; of the small labelled sets all is kept
        scale.pp.prepare(cells, **({"min_peaks": 1, "min_cells": 1} if "mock" in name else {}))
        spaces, seconds = latent_spaces(cells, 18)
        for method, space in spaces.items():
            row = {"set": name, "method": method, **figures(space, cells)}
            if method in seconds:
                row["seconds"] = seconds[method]
            if args.scib:
                with tempfile.TemporaryDirectory() as folder:
                    path = f"{folder}/arrays.npz"
                    labels = cells.obs[["batch", "cell_type"]]
                    texts = (labels[label].to_numpy(dtype=str) for label in labels)
                    np.savez(path, z=space, **dict(zip("bt", texts, strict=True)))
                    command = [args.scib, __file__, "--scib-of", path]
                    row |= json.loads(subprocess.check_output(command, stderr=sys.stderr))
            print(
                json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}),
                flush=True,
            )


if __name__ == "__main__":
    main()
