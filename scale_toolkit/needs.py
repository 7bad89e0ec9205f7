"""Memory, time and disk that a stage needs, by cells, peaks and stored counts.

Fitted to measured runs (`benchmarks/needs.py`; the table is in docs/pipeline.md). The pipeline
requests these resources from a scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scale_toolkit import registry
from scale_toolkit.config import ClusterConfig, ImputeConfig, TrainConfig
from scale_toolkit.core.rows import MOST_INT32

#: What is estimated, in the order of an analysis: the stages, then the report.
STAGES = (*(entry.module for entry in registry.STAGES.values() if entry.needs_estimate), "report")


class Size(NamedTuple):
    """Cells, peaks, and stored counts (open peaks of all cells)."""

    n_cells: int
    n_peaks: int
    n_open: int

    @property
    def n_values(self) -> int:
        """Cells × peaks."""
        return self.n_cells * self.n_peaks


class Needs(NamedTuple):
    """Resources of a stage: memory to request, expected time, and the size of its output; then the
    memory that it cannot do without and its temporary files if it gets no more. MB are 10⁶ bytes.
    """

    memory_mb: int
    seconds: int
    disk_mb: int
    least_memory_mb: int
    temporary_mb: int


@dataclass(frozen=True)
class _Cost:
    """``base + open · million stored counts + cells · thousand cells + peaks · thousand peaks``."""

    base: float
    open: float = 0.0
    cells: float = 0.0
    peaks: float = 0.0

    def of(self, size: Size) -> float:
        return (
            self.base
            + self.open * size.n_open / 1e6
            + self.cells * size.n_cells / 1e3
            + self.peaks * size.n_peaks / 1e3
        )


#: Megabytes to ask for: the largest resident set with imports, at one thread, and from a fifth more
#: to twice that.
_MEMORY = {
    "prepare": _Cost(300, open=10),
    "select_peaks": _Cost(300, open=14),
    "train": _Cost(1_300, open=12),
    "cluster": _Cost(600, cells=7.5),
    "embed": _Cost(600, cells=5),
    "markers": _Cost(450, open=13),
    "impute": _Cost(400, open=1, peaks=2),
    "report": _Cost(500, peaks=20),
}

#: Bytes a stored count that lie in temporary files if memory is short; `cluster`, `embed`,
#: `impute` and `report` read counts in blocks.
_BYTES_OF_COUNTS = {"prepare": 8, "select_peaks": 8, "train": 10, "markers": 8}

#: Bytes more for each if there are more of them than int32 can number.
_BYTES_OF_WIDER_INDICES = 4

#: Megabytes of each further process of `train --devices`: 710 with two, 600 with four
#: (benchmarks/RESULTS.md, "Counts larger than memory").
_A_PROCESS_MB = 700

#: Megabytes to ask for besides those: what does not grow with the counts.
_MEMORY_BESIDE = {
    "prepare": _Cost(300, cells=0.25),
    "select_peaks": _Cost(450, cells=0.5, peaks=1),
    "train": _Cost(900, cells=4),
    "markers": _Cost(500, cells=0.5, peaks=1),
}

#: Bytes an open peak, and a cell, on a GPU that has room for all cells (`model.packed`).
_GPU_OPEN, _GPU_CELL = 4, 12

#: Seconds to expect, imports and compilation included; one thread.
_SECONDS = {
    "prepare": _Cost(4, open=0.15),
    "select_peaks": _Cost(3, open=0.06),
    "train": _Cost(14, open=0.6, cells=1.6),
    "cluster": _Cost(16, cells=0.6),
    "embed": _Cost(18, cells=0.6),
    "markers": _Cost(6, open=0.2),
    "impute": _Cost(4),
    "report": _Cost(6, open=0.05),
}

#: MB of the file that a stage hands on; every stage carries the counts.
_DISK = {
    "prepare": _Cost(2, open=1.9),
    "select_peaks": _Cost(2, open=1.9),
    "train": _Cost(3, open=1.9, cells=0.5),
    "cluster": _Cost(4, open=1.9, cells=1.5),
    "embed": _Cost(4, open=1.9, cells=1.5),
    "markers": _Cost(5, open=1.9, cells=1.5, peaks=0.2),
    "impute": _Cost(4, open=1.9, cells=1.5),
    "report": _Cost(5, cells=0.1),
}

#: The published model: dense layers, of which the optimiser keeps two copies more, and their
#: weights moved at every step.
_PUBLISHED_MEMORY = _Cost(950, peaks=40)
# Seconds; seconds a million cells × peaks.
_PUBLISHED_BASE, _PUBLISHED_VALUES = 12, 0.25
# Seconds a step of 32 cells.
_PUBLISHED_STEP = _Cost(0.1, peaks=0.0115)

#: Seconds of Leiden on four fifths of the cells: 1.0 of 20,000, 3.9 of 80,000 cells (`--stability
#: 5` against none).
_SUBSAMPLE = _Cost(0.02, cells=0.05)

#: A thousand cells outside of `cluster`'s sketch: seconds as measured for 180,000 (51 with a sketch
#: of 20,000), MB computed from the latent space and 15 neighbours in 8 bytes.
_OUTSIDE_SKETCH_SECONDS, _OUTSIDE_SKETCH_MB = 0.12, 0.5

#: Bytes a value on disk, compressed, and seconds a million values.
_NUMERIC = {"float32": (3.3, 0.08), "float16": (1.6, 0.08), "uint8": (0.7, 0.08)}
_BINARY = {"csr": (0.17, 0.0075), "packed": (0.125, 0.0075)}


def needs(
    stage: str,
    size: Size,
    *,
    train: TrainConfig,
    impute: ImputeConfig,
    cluster: ClusterConfig,
    n_processes: int = 1,
) -> Needs:
    """Estimate memory, time and disk of one stage for an input of this size.

    Parameters
    ----------
    stage
        One of `STAGES`.
    size
        Of the stage's input; for the stages after `select_peaks` an upper bound, since that keeps
        some peaks.
    train
        Of which ``preset``, ``max_iter`` and ``batch_size`` count.
    impute
        What is written, and how.
    cluster
        Of which ``stability`` and ``sketch`` count.
    n_processes
        Processes of ``train`` on one machine, which needs the memory and the temporary files of
        all.

    Returns
    -------
    Needs
        An estimate for one thread of a CPU; with several processes, the processor time of all. The
        number of steps of the presets ``paper`` and
        ``release`` is taken to be ``max_iter``.
    """
    memory, seconds, disk = (table[stage].of(size) for table in (_MEMORY, _SECONDS, _DISK))
    if stage == "train" and train.preset != "fast":
        memory = max(memory, _PUBLISHED_MEMORY.of(size))
        a_step = _PUBLISHED_STEP.of(size) * max((train.batch_size or 32) / 32, 1)
        seconds = (
            _PUBLISHED_BASE + _PUBLISHED_VALUES * size.n_values / 1e6 + train.max_iter * a_step
        )
    beside = _MEMORY_BESIDE[stage].of(size) if stage in _MEMORY_BESIDE else memory
    if stage == "train" and train.preset != "fast":
        beside = max(beside, _PUBLISHED_MEMORY.of(size))
    bytes_of_counts = _BYTES_OF_COUNTS.get(stage, 0)
    if bytes_of_counts and size.n_open > MOST_INT32:
        bytes_of_counts += _BYTES_OF_WIDER_INDICES
    temporary = bytes_of_counts * size.n_open / 1e6 if beside < memory else 0
    if stage == "train":
        memory += (n_processes - 1) * _A_PROCESS_MB
        beside += (n_processes - 1) * _A_PROCESS_MB
    if stage == "cluster":
        if cluster.sketch is not None and cluster.sketch < size.n_cells:
            sketched = size._replace(n_cells=cluster.sketch)
            assigned = (size.n_cells - cluster.sketch) / 1e3
            memory = _MEMORY[stage].of(sketched) + assigned * _OUTSIDE_SKETCH_MB
            seconds = _SECONDS[stage].of(sketched) + assigned * _OUTSIDE_SKETCH_SECONDS
            beside = memory
        seconds += cluster.stability * _SUBSAMPLE.of(size)
    if stage == "impute":
        numeric = impute.numeric or not (impute.binary or impute.per_group or impute.validate)
        kinds = [_NUMERIC[impute.numeric_format]] if numeric else []
        kinds += [_BINARY[impute.binary_format]] if impute.binary else []
        disk += sum(bytes_a_value for bytes_a_value, _ in kinds) * size.n_values / 1e6
        seconds += sum(seconds_a_value for _, seconds_a_value in kinds) * size.n_values / 1e6
    figures = (memory, seconds, disk, min(beside, memory), temporary)
    return Needs(*(math.ceil(figure) for figure in figures))


def gpu_megabytes(size: Size, n_processes: int = 1) -> int:
    """Return the MB that all open peaks take on a GPU, or on each GPU of several processes; one
    with less gets them batch by batch.
    """
    return math.ceil((_GPU_OPEN * size.n_open + _GPU_CELL * size.n_cells) / n_processes / 1e6)


def together(sizes: Sequence[Size]) -> Size:
    """Return the size of several inputs analysed as one: all cells, and the peaks of the widest."""
    return Size(
        sum(size.n_cells for size in sizes),
        max(size.n_peaks for size in sizes),
        sum(size.n_open for size in sizes),
    )
