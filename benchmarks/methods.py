"""One method, one matrix, one seed: a latent space. Every method of the comparison, run in a
process of its own.

    python benchmarks/methods.py METHOD IN.h5ad OUT.npz [--seed 0] [--n-threads 2] [--epochs N]

IN.h5ad holds counts (cells × peaks), all of which every method gets. OUT.npz holds ``latent``
(cells × dimensions, float32) and ``facts``, JSON: ``seconds`` of the work without imports and
reading, resident memory at its peak (``peak_mb``), after the imports (``imports_mb``) and after
reading (``base_mb``), and what the method says of itself. Peers run in the environment that
``benchmarks/peers/install`` makes; each with the settings its documentation advises:

tfidf-svd   log1p(10⁴ · count / row sum · log(1 + cells / peak count)), truncated SVD of 31, the
first dropped, rows to unit
            length.
signac-lsi  Signac's weighting, log1p(10⁴ · tf · cells / peak count), u · s of 30, first dropped,
unit length (Stuart et al. 2021). scopen      scOpen's objective by scikit-learn: NMF of 30 of the
TF-IDF matrix, rows to unit length (Li et al. 2021). cistopic    cisTopic's model by scikit-learn:
LDA of 30 topics, square roots of the shares (Bravo González-Blas et al. 2019). snapatac2
``snapatac2.tl.spectral``, 30 components, cosine, all peaks (Zhang et al. 2024); ``snapatac2:unit``
to unit length. peakvi      scvi-tools ``PEAKVI``, its own size, 500 epochs with early stopping
(Ashuach et al. 2022); lr as --lr says. release     ``scale`` 1.1.2's own classes with the options
of its command line (Xiong et al. 2019); the latent space is the mean
            of z. It does not start on NumPy 2: the names it misses (`np.warnings`, `np.Inf`,
            `clip_grad_norm`) are put back, nothing else.
start       the coordinates that this project's training starts from (`model.views.find_start`).
scale       this project's ``train`` with its defaults; ``scale:PRESET`` with another preset.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path


def tfidf_svd(late, args):
    import numpy as np
    from scipy.sparse.linalg import svds

    yield
    cells = late.cells
    n = min(30, min(cells.shape) - 2)
    x = cells.X.astype(np.float64).tocsr()
    row, column = np.asarray(x.sum(1)).ravel(), np.asarray(x.sum(0)).ravel()
    x.data = np.log1p(
        1e4
        * x.data
        / np.repeat(row, np.diff(x.indptr))
        * np.log(1 + x.shape[0] / column)[x.indices]
    )
    u, s, _ = svds(x, k=n + 1, v0=np.random.default_rng(args.seed).uniform(-1, 1, min(x.shape)))
    z = (u * s)[:, np.argsort(-s)[1:]]
    yield z / np.linalg.norm(z, axis=1, keepdims=True), {}


def signac_lsi(late, args):
    import numpy as np
    from scipy.sparse.linalg import svds

    yield
    x = late.cells.X.astype(np.float64).tocsr()
    row, column = np.asarray(x.sum(1)).ravel(), np.asarray(x.sum(0)).ravel()
    share = x.data / np.repeat(row, np.diff(x.indptr))
    x.data = np.log1p(1e4 * share * (x.shape[0] / column)[x.indices])
    u, s, _ = svds(x, k=min(31, min(x.shape) - 1), v0=start_vector(x, args.seed))
    yield unit_rows((u * s)[:, np.argsort(-s)[1:]]), {}


def scopen(late, args):
    import numpy as np
    from sklearn.decomposition import NMF

    yield
    x = late.cells.X.tocsr().astype(np.float64)
    x.data[:] = 1
    row, column = np.asarray(x.sum(1)).ravel(), np.asarray(x.sum(0)).ravel()
    share = x.data / np.repeat(row, np.diff(x.indptr))
    x.data = share * np.log(1 + x.shape[0] / column)[x.indices] * 1e4
    model = NMF(min(30, min(x.shape)), init="nndsvd", random_state=args.seed, max_iter=500)
    yield unit_rows(model.fit_transform(x)), {}


def cistopic(late, args):
    import numpy as np
    from sklearn.decomposition import LatentDirichletAllocation

    yield
    x = (late.cells.X > 0).astype(np.float64)
    model = LatentDirichletAllocation(
        30, random_state=args.seed, max_iter=50, n_jobs=args.n_threads
    )
    shares = model.fit_transform(x)
    yield np.sqrt(shares / shares.sum(1, keepdims=True)), {}


def start(late, args):
    import numpy as np

    from scale_toolkit.core.open_peaks import OpenPeaks
    from scale_toolkit.core.rows import MatrixRows
    from scale_toolkit.model.products import ProductsOnHost
    from scale_toolkit.model.views import find_start

    yield
    opened = OpenPeaks.of_source(MatrixRows(late.cells.X), args.n_threads)
    start = find_start(ProductsOnHost(opened), opened.peak_sums(), None, args.seed)
    yield np.asarray(start.coordinates), {"latent": start.coordinates.shape[1]}


def start_vector(x, seed):
    """Where ARPACK begins, so that a seed gives the same result again."""
    import numpy as np

    return np.random.default_rng(seed).uniform(-1, 1, min(x.shape))


def unit_rows(z):
    """Rows to unit length."""
    import numpy as np

    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


def snapatac2(late, args):
    import snapatac2

    yield
    _, z = snapatac2.tl.spectral(
        late.cells, n_comps=30, features=None, random_state=args.seed, inplace=False
    )
    yield (unit_rows(z) if args.method.endswith(":unit") else z), {}


def peakvi(late, args):
    import logging

    import scvi

    scvi.settings.seed = args.seed
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning").setLevel(logging.ERROR)
    yield
    cells = late.cells
    scvi.model.PEAKVI.setup_anndata(cells)
    model = scvi.model.PEAKVI(cells)
    model.train(
        max_epochs=args.epochs or 500,
        lr=args.lr or 1e-4,
        early_stopping=not args.epochs,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    epochs = len(next(iter(model.history.values())))
    yield model.get_latent_representation(), {"epochs": epochs}


def release(late, args):
    import numpy as np
    import torch

    np.warnings = warnings
    setattr(np, "Inf", np.inf)  # noqa: B010
    from scale.dataset import SingleCellDataset
    from scale.model import SCALE
    from torch.utils.data import DataLoader, Subset

    np.random.seed(args.seed)  # noqa: NPY002
    torch.manual_seed(args.seed)
    torch.nn.utils.clip_grad_norm = torch.nn.utils.clip_grad_norm_
    yield
    cells = late.cells
    cells.X.data = (cells.X.data > 0).astype(np.float32)
    cells.obs["batch"] = "0"
    cells.obs["batch"] = cells.obs["batch"].astype("category")
    data = SingleCellDataset(cells)
    # the time of a step does not hang on the number of cells, that of its mixture and epoch does
    if args.iterations:
        data = Subset(data, range(32 * args.iterations))
    train = DataLoader(data, batch_size=32, drop_last=True, shuffle=True, num_workers=args.workers)
    every = DataLoader(data, batch_size=32)
    model = SCALE([cells.n_vars, 10, [1024, 128], []], n_centroids=30)
    model.init_gmm_params(every)
    iterations = args.epochs * len(train) if args.epochs else args.iterations or 30_000
    started = time.perf_counter()
    model.fit(train, lr=0.0002, weight_decay=5e-4, verbose=False, max_iter=iterations)
    steps = int(np.ceil(iterations / len(train))) * len(train)
    step = (time.perf_counter() - started) / steps
    with torch.no_grad():
        z = torch.cat([model.encoder(x.float())[1] for x in every])
    yield z.numpy(), {"steps": steps, "seconds_a_step": step}


def ours(late, args):
    import torch  # noqa: F401  (imports are not counted)

    import scale_toolkit as scale
    from scale_toolkit import keys
    from scale_toolkit.model import recipes  # noqa: F401

    preset = args.method.partition(":")[2] or "fast"
    yield
    cells = late.cells
    trained = scale.train(cells, seed=args.seed, preset=preset, n_threads=args.n_threads)
    notes = scale.receipts(trained)[-1]["notes"]
    history = keys.HISTORY.get(trained)
    facts = {name: notes[name] for name in ("epochs", "best_epoch", "steps", "latent")}
    if "held_out" in history:
        facts["held_out_start"] = float(history["held_out"][0])
        facts["held_out_end"] = float(history["held_out"][notes["best_epoch"]])
    yield keys.LATENT.get(trained), facts


METHODS = {
    "tfidf-svd": tfidf_svd,
    "signac-lsi": signac_lsi,
    "scopen": scopen,
    "cistopic": cistopic,
    "snapatac2": snapatac2,
    "peakvi": peakvi,
    "release": release,
    "start": start,
    "scale": ours,
}


class Late:
    """Where the cells will be: they are read after the imports, so that the memory of both can
    be distinguished.
    """

    cells = None


def latent_space(method, cells, seed, n_threads):
    """One latent space in this process: (cells, dimensions) and what the method says of itself."""
    import numpy as np

    late = Late()
    args = argparse.Namespace(
        method=method, seed=seed, n_threads=n_threads, epochs=0, iterations=0, lr=1e-3, workers=0
    )
    work = METHODS[method.partition(":")[0]](late, args)
    next(work)  # imports
    late.cells = cells
    started = time.perf_counter()
    latent, facts = next(work)
    return np.asarray(latent, np.float32), {"seconds": time.perf_counter() - started, **facts}


def peak_mb() -> float:
    """Most memory this process has held, in MB. getrusage would also count the process it was
    forked from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", help=", ".join(METHODS))
    parser.add_argument("cells", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--epochs",
        type=int,
        default=0,
        help="peakvi, release: number of passes; 0: the method's own choice",
    )
    parser.add_argument(
        "--iterations",
        type=int,
        default=0,
        help="release: steps, on as many batches; 0: its default of 30,000",
    )
    parser.add_argument(
        "--lr", type=float, default=0, help="peakvi: learning rate; 0: its default of 1e-4"
    )
    parser.add_argument(
        "--workers", type=int, default=4, help="release: loader processes, 4 in the release"
    )
    args = parser.parse_args()
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "RAYON_NUM_THREADS",
    ):
        os.environ.setdefault(name, str(args.n_threads))  # before NumPy is loaded
    warnings.simplefilter("ignore")
    import anndata
    import numpy as np

    late = Late()
    work = METHODS[args.method.partition(":")[0]](late, args)
    next(work)  # imports
    imports = peak_mb()
    cells = late.cells = anndata.read_h5ad(args.cells)
    cells.X = cells.X.tocsr().astype(np.float32, copy=False)
    base, started = peak_mb(), time.perf_counter()
    latent, facts = next(work)
    facts = {
        "seconds": time.perf_counter() - started,
        "imports_mb": imports,
        "base_mb": base,
        "peak_mb": peak_mb(),
        **facts,
    }
    np.savez(args.out, latent=np.asarray(latent, np.float32), facts=json.dumps(facts))
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
