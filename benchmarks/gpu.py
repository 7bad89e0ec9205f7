"""``train`` on one CUDA GPU: parity with the CPU, repeated runs, times, memory and the load of the
GPU.

    python benchmarks/gpu.py [--sizes small,medium,large] [--only kernels,parity,busy,sizes]
    [--profile]

Needs nothing from the network and under six minutes; cells are simulated on the GPU. A bare machine
needs torch (with Triton), NumPy, SciPy, pandas, scikit-learn, numba, h5py and, as wheels carried
along, the versions that ``requirements/`` locks of: anndata, array-api-compat, donfig,
google-crc32c, importlib-metadata, lazy-importer, legacy-api-wrap, natsort, numcodecs, scanpy (its
version is recorded, it is not imported), scverse-misc, session-info2, zarr, zipp.

Parity trains the same cells on both devices with the same draws and compares latent vectors, ARI
and held-out likelihood. A size is trained as `scale_toolkit.train` does, imports and the first
compilation of kernels apart (a small training comes first); passes are steps × cells a step over
all cells. Busy is the share of an epoch's time in which a kernel runs (`torch.profiler`).
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import anndata
import pandas as pd
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import scale_toolkit as scale
from scale_toolkit import keys

# the CPU to try this script itself
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TYPES = 12
SIZES = {  # cells, peaks, open peaks of a cell; further options of `train`; bar in seconds
    "small": ((10_000, 50_000, 3_000), {}, 3),
    "medium": ((100_000, 100_000, 1_000), {"passes": 5, "batch_size": 1024}, 12),
    "large": ((1_000_000, 100_000, 1_000), {"passes": 3, "batch_size": 2048}, 150),
}
LARGEST_SAMPLE = 20_000  # cells that k-means sees


def synchronize() -> None:
    """Wait for the GPU."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def simulated(
    n_cells: int, n_peaks: int, n_open: int, seed: int = 0, contrast: float = 0.7
) -> anndata.AnnData:
    """Cells of `TYPES` types: a fifth of the peaks is log-normally more or less frequent in each
    type; depth is log-normal.
    """
    device = DEVICE
    generator = torch.Generator(device).manual_seed(seed)
    base = torch.randn(n_peaks, generator=generator, device=device)
    special = torch.rand((TYPES, n_peaks), generator=generator, device=device) < 0.2
    rates = (
        base
        + contrast * special * torch.randn((TYPES, n_peaks), generator=generator, device=device)
    ).exp()
    cdf = rates.double().cumsum(1)
    cdf = (cdf / cdf[:, -1:]).float().contiguous()
    labels = torch.randint(TYPES, (n_cells,), generator=generator, device=device).sort().values
    labels = labels[torch.randperm(n_cells, generator=generator, device=device)]
    indices, lengths = np.empty(int(n_cells * n_open * 1.2), np.int32), np.empty(n_cells, np.int64)
    filled = 0
    for first in range(0, n_cells, 10_000):
        kinds = labels[first : first + 10_000]
        depth = (
            n_open
            * 0.95
            * (0.25 * torch.randn(len(kinds), generator=generator, device=device)).exp()
        )
        drawn = torch.rand((len(kinds), int(2 * n_open)), generator=generator, device=device)
        peaks = torch.empty(drawn.shape, dtype=torch.int64, device=device)
        for kind in range(TYPES):
            rows = (kinds == kind).nonzero()[:, 0]
            peaks[rows] = torch.searchsorted(cdf[kind], drawn[rows]).clamp_max(n_peaks - 1)
        peaks[torch.arange(drawn.shape[1], device=device)[None, :] >= depth[:, None]] = n_peaks
        peaks = peaks.sort(1).values
        keep = peaks < n_peaks
        keep[:, 1:] &= peaks[:, 1:] != peaks[:, :-1]
        chosen = peaks[keep].to(torch.int32).cpu().numpy()
        lengths[first : first + len(kinds)] = keep.sum(1).cpu().numpy()
        indices[filled : filled + len(chosen)] = chosen
        filled += len(chosen)
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    counts = sparse.csr_matrix(
        (np.ones(filled, np.float32), indices[:filled], pointers), (n_cells, n_peaks)
    )
    names = pd.Index([f"peak{i}" for i in range(n_peaks)])
    obs = pd.DataFrame(
        {"cell_type": labels.cpu().numpy().astype(str)}, index=np.arange(n_cells).astype(str)
    )
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=names))


def ari(cells: anndata.AnnData) -> float:
    """Agreement of k-means at the true number of types with the types, on at most
    `LARGEST_SAMPLE` cells.
    """
    chosen = np.random.default_rng(0).permutation(cells.n_obs)[:LARGEST_SAMPLE]
    latent = np.asarray(keys.LATENT.get(cells))[chosen]
    labels = KMeans(TYPES, n_init=3, random_state=0).fit_predict(latent)
    return adjusted_rand_score(cells.obs["cell_type"].to_numpy()[chosen], labels)


def held_out(cells: anndata.AnnData) -> float:
    curve = np.asarray(keys.HISTORY.get(cells)["held_out"])
    return float(curve[scale.receipts(cells)[-1]["notes"]["best_epoch"]])


def trained(cells: anndata.AnnData, **options) -> tuple[anndata.AnnData, float]:
    bare = anndata.AnnData(cells.X, obs=cells.obs.copy(), var=cells.var.copy())
    synchronize()
    started = time.perf_counter()
    done = scale.train(bare, **options)
    synchronize()
    return done, time.perf_counter() - started


def relative(a: anndata.AnnData, b: anndata.AnnData) -> float:
    a, b = (np.asarray(keys.LATENT.get(cells), np.float64) for cells in (a, b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def first() -> None:
    """Small trainings: kernels are compiled, libraries loaded."""
    started = time.perf_counter()
    for seed in (0, 1):
        trained(simulated(1_000, 12_000, 300), device=DEVICE.type, seed=seed)
    print(f"first trainings: {time.perf_counter() - started:.1f} s", flush=True)


def kernels() -> None:
    """The sparse products by Triton kernels against those by torch operations: error and time."""
    from scale_toolkit.core.rows import MatrixRows
    from scale_toolkit.model.draws import Draws, Purpose, threshold_of
    from scale_toolkit.model.packed import Mask, StoredRows, pack

    device = DEVICE
    counts = simulated(10_000, 50_000, 3_000).X
    store = pack(MatrixRows(counts), device)
    plain = pack(MatrixRows(counts), device, fused=False)
    idf = torch.rand(50_000, device=device)
    print(
        "| rows × columns | product | relative error | ms, Triton | ms, torch "
        "|\n|---|---|---|---|---|"
    )
    for n_rows, n_columns in ((256, 11), (256, 21), (1024, 21), (10_000, 49)):
        index = torch.randperm(10_000, device=device)[:n_rows]
        mask = Mask(Draws(0, device).keys(Purpose.MASK, 1, n_rows), threshold_of(0.5))
        by_triton, by_torch = (StoredRows(rows, index, idf, mask) for rows in (store, plain))
        dense = torch.randn(50_000, n_columns, device=device)
        upstream = torch.randn(n_rows, n_columns, device=device)
        for name, operand in (("times", dense), ("transposed_times", upstream)):
            expected = getattr(by_torch, name)(operand)
            difference = (getattr(by_triton, name)(operand) - expected).norm() / expected.norm()
            times = []
            for rows in (by_triton, by_torch):
                getattr(rows, name)(operand)
                synchronize()
                started = time.perf_counter()
                for _ in range(5):
                    getattr(rows, name)(operand)
                synchronize()
                times.append(200 * (time.perf_counter() - started))
            print(
                f"| {n_rows:,} × {n_columns} | {name} | {float(difference):.1e} | {times[0]:.3f} | "
                f"{times[1]:.3f} |",
                flush=True,
            )


def same_steps(counts: sparse.csr_matrix) -> list[np.ndarray]:
    """Latent means after 20 steps from one start: cells on the host, on the GPU, and copied to
    it.
    """
    from scale_toolkit.core.rows import MatrixRows
    from scale_toolkit.core.weighting import fit_weighting
    from scale_toolkit.model.batches import Neighbours, draws_for
    from scale_toolkit.model.cells import CellsOnDevice, CellsOnHost, CellsStreamed, EncoderView
    from scale_toolkit.model.held_out import Thinned
    from scale_toolkit.model.loss import PeakSampler
    from scale_toolkit.model.network import Scale, Shape
    from scale_toolkit.model.seed import seeded_weights
    from scale_toolkit.model.trainer import fit, latent_means

    n_cells, n_peaks = counts.shape
    peak_sums = np.bincount(counts.indices, minlength=n_peaks)
    thinned = Thinned(MatrixRows(counts), 0.05, 500, 0)
    see = EncoderView(log_transform=False, weighting=fit_weighting(n_cells, peak_sums))
    means = []
    for kind, device in (
        (CellsOnHost, torch.device("cpu")),
        (CellsOnDevice, DEVICE),
        (CellsStreamed, DEVICE),
    ):
        cells = kind(thinned, see, device)
        with seeded_weights(0):
            model = Scale(Shape(n_peaks, 10, 5, (32,), spectral_dim=10)).to(device)
        near = Neighbours(np.arange(1, n_cells + 1)[:, None] % n_cells, 0.5)
        offsets, draws = np.linspace(-0.5, 0.5, n_cells), draws_for(cells, 0)
        length = {"batch_size": 128, "max_iter": 20, "max_epochs": 4, "steps_per_epoch": 5}
        recipe = {"lr": 1e-3, "weight_decay": 0.0, "mask": 0.5, "mixture_epoch": 1}
        sampler, rng = PeakSampler(peak_sums / n_cells, 2_000), np.random.default_rng(0)
        more = {"rng": rng, "draws": draws, "neighbours": near, "sampler": sampler}
        fit(model, cells, offsets, **more, **length, **recipe)
        means.append(latent_means(model, cells))
    return means


def parity() -> None:
    """The same training on both devices."""
    cells = simulated(2_000, 12_000, 500)
    print("| parity: 2,000 × 12,000, 500 open | value |\n|---|---|", flush=True)
    host, resident, copied = same_steps(cells.X)
    for name, latent in (("resident", resident), ("copied batch by batch", copied)):
        difference = np.linalg.norm(latent - host) / np.linalg.norm(host)
        print(
            f"| latent after 20 steps from one start, counts {name}: relative difference to the "
            f"CPU | {difference:.1e} |"
        )
    few = {"max_iter": 20, "patience": 0, "seed": 0}
    start = {"max_iter": 1, "lr": 1e-9, "patience": 0, "seed": 0}
    for name, options in (("start", start), ("start and 20 steps", few)):
        cpu, gpu = (trained(cells, device=device, **options)[0] for device in ("cpu", DEVICE.type))
        print(
            f"| `train`, {name}: relative difference to the CPU | {relative(gpu, cpu):.1e} |",
            flush=True,
        )
    again = trained(cells, device=DEVICE.type, **few)[0]
    print(
        "| two runs on the GPU, relative difference | "
        f"{relative(again, trained(cells, device=DEVICE.type, **few)[0]):.2e} |"
    )
    same = [trained(cells, device=DEVICE.type, deterministic=True, **few)[0] for _ in range(2)]
    print(f"| two runs with --deterministic | {relative(*same):.2e} |", flush=True)
    for name, options in (
        ("CPU", {"device": "cpu"}),
        ("GPU float32", {"device": DEVICE.type}),
        ("GPU auto", {"device": DEVICE.type, "precision": "auto"}),
    ):
        runs = [trained(cells, seed=seed, **options) for seed in (0, 1, 2)]
        scores = ", ".join(f"{ari(run):.3f}" for run, _ in runs)
        likelihoods = ", ".join(f"{held_out(run):.3f}" for run, _ in runs)
        seconds = ", ".join(f"{took:.1f}" for _, took in runs)
        print(
            f"| {name}, seeds 0 to 2: ARI; held-out; seconds | {scores}; {likelihoods}; "
            f"{seconds} |",
            flush=True,
        )


def sizes(names: list[str], *, profile: bool) -> None:
    print(
        "| cells × peaks, open | options | seconds | bar | epochs | steps | passes | GPU memory "
        "| ARI |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in names:
        (n_cells, n_peaks, n_open), options, bar = SIZES[name]
        started = time.perf_counter()
        cells = simulated(n_cells, n_peaks, n_open)
        simulation = time.perf_counter() - started
        options = {"device": DEVICE.type} | options
        passes = options.pop("passes", None)
        if passes:
            batch_size = options["batch_size"]
            steps_an_epoch = max(16, n_cells // (16 * batch_size))
            options |= {
                "patience": 0,
                "max_epochs": -(-passes * n_cells // (batch_size * steps_an_epoch)),
            }
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        done, seconds = trained(cells, **options)
        profiler.disable()
        notes = scale.receipts(done)[-1]["notes"]
        held = torch.cuda.max_memory_allocated() / 1e9 if DEVICE.type == "cuda" else 0
        read = notes["steps"] * options.get("batch_size", 256) / n_cells
        named_options = (
            ", ".join(f"{key} {value}" for key, value in options.items() if key != "device")
            or "defaults"
        )
        print(
            f"| {n_cells:,} × {n_peaks:,}, {cells.X.nnz / n_cells:.0f} | {named_options} | "
            f"{seconds:.1f} | {bar} | {notes['epochs']} | "
            f"{notes['steps']} | {read:.1f} | {held:.1f} GB | {ari(done):.3f} | (simulated in "
            f"{simulation:.0f} s)",
            flush=True,
        )
        if profile:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(14).sort_stats(
                "cumtime"
            ).print_stats("scale_toolkit", 30)
        del cells, done
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()


def busy() -> None:
    """Share of an epoch in which the GPU runs a kernel, steps as CUDA graphs and one by one."""
    from scale_toolkit.core.rows import MatrixRows
    from scale_toolkit.core.weighting import fit_weighting
    from scale_toolkit.model.batches import Loader, draws_for
    from scale_toolkit.model.cells import CellsOnDevice, EncoderView
    from scale_toolkit.model.graphs import GraphedSteps
    from scale_toolkit.model.loss import PeakSampler
    from scale_toolkit.model.network import Scale, Shape
    from scale_toolkit.model.optimiser import Adam
    from scale_toolkit.model.trainer import train_epoch

    counts = simulated(10_000, 50_000, 3_000).X
    device = DEVICE
    peak_sums = np.bincount(counts.indices, minlength=50_000)
    cells = CellsOnDevice(
        MatrixRows(counts),
        EncoderView(log_transform=False, weighting=fit_weighting(10_000, peak_sums)),
        device,
    )
    print(
        "| 10,000 × 50,000, one pass | ms a step | GPU busy | longest kernels |\n|---|---|---|---|"
    )
    for batch_size in (256, 1024):
        for graphed in (True, False):
            model = Scale(Shape(50_000, 20, 30, (64,), spectral_dim=20)).to(device)
            loader = Loader(
                cells,
                np.zeros(10_000),
                draws_for(cells, 0),
                20,
                mask=0.5,
                sampler=PeakSampler(peak_sums / 10_000, 5_000),
            )
            optimiser, graphs = (
                Adam(model.parameters(), 1e-3),
                GraphedSteps(loader, enabled=graphed),
            )

            def epoch(
                number,
                model=model,
                optimiser=optimiser,
                loader=loader,
                graphs=graphs,
                batch_size=batch_size,
            ):
                parts = loader.index(number, batch_size)
                train_epoch(
                    model, optimiser, loader, parts, 0, mixture=True, clip=None, graphs=graphs
                )
                return len(parts)

            for number in range(5):
                epoch(number)
            synchronize()
            started = time.perf_counter()
            n_steps = epoch(5)
            synchronize()
            plain = time.perf_counter() - started
            with torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CUDA]
            ) as profiler:
                epoch(6)
                synchronize()
            kernels = [
                event
                for event in profiler.events()
                if event.device_type == torch.autograd.DeviceType.CUDA
            ]
            used = covered([(event.time_range.start, event.time_range.end) for event in kernels])
            by_name: dict[str, float] = {}
            for event in kernels:
                by_name[event.name[:40]] = (
                    by_name.get(event.name[:40], 0) + event.time_range.elapsed_us()
                )
            longest = sorted(by_name.items(), key=lambda item: -item[1])[:4]
            shares = ", ".join(
                f"{name} {100 * value / max(used, 1):.0f} %" for name, value in longest
            )
            step_kind = "graphs" if graphed else "one by one"
            print(
                f"| {batch_size} cells a step, {step_kind} | {1e3 * plain / n_steps:.2f} | "
                f"{100 * used / (1e6 * plain):.0f} % | "
                f"{shares}; {len(kernels) / n_steps:.0f} kernels a step |",
                flush=True,
            )


def covered(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, -np.inf
    for start, stop in sorted(intervals):
        total += max(stop - max(start, end), 0)
        end = max(end, stop)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="small,medium,large")
    parser.add_argument("--only", default="kernels,parity,busy,sizes")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    if DEVICE.type == "cuda":
        free, total = (number / 1e9 for number in torch.cuda.mem_get_info())
        print(
            f"{torch.cuda.get_device_name()}, {free:.0f} of {total:.0f} GB free, torch "
            f"{torch.__version__}",
            flush=True,
        )
    parts = {
        "first": first,
        "kernels": kernels,
        "parity": parity,
        "busy": busy,
        "sizes": lambda: sizes(args.sizes.split(","), profile=args.profile),
    }
    for name in ("first", *args.only.split(",")):
        try:
            parts[name]()
        except Exception:
            print(f"{name} failed:\n{traceback.format_exc(limit=-6)}", flush=True)


if __name__ == "__main__":
    main()
