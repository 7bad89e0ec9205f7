"""What a stage needs: the formula's shape here, its figures against measured ones in `benchmarks/needs.py`."""

from __future__ import annotations

import pytest

from scale_toolkit import needs as module
from scale_toolkit.config import ClusterConfig, ImputeConfig, TrainConfig
from scale_toolkit.needs import STAGES, Needs, Size, gpu_megabytes, needs, together

SMALL, LARGE = Size(500, 8_000, 800_000), Size(100_000, 100_000, 300_000_000)
PAPER = TrainConfig(preset="paper")


def of(stage, size, train=None, cluster=None, **impute) -> Needs:
    settings = {"train": train or TrainConfig(), "cluster": cluster or ClusterConfig(), "impute": ImputeConfig(**impute)}
    return needs(stage, size, **settings)


@pytest.mark.parametrize("stage", STAGES)
def test_more_cells_peaks_or_counts_never_need_less(stage):
    base = of(stage, Size(1_000, 10_000, 2_000_000))
    for grown in (Size(4_000, 10_000, 2_000_000), Size(1_000, 40_000, 2_000_000), Size(1_000, 10_000, 8_000_000)):
        assert all(one >= other for one, other in zip(of(stage, grown), base))
    assert min(base[:4]) > 0
    assert of(stage, LARGE).memory_mb >= of(stage, SMALL).memory_mb


@pytest.mark.parametrize("stage", STAGES)
def test_cost_follows_open_peaks_and_not_cells_times_peaks(stage):
    """A million peaks, 400 GB as a dense matrix."""
    assert of(stage, Size(100_000, 1_000_000, 300_000_000)).memory_mb < 25_000


def test_the_published_model_takes_longer_by_its_steps():
    fast, paper = of("train", LARGE), of("train", LARGE, PAPER)
    assert paper.seconds > 10 * fast.seconds
    assert paper.memory_mb > fast.memory_mb
    few = of("train", LARGE, TrainConfig(preset="paper", max_iter=300))
    assert few.seconds < paper.seconds / 5


def test_imputed_values_are_counted_by_their_format():
    size = Size(1_000, 10_000, 1_000_000)
    alone = of("embed", size).disk_mb
    numeric = of("impute", size, numeric=True).disk_mb
    assert numeric - alone == pytest.approx(1_000 * 10_000 * 3.3 / 1e6, abs=2)
    assert of("impute", size).disk_mb == numeric  # the default
    half, byte = (of("impute", size, numeric=True, numeric_format=form).disk_mb for form in ("float16", "uint8"))
    assert alone < byte < half < numeric
    packed = of("impute", size, binary=True, binary_format="packed")
    assert packed.disk_mb - alone == pytest.approx(1_000 * 10_000 / 8 / 1e6, abs=2)
    assert of("impute", size, numeric=True, binary=True).disk_mb > numeric


def test_subsamples_take_their_time():
    plain, more = of("cluster", LARGE), of("cluster", LARGE, cluster=ClusterConfig(stability=20))
    assert more.seconds > 2 * plain.seconds
    assert more[::2] == plain[::2]
    assert of("embed", LARGE, cluster=ClusterConfig(stability=20)) == of("embed", LARGE)


def test_a_sketch_takes_less_than_all_cells():
    full, sketch = of("cluster", LARGE), of("cluster", LARGE, cluster=ClusterConfig(sketch=10_000))
    assert sketch.memory_mb == sketch.least_memory_mb < full.memory_mb / 1.5
    assert sketch.seconds < full.seconds / 1.5
    assert of("cluster", LARGE, cluster=ClusterConfig(sketch=LARGE.n_cells)) == full


def test_inputs_together_have_all_cells_and_the_widest_peaks():
    assert together([Size(10, 100, 300), Size(20, 90, 400)]) == Size(30, 100, 700)


@pytest.mark.parametrize("stage", STAGES)
def test_with_temporary_files_memory_does_not_follow_the_counts(stage):
    few, many = (of(stage, Size(100_000, 100_000, n_open)) for n_open in (10**8, 10**9))
    reads_blocks = stage in ("cluster", "embed", "impute", "report")
    assert many.least_memory_mb < 1.2 * few.least_memory_mb or reads_blocks
    assert (many.temporary_mb == 0) == reads_blocks
    assert few.least_memory_mb <= few.memory_mb
    if not reads_blocks:
        assert many.temporary_mb == {"train": 10_000}.get(stage, 8_000)


def test_more_counts_than_int32_numbers_take_wider_indices():
    at_limit, above = (of("prepare", Size(400_000, 100_000, n)).temporary_mb for n in (2**31 - 1, 2**31))
    assert at_limit == pytest.approx(8 * 2**31 / 1e6, abs=2)
    assert above == pytest.approx(12 * 2**31 / 1e6, abs=2)


@pytest.mark.parametrize("stage", STAGES)
def test_processes_share_counts_and_not_their_libraries(stage):
    settings = {"train": TrainConfig(), "cluster": ClusterConfig(), "impute": ImputeConfig()}
    one, four = (needs(stage, LARGE, **settings, n_processes=n) for n in (1, 4))
    if stage != "train":
        assert one == four
        return
    assert four.memory_mb - one.memory_mb == four.least_memory_mb - one.least_memory_mb > 1000
    assert four[1:3] == one[1:3]
    assert four.temporary_mb == one.temporary_mb
    assert gpu_megabytes(LARGE, 4) == pytest.approx(gpu_megabytes(LARGE) / 4, abs=1)


def test_a_gpu_is_planned_with_what_the_training_asks_of_it():
    from scale_toolkit.model.packed import bytes_on_device

    assert gpu_megabytes(LARGE) == bytes_on_device(LARGE.n_cells, LARGE.n_open, with_values=False) // 10**6 + 1


def test_every_stage_has_its_figures():
    assert set(module._MEMORY) == set(module._SECONDS) == set(STAGES)
