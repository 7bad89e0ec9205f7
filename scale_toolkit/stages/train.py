"""``train``: learn SCALE's latent space, and store all that later stages need in the AnnData."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit import __version__, keys
from scale_toolkit.config import TrainConfig
from scale_toolkit.errors import TrainingError, warn
from scale_toolkit.memory import check_fits
from scale_toolkit.scratch import fits_in_memory
from scale_toolkit.stages.batch_report import batch_facts, batch_report
from scale_toolkit.stages.batches import batch_columns, read_batches
from scale_toolkit.stages.counts import modelled_counts, modelled_peaks
from scale_toolkit.stages.gpu import find_device, gpu_settings, used
from scale_toolkit.stages.receipts import receipts
from scale_toolkit.stages.stage import Progress, Result, stage
from scale_toolkit.stages.train_checkpoints import Checkpoints, resume_from
from scale_toolkit.stages.train_slots import STALE, WRITES, trained_slots
from scale_toolkit.stages.train_team import check_same, check_size, silent
from scale_toolkit.threads import limited_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from anndata import AnnData

    from scale_toolkit.core.rows import RowSource
    from scale_toolkit.model.recipes import Trained
    from scale_toolkit.model.snapshot import History
    from scale_toolkit.model.team import Team
    from scale_toolkit.stages.batches import Batches

log = logging.getLogger("scale_toolkit")

#: How the fast preset trains, chosen by held-out likelihood and stability over seeds
#: (benchmarks/RESULTS.md).
FAST: dict[str, Any] = {
    "mask": 0.5,
    "n_neighbors": 10,
    "neighbour_share": 0.5,
    "ridge": 1.0,
    "mixture_epoch": 15,
}

#: 0.0003, 0.001, 0.003 and 0.01 were compared by held-out likelihood on three labelled sets of 391
#: to 801 cells: 0.003 is best or nearly (benchmarks/RESULTS.md).
FEW_CELLS_LR, FEW_CELLS = 0.003, 1000

#: Of the default preset's algorithm: raised when its results change by more than rounding. The
#: presets `paper` and `release` compute what they always have.
FAST_REVISION = 8

#: Slot that keeps a selection which ``all_peaks`` ignores.
_SELECTED_BEFORE = keys.column("var", f"{keys.SELECTED.name}_original")


def _reads(config: TrainConfig) -> tuple[keys.Slot, ...]:
    slots = (keys.X,) if config.all_peaks else (keys.X, keys.SELECTED)
    return slots + batch_columns(config)


def _revision(config: TrainConfig) -> int:
    return FAST_REVISION if config.preset == "fast" else 1


def check(adata: AnnData, config: TrainConfig, **inputs: Any) -> None:
    """Raise for a device that is not available."""
    find_device(config.device)


@stage(
    "train",
    TrainConfig,
    reads=_reads,
    writes=WRITES,
    check=check,
    loads=("torch",),
    revision=_revision,
)
def train(
    adata: AnnData,
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    keep_model: Callable[[bytes], None] | None = None,
    checkpoints: Checkpoints | None = None,
    team: Team | None = None,
) -> Result:
    """Train SCALE on the open peaks of `adata` (Xiong et al. 2019, Nat Commun 10:4576).

    Parameters
    ----------
    adata
        Counts, cells × peaks. If ``var['selected']`` marks peaks, the model sees only those.
    config
        Options.
    progress
        Called after each epoch.
    keep_model
        Receives the bytes of the model file, with which `encode` encodes other cells.
    checkpoints
        Store of checkpoints, from which an interrupted training resumes; the result is that of an
        uninterrupted one, bit for bit on the CPU with the same number of threads.
    team
        Processes that train the model together, of which this is the leader (`follow`).

    Returns
    -------
    `adata`, with these slots:

    ``obsm['X_scale']``, ``obsm['latent']`` (cells × latent, float32)
        Posterior mean of z (``preset="release"``: one sample).
    ``obsm['scale_hidden']`` (cells × hidden, float32)
        The decoder's last hidden layer, only with ``decode_dim``.
    ``varm['scale_decoder']`` (peaks × latent or hidden, float32), ``var['scale_bias']`` (float32),
    ``obs['scale_offset']`` (float32)
        Probability of an open peak: sigmoid(decoder_j · z_i + bias_j + offset_i). The bias of a
        peak that is not modelled is NaN.
    ``uns['scale_median_offset']`` (float)
        Median of the offsets: the depth at which cells are compared.
    ``obsm['scale_posterior']`` (cells × components, float32), ``obs['scale_component']`` (category)
        Responsibilities and their argmax.
    ``obs['scale_open_rate']``, ``var['scale_open_rate']`` (float64)
        Fraction of modelled peaks that are open in a cell, and of cells in which a peak is open.
    ``varm['scale_batch_offset']`` (peaks × batches, float32, a DataFrame)
        Shift of a peak's logit in each batch, only with ``batch_key``; 0 is the average batch, at
        which values are imputed.
    ``uns['scale_batches']`` (dict)
        How the batches differ before training and after, only with ``batch_key``
        (`stages.batch_report`).
    ``uns['scale_mixture']``, ``uns['scale_history']`` (dict)
        The prior, and the learning curves, one value an epoch (``held_out`` begins with that of the
        start).

    Raises
    ------
    InputError
        Negative, fractional or missing counts, fewer than two cells; checkpoints of another
        training; a column of batches or covariates that cannot be used (`read_batches`).
    DeviceError
        The device is not available.
    TrainingError
        The loss was not a number in the first epoch.
    """
    from scale_toolkit.model.files import dumps
    from scale_toolkit.model.team import ALONE

    team, settings = team or ALONE, config.resolved()
    counts, modelled, batches, device = _material(adata, settings, team)
    resumed = {} if checkpoints is None else resume_from(checkpoints, adata, settings)
    resumed["resume"] = team.shared(resumed.get("resume"))
    positions = np.flatnonzero(modelled)
    with used(device, settings):
        rows = _rows(counts, settings)
        trained = train_model(rows, settings, device, progress, batches, team=team, **resumed)
        slots = trained_slots(trained, counts, positions, adata.var_names, settings, batches, team)
    notes = _facts(trained, device)
    if team.size > 1:
        notes["processes"] = team.size
    if batches is not None:
        report = batch_report(trained, slots[keys.LATENT], counts, batches, settings.seed)
        slots[keys.BATCHES], notes["batches"] = report, batch_facts(report)
    if keep_model is not None:
        facts = {"version": __version__, "options": settings.as_dict()}
        if batches is not None:
            facts["batches"] = batches.facts()
        keep_model(dumps(trained, adata.var_names[modelled].tolist(), facts))
    set_aside = config.all_peaks and keys.SELECTED.found_in(adata)
    moves = {keys.SELECTED: _SELECTED_BEFORE} if set_aside else {}
    return Result(slots, drops=STALE, moves=moves, facts=notes)


def follow(adata: AnnData, config: TrainConfig, team: Team) -> None:
    """Train with the leader of a team, whose `train` has the result.

    Parameters
    ----------
    adata, config
        Those of the leader.
    team
        The processes.
    """
    from scale_toolkit.model.recipes import encode

    settings = config.resolved()
    with silent(), limited_threads(config.n_threads):
        counts, _, _, device = _material(adata, settings, team)
        resume = team.shared(None)
        with used(device, settings):
            rows = _rows(counts, settings)
            trained = train_model(rows, settings, device, None, team=team, resume=resume)
            encode(trained, rows, seed=settings.seed, gpu=gpu_settings(settings), team=team)


def _material(
    adata: AnnData, settings: TrainConfig, team: Team
) -> tuple[sparse.csr_matrix, np.ndarray, Batches | None, torch.device]:
    """Return the counts of this process's cells, which peaks they are, the batches and the device;
    what is wrong in one process is an error in all.
    """

    def read() -> tuple[sparse.csr_matrix, np.ndarray, Batches | None, torch.device]:
        batches = read_batches(adata, settings)
        device = find_device(settings.device)
        modelled = _selection(adata, settings)
        cells = None
        if team.size > 1:
            check_size(team, adata.n_obs, settings.batch_size or fast_batch_size(adata.n_obs))
            cells = slice(*team.bounds(adata.n_obs)[team.rank : team.rank + 2])
        counts = modelled_counts(adata, modelled, cells)
        _check_memory(counts, settings, 0 if batches is None else len(batches.names))
        return counts, modelled, batches, device

    material = team.together(read)
    if team.size > 1:
        check_same(team, adata, settings)
    return material


def _rows(counts: sparse.csr_matrix, settings: TrainConfig) -> RowSource:
    from scale_toolkit.core.rows import MatrixRows, all_positive

    # the default model sees which peaks are open, not how many counts they have
    ignores_counts = settings.preset == "fast" and not settings.log_transform
    return MatrixRows(counts, as_ones=ignores_counts and all_positive(counts))


def _facts(trained: Trained, device: torch.device) -> dict[str, Any]:
    """Return what the receipt records of a training."""
    history = trained.history
    facts: dict[str, Any] = {
        "epochs": len(history.loss),
        "best_epoch": history.best_epoch,
        "steps": history.steps,
        "device": str(device),
        "latent": trained.model.shape.latent,
    }
    if history.best_epoch == 0:
        facts["kept_start"] = (
            "training did not raise the held-out likelihood: the start is kept, with a mixture "
            "fitted to it"
        )
    if trained.stopped:
        facts["stopped"] = trained.stopped
    return facts


def _selection(adata: AnnData, config: TrainConfig) -> np.ndarray:
    """Return which peaks are modelled, (peaks,) bool.

    A selection that this toolkit did not make is used with a warning.
    """
    if not keys.SELECTED.found_in(adata):
        return modelled_peaks(adata)
    if config.all_peaks:
        log.info("modelling all peaks: %s is kept as %s", keys.SELECTED, _SELECTED_BEFORE)
        return np.ones(adata.n_vars, bool)
    modelled = modelled_peaks(adata)
    is_ours = any(receipt.get("stage") == "select-peaks" for receipt in receipts(adata))
    if not is_ours and not modelled.all():
        warn(
            f"modelling {modelled.sum():,} of {adata.n_vars:,} peaks, by {keys.SELECTED}, which "
            "`scale select-peaks` did not write; `all_peaks=True` models all"
        )
    return modelled


def _check_memory(counts: sparse.csr_matrix, settings: TrainConfig, n_batches: int) -> None:
    """Refuse a training that cannot fit into memory.

    It holds the open peaks, unless they are in a temporary file, the weights with the state of
    their optimiser, and for each batch the sums, factors and shifts of its peaks.
    """
    from scale_toolkit.model.views import MOST_DIMENSIONS

    n_cells, n_peaks = counts.shape
    n_latent = settings.latent or MOST_DIMENSIONS
    first_width = (settings.encode_dim or (n_latent,))[0]
    n_weights = n_peaks * (first_width + n_latent)
    size = 4 * counts.nnz
    check_fits(
        (size if fits_in_memory(size) else 0) + 4 * 4 * n_weights + 32 * n_batches * n_peaks,
        f"training on {n_cells:,} cells × {n_peaks:,} peaks ({counts.nnz:,} open)",
        "ask for more memory, or model fewer peaks (`scale select-peaks --n-peaks`)",
    )


def train_model(
    source: RowSource,
    settings: TrainConfig,
    device: torch.device,
    progress: Progress | None,
    batches: Batches | None = None,
    *,
    team: Team | None = None,
    **resumed: Any,
) -> Trained:
    """Train on the cells of `source`, or resume a training; nothing is stored anywhere.

    Parameters
    ----------
    source
        The cells.
    settings
        Resolved options.
    device
        Device of the training.
    progress
        Called after each epoch, and with what precedes and follows the epochs.
    batches
        What is taken out.
    team
        The processes that train the model, each with its own cells.
    **resumed
        ``resume`` and ``on_snapshot`` of `train_checkpoints.resume_from`.
    """
    from scale_toolkit.compat.presets import train_published
    from scale_toolkit.model.recipes import epoch_steps, train_fast
    from scale_toolkit.model.team import ALONE
    from scale_toolkit.model.trainer import Diverged

    team = team or ALONE
    n_cells = team.total(source.n_cells)
    batch_size = settings.batch_size or fast_batch_size(n_cells)
    lr = settings.lr or fast_lr(n_cells)
    steps_an_epoch = max(round(n_cells / batch_size), 1)
    if settings.preset == "fast":
        steps_an_epoch = min(steps_an_epoch, epoch_steps(n_cells, batch_size))
    last_epoch = -(-settings.max_iter // steps_an_epoch)
    max_epochs = min(settings.max_epochs or last_epoch, last_epoch)

    def on_epoch(epoch: int, history: History) -> None:
        if progress is not None:
            held_out = f", held-out {history.held_out[-1]:.4f}" if history.held_out else ""
            progress(f"loss {history.loss[-1]:.1f}{held_out}", epoch, max_epochs)

    arguments: dict[str, Any] = {
        "n_components": settings.n_components,
        "latent": settings.latent,
        "encode_dim": settings.encode_dim,
        "decode_dim": settings.decode_dim,
        "lr": lr,
        "batch_size": batch_size,
        "max_iter": settings.max_iter,
        "max_epochs": settings.max_epochs,
        "weight_decay": settings.weight_decay,
        "patience": settings.patience,
        "log_transform": settings.log_transform,
        "seed": settings.seed,
        "device": device,
        "gpu": gpu_settings(settings),
        "on_epoch": on_epoch,
        **resumed,
    }
    try:
        if settings.preset == "fast":
            # a training of few epochs must also reach the mixture
            mixture_epoch = min(FAST["mixture_epoch"], (settings.max_epochs or 1) // 2)
            fast = FAST | {"mixture_epoch": mixture_epoch}
            groups = None if batches is None else (batches.codes, batches.levels)
            trained = train_fast(
                source, **arguments, **fast, groups=groups, on_phase=progress, team=team
            )
        else:
            trained = train_published(source, **arguments, release=settings.preset == "release")
    except Diverged as error:
        raise TrainingError(
            f"training met a value that is not a number in epoch {error.epoch}, "
            f"in {error.parameter}",
            do=f"lower the learning rate: `lr={lr / 10:g}`",
        ) from None
    if trained.stopped:
        warn(
            f"training stopped early ({trained.stopped}); the last good weights are kept; "
            "a lower `lr` may go further"
        )
    return trained


def fast_lr(n_cells: int) -> float:
    """Return the learning rate of the fast preset: 0.003 up to 1,000 cells, then as 1/√cells.

    The decoder starts with loadings whose error falls as 1/√cells; larger steps only add noise to
    them (100,000 cells: the held-out likelihood fell below the start at 0.003).
    """
    return FEW_CELLS_LR * min(1.0, (FEW_CELLS / n_cells) ** 0.5)


def fast_batch_size(n_cells: int) -> int:
    """Return the cells of a step of the fast preset: about a sixteenth of the cells.

    A power of two from 64 to 256.
    """
    return int(np.clip(2 ** np.floor(np.log2(max(n_cells / 16, 1))), 64, 256))
